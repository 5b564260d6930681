"""A client of the local Hub: this process, with an empty cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import hub_server
import pytest
from huggingface_hub import constants


ROOT = Path(__file__).resolve().parents[2]
TOKENS = {"alice": "hf_aliceWritesThis", "bob": "hf_bobWritesThat", "reader": "hf_aliceOnlyReads"}
USERS = {
    TOKENS["alice"]: ("alice", "write"),
    TOKENS["bob"]: ("bob", "write"),
    TOKENS["reader"]: ("alice", "read"),
}


class Client:
    """One server, and the ways to ask it."""

    def __init__(self, hub: hub_server.Hub, url: str, root: Path) -> None:
        self.hub, self.url, self.root = hub, url, root

    def head(self, name: str, ref: str = "main", kind: str = "model") -> str:
        return self.hub.repositories[kind, name].resolve(ref)

    def files(self, name: str, ref: str = "main", kind: str = "model") -> dict[str, bytes]:
        return self.hub.repositories[kind, name].files(ref)

    def text(self, name: str, path: str, ref: str = "main", kind: str = "model") -> str:
        return self.files(name, ref, kind)[path].decode()

    def changed(self, name: str, ref: str = "main") -> set[str]:
        """Return the paths that the last commit changed."""
        repository = self.hub.repositories["model", name]
        commit = repository.commits[repository.resolve(ref)]
        before = repository.files(commit.parent)
        return {path for path in before.keys() | commit.files.keys() if before.get(path) != commit.files.get(path)}

    def log(self, name: str, kind: str = "model") -> list[str]:
        """Return the messages of the commits of `main`, the newest first."""
        return [commit.message for commit in self.hub.repositories[kind, name].history("main")]

    def edit(self, name: str, **texts: str) -> None:
        """Commit files, as a user does on the Hub's pages; `__` in a name stands for the dot."""
        repository = self.hub.repositories["model", name]
        files = [(path.replace("__", "."), text.encode()) for path, text in texts.items()]
        repository.commit("refs/heads/main", repository.resolve("main"), "Edit", files)


@contextmanager
def local_hub(root: Path) -> Iterator[tuple[Client, pytest.MonkeyPatch]]:
    """Serve a Hub and point the libraries of this process, which read these settings when they are imported, to it."""
    with hub_server.running(root / "server", USERS) as (hub, url), pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        patch.setattr(datasets.config, "HF_ENDPOINT", url)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
        patch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # a client of the server before
        patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between two tries
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("HF_TOKEN", TOKENS["alice"])
        yield Client(hub, url, root), patch
    for path in root.rglob("*"):  # what the libraries left there
        if path.is_file():
            check_no_token(path.read_bytes().decode("latin-1"), str(path))


def check_no_token(text: str, where: str) -> None:
    for token in TOKENS.values():
        assert token not in text, f"a token is in {where}"
