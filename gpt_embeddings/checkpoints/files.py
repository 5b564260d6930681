"""Folders that hold checkpoints, on disk or on the Hub, and a few tensors of a checkpoint, without the others.

Local safetensors files are mapped by `safe_open`. It maps a whole file, which the system refuses if the file is larger
than memory, and it reads no file on the Hub: then the header is read here, and each tensor by its own byte range.
(`parse_safetensors_file_metadata` of huggingface_hub does not return the length of the header, without which tensors
cannot be found, and gives up when a connection breaks.)
"""

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, HfFileSystem, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import tqdm
from safetensors import SafetensorError, safe_open

from gpt_embeddings.bundled import BUNDLED
from gpt_embeddings.text.tokenizer import hub_timeout


# The names that safetensors has for the dtypes of tables. Quantized tensors are not read.
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
MAX_HEADER_BYTES = 2**25
BLOCK_BYTES = 2**25  # of one request to the Hub: a broken connection costs one block

# The keys under which training scripts save the tensors: nanoGPT, Lightning, and others.
STATES = ("model", "state_dict", "model_state_dict")

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

MODEL2VEC = "model2vec"  # `model_type` of its static models

LazyTensors = dict[str, Any]
"""By the name of a tensor, a function that reads it."""


class Folder:
    """A folder on disk that a model was saved to or, if there is none, a model repository on the Hub, at one commit.

    Files in the cache are taken from there. One request tells a repository's files; if it fails, a repository in the
    cache is used. transformers would ask for each file and, without a network, retry for half a minute.
    """

    def __init__(
        self, name_or_path: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
    ) -> None:
        path = Path(name_or_path)
        if path.is_file():
            raise NotADirectoryError(f"{str(path)!r} is a file; give the folder that contains it and its config.json.")
        self.path = path if path.is_dir() else None
        self.repo_id, self.revision, self.token = os.fspath(name_or_path), revision, token
        self.name = self.repo_id if revision is None else f"{self.repo_id} at {revision}"
        self._files: set[str] | None = None
        if self.path is None:
            with _hub_errors(self.name):
                try:
                    api = HfApi(constants.ENDPOINT, token)
                    info = api.model_info(self.repo_id, revision=revision, timeout=hub_timeout())
                    self.revision, self._files = info.sha, {file.rfilename for file in info.siblings or []}
                except (HTTPError, OSError):  # a model in the cache has one of these files
                    if not any(map(self.local_path, ("config.json", "modules.json", "model.safetensors"))):
                        raise

    def has(self, file: str) -> bool:
        """Return whether there is a file; in the cache, if the Hub cannot be reached."""
        return self.local_path(file) is not None if self._files is None else file in self._files

    def local_path(self, file: str) -> Path | None:
        """Return the path of a file on disk or in the cache, or None if it is not there."""
        if self.path is not None:
            return self.path / file if (self.path / file).is_file() else None
        path = try_to_load_from_cache(self.repo_id, file, revision=self.revision)
        return Path(path) if isinstance(path, str) else None

    def download(self, file: str) -> Path:
        """Return the path of a file on disk or in the cache, after downloading it if need be."""
        if not self.has(file):
            raise FileNotFoundError(f"{self.name} has no file {file!r}.")
        if (path := self.local_path(file)) is not None:
            return path
        with _hub_errors(self.name):
            return Path(hf_hub_download(self.repo_id, file, revision=self.revision, token=self.token))

    def open_ranges(self, file: str) -> tuple[Callable[[int, int], bytes], int]:
        """Return a function that transfers bytes of a file, given the first and their number, and the file's size."""
        with _hub_errors(self.name):
            system = HfFileSystem(endpoint=constants.ENDPOINT, token=self.token, skip_instance_cache=True)
            remote: Any = system.open(f"{self.repo_id}/{file}", revision=self.revision, cache_type="none")

        def read(start: int, count: int) -> bytes:
            with _hub_errors(self.name):
                remote.seek(start)
                return bytes(remote.read(count))

        return read, remote.size


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the content of a JSON file, an object or, with `kind=list`, a list."""
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(values, kind):
        raise ValueError(f"{path} holds {type(values).__name__}, not {'an object' if kind is dict else 'a list'}.")
    return values


def find_static(folder: Folder) -> str | None:
    """Return the subfolder of a static model, such as `"0_StaticEmbedding/"`, or None if the folder has none."""
    if folder.has("modules.json"):
        modules = read_json(folder.download("modules.json"), list)
        first = modules[0] if modules and isinstance(modules[0], dict) else {}
        if str(first.get("type")).rsplit(".", 1)[-1] == "StaticEmbedding":
            path = str(first.get("path", "")).strip("./")
            return f"{path}/" if path else ""
    elif folder.has("config.json") and read_json(folder.download("config.json")).get("model_type") == MODEL2VEC:
        return ""
    return None


def open_checkpoint(folder: Folder) -> LazyTensors:
    """Open the checkpoint of a folder, the safer and faster formats first."""
    index = next((file for file in FILES if folder.has(file)), None)
    if index is None:
        raise FileNotFoundError(f"{folder.name} has no checkpoint; looked for {', '.join(FILES)}.")
    if not index.endswith(".json"):
        return open_file(folder, index)
    # An index says which file has a tensor. Files are opened when they are needed.
    weight_map = read_json(folder.download(index)).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{folder.name}: {index} has no `weight_map`.")
    for file in weight_map.values():
        if not isinstance(file, str) or file in ("", ".", "..") or "/" in file or "\\" in file:
            raise ValueError(f"{folder.name}: {index} names {file!r}, which is not a file of this folder.")
    opened: dict[str, LazyTensors] = {}

    def read(name: str) -> Any:
        file = weight_map[name]
        if file not in opened:
            opened[file] = open_file(folder, file)
        if name not in opened[file]:
            raise ValueError(f"{folder.name}: {file} has no tensor {name!r}, which {index} says it has.")
        return opened[file][name]()

    return {name: partial(read, name) for name in weight_map}


def open_file(folder: Folder, file: str) -> LazyTensors:
    """Open one file of tensors: safetensors by its suffix, else a file of `torch.save`."""
    if not file.endswith(".safetensors"):
        # Mapped if its format allows, without running code that is in it. Files of PyTorch before 1.6 are read whole.
        path = folder.download(file)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # unpickling a broken file may raise anything
            reason = str(error).split("\n", 1)[0]
            raise ValueError(
                f"{path} could not be read as tensors alone ({type(error).__name__}: {reason})."
            ) from error
        if isinstance(state, Mapping):
            state = next((state[name] for name in STATES if isinstance(state.get(name), Mapping)), state)
        if not isinstance(state, Mapping):
            raise ValueError(f"{path} holds {type(state).__name__}, not tensors by name.")
        return {name: partial(state.get, name) for name in state if isinstance(name, str)}
    if folder.has(file) and folder.local_path(file) is None:
        with suppress(ConnectionError):  # the server does not answer range requests with the range
            return _open_ranges(*folder.open_ranges(file), f"{folder.name}, {file}")
    path = folder.download(file)
    try:  # pages are read when they are used, and copied when they are written to
        mapped = safe_open(path, "pt")
    except SafetensorError as error:
        with path.open("rb") as start:
            pointer = start.read(8) == b"version "
        hint = " It is a pointer of Git LFS; fetch the file itself with `git lfs pull`." if pointer else ""
        raise ValueError(f"{path} is not a complete safetensors file: {error}.{hint}") from error
    except RuntimeError:  # the file is larger than memory, which a read-only mapping may be
        data = np.memmap(path, dtype=np.uint8, mode="r")
        return _open_ranges(lambda start, count: data[start : start + count], len(data), str(path))
    keys = {name: name for name in mapped.keys()}
    keys |= _aliases(mapped.metadata(), keys)
    return {name: partial(mapped.get_tensor, key) for name, key in keys.items()}


def _open_ranges(read_range: Callable[[int, int], Any], size: int, name: str) -> LazyTensors:
    """Open a file by its header, whose sizes are checked; `read_range` takes the first byte and how many."""

    def read(start: int, count: int) -> np.ndarray[Any, Any]:
        data = np.empty(count, np.uint8)
        with tqdm(total=count, unit="B", unit_scale=True, desc="Tables", disable=count <= BLOCK_BYTES) as progress:
            for done in range(0, count, BLOCK_BYTES):
                length = min(BLOCK_BYTES, count - done)
                block = np.frombuffer(read_range(start + done, length), np.uint8)
                if len(block) != length:
                    raise ConnectionError(
                        f"{name} gave {len(block)} bytes instead of {length} from {start + done} on."
                    )
                data[done : done + length] = block
                progress.update(length)
        return data

    start = 8 + int.from_bytes(read(0, min(8, size)).tobytes(), "little")
    if start > min(MAX_HEADER_BYTES, size):
        raise ValueError(
            f"{name} is not a complete safetensors file: its header claims {start - 8} bytes, the file has {size}, "
            f"and headers of at most {MAX_HEADER_BYTES} are read."
        )
    try:
        header: dict[str, Any] = dict(json.loads(read(8, start - 8).tobytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{name} is not a safetensors file: its header is broken ({error}).") from error
    header |= {key: header[same] for key, same in _aliases(header.pop("__metadata__", None), header).items()}

    def find(key: str) -> torch.Tensor:
        entry = header[key]
        try:
            dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            whole = all(type(number) is int and number >= 0 for number in (begin, end, *shape))
            if not whole or end - begin != math.prod(shape) * dtype.itemsize or start + end > size:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{name}: {key!r} cannot be read. Supported are {', '.join(DTYPES)}, and a range of the right size "
                f"within the file's {size - start} bytes of data; its entry is {entry!r:.200}."
            ) from error
        return torch.from_numpy(read(start + begin, end - begin)).view(dtype).view(shape)

    return {key: partial(find, key) for key in header}


def _aliases(metadata: Any, names: Mapping[str, Any]) -> dict[str, str]:
    """Return the tied tensors that `safetensors.torch.save_model` left out, with the names of those that it kept."""
    items = metadata.items() if isinstance(metadata, dict) else ()
    return {name: same for name, same in items if isinstance(same, str) and same in names and name not in names}


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Raise errors of the Hub's client as an OSError that says what to do."""
    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:  # the first is that of huggingface_hub's HTTP client
        hint = "" if "/" in name else f" The bundled tables are {' and '.join(BUNDLED)}."
        if isinstance(error, (RepositoryNotFoundError, HFValidationError)):  # the former also if it is gated
            raise FileNotFoundError(
                f"{name!r} is neither a folder here nor a model on the Hub that you can access. A private one needs "
                f"`hf auth login` or `token`, and a gated one that you ask for access on its page.{hint}"
            ) from error
        raise OSError(
            f"{name!r} is not a folder here, and could not be fetched from the Hub ({error}). Without a network, use "
            f"a local copy (`hf download {name} --local-dir FOLDER` makes one).{hint}"
        ) from error
