"""Folders that hold checkpoints, on disk or on the Hub: which files they have, and how to open one."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, HfFileSystem, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

from gpt_embeddings.bundled import BUNDLED
from gpt_embeddings.text.tokenizer import hub_timeout


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
