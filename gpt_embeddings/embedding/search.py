"""Search: which rows of an embedded dataset are nearest to a question, by cosine and exactly.

The question is embedded by the model that made the vectors, and by no other: what is compared is their digest. The
vectors are read in blocks from where they lie, so that memory stays flat. Left out: an index that is kept, for which
there are `Dataset.add_faiss_index` and the vector stores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_from_disk

from gpt_embeddings.analysis.similarity import Floats, Rows, top_k, unit_rows
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.embedding.embedder import Embedder
from gpt_embeddings.embedding.provenance import Provenance, read_provenance
from gpt_embeddings.text.tokenizer import tokenizer_digest


BLOCK_ROWS = 2**16
BLOCK_SCORES = 2**24  # 64 MiB in float32
NUMPY_ROWS = 1_000_000  # more are searched by faiss, which sorts out the nearest while it multiplies


@dataclass(frozen=True)
class Hit:
    """A row that was found."""

    row: int
    """Its number in the dataset, from 0."""

    score: float
    """Cosine of its vector and the question's: 1 for the same direction."""

    values: dict[str, Any]
    """Its columns, the vector left out."""


def search(
    place: str | Path | Dataset, queries: Sequence[str], *, embedder: Embedder | None = None, k: int = 5
) -> list[list[Hit]]:
    """Find the rows that are nearest to each question.

    Args:
        place: What `embed_dataset` or `gpt-embeddings embed` wrote: a folder, or a Parquet file. Or a dataset.
        queries: The questions.
        embedder: What embeds them; None loads the model that the vectors at `place` are from. A dataset needs one.
        k: How many rows are wanted for each, if there are as many. Rows of empty texts are never among them.

    Returns:
        For each question its rows, the nearest first; of equally near ones the earlier first.

    Raises:
        FileNotFoundError: There is no such file or folder, or the model is not there any more.
        ImportError: There are more than a million rows, and the extra `search` is not installed.
        ValueError: The vectors are from another model, or not of a kind that can be searched; a question has no token.
    """
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    if isinstance(place, Dataset):
        if embedder is None:
            raise ValueError("A dataset needs an `embedder`: the one that made its vectors.")
        vectors = _Vectors(place, embedder.output_column)
    else:
        provenance = read_provenance(place)
        vectors = _Vectors(_open(Path(place)), provenance.options["output_column"])
        embedder = open_embedder(provenance) if embedder is None else embedder
        _check_same_model(embedder, provenance)
    wanted = _embed_queries(queries, embedder)
    scores, rows = find_nearest(vectors, wanted, k)
    found = [row[np.isfinite(score)] for row, score in zip(rows, scores, strict=True)]
    values = vectors.take(np.unique(np.concatenate(found))) if len(found) else {}
    return [
        [Hit(int(row), float(score), values[int(row)]) for row, score in zip(some, scores[i], strict=False)]
        for i, some in enumerate(found)
    ]


def open_embedder(provenance: Provenance, model: str | None = None, tokenizer: str | None = None) -> Embedder:
    """Load the model that vectors are from, to embed questions.

    Args:
        provenance: What the vectors are from.
        model: Folder or Hub name, where the model has another name by now; None takes the one that is given there.
        tokenizer: Folder or Hub name; None takes the model's own where it has one, else GPT-2's.

    Raises:
        FileNotFoundError: The model is not there any more.
        ValueError: It has no name, is broken, or is another one.
    """
    name = model or provenance.model
    if name is None:
        raise ValueError(
            f"The vectors are from a model that was not saved (weights {_short(provenance.weights)}). If it has been "
            "since, give its name; else embed again with a saved one."
        )
    try:
        pair = load_model_and_tokenizer(name, tokenizer)
    except OSError as error:
        raise FileNotFoundError(
            f"The vectors are from the model {name!r} (weights {_short(provenance.weights)}), which is not there any "
            f"more ({error}) Give the name that it has now, or embed again."
        ) from error
    embedder = Embedder(*pair, **provenance.options)
    _check_same_model(embedder, provenance, name)
    return embedder


def _check_same_model(embedder: Embedder, provenance: Provenance, name: str | None = None) -> None:
    for what, found, wanted in (
        ("weights", embedder.weights_digest, provenance.weights),
        ("tokenizer", tokenizer_digest(embedder.tokenizer), provenance.tokenizer),
    ):
        if found != wanted:
            raise ValueError(
                f"The vectors are from the model {provenance.model or '(not saved)'!r} with the {what} "
                f"{_short(wanted)}; {name or 'the embedder'!r} has the {what} {_short(found)}. Vectors of two models "
                "cannot be compared: give the one that made them, or embed again."
            )


def _embed_queries(queries: Sequence[str], embedder: Embedder) -> Floats:
    """Return the questions' vectors, float32 of shape `(query, n_embd)`."""
    if isinstance(queries, str):
        raise TypeError("`queries` must be a list of texts, got one text.")
    if embedder.pooling == "none":
        raise ValueError("The dataset holds a vector for each token; search needs one for each text.")
    vectors = np.asarray(embedder.encode(list(queries)), np.float32)
    for query, vector in zip(queries, vectors, strict=True):
        if not vector.any():
            raise ValueError(f"The question {query!r} has no token to search by.")
    return vectors


class _Vectors:
    """The rows of a dataset: its vectors in blocks, and the other columns of a few rows.

    Args:
        source: A dataset in memory or mapped, or Parquet files.
        column: Where the vectors are.
    """

    def __init__(self, source: "Dataset | pyarrow.dataset.Dataset", column: str) -> None:
        names = source.column_names if isinstance(source, Dataset) else source.schema.names
        if column not in names:
            raise ValueError(f"There is no column {column!r}; the columns are {', '.join(names)}.")
        self.source, self.column = source, column
        self.others = [name for name in names if name != column]

    def __len__(self) -> int:
        return len(self.source) if isinstance(self.source, Dataset) else self.source.count_rows()

    def blocks(self, size: int) -> Iterator[Floats]:
        """Give the vectors from the first to the last, float32 of shape `(row, dimension)`."""
        if isinstance(self.source, Dataset):
            only = self.source.select_columns([self.column]).with_format("arrow")
            for table in only.iter(batch_size=size):
                yield _to_matrix(table[self.column].combine_chunks(), self.column)
        else:
            for path in self.source.files:
                for batch in pq.ParquetFile(path).iter_batches(size, columns=[self.column]):
                    yield _to_matrix(batch.column(0), self.column)

    def take(self, rows: Rows) -> dict[int, dict[str, Any]]:
        """Return the other columns of some rows, by row."""
        if isinstance(self.source, Dataset):
            taken = self.source.select_columns(self.others).with_format(None).select(rows).to_list()
        else:
            taken = self.source.take(pa.array(rows), columns=self.others).to_pylist()
        return dict(zip(rows.tolist(), taken, strict=True))


def find_nearest(vectors: _Vectors, wanted: Floats, k: int) -> tuple[Floats, Rows]:
    """Find the k rows of the largest cosine, block by block.

    Args:
        vectors: The rows.
        wanted: Shape `(query, n_embd)`; dimensions past those of the rows are left out.
        k: How many.

    Returns:
        Cosines and rows, both of shape `(query, k)`, the largest cosine first; where there are fewer rows, cosines of
        minus infinity.
    """
    by_faiss = len(vectors) > NUMPY_ROWS
    if by_faiss and find_spec("faiss") is None:
        raise ImportError(
            f"{len(vectors):,} rows are searched by faiss, which is not here: `pip install 'gpt-embeddings[search]'`."
        )
    scores = np.full((len(wanted), k), -np.inf, np.float32)
    rows = np.zeros((len(wanted), k), np.int64)
    first = 0
    for block in vectors.blocks(max(1, min(BLOCK_ROWS, BLOCK_SCORES // max(1, len(wanted))))):
        units = unit_rows(block)
        good = np.asarray(units.any(axis=1))  # an empty text has no direction
        queries = unit_rows(wanted[:, : block.shape[1]])
        some_scores, some_rows = (_best_by_faiss if by_faiss else _best)(queries, units, good, k)
        scores = np.concatenate([scores, some_scores], axis=1)
        rows = np.concatenate([rows, some_rows + first], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        first += len(block)
    return scores, rows


def _best(queries: Floats, units: Floats, good: npt.NDArray[np.bool_], k: int) -> tuple[Floats, Rows]:
    """Return the k best of a block, those of equal scores from the first row on."""
    return top_k(np.where(good, queries @ units.T, np.float32(-np.inf)), k)


def _best_by_faiss(queries: Floats, units: Floats, good: npt.NDArray[np.bool_], k: int) -> tuple[Floats, Rows]:
    """Return the k best of a block."""
    import faiss

    scores, rows = faiss.knn(queries, units, min(k, len(units)), metric=faiss.METRIC_INNER_PRODUCT)
    return np.where(good[rows], scores, np.float32(-np.inf)), rows.astype(np.int64)


def _to_matrix(column: pa.Array, name: str) -> Floats:
    """Return the vectors of a column, over its own memory where it is float32."""
    values = column.flatten()
    if not pa.types.is_floating(values.type):
        raise ValueError(f"Column {name!r} holds {column.type}; search needs vectors of float32 or float16.")
    matrix = values.to_numpy(zero_copy_only=True).astype(np.float32, copy=False)
    return matrix.reshape(len(column), -1)


def _open(place: Path) -> "Dataset | pyarrow.dataset.Dataset":
    files = [place] if place.is_file() else sorted(place.glob("*.parquet"))
    if files:
        return pyarrow.dataset.dataset([str(file) for file in files], format="parquet")
    dataset = load_from_disk(str(place))
    if isinstance(dataset, DatasetDict):
        splits = ", ".join(dataset)
        raise ValueError(
            f"{str(place)!r} holds the splits {splits}; name one, such as {str(place / next(iter(dataset)))!r}."
        )
    return dataset


def _short(digest: str) -> str:
    return digest[:12]
