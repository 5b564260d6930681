"""An output appears whole or not at all: one lock, one record of the job it belongs to, one rename.

While NAME is made, two things are beside it. `.NAME.lock` is held by the process that makes it and contains its id.
The folder `.NAME.partial` contains `job.json` (the kind of job, such as `embed` or `train clm`, and its settings) and
`result`, which is renamed when it is complete. A killed job leaves that folder behind: the same job continues from it,
and any other job is refused, so that no work is lost or mixed with another's.
"""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, SoftFileLock, Timeout


if TYPE_CHECKING:
    from datasets import DatasetInfo


JOB = "job.json"
SHOWN_VALUE = 60  # characters of a setting in a message

# Suffixes of file formats and archives: a folder, or a file of another format, must not be named like one.
FILE_SUFFIXES = frozenset(
    ".arrow .avro .bin .bz2 .ckpt .csv .db .duckdb .feather .gguf .gz .h5 .hdf5 .htm .html .ipc .json .jsonl .lance "
    ".md .ndjson .npy .npz .onnx .orc .parquet .pdf .pickle .pkl .pq .pt .pth .safetensors .sqlite .tar .tgz .tsv "
    ".txt .xls .xlsx .xml .xz .yaml .yml .zip .zst".split()
)
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # at least two letters: one is a drive of Windows


class AtomicOutput:
    """An output that is being made, from the lock to the rename.

    Entering the `with` block begins, or continues unfinished work; leaving it releases the lock. Unfinished work is
    kept for the same job to continue, if the job has settings and has written any file; otherwise it is deleted.

    Args:
        path: The file or folder to make.
        kind: The command that makes it, such as `embed` or `train clm`.
        settings: What must be equal for a job to continue, JSON-serializable; None for a job that always starts anew.
        resume: Whether to continue unfinished work of this kind; False deletes it.
        overwrite: Whether to replace an existing output when the new one is complete. None of either means that the
            caller offers no choice: work is continued, an existing output is refused.
        overwritable: Name patterns. A folder may be replaced only if it contains a match, a file only if it is one.
        suffixes: Suffixes of outputs that are one file; a name with the suffix of another format is refused.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        settings: Mapping[str, Any] | None = None,
        *,
        resume: bool | None = None,
        overwrite: bool | None = None,
        overwritable: Sequence[str] = ("*",),
        suffixes: Sequence[str] = (),
    ) -> None:
        _check_name(path, kind, suffixes)
        self.path, self.kind = Path(path).resolve(), kind
        self.folder = self.path.with_name(f".{self.path.name}.partial")
        self._old = self.path.with_name(f".{self.path.name}.old")
        self.result = self.folder / "result"  # where the result is made before it is renamed
        self._settings, self._resume = settings, resume
        # The lock; the lock file of a process that has ended does not matter.
        file = self.path.with_name(f".{self.path.name}.lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file.open("a").close()
        except OSError as error:
            reason = f"cannot be written: {error.strerror} ({error.filename})"
            raise OSError(f"The output {str(self.path)!r} {reason}. Choose another place.") from error
        self._lock = FileLock(file, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = file.read_text(encoding="utf-8").split("\n")[0] if file.is_file() else ""
            raise OSError(
                f"Another process{holder and f' (pid {holder})'} is writing {str(self.path)!r}. Wait until it is "
                "done, or choose another output."
            ) from None
        if not isinstance(self._lock, SoftFileLock):  # which notes its holder itself
            file.write_text(f"{os.getpid()}\n", encoding="utf-8")
        try:
            if self._old.exists() and not self.path.exists():  # a kill between the two renames of `finish`
                os.replace(self._old, self.path)
            _remove(self._old)
            if self.path.exists():
                if not overwrite:
                    ways = "or delete it" if overwrite is None else "delete it, or give --overwrite (`overwrite=True`)"
                    raise FileExistsError(f"The output {str(path)!r} exists; choose another, {ways}.")
                if self.path.is_file():
                    replaceable = any(fnmatch(self.path.name, pattern) for pattern in overwritable)
                else:
                    replaceable = not any(self.path.iterdir()) or any(any(self.path.glob(p)) for p in overwritable)
                if not replaceable:
                    raise ValueError(
                        f"The {'folder' if self.path.is_dir() else 'file'} {str(path)!r} is not what `{kind}` writes; "
                        "--overwrite replaces nothing else. Choose another output."
                    )
            self._saved: Any = None  # the job that left unfinished work
            if self.folder.is_file() or _has_work(self.folder):
                with suppress(OSError, ValueError):
                    self._saved = json.loads((self.folder / JOB).read_text(encoding="utf-8"))
                known = isinstance(self._saved, dict) and "kind" in self._saved
                owner = f"`{self._saved['kind']}`" if known else "an earlier version, or another program"
                if owner != f"`{kind}`":
                    raise ValueError(
                        f"{str(self.folder)!r} contains unfinished work of {owner}, which `{kind}` does not touch. "
                        "Finish it with what began it, choose another output, or delete that folder to discard its "
                        "work."
                    )
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> Self:
        job = json.loads(json.dumps({"kind": self.kind, "settings": self._settings}))
        if self._saved is None or self._settings is None or self._resume is False:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            write_json(job, self.folder / JOB)
            return self
        now, before = job["settings"], self._saved["settings"] or {}
        differing = "; ".join(
            f"`{name}` is {now.get(name)!r:.{SHOWN_VALUE}} and was {before.get(name)!r:.{SHOWN_VALUE}}"
            for name in sorted(now.keys() | before.keys())
            if now.get(name) != before.get(name)
        )
        if differing:
            self.release()
            again = "delete that folder" if self._resume is None else "give `resume=False` (--no-resume)"
            raise ValueError(
                f"An earlier `{self.kind}` left unfinished work in {str(self.folder)!r} under other settings: "
                f"{differing}. Run it again with the same settings to continue, or {again} to start anew."
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._settings is None or not _has_work(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let other processes make this output."""
        with suppress(OSError):
            os.unlink(self._lock.lock_file)  # before the release: afterwards it may be another process's
        self._lock.release()

    def finish(self, result: Path | None = None) -> None:
        """Rename the result, or another path within the folder, to the output, and delete the rest of the folder."""
        if self.path.exists() and (self.path.is_dir() or (result or self.result).is_dir()):
            os.replace(self.path, self._old)
        os.replace(result or self.result, self.path)
        _remove(self._old)
        for rest in self.folder.iterdir():
            if rest.name != JOB:  # deleted last, so that what is left by a kill still says whose it was
                _remove(rest)
        shutil.rmtree(self.folder)


def check_output(path: str | os.PathLike[str], kind: str, **rules: Any) -> None:
    """Refuse what [`AtomicOutput`] refuses by its rules before it is entered, with the same errors."""
    AtomicOutput(path, kind, **rules).release()


def check_folder_name(folder: str | os.PathLike[str]) -> None:
    """Refuse an empty or blank name where a folder is meant that need not be new: `Path("")` is the current one."""
    name = os.fspath(folder)
    if not name.strip():
        raise ValueError(f"The folder {name!r} has a blank name. Give its name, or '.' for the current folder.")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which is renamed to `path` at the end, or deleted if writing fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(content: Any, path: Path, *, sort_keys: bool = False) -> None:
    """Write a JSON file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=sort_keys) + "\n", encoding="utf-8")


def write_dataset_files(
    folder: Path, paths: Iterable[Path], info: "DatasetInfo", fingerprint: str, split: Any = None
) -> None:
    """Write the two files that `datasets.load_from_disk` reads beside the Arrow files of a folder."""
    # `Dataset.save_to_disk` would write the Arrow files once more.
    info.write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": path.name} for path in paths],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None if split is None else str(split),
    }
    write_json(state, folder / "state.json")


def _check_name(path: str | os.PathLike[str], kind: str, suffixes: Sequence[str]) -> None:
    name = os.fspath(path)
    url = URL.match(name)
    if url is not None and not Path(f"{url[1]}:").is_dir():
        raise ValueError(
            f"The output {name!r} is a URL, but `{kind}` writes to local disks. Give a path, and copy the result when "
            "it is complete, or mount that storage."
        )
    if not Path(path).name.strip() or Path(path).resolve() in (Path.cwd(), *Path.cwd().parents):
        raise ValueError(
            f"The output {name!r} has a blank name, or is the current folder or one above it. Give the name of a new "
            "folder."
        )
    suffix = Path(path).suffix
    if suffix.lower() in FILE_SUFFIXES and suffix.lower() not in suffixes:
        other = f", or one that ends in {' or '.join(suffixes)}" if suffixes else ""
        raise ValueError(
            f"The output {name!r} is named as a {suffix} file, which `{kind}` does not write. Choose a name "
            f"without such a suffix{other}."
        )


def _has_work(folder: Path) -> bool:
    """Whether a folder contains any file except the record of its job and temporary files."""
    return any(path.is_file() and path.name != JOB and path.suffix != ".tmp" for path in folder.rglob("*"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
