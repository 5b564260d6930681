"""A corpus in memory as token ids, so that its windows can be taken in any order (`shuffle="windows"`).

The corpus is tokenized once, two bytes a token if the vocabulary fits; a window is a number, and an epoch a
permutation of the numbers, of which each stream takes a part. Shuffling what `to_dataset()` keeps in memory would do,
but overlapping windows are stored one by one there: with a stride of 1, `max_length` times as much.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.progress import Bar
from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.tokenizer import vocabulary_rows
from gpt_embeddings.windows.documents import Documents, other_text, shuffled
from gpt_embeddings.windows.packing import Ids, Sequences, WindowSpec, add_separators


SILENT_SECONDS = 3  # of tokenizing, before a progress bar shows


@dataclass(frozen=True, kw_only=True)
class TokenBuffer:
    """The tokens of a corpus."""

    sequences: Sequences
    """The tokens and their windows."""
    n_documents: int
    """Documents that have a token."""
    n_tokens: int
    """Their tokens, without separators."""
    checksum: int
    """CRC-32 of all tokens."""


class BufferedStream:
    """A part of the windows of a [`TokenBuffer`] in the order of an epoch; used like `streams.TokenStream`.

    Args:
        buffer: The tokens.
        order: Seed and epoch.
        part: The number of the part, and how many parts there are.
        state: What [`BufferedStream.state`] returned, or None for the beginning.

    Raises:
        ValueError: The state was saved with other text.
    """

    def __init__(
        self, buffer: TokenBuffer, order: tuple[int, int], part: tuple[int, int], state: Mapping[str, Any] | None
    ) -> None:
        if state is not None and state.get("check") != buffer.checksum:
            raise other_text()
        n_windows = len(buffer.sequences)
        begin, end = (n_windows * i // part[1] for i in (part[0], part[0] + 1))
        self._buffer, self._numbers = buffer, shuffled(n_windows, *order)[begin:end]
        self._taken: int = state["taken"] if state else 0
        self.n_documents, self.n_tokens = buffer.n_documents, buffer.n_tokens

    def take(self, n: int) -> Ids:
        """Return the next `n` windows, `(n, max_length + 1)`; fewer only at the end of the stream."""
        numbers = self._numbers[self._taken : self._taken + n]
        self._taken += len(numbers)
        return self._buffer.sequences.take(numbers)

    def state(self) -> dict[str, Any]:
        """Return what is needed to resume from here."""
        return {"taken": self._taken, "check": self._buffer.checksum}


def fill_buffer(documents: Documents, tokenizer: PreTrainedTokenizerBase, spec: WindowSpec) -> TokenBuffer:
    """Tokenize all documents and keep their ids."""
    dtype = np.uint16 if max(vocabulary_rows(tokenizer), spec.separator + 1) <= 2**16 else np.int32
    parts, ends, n_tokens, size = [np.empty(0, dtype)], [np.empty(0, np.int64)], 0, 0
    with Bar(desc="Tokenizing", unit=" tokens", unit_scale=True, delay=SILENT_SECONDS, leave=False) as bar:
        for _, texts in documents.read(None):
            input_ids, offsets = encode_flat(texts, tokenizer, add_special_tokens=False)
            tokens, part_ends = add_separators(input_ids, offsets, spec)
            parts.append(tokens.astype(dtype))
            ends.append(part_ends + size)
            size, n_tokens = size + len(tokens), n_tokens + len(input_ids)
            bar.update(len(input_ids))
    tokens, document_ends = np.concatenate(parts), np.concatenate(ends)
    sequence_ends = document_ends
    if spec.packing == "stream":
        tokens = tokens[1:]  # separators stand between documents, so none before the first
        sequence_ends = np.array([len(tokens)])
    return TokenBuffer(
        sequences=Sequences(spec, tokens, sequence_ends),
        n_documents=len(document_ends),
        n_tokens=n_tokens,
        checksum=zlib.crc32(np.ascontiguousarray(tokens, tokens.dtype.newbyteorder("<")).data),
    )
