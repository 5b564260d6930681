"""The input stage of GPT for the Hugging Face libraries: text, tokens, token + position embeddings.

Importing this package registers the model with `AutoConfig` and `AutoModel`; the folders are imported when one of
their names is first asked for. The model itself is at the top level, in `configuration_gpt_embeddings` and
`modeling_gpt_embeddings`, and the command line is `gpt_embeddings_cli`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from modeling_gpt_embeddings import (
    GPTEmbeddingsForCausalLM,
    GPTEmbeddingsForSequenceClassification,
    GPTEmbeddingsModel,
)


if TYPE_CHECKING:
    from gpt_embeddings.checkpoints.conversion import from_gpt, to_gpt
    from gpt_embeddings.checkpoints.export import export_model
    from gpt_embeddings.checkpoints.static import from_static
    from gpt_embeddings.embedding.dataset import Embedder, embed_dataset
    from gpt_embeddings.hub.cards import CardMetadata
    from gpt_embeddings.hub.push import push_to_hub, save_folder
    from gpt_embeddings.text.encoding import encode_flat
    from gpt_embeddings.text.sources import load_source
    from gpt_embeddings.text.tokenizer import load_tokenizer
    from gpt_embeddings.windows.collator import WindowCollator
    from gpt_embeddings.windows.token_windows import TokenWindows


__version__ = "0.1.0"

# Where the names are that cost more than the model does: datasets, the Hub's client, Arrow.
_HOMES = {
    "CardMetadata": "hub.cards",
    "Embedder": "embedding.dataset",
    "TokenWindows": "windows.token_windows",
    "WindowCollator": "windows.collator",
    "embed_dataset": "embedding.dataset",
    "encode_flat": "text.encoding",
    "export_model": "checkpoints.export",
    "from_gpt": "checkpoints.conversion",
    "from_static": "checkpoints.static",
    "load_source": "text.sources",
    "load_tokenizer": "text.tokenizer",
    "push_to_hub": "hub.push",
    "save_folder": "hub.push",
    "to_gpt": "checkpoints.conversion",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its room when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names that are not imported yet, too."""
    return sorted({*globals(), *__all__})


__all__ = [
    "CardMetadata",
    "Embedder",
    "GPTEmbeddingsConfig",
    "GPTEmbeddingsForCausalLM",
    "GPTEmbeddingsForSequenceClassification",
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
    "push_to_hub",
    "save_folder",
    "to_gpt",
]
