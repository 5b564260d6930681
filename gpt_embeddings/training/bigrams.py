"""A lower bound for the loss of a zero-layer model on a text, from the exact counts of its bigrams.

A zero-layer GPT sees the current token x (and its position p) and nothing else. So its mean cross-entropy over pairs
(x, next token y) is at least the conditional entropy of these very pairs, in nats:

    H(y | x) = 1 / n  *  sum over pairs (x, y) of  n(x, y) * ln(n(x) / n(x, y))

and H(y | x, p) with positions. Both are reached by the table of observed frequencies, which an untied model of
`n_embd` >= `vocab_size` can hold.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from gpt_embeddings.arguments import check_integer
from gpt_embeddings.windows.packing import IGNORED


_Keys = npt.NDArray[np.int64]

BUFFER_PAIRS = 2**20  # pairs collected before they are sorted: 8 MiB


class BigramCounts:
    """Counts of (token, next token) or (position, token, next token), added batch by batch.

    Memory grows by 16 bytes per distinct pair, not with the text.

    >>> counts = BigramCounts(vocab_size=3)
    >>> counts.add([0, 1, 0, 2], [1, 0, 2, -100])  # 0 is followed by 1 and by 2, 1 by 0; -100 is no target
    >>> counts.n_pairs, counts.n_distinct
    (3, 3)
    >>> round(counts.bound(), 6)  # 2/3 of ln 2
    0.462098

    Args:
        vocab_size: Size of the vocabulary.
        n_positions: Number of positions; None ignores positions.

    Raises:
        ValueError: A size is below 1, or the possible keys do not fit into 63 bits.
    """

    def __init__(self, vocab_size: int, n_positions: int | None = None) -> None:
        vocab_size = check_integer("vocab_size", vocab_size, 1)
        n_positions = None if n_positions is None else check_integer("n_positions", n_positions, 1)
        if vocab_size**2 * (n_positions or 1) >= 2**63:
            raise ValueError(
                f"`vocab_size` = {vocab_size} with `n_positions` = {n_positions} has more keys than fit into 63 bits; "
                "count without positions."
            )
        self.vocab_size, self.n_positions = vocab_size, n_positions
        self._buffer: list[_Keys] = []
        self._buffered = 0
        self._keys, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, input_ids: Any, target_ids: Any, position_ids: Any = None) -> None:
        """Count pairs of ids and the ids that follow them, arrays of one shape; a target of -100 is ignored.

        Positions, of a shape that broadcasts to theirs, are by default the index along the last axis.
        """
        inputs, targets = np.asarray(input_ids, np.int64), np.asarray(target_ids, np.int64)
        if inputs.shape != targets.shape:
            raise ValueError(f"`input_ids` of shape {inputs.shape} and `target_ids` of {targets.shape} must agree.")
        n_positions, positions = self.n_positions or 1, np.zeros((), np.int64)
        if self.n_positions is not None:
            positions = np.arange(inputs.shape[-1]) if position_ids is None else np.asarray(position_ids, np.int64)
        scored = targets != IGNORED
        inputs, targets, positions = inputs[scored], targets[scored], np.broadcast_to(positions, scored.shape)[scored]
        limits = {"input_ids": self.vocab_size, "target_ids": self.vocab_size, "position_ids": n_positions}
        for (name, rows), ids in zip(limits.items(), (inputs, targets, positions), strict=True):
            if len(ids) and (ids.min() < 0 or ids.max() >= rows):
                bad = int(ids.min() if ids.min() < 0 else ids.max())
                raise ValueError(
                    f"`{name}` must lie from 0 to {rows - 1}, got {bad}. Check that the ids are from this tokenizer."
                )
        keys = (positions * self.vocab_size + inputs) * self.vocab_size + targets
        self._buffer.append(keys)
        self._buffered += len(keys)
        if self._buffered >= max(BUFFER_PAIRS, len(self._keys)):  # so that a pair is merged a few times at most
            self._merge()

    @property
    def n_pairs(self) -> int:
        """Pairs counted."""
        self._merge()
        return int(self._counts.sum())

    @property
    def n_distinct(self) -> int:
        """Distinct pairs among them."""
        self._merge()
        return len(self._keys)

    def bound(self) -> float:
        """Return the conditional entropy of the pairs in nats: no zero-layer model has a lower mean loss on them."""
        self._merge()
        if not len(self._keys):
            raise ValueError("There is no pair of tokens to compute a bound from; a text needs at least 2 tokens.")
        contexts = self._keys // self.vocab_size  # sorted, as the keys are
        starts = np.flatnonzero(np.diff(contexts, prepend=-1))
        totals = np.add.reduceat(self._counts, starts)  # (distinct contexts,)
        entropy = (totals * np.log(totals)).sum() - (self._counts * np.log(self._counts)).sum()
        return float(max(0.0, entropy) / totals.sum())

    def _merge(self) -> None:
        if self._buffer:
            fresh, counts = np.unique(np.concatenate(self._buffer), return_counts=True)
            self._keys, place = np.unique(np.concatenate([self._keys, fresh]), return_inverse=True)
            self._counts = np.bincount(place, np.concatenate([self._counts, counts])).astype(np.int64)
            self._buffer, self._buffered = [], 0
