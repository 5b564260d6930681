"""Models as small as can be."""

import torch
from transformers import PreTrainedModel

from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel


def new_model(kind: type[PreTrainedModel] = GPTEmbeddingsModel, **fields) -> PreTrainedModel:
    """Return a model in evaluation mode, with the same weights at every call."""
    torch.manual_seed(0)
    return kind(GPTEmbeddingsConfig(**{"n_positions": 16, "n_embd": 8, **fields})).eval()
