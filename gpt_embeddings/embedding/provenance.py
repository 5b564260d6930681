"""What the vectors of a dataset are from: written beside them by everything that embeds, and read by what uses them.

An Arrow dataset has it in its `dataset_info.json` as the description, a Parquet file in its metadata. Left out: what
the texts are from.
"""

import json
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpt_embeddings.embedding.embedder import Embedder
from gpt_embeddings.text.tokenizer import tokenizer_digest


KEY = "gpt_embeddings"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What decides a vector."""

    model: str | None
    """Folder or Hub name; None where the model was no saved one, or nobody said."""

    weights: str
    """Digest of the model's configuration and weights."""

    tokenizer: str
    """Digest of the tokenizer."""

    n_embd: int
    """Dimensions of the model; vectors can have fewer (`truncate_dim`)."""

    options: dict[str, Any]
    """What else the `Embedder` was given, and can be given again: columns, pooling, normalisation, dtype and so on."""

    version: str
    """Of gpt-embeddings."""

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps({KEY: asdict(self)})


def provenance_of(embedder: Embedder, model: str | None = None) -> Provenance:
    """Return what the vectors of an embedder are from.

    Args:
        embedder: The embedder.
        model: Folder or Hub name of its model.
    """
    return Provenance(
        model=model,
        weights=embedder.weights_digest,
        tokenizer=tokenizer_digest(embedder.tokenizer),
        n_embd=embedder.model.config.n_embd,
        options=embedder.options,
        version=version("gpt-embeddings"),
    )


def with_provenance(schema: pa.Schema, provenance: Provenance) -> pa.Schema:
    """Return a schema that says, in a Parquet file, what the vectors are from."""
    return schema.with_metadata({**(schema.metadata or {}), KEY.encode(): provenance.to_json().encode()})


def read_provenance(place: str | Path) -> Provenance:
    """Return what the vectors of a dataset are from.

    Args:
        place: What `embed_dataset` or `gpt-embeddings embed` wrote: a folder, or a Parquet file.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: The dataset does not say it, or says what this version does not know.
    """
    place = Path(place)
    if not place.exists():
        raise FileNotFoundError(f"There is no dataset {str(place)!r}.")
    found = _read_json(place)
    try:
        return Provenance(**{field.name: found[field.name] for field in fields(Provenance)})
    except KeyError as error:
        raise ValueError(
            f"The dataset {str(place)!r} does not say what its vectors are from ({error.args[0]!r} is missing). Give "
            "one that this version of `gpt-embeddings embed` has written."
        ) from error


def _read_json(place: Path) -> dict[str, Any]:
    """Return what is said there, of a folder of splits by the first."""
    infos, files = sorted(place.rglob("dataset_info.json")), sorted(place.rglob("*.parquet"))
    try:
        if infos:
            said = json.loads(json.loads(infos[0].read_text(encoding="utf-8"))["description"])
        else:
            metadata = pq.read_schema(place if place.is_file() else files[0]).metadata or {}
            said = json.loads(metadata[KEY.encode()])
        found = said[KEY]
    except (IndexError, KeyError, TypeError, ValueError):  # of a dataset that nobody here has written
        return {}
    return found if isinstance(found, dict) else {}
