"""Where text comes from: files of several formats or a dataset on the Hub, opened with `datasets`.

Left out: any format of our own, and shuffling.
"""

from collections.abc import Iterable, Sequence
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


class ColumnError(ValueError):
    """The column of texts is not there, or it is not one."""


class NotStringsError(ColumnError, TypeError):
    """The column of texts holds something else."""


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
    check_texts(dataset, column)
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


def check_column(names: Iterable[str], column: str) -> None:
    """Refuse a column that is not there.

    Raises:
        ColumnError: It is not among the names.
    """
    names = list(names)
    if column not in names:
        raise ColumnError(f"There is no column {column!r}; the columns are {', '.join(names)}.")


def check_texts(dataset: Dataset | IterableDataset, column: str) -> None:
    """Refuse a dataset without a column of strings, as far as that is known before it is read.

    Raises:
        NotStringsError: The column holds something else.
        ColumnError: There is no such column.
    """
    if dataset.column_names is None or dataset.features is None:
        return  # known when the first rows are read
    check_column(dataset.column_names, column)
    feature = dataset.features[column]
    if getattr(feature, "dtype", None) not in ("string", "large_string", "string_view", "null"):
        raise NotStringsError(f"Column {column!r} must hold strings, it holds {feature}.")


def take_column(batch: pa.Table, column: str) -> pa.ChunkedArray:
    """Return the texts of a batch as `string` or `large_string`, whichever of Arrow's types for strings they have.

    Raises:
        NotStringsError: The column holds something else.
        ColumnError: There is no such column.
    """
    check_column(batch.column_names, column)
    texts = batch[column]
    kind = texts.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return texts.cast(pa.string())
    if pa.types.is_string_view(kind):
        return texts.cast(pa.large_string())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise NotStringsError(f"Column {column!r} must hold strings, it holds {texts.type}.")
    return texts if kind == texts.type else texts.cast(kind)


__all__ = [
    "ColumnError",
    "NotStringsError",
    "check_column",
    "check_texts",
    "file_being_read",
    "load_source",
    "take_column",
]
