"""Windows stacked into the batches that `transformers.Trainer` gives to a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gpt_embeddings.windows.packing import IGNORED


class WindowCollator:
    """Collate windows, streamed or stored, into a batch for `transformers.Trainer`.

    The batch has `input_ids`, `labels` as Hugging Face defines them (the token at each position, which the model
    shifts; -100 for padding) and `shift_labels`, the targets: transformers computes the loss from these without
    shifting, so the last target of a window, which `labels` do not have, is not lost.

    `Trainer` needs `remove_unused_columns=False`, or it removes the targets before they come here.

    Args:
        return_flash_attn_kwargs: Whether to flatten the windows for attention within documents, as transformers'
            `DataCollatorWithFlattening` does: all tensors have shape `(1, n_tokens)`, without padding, and the batch
            also has `position_ids` that start again with each document and window, `cu_seq_lens_q` and `_k`, where
            these begin and end, and `max_length_q` and `_k`, the longest. It takes windows with `document_ids`.
            Without FlashAttention transformers makes the mask from `position_ids`, if `config.use_cache` is False.
    """

    def __init__(self, *, return_flash_attn_kwargs: bool = False) -> None:
        self.return_flash_attn_kwargs = return_flash_attn_kwargs

    def __call__(self, windows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return tensors of shape `(batch, max_length)`, int64, or flattened ones."""
        if not windows or "target_ids" not in windows[0]:
            raise ValueError(
                "The windows have no `target_ids`; with Trainer, set `remove_unused_columns=False` in its arguments."
            )
        batch = {
            name: torch.stack([torch.as_tensor(np.asarray(window[name], np.int64)) for window in windows])
            for name in windows[0]
        }
        targets = batch.pop("target_ids")
        labels = batch["input_ids"].clone()
        # Input i is padding if it is the target of i - 1 and that target is ignored.
        labels[:, 1:][targets[:, :-1] == IGNORED] = IGNORED
        batch = {**batch, "labels": labels, "shift_labels": targets}
        if not self.return_flash_attn_kwargs:
            return batch
        # The windows of the batch are joined into one row, with where each document begins in it.
        if "document_ids" not in batch:
            raise ValueError("The windows have no `document_ids`; use `TokenWindows(..., return_document_ids=True)`.")
        documents = batch.pop("document_ids")
        real = documents >= 0  # not padding
        begins = torch.ones_like(real)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        starts = begins[real].nonzero().flatten()
        flat: dict[str, Any] = {name: values[real][None] for name, values in batch.items() if values.ndim == 2}
        flat["labels"][0, starts] = IGNORED  # a model that shifts must not predict the next document's first token
        n_tokens = flat["labels"].shape[1]
        bounds = torch.cat([starts, torch.tensor([n_tokens])])
        lengths = bounds.diff()
        flat["position_ids"] = (torch.arange(n_tokens) - starts.repeat_interleave(lengths))[None]
        flat["cu_seq_lens_q"] = flat["cu_seq_lens_k"] = bounds.int()
        flat["max_length_q"] = flat["max_length_k"] = int(lengths.max())
        return flat
