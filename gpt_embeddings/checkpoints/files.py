"""Folders that hold checkpoints, on disk or on the Hub: which files they have, and how to open one.

Left out: what the files contain (`tensors`).
"""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import (
    HfFileSystem,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from gpt_embeddings.bundled import suggest_bundled
from gpt_embeddings.text.tokenizer import hub_timeout


MAX_JSON_BYTES = 2**25
HUB_ERRORS = (HTTPError, HFValidationError, OSError)  # `HTTPError` is that of the HTTP client of huggingface_hub


class LocalFolder:
    """A folder on disk that a model was saved to."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def has(self, file: str) -> bool:
        """Return whether the folder has a file."""
        return (self.path / file).is_file()

    def download(self, file: str) -> Path:
        """Return the path of a file."""
        return self.path / file


class HubFolder:
    """A model repository on the Hub, at one commit. Files in the cache are taken from there."""

    def __init__(self, repo_id: str, revision: str | None = None, token: str | bool | None = None) -> None:
        self.repo_id, self.revision, self.token = repo_id, revision, token
        self.name = repo_id if revision is None else f"{repo_id} at {revision}"
        self._sizes: dict[str, int | None] = {}

    def has(self, file: str) -> bool:
        """Return whether the repository has a file; an OSError says why it cannot be reached and what to do."""
        if file in self._sizes:
            return True
        try:
            # One request: transformers and `hf_hub_download` would retry for half a minute.
            metadata = get_hf_file_metadata(
                hf_hub_url(self.repo_id, file, revision=self.revision), token=self.token, timeout=hub_timeout()
            )
        except EntryNotFoundError:
            return False
        except (HfHubHTTPError, HFValidationError) as error:
            raise _explain(self.name, error) from error
        except (HTTPError, OfflineModeIsEnabled) as error:
            if self.local_path(file) is not None:
                return True
            if self.local_path("config.json") is not None:
                return False
            raise _explain(self.name, error) from error
        self._sizes[file] = metadata.size
        self.revision = metadata.commit_hash or self.revision  # all files come from one commit
        return True

    def local_path(self, file: str) -> Path | None:
        """Return the path of a file in the cache, or None if it is not there."""
        path = try_to_load_from_cache(self.repo_id, file, revision=self.revision)
        return Path(path) if isinstance(path, str) else None

    def download(self, file: str) -> Path:
        """Return the path of a file in the cache, after downloading it if need be."""
        missing = FileNotFoundError(f"{self.name} has no file {file!r}.")
        if not self.has(file):
            raise missing
        if (path := self.local_path(file)) is not None:
            return path
        try:
            return Path(hf_hub_download(self.repo_id, file, revision=self.revision, token=self.token))
        except HUB_ERRORS as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                raise missing from error
            raise _explain(self.name, error) from error

    def open_remote(self, file: str) -> tuple[BinaryIO, int]:
        """Open a file of which only the bytes that are read are transferred, and return it with its size."""
        if not self.has(file):
            raise FileNotFoundError(f"{self.name} has no file {file!r}.")
        try:
            system = HfFileSystem(endpoint=constants.ENDPOINT, token=self.token, skip_instance_cache=True)
            path = f"{self.repo_id}/{file}"
            opened: Any = system.open(path, revision=self.revision, size=self._sizes[file], cache_type="none")
            return opened, opened.size
        except HUB_ERRORS as error:
            raise _explain(self.name, error) from error


Folder = LocalFolder | HubFolder


def open_folder(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> Folder:
    """Open a folder on disk or, if there is none, a repository on the Hub."""
    path = Path(name_or_path)
    if path.is_file():
        raise NotADirectoryError(f"{str(path)!r} is a file; give the folder that contains it and its config.json.")
    if path.is_dir():
        return LocalFolder(path)
    return HubFolder(os.fspath(name_or_path), revision, token)


def read_json(folder: Folder, file: str, kind: type = dict) -> Any:
    """Return the content of a JSON file, an object or, with `kind=list`, a list."""
    path = folder.download(file)
    if not path.is_file():
        raise FileNotFoundError(f"{folder.name} has no file {file!r}.")
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size} bytes; JSON files of at most {MAX_JSON_BYTES} bytes are read.")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(values, kind):
        raise ValueError(f"{path} holds {type(values).__name__}, not {'an object' if kind is dict else 'a list'}.")
    return values


def _explain(name: str, error: Exception) -> OSError:
    """Return an error of the Hub's client as one that says what to do."""
    hint = "" if "/" in name else f" {suggest_bundled(name)}"
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{name} is gated: ask for access on its page on the Hub, then log in with `hf auth login` or give "
            "`token`."
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"{name}: the Hub has no such revision.")
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return FileNotFoundError(
            f"{name!r} is neither a folder here nor a model on the Hub that you can access. A private one needs "
            f"`hf auth login` or `token`.{hint}"
        )
    if not isinstance(error, HfHubHTTPError):
        hint = f" Without a network, use a local copy (`hf download {name} --local-dir FOLDER` makes one).{hint}"
    return OSError(f"{name!r} is not a folder here, and could not be fetched from the Hub ({error}).{hint}")
