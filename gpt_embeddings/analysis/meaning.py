"""What vectors mean, as far as it can be measured: rank correlation with a teacher.

Left out: benchmarks with human judgements, which come with data of their own.
"""

import numpy as np
import numpy.typing as npt


Vectors = npt.NDArray[np.floating]
NEIGHBOUR_RANKS = (1, 2, 4, 10, 30, 100, 500, 2000)


def similar_pairs(vectors: Vectors, seed: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Vectors]:
    """Pair each text with another one, from its nearest to some far away, so that similarities are spread out.

    Pairs drawn blindly would nearly all be unrelated.

    Args:
        vectors: Of length 1, shape `(n_texts, width)`.
        seed: Of the ranks that are drawn.

    Returns:
        The first and the second text of each pair, and their cosine, each of shape `(n_texts,)`.

    Raises:
        ValueError: There are fewer than 3 texts.
    """
    if len(vectors) < 3:
        raise ValueError(f"Pairs to compare need at least 3 texts, got {len(vectors)}.")
    cosines = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    np.fill_diagonal(cosines, np.inf)  # itself comes first, at rank 0
    ranks = [rank for rank in NEIGHBOUR_RANKS if rank < len(vectors)]
    drawn = np.random.default_rng(seed).choice(ranks, len(vectors))
    first = np.arange(len(vectors))
    second = np.argsort(-cosines, axis=1, kind="stable")[first, drawn]
    return first, second, cosines[first, second]


def spearman(ours: Vectors, theirs: Vectors) -> float:
    """Return the rank correlation of two lists of numbers; equal ones share a rank.

    >>> spearman(np.array([0.1, 0.2, 0.9]), np.array([1.0, 5.0, 3.0]))
    0.5
    """
    ranks = [_ranks(np.asarray(values)) for values in (ours, theirs)]
    return float((ranks[0] * ranks[1]).sum() / np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))


def _ranks(values: Vectors) -> npt.NDArray[np.float64]:
    """Return ranks less their mean."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = ends - (counts - 1) / 2
    return np.asarray(ranks[group] - (len(values) + 1) / 2, np.float64)
