"""A model, named by a digest of its weights and shared by all processes of a machine.

A forked worker, or a copy within a process, finds the model in memory by its digest. A process that starts anew maps a
file of torch, which is deleted when the process that wrote it ends.
"""

import atexit
import json
import os
import pickle
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from datasets.fingerprint import Hasher
from torch import nn

from gpt_embeddings.outputs import atomic_file
from modeling_gpt_embeddings import GPTEmbeddingsModel, SinusoidalPositions


_models: "weakref.WeakValueDictionary[str, GPTEmbeddingsModel]" = weakref.WeakValueDictionary()
_folder: str | None = None

# An unchanged model has modules and weights of these very classes.
PARTS = (nn.Dropout, nn.Embedding, nn.Linear, SinusoidalPositions)
PLAIN_WEIGHTS = (nn.Parameter, torch.Tensor, type(None))


class SharedModel(NamedTuple):
    """Where another process finds a model: in memory by its digest, else in a file."""

    digest: str
    path: str
    config: dict[str, Any]


def hash_weights(model: GPTEmbeddingsModel) -> str:
    """Return a digest of a model: its configuration, its weights, and any adapter, hook or subclass.

    It follows every change of the weights, also those through `.data` or numpy.
    """
    check_in_memory(model)
    hashing = xxhash.xxh3_128()
    # The fields of our own configuration: those inherited from transformers say how a model was saved.
    fields = {name: getattr(model.config, name) for name in type(model.config).__annotations__}
    hashing.update(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if type(tensor) is not torch.Tensor:
            continue  # a subclass, such as torchao's: its module is hashed as a changed part
        hashing.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hashing.update(flat.view(torch.uint8).numpy().data)  # without a copy
    if not is_unchanged(model):
        hashing.update(Hasher.hash([type(model), _changed_parts(model)]).encode())
    return str(hashing.hexdigest())


def is_offloaded(model: nn.Module) -> bool:
    """Return whether accelerate brings weights into memory only for the time of a call."""
    return any(hasattr(part, "_hf_hook") for part in model.modules())


def check_in_memory(model: nn.Module) -> None:
    """Refuse a model whose weights are not in memory."""
    if absent := next((name for name, weight in model.named_parameters() if weight.is_meta), None):
        raise ValueError(
            f"The weight `{absent}` is on the device 'meta', so there is nothing to embed with: the model was built "
            "without memory, or accelerate has offloaded it. Load it with `from_pretrained` and without offloading "
            "(`cpu_offload`, `disk_offload`, or a `device_map` with 'cpu' or 'disk' parts)."
        )


def is_unchanged(model: GPTEmbeddingsModel) -> bool:
    """Return whether configuration and state say all about a model: no adapter, no hook, no subclass."""
    return type(model) is GPTEmbeddingsModel and not _changed_parts(model)


def _changed_parts(model: GPTEmbeddingsModel) -> list[tuple[str, nn.Module]]:
    return [
        (name, part)
        for name, part in model.named_children()
        if type(part) not in PARTS
        or (part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))
        or type(getattr(part, "weight", None)) not in PLAIN_WEIGHTS
    ]


def share(model: GPTEmbeddingsModel) -> SharedModel:
    """Write the weights of an unchanged model to a temporary file, once, and return where they are."""
    global _folder
    digest = hash_weights(model)
    _models[digest] = model
    if _folder is None or not os.path.isdir(_folder):
        _folder = tempfile.mkdtemp(prefix="gpt-embeddings-")
        atexit.register(_remove_folder, _folder, os.getpid())
    path = Path(_folder) / f"{digest}.pt"
    if not path.exists():
        with atomic_file(path) as partial:
            torch.save(model.state_dict(), partial)
    return SharedModel(digest, str(path), model.config.to_dict())


def open_shared(source: SharedModel) -> GPTEmbeddingsModel:
    """Return the model that was shared, in evaluation mode."""
    model = _models.get(source.digest)
    if model is None:
        if not os.path.isfile(source.path):
            raise pickle.UnpicklingError(
                f"The weights of this pickled Embedder are gone ({source.path}): the process that pickled it has "
                "ended. Save the model with `save_pretrained` and make an Embedder from it."
            )
        config = GPTEmbeddingsModel.config_class.from_dict(source.config)
        with torch.device("meta"):
            model = GPTEmbeddingsModel(config)
        if isinstance(model.wpe, SinusoidalPositions):  # computed, not saved
            model.wpe = GPTEmbeddingsModel(config).wpe
        # Mapped, so that workers share the pages.
        state = torch.load(source.path, map_location="cpu", mmap=True, weights_only=True)
        model.load_state_dict(state, assign=True)
        _models[source.digest] = model.eval()
    return model


def _remove_folder(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # a forked child that ends must not delete it
        shutil.rmtree(folder, ignore_errors=True)
