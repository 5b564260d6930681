"""The input stage of GPT for the Hugging Face libraries: text, tokens, token + position embeddings.

Importing this package registers the model with `AutoConfig` and `AutoModel`.
"""

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.checkpoints.conversion import from_gpt, to_gpt
from gpt_embeddings.checkpoints.static import from_static
from gpt_embeddings.embedding.dataset import Embedder, embed_dataset
from gpt_embeddings.hub.cards import CardFacts
from gpt_embeddings.hub.export import export_model
from gpt_embeddings.hub.push import push_dataset, push_folder, push_model
from gpt_embeddings.hub.repository import save_folder
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
    "export_model",
    "from_gpt",
    "from_static",
    "load_source",
    "load_tokenizer",
    "push_dataset",
    "push_folder",
    "push_model",
    "save_folder",
    "to_gpt",
]
