"""What is in a file of texts, block by block as Arrow tables.

Each format has one reader, the same for datasets that stream and for those that are kept, so that the same file gives
the same texts and the same errors.

Left out: which files a name means, and how files of different columns become one dataset (`sources`).
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
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pac
import pyarrow.json as paj
import pyarrow.parquet as pq

from gpt_embeddings.exceptions import ColumnError, NotStringsError, UnreadableFileError
from gpt_embeddings.text.columns import check_column, is_text_type, plain_table, types_message
from gpt_embeddings.text.discovery import display_name, open_bytes, open_seekable, suffix_of


SAMPLE_UNITS = ("line", "paragraph", "document", "endoftext")
PARAGRAPHS = b"\n\n"
END_OF_TEXT = b"<|endoftext|>"  # as GPT-2's training text has it between documents

BLOCK_BYTES = 2**24  # of a file, read at a time
SAMPLE_BYTES = 2**18  # of a file, read to learn its columns
BLOCK_ROWS = 2**13  # of CSV and Parquet
LARGEST_FIELD = 2**28  # characters of a CSV field; beyond it a quote was not closed
JSON_THREADS = 32  # parts of a block of JSON lines that are parsed at once

READING_ERRORS = (OSError, EOFError, ValueError, csv.Error, pa.ArrowException, zlib.error, lzma.LZMAError)

# Paragraphs end where lines of blanks stand; these are all characters of which `str.isspace` is true.
_BLANK = (
    rb"(?:[ \t\x0b\x0c\x1c-\x1f]|\xc2[\x85\xa0]|\xe1\x9a\x80|"
    rb"\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80)"
)
BLANKS = re.compile(rb"\n" + _BLANK + rb"+(?=\n|\Z)")
BLANKS_FIRST = re.compile(rb"\A" + _BLANK + rb"+(?=\n|\Z)")
# A line of CSV that is a record by itself.
RECORD = r'^(?:[^",]*|"(?:[^"]|"")*")(?:,(?:[^",]*|"(?:[^"]|"")*"))*\r?$'
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$"  # 007 is no number: its zeros would be lost
CHANGED = re.compile(r"Column\(/(.+)\) changed from (\w+) to (\w+) in row")  # what Arrow's JSON reader says

Blocks: TypeAlias = Iterator[pa.Table]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How files of one format are read."""

    format: str
    """One of the values of `inputs.FORMATS`."""
    texts: tuple[str, ...] = ()
    """The columns that hold texts."""
    texts_only: bool = False
    """Whether the other columns are left where they are."""
    sample_by: str = "line"
    """What is a row of a text file, one of `SAMPLE_UNITS`."""
    encoding: str = "utf-8"
    """Of text, CSV and JSON."""


def read_tables(
    path: str,
    reading: ReadOptions,
    schema: pa.Schema | None = None,
    *,
    part: int | None = None,
    size: int = BLOCK_BYTES,
) -> Blocks:
    """Read a file block by block; a block has the types that the schema wants where it can, else its own.

    Args:
        path: The file.
        reading: How to read it.
        schema: Types of columns that are known.
        part: The one row group of a Parquet file to read; None reads them all.
        size: Bytes of a block.

    Raises:
        ColumnError: A column of texts is missing or holds something else.
        UnreadableFileError: The file is broken, or in another encoding.
    """
    read = _parquet if reading.format == "parquet" else READERS[reading.format]
    tables = read(path, reading, schema, size) if part is None else _parquet(path, reading, schema, size, part)
    while True:
        # Only reading is tried: a generator that is let go of at the end of the program finds no names to compare.
        try:
            table = next(tables, None)
            if table is not None:
                table = _check_texts(plain_table(table), reading)
        except ColumnError as error:
            raise type(error)(f"{display_name(path)}: {error}") from error
        except READING_ERRORS as error:
            raise UnreadableFileError(f"{display_name(path)} could not be read: {_advice(error, reading)}") from error
        if table is None:
            return
        yield table


def sample_schema(path: str, reading: ReadOptions) -> pa.Schema | None:
    """Return the columns that the beginning of a file has, or None where the file has no rows.

    Raises:
        ColumnError: A column of texts is missing or holds something else.
        UnreadableFileError: The file is broken, or in another encoding.
    """
    if reading.format == "text":
        with open_bytes(path) as file:
            return pa.schema({"text": pa.string()}) if file.read(1) else None
    for table in read_tables(path, reading, size=SAMPLE_BYTES):
        if table.num_rows or (reading.format == "parquet" and parquet_counts(path)[0]):
            return table.schema
    return None


def parquet_counts(path: str) -> tuple[int, int]:
    """Return the number of rows of a Parquet file, and that of its row groups."""
    with open_seekable(path) as file:
        metadata = pq.ParquetFile(file).metadata
        return int(metadata.num_rows), int(metadata.num_row_groups)


def _check_texts(table: pa.Table, reading: ReadOptions) -> pa.Table:
    """Return a block with the columns to be read; refuse it where a column of texts is missing or is none."""
    if reading.format == "text":
        return table
    for name in reading.texts:
        check_column(table.column_names, name)
        if not is_text_type(table[name].type):
            raise NotStringsError(f"Column {name!r} must hold strings, it holds {table[name].type}.")
        if reading.format in ("parquet", "arrow"):  # which hold bytes that nobody has looked at
            try:
                table[name].validate(full=True)
            except pa.ArrowInvalid as error:
                raise ValueError(f"a row is not valid UTF-8 ({error}).") from error
    return table.select(list(dict.fromkeys(reading.texts))) if reading.texts_only else table


def _advice(error: Exception, reading: ReadOptions) -> str:
    if isinstance(error, UnicodeError) and reading.encoding.lower() not in ("utf-8", "utf8"):
        return f"it is not in the encoding {reading.encoding!r} ({error})."
    return str(error) or type(error).__name__


def _blocks(path: str, encoding: str, size: int) -> Iterator[bytes]:
    """Give a file as UTF-8 in blocks that end with a line, without its byte-order mark.

    Raises:
        UnreadableFileError: It is not UTF-8, and no other encoding was given.
    """
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


def _text(path: str, reading: ReadOptions, schema: pa.Schema | None, size: int) -> Blocks:
    blocks = (_plain_line_ends(block) for block in _blocks(path, reading.encoding, size))
    if reading.sample_by == "line":
        for block in blocks:
            # Splitting in Arrow makes no Python string of a line.
            lines = pc.split_pattern(_one_string(block.removesuffix(b"\n")), "\n").flatten()
            yield pa.table({"text": lines})
    elif reading.sample_by == "document":
        if text := b"".join(blocks):
            yield pa.table({"text": _one_string(text)})
    else:
        border = PARAGRAPHS if reading.sample_by == "paragraph" else END_OF_TEXT
        for texts in _between(blocks, border, size):
            yield pa.table({"text": texts})


def _plain_line_ends(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block


def _between(blocks: Iterator[bytes], border: bytes, size: int) -> Iterator[pa.Array]:
    r"""Give what stands between borders: paragraphs between `\n\n`, or documents; what is empty is no text.

    >>> [texts.to_pylist() for texts in _between(iter([b"one\n \n\ntwo\n", b"lines\n"]), b"\n\n", 2**20)]
    [['one', 'two\nlines']]
    """
    paragraphs = border == PARAGRAPHS
    text, limit = b"", size
    parts: list[bytes] = []
    for block in blocks:
        parts.append(block)
        if sum(map(len, parts)) >= limit:
            text = b"".join(parts)
            text = _without_blanks(text) if paragraphs else text
            whole, found, text = text.rpartition(border)
            if found:
                yield _split(whole, border)
            parts, limit = [text], max(size, 2 * len(text))  # a long text is not looked through with each block
    text = b"".join(parts)
    yield _split(_without_blanks(text) if paragraphs else text, border)


def _without_blanks(text: bytes) -> bytes:
    """Empty the lines that hold nothing but blanks, and leave out those at the beginning."""
    text = BLANKS_FIRST.sub(b"", text)
    # A search is several times as fast as a substitution, and most texts have no such lines.
    return (BLANKS.sub(b"\n", text) if BLANKS.search(text) else text).lstrip(b"\n")


def _split(text: bytes, border: bytes) -> pa.Array:
    if border == PARAGRAPHS:
        text = text.rstrip(b"\n")
    texts = pc.split_pattern(_one_string(text), border.decode()).flatten()
    if border == PARAGRAPHS:
        texts = pc.ascii_ltrim(texts, "\n")  # what an odd number of line ends leaves
    return texts.filter(pc.not_equal(texts, ""))


def _csv(path: str, reading: ReadOptions, schema: pa.Schema | None, size: int) -> Blocks:
    """Read CSV by RFC 4180, or TSV, which has no quotes; only an empty field is missing."""
    records = _records(_blocks(path, reading.encoding, SAMPLE_BYTES), reading)
    names = [name or f"Unnamed: {i}" for i, name in enumerate(next((row for row in records if row), ()))]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two columns have the name {min(twice)!r}.")
    for name in reading.texts if names else ():
        check_column(names, name)
    for table in _csv_texts(path, reading, size, names):
        columns = {}
        for name in names if not reading.texts_only else dict.fromkeys(reading.texts):
            wanted = schema.field(name).type if schema is not None and name in schema.names else None
            is_text = name in reading.texts or wanted == pa.string()
            columns[name] = table[name] if is_text else _guess_type(table[name])
        yield pa.table(columns)


def _csv_texts(path: str, reading: ReadOptions, size: int, names: list[str]) -> Blocks:
    """Give the fields as texts: by Arrow while each line is a record by itself, then by Python's strict reader."""
    blocks, first = _blocks(path, reading.encoding, size), True
    tsv = reading.format == "tsv"
    nothing = ["", '""'] if tsv else [""]  # pandas writes two quotes where a row has nothing else
    convert = pac.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=nothing, strings_can_be_null=True
    )
    parse = pac.ParseOptions(delimiter="\t" if tsv else ",", quote_char=False if tsv else '"')
    for block in blocks:
        block = block.lstrip(b"\r\n")
        lines = pc.split_pattern(_one_string(block.rstrip(b"\r\n")), "\n").flatten()
        if not tsv and b'"' in block and not pc.all(pc.match_substring_regex(lines, RECORD)).as_py():
            yield from _strict_csv(path, reading, size, names, chain([block], blocks), first)
            return
        read = pac.ReadOptions(column_names=names, skip_rows=int(first), block_size=len(block) + 1)
        try:
            if len(lines) > first and block:
                yield pac.read_csv(io.BytesIO(block), read, parse, convert)
        except pa.ArrowInvalid:
            _find_fault(path, reading, size, len(names))
            raise
        first = False


def _strict_csv(
    path: str, reading: ReadOptions, size: int, names: list[str], blocks: Iterator[bytes], first: bool
) -> Blocks:
    rows = _records(blocks, reading)
    if first:
        next(rows)
    while True:
        try:
            block = [row for row in islice(rows, BLOCK_ROWS) if row]
        except csv.Error:
            block = [[]]
        if any(len(row) != len(names) for row in block):
            _find_fault(path, reading, size, len(names))
        if not block:
            return
        texts = [pa.array(values, pa.string()) for values in zip(*block, strict=True)]
        yield pa.table([pc.if_else(pc.equal(column, ""), None, column) for column in texts], names)


def _records(blocks: Iterator[bytes], reading: ReadOptions) -> Any:
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_FIELD))
    lines = (line for block in blocks for line in io.StringIO(block.decode(), newline=""))
    if reading.format == "tsv":
        return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return csv.reader(lines, strict=True)


def _find_fault(path: str, reading: ReadOptions, size: int, n_columns: int) -> None:
    """Read a file again to say at which line it stops being CSV."""
    rows = _records(_blocks(path, reading.encoding, size), reading)
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise ValueError(
                f"line {line}: a field that begins with a quote there has no quote at its end ({error}). Quotes "
                "inside such a field are doubled."
            ) from None
        if row is None:
            return
        if row and len(row) != n_columns:
            raise ValueError(f"line {line} has {len(row)} of the {n_columns} fields that the first line names.")


def _guess_type(texts: pa.Array) -> pa.Array:
    """Return numbers or truth values where all texts of a column are such, else the texts."""
    given = texts.drop_null()
    if not len(given):
        return pa.nulls(len(texts))
    if pc.all(pc.is_in(given, pa.array(["True", "False", "true", "false"]))).as_py():
        return texts.cast(pa.bool_())
    if not pc.all(pc.match_substring_regex(given, NUMBER)).as_py():
        return texts
    whole = not pc.any(pc.match_substring_regex(given, "[.eE]")).as_py()
    try:
        return texts.cast(pa.int64() if whole else pa.float64())
    except pa.ArrowInvalid:
        return texts  # too large for 64 bits: its digits are kept


def _json(path: str, reading: ReadOptions, schema: pa.Schema | None, size: int) -> Blocks:
    """Read JSON lines, or one JSON list of objects or texts."""
    line = 1
    blocks = _blocks(path, reading.encoding, size)
    for block in blocks:
        if line == 1 and _is_one_value(block, path):
            lines = _as_lines(block + b"".join(blocks), reading)
            yield _check_keys(_json_table(lines, reading, schema, None), lines, reading)
            return
        if block.strip():
            table = _json_table(block, reading, schema, line)
            yield _check_keys(table, block, reading) if line == 1 else table
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


def _as_lines(content: bytes, reading: ReadOptions) -> bytes:
    value = json.loads(content)
    rows = value if isinstance(value, list) else [value]
    rows = [{reading.texts[0]: row} if isinstance(row, str) else row for row in rows]
    return "\n".join(json.dumps(row) for row in rows).encode()


def _json_table(block: bytes, reading: ReadOptions, schema: pa.Schema | None, line: int | None) -> pa.Table:
    """Parse lines: with the types that are known, else with their own; times stay the texts that they are."""
    texts = pa.schema([(name, pa.string()) for name in reading.texts])
    if schema is not None and not reading.texts_only:
        known = pa.schema([*texts, *(field for field in schema if field.name not in texts.names)])
        known = pa.schema([field for field in known if not pa.types.is_null(field.type)])
        try:
            return _parse(block, known, "infer")
        except pa.ArrowInvalid:
            pass  # it has other types: they are told
    try:
        table = _parse(block, texts, "ignore" if reading.texts_only else "infer")
        times = [field.with_type(_without_times(field.type)) for field in table.schema]
        if pa.schema(times).equals(table.schema.remove_metadata()):
            return table
        return _parse(block, pa.schema(times), "infer")
    except pa.ArrowInvalid as error:
        if changed := CHANGED.search(str(error)):
            name, one, other = changed.groups()
            if name in reading.texts:
                raise NotStringsError(f"Column {name!r} must hold strings, it holds a {other}.") from error
            raise ValueError(types_message(name.split("/")[0], one, other)) from error
        _find_json_fault(block, line)
        raise


def _check_keys(table: pa.Table, block: bytes, reading: ReadOptions) -> pa.Table:
    """Refuse a file without a key for its texts: Arrow gives a column of nulls then."""
    for name in reading.texts:
        if table.num_rows and table[name].null_count == table.num_rows and json.dumps(name).encode() not in block:
            check_column(_parse(block, pa.schema([]), "infer").column_names, name)
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
    """Say at which line JSON is broken, if Python's own reader finds it."""
    for i, row in enumerate(block.split(b"\n")):
        try:
            value = json.loads(row) if row.strip() else {}
        except ValueError as error:
            raise ValueError(f"line {i + (line or 1)} is not JSON ({error}).") from None
        if not isinstance(value, dict):
            raise ValueError(f"line {i + (line or 1)} is not an object with columns: {row[:40].decode()!r}.")


def _parquet(path: str, reading: ReadOptions, schema: pa.Schema | None, size: int, part: int | None = None) -> Blocks:
    with open_seekable(path) as handle:
        file = pq.ParquetFile(handle)
        names = file.schema_arrow.names
        wanted = [name for name in names if name in reading.texts] if reading.texts_only else None
        if wanted is not None and len(wanted) < len(set(reading.texts)):
            wanted = None  # what is missing is told with all there are
        groups = None if part is None else [part]
        yield file.schema_arrow.empty_table()  # the columns are known before any row is read
        for batch in file.iter_batches(BLOCK_ROWS, row_groups=groups, columns=wanted):
            yield pa.Table.from_batches([batch])


def _arrow(path: str, reading: ReadOptions, schema: pa.Schema | None, size: int) -> Blocks:
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
