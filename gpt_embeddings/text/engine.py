"""What every engine behind `encode_flat` gives, and the reference that the others must equal: `tokenizers` itself."""

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer


FlatIds: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]


class Engine(Protocol):
    """A tokenizer in one mode, ready to encode."""

    def encode(self, texts: list[str]) -> FlatIds:
        """Return flat ids and offsets as `encode_flat` does."""


class ReferenceEngine:
    """The `tokenizers` engine.

    Args:
        backend: A tokenizer without truncation and padding.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend

    def encode(self, texts: list[str]) -> FlatIds:
        """Return flat ids and offsets as `encode_flat` does."""
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        offsets = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
        input_ids = np.empty(offsets[-1], dtype=np.int32)
        for i, encoding in enumerate(encodings):
            input_ids[offsets[i] : offsets[i + 1]] = encoding.ids
        return input_ids, offsets


__all__ = ["Engine", "FlatIds", "ReferenceEngine"]
