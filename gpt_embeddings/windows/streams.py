"""A stream: the windows of one part of a corpus, in order, from its beginning or from a saved state."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.progress import Bar
from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.tokenizer import vocabulary_rows
from gpt_embeddings.windows.documents import Documents, shuffled
from gpt_embeddings.windows.packing import Ids, Packer, Sequences, WindowSpec, add_separators, pad_windows


Stream: TypeAlias = "TokenStream | BufferedStream | MixedStream"
Stopping: TypeAlias = Literal["first_exhausted", "all_exhausted"]

CHECKED_IDS = 4096  # ids of the first document at a saved position that show whether the corpus is still the same
OTHER_TEXT = (
    "The dataset has different text at the saved position than when the state was saved. Resume with the same "
    "documents in the same order, or start again."
)
SILENT_SECONDS = 3  # of tokenizing, before a progress bar shows


class TokenStream:
    """The windows of one stream, from a state or, with None, from the beginning."""

    def __init__(
        self,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        spec: WindowSpec,
        state: Mapping[str, Any] | None,
    ) -> None:
        self._state = state
        self._expected = state["check"] if state and not state.get("done") else None
        self._ended = bool(state and state.get("done"))
        self._final = False
        self.n_documents: int = state["documents"] if state else 0  # read so far that have a token
        self.n_tokens: int = state["tokens"] if state else 0  # theirs, without separators
        self._packer = Packer(spec, state["position"] if state and not self._ended else None)
        self._pieces = documents(state["source"] if state and not self._ended else None)
        self._tokenizer, self._empty = tokenizer, np.empty((0, spec.max_length + 1), np.int32)

    def take(self, n: int) -> Ids:
        """Return the next `n` windows, `(n, max_length + 1)`; fewer only at the end of the stream."""
        if self._ended:
            return self._empty
        while (windows := self._packer.take(n, self._final)) is None:
            piece = next(self._pieces, None)
            if piece is None:
                self._final = True
                self._check(None)
                continue
            source, texts = piece
            input_ids, offsets = encode_flat(texts, self._tokenizer, add_special_tokens=False)
            lengths = np.diff(offsets)
            if not len(input_ids):
                continue
            first = int(np.argmax(lengths > 0))
            checked = input_ids[offsets[first] : min(offsets[first + 1], offsets[first] + CHECKED_IDS)]
            check = zlib.crc32(np.ascontiguousarray(checked, "<i4").tobytes())
            self._check(check)
            cursor = {"source": source, "documents": self.n_documents, "tokens": self.n_tokens, "check": check}
            self._packer.push(input_ids, offsets, cursor)
            self.n_documents += int(np.count_nonzero(lengths))
            self.n_tokens += len(input_ids)
        self._ended = self._packer.ended
        return windows

    def state(self) -> dict[str, Any] | None:
        """Return what is needed to resume from here: small, JSON-serializable; None at the beginning."""
        if self._ended:
            return {"done": True, "documents": self.n_documents, "tokens": self.n_tokens}
        cursor = self._packer.cursor()
        if cursor is None:
            return None if self._state is None else dict(self._state)
        return {**cursor, "position": self._packer.position}

    def _check(self, found: int | None) -> None:
        if self._expected is not None and found != self._expected:
            raise ValueError(OTHER_TEXT)
        self._expected = None


class TokenBuffer:
    """A whole corpus as token ids, so that its windows can be taken in any order (`shuffle="windows"`).

    Two bytes a token if the vocabulary fits. Shuffling what `to_dataset()` keeps in memory would do, but overlapping
    windows are stored one by one there: with a stride of 1, `max_length` times as much.
    """

    def __init__(self, documents: Documents, tokenizer: PreTrainedTokenizerBase, spec: WindowSpec) -> None:
        dtype = np.uint16 if max(vocabulary_rows(tokenizer), spec.separator + 1) <= 2**16 else np.int32
        parts, ends, size = [np.empty(0, dtype)], [np.zeros(1, np.int64)], 0
        self.n_tokens = 0  # without separators
        with Bar(desc="Tokenizing", unit=" tokens", unit_scale=True, delay=SILENT_SECONDS, leave=False) as bar:
            for _, texts in documents(None):
                input_ids, offsets = encode_flat(texts, tokenizer, add_special_tokens=False)
                tokens, part_ends = add_separators(input_ids, offsets, spec)
                parts.append(tokens.astype(dtype))
                ends.append(part_ends + size)
                size += len(tokens)
                self.n_tokens += len(input_ids)
                bar.update(len(input_ids))
        bounds = np.concatenate(ends)
        self.n_documents = len(bounds) - 1  # that have a token
        if spec.packing == "stream":  # one sequence, after the separator before the first document
            bounds = np.array([1, size])
        self.sequences, self.length = Sequences(spec, bounds), spec.max_length + 1
        self.tokens = np.concatenate([*parts, np.zeros(self.length, dtype)])
        self.checksum = zlib.crc32(np.ascontiguousarray(self.tokens, self.tokens.dtype.newbyteorder("<")).data)


class BufferedStream:
    """Windows of a [`TokenBuffer`] in the order of a seed and an epoch; used like [`TokenStream`].

    `part` is the number of the stream and how many there are, over all ranks. `counts` is for one stream of a rank,
    whose documents and tokens are those of the whole corpus.
    """

    def __init__(
        self,
        buffer: TokenBuffer,
        order: tuple[int, int],
        part: tuple[int, int],
        state: Mapping[str, Any] | None,
        counts: bool,
    ) -> None:
        if state is not None and state.get("check") != buffer.checksum:
            raise ValueError(OTHER_TEXT)
        n_windows = len(buffer.sequences)
        begin, end = (n_windows * i // part[1] for i in (part[0], part[0] + 1))
        # Not in the buffer, which workers get: a pickle of views has each token `max_length` times.
        self._buffer, self._views = buffer, sliding_window_view(buffer.tokens, buffer.length)
        self._numbers = shuffled(n_windows, *order)[begin:end]
        self._taken: int = state["taken"] if state else 0
        self.n_documents, self.n_tokens = (buffer.n_documents, buffer.n_tokens) if counts else (0, 0)

    def take(self, n: int) -> Ids:
        """Return the next `n` windows, `(n, max_length + 1)`; fewer only at the end of the stream."""
        numbers = self._numbers[self._taken : self._taken + n]
        self._taken += len(numbers)
        begins, lengths = self._buffer.sequences.find(numbers)
        return pad_windows(self._views[begins], lengths)

    def state(self) -> dict[str, Any]:
        """Return what is needed to resume from here."""
        return {"taken": self._taken, "check": self._buffer.checksum}


class MixedStream:
    """Windows of several streams by weight, with the names of `datasets.interleave_datasets`.

    `interleave_datasets(probabilities=...)` does not do: it mixes rows, so the shares are of documents, not of tokens,
    and windows would run across corpora; and it mixes each shard by itself, so the rows depend on the number of
    streams. Here nothing is random: the next window comes from the corpus that is furthest behind its share. Each row
    ends with the number of its corpus.
    """

    def __init__(
        self,
        open_part: "Callable[[int, int, Any], Stream]",
        weights: Sequence[float],
        stopping_strategy: Stopping,
        max_length: int,
        state: Mapping[str, Any] | None,
    ) -> None:
        n = len(weights)
        state = state or {"parts": [None] * n, "taken": [0] * n, "passes": [0] * n, "documents": 0, "tokens": 0}
        self._open, self._weights = open_part, [weight / math.fsum(weights) for weight in weights]
        self._restarts, self._length = stopping_strategy == "all_exhausted", max_length
        self._taken, self._passes = list(state["taken"]), list(state["passes"])
        self._read = [state["documents"], state["tokens"]]  # in passes that are over
        self._parts = [open_part(k, self._passes[k], state["parts"][k]) for k in range(n)]

    def take(self, n: int) -> Ids:
        """Return the next `n` windows, `(n, max_length + 2)`; fewer only at the end of the stream."""
        rows, done = np.empty((n, self._length + 2), np.int32), 0
        have_ended = all if self._restarts else any
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
            if self._restarts and not self._taken[k]:
                raise ValueError(
                    f"Corpus {k} has no window in one of the streams, so it cannot start again; leave it out."
                )
            self._passes[k] += 1
            if not have_ended(self._passes):
                self._read = [self._read[0] + part.n_documents, self._read[1] + part.n_tokens]
                self._parts[k] = self._open(k, self._passes[k], None)
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
