"""Models as small as can be."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2PreTrainedModel, PreTrainedModel

from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel


def new_model(kind: type[PreTrainedModel] = GPTEmbeddingsModel, seed: int = 0, **fields) -> PreTrainedModel:
    """Return a model in evaluation mode, with the same weights at every call."""
    torch.manual_seed(seed)
    return kind(GPTEmbeddingsConfig(**{"n_positions": 16, "n_embd": 8, **fields})).eval()


def new_gpt(kind: type[GPT2PreTrainedModel] = GPT2LMHeadModel, **fields) -> GPT2PreTrainedModel:
    """Return a GPT-2 in evaluation mode, with the same weights at every call."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 41, "n_positions": 12, "n_embd": 24, "n_layer": 1, "n_head": 2}
    return kind(GPT2Config(**{**sizes, **fields})).eval()
