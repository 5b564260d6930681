"""What the vectors of a dataset were made from: stored with them, and read by what uses them.

An Arrow dataset has it as the description in its `dataset_info.json`, a Parquet file in its metadata.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


KEY = "gpt_embeddings"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that decides a vector."""

    model: str | None
    """Folder or Hub name; None if the model was never saved or its name is unknown."""

    weights: str
    """Digest of the model's configuration and weights."""

    tokenizer: str
    """Digest of the tokenizer."""

    n_embd: int
    """Dimensions of the model; vectors can have fewer (`truncate_dim`)."""

    options: dict[str, Any]
    """Options of the `Embedder`: columns, pooling, normalization, dtype and so on."""

    version: str
    """Version of gpt-embeddings."""

    @property
    def digest(self) -> str:
        """A digest of what decides the vectors: weights, tokenizer and options."""
        return hashlib.sha256(json.dumps([self.weights, self.tokenizer, self.options]).encode()).hexdigest()

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps({KEY: asdict(self)})

    def check_same_model(self, other: "Provenance", name: str, other_name: str) -> None:
        """Refuse vectors of another model; `name` and `other_name` are what the message calls the two."""
        for what, one, two in (
            ("weights", self.weights, other.weights),
            ("tokenizer", self.tokenizer, other.tokenizer),
        ):
            if one != two:
                raise ValueError(
                    f"{name} is from the model {self.model or '(not saved)'!r} with the {what} {one[:12]}, but "
                    f"{other_name} has the {what} {two[:12]}. Vectors of two models cannot be compared: use the model "
                    "that made them, or embed again."
                )


def with_provenance(schema: pa.Schema, provenance: Provenance) -> pa.Schema:
    """Return a schema that carries a provenance in its metadata."""
    return schema.with_metadata({**(schema.metadata or {}), KEY.encode(): provenance.to_json().encode()})


def read_provenance(path: str | Path) -> Provenance:
    """Return what the vectors of a dataset were made from.

    Args:
        path: What `embed_dataset` or `gpt-embeddings embed` wrote: a folder, or a Parquet file.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: The dataset has no provenance, or its files are from different models or options.
    """
    if provenance := find_provenance(path):
        return provenance
    raise ValueError(
        f"The dataset {str(path)!r} does not say which model its vectors are from: `gpt-embeddings embed` did not "
        "write it, or another program has rewritten it. Name the model (`--model`), or embed again."
    )


def find_provenance(path: str | Path) -> Provenance | None:
    """Return what [`read_provenance`] does, or None if the dataset, or one of its files, does not say it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no dataset {str(path)!r}.")
    infos = sorted(path.rglob("dataset_info.json"))
    files = infos[:1] or ([path] if path.is_file() else sorted(path.rglob("*.parquet")))
    first = None
    for file in files:
        provenance = _read(file)
        if provenance is None:
            return None
        first = first or provenance
        if provenance.digest != first.digest:
            first.check_same_model(provenance, repr(str(files[0])), repr(str(file)))
            raise ValueError(
                f"The files {str(files[0])!r} and {str(file)!r} were embedded with different options: "
                f"{first.options} and {provenance.options}. Embed one of them again, or search them one at a time."
            )
    return first


def _read(file: Path) -> Provenance | None:
    try:
        if file.name == "dataset_info.json":
            stored = json.loads(json.loads(file.read_text(encoding="utf-8"))["description"])[KEY]
        else:
            stored = json.loads((pq.read_schema(file).metadata or {})[KEY.encode()])[KEY]
        return Provenance(**{field.name: stored[field.name] for field in fields(Provenance)})
    except (KeyError, TypeError, ValueError):  # written by another program
        return None
