"""The rows of a token table most similar to a vector by cosine, for a word or for the analogy `a - b + c`.

Every query is compared with the whole table, exactly. Rows that differ only in case or in the space before them
(` king`, `King`) count as one word, shown by its most similar row. Rows that no text can reach are never shown: rows
of zeros, and tokens that the tokenizer's normalizer changes, such as capitals where it makes text lower case.
Left out: approximate search, which a vocabulary does not need, and vectors of texts (`embedding.search`).
"""

import math
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.decomposition import token_vectors
from gpt_embeddings.analysis.readable_tokens import reachable_tokens, readable_pieces, word_ids
from gpt_embeddings.analysis.similarity import top_k
from gpt_embeddings.text.tokenizer import check_vocabulary
from modeling_gpt_embeddings import GPTEmbeddingsModel


ANGLES = 100_001  # grid points of the integral in `chance`
CLEARLY = 1.1  # times the best score by chance

# The test whether rows are random compares 512 rows: their 130,816 pairs give the figures below within one per cent.
SAMPLED_ROWS = 512
LEAST_ROWS = 32  # of fewer it cannot be told
SPREAD = 0.05  # how far the relative deviation of the lengths may be from 1 / sqrt(2 n_embd), as a share of it
ANISOTROPY = 0.08  # how far mean and deviation of the cosines may be from 0 and 1 / sqrt(n_embd), as a share of that


@dataclass(frozen=True)
class Word:
    """A word and its vector: the row of its token, or the mean of its rows if it has several."""

    text: str
    input_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    vector: torch.Tensor
    """Vector of shape `(n_embd,)`, float32."""

    @property
    def label(self) -> str:
        """The pieces, joined by `·` if there are several."""
        return "·".join(self.pieces)


@dataclass(frozen=True)
class Neighbour:
    """A row that is similar to the query."""

    input_id: int
    piece: str
    score: float
    """Cosine."""


class Neighbours:
    """Search in the token table of a model.

    Args:
        model: The model. Make a new object after its table has changed.
        tokenizer: A fast tokenizer whose ids are below the model's `vocab_size`.
        candidates: Ids to search; None searches all rows that a text can reach.

    Raises:
        ValueError: The tokenizer does not fit the model, or the table is not finite.
    """

    def __init__(
        self,
        model: GPTEmbeddingsModel,
        tokenizer: PreTrainedTokenizerBase,
        candidates: Collection[int] | None = None,
    ) -> None:
        check_vocabulary(tokenizer, model.config.vocab_size)
        self.model, self.tokenizer = model, tokenizer
        self.table = token_vectors(model)  # (vocab_size, n_embd)
        lengths = self.table.norm(dim=1)
        if not bool(lengths.isfinite().all()):
            raise ValueError("The token table holds numbers that are not finite; the checkpoint is broken.")
        self.scale = torch.where(lengths > 0, 1 / lengths, 0)  # (vocab_size,)
        shown = lengths.numpy() > 0
        if candidates is None:
            shown &= reachable_tokens(tokenizer, len(shown))
        else:
            shown &= np.isin(np.arange(len(shown)), list(candidates))
        self.ids: npt.NDArray[np.int64] = np.flatnonzero(shown)
        """The ids that are searched, ascending."""
        self.looks_random = self._looks_random(lengths[self.ids])

    @property
    def chance(self) -> float:
        """The median of the best cosine that a table of as many random rows would give."""
        rows, n_embd = max(1, len(self.ids)), self.table.shape[1]
        if n_embd == 1:
            return 1.0
        # Between random directions the density of the angle is sin(angle)^(n_embd - 2).
        angles = torch.linspace(0, math.pi, ANGLES, dtype=torch.float64)
        density = angles.sin() ** (n_embd - 2)
        nearer = density.cumsum(0) / density.sum()
        return math.cos(angles[int(torch.searchsorted(nearer, 1 - 0.5 ** (1 / rows)))])

    def find(self, word: str) -> Word:
        """Look a word up.

        Raises:
            ValueError: There is no word, or the vocabulary has no token for a part of it.
        """
        input_ids = word_ids(self.tokenizer, word)
        vector = self.table[torch.from_numpy(input_ids).long()].mean(0)
        pieces = tuple(readable_pieces(self.tokenizer, input_ids.tolist()))
        return Word(word.strip(), tuple(input_ids.tolist()), pieces, vector)

    def nearest(
        self, vector: torch.Tensor | npt.ArrayLike, count: int = 10, exclude: Collection[int] = ()
    ) -> list[Neighbour]:
        """Return the words with the largest cosine, each by its most similar row.

        Args:
            vector: Vector of shape `(n_embd,)`: a tensor, or numbers such as the mean of several texts' vectors.
            count: How many words; fewer if the table has fewer.
            exclude: Ids to leave out, with the other rows of the same words.

        Raises:
            ValueError: The vector has another shape, is zero or is not finite.
        """
        scores = torch.mv(self.table, self._check_query(vector)).mul_(self.scale).numpy()  # (vocab_size,)
        order, bounds = self._rows_by_word
        if not len(order):
            return []
        best = np.maximum.reduceat(scores[order], bounds[:-1])  # (n_words,)
        best[np.isin(self._words[order[bounds[:-1]]], self._words[list(exclude)])] = -np.inf
        found, words = top_k(best[None], count)
        ids = []
        for word in words[0][np.isfinite(found[0])]:
            rows = order[bounds[word] : bounds[word + 1]]
            ids.append(int(rows[scores[rows].argmax()]))
        return [
            Neighbour(row, piece, float(scores[row]))
            for row, piece in zip(ids, readable_pieces(self.tokenizer, ids), strict=True)
        ]

    def of_word(self, word: str, count: int = 10, *, exclude_inputs: bool = True) -> tuple[Word, list[Neighbour]]:
        """Return a word and its neighbours, with or without the word itself, its plural and its singular."""
        found = self.find(word)
        return found, self.nearest(found.vector, count, self._variants(found) if exclude_inputs else ())

    def analogy(
        self, a: str, b: str, c: str, count: int = 10, *, exclude_inputs: bool = True
    ) -> tuple[tuple[Word, Word, Word], list[Neighbour]]:
        """Return three words and the neighbours of `a - b + c`, each vector taken at length 1.

        Args:
            a: For example king.
            b: man.
            c: woman.
            count: How many neighbours.
            exclude_inputs: Whether to leave the three words out, with their plurals and singulars, as is usual:
                otherwise one of them often comes first.
        """
        words = self.find(a), self.find(b), self.find(c)
        first, second, third = (normalize(word.vector, dim=0) for word in words)
        inputs = set().union(*map(self._variants, words)) if exclude_inputs else set()
        return words, self.nearest(first - second + third, count, inputs)

    def _variants(self, word: Word) -> set[int]:
        """Return the ids of a word, and those of its plural and singular in -s if they are single tokens."""
        ids = set(word.input_ids)
        for variant in (f"{word.text}s", f"{word.text}es", word.text.removesuffix("s"), word.text.removesuffix("es")):
            with suppress(ValueError):  # no token, or nothing is left of the word
                found = word_ids(self.tokenizer, variant)
                ids.update(found.tolist() if len(found) == 1 else ())
        return ids

    def _check_query(self, vector: torch.Tensor | npt.ArrayLike) -> torch.Tensor:
        """Return a query as a float32 tensor of length 1."""
        tensor = vector.detach() if isinstance(vector, torch.Tensor) else torch.from_numpy(np.array(vector, float))
        tensor = tensor.double().cpu()
        if tensor.shape != self.table.shape[1:]:
            raise ValueError(f"`vector` must have the shape ({self.table.shape[1]},), got {tuple(tensor.shape)}.")
        if not bool(tensor.isfinite().all()):
            raise ValueError("Cannot search with a vector that holds numbers that are not finite.")
        if not bool(tensor.any()):
            raise ValueError("Cannot search with a zero vector.")
        return (tensor / tensor.norm()).float()

    @cached_property
    def _words(self) -> npt.NDArray[np.int64]:
        """Number of the word of each row, `(vocab_size,)`: the same for rows that differ only in case or space."""
        pieces = readable_pieces(self.tokenizer, range(len(self.table)))
        names = [piece.lstrip("␣") for piece in pieces]
        names = [name.casefold() if name.isalpha() else piece for name, piece in zip(names, pieces, strict=True)]
        return np.unique(np.array(names, object), return_inverse=True)[1]

    @cached_property
    def _rows_by_word(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The searched rows grouped by word; word i has the rows from bound i to bound i + 1."""
        order = self.ids[np.argsort(self._words[self.ids], kind="stable")]
        starts = np.unique(self._words[order], return_index=True)[1]
        return order, np.append(starts, len(order))

    def _looks_random(self, lengths: torch.Tensor) -> bool:
        """Return whether lengths and directions of the rows are distributed like those of normal random numbers."""
        rows, n_embd = len(self.ids), self.table.shape[1]
        if rows < LEAST_ROWS or n_embd < 2:
            return False
        spread = float(lengths.std() / lengths.mean()) * math.sqrt(2 * n_embd)  # near 1 for normal numbers
        if abs(spread - 1) >= SPREAD + 3 / math.sqrt(rows):
            return False
        chosen = torch.from_numpy(self.ids)[torch.linspace(0, rows - 1, min(rows, SAMPLED_ROWS)).long().unique()]
        units = self.table[chosen] * self.scale[chosen].unsqueeze(1)
        cosines = (units @ units.T)[tuple(torch.triu_indices(len(chosen), len(chosen), 1))]
        expected = 1 / math.sqrt(n_embd)
        tolerance = expected * (ANISOTROPY + 3 / math.sqrt(len(cosines)))
        return bool(abs(cosines.mean()) < tolerance and abs(cosines.std() - expected) < tolerance)


def describe_chance(neighbours: Neighbours, best: float | None) -> str:
    """Say in a sentence or two what scores from this table are worth.

    Args:
        neighbours: The table.
        best: The best score found, if any.
    """
    rows, n_embd = len(neighbours.ids), neighbours.table.shape[1]
    chance = f"A table of {rows:,} x {n_embd} random numbers would give a best score of about {neighbours.chance:.2f}"
    if neighbours.looks_random and (best is None or best <= CLEARLY * neighbours.chance):
        return f"This table looks untrained: its neighbours are near by chance. {chance}."
    if neighbours.looks_random:
        return f"{chance}. Most rows of this table look untrained too, but the best score found is higher than that."
    if best is not None and best <= neighbours.chance:
        return f"{chance}; no score here is higher."
    return f"{chance}."
