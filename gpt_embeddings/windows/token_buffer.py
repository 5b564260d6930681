"""Text that is held in memory as token ids, so that its windows can be taken in any order.

A corpus with random access is tokenized once, two bytes a token where the vocabulary fits; a window is a number, and
an epoch a permutation of the numbers, of which each stream takes a part. Left out: text that streams (`streams`).
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
from gpt_embeddings.windows.packing import BufferedWindows, Ids, WindowSpec, separated
from gpt_embeddings.windows.streams import Documents, other_text, shuffled


SILENT_SECONDS = 3  # of tokenizing, before a bar shows


@dataclass(frozen=True, kw_only=True)
class TokenBuffer:
    """The tokens of a corpus and the windows that they have."""

    windows: BufferedWindows
    """The windows of the whole corpus."""
    n_documents: int
    """Documents that have a token."""
    n_tokens: int
    """Their tokens, without separators."""
    check: int
    """A checksum of all of it."""


class BufferedStream:
    """A part of the windows of a [`TokenBuffer`] in the order of an epoch; used as a `streams.TokenStream` is.

    Args:
        text: The text.
        order: Seed and epoch.
        part: The number of the part, and how many parts there are.
        state: What [`BufferedStream.state`] returned, or None for the beginning.

    Raises:
        ValueError: The state is of another text.
    """

    def __init__(
        self, text: TokenBuffer, order: tuple[int, int], part: tuple[int, int], state: Mapping[str, Any] | None
    ) -> None:
        if state is not None and state.get("check") != text.check:
            raise other_text()
        begin, end = (len(text.windows) * i // part[1] for i in (part[0], part[0] + 1))
        self._text, self._numbers = text, shuffled(len(text.windows), *order)[begin:end]
        self._taken: int = state["taken"] if state else 0

    def take(self, n: int) -> Ids:
        """Return the next `n` windows, `(n, max_length + 1)`; fewer only at the end of the stream."""
        numbers = self._numbers[self._taken : self._taken + n]
        self._taken += len(numbers)
        return self._text.windows.take(numbers)

    def state(self) -> dict[str, Any]:
        """Return what is needed to go on from here."""
        return {"taken": self._taken, "check": self._text.check}


def fill_buffer(documents: Documents, tokenizer: PreTrainedTokenizerBase, spec: WindowSpec) -> TokenBuffer:
    """Tokenize all documents and keep their ids."""
    dtype = np.uint16 if max(vocabulary_rows(tokenizer), spec.separator + 1) <= 2**16 else np.int32
    stream = spec.packing == "stream"
    parts, ends, n_documents, n_tokens, size = [], [], 0, 0, 0
    with Bar(desc="Tokenizing", unit=" tokens", unit_scale=True, delay=SILENT_SECONDS, leave=False) as bar:
        for _, texts in documents.read(None):
            input_ids, offsets = encode_flat(texts, tokenizer, add_special_tokens=False)
            filled = np.diff(offsets) > 0
            if not filled.any():
                continue
            places = (offsets[:-1] if stream else offsets[1:])[filled]
            tokens = separated(input_ids, places, spec.separator)
            if stream and not n_documents:
                tokens = tokens[1:]  # a separator stands between documents, so none before the first
            parts.append(tokens.astype(dtype))
            if not stream:
                ends.append(size + places + np.arange(1, len(places) + 1))
            size, n_documents, n_tokens = size + len(tokens), n_documents + len(places), n_tokens + len(input_ids)
            bar.update(len(input_ids))
    whole = np.concatenate(parts) if parts else np.empty(0, dtype)
    borders = np.array([size]) if stream else np.concatenate([np.empty(0, np.int64), *ends])  # of sequences
    return TokenBuffer(
        windows=BufferedWindows(spec, whole, borders),
        n_documents=n_documents,
        n_tokens=n_tokens,
        check=zlib.crc32(np.ascontiguousarray(whole, whole.dtype.newbyteorder("<")).data),
    )
