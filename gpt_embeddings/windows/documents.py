"""The documents of a corpus, partitioned into streams, in pieces that each have the cursor to read them again."""

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node

from gpt_embeddings.text.columns import check_column, take_column
from gpt_embeddings.text.encoding import as_texts, bad_text
from gpt_embeddings.text.sources import read_blocks


BLOCK_ROWS = 1024  # rows read at a time
PIECE_BYTES = 2**20  # text tokenized at a time, unless one document is longer; bounds memory

DocumentCursor: TypeAlias = dict[str, Any]
Pieces: TypeAlias = Generator[tuple[DocumentCursor, list[str]], None, None]
Documents: TypeAlias = Callable[[DocumentCursor | None], Pieces]
"""The documents of one stream: reads pieces, each with the cursor of its beginning; None is the very beginning."""


def read_rows(
    corpus: Dataset | Sequence[str],
    column: str,
    start: int,
    stop: int,
    seed: tuple[int, int] | None,
    cursor: DocumentCursor | None,
) -> Pieces:
    """Read rows `start` to `stop`, in the order of a seed if there is one; a cursor is `{"row": row}`."""
    order = None if seed is None else shuffled(len(corpus), *seed)[start:stop]
    first = cursor["row"] if cursor else 0
    for row in range(first, stop - start, BLOCK_ROWS):
        rows = slice(start + row, min(start + row + BLOCK_ROWS, stop))
        texts = take_texts(corpus, column, rows if order is None else order[row : row + BLOCK_ROWS])
        for skip, piece in _pieces(texts, f"Row {rows.start} or one of the next {BLOCK_ROWS}"):
            yield {"row": row + skip}, piece


def read_iterable(corpus: Iterable[str], cursor: DocumentCursor | None) -> Pieces:
    """Read strings without random access, from the beginning up to a cursor, `{"row": row}`, and on from there."""
    row = cursor["row"] if cursor else 0
    texts = islice(iter(corpus), row, None)
    while block := list(islice(texts, BLOCK_ROWS)):
        for skip, piece in _pieces(as_column(block, row), "A text"):
            yield {"row": row + skip}, piece
        row += len(block)


def read_shards(
    corpus: IterableDataset,
    column: str,
    shards: Sequence[int | None],
    node: tuple[int, int] | None,
    cursor: DocumentCursor | None,
) -> Pieces:
    """Read shards of a stream, one after the other, or with None all of it; of a `node` every `world_size`-th row."""
    for shard in shards[shards.index(cursor["shard"]) if cursor else 0 :]:
        dataset = corpus if shard is None else corpus.shard(corpus.num_shards, shard)
        if node is not None:
            dataset = split_dataset_by_node(dataset, *node)  # by rows, as a shard has no shards to distribute
        dataset = dataset.with_format("arrow")
        state, row = (cursor["state"], cursor["row"]) if cursor else (None, 0)
        cursor = None
        if state is not None:
            dataset.load_state_dict(state)
        for block in read_blocks(dataset, BLOCK_ROWS, [column]):
            for skip, piece in _pieces(block[column].slice(row), f"A row of shard {shard or 0}"):
                yield {"shard": shard, "state": state, "row": row + skip}, piece
            state, row = dataset.state_dict(), 0


def log_texts(documents: Documents, log: list[dict[str, Any]], key: list[int]) -> Documents:
    """Return documents that note in a log how much was read of them; `key` are the epoch and the stream."""

    def read(cursor: DocumentCursor | None) -> Pieces:
        entry: dict[str, Any] = {"key": key, "cursor": cursor, "texts": 0, "checksum": 0}
        log.append(entry)
        for position, texts in documents(cursor):
            entry["texts"] += len(texts)
            entry["checksum"] = zlib.crc32("".join(f"{text}\0" for text in texts).encode(), entry["checksum"])
            yield position, texts

    return read


def has_same_texts(documents: Documents, entry: dict[str, Any]) -> bool:
    """Read again what an entry of the log of [`log_texts`] is about; return whether it is the same text."""
    log: list[dict[str, Any]] = []
    for _ in log_texts(documents, log, entry["key"])(entry["cursor"]):
        if log[0]["texts"] >= entry["texts"]:
            break
    return log == [entry]


@lru_cache(maxsize=1)
def shuffled(size: int, seed: int, epoch: int) -> npt.NDArray[Any]:
    """Return the numbers below `size` in the order of a seed and an epoch; four bytes each below 2^32."""
    order = np.arange(size, dtype=np.uint32 if size < 2**32 else np.uint64)
    np.random.default_rng([seed, epoch]).shuffle(order)
    return order


def take_texts(
    corpus: Dataset | Sequence[str], column: str, rows: slice | npt.NDArray[Any]
) -> pa.Array | pa.ChunkedArray:
    """Return the texts of some rows of a sequence, or of a dataset in Arrow's format or with a transform."""
    if not isinstance(corpus, Dataset):
        shown: Any = {column: corpus[rows] if isinstance(rows, slice) else [corpus[i] for i in rows]}
    elif isinstance(shown := corpus[rows], pa.Table):
        return take_column(shown, column)
    check_column(shown, column)
    return as_column(list(shown[column]), rows.start if isinstance(rows, slice) else None)


def as_column(texts: list[Any], first: int | None) -> pa.Array:
    """Turn strings into an Arrow array; `first` is the number of the first one, None if it is not known."""
    texts = as_texts(texts)
    try:
        return pa.array(texts, pa.large_string())
    except (pa.ArrowException, UnicodeEncodeError):
        given = ["" if text is None else text for text in texts]
        raise bad_text(given, lambda i: "A text" if first is None else f"Text {first + i}") from None


def _pieces(texts: pa.Array | pa.ChunkedArray, name: str) -> Iterator[tuple[int, list[str]]]:
    """Split a block of texts into pieces of about `PIECE_BYTES`; a null counts as an empty text."""
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
