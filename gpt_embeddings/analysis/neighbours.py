"""The tokens or words most similar to a vector by cosine, for a word or for the analogy `a - b + c`.

Tokens that differ only in case or in the space before them (` king`, `King`) count as one word, shown by its most
similar row. Rows that no text can reach are never shown.
"""

import math
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import embedding_bag, normalize
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.decomposition import token_vectors
from gpt_embeddings.analysis.readable_tokens import encode_words, reachable_tokens, readable_pieces, word_ids
from gpt_embeddings.analysis.similarity import Floats
from gpt_embeddings.text.tokenizer import FlatIds, check_vocabulary
from modeling_gpt_embeddings import GPTEmbeddingsModel


# Singular and plural endings in English and Portuguese, without accents, as in city, wolf, woman; homem, leão, animal.
PLURALS = [
    pair.split("/") for pair in "/s /es y/ies f/ves fe/ves man/men m/ns ao/oes ao/aes l/is l/s il/eis".split(" ")
]


@dataclass(frozen=True)
class Word:
    """A word and its vector: the row of its token, or the mean of its rows if it has several."""

    text: str
    input_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    vector: torch.Tensor = field(compare=False)  # vector of shape `(n_embd,)`, float32

    @property
    def label(self) -> str:
        """The pieces, joined by `·` if there are several."""
        return "·".join(self.pieces)


@dataclass(frozen=True)
class Neighbour(Word):
    """A token or word that is similar to the query. The text of a token is its piece, such as `␣king`."""

    score: float  # cosine


class Neighbours:
    """Search among the tokens of a model, or among words.

    Args:
        model: The model. Make a new object after its table has changed.
        tokenizer: A fast tokenizer whose ids are below the model's `vocab_size`.
        candidates: Ids to search; None searches all tokens that a text can reach.
        words: Words to search instead of tokens, such as those of `load_words`. Each has the vector that the model
            gives it: the row of its token, or the mean of its rows.

    Raises:
        ValueError: The tokenizer does not fit the model, the table is not finite, or both candidates and words are
            given.
    """

    def __init__(
        self,
        model: GPTEmbeddingsModel,
        tokenizer: PreTrainedTokenizerBase,
        candidates: Collection[int] | None = None,
        *,
        words: Sequence[str] | None = None,
    ) -> None:
        check_vocabulary(tokenizer, model.config.vocab_size)
        if candidates is not None and words is not None:
            raise ValueError("Give `candidates` (ids of tokens) or `words`, not both.")
        self.model, self.tokenizer = model, tokenizer
        self.table = token_vectors(model)  # (vocab_size, n_embd)
        lengths = self.table.norm(dim=1)
        if not bool(lengths.isfinite().all()):
            raise ValueError("The token table holds numbers that are not finite; the checkpoint is broken.")
        shown = lengths.numpy() > 0
        if candidates is not None:
            shown &= np.isin(np.arange(len(shown)), list(candidates))
        elif words is None:
            shown &= reachable_tokens(tokenizer, len(shown))
        ids = np.flatnonzero(shown)
        self.looks_random = _look_random(self.table, ids, lengths)
        """Whether the token table looks untrained."""
        self.words = None if words is None else [word for word in dict.fromkeys(map(str.strip, words)) if word]
        self.vectors = self.table
        self.rows: npt.NDArray[np.int64] = ids
        """The rows of `vectors` that are searched, ascending: ids of tokens, or numbers of words."""
        if self.words is not None:
            self._encoded = encode_words(tokenizer, self.words)
            self.vectors = self._means(self._encoded)  # (n_words, n_embd)
            lengths = self.vectors.norm(dim=1)
            self.rows = np.flatnonzero(lengths.numpy() > 0)
        self.scale = torch.where(lengths > 0, 1 / lengths, 0)

    @property
    def chance(self) -> float:
        """The median of the best cosine that a table of as many random rows would give."""
        rows, n_embd = max(1, len(self.rows)), self.table.shape[1]
        if n_embd == 1:
            return 1.0
        # Between random directions the density of the angle is sin(angle)^(n_embd - 2).
        angles = torch.linspace(0, math.pi, 100_001, dtype=torch.float64)
        density = angles.sin() ** (n_embd - 2)
        nearer = density.cumsum(0) / density.sum()
        return math.cos(angles[int(torch.searchsorted(nearer, 1 - 0.5 ** (1 / rows)))])

    def find(self, word: str) -> Word:
        """Look a word up.

        Raises:
            ValueError: There is no word, or the vocabulary has no token for a part of it.
        """
        input_ids = word_ids(self.tokenizer, word)
        (vector,) = self._means((input_ids, np.array([0, len(input_ids)])))
        pieces = tuple(readable_pieces(self.tokenizer, input_ids.tolist()))
        return Word(word.strip(), tuple(input_ids.tolist()), pieces, vector)

    def nearest(
        self, vector: torch.Tensor | npt.ArrayLike, count: int = 10, exclude: Collection[int] = ()
    ) -> list[Neighbour]:
        """Return the tokens or words with the largest cosine.

        Args:
            vector: Vector of shape `(n_embd,)`: a tensor, or numbers such as the mean of several texts' vectors.
            count: How many; fewer if there are fewer.
            exclude: Rows of `vectors` to leave out, with the other spellings of the same words.

        Raises:
            ValueError: The vector has another shape, is zero or is not finite.
        """
        cosines = self._cosines(vector)
        return self._best(cosines, cosines, count, exclude)

    def of_word(self, word: str, count: int = 10, *, exclude_inputs: bool = True) -> tuple[Word, list[Neighbour]]:
        """Return a word and its neighbours, with or without the word itself and its spelling variants."""
        found = self.find(word)
        return found, self.nearest(found.vector, count, self._variants(found) if exclude_inputs else ())

    def analogy(
        self, a: str, b: str, c: str, count: int = 10, *, exclude_inputs: bool = True
    ) -> tuple[tuple[Word, Word, Word], list[Neighbour]]:
        """Return three words and the answers to a - b + c, by 3CosMul (Levy and Goldberg 2014).

        An answer x has a large cos(x, a) cos(x, c) / (cos(x, b) + 0.2), where negative cosines count as 0, so it is
        similar to both a and c. The largest cosine with a - b + c alone often belongs to a synonym of c. The score of
        an answer is that cosine, with each of the three vectors taken at length 1.

        Args:
            a: For example king.
            b: man.
            c: woman.
            count: How many answers.
            exclude_inputs: Whether to leave the three words and their spelling variants out, as is usual: otherwise
                one of them often comes first.
        """
        words = self.find(a), self.find(b), self.find(c)
        near_a, near_b, near_c = (self._cosines(word.vector) for word in words)
        first, second, third = (normalize(word.vector, dim=0) for word in words)
        length = float((first - second + third).norm()) or 1.0
        ranking = near_a.clip(0) * near_c.clip(0) / (near_b.clip(0) + 0.2)
        ranking[ranking == 0] = -np.inf
        exclude = set().union(*map(self._variants, words)) if exclude_inputs else set()
        return words, self._best(ranking, (near_a - near_b + near_c) / length, count, exclude)

    def _cosines(self, vector: torch.Tensor | npt.ArrayLike) -> Floats:
        """Return the cosine of each row with a vector, `(n_rows,)`."""
        query = vector.detach() if isinstance(vector, torch.Tensor) else torch.from_numpy(np.array(vector, float))
        query = query.double().cpu()
        if query.shape != self.table.shape[1:]:
            raise ValueError(f"`vector` must have the shape ({self.table.shape[1]},), got {tuple(query.shape)}.")
        if not bool(query.isfinite().all()):
            raise ValueError("Cannot search with a vector that holds numbers that are not finite.")
        if not bool(query.any()):
            raise ValueError("Cannot search with a zero vector.")
        return torch.mv(self.vectors, (query / query.norm()).float()).mul_(self.scale).numpy()

    def _best(self, ranking: Floats, scores: Floats, count: int, exclude: Collection[int]) -> list[Neighbour]:
        """Return the words that rank highest, each by its best row."""
        named = {self._words[row] for row in exclude}
        chosen: list[Neighbour] = []
        for row in self.rows[np.argsort(-ranking[self.rows], kind="stable")].tolist():
            if len(chosen) == count or ranking[row] == -np.inf:
                break
            if self._words[row] in named:
                continue
            named.add(self._words[row])
            ids: tuple[int, ...] = (row,)
            if self.words is not None:
                input_ids, offsets = self._encoded
                ids = tuple(input_ids[offsets[row] : offsets[row + 1]].tolist())
            pieces = tuple(readable_pieces(self.tokenizer, ids))
            text = pieces[0] if self.words is None else self.words[row]
            chosen.append(Neighbour(text, ids, pieces, self.vectors[row], float(scores[row])))
        return chosen

    def _means(self, encoded: FlatIds) -> torch.Tensor:
        """Return the mean of each word's rows, weighted if the model pools with weights, `(n_words, n_embd)`."""
        input_ids, offsets = (torch.from_numpy(array).long() for array in encoded)
        weights = torch.ones(len(input_ids))
        if self.model.token_weights is not None:
            weights = self.model.token_weights[input_ids].float().cpu()
        sums = embedding_bag(
            input_ids, self.table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        totals = torch.segment_reduce(weights, "sum", offsets=offsets)
        return sums / totals.where(totals > 0, 1).unsqueeze(1)

    def _variants(self, word: Word) -> set[int]:
        """Return the rows of a word: its spelling variants, and its tokens or the words with its first token."""
        # `cataract` (`cat·aract`) is near to `cat` by the token that they share, not by its meaning.
        rows = set(word.input_ids)
        if self.words is not None:
            input_ids, offsets = self._encoded
            rows = set(np.flatnonzero(input_ids[offsets[:-1]] == word.input_ids[0]).tolist())
        return rows.union(*(self._rows_by_name.get(name, ()) for name in spelling_variants(word.text)))

    @cached_property
    def _names(self) -> list[str]:
        """The text of each row, without the space before a token."""
        if self.words is not None:
            return self.words
        return [piece.lstrip("␣") or piece for piece in readable_pieces(self.tokenizer, range(len(self.table)))]

    @cached_property
    def _rows_by_name(self) -> dict[str, list[int]]:
        """Rows by their text without case and accents."""
        rows = defaultdict(list)
        for row, name in enumerate(self._names):
            rows[_fold(name)].append(row)
        return rows

    @cached_property
    def _words(self) -> list[str]:
        """The word of each row: the same for rows that differ only in case or in the space before them."""
        return [name.casefold() if name.isalpha() else name for name in self._names]


def spelling_variants(word: str) -> set[str]:
    """Return the spellings of a word, its plural and its singular, without case and accents.

    >>> {"leoes", "leao"} <= spelling_variants("Leões")
    True
    """
    name = _fold(word.strip())
    found = {name}
    for singular, plural in PLURALS:
        for old, new in ((singular, plural), (plural, singular)):
            if name.endswith(old) and len(name) > len(old):
                found.add(name.removesuffix(old) + new)
    return found


def _fold(name: str) -> str:
    """Return a name without case and accents."""
    if name.isascii():
        return name.lower()
    return "".join(char for char in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(char))


def _look_random(table: torch.Tensor, ids: npt.NDArray[np.int64], lengths: torch.Tensor) -> bool:
    """Return whether lengths and directions of the rows are distributed like those of normal random numbers."""
    rows, n_embd = len(ids), table.shape[1]
    if rows < 32 or n_embd < 2:  # too few to tell
        return False
    some = lengths[ids]
    spread = float(some.std() / some.mean()) * math.sqrt(2 * n_embd)  # near 1 for normal numbers
    if abs(spread - 1) >= 0.05 + 3 / math.sqrt(rows):
        return False
    # The 130,816 pairs of 512 rows give the figures within one per cent.
    chosen = torch.from_numpy(ids)[torch.linspace(0, rows - 1, min(rows, 512)).long().unique()]
    units = normalize(table[chosen], dim=1)
    cosines = (units @ units.T)[tuple(torch.triu_indices(len(chosen), len(chosen), 1))]
    expected = 1 / math.sqrt(n_embd)
    tolerance = expected * (0.08 + 3 / math.sqrt(len(cosines)))
    return bool(abs(cosines.mean()) < tolerance and abs(cosines.std() - expected) < tolerance)


def describe_chance(neighbours: Neighbours, best: float | None) -> str:
    """Say in a sentence or two what scores from this table are worth.

    Args:
        neighbours: The table.
        best: The best score found, if any.
    """
    rows, n_embd = len(neighbours.rows), neighbours.table.shape[1]
    chance = f"A table of {rows:,} x {n_embd} random numbers would give a best score of about {neighbours.chance:.2f}"
    if neighbours.looks_random and (best is None or best <= 1.1 * neighbours.chance):
        return f"This table looks untrained: its neighbours are near by chance. {chance}."
    if neighbours.looks_random:
        return f"{chance}. Most rows of this table look untrained too, but the best score found is higher than that."
    if best is not None and best <= neighbours.chance:
        return f"{chance}; no score here is higher."
    return f"{chance}."
