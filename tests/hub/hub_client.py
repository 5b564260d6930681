"""Clients of the local Hub: fresh processes with an empty cache, that leave no token behind."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hub_server
import warm_python


ROOT = Path(__file__).resolve().parents[2]
TOKENS = {"alice": "hf_aliceWritesThis", "bob": "hf_bobWritesThat", "reader": "hf_aliceOnlyReads"}
USERS = {
    TOKENS["alice"]: ("alice", "write"),
    TOKENS["bob"]: ("bob", "write"),
    TOKENS["reader"]: ("alice", "read"),
}

# Importing what the project installs fails, as it does where it is not installed, in whatever way it is here.
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

PRELUDE = """
import hashlib, json, os, sys
import numpy as np
def digest(vectors):
    return hashlib.sha256(np.ascontiguousarray(vectors, dtype=np.float32).tobytes()).hexdigest()
def answer(value):
    print("\\nANSWER " + json.dumps(value))
"""


class Client:
    """Runs programs against one server; every token is looked for in what they print and leave on disk."""

    def __init__(self, hub: hub_server.Hub, url: str, root: Path) -> None:
        self.hub, self.url, self.root = hub, url, root
        self.root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def started(
        self, arguments: list[str], token: str | None, xet: bool = False, **variables: str
    ) -> Iterator[warm_python.Process | subprocess.Popen[str]]:
        """Start Python with an empty cache of its own."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            keep = {
                name: os.environ[name]
                for name in ("PATH", "SYSTEMROOT", "LANG", "OMP_WAIT_POLICY")
                if name in os.environ
            }
            environment = {
                **keep,
                "HOME": folder,
                "TMPDIR": folder,
                # The same words for each, and another folder: libraries read this once.
                "HF_HOME": "/proc/self/cwd/cache" if warm_python.WARM else f"{folder}/cache",
                "HF_ENDPOINT": self.url,
                "HF_HUB_DISABLE_XET": "0" if xet else "1",
                "HF_UPDATE_DOWNLOAD_COUNTS": "0",
                "NO_PROXY": "127.0.0.1",
                "PYTHONPATH": str(ROOT),
                **({"HF_TOKEN": TOKENS[token]} if token else {}),
                **variables,
            }
            pipe = subprocess.PIPE
            with warm_python.start(arguments, env=environment, cwd=folder, stdout=pipe, stderr=pipe) as process:
                try:
                    yield process
                finally:
                    process.kill()
            for path in Path(folder).rglob("*"):
                if path.is_file() and path.stat().st_size < 2**24:
                    self._check_no_token(path.read_bytes().decode("latin-1"), str(path))

    def run(
        self, code: str, *, token: str | None = "alice", package: bool = True, xet: bool = False, **env: str
    ) -> Any:
        """Run a program and return what it gave to `answer`."""
        program = ("" if package else WITHOUT_PACKAGE) + PRELUDE + code
        output = self.python(["-c", program], token, xet, **env)
        assert output.returncode == 0, output.stderr
        lines = [line for line in output.stdout.splitlines() if line.startswith("ANSWER ")]
        return json.loads(lines[-1].removeprefix("ANSWER "))

    def command(
        self, *arguments: str, token: str | None = "alice", xet: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run `gpt-embeddings`."""
        return self.python(["-c", "from gpt_embeddings_cli import app; app()", *arguments], token, xet)

    def python(
        self, arguments: list[str], token: str | None, xet: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python to its end."""
        with self.started(arguments, token, xet, **env) as process:
            stdout, stderr = process.communicate(timeout=300)
        self._check_no_token(stdout + stderr, "the output")
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    @staticmethod
    def _check_no_token(text: str, where: str) -> None:
        for token in TOKENS.values():
            assert token not in text, f"a token is in {where}"

    # What lies in the repositories, read from git ------------------------------------------------------------------

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

    def edit(self, name: str, path: str, text: str) -> None:
        """Commit a file, as a user does on the Hub's pages."""
        repository = self.hub.repositories["model", name]
        repository.commit("refs/heads/main", repository.resolve("main"), f"Edit {path}", [(path, text.encode())])
