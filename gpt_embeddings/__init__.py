"""The input stage of GPT for the Hugging Face libraries: text, tokens, token + position embeddings.

Importing this package registers the model with `AutoConfig` and `AutoModel`.
"""

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.embedding.dataset import Embedder, embed_dataset
from gpt_embeddings.hub.cards import CardFacts
from gpt_embeddings.hub.push import push_dataset, push_folder, push_model, save_folder
from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.sources import load_source
from gpt_embeddings.text.tokenizer import load_tokenizer
from gpt_embeddings.windows.token_windows import TokenWindows, WindowCollator
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM, GPTEmbeddingsModel


__version__ = "0.1.0"

__all__ = [
    "CardFacts",
    "Embedder",
    "GPTEmbeddingsConfig",
    "GPTEmbeddingsForCausalLM",
    "GPTEmbeddingsModel",
    "TokenWindows",
    "WindowCollator",
    "embed_dataset",
    "encode_flat",
    "load_source",
    "load_tokenizer",
    "push_dataset",
    "push_folder",
    "push_model",
    "save_folder",
]
