"""What vectors are worth on one's own data: scored pairs of texts, or questions and their answers.

Both give the numbers of sentence-transformers' evaluators (`EmbeddingSimilarityEvaluator` by cosine,
`InformationRetrievalEvaluator`), for the first dimensions of vectors as well as for all.
Left out: test sets; classification and clustering, for which scikit-learn takes vectors as they are.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpt_embeddings.analysis.similarity import Floats, Rows, top_k, unit_rows


BLOCK_QUESTIONS = 1024  # compared with all answers at a time
FOUND = 10  # answers that count as found
LEAST_DIM = 32
NEIGHBOUR_RANKS = (1, 2, 4, 10, 30, 100, 500, 2000)

Vectors = npt.NDArray[np.floating]
Encode = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Retrieval:
    """How well questions find their answers, means over all questions."""

    recall_at_1: float
    """Share of a question's answers that its nearest one is."""
    recall_at_10: float
    """Share of a question's answers among the ten nearest."""
    mrr_at_10: float
    """1 over the rank of the first right answer; 0 where it is not among the ten nearest."""


def matryoshka_dims(width: int) -> list[int]:
    """Return a width and its halves, down to 32.

    >>> matryoshka_dims(256), matryoshka_dims(20)
    ([256, 128, 64, 32], [20])
    """
    dims = [width]
    while dims[-1] % 2 == 0 and dims[-1] // 2 >= LEAST_DIM:
        dims.append(dims[-1] // 2)
    return dims


def evaluate_scores(
    encode: Encode,
    first: Sequence[str],
    second: Sequence[str],
    scores: Sequence[float],
    dims: Iterable[int] | None = None,
) -> dict[int, float]:
    """Return the rank correlation (Spearman) of cosines with scores that people gave to pairs of texts.

    Args:
        encode: Takes a list of texts, returns vectors `(n_texts, width)`: `Embedder(...).encode`, say.
        first: A text of each pair.
        second: The other.
        scores: How near they are, on any scale.
        dims: Numbers of first dimensions to compare by; None takes all, and matryoshka_dims down to 32.

    Raises:
        ValueError: The lists are of different lengths or hold fewer than 3 pairs, a score is not finite, all scores
            are the same, or there are fewer dimensions than asked for.
    """
    values = np.asarray(scores, np.float64)
    if not len(first) == len(second) == len(values) or len(values) < 3:
        raise ValueError(
            f"Scored pairs are three lists of one length, at least 3: got {len(first)} and {len(second)} texts and "
            f"{len(values)} scores."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"The score of pair {int(np.argmin(np.isfinite(values)))} is {values[~np.isfinite(values)][0]}."
        )
    if (values == values[0]).all():
        raise ValueError(f"All scores are {values[0]:g}, so that there is no order to agree with.")
    vectors = _vectors(encode, [*first, *second])
    n = len(values)
    found = {}
    for dim in _checked(dims, vectors.shape[1]):
        cut = unit_rows(vectors[:, :dim])
        found[dim] = spearman((cut[:n] * cut[n:]).sum(1), values)
    return found


def evaluate_retrieval(
    encode: Encode, questions: Sequence[str], answers: Sequence[str], dims: Iterable[int] | None = None
) -> dict[int, Retrieval]:
    """Return how well questions find their answers among all that there are.

    A question that comes several times has several answers, and an answer may belong to several questions.

    Args:
        encode: Takes a list of texts, returns vectors `(n_texts, width)`.
        questions: A question of each pair.
        answers: Its answer.
        dims: Numbers of first dimensions to compare by; None takes all, and matryoshka_dims down to 32.

    Raises:
        ValueError: The lists are of different lengths or empty, or there are fewer dimensions than asked for.
    """
    if len(questions) != len(answers) or not len(questions):
        raise ValueError(f"Each question needs an answer: got {len(questions)} questions and {len(answers)} answers.")
    asked, documents = list(dict.fromkeys(questions)), list(dict.fromkeys(answers))
    place = {text: i for i, text in enumerate(documents)}
    right: dict[str, set[int]] = {question: set() for question in asked}
    for question, answer in zip(questions, answers, strict=True):
        right[question].add(place[answer])
    vectors = _vectors(encode, [*asked, *documents])
    found = {}
    for dim in _checked(dims, vectors.shape[1]):
        cut = unit_rows(vectors[:, :dim])
        nearest = _nearest(cut[: len(asked)], cut[len(asked) :])
        found[dim] = _score(nearest, [right[question] for question in asked])
    return found


def _nearest(questions: Floats, documents: Floats) -> Rows:
    """Return the numbers of the nearest documents, `(n_questions, FOUND or fewer)`, the nearest first."""
    blocks = range(0, len(questions), BLOCK_QUESTIONS)
    return np.concatenate([top_k(questions[i : i + BLOCK_QUESTIONS] @ documents.T, FOUND)[1] for i in blocks])


def _score(nearest: npt.NDArray[np.int64], right: list[set[int]]) -> Retrieval:
    hits = np.array([[row in wanted for row in rows] for rows, wanted in zip(nearest.tolist(), right, strict=True)])
    wanted = np.array([len(one) for one in right])
    ranks = np.where(hits.any(1), hits.argmax(1) + 1, np.inf)
    return Retrieval(
        float((hits[:, 0] / wanted).mean()), float((hits.sum(1) / wanted).mean()), float((1 / ranks).mean())
    )


def _vectors(encode: Encode, texts: list[str]) -> npt.NDArray[np.float32]:
    distinct = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(distinct)}
    vectors = np.asarray(encode(distinct), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(distinct):
        raise ValueError(f"Vectors of {len(distinct)} texts have the shape {vectors.shape}, expected one row each.")
    return vectors[[place[text] for text in texts]]


def _checked(dims: Iterable[int] | None, width: int) -> list[int]:
    checked = matryoshka_dims(width) if dims is None else list(dims)
    for dim in checked:
        if not 1 <= dim <= width:
            raise ValueError(f"`dims` has {dim}, but the vectors have {width} dimensions.")
    return checked


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
