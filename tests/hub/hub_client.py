"""Clients of the local Hub: this process, or a fresh one with an empty cache."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

# Importing what the project installs fails, as where it is not installed.
WITHOUT_PACKAGE = """
import importlib, sys
class Blocked:
    names = {"gpt_embeddings", "configuration_gpt_embeddings", "modeling_gpt_embeddings"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
for name in Blocked.names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
"""


class Client:
    """One server, and the ways to ask it."""

    def __init__(self, hub: hub_server.Hub, url: str, root: Path) -> None:
        self.hub, self.url, self.root = hub, url, root

    @contextmanager
    def in_this_process(self, xet: bool = False) -> Iterator[pytest.MonkeyPatch]:
        """Point the libraries of this process, which read these settings when they are imported, to the server."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", self.url)
            patch.setattr(datasets.config, "HF_ENDPOINT", self.url)
            template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "HF_HUB_OFFLINE", False)
            patch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
            patch.setattr(constants, "HF_HUB_CACHE", str(self.root / "cache"))
            patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between two tries
            patch.setenv("NO_PROXY", "127.0.0.1,localhost")
            patch.setenv("HF_TOKEN", TOKENS["alice"])
            yield patch

    @contextmanager
    def started(self, arguments: list[str], token: str | None) -> Iterator[subprocess.Popen[str]]:
        """Start Python with an empty cache of its own; look for tokens in the files that it leaves."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            keep = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LANG") if name in os.environ}
            environment = {
                **keep,
                "HOME": folder,
                "TMPDIR": folder,
                "HF_HOME": f"{folder}/cache",
                "HF_ENDPOINT": self.url,
                "HF_HUB_DISABLE_XET": "1",
                "HF_UPDATE_DOWNLOAD_COUNTS": "0",
                "NO_PROXY": "127.0.0.1,localhost",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
                **({"HF_TOKEN": TOKENS[token]} if token else {}),
            }
            command, pipe = [sys.executable, *arguments], subprocess.PIPE
            with subprocess.Popen(
                command, env=environment, cwd=folder, stdout=pipe, stderr=pipe, text=True
            ) as process:
                try:
                    yield process
                finally:
                    process.kill()
            for path in Path(folder).rglob("*"):
                if path.is_file() and path.stat().st_size < 2**24:
                    check_no_token(path.read_bytes().decode("latin-1"), str(path))

    def run(self, code: str, *, token: str | None = None, package: bool = True) -> Any:
        """Run a program in a fresh process and return what it gave to `answer`."""
        prelude = 'import json\ndef answer(value):\n    print("\\nANSWER " + json.dumps(value))\n'
        program = ("" if package else WITHOUT_PACKAGE) + prelude + code
        with self.started(["-c", program], token) as process:
            stdout, stderr = process.communicate()
        check_no_token(stdout + stderr, "the output")
        assert process.returncode == 0, stderr
        lines = [line for line in stdout.splitlines() if line.startswith("ANSWER ")]
        return json.loads(lines[-1].removeprefix("ANSWER "))

    # What is in the repositories, read from git --------------------------------------------------------------------

    def head(self, name: str, ref: str = "main", kind: str = "model") -> str:
        return self.hub.repositories[kind, name].resolve(ref)

    def files(self, name: str, ref: str = "main", kind: str = "model") -> dict[str, Any]:
        repository = self.hub.repositories[kind, name]
        entries = repository.tree(repository.resolve(ref))
        return {path: entry for path, entry in entries.items() if entry["type"] == "file"}

    def text(self, name: str, path: str, ref: str = "main", kind: str = "model") -> str:
        return self.hub.repositories[kind, name].blob(self.files(name, ref, kind)[path]["oid"]).decode()

    def changed(self, name: str, ref: str = "main", kind: str = "model") -> set[str]:
        """Return the paths that the last commit changed."""
        lines = self.hub.repositories[kind, name].git("diff-tree", "-r", "--name-only", "--no-commit-id", ref)
        return set(lines.decode().splitlines())

    def log(self, name: str, kind: str = "model") -> list[str]:
        """Return the first lines of the commits of `main`, the newest first."""
        return self.hub.repositories[kind, name].git("log", "--format=%s", "main").decode().splitlines()

    def edit(self, name: str, **texts: str) -> None:
        """Commit files, as a user does on the Hub's pages; `__` in a name stands for the dot."""
        repository = self.hub.repositories["model", name]
        files = [(path.replace("__", "."), text.encode()) for path, text in texts.items()]
        repository.commit("refs/heads/main", repository.resolve("main"), "Edit", files)


def check_no_token(text: str, where: str) -> None:
    for token in TOKENS.values():
        assert token not in text, f"a token is in {where}"
