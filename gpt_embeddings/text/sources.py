"""Where text comes from: files of several formats or a dataset on the Hub, opened with `datasets`.

Left out: any format of our own, and shuffling.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import pyarrow as pa
from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError


FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".md": "text",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tsv": "csv",
    ".txt": "text",
}


@overload
def load_source(
    inputs: Sequence[str],
    *,
    column: str = "text",
    split: str = "train",
    sample_by: str = "line",
    streaming: Literal[False] = False,
) -> Dataset: ...


@overload
def load_source(
    inputs: Sequence[str],
    *,
    column: str = "text",
    split: str = "train",
    sample_by: str = "line",
    streaming: Literal[True],
) -> IterableDataset: ...


@overload
def load_source(
    inputs: Sequence[str],
    *,
    column: str = "text",
    split: str = "train",
    sample_by: str = "line",
    streaming: bool,
) -> Dataset | IterableDataset: ...


def load_source(
    inputs: Sequence[str],
    *,
    column: str = "text",
    split: str = "train",
    sample_by: str = "line",
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Open text, JSON lines, CSV or Parquet files, or one dataset on the Hub.

    Args:
        inputs: Paths of files of one format, or a single Hub dataset name.
        column: The column that must be there and hold strings.
        split: Split of a Hub dataset.
        sample_by: What makes a row of a text file: `"line"`, `"paragraph"` (blocks between blank lines) or
            `"document"` (the file).
        streaming: Read while iterating and keep no copy on disk; every file is a shard.

    Returns:
        The dataset, on disk in `datasets`' cache and memory-mapped, or one that streams.

    Raises:
        FileNotFoundError: A path does not exist, and is no dataset on the Hub.
        ValueError: The formats are mixed or unknown, the file is empty or broken, or the column is missing or holds
            no strings.
    """
    if not inputs:
        raise ValueError("No input was given: name at least one file or a Hub dataset.")
    if len(inputs) == 1 and not Path(inputs[0]).exists() and Path(inputs[0]).suffix.lower() not in FORMATS:
        dataset = _load_from_hub(inputs[0], split, streaming)
    else:
        dataset = _load_files([Path(name) for name in inputs], sample_by, streaming)
    _check_column(dataset, column)
    return dataset


def file_being_read(dataset: IterableDataset) -> str | None:
    """Return the file that a streaming dataset is reading, if that can be told: error messages name it."""
    source: Any = getattr(dataset, "_ex_iterable", None)
    while hasattr(source, "ex_iterable"):
        source = source.ex_iterable
    arguments, state = getattr(source, "kwargs", None), getattr(source, "_state_dict", None)
    for name in ("base_files", "files"):
        files = (arguments or {}).get(name)
        if isinstance(files, list) and files:
            shard = state["shard_idx"] if state else 0
            return str(files[min(shard, len(files) - 1)])
    return None


def _load_files(paths: list[Path], sample_by: str, streaming: bool) -> Dataset | IterableDataset:
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"Input {str(path)!r} is not a file.")
        if path.suffix.lower() not in FORMATS:
            raise ValueError(
                f"Input {str(path)!r} has the unknown suffix {path.suffix!r}; known are {', '.join(FORMATS)}."
            )
        if not path.stat().st_size:
            raise ValueError(f"Input {str(path)!r} is empty.")
    formats = {FORMATS[path.suffix.lower()] for path in paths}
    suffixes = {path.suffix.lower() for path in paths}
    if len(formats) > 1 or (".tsv" in suffixes and len(suffixes) > 1):
        raise ValueError(f"The inputs mix the formats {', '.join(sorted(suffixes))}; give files of one format.")
    options: dict[str, Any] = {}
    if formats == {"text"}:
        options["sample_by"] = sample_by
    if suffixes == {".tsv"}:
        options["sep"] = "\t"
    files = [str(path) for path in paths]
    try:
        return load_dataset(formats.pop(), data_files=files, split="train", streaming=streaming, **options)
    except (DatasetGenerationError, pa.ArrowInvalid) as error:
        names = ", ".join(str(path) for path in paths)
        raise ValueError(f"{names} could not be read: {error.__cause__ or error}") from error


def _load_from_hub(name: str, split: str, streaming: bool) -> Dataset | IterableDataset:
    try:
        return load_dataset(name, split=split, streaming=streaming)
    except (DatasetNotFoundError, DataFilesNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"Input {name!r} is neither a file here nor a dataset that could be had from the Hub ({error})."
        ) from error


def _check_column(dataset: Dataset | IterableDataset, column: str) -> None:
    if dataset.column_names is None:
        return  # known when the first rows are read
    if column not in dataset.column_names:
        raise ValueError(f"There is no column {column!r}; the columns are {', '.join(dataset.column_names)}.")
    dtype = getattr(dataset.features[column], "dtype", None)
    if dtype not in ("string", "large_string", "string_view", "null"):
        raise ValueError(f"Column {column!r} must hold strings, it holds {dataset.features[column]}.")


def take_column(batch: pa.Table, column: str) -> pa.ChunkedArray:
    """Return a column of a batch.

    Raises:
        ValueError: There is no such column.
    """
    if column not in batch.column_names:
        raise ValueError(f"There is no column {column!r}; the columns are {', '.join(batch.column_names)}.")
    return batch[column]


__all__ = ["file_being_read", "load_source", "take_column"]
