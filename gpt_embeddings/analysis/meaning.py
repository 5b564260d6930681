"""What vectors mean, as far as it can be measured: rank correlation with a teacher, and nearest words.

Left out: benchmarks with human judgements, which come with data of their own.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase

from modeling_gpt_embeddings import GPTEmbeddingsModel


Vectors = npt.NDArray[np.floating]
SPACE_MARKS = ("Ġ", "▁")  # how byte-level and SentencePiece vocabularies write the space before a word
NEIGHBOUR_RANKS = (1, 2, 4, 10, 30, 100, 500, 2000)


def whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the entries of a vocabulary that are whole words, without the mark of their space, and their ids.

    >>> from gpt_embeddings import load_tokenizer
    >>> words = whole_words(load_tokenizer())
    >>> words["harbour"], "ing" in words, len(words)
    (39720, True, 32012)
    """
    vocabulary = sorted(tokenizer.get_vocab().items())
    marked = [(token[1:], i) for token, i in vocabulary if token.startswith(SPACE_MARKS)]
    return {word: i for word, i in marked or vocabulary if len(word) > 1 and word.isalpha() and _is_text(word)}


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
    """Return the rank correlation of two lists of numbers.

    >>> spearman(np.array([0.1, 0.2, 0.9]), np.array([1.0, 5.0, 3.0]))
    0.5
    """
    ranks = [np.argsort(np.argsort(values, kind="stable")) - (len(values) - 1) / 2 for values in (ours, theirs)]
    return float((ranks[0] * ranks[1]).sum() / (ranks[0] ** 2).sum())


@torch.no_grad()
def nearest_words(
    model: GPTEmbeddingsModel, words: Sequence[str], vocabulary: dict[str, int], n: int = 5
) -> list[list[str]]:
    """Return the words whose rows of `wte` have the largest cosines with those of given words.

    Args:
        model: The model.
        words: Words of the vocabulary.
        vocabulary: What [`whole_words`] gave.
        n: How many neighbours; those that differ in case alone are passed over.

    Raises:
        KeyError: A word is not in the vocabulary.
    """
    names = list(vocabulary)
    ids = torch.tensor([vocabulary[name] for name in names])
    table = F.normalize(model.wte.weight[ids].float(), dim=1)
    index = {name: i for i, name in enumerate(names)}
    found = []
    for word in words:
        seen, nearest = {word.lower()}, []
        for i in (table @ table[index[word]]).argsort(descending=True).tolist():
            if names[i].lower() not in seen:
                seen.add(names[i].lower())
                nearest.append(names[i])
            if len(nearest) == n:
                break
        found.append(nearest)
    return found


def _is_text(word: str) -> bool:
    return word.isascii() or not any("\x80" <= c <= "\u0143" for c in word)  # bytes of a byte-level vocabulary


__all__ = ["nearest_words", "similar_pairs", "spearman", "whole_words"]
