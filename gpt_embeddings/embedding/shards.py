"""A dataset of vectors on disk, Arrow or Parquet, written shard by shard, with what the vectors were made from."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, IterableDataset

from gpt_embeddings.outputs import atomic_file, write_dataset_files
from gpt_embeddings.text.files import ReadOptions
from gpt_embeddings.text.sources import open_files


logger = logging.getLogger(__name__)

Format: TypeAlias = Literal["arrow", "parquet"]

KEY = "gpt_embeddings"  # of the provenance in a description, and in the metadata of Parquet
SHARD_BYTES = 2**28  # 256 MiB: at most a few seconds of work are lost, and there are few files
PARQUET_ROWS = 2**14  # of a row group
PARQUET = (".parquet", ".pq")  # suffixes of an output that is one file
# Each output contains a file with one of these names, or has such a name.
WRITTEN = ("state.json", "dataset_dict.json", "*.parquet", "*.pq", "*.PARQUET", "*.PQ")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that decides a vector."""

    model: str | None  # folder or Hub name; None if the model was never saved or its name is unknown
    weights: str  # digest of the model's configuration and weights
    tokenizer: str  # digest of the tokenizer
    n_embd: int  # dimensions of the model; vectors can have fewer (`truncate_dim`)
    options: dict[str, Any]  # of the `Embedder`: columns, pooling, normalization, dtype and so on
    version: str  # of gpt-embeddings

    @property
    def digest(self) -> str:
        """A digest of what decides the vectors: weights, tokenizer and options."""
        return hashlib.sha256(json.dumps([self.weights, self.tokenizer, self.options]).encode()).hexdigest()

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps({KEY: asdict(self)})

    def add_to(self, schema: pa.Schema) -> pa.Schema:
        """Return a schema that carries this in its metadata."""
        return schema.with_metadata({**(schema.metadata or {}), KEY.encode(): self.to_json().encode()})

    def check_same_model(self, other: "Provenance", name: str, other_name: str) -> None:
        """Refuse vectors of another model; `name` and `other_name` are what the message calls the two."""
        for what in ("weights", "tokenizer"):
            one, two = getattr(self, what), getattr(other, what)
            if one != two:
                raise ValueError(
                    f"{name} is from the model {self.model or '(not saved)'!r} with the {what} {one[:12]}, but "
                    f"{other_name} has the {what} {two[:12]}. Vectors of two models cannot be compared: use the model "
                    "that made them, or embed again."
                )


def read_provenance(path: str | Path, *, missing_ok: bool = False) -> Provenance | None:
    """Return what the vectors of a folder or Parquet file were made from; if unknown, None with `missing_ok`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no dataset {str(path)!r}.")
    infos = sorted(path.rglob("dataset_info.json"))
    files = infos[:1] or ([path] if path.is_file() else sorted(path.rglob("*.parquet")))
    first = None
    for file in files:
        try:
            if file.name == "dataset_info.json":
                stored = json.loads(json.loads(file.read_text(encoding="utf-8"))["description"])[KEY]
            else:
                stored = json.loads((pq.read_schema(file).metadata or {})[KEY.encode()])[KEY]
            provenance = Provenance(**{field.name: stored[field.name] for field in fields(Provenance)})
        except (KeyError, TypeError, ValueError):  # written by another program
            first = None
            break
        first = first or provenance
        if provenance.digest != first.digest:
            first.check_same_model(provenance, repr(str(files[0])), repr(str(file)))
            raise ValueError(
                f"The files {str(files[0])!r} and {str(file)!r} were embedded with different options: "
                f"{first.options} and {provenance.options}. Embed one of them again, or search them one at a time."
            )
    if first is None and not missing_ok:
        raise ValueError(
            f"The dataset {str(path)!r} does not say which model its vectors are from: `gpt-embeddings embed` did not "
            "write it, or another program has rewritten it. Name the model (`--model`), or embed again."
        )
    return first


class Shards:
    """The shards of one output, finished or not, in a folder that is made; each is the next one of its part."""

    def __init__(self, folder: Path, features: Features, provenance: Provenance, *, format: Format = "arrow") -> None:
        self.folder, self.features, self.provenance, self.format = folder, features, provenance, format
        self.schema = provenance.add_to(features.arrow_schema)
        folder.mkdir(parents=True, exist_ok=True)

    def check_room(self, n_bytes: float) -> None:
        """Warn, before any work is done, if the disk may have no room for one file of that size beside its shards."""
        # Arrow cannot append to a closed Parquet file, so one that has to survive a kill is made of shards.
        free = shutil.disk_usage(self.folder).free + sum(path.stat().st_size for path in self._paths())
        if SHARD_BYTES < n_bytes and free < 2 * n_bytes:
            logger.warning(
                f"One Parquet file of about {n_bytes / 1e9:.1f} GB needs twice that until it is complete, and the "
                f"disk has {free / 1e9:.1f} GB. A folder as the output needs it once."
            )

    def finished(self, part: int, columns: list[str]) -> Iterator[pa.Table]:
        """Yield columns of the finished shards of a part; those after one that has to be made again are deleted."""
        paths = self._paths(f"{part:03}")
        for i, path in enumerate(paths):
            table = self._read(path, columns)
            if table is None:
                for rest in paths[i:]:
                    rest.unlink()
                return
            yield table

    def write(self, part: int, index: int, tables: Iterable[pa.Table]) -> None:
        """Write tables to a shard, in the output's order and types, until it is full or there are no more."""
        n_bytes = 0
        whole = self.folder / f"data-{part:03}-{index:05}.{self.format}"
        make: Any = pq.ParquetWriter if self.format == "parquet" else pa.RecordBatchStreamWriter
        with atomic_file(whole) as path, pa.OSFile(str(path), "wb") as file, make(file, self.schema) as writer:
            for table in tables:
                if missing := set(self.schema.names) - set(table.column_names):
                    raise ValueError(f"Some rows have no column {min(missing)!r}, which the first rows have.")
                columns = []
                for field in self.schema:
                    column = table[field.name]
                    try:
                        columns.append(column.cast(field.type))
                    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                        raise ValueError(
                            f"Column {field.name!r} holds {column.type} in some rows and {field.type} in the first "
                            "ones. Make them one type, or give the dataset `features`."
                        ) from error
                writer.write_table(pa.Table.from_arrays(columns, schema=self.schema))
                n_bytes += table.nbytes
                if n_bytes >= SHARD_BYTES:
                    break

    def finish(self, fingerprint: str, split: Any = None, *, n_rows: int, one_file: bool = False) -> Path:
        """Make a dataset of the shards, which must have `n_rows` rows together; return its folder, or its one file."""
        for rest in self.folder.glob("*.tmp"):
            rest.unlink()
        paths = self._paths()
        written = sum(len(self._read(path, []) or ()) for path in paths)
        if written != n_rows:
            raise ValueError(
                f"{n_rows} rows were read, but the shards in {str(self.folder)!r} hold {written}. There is no output; "
                "give `resume=False` (--no-resume) to start anew."
            )
        if self.format == "arrow":
            info = DatasetInfo(description=self.provenance.to_json(), features=self.features)
            write_dataset_files(self.folder, paths, info, fingerprint, split)
        if not one_file:
            return self.folder
        if len(paths) == 1:
            return paths[0]
        whole = self.folder / "whole.tmp"
        with pq.ParquetWriter(whole, self.schema) as writer:
            for path in paths:
                for batch in pq.ParquetFile(path).iter_batches(PARQUET_ROWS):
                    writer.write_batch(batch)
        return whole

    def _paths(self, part: str = "*") -> list[Path]:
        return sorted(self.folder.glob(f"data-{part}-*.{self.format}"))

    def _read(self, path: Path, columns: list[str]) -> pa.Table | None:
        try:
            if self.format == "parquet":
                return pq.ParquetFile(path).read(columns)
            return Dataset.from_file(str(path)).data.table.select(columns)  # mapped
        except (OSError, ValueError, pa.ArrowInvalid):
            return None  # truncated by a power failure: it is made again


def open_output(output: Path, *, streaming: bool = True) -> Dataset | IterableDataset:
    """Open what `Shards.finish` made: Arrow memory-mapped, Parquet as a stream or through the cache of `datasets`."""
    if (output / "state.json").is_file():
        return Dataset.load_from_disk(str(output))
    files = [output] if output.is_file() else sorted(output.glob("*.parquet"))
    return open_files([str(path) for path in files], ReadOptions(format="parquet"), streaming=streaming)
