"""Windows stacked into the batches that `transformers.Trainer` gives to a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gpt_embeddings.windows.packing import IGNORED


class WindowCollator:
    """Stack windows, streamed or stored, into a batch for `transformers.Trainer`.

    The batch has `input_ids`, `labels` with Hugging Face's meaning (the token at each position, which the model
    shifts; -100 for padding) and `shift_labels`, the targets: transformers takes the loss from these and shifts
    nothing, so that the last target of a window, which `labels` do not have, is not lost.

    `Trainer` must be told `remove_unused_columns=False`, or it takes the targets away before they come here.
    """

    def __call__(self, windows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return tensors of shape `(batch, max_length)`, int64.

        Raises:
            ValueError: The windows have no `target_ids`.
        """
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
        # Input i is padding if it is the target of i - 1 and that is none.
        labels[:, 1:][targets[:, :-1] == IGNORED] = IGNORED
        return {**batch, "labels": labels, "shift_labels": targets}
