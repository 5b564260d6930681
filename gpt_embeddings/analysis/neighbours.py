"""The nearest rows of a token table, by cosine: of a word, and of `a - b + c`.

The whole table is compared at each question, exactly; only the lengths of its rows are kept. Rows that differ in case
or in the space before them (` king`, `King`) are one word, of which the nearest is given. Left out: approximate
search, which a vocabulary does not need, and vectors of texts, for which the extra `search` brings faiss.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.decomposition import token_vectors
from gpt_embeddings.analysis.readable_tokens import readable_pieces, word_ids
from gpt_embeddings.text.tokenizer import check_vocabulary
from modeling_gpt_embeddings import GPTEmbeddingsModel


SAMPLED_ROWS = 512  # for the test whether rows are random; their 130,816 pairs tell it to a per cent
ANGLES = 100_001
SPREAD = 0.05  # of 1 / sqrt(2 n_embd): how far the relative deviation of their lengths may be off
CLEARLY = 1.1  # times the best by chance
ANISOTROPY = 0.08  # of 1 / sqrt(n_embd): how far mean and deviation of random rows' cosines may be off


@dataclass(frozen=True)
class Word:
    """A word and its vector: the row of its token, or the mean where it has several."""

    text: str
    input_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    vector: torch.Tensor
    """Vector of shape `(n_embd,)`, float32."""

    @property
    def label(self) -> str:
        """The pieces, joined by `·` where there are several."""
        return "·".join(self.pieces)


@dataclass(frozen=True)
class Neighbour:
    """A row near what was asked for."""

    input_id: int
    piece: str
    score: float
    """Cosine."""


class Neighbours:
    """Search in the token table of a model.

    Args:
        model: The model. Lengths of rows are taken once; make a new object after the table has changed.
        tokenizer: A fast tokenizer whose ids the model's vocabulary holds.

    Raises:
        ValueError: The tokenizer does not fit the model, or the table is not finite.
    """

    def __init__(self, model: GPTEmbeddingsModel, tokenizer: PreTrainedTokenizerBase) -> None:
        check_vocabulary(tokenizer, model.config.vocab_size)
        self.model, self.tokenizer = model, tokenizer
        self.table = token_vectors(model)  # (vocab_size, n_embd)
        lengths = self.table.norm(dim=1)
        if not bool(lengths.isfinite().all()):
            raise ValueError("The token table holds numbers that are not finite; the checkpoint is broken.")
        self.scale = torch.where(lengths > 0, 1 / lengths, 0)  # (vocab_size,)
        self.looks_random = self._looks_random(lengths)

    @property
    def chance(self) -> float:
        """The best cosine that a table of random rows of this size would give, in every second case."""
        rows, n_embd = self.table.shape
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

    def nearest(self, vector: torch.Tensor, count: int = 10, exclude: Collection[int] = ()) -> list[Neighbour]:
        """Return the words of largest cosine with a vector, each by the row of it that is nearest.

        Args:
            vector: Vector of shape `(n_embd,)`.
            count: How many.
            exclude: Ids to leave out, with the other rows of the same words.

        Raises:
            ValueError: The vector is zero: it has no direction.
        """
        length = float(vector.norm())
        if not length > 0:
            raise ValueError("The vector is zero and so near to nothing in particular.")
        with torch.inference_mode():
            scores = torch.mv(self.table, vector / length).mul_(self.scale)  # (vocab_size,)
            seen = {int(self._words[i]) for i in exclude}
            ids: list[int] = []
            looked_at = 0
            while len(ids) < count and looked_at < len(scores):
                rows = scores.topk(min(len(scores), 4 * (looked_at + count + len(seen)))).indices[looked_at:].tolist()
                looked_at += len(rows)
                for row in rows:
                    if self._words[row] not in seen and len(ids) < count:
                        seen.add(int(self._words[row]))
                        ids.append(row)
            best = scores[ids].tolist()
        return [Neighbour(*found) for found in zip(ids, readable_pieces(self.tokenizer, ids), best, strict=True)]

    def of_word(self, word: str, count: int = 10, *, exclude_inputs: bool = True) -> tuple[Word, list[Neighbour]]:
        """Return a word and its neighbours, by choice without itself."""
        found = self.find(word)
        return found, self.nearest(found.vector, count, found.input_ids if exclude_inputs else ())

    def analogy(
        self, a: str, b: str, c: str, count: int = 10, *, exclude_inputs: bool = True
    ) -> tuple[tuple[Word, Word, Word], list[Neighbour]]:
        """Return three words and what is nearest to `a - b + c`, each taken at length 1.

        Args:
            a: For example king.
            b: man.
            c: woman.
            count: How many.
            exclude_inputs: Whether the three words are left out, as is usual: one of them wins otherwise.
        """
        words = self.find(a), self.find(b), self.find(c)
        first, second, third = (normalize(word.vector, dim=0) for word in words)
        inputs = {token_id for word in words for token_id in word.input_ids} if exclude_inputs else set()
        return words, self.nearest(first - second + third, count, inputs)

    @cached_property
    def _words(self) -> npt.NDArray[np.int64]:
        """Number of the word of each row, `(vocab_size,)`: the same for rows that differ in case or space alone."""
        pieces = readable_pieces(self.tokenizer, range(len(self.table)))
        names = [piece.lstrip("␣") for piece in pieces]
        names = [name.casefold() if name.isalpha() else piece for name, piece in zip(names, pieces, strict=True)]
        return np.unique(np.array(names, object), return_inverse=True)[1]

    def _looks_random(self, lengths: torch.Tensor) -> bool:
        """Return whether rows point everywhere alike and are as long as each other, as normal numbers make them."""
        rows, n_embd = self.table.shape
        if rows < 3 or n_embd < 2:
            return False
        spread = float(lengths.std() / lengths.mean()) * math.sqrt(2 * n_embd)  # near 1 for normal numbers
        if not abs(spread - 1) < SPREAD + 3 / math.sqrt(rows):  # also where all are zero
            return False
        chosen = torch.linspace(0, rows - 1, min(rows, SAMPLED_ROWS)).long().unique()
        units = self.table[chosen] * self.scale[chosen].unsqueeze(1)
        cosines = (units @ units.T)[tuple(torch.triu_indices(len(chosen), len(chosen), 1))]
        expected = 1 / math.sqrt(n_embd)
        tolerance = expected * (ANISOTROPY + 3 / math.sqrt(len(cosines)))
        return bool(abs(cosines.mean()) < tolerance and abs(cosines.std() - expected) < tolerance)


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
    table = normalize(model.wte.weight[ids].float(), dim=1)
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


def describe_chance(neighbours: Neighbours, best: float | None) -> str:
    """Say in a sentence or two what scores from this table are worth."""
    rows, n_embd = neighbours.table.shape
    said = f"A table of {rows:,} x {n_embd} random numbers would give a best score of about {neighbours.chance:.2f}"
    if neighbours.looks_random and (best is None or best <= CLEARLY * neighbours.chance):
        return f"This table looks untrained: what is near in it is near by chance. {said}."
    if neighbours.looks_random:
        return f"{said}. Most rows of this one look untrained too, but the best found here is nearer than that."
    if best is not None and best <= neighbours.chance:
        return f"{said}; nothing here is nearer than chance."
    return f"{said}."


def parse_words(text: str, limit: int) -> Sequence[str]:
    """Split a field into words, at commas and line ends, without repetitions.

    Raises:
        ValueError: There are none, or more than `limit`.
    """
    words = list(dict.fromkeys(word.strip() for word in text.replace("\n", ",").split(",") if word.strip()))
    if not words:
        raise ValueError("There are no words; type some, with commas between them.")
    if len(words) > limit:
        raise ValueError(f"There are {len(words)} words; at most {limit} are shown. Leave some out.")
    return words
