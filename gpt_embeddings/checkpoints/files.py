"""Bytes of a file by range: mapped from disk, or asked of the Hub by HTTP range requests.

A folder, here or on the Hub, opens its files as one of the two. Left out: what the bytes mean (`checkpoints`).
"""

import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx2
import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff, tqdm

from gpt_embeddings.checkpoints.bundled import suggest_bundled
from gpt_embeddings.text.tokenizer import hub_timeout


CACHE_LINE = 64
# Smaller tensors are read into memory of their own, larger ones are mapped and never copied.
MAPPED_BYTES = 2**20
# The first request for a file on the Hub: most headers of safetensors files fit.
FIRST_BYTES = 2**16
MAX_JSON_BYTES = 2**25
ATTEMPTS = 5
PROGRESS_BYTES = 2**23


def empty_at(place: int, count: int) -> torch.Tensor:
    """Return memory that begins where `place` does within a cache line, uint8 of shape `(count,)`.

    The last bits of a product (OPT's `project_in` of a single token) depend on that in some kernels, and transformers
    has the tensors of a file mapped as they lie there.
    """
    data = torch.empty(count + CACHE_LINE, dtype=torch.uint8)
    skip = (place - data.data_ptr()) % CACHE_LINE
    return data[skip : skip + count]


class RangeFile(Protocol):
    """A file whose bytes can be had in part."""

    name: str
    size: int

    def read(self, start: int, count: int) -> torch.Tensor:
        """Return the bytes from `start`, uint8 of shape `(count,)`; the caller has checked that the file has them."""


class LocalFile:
    """A file on disk.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        with path.open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size

    def read(self, start: int, count: int) -> torch.Tensor:
        """Return the bytes from `start`, uint8 of shape `(count,)`; many are mapped, copied where written to."""
        with self.path.open("rb", buffering=0) as file:
            if count >= MAPPED_BYTES:
                skip = start % mmap.ALLOCATIONGRANULARITY
                try:
                    pages = mmap.mmap(file.fileno(), count + skip, access=mmap.ACCESS_COPY, offset=start - skip)
                    return torch.frombuffer(pages, dtype=torch.uint8, count=count, offset=skip)
                except OSError:  # a file system that maps nothing
                    pass
            data = empty_at(start, count)
            view, done = _view(data), 0
            file.seek(start)
            while done < count:
                n = file.readinto(view[done:])
                if not n:
                    raise OSError(f"{self.name} ended at byte {start + done} while it was read.")
                done += n
        return data


class NoRangesError(OSError):
    """The server answers a range request with the whole file."""


class HubFile:
    """A file on the Hub, of which only what is asked for is transferred.

    Args:
        url: Where the Hub resolves it.
        headers: Headers with the caller's token; a redirect to another host is followed without it.
        size: Size in bytes, as the Hub gave it.

    Raises:
        NoRangesError: The server has no range requests.
        OSError: The server refuses, or cannot be reached.
    """

    def __init__(self, url: str, headers: dict[str, str], size: int) -> None:
        self.url, self.headers, self.size = url, headers, size
        self.name = url
        self._first = torch.empty(0, dtype=torch.uint8)
        self._first = self.read(0, min(FIRST_BYTES, size))

    def read(self, start: int, count: int) -> torch.Tensor:
        """Return the bytes from `start`, uint8 of shape `(count,)`; a connection that breaks is resumed."""
        data = empty_at(start, count)
        done = max(0, min(count, len(self._first) - start))
        data[:done] = self._first[start : start + done]
        view = _view(data)
        with tqdm(
            total=count, initial=done, unit="B", unit_scale=True, desc="Tables", disable=count < PROGRESS_BYTES
        ) as progress:
            for _ in range(ATTEMPTS):
                if done == count:
                    break
                try:
                    for chunk in self._stream(start + done, start + count):
                        view[done : done + len(chunk)] = chunk
                        done += len(chunk)
                        progress.update(len(chunk))
                except httpx2.RequestError as error:
                    raise OSError(f"{self.name} could not be reached ({error}).") from error
        if done < count:
            raise OSError(
                f"The connection to {self.name} broke {ATTEMPTS} times; it gave {done} of the {count} bytes from "
                f"{start}."
            )
        return data

    def _stream(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `end`, or as many as come before the connection breaks."""
        headers = {**self.headers, "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with http_stream_backoff(
            "GET", self.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as response:
            hf_raise_for_status(response)
            expected = f"bytes {start}-{end - 1}/{self.size}"
            if response.status_code != 206:
                raise NoRangesError(f"{self.name} cannot be read in part.")
            if response.headers.get("Content-Range") != expected:
                raise OSError(
                    f"{self.name} was asked for {expected}, the answer has {response.headers.get('Content-Range')!r}."
                )
            left = end - start
            try:
                for chunk in response.iter_bytes(2**20):
                    if len(chunk) > left:
                        raise OSError(f"{self.name} gave more bytes than were asked for.")
                    left -= len(chunk)
                    yield chunk
            except httpx2.TransportError:  # the context manager around this cannot have it
                return


class LocalFolder:
    """A folder on disk that a model was saved to.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def has(self, file: str) -> bool:
        """Return whether there is such a file."""
        return (self.path / file).is_file()

    def download(self, file: str) -> Path:
        """Return the whole file's path."""
        return self.path / file

    def open(self, file: str) -> LocalFile:
        """Open a file for reading in part."""
        return LocalFile(self.path / file)


class HubFolder:
    """A model repository on the Hub, at one commit; files that the cache holds are taken from there.

    Args:
        repo_id: Its name.
        revision: Branch, tag or commit.
        token: As everywhere in `huggingface_hub`: None takes the token of the login.
    """

    def __init__(self, repo_id: str, revision: str | None = None, token: str | bool | None = None) -> None:
        self.repo_id, self.revision, self.token = repo_id, revision, token
        self.name = repo_id if revision is None else f"{repo_id} at {revision}"
        self._sizes: dict[str, int | None] = {}

    def has(self, file: str) -> bool:
        """Return whether there is such a file.

        Raises:
            OSError: The repository cannot be reached; the message says what to do.
        """
        try:
            return self._find(file)
        except (OfflineModeIsEnabled, httpx2.RequestError) as error:
            if self._cached(file) is not None:
                return True
            if self._cached("config.json") is not None:
                return False
            raise _explain(self.name, error) from error

    def download(self, file: str) -> Path:
        """Return the path of the whole file in the cache, downloaded where it is not there.

        Raises:
            FileNotFoundError: The repository has no such file.
            OSError: It cannot be read.
        """
        try:
            if self._cached(file) is None and file not in self._sizes:
                self._find(file)  # at once: the client would try for half a minute
            return Path(hf_hub_download(self.repo_id, file, revision=self.revision, token=self.token))
        except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, httpx2.RequestError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                raise FileNotFoundError(f"{self.name} has no file {file!r}.") from error
            raise _explain(self.name, error) from error

    def open(self, file: str) -> RangeFile:
        """Open a file for reading in part; the whole of it is downloaded where the server knows no ranges.

        Raises:
            OSError: It cannot be read.
        """
        cached = self._cached(file)
        if cached is not None:
            return LocalFile(cached)
        if file not in self._sizes and not self.has(file):
            raise FileNotFoundError(f"{self.name} has no file {file!r}.")
        size = self._sizes.get(file)
        try:
            if size is None:
                raise NoRangesError(f"The size of {file} is not known.")
            return HubFile(self._url(file), self._headers(), size)
        except NoRangesError:
            return LocalFile(self.download(file))
        except HfHubHTTPError as error:
            raise _explain(self.name, error) from error

    def _find(self, file: str) -> bool:
        """Ask once whether there is such a file."""
        try:
            metadata = get_hf_file_metadata(
                self._url(file), token=self.token, timeout=hub_timeout(), library_name="gpt-embeddings"
            )
        except EntryNotFoundError:
            return False
        except (HfHubHTTPError, HFValidationError) as error:
            raise _explain(self.name, error) from error
        self._sizes[file] = metadata.size
        self.revision = metadata.commit_hash or self.revision  # all files from one commit
        return True

    def _url(self, file: str) -> str:
        return hf_hub_url(self.repo_id, file, revision=self.revision)

    def _headers(self) -> dict[str, str]:
        return build_hf_headers(token=self.token, library_name="gpt-embeddings")

    def _cached(self, file: str) -> Path | None:
        path = try_to_load_from_cache(self.repo_id, file, revision=self.revision)
        return Path(path) if isinstance(path, str) else None


Folder = LocalFolder | HubFolder


def open_folder(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> Folder:
    """Open a folder here, or a repository on the Hub where there is no such folder.

    Args:
        name_or_path: Path or Hub name.
        revision: Branch, tag or commit of a Hub name.
        token: Token for the Hub; None takes the one of the login.

    Returns:
        The folder.

    Raises:
        NotADirectoryError: The path is a file.
    """
    path = Path(name_or_path)
    if path.is_file():
        raise NotADirectoryError(f"{str(path)!r} is a file; give the folder that it is in, with its config.json.")
    if path.is_dir():
        return LocalFolder(path)
    return HubFolder(os.fspath(name_or_path), revision, token)


def read_json(folder: Folder, file: str, kind: type = dict) -> Any:
    """Return what a JSON file holds.

    Args:
        folder: Where it is.
        file: Its name.
        kind: What it has to hold, an object by default.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is too large, no JSON, or no object.
    """
    path = folder.download(file)
    if not path.is_file():
        raise FileNotFoundError(f"{folder.name} has no file {file!r}.")
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than the {MAX_JSON_BYTES} that are read as JSON.")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}).") from error
    if not isinstance(values, kind):
        raise ValueError(f"{path} holds {type(values).__name__}, not {'an object' if kind is dict else 'a list'}.")
    return values


def _view(data: torch.Tensor) -> memoryview:
    array: Any = data.numpy()
    return memoryview(array)


def _explain(name: str, error: Exception) -> OSError:
    hint = "" if "/" in name else f" {suggest_bundled(name)}"
    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{name} is gated: ask for access on its page on the Hub, then log in with `hf auth login` or give "
            "`token`."
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"{name}: the Hub knows no such revision.")
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        return FileNotFoundError(
            f"{name!r} is neither a folder here nor a model on the Hub that can be seen. A private one needs "
            f"`hf auth login` or `token`.{hint}"
        )
    copy = f" Without a network, copy it here (`hf download {name} --local-dir FOLDER`, where there is one)."
    answered = isinstance(error, HfHubHTTPError)
    return OSError(
        f"{name!r} is not a folder here, and could not be fetched from the Hub ({error})."
        f"{'' if answered else copy}{hint}"
    )
