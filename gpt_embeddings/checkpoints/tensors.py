"""A few tensors of a checkpoint, without the others: safetensors, sharded or not, and PyTorch's `.bin` files.

Local safetensors files are mapped by `safe_open`. It maps a whole file, which the system refuses if the file is larger
than memory, and it reads no file on the Hub: then the header is read here, and each tensor by its own byte range.
(`parse_safetensors_file_metadata` of huggingface_hub does not return the length of the header, without which tensors
cannot be found, and gives up when a connection breaks.)
"""

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import tqdm
from safetensors import SafetensorError, safe_open

from gpt_embeddings.checkpoints.files import Folder, HubFolder, read_json


# The names that safetensors has for the dtypes of tables. Quantized tensors are not read.
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
MAX_HEADER_BYTES = 2**25
BLOCK_BYTES = 2**25  # of one request to the Hub: a broken connection costs one block

# The keys under which training scripts save the tensors: nanoGPT, Lightning, and others.
STATES = ("model", "state_dict", "model_state_dict")

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

Tensors = Mapping[str, torch.Tensor]
ReadRange = Callable[[int, int], Any]  # from the first byte and the number of bytes to the bytes


class LazyTensors(Tensors):
    """Tensors by name, each of which is read when it is asked for."""

    def __init__(self, names: Iterable[str], read: Callable[[str], torch.Tensor]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class NoRangesError(OSError):
    """The server does not answer range requests with the range."""


def open_checkpoint(folder: Folder) -> Tensors:
    """Open the checkpoint of a folder, the safer and faster formats first."""
    for file in FILES:
        if folder.has(file):
            return _open_sharded(folder, file) if file.endswith(".json") else open_file(folder, file)
    raise FileNotFoundError(f"{folder.name} has no checkpoint; looked for {', '.join(FILES)}.")


def open_file(folder: Folder, file: str) -> Tensors:
    """Open one file of tensors: safetensors by its suffix, else a file of `torch.save`."""
    if not file.endswith(".safetensors"):
        return _load_bin(folder.download(file))
    if isinstance(folder, HubFolder) and folder.has(file) and folder.local_path(file) is None:
        with suppress(NoRangesError):
            return _open_ranges(*folder.open_ranges(file), f"{folder.name}, {file}")
    path = folder.download(file)
    try:
        return _open_mapped(path)
    except RuntimeError:  # the file is larger than memory, which a read-only mapping may be
        data = np.memmap(path, dtype=np.uint8, mode="r")
        return _open_ranges(lambda start, count: data[start : start + count], len(data), str(path))


def _open_mapped(path: Path) -> Tensors:
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
    return LazyTensors(keys, lambda name: file.get_tensor(keys[name]))


def _open_ranges(read: ReadRange, size: int, name: str) -> Tensors:
    """Read the header of a file. Each size in it is checked against the file's before memory is allocated."""
    start = 8 + int.from_bytes(_read(read, 0, min(8, size), name).tobytes(), "little")
    if start > min(MAX_HEADER_BYTES, size):
        raise ValueError(
            f"{name} is not a complete safetensors file: its header claims {start - 8} bytes, the file has {size}, "
            f"and headers of at most {MAX_HEADER_BYTES} are read."
        )
    try:
        header: dict[str, Any] = dict(json.loads(_read(read, 8, start - 8, name).tobytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{name} is not a safetensors file: its header is broken ({error}).") from error
    header |= {key: header[same] for key, same in _aliases(header.pop("__metadata__", None), header).items()}

    def find(key: str) -> torch.Tensor:
        try:
            dtype, shape, (begin, end) = (
                DTYPES[header[key]["dtype"]],
                header[key]["shape"],
                header[key]["data_offsets"],
            )
            whole = all(type(number) is int and number >= 0 for number in (begin, end, *shape))
            if not whole or end - begin != math.prod(shape) * dtype.itemsize or start + end > size:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{name}: {key!r} cannot be read. Supported are {', '.join(DTYPES)}, and a range of the right size "
                f"within the file's {size - start} bytes of data; its entry is {header[key]!r:.200}."
            ) from error
        return torch.from_numpy(_read(read, start + begin, end - begin, name)).view(dtype).view(shape)

    return LazyTensors(header, find)


def _read(read: ReadRange, start: int, count: int, name: str) -> np.ndarray[Any, Any]:
    """Return `count` bytes from `start` as uint8."""
    data = np.empty(count, np.uint8)
    with tqdm(total=count, unit="B", unit_scale=True, desc="Tables", disable=count <= BLOCK_BYTES) as progress:
        for done in range(0, count, BLOCK_BYTES):
            length = min(BLOCK_BYTES, count - done)
            block = np.frombuffer(read(start + done, length), np.uint8)
            if len(block) != length:
                raise NoRangesError(f"{name} gave {len(block)} bytes instead of {length} from {start + done} on.")
            data[done : done + length] = block
            progress.update(length)
    return data


def _open_sharded(folder: Folder, index: str) -> Tensors:
    """Open an index, which says which file has a tensor. Files are opened when they are needed."""
    weight_map = read_json(folder.download(index)).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{folder.name}: {index} has no `weight_map`.")
    for file in weight_map.values():
        if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\\" in file:
            raise ValueError(f"{folder.name}: {index} names {file!r}, which is not a file of this folder.")
    opened: dict[str, Tensors] = {}

    def find(name: str) -> torch.Tensor:
        file = weight_map[name]
        if file not in opened:
            opened[file] = open_file(folder, file)
        if name not in opened[file]:
            raise ValueError(f"{folder.name}: {file} has no tensor {name!r}, which {index} says it has.")
        return opened[file][name]

    return LazyTensors(weight_map, find)


def _load_bin(path: Path) -> Tensors:
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
    return {name: same for name, same in items if isinstance(same, str) and same in names and name not in names}
