"""The quality of vectors on scored pairs of texts, on questions and answers, or compared with a teacher's vectors.

The figures are those of sentence-transformers' `EmbeddingSimilarityEvaluator` (cosine) and
`InformationRetrievalEvaluator`, without its dependencies, for all dimensions and for the first half, quarter, ...
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gpt_embeddings.analysis.similarity import Floats, Rows, top_k, unit_rows


BLOCK_QUESTIONS = 1024  # compared with all answers at a time

Vectors = npt.NDArray[np.floating]
Encode = Callable[[list[str]], Any]


def matryoshka_dims(width: int) -> list[int]:
    """Return a width and half of it, a quarter, ... down to 32.

    >>> matryoshka_dims(256), matryoshka_dims(20)
    ([256, 128, 64, 32], [20])
    """
    dims = [width]
    while dims[-1] % 2 == 0 and dims[-1] // 2 >= 32:
        dims.append(dims[-1] // 2)
    return dims


def evaluate_scores(
    encode: Encode,
    first: Sequence[str],
    second: Sequence[str],
    scores: Sequence[float],
    dims: Iterable[int] | None = None,
) -> dict[int, float]:
    """Return the Spearman correlation of cosines with scores that people gave to pairs of texts.

    Args:
        encode: Takes a list of texts, returns vectors `(n_texts, width)`: `Embedder(...).encode`, for example.
        first: One text of each pair.
        second: The other text.
        scores: How similar they are, on any scale.
        dims: Numbers of first dimensions to evaluate; None means all of them, a half, a quarter, ... down to 32.

    Raises:
        ValueError: The lists differ in length or have fewer than 3 pairs, a score is not finite, all scores are the
            same, or a number of dimensions is larger than the vectors have.
    """
    values = np.asarray(scores, np.float64)
    if not len(first) == len(second) == len(values) or len(values) < 3:
        raise ValueError(
            "Scored pairs are three lists of the same length, at least 3: got "
            f"{len(first)} and {len(second)} texts and {len(values)} scores."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"The score of pair {int(np.argmin(np.isfinite(values)))} is {values[~np.isfinite(values)][0]}."
        )
    if (values == values[0]).all():
        raise ValueError(f"All scores are {values[0]:g}; a correlation needs different ones.")
    left, right = _encode(encode, first), _encode(encode, second)
    return {
        dim: spearman((unit_rows(left[:, :dim]) * unit_rows(right[:, :dim])).sum(1), values)
        for dim in _check_dims(dims, left.shape[1])
    }


def evaluate_retrieval(
    encode: Encode, questions: Sequence[str], answers: Sequence[str], dims: Iterable[int] | None = None
) -> dict[int, dict[str, float]]:
    """Return how well questions find their answers among all answers.

    A question that occurs several times has several answers, and an answer may belong to several questions.

    Args:
        encode: Takes a list of texts, returns vectors `(n_texts, width)`.
        questions: The question of each pair.
        answers: Its answer.
        dims: Numbers of first dimensions to evaluate; None means all of them, a half, a quarter, ... down to 32.

    Returns:
        By number of dimensions, the means over all questions of `recall@1` and `recall@10`, the share of a question's
        answers among the 1 or 10 most similar texts, and `MRR@10`, 1 over the rank of the first answer among 10.

    Raises:
        ValueError: The lists differ in length or are empty, or a number of dimensions is larger than the vectors have.
    """
    if len(questions) != len(answers) or not len(questions):
        raise ValueError(f"Each question needs an answer: got {len(questions)} questions and {len(answers)} answers.")
    asked, documents = list(dict.fromkeys(questions)), list(dict.fromkeys(answers))
    rows = {text: row for row, text in enumerate(documents)}
    relevant: dict[str, set[int]] = {question: set() for question in asked}
    for question, answer in zip(questions, answers, strict=True):
        relevant[question].add(rows[answer])
    n_relevant = np.array([len(relevant[question]) for question in asked])
    left, right = _encode(encode, asked), _encode(encode, documents)
    found = {}
    for dim in _check_dims(dims, left.shape[1]):
        units, against = unit_rows(left[:, :dim]), unit_rows(right[:, :dim])
        blocks = [units[i : i + BLOCK_QUESTIONS] for i in range(0, len(units), BLOCK_QUESTIONS)]
        nearest = np.concatenate([top_k(block @ against.T, 10)[1] for block in blocks])  # (n_questions, 10 at most)
        hits = np.array([[row in relevant[asked[i]] for row in ranked] for i, ranked in enumerate(nearest.tolist())])
        ranks = np.where(hits.any(1), hits.argmax(1) + 1, np.inf)
        found[dim] = {
            "recall@1": float((hits[:, 0] / n_relevant).mean()),
            "recall@10": float((hits.sum(1) / n_relevant).mean()),
            "MRR@10": float((1 / ranks).mean()),
        }
    return found


def similar_pairs(vectors: Vectors, seed: int = 0) -> tuple[Rows, Rows, Vectors]:
    """Return first and second rows of pairs, from nearest to distant texts, and their cosines, each `(n_texts,)`."""
    cosines = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    np.fill_diagonal(cosines, np.inf)  # each text is its own rank 0
    # Random pairs would almost all be unrelated.
    ranks = [rank for rank in (1, 2, 4, 10, 30, 100, 500, 2000) if rank < len(vectors)]
    drawn = np.random.default_rng(seed).choice(ranks, len(vectors))
    first = np.arange(len(vectors))
    second = np.argsort(-cosines, axis=1, kind="stable")[first, drawn]
    return first, second, cosines[first, second]


def spearman(ours: Vectors, theirs: Vectors) -> float:
    """Return the Spearman correlation of two lists of numbers; equal numbers share a rank.

    >>> spearman(np.array([0.1, 0.2, 0.9]), np.array([1.0, 5.0, 3.0]))
    0.5
    """
    ranks = [pc.rank_quantile(pa.array(np.asarray(values, np.float64))).to_numpy() for values in (ours, theirs)]
    return float(np.corrcoef(ranks)[0, 1])


def _encode(encode: Encode, texts: Sequence[str]) -> Floats:
    vectors = np.asarray(encode(list(texts)), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(f"`encode` returned the shape {vectors.shape} for {len(texts)} texts; expected a row each.")
    return vectors


def _check_dims(dims: Iterable[int] | None, width: int) -> list[int]:
    checked = matryoshka_dims(width) if dims is None else list(dims)
    for dim in checked:
        if not 1 <= dim <= width:
            raise ValueError(f"`dims` has {dim}, but the vectors have {width} dimensions.")
    return checked
