"""The protocol of the backends behind `encode_flat`, and the reference that they must equal: `tokenizers` itself.

A backend that treats a character differently leaves the texts that contain it to the reference.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer


FlatIds: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]
Encode: TypeAlias = Callable[[list[str]], FlatIds]


class Backend(Protocol):
    """A tokenizer in one mode, ready to encode."""

    def encode(self, texts: list[str]) -> FlatIds:
        """Return flat ids and offsets as `encode_flat` does."""


class ReferenceBackend:
    """`tokenizers` itself, without truncation and padding."""

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


class FallbackCharacters:
    """Characters beyond ASCII, as ranges of code points; texts that contain one are left to the reference."""

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        self.ranges = [(int(first), int(last)) for first, last in ranges]
        # As Arrow's RE2 has it, which goes through text ten times as fast as Python's engines.
        self._pattern = "[" + "".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in self.ranges) + "]"

    def encode(self, texts: list[str], encode: Encode, reference: Encode) -> FlatIds:
        """Encode texts, those that contain one of the characters by the reference."""
        left = self._find(texts)
        if not left.any():
            return encode(texts)
        of_reference = reference([text for text, is_left in zip(texts, left, strict=True) if is_left])
        others = encode([text for text, is_left in zip(texts, left, strict=True) if not is_left])
        lengths = np.empty(len(texts), dtype=np.int64)
        lengths[left], lengths[~left] = np.diff(of_reference[1]), np.diff(others[1])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        input_ids, left_ids = np.empty(offsets[-1], dtype=np.int32), np.repeat(left, lengths)
        input_ids[left_ids], input_ids[~left_ids] = of_reference[0], others[0]
        return input_ids, offsets

    def _find(self, texts: list[str]) -> npt.NDArray[np.bool_]:
        left = np.zeros(len(texts), dtype=bool)
        beyond_ascii = [i for i, text in enumerate(texts) if not text.isascii()] if self.ranges else []
        if beyond_ascii:
            column = pa.array([texts[i] for i in beyond_ascii], pa.large_string())
            left[beyond_ascii] = np.asarray(pc.match_substring_regex(column, self._pattern))
        return left
