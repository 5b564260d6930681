"""Read a file of texts block by block as Arrow tables.

Each format has one reader for streaming and for the cache, so that a file always gives the same texts and errors.
JSON is parsed by Arrow, whose reader alone rounds long integers, gives dates for texts that look like dates, and nulls
for a column that is not there; all three are corrected here.

Left out: finding files (`discovery`), and joining files whose columns differ (`sources`).
"""

import codecs
import csv
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pac
import pyarrow.json as paj
import pyarrow.parquet as pq

from gpt_embeddings.exceptions import ColumnError, NotStringsError, UnreadableFileError
from gpt_embeddings.text.columns import (
    ALONE,
    as_numbers,
    check_column,
    is_text_type,
    plain_table,
    types_message,
)
from gpt_embeddings.text.discovery import display_name, open_bytes, open_seekable, suffix_of


SAMPLE_UNITS = ("line", "paragraph", "document", "endoftext")
# What stands between two texts, for Arrow's RE2: lines of blanks alone, that is of the characters for which
# `str.isspace` is true, or what GPT-2's training text has between documents.
BORDERS = {
    "paragraph": r"\n(?:[\t\x0b\x0c \x1c-\x1f\x{85}\p{Z}]*\n)+",
    "endoftext": r"<\|endoftext\|>",
}

BLOCK_BYTES = 2**24  # of a file, read at a time
SAMPLE_BYTES = 2**18  # of a file, read to learn its columns
BLOCK_ROWS = 2**13  # of Parquet
LARGEST_FIELD = 2**28  # characters of a CSV field, and bytes of a row
JSON_THREADS = 32  # parts of a block of JSON lines that are parsed at once

READING_ERRORS = (OSError, EOFError, ValueError, csv.Error, pa.ArrowException, zlib.error, lzma.LZMAError)

LONG_INTEGER = r"[:\[, -][0-9]{16,}[,\]} ]"  # of JSON: the shortest that a double may not hold
CHANGED = re.compile(r"Column\(/(.+)\) changed from (\w+) to (\w+) in row")  # a message of Arrow's JSON reader

Blocks: TypeAlias = Iterator[pa.Table]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files of one format are read."""

    format: str
    """One of the values of `discovery.FORMATS`."""
    texts: tuple[str, ...] = ()
    """The columns that hold texts."""
    texts_only: bool = False
    """Whether to read no other columns."""
    sample_by: str = "line"
    """What becomes a row of a text file, one of `SAMPLE_UNITS`."""
    encoding: str = "utf-8"
    """Of text, CSV and JSON."""


def read_tables(
    path: str, options: ReadOptions, schema: pa.Schema | None = None, *, size: int = BLOCK_BYTES
) -> Blocks:
    """Read a file in blocks of `size` bytes, with the types of the schema if the values have them, else their own."""
    tables = READERS[options.format](path, options, schema, size)
    while True:
        # `yield` stays outside: in a generator that is closed at exit, the names of these exceptions may be gone.
        try:
            table = next(tables, None)
            if table is not None:
                table = _check_texts(table, options)
        except ColumnError as error:
            raise type(error)(f"{display_name(path)}: {error}") from error
        except READING_ERRORS as error:
            raise UnreadableFileError(f"{display_name(path)} could not be read: {_advice(error, options)}") from error
        if table is None:
            return
        yield table


def sample_schema(path: str, options: ReadOptions) -> pa.Schema | None:
    """Return the columns of the first rows of a file, or None if it has no rows.

    Of JSON lines all blocks are read up to one with texts, so that a missing column is found before the file is used.
    """
    if options.format == "text":
        try:
            with open_bytes(path) as file:
                return pa.schema({"text": pa.string()}) if file.read(1) else None
        except READING_ERRORS as error:
            raise UnreadableFileError(f"{display_name(path)} could not be read: {_advice(error, options)}") from error
    schema, without = None, set(options.texts if options.format == "json" else ())
    for table in read_tables(path, options, size=SAMPLE_BYTES):
        if schema is None and (table.num_rows or options.format == "parquet"):
            schema = table.schema
        without = {name for name in without if table[name].null_count == table.num_rows}
        if schema is not None and not without:
            break
    return schema


def _check_texts(table: pa.Table, options: ReadOptions) -> pa.Table:
    """Return the columns to read, or refuse a block in which a column of texts is missing or holds something else."""
    for name in options.texts:
        check_column(table.column_names, name)
    if options.texts_only:
        table = table.select([i for i, name in enumerate(table.column_names) if name in options.texts])
    names = table.column_names
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two columns have the name {min(twice)!r}. Rename one, {ALONE}.")
    table = plain_table(table)
    for name in options.texts:
        if not is_text_type(table[name].type):
            raise NotStringsError(f"Column {name!r} must hold strings, it holds {table[name].type}.")
        if options.format in ("parquet", "arrow"):  # which hold bytes that nobody has looked at
            try:
                table[name].validate(full=True)
            except pa.ArrowInvalid as error:
                raise ValueError(f"a row is not valid UTF-8 ({error}).") from error
    return table


def _advice(error: Exception, options: ReadOptions) -> str:
    if isinstance(error, UnicodeError) and options.encoding.lower() not in ("utf-8", "utf8"):
        return f"it is not in the encoding {options.encoding!r} ({error})."
    return str(error) or type(error).__name__


def _blocks(path: str, encoding: str, size: int) -> Iterator[bytes]:
    """Yield a file as UTF-8 in blocks of whole lines, without its byte-order mark."""
    utf_8 = encoding.lower() in ("utf-8", "utf8")
    decoder = codecs.getincrementaldecoder("utf-8" if utf_8 else encoding)()
    rest: list[bytes] = []
    begun, line = False, 1
    with open_bytes(path) as file:
        chunk = file.read(size)
        while chunk:
            following = file.read(size)
            if not utf_8:
                chunk = decoder.decode(chunk, not following).encode()
            if not begun:
                chunk, begun = chunk.removeprefix(codecs.BOM_UTF8), True
            cut = chunk.rfind(b"\n") + 1 if following else len(chunk)
            if cut or not following:
                block = b"".join([*rest, chunk[:cut]])
                yield _check_utf_8(block, line)
                line += block.count(b"\n")
                rest = []
            rest.append(chunk[cut:])
            chunk = following


def _check_utf_8(block: bytes, line: int) -> bytes:
    if block.isascii():
        return block
    try:
        _one_string(block).validate(full=True)
    except pa.ArrowInvalid:
        try:
            block.decode()
        except UnicodeDecodeError as error:
            line += block.count(b"\n", 0, error.start)
            name = "utf-16" if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "cp1252"
            raise ValueError(
                f"line {line} is not valid UTF-8 (byte {block[error.start]:#04x}). Give the encoding of the file, "
                f"such as `--encoding {name}` (`encoding=` in Python)."
            ) from error
    return block


def _one_string(block: bytes) -> pa.Array:
    if len(block) >= 2**31:
        raise ValueError(f"a text of {len(block)} bytes is too long: a text can have 2 GiB.")
    offsets = pa.py_buffer(np.array([0, len(block)], np.int32))
    return pa.StringArray.from_buffers(1, offsets, pa.py_buffer(block))


def _text(path: str, options: ReadOptions, schema: pa.Schema | None, size: int) -> Blocks:
    blocks = (
        block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block
        for block in _blocks(path, options.encoding, size)
    )
    if options.sample_by == "line":
        for block in blocks:
            # Splitting in Arrow makes no Python string of a line.
            lines = pc.split_pattern(_one_string(block.removesuffix(b"\n")), "\n").flatten()
            yield pa.table({"text": lines})
    elif options.sample_by == "document":
        if text := b"".join(blocks):
            yield pa.table({"text": _one_string(text)})
    else:
        for texts in _between(blocks, options.sample_by, size):
            yield pa.table({"text": texts.filter(pc.not_equal(texts, ""))})


def _between(blocks: Iterator[bytes], sample_by: str, size: int) -> Iterator[pa.Array]:
    r"""Yield the texts between the borders of paragraphs or documents, some of them empty.

    >>> [texts.to_pylist() for texts in _between(iter([b"one\n \n\ntwo\n", b"lines\n"]), "paragraph", 2**20)]
    [['one', 'two\nlines', '']]
    """
    # With it, a line of blanks is a border at the beginning and the end of the file, too.
    edge = b"\n" if sample_by == "paragraph" else b""

    def split(text: bytes) -> pa.Array:
        texts = pc.split_pattern_regex(_one_string(text), BORDERS[sample_by]).flatten()
        return pc.ascii_ltrim(texts, "\n") if edge else texts

    parts, limit = [edge], size
    for block in blocks:
        parts.append(block)
        if sum(map(len, parts)) >= limit:
            texts = split(b"".join(parts))
            yield texts[:-1]
            rest = edge + texts[-1].as_py().encode()
            parts, limit = [rest], max(size, 2 * len(rest))  # a long text is not looked through with each block
    yield split(b"".join([*parts, edge, edge]))


class _Stream(io.RawIOBase):
    """Blocks of bytes as a file, with a count of the quotes that went by."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, b""
        self.quotes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = next(self._blocks, b"")
            self.quotes += self._rest.count(b'"')
        size = len(self._rest) if size < 0 else size
        given, self._rest = self._rest[:size], self._rest[size:]
        return given


def _csv(path: str, options: ReadOptions, schema: pa.Schema | None, size: int) -> Blocks:
    """Read CSV by RFC 4180, or TSV, which has no quotes. Only an empty field is missing."""
    header: list[str] = next(
        (row for row in _records(_blocks(path, options.encoding, SAMPLE_BYTES), options) if row), []
    )
    names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
    for table in _csv_texts(path, options, size, header) if names else ():
        table = _check_texts(table.rename_columns(names), options)
        types = {} if schema is None else dict(zip(schema.names, schema.types, strict=True))
        columns = []
        for name, column in zip(table.column_names, table.columns, strict=True):
            if name not in options.texts:
                numbers = as_numbers(column.combine_chunks())
                # With another type than in the blocks before, values would lose their spelling: "1" would be 1.0.
                if pa.null() in (numbers.type, known := types.get(name, pa.null())) or numbers.type == known:
                    column = numbers
            columns.append(column)
        yield pa.table(columns, table.column_names)


def _csv_texts(path: str, options: ReadOptions, size: int, header: list[str]) -> Blocks:
    """Yield blocks of fields as texts; a row that is longer than a block is read again in larger blocks."""
    tsv, n_rows = options.format == "tsv", 0
    parse = pac.ParseOptions(
        delimiter="\t" if tsv else ",", quote_char=False if tsv else '"', newlines_in_values=not tsv
    )
    convert = pac.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()),
        null_values=["", '""'] if tsv else [""],  # pandas writes two quotes for a row that has nothing else
        strings_can_be_null=True,
    )
    while True:
        stream, skipped = _Stream(_blocks(path, options.encoding, size)), n_rows
        try:
            for batch in pac.open_csv(stream, pac.ReadOptions(block_size=size), parse, convert):
                rest = batch.slice(skipped)
                skipped -= min(skipped, len(batch))
                n_rows += len(rest)
                yield pa.Table.from_batches([rest])
            if not tsv and stream.quotes % 2:  # Arrow takes all that follows an open quote for one field
                _find_csv_fault(path, options, size, len(header))
            return
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error) or size >= LARGEST_FIELD:
                _find_csv_fault(path, options, size, len(header))
                raise
            size *= 8


def _records(blocks: Iterator[bytes], options: ReadOptions) -> Any:
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_FIELD))
    lines = (line for block in blocks for line in io.StringIO(block.decode(), newline=""))
    if options.format == "tsv":
        return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return csv.reader(lines, strict=True)


def _find_csv_fault(path: str, options: ReadOptions, size: int, n_columns: int) -> None:
    """Read a file again, to report the line at which it stops being CSV."""
    rows = _records(_blocks(path, options.encoding, size), options)
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise ValueError(
                f"line {line}: a field begins with a quote and has none at its end ({error}). Quotes inside such a "
                "field are doubled."
            ) from None
        if row is None:
            return
        if row and len(row) != n_columns:
            raise ValueError(f"line {line} has {len(row)} fields, the first line names {n_columns} columns.")


def _json(path: str, options: ReadOptions, schema: pa.Schema | None, size: int) -> Blocks:
    """Read JSON lines, or one JSON list of objects or texts."""
    without = set(options.texts)  # columns in which there was no text so far
    for line, block in _json_lines(path, options, size):
        table = _json_table(block, options, schema, line)
        without -= {name for name in without if table[name].null_count < table.num_rows}
        yield table
    if without:  # Arrow gives a column of nulls, too, if no object has the key
        keys: dict[str, None] = {}
        for _, block in _json_lines(path, options, size):
            keys |= dict.fromkeys(key for row in block.split(b"\n") if row.strip() for key in json.loads(row))
            if without <= keys.keys():
                break
        for name in sorted(without) if keys else ():
            check_column(keys, name)


def _json_lines(path: str, options: ReadOptions, size: int) -> Iterator[tuple[int | None, bytes]]:
    """Yield blocks of lines, each with the number of its first line, or a whole list or object as lines."""
    line, blocks = 1, _blocks(path, options.encoding, size)
    for block in blocks:
        if line == 1 and _is_one_value(block, path):
            value = json.loads(block + b"".join(blocks))
            rows = value if isinstance(value, list) else [value]
            rows = [{options.texts[0]: row} if isinstance(row, str) else row for row in rows]
            yield None, "\n".join(json.dumps(row) for row in rows).encode()
            return
        if block.strip():
            yield line, block
        line += block.count(b"\n")


def _is_one_value(block: bytes, path: str) -> bool:
    """Return whether a file is one list, or one object over several lines."""
    block = block.lstrip()
    if block.startswith(b"["):
        return True
    try:
        json.loads(block.split(b"\n", 1)[0])
    except ValueError:
        return suffix_of(path) == ".json" and block.startswith(b"{")
    return False


def _json_table(block: bytes, options: ReadOptions, schema: pa.Schema | None, line: int | None) -> pa.Table:
    """Parse lines with the known types if they have them, else with their own; dates stay texts."""
    texts = pa.schema([(name, pa.string()) for name in options.texts])
    if schema is not None and not options.texts_only:
        known = pa.schema([*texts, *(field for field in schema if field.name not in texts.names)])
        known = pa.schema([field for field in known if not pa.types.is_null(field.type)])
        try:
            return _keep_digits(_parse(block, known, "infer"), block)
        except pa.ArrowInvalid:
            pass  # other types, which the caller joins or reports
    try:
        table = _parse(block, texts, "ignore" if options.texts_only else "infer")
        without_times = pa.schema([field.with_type(_without_times(field.type)) for field in table.schema])
        if not without_times.equals(table.schema.remove_metadata()):
            table = _parse(block, without_times, "infer")
        return _keep_digits(table, block)
    except pa.ArrowInvalid as error:
        if changed := CHANGED.search(str(error)):
            name, one, other = changed.groups()
            if name in options.texts:
                raise NotStringsError(f"Column {name!r} must hold strings, it holds a {other}.") from error
            raise ValueError(types_message(name.split("/")[0], one, other)) from error
        _find_json_fault(block, line)
        raise


def _keep_digits(table: pa.Table, block: bytes) -> pa.Table:
    """Return columns with integers that a double cannot hold as `uint64` or as texts; Arrow would round them."""
    doubles = [field.name for field in table.schema if "double" in str(field.type)]
    if not doubles or not pc.match_substring_regex(_one_string(block), LONG_INTEGER)[0].as_py():
        return table
    rows = [json.loads(line) for line in block.split(b"\n") if line.strip()]
    for name in doubles:
        values = [row.get(name) for row in rows]
        try:
            pa.array(values)
        except (OverflowError, pa.ArrowInvalid) as error:
            i = table.column_names.index(name)
            if not pa.types.is_floating(table.schema.types[i]):
                raise ValueError(
                    f"column {name!r} holds an integer that would be rounded inside a list or an object ({error}). "
                    "Write it as a string, or read only the column of texts (`--texts-only`, `texts_only=True`)."
                ) from error
            texts = [None if value is None else str(value) for value in values]
            table = table.set_column(i, name, as_numbers(pa.array(texts, pa.string())))
    return table


def _parse(block: bytes, schema: pa.Schema, unexpected: str) -> pa.Table:
    options = paj.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected)
    size = max(len(block) // JSON_THREADS, SAMPLE_BYTES)
    while True:
        try:
            return paj.read_json(io.BytesIO(block), paj.ReadOptions(block_size=size), options)
        except pa.ArrowInvalid as error:
            if size > len(block) or "straddling" not in str(error):
                raise
            size = min(4 * size, len(block) + 1)  # an object is longer than a part


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_times(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    return kind


def _find_json_fault(block: bytes, line: int | None) -> None:
    """Report the line at which JSON is broken, if Python's reader finds it."""
    for i, row in enumerate(block.split(b"\n")):
        try:
            value = json.loads(row) if row.strip() else {}
        except ValueError as error:
            raise ValueError(f"line {i + (line or 1)} is not JSON ({error}).") from None
        if not isinstance(value, dict):
            raise ValueError(f"line {i + (line or 1)} is not an object with columns: {row[:40].decode()!r}.")


def _parquet(path: str, options: ReadOptions, schema: pa.Schema | None, size: int) -> Blocks:
    with open_seekable(path) as handle:
        file = pq.ParquetFile(handle)
        if not file.metadata.num_rows:
            return
        names = file.schema_arrow.names
        wanted = [name for name in names if name in options.texts] if options.texts_only else None
        if wanted is not None and len(wanted) < len(set(options.texts)):
            wanted = None  # the message about a missing column lists all
        yield file.schema_arrow.empty_table()  # the columns are known before any row is read
        for batch in file.iter_batches(BLOCK_ROWS, columns=wanted):
            yield pa.Table.from_batches([batch])


def _arrow(path: str, options: ReadOptions, schema: pa.Schema | None, size: int) -> Blocks:
    """Read an Arrow file, or an Arrow stream, which is what `datasets` writes."""
    with open_seekable(path) as handle:
        try:
            file = pa.ipc.open_stream(handle)
        except pa.ArrowInvalid:
            handle.seek(0)
            file = pa.ipc.open_file(handle)
        stream = isinstance(file, pa.RecordBatchStreamReader)
        for batch in file if stream else map(file.get_batch, range(file.num_record_batches)):
            yield pa.Table.from_batches([batch])


READERS = {"arrow": _arrow, "csv": _csv, "json": _json, "parquet": _parquet, "text": _text, "tsv": _csv}
