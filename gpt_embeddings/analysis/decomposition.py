"""The vectors of one text, split into the part of the token, the part of the position, and their sum."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.tokenizer import check_vocabulary
from modeling_gpt_embeddings import GPTEmbeddingsModel


@dataclass(frozen=True)
class Parts:
    """The vectors of one text: `total = token + position`."""

    input_ids: torch.Tensor  # ids of shape `(position,)`, int64, truncated to `n_positions`
    token: torch.Tensor  # token vectors as they are added: scaled, projected, `(position, n_embd)`, float32
    position: torch.Tensor  # position vectors of the same shape; zeros if the model has no positions
    total: torch.Tensor  # the model's `last_hidden_state` without dropout
    n_tokens: int  # tokens of the whole text, before truncation


def split_parts(model: GPTEmbeddingsModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Parts:
    """Embed a text, truncated to `n_positions` tokens, and return the parts of its vectors, without dropout."""
    check_vocabulary(tokenizer, model.config.vocab_size)
    flat, _ = encode_flat([text], tokenizer)
    if not len(flat):
        raise ValueError("The text is empty; type a few words.")
    input_ids = torch.from_numpy(flat[: model.config.n_positions]).long()
    token = token_vectors(model, input_ids)
    position = position_vectors(model)[: len(input_ids)]
    if not len(position):
        position = torch.zeros_like(token)
    return Parts(input_ids, token, position, token + position, len(flat))


def measure(parts: Parts) -> dict[str, npt.NDArray[np.float32]]:
    """Return norms, cosines and shares by name, each `(position,)`; the shares of token and position add up to 1."""
    token, position, total = parts.token, parts.position, parts.total
    squares = (total * total).sum(1)
    squares = squares.where(squares > 0, torch.inf)
    measures = {
        "‖token‖": token.norm(dim=1),
        "‖position‖": position.norm(dim=1),
        "‖sum‖": total.norm(dim=1),
        "cos(sum, token)": cosine_similarity(total, token),
        "cos(sum, position)": cosine_similarity(total, position),
        "cos(token, position)": cosine_similarity(token, position),
        "share of token": (token * total).sum(1) / squares,
        "share of position": (position * total).sum(1) / squares,
    }
    return {name: values.numpy() for name, values in measures.items()}


def measure_words(token: torch.Tensor, words: Sequence[int | None]) -> dict[str, npt.NDArray[np.float32]]:
    """Compare each token with its word, whose vector is the mean of its tokens' rows, without positions.

    The share of a token is `token · word / word · word` divided by the number of tokens; the shares of a word add up
    to 1. A piece that points away from the others has a negative share.

    >>> rows = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> {name: values.tolist() for name, values in measure_words(rows, [0, 0, 1]).items()}
    {'cos(word, token)': [1.0, 1.0, 1.0], 'share of word': [0.75, 0.25, 1.0]}

    Args:
        token: Token vectors of shape `(position, n_embd)`.
        words: The number of each token's word; None, as for special tokens, is a word of its own.

    Returns:
        Cosines and shares by name, each of shape `(position,)`.
    """
    keys = [(word, -1 if word is not None else i) for i, word in enumerate(words)]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    of_word = torch.tensor([number[key] for key in keys])
    word = torch.zeros(len(number), token.shape[1]).index_add_(0, of_word, token)[of_word]
    squares = (word * word).sum(1)
    shares = (token * word).sum(1) / squares.where(squares > 0, torch.inf)
    return {"cos(word, token)": cosine_similarity(word, token).numpy(), "share of word": shares.numpy()}


@torch.no_grad()
def token_vectors(model: GPTEmbeddingsModel, input_ids: torch.Tensor | None = None) -> torch.Tensor:
    """Return token vectors as they are added to positions: scaled and projected.

    Args:
        model: The model.
        input_ids: Ids of shape `(n,)`; None gives the whole vocabulary.

    Returns:
        Vectors of shape `(n, n_embd)`, float32 on the CPU. The whole vocabulary is a view of `wte` if the model
        neither scales nor projects.
    """
    table = model.wte.weight.detach()
    plain = model.config.token_scale == 1 and model.project_in is None
    if input_ids is None and plain:
        return table.float().cpu()
    rows = torch.arange(len(table)) if input_ids is None else input_ids
    return model.embed_flat(rows).float().cpu()


@torch.no_grad()
def position_vectors(model: GPTEmbeddingsModel) -> torch.Tensor:
    """Return the rows of positions 0 to `n_positions - 1`, `(n_positions, n_embd)`; no rows without positions."""
    if model.wpe is None:
        return torch.zeros(0, model.config.n_embd)
    return model.wpe.weight.detach()[model.config.position_offset :].float().cpu()


@torch.no_grad()
def has_positions(model: GPTEmbeddingsModel) -> bool:
    """Return whether positions change the vectors: whether there is a position table, and one that is not zero."""
    return model.wpe is not None and bool(model.wpe.weight.any())
