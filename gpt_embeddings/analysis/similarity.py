"""Cosine similarity in numpy: vectors of length 1, and the exact k best of a matrix of scores."""

import numpy as np
import numpy.typing as npt


Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def unit_rows(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return vectors `(n, n_embd)` divided by their length, in float32 or, if given so, float64.

    A vector that is zero or not finite has no direction and becomes zero.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    vectors = np.asarray(vectors, np.result_type(vectors, np.float32))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=np.isfinite(lengths) & (lengths > 0))


def top_k(scores: Floats, k: int) -> tuple[Floats, Rows]:
    """Return the k largest of the scores `(n_queries, n_rows)` of each query and their rows, in descending order.

    Equal scores keep the order of their rows. Both results have the shape `(n_queries, min(k, n_rows))`.

    >>> top_k(np.array([[0.1, 0.9, 0.5, 0.9]], np.float32), 3)[1].tolist()
    [[1, 3, 2]]
    """
    n_rows = scores.shape[1]
    k = min(k, n_rows)
    rows = np.empty((len(scores), k), np.int64)
    limits = np.partition(scores, n_rows - k, axis=1)[:, n_rows - k] if k else scores[:, 0]
    for i, (row, limit) in enumerate(zip(scores, limits, strict=True)):
        best = np.flatnonzero(row >= limit)  # more than k if the k-th score occurs several times
        rows[i] = best[np.argsort(-row[best], kind="stable")[:k]]
    return np.take_along_axis(scores, rows, axis=1), rows
