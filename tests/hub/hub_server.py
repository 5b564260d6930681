"""A small Hugging Face Hub for tests, that the unmodified clients accept, and this process as a client of it.

A repository is a set of commits in memory; a blob has the id that git gives it. A commit is made whole and becomes
visible at once: readers see all of it or nothing. Large files are named by their sha256, and put and fetched at a
second origin, as with the real Hub; the log says which requests carried a token where.
Routes were written from what huggingface_hub 2.4 asks for. Left out: everything else that no test here needs.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import datasets
import pytest
import uvicorn
from huggingface_hub import constants
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response


TOKENS = {"alice": "hf_aliceWritesThis", "bob": "hf_bobWritesThat", "reader": "hf_aliceOnlyReads"}
USERS = {
    TOKENS["alice"]: ("alice", "write"),
    TOKENS["bob"]: ("bob", "write"),
    TOKENS["reader"]: ("alice", "read"),
}
LARGE = (".bin", ".parquet", ".safetensors")


@dataclass
class Asked:
    """One request of the log; no header's value is kept."""

    line: str  # "METHOD /path"
    origin: str  # "hub" or "cdn"
    with_token: bool
    range: str | None
    sent: int = 0


@dataclass
class Commit:
    """All files of one state of a repository."""

    parent: str | None
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Commits, the branches and pull requests that name them, and who may see what."""

    url: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def head(self, ref: str = "main") -> str:
        """Return the commit of a sha, a branch or `refs/pr/N`."""
        commit = self.refs.get(ref, ref)
        if commit not in self.commits:
            raise HTTPException(404, f"Invalid rev id: {ref}", {"X-Error-Code": "RevisionNotFound"})
        return commit

    def files(self, ref: str = "main") -> dict[str, bytes]:
        return self.commits[self.head(ref)].files

    def text(self, path: str, ref: str = "main") -> str:
        return self.files(ref)[path].decode()

    def changed(self, ref: str = "main") -> set[str]:
        """Return the paths that the last commit changed."""
        before, after = self.files(self.commits[self.head(ref)].parent), self.files(ref)
        return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}

    def log(self) -> list[str]:
        """Return the messages of the commits of `main`, the newest first."""
        messages, at = [], self.head()
        while at:
            messages.append(self.commits[at].message)
            at = self.commits[at].parent
        return messages

    def entry(self, path: str, ref: str) -> dict[str, Any]:
        """Return what the Hub's tree route says about a file."""
        data = self.files(ref)[path]
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry = {"type": "file", "path": path, "oid": oid, "size": len(data)}
        large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry | {"lfs": large} if path.endswith(LARGE) else entry

    def commit(self, ref: str, message: str, changes: dict[str, bytes | None]) -> str:
        """Write the files that have bytes and delete the others in one commit."""
        parent = self.refs.get(ref)
        files = {**(self.files(ref) if parent else {}), **changes}
        new = hashlib.sha1(f"{self.url}{len(self.commits)}".encode()).hexdigest()
        self.commits[new] = Commit(parent, message, {path: data for path, data in files.items() if data is not None})
        self.refs[ref] = new
        return new


class Hub:
    """The server as an ASGI application; `root` is a folder for the large files and for the caches of its clients."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.url, self.second_url = root, f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.asked: list[Asked] = []
        self.faults: list[tuple[str, int | str]] = []  # how the line begins; a status, or "half" an answer
        self.ranges = True  # whether the second origin answers range requests
        (root / "objects").mkdir(parents=True)

    def model(self, name: str) -> Repository:
        return self.repositories["model", name]

    def dataset(self, name: str) -> Repository:
        return self.repositories["dataset", name]

    def object(self, oid: str) -> Path:
        return self.root / "objects" / oid

    def user(self, request: Request) -> tuple[str, str]:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise HTTPException(401, "Invalid credentials in Authorization header")
        return USERS.get(token, ("", "read"))

    def allowed(self, request: Request, kind: str, name: str, what: str = "see") -> Repository:
        """Return a repository if the user may "see" it, "read" its files or "write"."""
        user, repository = self.user(request), self.repositories.get((kind, name))
        owner = name.split("/")[0]
        if repository is None or (repository.private and user[0] != owner):
            raise HTTPException(404 if user[0] else 401, "Repository not found", {"X-Error-Code": "RepoNotFound"})
        if what == "read" and repository.gated and user[0] != owner:
            raise HTTPException(403 if user[0] else 401, "Access is restricted.", {"X-Error-Code": "GatedRepo"})
        if what == "write" and user != (owner, "write"):
            raise HTTPException(403, "Forbidden: you may not write here")
        return repository

    async def whoami(self, request: Request) -> Any:
        return {"name": self.user(request)[0]}

    async def validate_card(self, request: Request) -> Any:
        return {"errors": [], "warnings": []}

    async def create(self, request: Request) -> Any:
        body, user = await request.json(), self.user(request)
        kind, owner = body.get("type") or "model", body["organization"]
        if user != (owner, "write"):
            raise HTTPException(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        name = f"{owner}/{body['name']}"
        repository = Repository(f"{self.url}/{'' if kind == 'model' else kind + 's/'}{name}")
        if (kind, name) in self.repositories:
            return JSONResponse({"url": repository.url}, 409)
        repository.private = body.get("visibility") == "private"
        repository.commit("main", "initial commit", {".gitattributes": b""})
        self.repositories[kind, name] = repository
        return {"url": repository.url}

    async def delete(self, request: Request) -> Any:
        body = await request.json()
        key = body.get("type") or "model", f"{body['organization']}/{body['name']}"
        self.allowed(request, *key, "write")
        return {"deleted": self.repositories.pop(key).url}

    async def info(self, request: Request, kind: str, name: str, ref: str = "main") -> Any:
        repository = self.allowed(request, kind, name)
        return {
            "id": name,
            "sha": repository.head(ref),
            "private": repository.private,
            "siblings": [{"rfilename": path} for path in repository.files(ref)],
        }

    async def tree(self, request: Request, kind: str, name: str, ref: str, folder: str = "") -> Any:
        repository = self.allowed(request, kind, name)
        paths = [path for path in repository.files(ref) if path.startswith(folder and f"{folder}/")]
        if not paths:
            raise HTTPException(404, f"{folder} does not exist on {ref}", {"X-Error-Code": "EntryNotFound"})
        folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents[:-1]}
        directories = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders]
        return [*directories, *(repository.entry(path, ref) for path in paths)]

    async def branch(self, request: Request, kind: str, name: str, ref: str) -> Any:
        repository = self.allowed(request, kind, name, "write")
        repository.refs[ref] = repository.head()
        return {}

    async def before_upload(self, request: Request, kind: str, name: str, ref: str) -> Any:
        """Say which files are large, and the ids of those that are there, which the client then does not send."""
        repository, answers = self.allowed(request, kind, name, "write"), []
        for path in (file["path"] for file in (await request.json())["files"]):
            mode = "lfs" if path.endswith(LARGE) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            if path in repository.files(ref):
                old = repository.entry(path, ref)
                answers[-1]["oid"] = old.get("lfs", old)["oid"]
        return {"files": answers}

    async def batch(self, request: Request, kind: str | None, name: str) -> Any:
        """Say where the large files go."""
        self.allowed(request, kind or "model", name, "write")
        wanted = (await request.json())["objects"]
        for item in wanted:
            if not self.object(item["oid"]).exists():
                item["actions"] = {"upload": {"href": f"{self.second_url}/object/{item['oid']}"}}
        return {"transfer": "basic", "objects": wanted}

    async def commit(self, request: Request, kind: str, name: str, ref: str) -> Any:
        repository = self.allowed(request, kind, name, "write")
        header, *operations = map(json.loads, (await request.body()).splitlines())
        answer, value = {"success": True}, header["value"]
        if not repository.head(ref).startswith(value.get("parentCommit") or ""):
            raise HTTPException(412, "A commit has happened since. Please refresh and try again.")
        changes: dict[str, bytes | None] = {}
        for operation in operations:
            file, content = operation["value"], None  # of "deletedFile"
            if operation["key"] == "file":
                content = base64.b64decode(file["content"], validate=True)
            elif operation["key"] == "lfsFile":
                content = self.object(file["oid"]).read_bytes()
            changes[file["path"]] = content
        if request.query_params.get("create_pr") == "1":
            number = 1 + sum(known.startswith("refs/pr/") for known in repository.refs)
            repository.refs[f"refs/pr/{number}"] = repository.head(ref)
            ref, answer["pullRequestUrl"] = f"refs/pr/{number}", f"{repository.url}/discussions/{number}"
        new = repository.commit(ref, f"{value['summary']}\n\n{value.get('description', '')}", changes)
        return {**answer, "commitOid": new, "commitUrl": f"{repository.url}/commit/{new}"}

    async def file(self, request: Request, kind: str | None, name: str, ref: str, path: str) -> Any:
        repository = self.allowed(request, kind or "model", name, "read")
        headers = {"X-Repo-Commit": repository.head(ref)}
        if path not in repository.files(ref):
            raise HTTPException(404, "Entry not found", {"X-Error-Code": "EntryNotFound", **headers})
        entry = repository.entry(path, ref)
        headers["ETag"] = f'"{entry["oid"]}"'
        if "lfs" not in entry:
            return Response(repository.files(ref)[path], 200, headers)
        oid = entry["lfs"]["oid"]
        headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(entry["size"])}
        return Response(status_code=302, headers={**headers, "Location": f"{self.second_url}/object/{oid}"})

    async def put(self, request: Request, oid: str) -> Any:
        self.object(oid).write_bytes(await request.body())
        return {}

    async def get(self, request: Request, oid: str) -> Any:
        """Send a large file; whoever knows the address may have it."""
        return FileResponse(self.object(oid)) if self.ranges else Response(self.object(oid).read_bytes())

    async def answer(self, request: Request, line: str) -> Response:
        for pattern, endpoint in ROUTES.items():
            if match := re.fullmatch(pattern, line):
                values = {name: text and unquote(text) for name, text in match.groupdict().items()}
                answer = await endpoint(self, request, **values)
                return answer if isinstance(answer, Response) else JSONResponse(answer)
        raise HTTPException(404, "Not found")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        # From the raw path: `refs%2Fpr%2F1` is one segment, while a file's path is many.
        line = f"{request.method} {scope['raw_path'].decode().split('?')[0]}"
        origin = "cdn" if request.url.hostname == "localhost" else "hub"
        asked = Asked(line, origin, "authorization" in request.headers, request.headers.get("range"))
        self.asked.append(asked)
        fault = next((fault for fault in self.faults if line.startswith(fault[0])), (line, None))
        if fault[1] is not None:
            self.faults.remove(fault)

        async def send_and_count(message: Any) -> None:
            body = message.get("body", b"")
            if body and fault[1] == "half":
                await send({**message, "body": body[: len(body) // 2], "more_body": True})
                raise ConnectionResetError
            asked.sent += len(body)
            await send(message)

        try:
            if isinstance(fault[1], int):
                raise HTTPException(fault[1], "injected fault")
            response = await self.answer(request, line)
        except HTTPException as error:  # in the Hub's form: clients tell errors apart by the code in `X-Error-Code`
            response = Response(None, error.status_code, {"X-Error-Message": error.detail, **(error.headers or {})})
        await response(scope, receive, send_and_count)


API = "/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)"
REF = "(?P<ref>[^/]+)"
ROUTES = {
    "GET /api/whoami-v2": Hub.whoami,
    "POST /api/validate-yaml": Hub.validate_card,
    "POST /api/repos/create": Hub.create,
    "DELETE /api/repos/delete": Hub.delete,
    f"GET {API}": Hub.info,
    f"GET {API}/revision/{REF}": Hub.info,
    f"GET {API}/tree/{REF}": Hub.tree,
    f"GET {API}/tree/{REF}/(?P<folder>.+)": Hub.tree,
    f"POST {API}/branch/{REF}": Hub.branch,
    f"POST {API}/preupload/{REF}": Hub.before_upload,
    f"POST {API}/commit/{REF}": Hub.commit,
    r"POST /(?:(?P<kind>dataset)s/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch": Hub.batch,
    f"(?:GET|HEAD) /(?:(?P<kind>dataset)s/)?(?P<name>[^/]+/[^/]+)/resolve/{REF}/(?P<path>.+)": Hub.file,
    "PUT /object/(?P<oid>[0-9a-f]{64})": Hub.put,
    "GET /object/(?P<oid>[0-9a-f]{64})": Hub.get,
}


@contextmanager
def local_hub(root: Path) -> Iterator[tuple[Hub, pytest.MonkeyPatch]]:
    """Serve a Hub and point the libraries of this process, which read these settings when they are imported, to it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        hub = Hub(root, listener.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(hub, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
        patch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # a client of the server before
        patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between two tries
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("HF_TOKEN", TOKENS["alice"])
        try:
            yield hub, patch
        finally:
            server.should_exit = True
            thread.join(10)
    for path in root.rglob("*"):  # what the libraries left there
        if path.is_file():
            check_no_token(path.read_bytes().decode("latin-1"), str(path))


def check_no_token(text: str, where: str) -> None:
    for token in TOKENS.values():
        assert token not in text, f"a token is in {where}"
