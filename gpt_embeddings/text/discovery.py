"""What goes in: the files that a name means, and their bytes, decompressed.

A name is a name: what exists is taken literally, whatever characters it has.

Left out: what the bytes say (`text.files`), and datasets (`text.sources`).
"""

import atexit
import bz2
import glob
import gzip
import hashlib
import io
import lzma
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa


FORMATS = {
    ".arrow": "arrow",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".md": "text",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tsv": "tsv",
    ".txt": "text",
}
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")

_spooled: dict[str, str] = {}  # copies of the standard input, with their digests


def find_files(inputs: Iterable[str]) -> list[str]:
    """Return the files that names mean, in the order of the names.

    What exists is taken literally. Of the rest, `-` is the standard input, copied to a file that is gone when the
    program ends; a name with `*`, `?` or `[` is a pattern, and its files come sorted. A folder means the files in it
    and below it that have a known suffix, sorted; names that begin with `.` or `_` and README.md are passed over.
    Addresses such as `https://` and `hf://` are as `fsspec` has them.

    Raises:
        FileNotFoundError: A name means nothing that exists.
    """
    found: list[str] = []
    for name in inputs:
        if name == "-" and not os.path.exists(name):
            found.append(_spool_standard_input())
        elif "://" in name:
            found += _find_remote(name)
        elif os.path.exists(name):
            found += _in_folder(name) if os.path.isdir(name) else [name]
        elif glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise FileNotFoundError(f"No file matches the input {name!r}.")
            found += [path for match in matches for path in (_in_folder(match) if os.path.isdir(match) else [match])]
        else:
            raise FileNotFoundError(f"Input {name!r} is not a file.")
    return found


def format_of(paths: Sequence[str]) -> str:
    """Return the one format that files have by their suffixes, a compression's suffix aside.

    Raises:
        ValueError: A suffix is unknown, or they have more than one format.
    """
    suffixes = {}
    for path in paths:
        suffix = suffix_of(path)
        if suffix not in FORMATS:
            raise ValueError(
                f"Input {path!r} has the unknown suffix {suffix!r}; known are {', '.join(FORMATS)}, also with "
                f"{', '.join(_COMPRESSIONS)} behind them."
            )
        suffixes[suffix] = FORMATS[suffix]
    if len(set(suffixes.values())) > 1:
        raise ValueError(
            f"The inputs mix the formats {', '.join(sorted(suffixes))}; give files of one format, of a folder by a "
            f"pattern such as 'folder/**/*{min(suffixes)}'."
        )
    return next(iter(suffixes.values()))


def suffix_of(path: str) -> str:
    """Return the suffix that tells the format, in lower case.

    >>> suffix_of("https://example.org/reviews.JSONL.gz?download=1")
    '.jsonl'
    """
    inner, last = os.path.splitext(urlsplit(path).path if "://" in path else path)
    if last.lower() in _COMPRESSIONS:
        last = os.path.splitext(inner)[1]
    return last.lower()


def fingerprint(path: str) -> str:
    """Return what changes when a file does: its name, size and time; for another place what that says of it."""
    if path in _spooled:
        return _spooled[path]
    if "://" in path:
        import fsspec

        system, inner = fsspec.core.url_to_fs(path)
        return f"{path} {system.checksum(inner)}"
    facts = os.stat(path)
    return f"{os.path.realpath(path)} {facts.st_size} {facts.st_mtime_ns}"


def display_name(path: str) -> str:
    """Return a file's name for messages."""
    return "The standard input" if path in _spooled else path


@contextmanager
def open_bytes(path: str) -> Iterator[Any]:
    """Open a file to read its bytes in order, decompressed."""
    if "://" in path:
        import fsspec

        opened = fsspec.open(path, "rb")
    else:
        opened = open(path, "rb")
    last = os.path.splitext(urlsplit(path).path if "://" in path else path)[1].lower()
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zst}
    with opened as file:
        if last not in openers:
            yield file
        else:
            with openers[last](file) as decompressed:
                yield decompressed


def _open_zst(file: Any) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


@contextmanager
def open_seekable(path: str) -> Iterator[Any]:
    """Open a file to read its bytes in any order."""
    if "://" in path or os.path.splitext(path)[1].lower() in _COMPRESSIONS:
        with open_bytes(path) as file:
            seekable = os.path.splitext(path)[1].lower() not in _COMPRESSIONS
            yield file if seekable else io.BytesIO(file.read())
    else:
        with pa.OSFile(path, "rb") as file:
            yield file


def _spool_standard_input() -> str:
    """Copy the standard input to a file, which can be read again, and return its name."""
    folder = tempfile.mkdtemp(prefix="gpt-embeddings-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path, digest = os.path.join(folder, "input.txt"), hashlib.sha256()
    with open(path, "wb") as file:
        while block := sys.stdin.buffer.read(2**20):
            digest.update(block)
            file.write(block)
    _spooled[path] = digest.hexdigest()
    return path


def _find_remote(name: str) -> list[str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(name)
    if name.startswith(("http://", "https://")):
        return [name]  # `?` begins a query there, and what is a folder cannot be told
    if system.isdir(path):
        inside = system.find(path)
        found = sorted(file for file in inside if suffix_of(file) in FORMATS and not _is_passed_over(file, path))
    elif system.exists(path):
        return [name]
    else:
        found = sorted(system.glob(path)) if glob.has_magic(path) else []
    if not found:
        raise FileNotFoundError(f"There is no file {name!r}.")
    return [system.unstrip_protocol(file) for file in found]


def _in_folder(folder: str) -> list[str]:
    files = sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())
    files = [path for path in files if not _is_passed_over(path, folder)]
    known = [path for path in files if suffix_of(path) in FORMATS]
    if not known:
        raise FileNotFoundError(f"The folder {folder!r} holds no file of a known suffix ({', '.join(FORMATS)}).")
    if others := sorted(set(files) - set(known)):
        names = ", ".join(os.path.relpath(path, folder) for path in others[:3]) + ", ..." * (len(others) > 3)
        warnings.warn(f"{folder}: {len(others)} files of unknown suffixes are not read: {names}", stacklevel=3)
    return known


def _is_passed_over(path: str, folder: str) -> bool:
    names = os.path.relpath(path, folder).split(os.sep)
    return names[-1].lower() == "readme.md" or any(name.startswith((".", "_")) for name in names)
