"""A dataset on disk that is written shard by shard and can be continued: Arrow for `load_from_disk`, or Parquet.

A shard gets its name when it is whole, and a run that was killed is continued after its last whole shard. Left out:
what is in the shards, and whose they are (`outputs`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, IterableDataset

from gpt_embeddings.embedding.provenance import Provenance, with_provenance
from gpt_embeddings.outputs import whole_file, write_dataset_files
from gpt_embeddings.text.files import Reading
from gpt_embeddings.text.sources import open_files


Format: TypeAlias = Literal["arrow", "parquet"]

SHARD_BYTES = 2**28  # 256 MiB: a few seconds of work are lost at most, and few files are made
PARQUET_ROWS = 2**14  # of a row group
WRITTEN = ("state.json", "dataset_dict.json", "*.parquet")  # one of these is in each output, or its name


class Shards:
    """The shards of one output, finished or not.

    Args:
        folder: Where they are gathered; made if need be.
        features: Features of the rows.
        provenance: What the vectors are from.
        format: `"arrow"` or `"parquet"`.
    """

    def __init__(self, folder: Path, features: Features, provenance: Provenance, *, format: Format = "arrow") -> None:
        self.folder, self.features, self.provenance, self.format = folder, features, provenance, format
        self.schema = with_provenance(features.arrow_schema, provenance)
        folder.mkdir(parents=True, exist_ok=True)

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
        rows = 0
        with whole_file(self.path(index)) as path, pa.OSFile(str(path), "wb") as file:
            with self._new_writer(file) as writer:
                for table in tables:
                    rows += table.num_rows
                    writer.write_table(table.select(self.schema.names).cast(self.schema))
        return rows

    def finish(self, fingerprint: str, split: Any = None, *, one_file: bool = False) -> Path:
        """Make a dataset of the shards.

        Args:
            fingerprint: Of the dataset.
            split: Its split.
            one_file: Whether Parquet shards become one file.

        Returns:
            The folder, or the file.
        """
        for rest in self.folder.glob("*.tmp"):
            rest.unlink()
        paths = sorted(self.folder.glob(f"data-*.{self.format}"))
        if self.format == "arrow":
            info = DatasetInfo(description=self.provenance.to_json(), features=self.features)
            write_dataset_files(self.folder, paths, info, fingerprint, split)
        return self._merge(paths) if one_file else self.folder

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


def open_output(output: Path) -> Dataset | IterableDataset:
    """Open what `Shards.finish` made: Arrow memory-mapped, Parquet as a stream."""
    if (output / "state.json").is_file():
        return Dataset.load_from_disk(str(output))
    files = [output] if output.is_file() else sorted(output.glob("data-*.parquet"))
    return open_files([str(path) for path in files], Reading(format="parquet"), streaming=True)


def shard_bounds(n_rows: int, row_bytes: float) -> list[tuple[int, int]]:
    """Cut rows into shards of about `SHARD_BYTES`, `[(first, past the last), ...]`; no rows make one empty shard.

    >>> shard_bounds(5, row_bytes=2**27)
    [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, int(SHARD_BYTES / max(1.0, row_bytes)))
    return [(i, min(i + step, n_rows)) for i in range(0, n_rows, step)] or [(0, 0)]


__all__ = ["WRITTEN", "Format", "Shards", "open_output", "shard_bounds"]
