"""Sentences as one-hot rows, bags of words, TF-IDF (scikit-learn's) and embeddings, all of the model's own tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.metrics.pairwise import cosine_similarity
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.decomposition import position_vectors, token_vectors
from gpt_embeddings.analysis.similarity import unit_rows
from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.tokenizer import check_vocabulary
from modeling_gpt_embeddings import GPTEmbeddingsModel


SAME = 1e-6  # cosines of the same float32 numbers, summed in another order, differ by less

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Encoding:
    """An encoding of some sentences."""

    name: str
    size: int  # numbers of the longest sentence
    zeros: float  # share of zeros among the numbers of all sentences
    similarity: npt.NDArray[np.float64]  # cosines of shape `(n_sentences, n_sentences)`
    sees_order: bool  # whether the encoding of the first sentence changes when its tokens are reversed


def compare_encodings(
    model: GPTEmbeddingsModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]
) -> list[Encoding]:
    """Encode sentences in five ways.

    In encodings with a row per token, shorter sentences are filled with zeros. Tokens past `n_positions` are cut.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        sentences: At least two.

    Raises:
        ValueError: There are fewer than two sentences, or one has no tokens.
    """
    check_vocabulary(tokenizer, model.config.vocab_size)
    if len(sentences) < 2:
        raise ValueError(f"At least two sentences are needed, got {len(sentences)}. Type one on each line.")
    flat, offsets = encode_flat(sentences, tokenizer)
    limit = model.config.n_positions
    documents = [flat[start:end][:limit] for start, end in pairwise(offsets)]
    for sentence, ids in zip(sentences, documents, strict=True):
        if not len(ids):
            raise ValueError(f"The sentence {sentence!r} has no tokens.")
    positions = position_vectors(model)

    def rows(ids: Ids) -> npt.NDArray[np.float32]:
        vectors = token_vectors(model, torch.from_numpy(ids).long())
        return (vectors + positions[: len(ids)] if len(positions) else vectors).numpy()

    # One-hot: the inner product of two sentences counts the positions at which they have the same token.
    size, first = model.config.vocab_size, documents[0]
    same = np.array([[np.sum(a[: len(b)] == b[: len(a)]) for b in documents] for a in documents], dtype=float)
    lengths = np.sqrt(np.diag(same))
    cosines, sees_order = same / np.outer(lengths, lengths), bool((first != first[::-1]).any())
    name = "one-hot, a row per token"
    encodings = [Encoding(name, size * max(map(len, documents)), 1 - 1 / size, cosines, sees_order)]
    vectorizer = CountVectorizer(analyzer=lambda ids: ids.tolist(), vocabulary=range(size))
    counts = vectorizer.transform([*documents, first[::-1]])
    weights = TfidfTransformer().fit(counts[:-1]).transform(counts)
    for name, matrix in (("bag of words (tokens)", counts), ("TF-IDF", weights)):
        cosines = cosine_similarity(matrix)
        zeros, sees_order = 1 - matrix[:-1].nnz / (len(documents) * size), bool(cosines[0, -1] < 1 - SAME)
        encodings.append(Encoding(name, size, zeros, cosines[:-1, :-1], sees_order))
    return [
        *encodings,
        _encode_dense("pooled embeddings (mean)", documents, lambda ids: rows(ids).mean(0)),
        _encode_dense("embeddings, a row per token", documents, rows),
    ]


def _encode_dense(name: str, documents: list[Ids], encode: Callable[[Ids], npt.NDArray[np.float32]]) -> Encoding:
    vectors = [encode(ids).ravel().astype(np.float64) for ids in [*documents, documents[0][::-1].copy()]]
    size = max(map(len, vectors))
    matrix = np.stack([np.pad(vector, (0, size - len(vector))) for vector in vectors])
    units = unit_rows(matrix)
    cosines = units @ units.T
    numbers = np.concatenate(vectors[:-1])
    return Encoding(
        name, size, float(np.mean(numbers == 0)), cosines[:-1, :-1], bool(cosines[0, -1] < cosines[0, 0] - SAME)
    )
