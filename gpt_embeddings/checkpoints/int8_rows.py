"""Checkpoints a quarter of the size: `wte` as int8 rows, each with a float32 scale; loaders return a float table."""

import os

import torch

from gpt_embeddings.outputs import check_folder_name
from modeling_gpt_embeddings import GPTEmbeddingsModel


LARGEST = 127


def quantize_rows(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row of a finite table, `(n_rows, width)`, to 255 levels of int8; its float32 scale is beside it.

    The error of their product is at most half a scale.

    >>> rows, scale = quantize_rows(torch.tensor([[0.5, -1.27], [0.0, 0.0]]))
    >>> rows.tolist(), [round(factor, 4) for factor in scale.tolist()]
    ([[50, -127], [0, 0]], [0.01, 0.0])
    """
    table = table.detach().float().cpu()
    largest = table.abs().amax(1)
    if not bool(largest.isfinite().all()):
        raise ValueError("The table has values that are not finite.")
    scale = largest / LARGEST
    rows = (table / torch.where(scale > 0, scale, 1).unsqueeze(1)).round()
    return rows.clamp(-LARGEST, LARGEST).to(torch.int8), scale


def save_int8(model: GPTEmbeddingsModel, folder: str | os.PathLike[str]) -> float:
    """Save a model as `save_pretrained` does, but its token table as int8 rows; the model does not change.

    Returns:
        The largest error of an entry relative to the largest entry of its row; at most 1/254.
    """
    if not isinstance(model, GPTEmbeddingsModel):
        raise TypeError(f"`model` must be a GPTEmbeddingsModel, got {type(model).__name__}.")
    check_folder_name(folder)
    rows, scale = quantize_rows(model.wte.weight)
    model.save_pretrained(folder, state_dict={**model.state_dict(), "wte.weight": rows, "wte_scale": scale})
    error = (rows * scale.unsqueeze(1) - model.wte.weight.detach().float().cpu()).abs().amax(1)
    return float((error / (LARGEST * scale).clamp(min=torch.finfo(torch.float32).tiny)).max())
