"""The normalizer of a tokenizer, applied to a whole batch at once.

`tokenizers` normalizes text by text, at about the speed at which it encodes, so it would use up what the accelerated
backend saves. Arrow lower-cases ASCII at several gigabytes a second and other text at several hundred megabytes. The
two differ for a few characters (`İ`, and letters that only one of them knows); the proof of the accelerated backend
finds them. Both look at each character alone (`str.lower` does not: it has two forms of a small sigma), so that they
are equal for all texts of other characters.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class BatchNormalizer:
    r"""A normalizer as `tokenizer.json` describes it: lower case, and single ASCII characters replaced by others.

    >>> BatchNormalizer({"type": "Lowercase"}).apply(["Mug", "ÁGUA"]).to_pylist()
    ['mug', 'água']
    >>> BatchNormalizer({"type": "Replace", "pattern": {"String": "\n"}, "content": " "}).apply(["a\nb"]).to_pylist()
    ['a b']

    One that does anything else raises a NotImplementedError that names it.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._lowercase = False
        self._table = np.arange(256, dtype=np.uint8)  # what each byte becomes
        for step in description["normalizers"] if description["type"] == "Sequence" else [description]:
            if step["type"] == "Lowercase":
                self._lowercase = True
                continue
            if step["type"] != "Replace":
                raise NotImplementedError(f"the normalizer {step['type']}")
            old, new = step["pattern"].get("String", ""), step["content"]
            # Characters without upper and lower case, so that steps can be exchanged.
            if not all(len(text) == 1 and text.isascii() and not text.isalpha() for text in (old, new)):
                raise NotImplementedError(f"the normalizer Replace of {step['pattern']} by {new!r}")
            self._table[self._table == ord(old)] = ord(new)
        self._last = int(np.flatnonzero(self._table != np.arange(256)).max(initial=-1))  # byte that is replaced

    def apply(self, texts: list[str]) -> pa.LargeStringArray:
        """Return texts as the tokenizer sees them."""
        column = pa.array(texts, pa.large_string())
        if self._lowercase:
            lowered = pc.ascii_lower(column)
            others = np.fromiter((not text.isascii() for text in texts), dtype=bool, count=len(texts))
            if others.any():  # much slower, so only for these texts; most have no capitals beyond ASCII
                wanted = pc.utf8_lower(column.filter(others))
                if not wanted.equals(lowered.filter(others)):
                    lowered = pc.replace_with_mask(lowered, others, wanted)
            column = lowered
        data = column.buffers()[2]
        if self._last >= 0 and data is not None and data.size:
            replaced = np.frombuffer(data, np.uint8)
            if replaced.min() > self._last:  # the usual case: no control characters, so nothing to look for
                return column
            replaced = replaced if replaced.flags.writeable else replaced.copy()  # nobody else has this column
            places = np.flatnonzero(replaced <= self._last)
            replaced[places] = self._table[replaced[places]]
            column = pa.LargeStringArray.from_buffers(len(column), column.buffers()[1], pa.py_buffer(replaced))
        return column
