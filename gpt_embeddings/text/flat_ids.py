"""Flat ids: the token ids of many texts in one array, with the offsets at which texts begin."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt


FlatIds: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""Ids of shape `(n_tokens,)` and offsets of shape `(n_texts + 1,)`: text i is `ids[offsets[i]:offsets[i + 1]]`."""


def take_spans(
    input_ids: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> FlatIds:
    """Return spans of an array of ids, one after the other, as flat ids.

    >>> ids, offsets = take_spans(np.array([5, 6, 7, 8], np.int32), np.array([2, 0]), np.array([2, 1]))
    >>> ids.tolist(), offsets.tolist()
    ([7, 8, 5], [0, 2, 3])
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return input_ids[index], offsets
