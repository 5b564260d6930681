"""Find input files by name, folder, pattern or address, and open them decompressed.

A name that exists is taken literally, whatever characters it has. Only the standard library is imported at the top:
the command line runs this file by its path, to refuse missing files before it imports PyTorch.
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
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
}


def _open_zst(file: Any) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


_COMPRESSIONS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zst}

_copies: dict[str, str] = {}  # of the standard input, each with its digest


def find_files(inputs: Iterable[str]) -> list[str]:
    """Return the files for some names, in the order of the names; those of a pattern or folder are sorted.

    `-` is the standard input, which is copied to a temporary file. A folder stands for the files in and below it that
    have a known suffix, except README.md and names that begin with `.` or `_`.
    """
    found: list[str] = []
    for name in inputs:
        if name == "-" and not os.path.exists(name):  # copied, so that it can be read again
            folder = tempfile.mkdtemp(prefix="gpt-embeddings-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            path, digest = os.path.join(folder, "input.txt"), hashlib.sha256()
            with open(path, "wb") as file:
                while block := sys.stdin.buffer.read(2**20):
                    digest.update(block)
                    file.write(block)
            _copies[path] = digest.hexdigest()
            found.append(path)
        elif "://" in name:
            import fsspec

            system, path = fsspec.core.url_to_fs(name)
            if name.startswith(("http://", "https://")):
                matches = [name]  # `?` begins a query, and folders cannot be listed
            elif system.isdir(path):
                inside = sorted(file for file in system.find(path) if suffix_of(file) in FORMATS)
                matches = [system.unstrip_protocol(file) for file in inside if not _is_skipped(file, path)]
            elif system.exists(path):
                matches = [name]
            else:
                inside = sorted(system.glob(path)) if glob.has_magic(path) else []
                matches = [system.unstrip_protocol(file) for file in inside]
            if not matches:
                raise FileNotFoundError(f"There is no file {name!r}.")
            found += matches
        elif os.path.exists(name):
            found += _in_folder(name) if os.path.isdir(name) else [name]
        elif glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise FileNotFoundError(f"No file matches the input {name!r}.")
            found += [path for match in matches for path in (_in_folder(match) if os.path.isdir(match) else [match])]
        else:
            raise FileNotFoundError(f"The input {name!r} does not exist.")
    return found


def may_be_on_hub(name: str) -> bool:
    """Return whether a name could be that of a dataset on the Hub, where it is `name` or `user/name`."""
    is_file = name == "-" or "://" in name or os.path.exists(name) or glob.has_magic(name) or is_path(name)
    return not is_file and suffix_of(name) not in FORMATS


def is_path(name: str) -> bool:
    """Return whether a name cannot be one on the Hub."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def format_of(paths: Sequence[str]) -> str:
    """Return the common format of files by their suffixes."""
    suffixes = {}
    for path in paths:
        suffix = suffix_of(path)
        if suffix not in FORMATS:
            raise ValueError(
                f"Input {path!r} has the unknown suffix {suffix!r}. Known suffixes are {', '.join(FORMATS)}, also "
                f"followed by {', '.join(_COMPRESSIONS)}."
            )
        suffixes[suffix] = FORMATS[suffix]
    if len(set(suffixes.values())) > 1:
        raise ValueError(
            f"The inputs mix the formats {', '.join(sorted(suffixes))}. Give files of one format; select those of a "
            f"folder by a pattern such as 'folder/**/*{min(suffixes)}'."
        )
    return next(iter(suffixes.values()))


def suffix_of(path: str) -> str:
    """Return the suffix of a file's format in lower case, without that of a compression.

    >>> suffix_of("https://example.org/reviews.JSONL.gz?download=1")
    '.jsonl'
    """
    inner, last = os.path.splitext(urlsplit(path).path if "://" in path else path)
    if last.lower() in _COMPRESSIONS:
        last = os.path.splitext(inner)[1]
    return last.lower()


def fingerprint(path: str) -> str:
    """Return a text that changes when a file does: its name, size and time, or what a remote file system reports."""
    if path in _copies:
        return _copies[path]
    if "://" in path:
        import fsspec

        system, inner = fsspec.core.url_to_fs(path)
        return f"{path} {system.checksum(inner)}"
    status = os.stat(path)
    return f"{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns}"


def display_name(path: str) -> str:
    """Return a file's name for messages."""
    return "The standard input" if path in _copies else path


@contextmanager
def open_bytes(path: str) -> Iterator[Any]:
    """Open a file to read its decompressed bytes in order."""
    if "://" in path:
        import fsspec

        opened = fsspec.open(path, "rb")
    else:
        opened = open(path, "rb")
    suffix = os.path.splitext(urlsplit(path).path if "://" in path else path)[1].lower()
    with opened as file, _COMPRESSIONS.get(suffix, nullcontext)(file) as content:
        yield content


@contextmanager
def open_seekable(path: str) -> Iterator[Any]:
    """Open a file to read its decompressed bytes in any order."""
    if os.path.splitext(path)[1].lower() in _COMPRESSIONS:
        with open_bytes(path) as file:
            yield io.BytesIO(file.read())
    else:
        import pyarrow as pa

        with open_bytes(path) if "://" in path else pa.OSFile(path, "rb") as file:
            yield file


def _in_folder(folder: str) -> list[str]:
    files = sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())
    files = [path for path in files if not _is_skipped(path, folder)]
    known = [path for path in files if suffix_of(path) in FORMATS]
    if not known:
        raise FileNotFoundError(f"The folder {folder!r} holds no file of a known suffix ({', '.join(FORMATS)}).")
    if others := sorted(set(files) - set(known)):
        names = ", ".join(os.path.relpath(path, folder) for path in others[:3]) + ", ..." * (len(others) > 3)
        warnings.warn(f"{folder}: {len(others)} files of unknown suffixes are not read: {names}", stacklevel=3)
    return known


def _is_skipped(path: str, folder: str) -> bool:
    names = os.path.relpath(path, folder).split(os.sep)
    return names[-1].lower() == "readme.md" or any(name.startswith((".", "_")) for name in names)
