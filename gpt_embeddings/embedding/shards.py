"""A dataset on disk that is written shard by shard and can be continued: Arrow for `load_from_disk`, or Parquet.

Shards are gathered in a hidden folder beside the output, each under its name only when it is whole. The output itself
appears at the end, by one rename. A run that was killed is continued after its last whole shard, provided it is the
same job: the folder names the job that it belongs to.

Left out: what is in the shards.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, IterableDataset, load_dataset
from filelock import FileLock, Timeout


Format: TypeAlias = Literal["arrow", "parquet"]

SHARD_BYTES = 2**28  # 256 MiB: a few seconds of work are lost at most, and few files are made
PARQUET_ROWS = 2**14  # of a row group


class Shards:
    """The shards of one output, finished or not.

    Args:
        output: The folder to make; for Parquet also a file that ends in `.parquet`, into which all shards go at last.
        features: Features of the rows.
        job: What makes this job the same as an earlier one, as JSON.
        format: `"arrow"` or `"parquet"`.
        resume: Whether the shards of an earlier run are kept.

    Raises:
        FileExistsError: The output exists.
        OSError: Another process is writing this output.
        ValueError: There are shards of another job.
    """

    def __init__(
        self, output: Path, features: Features, job: dict[str, Any], *, format: Format = "arrow", resume: bool = True
    ) -> None:
        self.output, self.features, self.format = output, features, format
        self.schema: pa.Schema = features.arrow_schema
        self.folder = output.parent / f".{output.name}.partial"
        if output.exists():
            raise FileExistsError(f"The output {str(output)!r} exists; choose another or delete it.")
        output.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(output.parent / f".{output.name}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OSError(f"Another process is writing {str(output)!r}.") from None
        try:
            self._open(json.dumps(job, sort_keys=True), resume)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> "Shards":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def path(self, index: int) -> Path:
        """Return where the shard of that index is, or will be when it is whole."""
        return self.folder / f"data-{index:05d}.{self.format}"

    def rows(self, index: int) -> int | None:
        """Return the number of rows of a finished shard, or None."""
        path = self.path(index)
        if not path.is_file():
            return None
        try:
            if self.format == "parquet":
                return int(pq.ParquetFile(path).metadata.num_rows)
            return int(Dataset.from_file(str(path)).num_rows)
        except (OSError, ValueError, pa.ArrowInvalid):
            return None  # cut short by a loss of power: it is made again

    def write(self, index: int, tables: Iterable[pa.Table]) -> int:
        """Write a shard, whole or not at all, and return its number of rows."""
        path, rows = self.path(index), 0
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with pa.OSFile(str(partial), "wb") as file, self._new_writer(file) as writer:
                for table in tables:
                    rows += table.num_rows
                    writer.write_table(table.select(self.schema.names).cast(self.schema))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return rows

    def finish(self, fingerprint: str, split: Any = None) -> None:
        """Turn the shards into the output."""
        for rest in self.folder.glob("*.tmp"):
            rest.unlink()
        paths = sorted(self.folder.glob(f"data-*.{self.format}"))
        if self.format == "arrow":
            state: dict[str, Any] = {
                "_data_files": [{"filename": path.name} for path in paths],
                "_fingerprint": fingerprint,
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": None if split is None else str(split),
            }
            (self.folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
            DatasetInfo(features=self.features).write_to_directory(str(self.folder))
        elif self.output.suffix == ".parquet":
            whole = self._merge(paths)
            os.replace(whole, self.output)
            shutil.rmtree(self.folder)
            return
        (self.folder / "job.json").unlink()
        os.replace(self.folder, self.output)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}  # workers write shards, the lock stays with their parent

    def _open(self, job: str, resume: bool) -> None:
        mark = self.folder / "job.json"
        if self.folder.exists() and not resume:
            shutil.rmtree(self.folder)
        if mark.is_file() and mark.read_text(encoding="utf-8") != job:
            raise ValueError(
                f"{str(self.folder)!r} holds shards of another job (another dataset, model, tokenizer or option). "
                "Finish that one first, or give `resume=False` (--no-resume) to throw them away."
            )
        if not mark.is_file():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            partial = mark.with_suffix(".tmp")
            partial.write_text(job, encoding="utf-8")
            os.replace(partial, mark)

    def _new_writer(self, file: Any) -> Any:
        if self.format == "parquet":
            return pq.ParquetWriter(file, self.schema)
        return pa.RecordBatchStreamWriter(file, self.schema)

    def _merge(self, paths: list[Path]) -> Path:
        if len(paths) == 1:
            return paths[0]
        whole = self.folder / "whole.tmp"
        with pq.ParquetWriter(whole, self.schema) as writer:
            for path in paths:
                for batch in pq.ParquetFile(path).iter_batches(PARQUET_ROWS):
                    writer.write_batch(batch)
        return whole

    def _release(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def open_output(output: Path) -> Dataset | IterableDataset:
    """Open what `Shards.finish` made: Arrow memory-mapped, Parquet as a stream."""
    if (output / "state.json").is_file():
        return Dataset.load_from_disk(str(output))
    files = [output] if output.is_file() else sorted(output.glob("data-*.parquet"))
    return load_dataset("parquet", data_files=[str(path) for path in files], split="train", streaming=True)


def shard_bounds(n_rows: int, row_bytes: float) -> list[tuple[int, int]]:
    """Cut rows into shards of about `SHARD_BYTES`, `[(first, past the last), ...]`; no rows make one empty shard.

    >>> shard_bounds(5, row_bytes=2**27)
    [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, int(SHARD_BYTES / max(1.0, row_bytes)))
    return [(i, min(i + step, n_rows)) for i in range(0, n_rows, step)] or [(0, 0)]


__all__ = ["Format", "Shards", "open_output", "shard_bounds"]
