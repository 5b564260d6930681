"""The normalizer of a tokenizer, applied to a whole batch at once.

`tokenizers` normalizes text by text, at about the speed at which it encodes, so it would use up what the accelerated
backend saves. Arrow lower-cases ASCII at several gigabytes a second and other text at several hundred megabytes. The
two differ for a few characters (`İ`, and letters that only one of them knows); [`lowered_differently`] finds them
among all of Unicode.

Left out: normalizers other than `Lowercase`, for which `tokenizers` is used throughout.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers.normalizers import Normalizer


_COMPARED_AT_ONCE = 2**12  # characters


def is_lowercase(normalizer: Mapping[str, Any] | None) -> bool:
    """Return whether a normalizer of a `tokenizer.json` lower-cases texts; without one, they stay as they are.

    >>> is_lowercase({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}), is_lowercase(None)
    (True, False)

    Raises:
        NotImplementedError: It does something else; the message names it.
    """
    if normalizer is None:
        return False
    if normalizer["type"] == "Sequence":
        return any([is_lowercase(inner) for inner in normalizer["normalizers"]])
    if normalizer["type"] == "Lowercase":
        return True
    raise NotImplementedError(f"the normalizer {normalizer['type']}")


def lower(texts: list[str]) -> pa.LargeStringArray:
    """Return texts in lower case.

    >>> lower(["Mug", "ÁGUA"]).to_pylist()
    ['mug', 'água']
    """
    column = pa.array(texts, pa.large_string())
    lowered = pc.ascii_lower(column)
    other = np.fromiter((not text.isascii() for text in texts), dtype=bool, count=len(texts))
    if other.any():  # which takes much longer, so for these texts alone
        lowered = pc.replace_with_mask(lowered, other, pc.utf8_lower(column.filter(other)))
    return lowered


def lowered_differently(normalizer: Normalizer) -> list[int]:
    """Return all characters of Unicode beyond ASCII that a `Lowercase` normalizer treats in another way than Arrow.

    Both look at each character alone (`str.lower` does not: it has two forms of a small sigma), so comparing single
    characters proves that they are equal for all texts of other characters.
    """
    found = []
    for start in range(0x80, 0x110000, _COMPARED_AT_ONCE):
        stop = min(start + _COMPARED_AT_ONCE, 0x110000)
        texts = [chr(c) for c in range(start, stop) if not 0xD800 <= c < 0xE000]
        ours = lower(texts).to_pylist()
        if normalizer.normalize_str("\n".join(texts)) != "\n".join(ours):
            theirs = map(normalizer.normalize_str, texts)
            found += [ord(text) for text, a, b in zip(texts, ours, theirs, strict=True) if a != b]
    return found
