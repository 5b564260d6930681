"""The weights of a model: their digest, one copy for all processes of a machine, and quantized copies of the table.

A forked worker, or a copy within a process, finds a model in memory by its digest. A process that starts anew maps a
file of torch, which is deleted when the process that wrote it ends.

Sums of rows are faster from a copy of the token table in float16 or int8. A table whose rows are whole numbers times a
factor, as an int8 checkpoint gives them, is summed in int8 and nothing is lost. A copy is made once per table, and
made again when the table has changed: torch counts most changes, and the hashes of rows show those through `.data` or
numpy, which it does not count.
"""

import atexit
import json
import os
import pickle
import shutil
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from datasets.fingerprint import Hasher
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from gpt_embeddings.checkpoints.saving import quantize_rows
from gpt_embeddings.outputs import atomic_file
from modeling_gpt_embeddings import GPTEmbeddingsModel, SinusoidalPositions


TableDtype: TypeAlias = Literal["float32", "float16", "int8"]

PROBED_ROWS = 64  # enough to reject nearly every table that is not made of int8 rows
EXACT = 1e-6  # of a row's largest entry: whole numbers times a factor, rounded in float32
FEW_ROWS = 512  # up to here it is faster to check the rows of the ids, from here on the whole table
CHECK_SECONDS = 0.1  # between two checks of a whole quantized table, which take 2 ms, while batches follow each other

# An unchanged model has modules and weights of these very classes.
PARTS = (nn.Dropout, nn.Embedding, nn.Linear, SinusoidalPositions)
PLAIN_WEIGHTS = (nn.Parameter, torch.Tensor, type(None))

_models: "weakref.WeakValueDictionary[str, GPTEmbeddingsModel]" = weakref.WeakValueDictionary()  # by digest
_folder: str | None = None
_copies: Any = WeakIdKeyDictionary()  # by table, then by dtype: the state of the table, and its last copy


def hash_weights(model: GPTEmbeddingsModel) -> str:
    """Return a digest of a model that follows every change of configuration, weights, adapters, hooks and class."""
    check_in_memory(model)
    hashing = xxhash.xxh3_128()
    # The fields of our own configuration: those inherited from transformers say how a model was saved.
    fields = {name: getattr(model.config, name) for name in type(model.config).__annotations__}
    hashing.update(json.dumps(fields, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if type(tensor) is not torch.Tensor:
            continue  # a subclass, such as torchao's: its module is hashed as a change
        hashing.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashing.update(_bytes(tensor.cpu().reshape(-1)).data)  # without a copy
    if changes := find_changes(model):
        hashing.update(Hasher.hash(changes).encode())
    return str(hashing.hexdigest())


def check_in_memory(model: nn.Module, *, or_offloaded: bool = False) -> None:
    """Refuse a model whose weights are not in memory; those that accelerate brings there for each call may pass."""
    if or_offloaded and any(hasattr(part, "_hf_hook") for part in model.modules()):
        return
    if absent := next((name for name, weight in model.named_parameters() if weight.is_meta), None):
        raise ValueError(
            f"The weight `{absent}` is on the device 'meta', so there is nothing to embed with: the model was built "
            "without memory, or accelerate has offloaded it. Load it with `from_pretrained` and without offloading "
            "(`cpu_offload`, `disk_offload`, or a `device_map` with 'cpu' or 'disk' parts)."
        )


def find_changes(model: GPTEmbeddingsModel) -> list[Any]:
    """Return what configuration and state do not say about a model: an adapter, a hook, a subclass."""
    changes: list[Any] = [] if type(model) is GPTEmbeddingsModel else [type(model)]
    for name, part in model.named_children():
        hooked = part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
        if type(part) not in PARTS or hooked or type(getattr(part, "weight", None)) not in PLAIN_WEIGHTS:
            changes.append((name, part))
    return changes


# Shared by processes ---------------------------------------------------------------------------------------------


def share(model: GPTEmbeddingsModel) -> tuple[str, str, dict[str, Any]]:
    """Write the weights of a model without changes to a temporary file, once; return what `open_shared` takes."""
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
    return digest, str(path), model.config.to_dict()


def open_shared(digest: str, path: str, fields: dict[str, Any]) -> GPTEmbeddingsModel:
    """Return the model that was shared, in evaluation mode; `fields` are those of its configuration."""
    model = _models.get(digest)
    if model is None:
        if not os.path.isfile(path):
            raise pickle.UnpicklingError(
                f"The weights of this pickled Embedder are gone ({path}): the process that pickled it has "
                "ended. Save the model with `save_pretrained` and make an Embedder from it."
            )
        config = GPTEmbeddingsModel.config_class.from_dict(fields)
        with torch.device("meta"):
            model = GPTEmbeddingsModel(config)
        if isinstance(model.wpe, SinusoidalPositions):  # computed, not saved
            model.wpe = GPTEmbeddingsModel(config).wpe
        # Mapped, so that workers share the pages.
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        model.load_state_dict(state, assign=True)
        _models[digest] = model.eval()
    return model


def _remove_folder(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # a forked child that ends must not delete it
        shutil.rmtree(folder, ignore_errors=True)


# Quantized copies ------------------------------------------------------------------------------------------------


@dataclass
class QuantizedTable:
    """A copy of a table, with what tells whether the table has changed since."""

    rows: torch.Tensor  # (vocab_size, width) in float16; in int8 uint8 rows, as `embed_bags` takes them
    error: float  # the largest error of an entry, as a share of the largest entry of its row
    row_hashes: list[int]
    table_hash: str
    checked: float = 0.0  # when the whole table was last compared with `table_hash`, by `time.monotonic`


def find_quantized(
    model: GPTEmbeddingsModel,
    dtype: TableDtype | None,
    ids: npt.NDArray[np.int32] | None = None,
    *,
    every_call: bool = True,
) -> QuantizedTable | None:
    """Return a copy of `wte` to sum rows of, made again only if the table has changed; None sums `wte` itself.

    `ids` are those whose rows will be summed, `(n_tokens,)`; None is any. Their rows are compared with the table, or
    the whole table if they are many. That takes 2 ms, so without `every_call` it happens every tenth of a second, and
    in between a sample of the ids is compared.
    """
    if dtype == "float32" or find_changes(model):
        return None
    table = model.wte.weight
    copies = _copies.setdefault(table, {})
    state = (table.data_ptr(), None if table.is_inference() else table._version)
    known, copy = copies.get(dtype, (None, None))
    current = known == state
    if current and copy is not None:  # without a copy the table itself is summed, whatever it holds by now
        if ids is not None and not every_call and time.monotonic() < copy.checked + CHECK_SECONDS:
            ids = ids[:: len(ids) // FEW_ROWS + 1]
        rows: Any = None
        if ids is not None:
            rows = ids[(ids >= 0) & (ids < len(table))]  # the model refuses other ids
            if len(rows) > FEW_ROWS:
                seen = np.zeros(len(table), dtype=bool)
                seen[rows] = True
                rows = np.flatnonzero(seen)
        data = _bytes(table)
        if rows is None or len(rows) > FEW_ROWS:
            copy.checked = copy.checked if every_call else time.monotonic()
            current = xxhash.xxh3_128_hexdigest(data.data) == copy.table_hash
        else:
            current = all(xxhash.xxh3_64_intdigest(data[row]) == copy.row_hashes[row] for row in rows.tolist())
    if not current:
        copy = quantize_table(table, dtype)
        copies[dtype] = (state, copy)
    return copy


def quantize_table(table: torch.Tensor, dtype: TableDtype | None) -> QuantizedTable | None:
    """Copy a table, `(vocab_size, width)`, in float16 or int8; without a dtype in int8 if that is exact, else None."""
    table = table.detach()
    if dtype is None:
        if table.dtype != torch.float32 or table.device.type != "cpu":
            return None
        probe = table[torch.linspace(0, len(table) - 1, min(len(table), PROBED_ROWS)).long()]
        for part in (probe, table):
            if not bool(part.isfinite().all() & part.any()):
                return None
            copy = quantize_table(part, "int8")
            if copy is None or copy.error > EXACT:
                return None
        return copy
    if table.device.type != "cpu":
        raise ValueError(
            f"`weights` {dtype!r} needs a model on the CPU, but its table is on {table.device}. Move it with "
            '`model.to("cpu")`, or leave `weights` out.'
        )
    floats = table.float()
    largest = floats.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)  # (vocab_size,)
    if dtype == "float16":
        rows = floats.half()
        restored = rows.float()
    else:
        whole, scale = quantize_rows(floats)
        # Rows as the operator takes them: unsigned bytes, then factor and offset of the row in float32.
        factors = torch.stack([scale, -128 * scale], 1)  # (vocab_size, 2)
        rows = torch.cat([(whole.short() + 128).to(torch.uint8), factors.view(torch.uint8)], 1)
        restored = whole * scale.unsqueeze(1)
    error = float(((restored - floats).abs().amax(1) / largest).max())
    if not error < 1:
        raise ValueError(f"The token table has values that {dtype} cannot hold.")
    data = _bytes(table)
    row_hashes = [xxhash.xxh3_64_intdigest(row) for row in data]
    return QuantizedTable(rows, error, row_hashes, xxhash.xxh3_128_hexdigest(data.data))


def _bytes(table: torch.Tensor) -> npt.NDArray[np.uint8]:
    return table.detach().contiguous().view(torch.uint8).numpy()
