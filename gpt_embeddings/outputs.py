"""An output appears whole or not at all: one lock, one mark of the job that it belongs to, one rename.

While NAME is made, two things are beside it. `.NAME.lock` is held by the process that makes it, and holds its number.
The folder `.NAME.partial` has `job.json`, which says what is made there (its kind, such as `embed` or `train clm`, and
its settings), and `result`, which gets the name when it is whole. A job that was killed leaves that folder: the same
job goes on from it, and any other is refused, so that nobody's work is lost or mixed with another's.

Left out: what a job keeps in its folder to go on from (`embedding.shards`, `training.runs`, `windows.stored_windows`).
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
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, SoftFileLock, Timeout


if TYPE_CHECKING:
    from datasets import DatasetInfo


JOB = "job.json"
SHOWN_VALUE = 60  # characters of a setting in a message

# Suffixes that say what a file holds, or how it is packed: nobody looks for a folder, or for another format, there.
FILE_SUFFIXES = frozenset(
    ".arrow .avro .bin .bz2 .ckpt .csv .db .duckdb .feather .gguf .gz .h5 .hdf5 .htm .html .ipc .json .jsonl .lance "
    ".md .ndjson .npy .npz .onnx .orc .parquet .pdf .pickle .pkl .pq .pt .pth .safetensors .sqlite .tar .tgz .tsv "
    ".txt .xls .xlsx .xml .xz .yaml .yml .zip .zst".split()
)
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # of two letters at least: one is a drive of Windows


class AtomicOutput:
    """An output that is being made, from the lock to the rename.

    Leaving the `with` block lets go of the lock. What was not finished stays for the same job to go on from, if it has
    settings and anything was kept; else it is deleted.

    Args:
        path: The file or folder to make.
        kind: What makes it, as people call it: `embed`, `train clm`.
        settings: What must be the same for a job to go on, JSON-serialisable; None for a job that begins anew always.
        resume: Whether unfinished work of this kind is continued; False throws it away. None where the caller leaves
            no choice, and continues.
        overwrite: Whether an existing output is replaced when the new one is whole. None where there is no choice, and
            it is refused.
        overwritable: Patterns of names, of which a folder that may be replaced holds one, or a file has one.
        suffixes: Of an output that is one file; a name with that of any other file is refused.

    Raises:
        FileExistsError: The output exists.
        OSError: Another process is making this output.
        ValueError: Unfinished work of another job is there, or the output is nothing that may be replaced.
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
        check_output(path, kind, overwrite=overwrite, overwritable=overwritable, suffixes=suffixes)
        self.path, self.kind = Path(path).resolve(), kind
        self.folder = _partial(self.path)
        self._old = self.path.with_name(f".{self.path.name}.old")
        self._resumable = settings is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        try:
            self._put_back()
            _check_place(path, kind, overwrite, overwritable)
            self._open(settings, resume)
        except BaseException:
            _let_go(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._resumable or not _has_work(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
        _let_go(self._lock)

    @property
    def result(self) -> Path:
        """Where the result is made before it gets its name."""
        return self.folder / "result"

    def finish(self, result: Path | None = None) -> None:
        """Give the result, or a path within the folder that is it, the name of the output, and delete the rest."""
        if self.path.exists() and (self.path.is_dir() or (result or self.result).is_dir()):
            os.replace(self.path, self._old)
        os.replace(result or self.result, self.path)
        _remove(self._old)
        for rest in self.folder.iterdir():
            if rest.name != JOB:  # it goes last, so that a folder which is left here still says whose it was
                _remove(rest)
        shutil.rmtree(self.folder)

    def _open(self, settings: Mapping[str, Any] | None, resume: bool | None) -> None:
        job = json.loads(json.dumps({"kind": self.kind, "settings": settings}))
        saved = _saved_job(self.path)
        if saved is None or settings is None or resume is False:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            write_json(job, self.folder / JOB)
        elif differing := _differences(job["settings"], saved["settings"] or {}):
            again = "delete that folder" if resume is None else "give `resume=False` (--no-resume)"
            raise ValueError(
                f"An earlier `{self.kind}` left unfinished work in {str(self.folder)!r} under other settings: "
                f"{differing}. Repeat that run as it was to go on, or {again} to begin anew."
            )

    def _put_back(self) -> None:
        """Mend what a process left that was killed between the two renames of a replacement."""
        if not self._old.exists():
            return
        if self.path.exists():
            _remove(self._old)
        else:
            os.replace(self._old, self.path)


def check_output(
    path: str | os.PathLike[str],
    kind: str,
    *,
    overwrite: bool | None = None,
    overwritable: Sequence[str] = ("*",),
    suffixes: Sequence[str] = (),
) -> None:
    """Refuse, before any work is done, an output that exists, has a misleading name, or that another job has begun.

    Args:
        path: The file or folder to make.
        kind: What is to make it.
        overwrite: Whether it may be replaced; None where there is no choice.
        overwritable: Patterns of names, of which a folder that may be replaced holds one, or a file has one.
        suffixes: Of an output that is one file; a name with that of any other file is refused.

    Raises:
        FileExistsError: The output exists.
        ValueError: Its name says a place or a format that this kind does not write, unfinished work of another kind is
            there, or the output is nothing that may be replaced.
    """
    _check_name(path, kind, suffixes)
    _check_place(path, kind, overwrite, overwritable)
    place = Path(path).resolve()
    job = _saved_job(place)
    if job is not None and job["kind"] != kind:
        _let_go(_lock(place))  # of one that is being made, its process is to be told
        raise ValueError(
            f"{str(_partial(place))!r} holds unfinished work of `{job['kind']}`, which `{kind}` does not touch. Give "
            "that command again to finish it, choose another output, or delete that folder to throw its work away."
        )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give the path of a file to write, which takes the name of another in the end, or is gone where writing fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(content: Any, path: Path, *, sort_keys: bool = False) -> None:
    """Write a file of JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=sort_keys) + "\n", encoding="utf-8")


def write_dataset_files(
    folder: Path, paths: Iterable[Path], info: "DatasetInfo", fingerprint: str, split: Any = None
) -> None:
    """Write the two files that `datasets.load_from_disk` reads beside the Arrow files of a folder."""
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
    url = URL.match(os.fspath(path))
    if url is not None and not Path(f"{url[1]}:").is_dir():
        raise ValueError(
            f"The output {os.fspath(path)!r} is an address, and `{kind}` writes to this machine's disks. Give a path, "
            "and copy the result when it is whole, or mount that storage here."
        )
    suffix = Path(path).suffix
    if suffix.lower() in FILE_SUFFIXES and suffix.lower() not in suffixes:
        other = f", or one that ends in {' or '.join(suffixes)}" if suffixes else ""
        raise ValueError(
            f"The output {os.fspath(path)!r} is named as a {suffix} file, which `{kind}` does not write. Choose a "
            f"name without such a suffix{other}."
        )


def _check_place(path: str | os.PathLike[str], kind: str, overwrite: bool | None, overwritable: Sequence[str]) -> None:
    place = Path(path).resolve()
    if place.exists():
        if not overwrite:
            ways = "or delete it" if overwrite is None else "delete it, or give --overwrite (`overwrite=True`)"
            raise FileExistsError(f"The output {str(path)!r} exists; choose another, {ways}.")
        if not _may_overwrite(place, overwritable):
            what = "folder" if place.is_dir() else "file"
            raise ValueError(
                f"The {what} {str(path)!r} is not what `{kind}` writes; --overwrite replaces nothing else. Choose "
                "another output."
            )


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _lock(path: Path) -> FileLock:
    """Return the lock of an output, held; the lock of a process that has ended is no obstacle."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), thread_local=False)
    place = Path(lock.lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = place.read_text(encoding="utf-8").split("\n")[0] if place.is_file() else ""
        raise OSError(
            f"Another process{holder and f' (pid {holder})'} is writing {str(path)!r}. Wait until it is done, or "
            "choose another output."
        ) from None
    if not isinstance(lock, SoftFileLock):  # which notes its holder by itself
        place.write_text(f"{os.getpid()}\n", encoding="utf-8")
    return lock


def _let_go(lock: FileLock) -> None:
    with suppress(OSError):
        os.unlink(lock.lock_file)  # before it is let go: afterwards it may be another's
    lock.release()


def _has_work(folder: Path) -> bool:
    """Whether a folder holds any file but the mark of its job, and halves of files."""
    return any(path.is_file() and path.name != JOB and path.suffix != ".tmp" for path in folder.rglob("*"))


def _saved_job(path: Path) -> dict[str, Any] | None:
    """Return the job of which unfinished work is beside an output, None where there is no work to be lost."""
    folder = _partial(path)
    if not folder.is_file() and not _has_work(folder):
        return None
    try:
        job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        job = None
    if not isinstance(job, dict) or job.keys() != {"kind", "settings"}:
        raise ValueError(
            f"{str(folder)!r} holds unfinished work of an earlier version, or of another program. It was left as it "
            "is: finish it with what began it, choose another output, or delete it to throw its work away."
        )
    return job


def _differences(settings: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    return "; ".join(
        f"`{name}` is {settings.get(name)!r:.{SHOWN_VALUE}} and was {saved.get(name)!r:.{SHOWN_VALUE}}"
        for name in sorted(settings.keys() | saved.keys())
        if settings.get(name) != saved.get(name)
    )


def _may_overwrite(path: Path, overwritable: Sequence[str]) -> bool:
    if path.is_file():
        return any(fnmatch(path.name, pattern) for pattern in overwritable)
    return not any(path.iterdir()) or any(True for pattern in overwritable for _ in path.glob(pattern))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
