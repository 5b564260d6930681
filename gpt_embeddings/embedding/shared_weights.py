"""One copy of a model's weights for all processes of a machine, found by their digest.

A forked worker, or a copy within a process, finds the model in memory; a process that starts anew finds a temporary
file, which all of them map. The file goes when the process that wrote it ends.

Left out: what else an `Embedder` has, which its pickle holds.
"""

import hashlib
import json
import os
import pickle
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from datasets.fingerprint import Hasher
from torch import nn

from gpt_embeddings.outputs import atomic_file
from modeling_gpt_embeddings import GPTEmbeddingsModel, SinusoidalPositions


_models: "weakref.WeakValueDictionary[str, GPTEmbeddingsModel]" = weakref.WeakValueDictionary()
_names: dict[str, str] = {}  # `hash_weights` by a fast checksum
_nameless: "weakref.WeakKeyDictionary[GPTEmbeddingsModel, str]" = weakref.WeakKeyDictionary()
_folder: str | None = None

PARTS = (nn.Dropout, nn.Embedding, nn.Linear, SinusoidalPositions)  # what the component is made of


class SharedWeights(NamedTuple):
    """Where another process finds a model: by its digest in memory that it inherited, else in a file."""

    digest: str
    folder: str
    config: dict[str, Any]


def hash_weights(model: GPTEmbeddingsModel) -> str:
    """Return a name for what a model holds: configuration, state, and what an adapter, a hook or a subclass does.

    It is a SHA-256, which takes longer for 50 MB than embedding a MB of text; so it is computed once for each state,
    and a fast checksum says whether the state is one of those.
    """
    state = sorted(model.state_dict().items())
    checksum = _feed(xxhash.xxh3_128(), model, state)
    if checksum not in _names:
        _names[checksum] = _feed(hashlib.sha256(), model, state)
    if can_share(model):
        return _names[checksum]
    try:
        others = Hasher.hash([type(model), _changed_parts(model)])
    except Exception:  # what cannot be pickled, in whatever words: work is then repeated, never skipped
        others = _nameless.setdefault(model, uuid.uuid4().hex)
    return hashlib.sha256(f"{_names[checksum]} {others}".encode()).hexdigest()


def _feed(hashing: Any, model: GPTEmbeddingsModel, state: Sequence[tuple[str, torch.Tensor]]) -> str:
    # The fields of our own configuration: those inherited from transformers tell how a model was saved.
    fields = {name: getattr(model.config, name) for name in type(model.config).__annotations__}
    hashing.update(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, tensor in state:
        hashing.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hashing.update(flat.view(torch.uint8).numpy().data)  # no copy
    return str(hashing.hexdigest())


def can_share(model: GPTEmbeddingsModel) -> bool:
    """Return whether configuration and state are all of a model: not with an adapter, a hook or a subclass."""
    return type(model) is GPTEmbeddingsModel and not _changed_parts(model)


def _changed_parts(model: GPTEmbeddingsModel) -> list[tuple[str, nn.Module]]:
    """Return the parts of a model that are no longer what the component makes."""
    return [
        (name, part)
        for name, part in model.named_children()
        if type(part) not in PARTS or part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    ]


def share(model: GPTEmbeddingsModel, digest: str) -> SharedWeights:
    """Put the weights of a model that `can_share` into a temporary file, once, and return where they are."""
    global _folder
    _models[digest] = model
    if _folder is None or not os.path.isdir(_folder):
        _folder = tempfile.mkdtemp(prefix="gpt-embeddings-")
        weakref.finalize(_models, _remove_folder, _folder, os.getpid())
    path = Path(_folder) / f"{digest}.pt"
    if not path.exists():
        with atomic_file(path) as partial:
            torch.save({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, partial)
    return SharedWeights(digest, _folder, model.config.to_dict())


def open_shared(source: SharedWeights) -> GPTEmbeddingsModel:
    """Return the model of what `share` gave, in evaluation mode.

    Raises:
        pickle.UnpicklingError: The process that shared it has ended.
    """
    model = _models.get(source.digest)
    if model is None:
        path = Path(source.folder) / f"{source.digest}.pt"
        if not path.is_file():
            raise pickle.UnpicklingError(
                f"The weights of this pickled Embedder are gone ({path}): the process that pickled it has ended. Save "
                "the model with `save_pretrained` and make an Embedder from it."
            )
        config = GPTEmbeddingsModel.config_class.from_dict(source.config)
        with torch.device("meta"):
            model = GPTEmbeddingsModel(config)
        state = torch.load(path, mmap=True, weights_only=True)  # workers share the pages
        if model.config.position_embedding_type == "sinusoidal":
            model.wpe = GPTEmbeddingsModel(config).wpe
        model.load_state_dict(state, assign=True)
        model = model.eval()
        _models[source.digest] = model
    return model


def _remove_folder(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # not by a forked child as it ends
        shutil.rmtree(folder, ignore_errors=True)
