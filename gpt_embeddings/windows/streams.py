"""Streams: fixed parts of a corpus, each read in order from a cursor that can be saved and found again.

A corpus is dealt into a fixed number of streams, whatever the number of worker processes, so that neither the order of
work nor a saved cursor depends on who does it. A cursor is the position of a block of rows; what was read
beyond it is read again, never saved. Left out: where files come from (`sources`), and what a window is (`windows`).
"""

import atexit
import weakref
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.exceptions import ColumnError, UnreadableFileError
from gpt_embeddings.text.columns import take_column
from gpt_embeddings.text.encoding import bad_text, encode_flat
from gpt_embeddings.text.sources import file_being_read, read_blocks
from gpt_embeddings.windows.packing import DocumentPacker, Ids, StreamPacker, WindowSpec


BLOCK_ROWS = 1024  # rows read at a time
PIECE_BYTES = 2**20  # text tokenized at a time, beyond a single document; bounds memory
CHECKED_IDS = 4096  # ids of the first document at a cursor that tell whether the corpus is still the same

# What the readers behind `datasets` raise over a broken file.
READING_ERRORS = (OSError, EOFError, ValueError, pa.ArrowException, zlib.error)

SourceCursor: TypeAlias = dict[str, Any]
Pieces: TypeAlias = Generator[tuple[SourceCursor, list[str]], None, None]

# Closed before the program ends: what a reader of `datasets` names in its `except` is gone when Python closes it.
_readers: weakref.WeakSet[Pieces] = weakref.WeakSet()


class Documents(Protocol):
    """Text of a stream."""

    def read(self, cursor: SourceCursor | None) -> Pieces:
        """Give pieces of consecutive documents, each with the cursor where it begins; None is the beginning."""


class RowDocuments:
    """Rows `start` to `stop` of a corpus with random access, in the order of a seed if there is one."""

    def __init__(
        self, corpus: Dataset | Sequence[str], column: str, start: int, stop: int, seed: tuple[int, int] | None
    ) -> None:
        self._corpus, self._column = corpus, column
        self._start, self._stop, self._seed = start, stop, seed

    def read(self, cursor: SourceCursor | None) -> Pieces:
        """Give pieces; a cursor is `{"row": row}`."""
        order = None if self._seed is None else shuffled(len(self._corpus), *self._seed)[self._start : self._stop]
        first = cursor["row"] if cursor else 0
        table = self._corpus.with_format("arrow") if isinstance(self._corpus, Dataset) else None
        for row in range(first, self._stop - self._start, BLOCK_ROWS):
            rows = slice(self._start + row, min(self._start + row + BLOCK_ROWS, self._stop))
            chosen = None if order is None else order[row : row + BLOCK_ROWS]
            if table is not None:
                texts = take_column(table[rows if chosen is None else chosen], self._column)
            else:
                block = self._corpus[rows] if chosen is None else [self._corpus[i] for i in chosen]
                texts = _as_column(list(block), rows.start if chosen is None else None)
            for skip, piece in _pieces(texts, f"Row {rows.start} or one of the next {BLOCK_ROWS}"):
                yield {"row": row + skip}, piece


class IteratedDocuments:
    """Strings of an iterable without random access; a cursor is found again by reading up to it."""

    def __init__(self, corpus: Iterable[str]) -> None:
        self._corpus = corpus

    def read(self, cursor: SourceCursor | None) -> Pieces:
        """Give pieces; a cursor is `{"row": row}`."""
        row = cursor["row"] if cursor else 0
        texts = islice(iter(self._corpus), row, None)
        while block := list(islice(texts, BLOCK_ROWS)):
            for skip, piece in _pieces(_as_column(block, row), "A text"):
                yield {"row": row + skip}, piece
            row += len(block)


class ShardDocuments:
    """Shards of a streaming dataset, one after the other.

    Args:
        corpus: The dataset.
        column: Its column of texts.
        shards: Numbers of the shards; None reads the dataset as it is.
        node: Rank and world size of a process that keeps every `world_size`-th row; None keeps all.
    """

    def __init__(
        self, corpus: IterableDataset, column: str, shards: Sequence[int] | None, node: tuple[int, int] | None
    ) -> None:
        self._corpus, self._column, self._shards, self._node = corpus, column, shards, node

    def read(self, cursor: SourceCursor | None) -> Pieces:
        """Give pieces; a cursor is `{"shard": number, "state": state of the shard or None, "row": rows after it}`."""
        shards: Sequence[int | None] = [None] if self._shards is None else self._shards
        for shard in shards[shards.index(cursor["shard"]) if cursor else 0 :]:
            yield from self._read_shard(shard, cursor)
            cursor = None

    def _read_shard(self, shard: int | None, cursor: SourceCursor | None) -> Pieces:
        dataset = self._corpus if shard is None else self._corpus.shard(self._corpus.num_shards, shard)
        if self._node is not None:
            dataset = split_dataset_by_node(dataset, *self._node, strategy="examples")
        dataset = dataset.with_format("arrow")
        state, row = (cursor["state"], cursor["row"]) if cursor else (None, 0)
        if state is not None:
            dataset.load_state_dict(state)
        blocks = read_blocks(dataset, BLOCK_ROWS, [self._column])
        while True:
            # Only reading is tried: nothing that goes wrong where the text is used is a fault of the file.
            try:
                block = next(blocks, None)
            except (ColumnError, UnreadableFileError):
                raise  # it says which file and why
            except READING_ERRORS as error:
                raise _unreadable(dataset, shard, error) from error
            if block is None:
                return
            pieces = _pieces(block[self._column].slice(row), "a row")
            while True:
                try:
                    found = next(pieces, None)
                except ValueError as error:
                    raise _unreadable(dataset, shard, error) from error
                if found is None:
                    break
                yield {"shard": shard, "state": state, "row": row + found[0]}, found[1]
            state, row = dataset.state_dict(), 0


def _unreadable(dataset: IterableDataset, shard: int | None, error: Exception) -> ValueError:
    name = file_being_read(dataset) or f"Shard {shard or 0} of the dataset"
    return ValueError(f"{name} could not be read: {error}")


class TokenStream:
    """The windows of one stream, from its beginning or from a saved state.

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
        self._pieces = documents.read(state["source"] if state and not self._ended else None)
        _readers.add(self._pieces)
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
        """Return what is needed to go on from here: small, JSON-serialisable; None at the beginning."""
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


@atexit.register
def _close_readers() -> None:
    for reader in list(_readers):
        with suppress(ValueError):  # a thread is reading, which the end of the program stops
            reader.close()


def partition(
    corpus: Dataset | IterableDataset | Iterable[str],
    column: str,
    num_streams: int,
    rank: int,
    world_size: int,
    seed: tuple[int, int] | None,
) -> list[Documents]:
    """Deal the part of a corpus that belongs to a rank into streams.

    Rows of a corpus with random access go to streams in contiguous parts, of the shuffled order if there is a seed.
    Shards of a streaming dataset are dealt out in turn; where the number of shards is no multiple of `world_size`,
    each rank reads every shard and keeps every `world_size`-th row.

    Args:
        corpus: The whole corpus.
        column: Its column of texts.
        num_streams: Streams of this rank.
        rank: This process.
        world_size: All processes.
        seed: Seed and epoch of the shuffle, or None for the order of the corpus.

    Raises:
        ValueError: There are fewer rows or shards than streams, or the corpus cannot be shuffled or split.
    """
    if isinstance(corpus, IterableDataset):
        return _partition_shards(corpus, column, num_streams, rank, world_size, seed)
    if isinstance(corpus, Dataset):
        corpus = corpus.select_columns([column])
        rows: Dataset | Sequence[str] = split_dataset_by_node(corpus, rank, world_size) if world_size > 1 else corpus
    elif isinstance(corpus, Sequence):
        begin, end = (len(corpus) * i // world_size for i in (rank, rank + 1))
        rows = corpus if world_size == 1 else corpus[begin:end]
    else:
        if num_streams > 1 or world_size > 1 or seed is not None:
            raise ValueError(
                f"A {type(corpus).__name__} can only be read from its beginning to its end: it cannot be shuffled, "
                "nor dealt to streams or ranks. Give a list or a `datasets.Dataset`."
            )
        return [IteratedDocuments(corpus)]
    if num_streams > max(1, len(rows)):
        raise ValueError(
            f"`num_streams` is {num_streams}, more than the {len(rows)} rows of this rank; give at most that."
        )
    bounds = [len(rows) * i // num_streams for i in range(num_streams + 1)]
    return [RowDocuments(rows, column, bounds[i], bounds[i + 1], seed) for i in range(num_streams)]


def _partition_shards(
    corpus: IterableDataset,
    column: str,
    num_streams: int,
    rank: int,
    world_size: int,
    seed: tuple[int, int] | None,
) -> list[Documents]:
    by_shards = corpus.num_shards % world_size == 0
    node = None if by_shards else (rank, world_size)
    if num_streams == world_size == 1 and seed is None:
        return [ShardDocuments(corpus, column, None, None)]
    own = list(range(corpus.num_shards))
    if seed is not None:
        own = [int(i) for i in shuffled(len(own), *seed)]
    if by_shards:
        own = own[rank::world_size]
    if num_streams > len(own):
        raise ValueError(
            f"`num_streams` is {num_streams}, more than the {len(own)} shards (files) of the dataset that this rank "
            "reads. Give at most that, or split the dataset further with `dataset.reshard()` or into more files."
        )
    return [ShardDocuments(corpus, column, own[stream::num_streams], node) for stream in range(num_streams)]


@lru_cache(maxsize=1)
def shuffled(size: int, seed: int, epoch: int) -> npt.NDArray[Any]:
    """Return the numbers below `size` in the order of a seed and an epoch; four bytes each below 2^32."""
    order = np.arange(size, dtype=np.uint32 if size < 2**32 else np.uint64)
    np.random.default_rng([seed, epoch]).shuffle(order)
    return order


def other_text() -> ValueError:
    """Say that the text at a saved cursor has changed."""
    return ValueError(
        "The dataset has different text at the saved position than when the state was saved. Resume with the same "
        "documents in the same order, or start again."
    )


def _as_column(texts: list[Any], first: int | None) -> pa.Array:
    """Turn strings into an Arrow array; `first` is the number of the first one, None where it is not known."""
    try:
        return pa.array(texts, pa.large_string())
    except (pa.ArrowException, UnicodeEncodeError):
        given = ["" if text is None else text for text in texts]
        raise bad_text(given, lambda i: "A text" if first is None else f"Text {first + i}") from None


def _pieces(texts: pa.Array | pa.ChunkedArray, name: str) -> Iterator[tuple[int, list[str]]]:
    """Split a block of texts where `PIECE_BYTES` are passed; a null counts as an empty text."""
    sizes = np.cumsum(pc.fill_null(pc.binary_length(texts), 0).to_numpy())
    start = 0
    while start < len(texts):
        passed = sizes[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(sizes, passed + PIECE_BYTES, side="right")))
        try:
            piece = texts.slice(start, stop - start).to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not valid UTF-8 ({error}).") from error
        yield start, [text or "" for text in piece]
        start = stop
