"""Read a file of texts block by block as Arrow tables.

Each format has one reader for streaming and for the cache, so that a file always gives the same texts and errors.
JSON is parsed by Python's own reader: Arrow's rounds long integers, gives dates for texts that look like dates, and
nulls for a column that is not there. CSV is parsed by Arrow's, at four times the speed of Python's, which names the
line of a fault.
"""

import codecs
import csv
import io
import json
import lzma
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pac
import pyarrow.parquet as pq

from gpt_embeddings.exceptions import ColumnError, NotStringsError, UnreadableFileError
from gpt_embeddings.text.columns import ALONE, as_numbers, check_column, plain_type, take_column
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

UTF_8 = ("utf-8", "utf8")
READING_ERRORS = (OSError, EOFError, ValueError, csv.Error, pa.ArrowException, zlib.error, lzma.LZMAError)

Blocks: TypeAlias = Iterator[pa.Table]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files of one format are read."""

    format: str  # one of the values of `discovery.FORMATS`
    texts: tuple[str, ...] = ()  # the columns that hold texts
    texts_only: bool = False  # whether to read no other columns
    sample_by: str = "line"  # what becomes a row of a text file, one of `SAMPLE_UNITS`
    encoding: str = "utf-8"  # of text, CSV and JSON


def read_tables(
    path: str, options: ReadOptions, schema: pa.Schema | None = None, *, size: int = BLOCK_BYTES
) -> Blocks:
    """Read a file in blocks of `size` bytes, with checked columns, in the types of the schema if the values fit."""
    tables = READERS[options.format](path, options, size)
    while True:
        # `yield` stays outside: in a generator that is closed at exit, the names of these exceptions may be gone.
        try:
            table = next(tables, None)
            if table is None:
                return
            for name in options.texts:
                check_column(table.column_names, name)
            if options.texts_only:
                table = table.select([i for i, name in enumerate(table.column_names) if name in options.texts])
            names = table.column_names
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"two columns have the name {min(twice)!r}. Rename one, {ALONE}.")
            # Without Arrow's views and dictionaries, which few functions accept.
            fields = [field.with_type(plain_type(field.type)) for field in table.schema]
            table = table.cast(pa.schema(fields, table.schema.metadata))
            for name in options.texts:
                take_column(table, name)
                if options.format in ("parquet", "arrow"):  # which hold bytes that nobody has looked at
                    try:
                        table[name].validate(full=True)
                    except pa.ArrowInvalid as error:
                        raise ValueError(f"a row is not valid UTF-8 ({error}).") from error
            if options.format in ("csv", "tsv"):
                known = {} if schema is None else dict(zip(schema.names, schema.types, strict=True))
                for i, name in enumerate(names):
                    if name in options.texts:
                        continue
                    numbers = as_numbers(table[i].combine_chunks())
                    # With another type than in the blocks before, values would lose their spelling: "1" would be 1.0.
                    if pa.null() in (numbers.type, before := known.get(name, pa.null())) or numbers.type == before:
                        table = table.set_column(i, name, numbers)
        except ColumnError as error:
            raise type(error)(f"{display_name(path)}: {error}") from error
        except READING_ERRORS as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, UnicodeError) and options.encoding.lower() not in UTF_8:
                reason = f"it is not in the encoding {options.encoding!r} ({error})."
            raise UnreadableFileError(f"{display_name(path)} could not be read: {reason}") from error
        yield table


def _blocks(path: str, encoding: str, size: int) -> Iterator[bytes]:
    """Yield a file as UTF-8 in blocks of whole lines, without its byte-order mark."""
    utf_8 = encoding.lower() in UTF_8
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
                try:
                    block.decode()
                except UnicodeDecodeError as error:
                    line += block.count(b"\n", 0, error.start)
                    utf_16 = block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                    raise ValueError(
                        f"line {line} is not valid UTF-8 (byte {block[error.start]:#04x}). Give the encoding of the "
                        f"file, such as `--encoding {'utf-16' if utf_16 else 'cp1252'}` (`encoding=` in Python)."
                    ) from error
                yield block
                line += block.count(b"\n")
                rest = []
            rest.append(chunk[cut:])
            chunk = following


def _one_string(block: bytes) -> pa.Array:
    if len(block) >= 2**31:
        raise ValueError(f"a text of {len(block)} bytes is too long: a text can have 2 GiB.")
    offsets = pa.py_buffer(np.array([0, len(block)], np.int32))
    return pa.StringArray.from_buffers(1, offsets, pa.py_buffer(block))


def _text(path: str, options: ReadOptions, size: int) -> Blocks:
    blocks = (
        block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block
        for block in _blocks(path, options.encoding, size)
    )
    if options.sample_by == "line":
        for block in blocks:
            # Splitting in Arrow makes no Python string of a line.
            lines = pc.split_pattern(_one_string(block.removesuffix(b"\n")), "\n").flatten()
            yield pa.table({"text": lines})
        return
    if options.sample_by == "document":
        if text := b"".join(blocks):
            yield pa.table({"text": _one_string(text)})
        return
    # With it, a line of blanks is a border at the beginning and the end of the file, too.
    edge = b"\n" if options.sample_by == "paragraph" else b""
    parts, limit = [edge], size
    for part in chain(blocks, [None]):
        parts += [edge, edge] if part is None else [part]
        if part is not None and sum(map(len, parts)) < limit:
            continue
        texts = pc.split_pattern_regex(_one_string(b"".join(parts)), BORDERS[options.sample_by]).flatten()
        if edge:
            texts = pc.ascii_ltrim(texts, "\n")
        if part is not None:  # the last text may go on
            rest = edge + texts[-1].as_py().encode()
            texts = texts[:-1]
            parts, limit = [rest], max(size, 2 * len(rest))  # a long text is not looked through with each block
        yield pa.table({"text": texts.filter(pc.not_equal(texts, ""))})


class _Stream:
    """Blocks of bytes as a file, with a count of the quotes that went by."""

    closed = False

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest, self.quotes = blocks, b"", 0

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = next(self._blocks, b"")
            self.quotes += self._rest.count(b'"')
        given, self._rest = self._rest[:size], self._rest[size:]
        return given

    def close(self) -> None:
        self.closed = True


def _csv(path: str, options: ReadOptions, size: int) -> Blocks:
    """Read CSV by RFC 4180, or TSV, which has no quotes, as texts. Only an empty field is missing."""
    header = next(_csv_rows(path, options, SAMPLE_BYTES), [])
    names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
    tsv, n_rows = options.format == "tsv", 0
    parse = pac.ParseOptions(
        delimiter="\t" if tsv else ",", quote_char=False if tsv else '"', newlines_in_values=not tsv
    )
    convert = pac.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()),
        null_values=["", '""'] if tsv else [""],  # pandas writes two quotes for a row of TSV that has nothing else
        strings_can_be_null=True,
    )
    batches: Any = None
    while names:
        try:
            if batches is None:
                stream, skipped = _Stream(_blocks(path, options.encoding, size)), n_rows
                batches = pac.open_csv(stream, pac.ReadOptions(block_size=size), parse, convert)
            batch = next(batches, None)
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error) or size >= LARGEST_FIELD:
                deque(_csv_rows(path, options, size), maxlen=0)  # raises an error that names the line
                raise
            batches, size = None, size * 8  # a row that is longer than a block is read again in larger blocks
            continue
        if batch is None:
            if not tsv and stream.quotes % 2:  # Arrow takes all that follows an open quote for one field
                deque(_csv_rows(path, options, size), maxlen=0)
            return
        rest = batch.slice(skipped)  # outside of `try`, as in `read_tables`
        skipped -= min(skipped, len(batch))
        n_rows += len(rest)
        yield pa.Table.from_batches([rest]).rename_columns(names)


def _csv_rows(path: str, options: ReadOptions, size: int) -> Iterator[list[str]]:
    """Yield the header and the rows by Python's reader, or name the line at which a file stops being CSV."""
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_FIELD))
    blocks = _blocks(path, options.encoding, size)
    lines = chain.from_iterable(io.StringIO(block.decode(), newline="") for block in blocks)
    if options.format == "tsv":
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines, strict=True)
    n_columns = 0
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
        n_columns = n_columns or len(row)
        if row and len(row) != n_columns:
            raise ValueError(f"line {line} has {len(row)} fields, the first line names {n_columns} columns.")
        if row:
            yield row


def _json(path: str, options: ReadOptions, size: int) -> Blocks:
    """Read JSON lines, or one list of objects or texts, or one object over several lines."""
    keys: dict[str, None] = {}
    line, blocks = 1, _blocks(path, options.encoding, size)
    for block in blocks:
        first = block.lstrip().split(b"\n", 1)[0] if line == 1 else b""
        is_one = first.startswith(b"[")
        if first.startswith(b"{") and suffix_of(path) == ".json":
            try:
                json.loads(first)
            except (ValueError, RecursionError) as error:
                is_one = isinstance(error, ValueError)
        if is_one:
            value = json.loads(block + b"".join(blocks))
            rows = value if isinstance(value, list) else [value]
            rows = [{options.texts[0]: row} if isinstance(row, str) else row for row in rows]
            rows = [_check_object(row, f"element {i}") for i, row in enumerate(rows)]
        else:
            lines = block.decode().split("\n")
            texts = list(filter(None, map(str.strip, lines)))
            try:  # all at once takes half the time of one by one
                rows = json.loads(f"[{','.join(texts)}]")
            except (ValueError, RecursionError):
                rows = []
            if len(rows) != len(texts) or set(map(type, rows)) != {dict}:
                rows = []
                for i, text in enumerate(lines, line):
                    if not text.strip():
                        continue
                    try:
                        value = json.loads(text)
                    except (ValueError, RecursionError) as error:  # also an integer or lists too long for Python
                        raise ValueError(f"line {i} is not JSON that Python reads ({error}).") from None
                    rows.append(_check_object(value, f"line {i}"))
            line += len(lines) - 1
        found = dict.fromkeys(chain.from_iterable(rows))
        keys |= found
        names = options.texts if options.texts_only else {**found, **dict.fromkeys(options.texts)}
        yield pa.table({name: _json_column(name, [row.get(name) for row in rows], options) for name in names})
    if keys:  # an object may lack a text, but not all of them
        for name in options.texts:
            check_column(keys, name)


def _check_object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object with columns: {value!r:.40}.")
    return value


def _json_column(name: str, values: list[Any], options: ReadOptions) -> pa.Array:
    try:
        column = pa.array(values, pa.string() if name in options.texts else None)
        if pa.types.is_floating(column.type) and bool in map(type, values):  # Arrow takes it for 1.0 or 0.0
            raise pa.ArrowTypeError("Expected a number, got bool")
        return column
    except (pa.ArrowException, OverflowError) as error:
        kinds = {type(value).__name__ for value in values if value is not None}
        if name in options.texts:
            raise NotStringsError(
                f"Column {name!r} must hold strings, it holds {' and '.join(sorted(kinds))}."
            ) from error
        if kinds <= {"int", "float"}:  # a double cannot hold such a long integer
            return as_numbers(pa.array([None if value is None else str(value) for value in values], pa.string()))
        raise ValueError(f"column {name!r}: {error}. Give it one type, {ALONE}.") from error


def _parquet(path: str, options: ReadOptions, size: int) -> Blocks:
    with open_seekable(path) as handle:
        file = pq.ParquetFile(handle)
        if not file.metadata.num_rows:
            return
        wanted = list(options.texts) if options.texts_only else None
        yield file.schema_arrow.empty_table()  # the columns are known, and checked, before any row is read
        for batch in file.iter_batches(BLOCK_ROWS, columns=wanted):
            yield pa.Table.from_batches([batch])


def _arrow(path: str, options: ReadOptions, size: int) -> Blocks:
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
