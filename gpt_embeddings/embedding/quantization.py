"""Vectors in 8 bits or in one, and back, as `sentence_transformers.quantize_embeddings`, but without that extra."""

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt


Dtype: TypeAlias = Literal["float32", "float16", "int8", "binary"]
Ranges: TypeAlias = npt.NDArray[np.float32]


def find_ranges(vectors: npt.NDArray[np.floating[Any]]) -> Ranges:
    """Return the smallest and the largest value of each dimension, `(2, dim)`; equal ones are moved apart."""
    low, high = vectors.min(0), vectors.max(0)
    return np.stack([low, np.where(high > low, high, low + 1)]).astype(np.float32)


def to_int8(vectors: npt.NDArray[np.floating[Any]], ranges: Ranges) -> npt.NDArray[np.int8]:
    """Divide the range of each dimension into 255 steps; values outside it become its nearest end.

    >>> to_int8(np.array([[0.0, 1.0], [255.0, 900.0]]), np.array([[0, 0], [255, 255]], np.float32)).tolist()
    [[-128, -127], [127, 127]]
    """
    low, step = ranges[0], (ranges[1] - ranges[0]) / 255
    return np.clip((vectors - low) / step - 128, -128, 127).astype(np.int8)


def to_binary(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int8]:
    """Keep the sign of each dimension: 8 of them in a byte, which is stored less 128.

    >>> to_binary(np.array([[1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0]])).tolist()
    [[49]]
    """
    return (np.packbits(vectors > 0, axis=-1).astype(np.int16) - 128).astype(np.int8)


def to_float32(vectors: npt.NDArray[Any], dtype: Dtype, dim: int, ranges: Ranges | None) -> npt.NDArray[np.float32]:
    """Return vectors of any dtype, `(..., width)`, as floats, `(..., dim)`.

    int8 becomes the values of its steps, for which `ranges` are needed, `(2, dim)`; binary becomes -1 and 1.

    >>> to_float32(np.array([[49]], np.int8), "binary", 8, None).tolist()
    [[1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0]]
    """
    if dtype == "binary":
        bits = np.unpackbits((vectors.astype(np.int16) + 128).astype(np.uint8), axis=-1, count=dim)
        return bits.astype(np.float32) * 2 - 1
    if dtype == "int8":
        if ranges is None:
            raise ValueError("int8 vectors need the `ranges` of their dimensions, which `calibrate` finds.")
        step = (ranges[1] - ranges[0]) / 255
        values: npt.NDArray[np.float32] = ranges[0] + (vectors.astype(np.float32) + 128) * step
        return values
    return vectors.astype(np.float32, copy=False)
