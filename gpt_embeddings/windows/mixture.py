"""Windows of several corpora by weight, with the names of `datasets.interleave_datasets`.

`interleave_datasets(probabilities=...)` does not do: it mixes rows, so the shares are of documents, not of tokens, and
windows would run across corpora; and it mixes each shard by itself, so the rows depend on the number of streams. Here
nothing is random: the next window comes from the corpus that is furthest behind its share.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from gpt_embeddings.arguments import check_choice
from gpt_embeddings.windows.corpus import Corpus
from gpt_embeddings.windows.packing import Ids
from gpt_embeddings.windows.streams import BufferedStream, TokenStream


Stopping: TypeAlias = Literal["first_exhausted", "all_exhausted"]
Stream: TypeAlias = "TokenStream | BufferedStream | MixedStream"


@dataclass
class Mixture:
    """Corpora with the same tokenizer, windows and streams; several have weights, a single one has none."""

    corpora: Sequence[Corpus]
    weights: Sequence[float] | None
    stopping_strategy: Stopping

    def __post_init__(self) -> None:
        check_choice("stopping_strategy", self.stopping_strategy, ("first_exhausted", "all_exhausted"))
        first = self.corpora[0]
        self.spec, self.tokenizer, self.shuffle = first.spec, first.tokenizer, first.shuffle
        self.num_streams, self.rank, self.world_size = first.num_streams, first.rank, first.world_size

    def streams(
        self,
        epoch: int,
        states: Mapping[int, Mapping[str, Any] | None] | None = None,
        logs: Sequence[list[dict[str, Any]] | None] | None = None,
    ) -> Mapping[int, Stream]:
        """Open streams of this rank in an epoch, as [`Corpus.streams`] does; every corpus has a log of its own."""
        logs = logs or [None] * len(self.corpora)
        if self.weights is None:
            return self.corpora[0].streams(epoch, states, logs[0])
        states = dict.fromkeys(range(self.num_streams)) if states is None else states
        return {n: MixedStream(self, epoch, n, state, logs) for n, state in states.items()}

    @property
    def is_small(self) -> bool:
        """Whether the windows are counted in a moment."""
        return all(corpus.is_small for corpus in self.corpora)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must be the same for a saved state to be of use."""
        if self.weights is None:
            return self.corpora[0].settings
        mixed = {"weights": list(self.weights), "stopping_strategy": self.stopping_strategy}
        datasets = [corpus.settings["dataset"] for corpus in self.corpora]
        return {**self.corpora[0].settings, "dataset": datasets, **mixed}


class MixedStream:
    """A stream of windows by weight, which has a part of every corpus; each row ends with the number of its corpus."""

    def __init__(
        self,
        mixture: Mixture,
        epoch: int,
        number: int,
        state: Mapping[str, Any] | None,
        logs: Sequence[list[dict[str, Any]] | None],
    ) -> None:
        weights = mixture.weights or []
        n = len(weights)
        state = state or {"parts": [None] * n, "taken": [0] * n, "passes": [0] * n, "documents": 0, "tokens": 0}
        self._mixture, self._epoch, self._number, self._logs = mixture, epoch, number, logs
        self._weights = [weight / math.fsum(weights) for weight in weights]
        self._taken, self._passes = list(state["taken"]), list(state["passes"])
        self._read = [state["documents"], state["tokens"]]  # in passes that are over
        self._parts = [self._open(k, part) for k, part in enumerate(state["parts"])]

    def _open(self, k: int, state: Mapping[str, Any] | None) -> Stream:
        # A pass over a corpus within an epoch is an epoch to it, far beyond the others.
        epoch = self._epoch + (self._passes[k] << 32)
        return self._mixture.corpora[k].streams(epoch, {self._number: state}, self._logs[k])[self._number]

    def take(self, n: int) -> Ids:
        """Return the next `n` windows, `(n, max_length + 2)`; fewer only at the end of the stream."""
        rows, done = np.empty((n, self._mixture.spec.max_length + 2), np.int32), 0
        restarts = self._mixture.stopping_strategy == "all_exhausted"
        have_ended = all if restarts else any
        while done < n and not have_ended(self._passes):
            number = sum(self._taken) + 1
            behind = [weight * number - taken for weight, taken in zip(self._weights, self._taken, strict=True)]
            k = behind.index(max(behind))
            part = self._parts[k]
            window = part.take(1)  # (1, max_length + 1)
            if len(window):
                rows[done, :-1], rows[done, -1] = window[0], k
                self._taken[k] += 1
                done += 1
                continue
            if restarts and not self._taken[k]:
                raise ValueError(
                    f"Corpus {k} has no window in one of the streams, so it cannot start again; leave it out."
                )
            self._passes[k] += 1
            if not have_ended(self._passes):
                self._read = [self._read[0] + part.n_documents, self._read[1] + part.n_tokens]
                self._parts[k] = self._open(k, None)
        return rows[:done]

    def state(self) -> dict[str, Any]:
        """Return what is needed to resume from here."""
        return {
            "parts": [part.state() for part in self._parts],
            "taken": list(self._taken),
            "passes": list(self._passes),
            "documents": self._read[0],
            "tokens": self._read[1],
        }

    @property
    def n_documents(self) -> int:
        """Documents read so far that have a token."""
        return self._read[0] + sum(part.n_documents for part in self._parts)

    @property
    def n_tokens(self) -> int:
        """Their tokens, without separators."""
        return self._read[1] + sum(part.n_tokens for part in self._parts)


def check_weights(weights: Any, datasets: Any) -> list[float]:
    """Return the weights of several corpora as plain numbers."""
    if not isinstance(datasets, (list, tuple)) or len(datasets) != len(weights):
        found = f"{len(datasets)} in a {type(datasets).__name__}" if hasattr(datasets, "__len__") else "no list"
        raise ValueError(f"`weights` has {len(weights)} numbers and needs a list of as many corpora, got {found}.")
    numbers = [float(weight) for weight in weights]
    if not numbers or not all(number > 0 and math.isfinite(number) for number in numbers):
        raise ValueError(f"`weights` must be positive numbers, got {list(weights)}. Leave out what has no weight.")
    return numbers
