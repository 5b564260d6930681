"""Folders that hold checkpoints, on disk or on the Hub: which files they have, and how to open one."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, HfFileSystem, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

from gpt_embeddings.bundled import suggest_bundled
from gpt_embeddings.text.tokenizer import hub_timeout


MARKS = ("config.json", "modules.json", "model.safetensors")  # a model in the cache has one of these files
HUB_ERRORS = (HTTPError, HFValidationError, OSError)  # `HTTPError` is that of the HTTP client of huggingface_hub


class LocalFolder:
    """A folder on disk that a model was saved to."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def has(self, file: str) -> bool:
        """Return whether the folder has a file."""
        return (self.path / file).is_file()

    def download(self, file: str) -> Path:
        """Return the path of a file; a FileNotFoundError says that there is none."""
        if not self.has(file):
            raise FileNotFoundError(f"{self.name} has no file {file!r}.")
        return self.path / file


class HubFolder:
    """A model repository on the Hub, at one commit. Files in the cache are taken from there.

    One request tells its files; if it fails, a repository in the cache is used. transformers would ask for each file
    and, without a network, retry for half a minute.
    """

    def __init__(self, repo_id: str, revision: str | None = None, token: str | bool | None = None) -> None:
        self.repo_id, self.revision, self.token = repo_id, revision, token
        self.name = repo_id if revision is None else f"{repo_id} at {revision}"
        self._files: set[str] | None = None
        try:
            info = HfApi(constants.ENDPOINT, token).model_info(repo_id, revision=revision, timeout=hub_timeout())
        except HUB_ERRORS as error:
            if isinstance(error, HFValidationError) or not any(map(self.local_path, MARKS)):
                raise _explain(self.name, error) from error
        else:
            self.revision, self._files = info.sha, {file.rfilename for file in info.siblings or []}

    def has(self, file: str) -> bool:
        """Return whether the repository, or its part in the cache if the Hub cannot be reached, has a file."""
        return self.local_path(file) is not None if self._files is None else file in self._files

    def local_path(self, file: str) -> Path | None:
        """Return the path of a file in the cache, or None if it is not there."""
        path = try_to_load_from_cache(self.repo_id, file, revision=self.revision)
        return Path(path) if isinstance(path, str) else None

    def download(self, file: str) -> Path:
        """Return the path of a file in the cache, after downloading it if need be."""
        if not self.has(file):
            raise FileNotFoundError(f"{self.name} has no file {file!r}.")
        if (path := self.local_path(file)) is not None:
            return path
        try:
            return Path(hf_hub_download(self.repo_id, file, revision=self.revision, token=self.token))
        except HUB_ERRORS as error:
            raise _explain(self.name, error) from error

    def open_ranges(self, file: str) -> tuple[Callable[[int, int], bytes], int]:
        """Return a function that transfers bytes of a file, given the first and their number, and the file's size."""
        try:
            system = HfFileSystem(endpoint=constants.ENDPOINT, token=self.token, skip_instance_cache=True)
            remote: Any = system.open(f"{self.repo_id}/{file}", revision=self.revision, cache_type="none")
        except HUB_ERRORS as error:
            raise _explain(self.name, error) from error

        def read(start: int, count: int) -> bytes:
            try:
                remote.seek(start)
                return bytes(remote.read(count))
            except HUB_ERRORS as error:
                raise _explain(self.name, error) from error

        return read, remote.size


Folder = LocalFolder | HubFolder


def open_folder(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> Folder:
    """Open a folder on disk or, if there is none, a repository on the Hub; an OSError says why it is not available."""
    path = Path(name_or_path)
    if path.is_file():
        raise NotADirectoryError(f"{str(path)!r} is a file; give the folder that contains it and its config.json.")
    return LocalFolder(path) if path.is_dir() else HubFolder(os.fspath(name_or_path), revision, token)


def read_json(path: Path, kind: type = dict) -> Any:
    """Return the content of a JSON file, an object or, with `kind=list`, a list."""
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(values, kind):
        raise ValueError(f"{path} holds {type(values).__name__}, not {'an object' if kind is dict else 'a list'}.")
    return values


def _explain(name: str, error: Exception) -> OSError:
    """Return an error of the Hub's client as one that says what to do."""
    hint = "" if "/" in name else f" {suggest_bundled(name)}"
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):  # the former also if it is gated
        return FileNotFoundError(
            f"{name!r} is neither a folder here nor a model on the Hub that you can access. A private one needs `hf "
            f"auth login` or `token`, and a gated one that you ask for access on its page.{hint}"
        )
    return OSError(
        f"{name!r} is not a folder here, and could not be fetched from the Hub ({error}). Without a network, use a "
        f"local copy (`hf download {name} --local-dir FOLDER` makes one).{hint}"
    )
