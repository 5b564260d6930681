"""A few tensors of a checkpoint, without the others: safetensors, sharded or not, and PyTorch's `.bin` files.

Every size a file claims is checked against the file before memory is taken. Left out: what the tensors are for.
"""

import json
import math
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from gpt_embeddings.checkpoints.files import Folder, RangeFile, empty_at, read_json


# What `safetensors` calls the types of tables; quantised ones are not read.
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
MAX_HEADER_BYTES = 2**25

# Where training scripts keep the tensors beside what else they save: nanoGPT, Lightning, and others.
STATES = ("model", "state_dict", "model_state_dict")

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is known but not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]


class Checkpoint(Protocol):
    """Tensors by name."""

    @property
    def names(self) -> Collection[str]:
        """Return the names of all tensors."""

    def find(self, name: str) -> StoredTensor:
        """Return a tensor's shape and dtype, checked, and how to read it."""


class SafetensorsFile:
    """One safetensors file, of which the header has been read.

    Args:
        file: The file.

    Raises:
        ValueError: The header is truncated, too large or no header.
    """

    def __init__(self, file: RangeFile) -> None:
        self.file = file
        if file.size < 8:
            raise ValueError(f"{file.name} is no safetensors file: it has {file.size} bytes.")
        first = _to_bytes(file.read(0, 8))
        if first == b"version ":
            raise ValueError(
                f"{file.name} is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`."
            )
        length = int.from_bytes(first, "little")
        if length > min(MAX_HEADER_BYTES, file.size - 8):
            raise ValueError(
                f"{file.name} is no whole safetensors file: its header claims {length} bytes, the file has "
                f"{file.size} and at most {MAX_HEADER_BYTES} are read."
            )
        self.start = 8 + length
        try:
            header = json.loads(_to_bytes(file.read(8, length)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file.name} is no safetensors file: its header is no JSON ({error}).") from error
        if not isinstance(header, dict):
            raise ValueError(f"{file.name} is no safetensors file: its header is no object.")
        metadata = header.pop("__metadata__", None)
        self.header: dict[str, Any] = header
        # `safetensors.torch.save_model` leaves out a tied tensor and notes here which one has its values.
        for name, same in metadata.items() if isinstance(metadata, dict) else ():
            if isinstance(same, str) and same in header:
                self.header.setdefault(name, header[same])

    @property
    def names(self) -> Collection[str]:
        """Return the names of all tensors."""
        return self.header.keys()

    def find(self, name: str) -> StoredTensor:
        """Return a tensor's shape and dtype, checked, and how to read it.

        Raises:
            ValueError: The entry is malformed, of a dtype that is no float of 16 bits or more, or outside the file.
        """
        entry = self.header[name]
        try:
            code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.file.name}: the entry of {name!r} is malformed: {entry!r:.200}.") from error
        if not isinstance(code, str) or code not in DTYPES:
            raise ValueError(f"{self.file.name}: {name!r} is of the type {code!r}; read are {', '.join(DTYPES)}.")
        numbers = [begin, end, *shape] if isinstance(shape, list) else [None]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"{self.file.name}: the entry of {name!r} is malformed: {entry!r:.200}.")
        dtype = DTYPES[code]
        size = math.prod(shape) * dtype.itemsize
        if end > self.file.size - self.start or end - begin != size:
            raise ValueError(
                f"{self.file.name}: {name!r} of shape {tuple(shape)} takes {size} bytes of {code}; its place is from "
                f"{begin} to {end} of {self.file.size - self.start}. The file is cut or broken."
            )

        def read() -> torch.Tensor:
            data = self.file.read(self.start + begin, size)
            if data.storage_offset() % dtype.itemsize or data.data_ptr() % dtype.itemsize:
                data = data.clone()  # the tensor begins at an odd place
            return data.view(dtype).view(shape)

        return StoredTensor(tuple(shape), dtype, read)


class TensorDict:
    """Tensors in memory, or mapped by `torch.load`.

    Args:
        tensors: The tensors by name.
        name: What to call them in errors.
        copy: Whether to hand out copies.
    """

    def __init__(self, tensors: Mapping[str, Any], name: str, *, copy: bool) -> None:
        self.tensors, self.name, self.copy = tensors, name, copy

    @property
    def names(self) -> Collection[str]:
        """Return the names of all tensors."""
        return self.tensors.keys()

    def find(self, name: str) -> StoredTensor:
        """Return a tensor's shape and dtype, and how to read it.

        Raises:
            ValueError: It is no tensor of floats in memory.
        """
        tensor = self.tensors[name]
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in DTYPES.values():
            what = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ValueError(f"{self.name}: {name!r} is {what}; read are tensors of {', '.join(DTYPES)}.")
        if tensor.device.type == "meta":
            raise ValueError(f"{self.name}: {name!r} is on the device 'meta' and has no values.")

        def read() -> torch.Tensor:
            values = tensor.detach()
            if not self.copy:
                return values.contiguous()
            if values.device.type != "cpu":
                return values.clone(memory_format=torch.contiguous_format)
            place = empty_at(values.data_ptr(), values.nbytes)
            return place.view(values.dtype).view(values.shape).copy_(values)

        return StoredTensor(tuple(tensor.shape), tensor.dtype, read)


class ShardedCheckpoint:
    """Several files and an index that says which of them has a tensor; a file is opened when it is needed.

    Args:
        folder: Where the files are.
        index: Name of the index.

    Raises:
        ValueError: The index is malformed or leads out of the folder.
    """

    def __init__(self, folder: Folder, index: str) -> None:
        weight_map = read_json(folder, index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{folder.name}: {index} has no `weight_map`.")
        for file in weight_map.values():
            if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\\" in file:
                raise ValueError(f"{folder.name}: {index} names the file {file!r}, which is none of this folder.")
        self.folder, self.index, self.weight_map = folder, index, weight_map
        self._open: dict[str, Checkpoint] = {}

    @property
    def names(self) -> Collection[str]:
        """Return the names of all tensors."""
        return self.weight_map.keys()

    def find(self, name: str) -> StoredTensor:
        """Return a tensor's shape and dtype, checked, and how to read it.

        Raises:
            FileNotFoundError: The file with the tensor is missing.
            ValueError: The file is broken, or has no such tensor.
        """
        file = self.weight_map[name]
        if file not in self._open:
            if not self.folder.has(file):
                raise FileNotFoundError(f"{self.folder.name} has no file {file!r}, which {self.index} names.")
            self._open[file] = open_file(self.folder, file)
        if name not in self._open[file].names:
            raise ValueError(f"{self.folder.name}: {file} has no tensor {name!r}, which {self.index} says it has.")
        return self._open[file].find(name)


def open_checkpoint(folder: Folder) -> Checkpoint:
    """Open the checkpoint of a folder, the safer and faster formats first.

    Args:
        folder: A folder here or on the Hub.

    Returns:
        The checkpoint, of which no tensor has been read.

    Raises:
        FileNotFoundError: There is none.
        OSError: The folder cannot be read.
        ValueError: It is broken.
    """
    for file in FILES:
        if folder.has(file):
            return ShardedCheckpoint(folder, file) if file.endswith(".json") else open_file(folder, file)
    raise FileNotFoundError(f"{folder.name} has no checkpoint; looked for {', '.join(FILES)}.")


def open_file(folder: Folder, file: str) -> Checkpoint:
    """Open one file of tensors: safetensors by its suffix, else one that `torch.save` wrote.

    Args:
        folder: Where it is.
        file: Its name.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is broken, or holds other things than tensors by name.
    """
    if file.endswith(".safetensors"):
        return SafetensorsFile(folder.open(file))
    return TensorDict(load_bin(folder.download(file)), f"{folder.name}, {file}", copy=False)


def load_bin(path: Path) -> Mapping[str, Any]:
    """Load a file of `torch.save`, mapped where its format allows; nothing in it is run.

    Args:
        path: The file.

    Returns:
        What the file holds by name.

    Raises:
        ValueError: It is broken, or holds other things than tensors by name.
    """
    mapped = zipfile.is_zipfile(path)  # files of PyTorch before 1.6 are no archives and have to be read whole
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


def _to_bytes(data: torch.Tensor) -> bytes:
    return data.numpy().tobytes()
