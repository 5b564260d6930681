"""Exact search: the rows of an embedded dataset that are most similar to a query, by cosine.

int8 vectors are compared by the values of their steps and binary ones by their signs, both with the float vector of
the query, which ranks better than rounding the query too.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from datasets import Dataset, DatasetDict, load_from_disk

from gpt_embeddings.analysis.similarity import Floats, Rows, top_k, unit_rows
from gpt_embeddings.embedding.embedder import Embedder
from gpt_embeddings.embedding.quantization import to_float32
from gpt_embeddings.embedding.shards import read_provenance
from gpt_embeddings.text.columns import check_column


logger = logging.getLogger(__name__)

BLOCK_ROWS = 2**16
BLOCK_SCORES = 2**24  # 64 MiB in float32


@dataclass(frozen=True)
class Hit:
    """A row that was found."""

    row: int  # its number in the dataset, from 0
    score: float  # cosine similarity of its vector and the query's
    values: dict[str, Any]  # its columns, without the vector


def search(
    dataset: str | Path | Dataset, queries: Sequence[str], *, embedder: Embedder | None = None, k: int = 5
) -> list[list[Hit]]:
    """Find the rows most similar to each query.

    Args:
        dataset: What `embed_dataset` or `gpt-embeddings embed` wrote: a folder, a Parquet file, or a folder of Parquet
            files of one model. Or a dataset.
        queries: The queries.
        embedder: Embeds the queries; None loads the model that the vectors are from. A dataset, and files that do not
            say their model, need one.
        k: How many rows to find for each query. Rows of missing or blank texts are never among them.

    Returns:
        For each query its rows, the most similar first; of equal ones the earlier first.

    Raises:
        OSError: There is no such file or folder, or the model no longer exists.
        ValueError: The vectors are from another model, or cannot be searched; or a query has no token.
    """
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    if isinstance(queries, str):
        raise TypeError("`queries` must be a list of texts, got one text.")
    if embedder is None:
        if isinstance(dataset, Dataset):
            raise ValueError("A dataset needs an `embedder`: the one that made its vectors.")
        embedder = open_embedder(dataset)
    elif not isinstance(dataset, Dataset):
        if provenance := read_provenance(dataset, missing_ok=True):
            provenance.check_same_model(embedder.provenance(), f"The dataset {str(dataset)!r}", "the embedder")
            embedder = embedder.with_options(**provenance.options)
        else:
            logger.warning(
                f"{str(dataset)!r} does not say which model its vectors are from. The given one is used: if another "
                "made them, the scores mean nothing."
            )
    source = _open(dataset)
    check_column(source.schema.names, embedder.output_column)
    if embedder.pooling == "none":
        raise ValueError("The dataset has a vector for each token; search needs one for each text.")
    wanted: Floats = embedder.with_options(dtype="float32").encode(list(queries))  # (query, dim)
    for query, vector in zip(queries, wanted, strict=True):
        if not query.strip() or not vector.any():
            raise ValueError(f"Cannot search with a zero vector: the query {query!r} has no token.")
    others = [name for name in source.schema.names if name != embedder.output_column]
    n = k
    while True:
        scores, rows = _find(source, embedder, wanted, n)
        found = np.isfinite(scores)
        some = np.unique(rows[found])
        values = {}
        for row, columns in zip(some.tolist(), source.take(pa.array(some), columns=others).to_pylist(), strict=True):
            text = columns.get(embedder.column, "unknown")
            if not isinstance(text, (str, type(None))) or (text and text.strip()):
                values[row] = columns
        hits = [
            [
                Hit(row, score, values[row])
                for row, score in zip(rows[i, found[i]].tolist(), scores[i, found[i]].tolist(), strict=True)
                if row in values
            ][:k]
            for i in range(len(queries))
        ]
        # Whitespace has a vector in float, and every text has one in int8 and binary: look further behind such rows.
        if all(len(hits[i]) == k or not found[i].all() for i in range(len(queries))):
            return hits
        n *= 4


def open_embedder(dataset: str | Path, model: str | None = None, tokenizer: str | None = None) -> Embedder:
    """Load the model that vectors are from; name it if it has another name by now or the dataset does not say it."""
    provenance = read_provenance(dataset, missing_ok=model is not None)
    if provenance is None:
        return Embedder.from_pretrained(model, tokenizer=tokenizer)
    name = model or provenance.model
    if name is None:
        raise ValueError(
            f"The vectors are from a model that was not saved (weights {provenance.weights[:12]}). If it has been "
            "saved since, name it (`--model`); otherwise embed again with a saved model."
        )
    embedder = Embedder.from_pretrained(name, tokenizer=tokenizer, **provenance.options)
    provenance.check_same_model(embedder.provenance(), f"The dataset {str(dataset)!r}", repr(name))
    return embedder


def _find(source: pyarrow.dataset.Dataset, embedder: Embedder, wanted: Floats, k: int) -> tuple[Floats, Rows]:
    """Return the k largest cosines of each query and their rows, `(query, k)`; minus infinity if there are fewer."""
    scores = np.full((len(wanted), k), -np.inf, np.float32)
    rows = np.zeros((len(wanted), k), np.int64)
    first = 0
    size = max(1, min(BLOCK_ROWS, BLOCK_SCORES // max(1, len(wanted))))
    for batch in source.to_batches(
        columns=[embedder.output_column], batch_size=size, batch_readahead=1, fragment_readahead=1
    ):
        if not batch.num_rows:
            continue
        column = batch.column(0)
        values = column.flatten()
        is_float = pa.types.is_floating(values.type)
        dtype = "float32" if is_float else embedder.dtype
        least, most = (1, embedder.model.config.n_embd) if is_float else (embedder.width, embedder.width)
        widths = np.unique(pc.list_value_length(column))
        fits = is_float or (values.type == pa.int8() and dtype in ("int8", "binary"))
        if not fits or column.null_count or len(widths) > 1 or any(widths < least) or any(widths > most):
            raise ValueError(
                f"Column {embedder.output_column!r} must have a vector of {least} to {most} numbers in each row, all "
                f"of the same width: floats, or what an embedder of the dtype {dtype!r} stores. It has {column.type}, "
                f"{column.null_count} nulls and widths of {', '.join(map(str, widths))}."
            )
        matrix = values.to_numpy(zero_copy_only=False).reshape(len(column), -1)  # over Arrow's memory if it is float32
        units = unit_rows(to_float32(matrix, dtype, embedder.dim, embedder.ranges))
        cosines = unit_rows(wanted[:, : units.shape[1]]) @ units.T
        good = units.any(axis=1)  # a zero vector has no direction
        some_scores, some_rows = top_k(np.where(good, cosines, np.float32(-np.inf)), k)
        scores, best = top_k(np.concatenate([scores, some_scores], axis=1), k)
        rows = np.take_along_axis(np.concatenate([rows, some_rows + first], axis=1), best, axis=1)
        first += len(units)
    return scores, rows


def _open(dataset: str | Path | Dataset) -> pyarrow.dataset.Dataset:
    if isinstance(dataset, (str, Path)):
        path = Path(dataset)
        if files := [path] if path.is_file() else sorted(path.glob("*.parquet")):
            return pyarrow.dataset.dataset([str(file) for file in files], format="parquet")
        dataset = load_from_disk(str(path))
        if isinstance(dataset, DatasetDict):
            splits, first = ", ".join(dataset), str(path / next(iter(dataset)))
            raise ValueError(f"{str(path)!r} has the splits {splits}; name one, such as {first!r}.")
    return pyarrow.dataset.dataset(dataset.with_format("arrow")[:])  # without a copy, unless rows were selected
