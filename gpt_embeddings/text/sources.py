"""Open files, saved datasets or a dataset on the Hub as one dataset with a column of texts.

The builders of `datasets` report no line numbers, do not read `.zst`, and refuse files whose columns differ.
"""

import codecs
import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
from datasets import (
    ArrowBasedBuilder,
    Dataset,
    DatasetDict,
    DatasetInfo,
    Features,
    IterableDataset,
    SplitGenerator,
    Value,
    concatenate_datasets,
    config,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError, DatasetNotFoundError
from datasets.table import table_cast

from gpt_embeddings.arguments import check_choice
from gpt_embeddings.text.columns import (
    ALONE,
    check_texts,
    join_types,
    take_column,
    types_message,
)
from gpt_embeddings.text.discovery import display_name, find_files, fingerprint, format_of, may_be_on_hub
from gpt_embeddings.text.files import SAMPLE_BYTES, SAMPLE_UNITS, ReadOptions, read_tables


SAMPLED_FILES = 32  # files whose columns are read in advance; those of others are joined on the way
CACHED_ROWS = 2**14  # rows of a record batch in the cache
CACHE_VERSION = 4  # raise it when files are read differently, so that they are read again


def load_source(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    column: str | Sequence[str] = "text",
    split: str = "train",
    subset: str | None = None,
    sample_by: str = "line",
    encoding: str = "utf-8",
    texts_only: bool = False,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Open text, JSON lines, CSV, TSV, Arrow or Parquet files, a saved dataset, or one dataset on the Hub.

    Args:
        inputs: One or several names of files of one format, of folders of them, patterns, addresses (`https://`,
            `hf://`), or `-` for the standard input; or folders of `Dataset.save_to_disk`; or one dataset on the Hub.
            Files may be compressed (`.jsonl.gz`; also `.bz2`, `.xz`, `.zst`).
        column: The required column of strings, or several.
        split: Split of a Hub dataset, or of a saved one that has splits.
        subset: Subset (configuration) of a Hub dataset.
        sample_by: What becomes a row of a text file: a `"line"`, a `"paragraph"` (text between blank lines), the
            whole `"document"`, or `"endoftext"` (text between `<|endoftext|>`).
        encoding: Of text, CSV and JSON files.
        texts_only: Read nothing but `column`, so that other columns may hold anything.
        streaming: Read while iterating, without a copy on disk; every file is a shard.

    Returns:
        The dataset, memory-mapped from the cache of `datasets`, or one that streams.

    Raises:
        FileNotFoundError: There is no such file, and no such dataset on the Hub.
        OSError: The cache cannot be written.
        ValueError: The formats are mixed or unknown, there are no rows, a file is broken, or the column is missing or
            does not hold strings.
    """
    names = [os.fspath(name) for name in ([inputs] if isinstance(inputs, (str, os.PathLike)) else inputs)]
    texts = (column,) if isinstance(column, str) else tuple(column)
    if not names:
        raise ValueError("No input was given. Name at least one file or a dataset on the Hub.")
    check_choice("sample_by", sample_by, SAMPLE_UNITS)
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ValueError(
            f"There is no encoding {encoding!r}. Use one such as 'utf-8', 'cp1252' or 'utf-16'."
        ) from None
    if subset is not None and not (len(names) == 1 and may_be_on_hub(names[0])):
        raise ValueError(f"`subset` only applies to datasets on the Hub, but {names[0]!r} is a local path.")
    dataset: Any
    if all(_is_saved(name) for name in names):  # opened where they are, without a copy
        parts = []
        for name in names:
            part = load_from_disk(name)
            if isinstance(part, DatasetDict):
                if split not in part:
                    raise ValueError(f"{name} has no split {split!r}; choose from {', '.join(part)}.")
                part = part[split]
            parts.append(part)
        dataset = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
        if not len(dataset):
            raise ValueError(f"{', '.join(names)}: there are no rows; the input is empty.")
        if streaming:
            dataset = dataset.to_iterable_dataset(num_shards=min(len(dataset), max(1, len(dataset.cache_files))))
    elif len(names) == 1 and may_be_on_hub(names[0]):
        try:
            dataset = load_dataset(names[0], subset, split=split, streaming=streaming)
        except (DatasetNotFoundError, DataFilesNotFoundError, ConnectionError, FileNotFoundError) as error:
            raise FileNotFoundError(
                f"Input {names[0]!r} is not a local file, and it could not be loaded from the Hub ({error})."
            ) from error
    else:
        files = find_files(names)
        options = ReadOptions(
            format=format_of(files), texts=texts, texts_only=texts_only, sample_by=sample_by, encoding=encoding
        )
        dataset = open_files(files, options, streaming=streaming)
    for name in texts:
        check_texts(dataset, name)
    return dataset.select_columns(list(texts)) if texts_only else dataset


def find_parquet(inputs: Sequence[str]) -> list[str] | None:
    """Return the matching files if all are uncompressed Parquet, else None."""
    if any(name == "-" or _is_saved(name) for name in inputs) or (len(inputs) == 1 and may_be_on_hub(inputs[0])):
        return None
    files = find_files(inputs)
    return files if all(path.lower().endswith((".parquet", ".pq")) for path in files) else None


def open_files(files: Sequence[str], options: ReadOptions, *, streaming: bool = False) -> Dataset | IterableDataset:
    """Open files of one format as one dataset; one that streams has a shard for every file."""
    sampled = []
    for path in files[:SAMPLED_FILES]:
        # Of JSON lines up to a block with texts, so that a missing column is found before the file is used.
        found, without = None, set(options.texts if options.format == "json" else ())
        for table in read_tables(path, options, size=SAMPLE_BYTES):
            if found is None and (table.num_rows or options.format == "parquet"):
                found = table.schema
            without = {name for name in without if table[name].null_count == table.num_rows}
            if found is not None and not without:
                break
        if found is not None:
            sampled.append((path, found))
    if not sampled:
        raise ValueError(f"{', '.join(map(display_name, files[:3]))}: there are no rows; the input is empty.")
    schema = _join_schemas(sampled, options, final=streaming)
    if streaming:
        return _FilesBuilder(files, options, schema, streaming=True).as_streaming_dataset("train")
    while True:
        try:
            builder = _FilesBuilder(files, options, schema)
            builder.download_and_prepare(verification_mode="no_checks")
            return builder.as_dataset("train")
        except (DatasetGenerationError, OSError) as error:
            cause = error.__cause__ if isinstance(error, DatasetGenerationError) else error
            if isinstance(cause, _Wider):
                schema = cause.args[0]  # read again from the beginning
            elif isinstance(cause, OSError):
                raise OSError(
                    f"The cache of `datasets`, {str(config.HF_DATASETS_CACHE)!r}, cannot be written ({cause}). Set "
                    "HF_HOME or HF_DATASETS_CACHE to a folder that can, or read without a copy on disk: `--streaming` "
                    "(`streaming=True` in Python)."
                ) from error
            else:
                raise (cause or error) from None


class _Wider(Exception):
    """A block of rows has types that the schema does not hold; raised with a schema that holds both."""


class _FilesBuilder(ArrowBasedBuilder):
    """Reads files as a stream, or into the cache of `datasets` under a hash of their names, sizes and times."""

    def __init__(
        self, files: Sequence[str], options: ReadOptions, schema: pa.Schema, *, streaming: bool = False
    ) -> None:
        self.files, self.options, self.schema, self.streaming = files, options, schema, streaming
        content = repr((CACHE_VERSION, options, [] if streaming else [fingerprint(path) for path in files]))
        digest = hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:32]
        cache = "memory://" if streaming else None  # a stream has no cache, which need not be writable
        super().__init__(cache, "gpt_embeddings", hash=digest, writer_batch_size=CACHED_ROWS)

    def _info(self) -> DatasetInfo:
        return DatasetInfo(features=Features.from_arrow_schema(self.schema))

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        return [SplitGenerator(name="train", gen_kwargs={"files": list(self.files)})]

    def _generate_tables(self, files: list[str]) -> Iterator[tuple[str, pa.Table]]:
        schema = self.schema
        for i, path in enumerate(files):
            name = display_name(path)
            for j, table in enumerate(read_tables(path, self.options, schema)):
                if not table.num_rows:
                    continue
                if table.schema.equals(schema):  # but for its metadata
                    yield f"{i} {j}", table.cast(schema)
                    continue
                if not self.streaming:
                    wider = _join_schemas([("the files before", schema), (path, table.schema)], self.options)
                    if not wider.equals(schema):
                        raise _Wider(wider)
                for column, kind in zip(table.column_names, table.schema.types, strict=True):
                    if column not in schema.names:
                        raise ValueError(
                            f"{name}: the column {column!r} is new. Read without `--streaming`, which finds all "
                            f"columns first, {ALONE}."
                        )
                    wanted = schema.field(column).type
                    if join_types(wanted, kind) != wanted:
                        raise ValueError(f"{name}: {types_message(column, wanted, kind)}")
                columns = []
                for field in schema:
                    if field.name not in table.column_names:
                        table = table.append_column(field.name, pa.nulls(table.num_rows))
                    try:
                        columns.append(table_cast(table.select([field.name]), pa.schema([field])).column(0))
                    except pa.ArrowInvalid as error:
                        raise ValueError(
                            f"{name}: column {field.name!r}: {error}. Give it one type, {ALONE}."
                        ) from error
                yield f"{i} {j}", pa.Table.from_arrays(columns, schema=schema)


def _join_schemas(schemas: Sequence[tuple[str, pa.Schema]], options: ReadOptions, *, final: bool = False) -> pa.Schema:
    """Return one schema for all files; columns of nulls become strings if they hold texts or the schema is final."""
    features: dict[str, Any] = {}
    types: dict[str, pa.DataType] = {}
    for path, schema in schemas:
        for name, kind in zip(schema.names, schema.types, strict=True):
            try:
                found = Features.from_arrow_schema(pa.schema([schema.field(name)], schema.metadata))
            except ValueError as error:
                raise ValueError(
                    f"{display_name(path)}: column {name!r} is of the type {kind}, which `datasets` does not have. "
                    f"Leave the column out, {ALONE}."
                ) from error
            one, other = types.get(name, pa.null()), found.arrow_schema.field(name).type
            joined = join_types(one, other, as_texts=options.format in ("csv", "tsv"))
            if joined is None:
                raise ValueError(f"{display_name(path)}: {types_message(name, one, other)}")
            if joined != one or name not in features:
                fields = pa.schema([(name, joined)])
                types[name] = joined
                features[name] = found[name] if joined == other else Features.from_arrow_schema(fields)[name]
    for name, kind in types.items():
        if (final or name in options.texts) and pa.types.is_null(kind):
            features[name] = Value("string")
    return Features(features).arrow_schema


def read_blocks(
    dataset: Dataset | IterableDataset, rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Iterate over a dataset in Arrow tables of so many rows; a transform (`with_transform`) is applied.

    `iter(batch_size=rows)` fails on a stream that was filtered or mapped if a text is null, because each row then has
    its own types. Here the types of a block are joined. `columns` are columns of texts to read alone, as plain
    strings; None reads all columns as they are.
    """
    # A stream that is in Arrow's format already is the one whose state its owner saves.
    formatting: Any = getattr(dataset, "_formatting", None)
    in_arrow = formatting is not None and formatting.format_type == "arrow"
    tables: Any = dataset if in_arrow else dataset.with_format("arrow")
    blocks: Iterator[list[Any]] = ([table] for table in tables.iter(batch_size=rows))
    if has_transform(dataset):
        blocks = ([batch] for batch in dataset.iter(batch_size=rows))
    elif isinstance(dataset, IterableDataset):
        steps = list(steps_of(dataset._ex_iterable))
        plain = dataset.features is not None and dataset._distributed is None and steps[0].iter_arrow is not None
        if not plain or any(hasattr(step, "ex_iterables") for step in steps):
            single = tables.iter(batch_size=1)
            blocks = iter(lambda: list(islice(single, rows)), [])
    for block in blocks:
        if has_transform(dataset):
            # If possible without other columns, which may hold anything.
            shown = block[0]
            names = columns if columns is not None and all(name in shown for name in columns) else list(shown)
            block = [pa.table({name: list(shown[name]) for name in names})]
        if columns is not None:
            block = [pa.table({name: take_column(table, name) for name in columns}) for table in block]
        try:
            if len(block) > 1:
                joined = pa.concat_tables(block, promote_options="permissive")
                block = [joined.combine_chunks()]  # else a chunk for each row
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            for name in block[0].column_names:
                kinds = [table.schema.field(name).type for table in block if name in table.column_names]
                for kind in kinds:
                    if join_types(kinds[0], kind) is None:
                        raise ValueError(types_message(name, kinds[0], kind)) from None
            raise
        yield block[0]


def has_transform(dataset: Any) -> bool:
    """Return whether a dataset shows its rows through a function (`with_transform`, `set_transform`)."""
    return isinstance(dataset, Dataset) and dataset.format["type"] == "custom"


def steps_of(source: Any) -> Iterator[Any]:
    """Walk the steps of a streaming dataset (its `_ex_iterable`), from the last to the first."""
    if source is None:
        return
    yield source
    for inner in [getattr(source, "ex_iterable", None), *getattr(source, "ex_iterables", [])]:
        yield from steps_of(inner)


def _is_saved(name: str) -> bool:
    return any(os.path.isfile(os.path.join(name, file)) for file in ("state.json", "dataset_dict.json"))
