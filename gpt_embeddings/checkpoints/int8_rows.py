"""Checkpoints a quarter of the size: `wte` as int8 rows, each with a float32 factor of its own.

Any loader of the component gives a plain table from one (`from_pretrained`, `AutoModel`, sentence-transformers). Left
out: computing with the rows as they are stored, which `gpt_embeddings.embedding` does.
"""

import os

import torch

from modeling_gpt_embeddings import GPTEmbeddingsModel


LARGEST = 127


def quantize_rows(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to 255 levels that are symmetric about zero.

    >>> rows, scale = quantize_rows(torch.tensor([[0.5, -1.27], [0.0, 0.0]]))
    >>> rows.tolist(), [round(factor, 4) for factor in scale.tolist()]
    ([[50, -127], [0, 0]], [0.01, 0.0])

    Args:
        table: Table of shape `(n_rows, width)`, finite.

    Returns:
        Whole numbers of the same shape, int8, and factors of shape `(n_rows,)`, float32; their product is off by at
        most half a factor.

    Raises:
        ValueError: A value is not finite.
    """
    table = table.detach().float().cpu()
    largest = table.abs().amax(1)
    if not bool(largest.isfinite().all()):
        raise ValueError("The table holds values that are not finite.")
    scale = largest / LARGEST
    rows = (table / torch.where(scale > 0, scale, 1).unsqueeze(1)).round()
    return rows.clamp(-LARGEST, LARGEST).to(torch.int8), scale


def save_int8(model: GPTEmbeddingsModel, folder: str | os.PathLike[str]) -> float:
    """Save a model with its token table as int8 rows; everything else is saved as it is.

    Args:
        model: The model; it does not change.
        folder: Where to; the files are those of `save_pretrained`.

    Returns:
        The largest error of an entry, as a share of the largest entry of its row; at most 1/254.

    Raises:
        TypeError: The model is not a `GPTEmbeddingsModel`; of a head, save the `transformer`.
        ValueError: The table holds values that are not finite.
    """
    if not isinstance(model, GPTEmbeddingsModel):
        raise TypeError(f"`model` must be a GPTEmbeddingsModel, got {type(model).__name__}.")
    rows, scale = quantize_rows(model.wte.weight)
    model.save_pretrained(folder, state_dict={**model.state_dict(), "wte.weight": rows, "wte_scale": scale})
    error = (rows * scale.unsqueeze(1) - model.wte.weight.detach().float().cpu()).abs().amax(1)
    return float((error / (LARGEST * scale).clamp(min=torch.finfo(torch.float32).tiny)).max())
