"""A stream: the windows of one part of a corpus, in order, from its beginning or from a saved state.

The number of streams is fixed by the user, not by the number of worker processes, so neither the order nor a saved
state depends on who does the work. Left out: reading text (`documents`), and corpora in memory (`token_buffer`).
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.windows.documents import Documents, open_documents, other_text
from gpt_embeddings.windows.packing import DocumentPacker, Ids, StreamPacker, WindowSpec


CHECKED_IDS = 4096  # ids of the first document at a saved position that show whether the corpus is still the same


class TokenStream:
    """The windows of one stream.

    Args:
        documents: Where the text comes from.
        tokenizer: A fast tokenizer.
        spec: How to cut.
        state: What [`TokenStream.state`] returned, or None for the beginning.

    Attributes:
        n_documents: Documents read so far that have a token.
        n_tokens: Their tokens, without separators.
    """

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
        self.n_documents: int = state["documents"] if state else 0
        self.n_tokens: int = state["tokens"] if state else 0
        packer = StreamPacker if spec.packing == "stream" else DocumentPacker
        self._packer = packer(spec, state["used"] if state and not self._ended else 0)
        self._pieces = open_documents(documents, state["source"] if state and not self._ended else None)
        self._tokenizer, self._empty = tokenizer, np.empty((0, spec.max_length + 1), np.int32)

    def take(self, n: int) -> Ids:
        """Return the next `n` windows, `(n, max_length + 1)`; fewer only at the end of the stream.

        Raises:
            ValueError: A file could not be read, or the text is not the one that the state was saved with.
        """
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
        block = self._packer.block()
        if block is None:
            return None if self._state is None else dict(self._state)
        return {**block.cursor, "used": block.used}

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
