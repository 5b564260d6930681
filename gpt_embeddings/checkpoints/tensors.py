"""A few tensors of a checkpoint, without the others: safetensors, sharded or not, and PyTorch's `.bin` files.

Local safetensors files are mapped by `safe_open`. It maps a whole file, which the system refuses if the file is larger
than memory, and it reads no file on the Hub: then the header is read here, and each tensor by its own byte range.
(`parse_safetensors_file_metadata` of huggingface_hub does not return the length of the header, without which tensors
cannot be found, and gives up when a connection breaks.) Left out: what the tensors are for.
"""

import json
import math
import zipfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import tqdm
from safetensors import SafetensorError, safe_open

from gpt_embeddings.checkpoints.files import HUB_ERRORS, Folder, HubFolder, read_json


# The names that safetensors has for the dtypes of tables. Quantized tensors are not read.
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
MAX_HEADER_BYTES = 2**25
BLOCK_BYTES = 2**25  # of one request to the Hub: a broken connection costs one block

# The keys under which training scripts save the tensors: nanoGPT, Lightning, and others.
STATES = ("model", "state_dict", "model_state_dict")

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is known but not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, none of which has been read."""

    names: Collection[str]
    find: Callable[[str], StoredTensor]
    """Returns one of them, its dtype and size checked; a ValueError says what is wrong with it."""


ReadRange = Callable[[int, int], bytes]  # from the first byte and the number of bytes


class NoRangesError(OSError):
    """The server does not answer range requests with the range."""


def open_checkpoint(folder: Folder) -> Checkpoint:
    """Open the checkpoint of a folder, the safer and faster formats first."""
    for file in FILES:
        if folder.has(file):
            return _open_sharded(folder, file) if file.endswith(".json") else open_file(folder, file)
    raise FileNotFoundError(f"{folder.name} has no checkpoint; looked for {', '.join(FILES)}.")


def open_file(folder: Folder, file: str) -> Checkpoint:
    """Open one file of tensors: safetensors by its suffix, else a file of `torch.save`."""
    if not file.endswith(".safetensors"):
        return open_dict(_load_bin(folder.download(file)), f"{folder.name}, {file}", copy=False)
    if isinstance(folder, HubFolder) and folder.local_path(file) is None:
        remote, size = folder.open_remote(file)

        def read_remote(start: int, count: int) -> bytes:
            remote.seek(start)
            return remote.read(count)

        with suppress(NoRangesError):
            return _open_ranges(read_remote, size, f"{folder.name}, {file}")
    path = folder.download(file)
    try:
        return _open_mapped(path)
    except RuntimeError:  # the file is larger than memory, which a read-only mapping may be
        data = np.memmap(path, dtype=np.uint8, mode="r")
        return _open_ranges(lambda start, count: data[start : start + count].tobytes(), len(data), str(path))


def open_dict(tensors: Mapping[str, Any], name: str, *, copy: bool) -> Checkpoint:
    """Make a checkpoint of tensors in memory, which are copied when they are read if `copy` is set."""

    def find(key: str) -> StoredTensor:
        tensor = tensors[key]
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in DTYPES.values():
            found = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ValueError(f"{name}: {key!r} is {found}; supported are tensors of {', '.join(DTYPES)}.")
        if tensor.device.type == "meta":
            raise ValueError(f"{name}: {key!r} is on the device 'meta' and has no values.")
        values = tensor.detach()
        layout = torch.contiguous_format
        return StoredTensor(
            tuple(tensor.shape),
            tensor.dtype,
            lambda: values.clone(memory_format=layout) if copy else values.contiguous(),
        )

    return Checkpoint(tensors.keys(), find)


def _open_mapped(path: Path) -> Checkpoint:
    """Open a local file: pages are read when they are used, and copied when they are written to."""
    try:
        file = safe_open(path, "pt")
    except SafetensorError as error:
        with path.open("rb") as start:
            pointer = start.read(8) == b"version "
        hint = " It is a pointer of Git LFS; fetch the file itself with `git lfs pull`." if pointer else ""
        raise ValueError(f"{path} is not a complete safetensors file: {error}.{hint}") from error
    keys = {name: name for name in file.keys()}
    keys = _aliases(file.metadata(), keys) | keys

    def find(name: str) -> StoredTensor:
        tensor = file.get_slice(keys[name])
        dtype = _check_dtype(str(path), name, tensor.get_dtype())
        return StoredTensor(tuple(tensor.get_shape()), dtype, lambda: file.get_tensor(keys[name]))

    return Checkpoint(keys.keys(), find)


def _open_ranges(read: ReadRange, size: int, name: str) -> Checkpoint:
    """Read the header of a file. Each size in it is checked against the file's before memory is allocated."""
    length = int.from_bytes(_read_block(read, 0, 8, name), "little") if size >= 8 else size
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(
            f"{name} is not a complete safetensors file: its header claims {length} bytes, the file has {size}, and "
            f"headers of at most {MAX_HEADER_BYTES} are read."
        )
    try:
        header: dict[str, Any] = dict(json.loads(_read_block(read, 8, length, name)))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{name} is not a safetensors file: its header is broken ({error}).") from error
    metadata, start = header.pop("__metadata__", None), 8 + length
    header = {key: header[same] for key, same in _aliases(metadata, header).items()} | header

    def find(key: str) -> StoredTensor:
        entry = header[key]
        try:
            code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: the entry of {key!r} is malformed: {entry!r:.200}.") from error
        if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
            raise ValueError(f"{name}: the entry of {key!r} is malformed: {entry!r:.200}.")
        dtype = _check_dtype(name, key, code)
        count = math.prod(shape) * dtype.itemsize
        if end > size - start or end - begin != count:
            raise ValueError(
                f"{name}: {key!r} of shape {shape} takes {count} bytes of {code}, but its range is from {begin} to "
                f"{end} of {size - start} bytes. The file is cut or broken."
            )
        return StoredTensor(shape, dtype, lambda: _read(read, start + begin, count, name).view(dtype).view(shape))

    return Checkpoint(header.keys(), find)


def _read(read: ReadRange, start: int, count: int, name: str) -> torch.Tensor:
    """Return the bytes from `start`, uint8 of shape `(count,)`."""
    data = torch.empty(count, dtype=torch.uint8)
    with tqdm(total=count, unit="B", unit_scale=True, desc="Tables", disable=count <= BLOCK_BYTES) as progress:
        for done in range(0, count, BLOCK_BYTES):
            block = _read_block(read, start + done, min(BLOCK_BYTES, count - done), name)
            data[done : done + len(block)] = torch.frombuffer(block, dtype=torch.uint8)
            progress.update(len(block))
    return data


def _read_block(read: ReadRange, start: int, count: int, name: str) -> bytearray:
    try:
        block = bytearray(read(start, count))
    except HUB_ERRORS as error:
        raise OSError(f"{name} could not be read from byte {start} on ({error}).") from error
    if len(block) != count:
        raise NoRangesError(f"{name} gave {len(block)} bytes instead of {count} from byte {start} on.")
    return block


def _open_sharded(folder: Folder, index: str) -> Checkpoint:
    """Open an index, which says which file has a tensor. Files are opened when they are needed."""
    weight_map = read_json(folder, index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{folder.name}: {index} has no `weight_map`.")
    for file in weight_map.values():
        if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\\" in file:
            raise ValueError(f"{folder.name}: {index} names {file!r}, which is not a file of this folder.")
    opened: dict[str, Checkpoint] = {}

    def find(name: str) -> StoredTensor:
        file = weight_map[name]
        if file not in opened:
            if not folder.has(file):
                raise FileNotFoundError(f"{folder.name} has no file {file!r}, which {index} names.")
            opened[file] = open_file(folder, file)
        if name not in opened[file].names:
            raise ValueError(f"{folder.name}: {file} has no tensor {name!r}, which {index} says it has.")
        return opened[file].find(name)

    return Checkpoint(weight_map.keys(), find)


def _load_bin(path: Path) -> Mapping[str, Any]:
    """Load a file of `torch.save`, mapped if its format allows, without running code that is in it."""
    mapped = zipfile.is_zipfile(path)  # files of PyTorch before 1.6 are not archives and are read whole
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # unpickling a broken file may raise anything
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{path} could not be read as tensors alone ({type(error).__name__}: {reason}).") from error
    for name in STATES:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
            break
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds {type(state).__name__}, not tensors by name.")
    return {name: value for name, value in state.items() if isinstance(name, str)}


def _aliases(metadata: Any, names: Mapping[str, Any]) -> dict[str, str]:
    """Return the tied tensors that `safetensors.torch.save_model` left out, with the names of those that it kept."""
    items = metadata.items() if isinstance(metadata, dict) else ()
    return {name: same for name, same in items if isinstance(same, str) and same in names}


def _check_dtype(file: str, name: str, code: Any) -> torch.dtype:
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"{file}: {name!r} has the dtype {code!r}; supported are {', '.join(DTYPES)}.")
    return DTYPES[code]
