"""Vectors in 8 bits or in one, as vector stores take them; the arithmetic is sentence-transformers' own.

Left out: tables in 8 bits, which are sums' business (`quantized_table`).
"""

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt


Dtype: TypeAlias = Literal["float32", "float16", "int8", "binary"]
Ranges: TypeAlias = npt.NDArray[np.float32]


def check_ranges(ranges: Any, dim: int) -> Ranges:
    """Return ranges as an array.

    Args:
        ranges: The least and the largest value of each dimension, `(2, dim)`.
        dim: Dimensions of a vector.

    Raises:
        ValueError: They have another shape, are not finite, or a least value is not below the largest.
    """
    ranges = np.asarray(ranges, np.float32)
    if ranges.shape != (2, dim) or not np.isfinite(ranges).all() or not (ranges[0] < ranges[1]).all():
        raise ValueError(
            f"`ranges` must be the least and the largest value of each dimension, finite, of shape (2, {dim}); got an "
            f"array of shape {ranges.shape}."
        )
    return ranges


def find_ranges(vectors: npt.NDArray[np.floating[Any]]) -> Ranges:
    """Return the least and the largest value of each dimension, `(2, dim)`, apart where they are one."""
    low, high = vectors.min(0), vectors.max(0)
    return np.stack([low, np.where(high > low, high, low + 1)]).astype(np.float32)


def to_int8(vectors: npt.NDArray[np.floating[Any]], ranges: Ranges) -> npt.NDArray[np.int8]:
    """Cut each dimension into 255 steps of its range; what lies outside becomes the nearest end.

    >>> to_int8(np.array([[0.0, 1.0], [255.0, 900.0]]), np.array([[0, 0], [255, 255]], np.float32)).tolist()
    [[-128, -127], [127, 127]]
    """
    low, step = ranges[0], (ranges[1] - ranges[0]) / 255
    return np.clip((vectors - low) / step - 128, -128, 127).astype(np.int8)


def to_binary(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int8]:
    """Keep the sign of each dimension: 8 of them to a byte, which is stored less 128.

    >>> to_binary(np.array([[1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0]])).tolist()
    [[49]]
    """
    return (np.packbits(vectors > 0, axis=-1).astype(np.int16) - 128).astype(np.int8)
