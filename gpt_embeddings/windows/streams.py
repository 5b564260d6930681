"""A stream: the windows of one part of a corpus, in order, from its beginning or from a saved state.

The number of streams is fixed by the user, not by the number of worker processes, so neither the order nor a saved
state depends on who does the work.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.progress import Bar
from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.tokenizer import vocabulary_rows
from gpt_embeddings.windows.documents import Documents, other_text, shuffled
from gpt_embeddings.windows.packing import Ids, Packer, Sequences, WindowSpec, add_separators, pad_windows


CHECKED_IDS = 4096  # ids of the first document at a saved position that show whether the corpus is still the same
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
            self._read()
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

    def _read(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            self._final = True
            self._check(None)
            return
        source, texts = piece
        input_ids, offsets = encode_flat(texts, self._tokenizer, add_special_tokens=False)
        lengths = np.diff(offsets)
        if not len(input_ids):
            return
        first = int(np.argmax(lengths > 0))
        checked = input_ids[offsets[first] : min(offsets[first + 1], offsets[first] + CHECKED_IDS)]
        check = zlib.crc32(np.ascontiguousarray(checked, "<i4").tobytes())
        self._check(check)
        cursor = {"source": source, "documents": self.n_documents, "tokens": self.n_tokens, "check": check}
        self._packer.push(input_ids, offsets, cursor)
        self.n_documents += int(np.count_nonzero(lengths))
        self.n_tokens += len(input_ids)

    def _check(self, found: int | None) -> None:
        if self._expected is not None and found != self._expected:
            raise other_text()
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
        self.sequences = Sequences(spec, bounds)
        tokens = np.concatenate([*parts, np.zeros(spec.max_length + 1, dtype)])
        self.views = sliding_window_view(tokens, spec.max_length + 1)
        self.checksum = zlib.crc32(np.ascontiguousarray(tokens, tokens.dtype.newbyteorder("<")).data)


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
            raise other_text()
        n_windows = len(buffer.sequences)
        begin, end = (n_windows * i // part[1] for i in (part[0], part[0] + 1))
        self._buffer = buffer
        self._numbers = shuffled(n_windows, *order)[begin:end]
        self._taken: int = state["taken"] if state else 0
        self.n_documents, self.n_tokens = (buffer.n_documents, buffer.n_tokens) if counts else (0, 0)

    def take(self, n: int) -> Ids:
        """Return the next `n` windows, `(n, max_length + 1)`; fewer only at the end of the stream."""
        numbers = self._numbers[self._taken : self._taken + n]
        self._taken += len(numbers)
        begins, lengths = self._buffer.sequences.find(numbers)
        return pad_windows(self._buffer.views[begins], lengths)

    def state(self) -> dict[str, Any]:
        """Return what is needed to resume from here."""
        return {"taken": self._taken, "check": self._buffer.checksum}
