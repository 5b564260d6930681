"""A small Hugging Face Hub for tests, that the unmodified clients accept.

A repository is a set of commits in memory; a blob has the id that git gives it. A commit is made whole and becomes
visible at once: readers see all of it or nothing. Large files are git-LFS pointers, and objects named by their sha256
that are put and fetched at a second origin, as with the real Hub; the log says which requests carried a token where.
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

import uvicorn
from huggingface_hub.repocard import RepoCard
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse


LFS_SUFFIXES = (".arrow", ".bin", ".npy", ".npz", ".onnx", ".parquet", ".pt", ".safetensors", ".zip")
LFS_POINTER = re.compile(rb"version https://git-lfs.github.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")


class Refusal(Exception):
    """An error answer in the Hub's own form; clients tell errors apart by the code in `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = JSONResponse(
            {"error": message}, status, {"X-Error-Message": message, "X-Error-Code": code, **names}
        )


@dataclass
class Asked:
    """One request of the log; no header's value is kept."""

    line: str
    origin: str  # "hub" or "cdn"
    with_token: bool
    range: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Commit:
    """All files of one state of a repository."""

    parent: str | None
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Commits and refs, and what the Hub knows about a repository besides."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    n_pull_requests: int = 0
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def resolve(self, revision: str) -> str:
        """Return the commit of a sha, branch or full ref."""
        for ref in (revision, f"refs/heads/{revision}"):
            if ref in self.refs:
                return self.refs[ref]
        if revision not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return revision

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.resolve(revision)].files

    def tree(self, revision: str) -> dict[str, dict[str, Any]]:
        """Return every file and folder of a commit in the form of the Hub's tree route, by path."""
        entries: dict[str, dict[str, Any]] = {}
        for path, data in self.files(revision).items():
            for folder in map(str, PurePosixPath(path).parents[:-1]):
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entries[path] = {"type": "file", "path": path, "oid": oid, "size": len(data)}
            if pointer := LFS_POINTER.fullmatch(data):
                entries[path]["size"] = int(pointer[2])
                entries[path]["lfs"] = {"oid": pointer[1].decode(), "size": int(pointer[2]), "pointerSize": len(data)}
        return entries

    def commit(self, ref: str, parent: str | None, message: str, changes: list[tuple[str, bytes | None]]) -> str:
        """Write (path, bytes) and delete (path, None) in one commit and move `ref` to it from `parent`."""
        with self.lock:
            files = {**(self.commits[parent].files if parent else {}), **dict(changes)}
            new = hashlib.sha1(f"{self.name}{len(self.commits)}".encode()).hexdigest()
            kept = {path: data for path, data in files.items() if data is not None}
            self.commits[new] = Commit(parent, message, kept)
            self.refs[ref] = new
        return new

    def history(self, ref: str) -> Iterator[Commit]:
        """Yield the commits of a branch, the newest first."""
        at: str | None = self.resolve(ref)
        while at:
            yield self.commits[at]
            at = self.commits[at].parent


class Hub:
    """The server as an ASGI application.

    Args:
        root: Folder for the large files.
        users: Token -> `(name, role)`; the role is "write" or "read".
    """

    def __init__(self, root: Path, users: dict[str, tuple[str, str]]) -> None:
        self.users = users
        self.objects = root / "objects"
        self.objects.mkdir(parents=True)
        self.lock = threading.Lock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.asked: list[Asked] = []
        self.faults: list[
            tuple[str, int | str]
        ] = []  # a pattern of "METHOD /path"; a status or, on "BODY /path", "half"
        self.hub_port = self.cdn_port = 0
        self.ranges = True  # whether the second origin answers range requests

    def fault(self, pattern: str, what: int | str, times: int = 1) -> None:
        """Let the next `times` requests that match go wrong."""
        self.faults += [(pattern, what)] * times

    def user(self, request: Request) -> tuple[str, str] | None:
        header = request.headers.get("authorization")
        if header is None:
            return None
        user = self.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def repository(self, request: Request, kind: str, name: str, need: str = "see") -> Repository:
        """Return a repository if the caller may "see" it, "read" its files, "propose" a change or "write"."""
        user, repository = self.user(request), self.repositories.get((kind, name))
        owner = user is not None and user[0] == name.split("/")[0]
        if repository is None or (repository.private and not owner) or (need in ("propose", "write") and not user):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if need == "read" and repository.gated and not owner:
            raise Refusal(403 if user else 401, f"Access to {kind} {name} is restricted.", "GatedRepo")
        if need in ("propose", "write") and user and (user[1] != "write" or (need == "write" and not owner)):
            raise Refusal(403, "Forbidden: you may not write here; `create_pr=1` opens a pull request")
        return repository

    def create(self, request: Request, body: dict[str, Any]) -> Response:
        user = self.user(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        kind, owner = body.get("type") or "model", body.get("organization") or user[0]
        if user != (owner, "write"):
            raise Refusal(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        name = f"{owner}/{body['name']}"
        answer = {"url": _url(request, kind, name), "name": name}
        with self.lock:
            if (kind, name) in self.repositories:
                return JSONResponse({"error": f"You already created this {kind} repo", **answer}, 409)
            repository = Repository(kind, name, private=body.get("visibility") == "private")
            repository.commit("refs/heads/main", None, "initial commit", [(".gitattributes", b"")])
            self.repositories[kind, name] = repository
        return JSONResponse(answer)

    def info(self, repository: Repository, revision: str) -> dict[str, Any]:
        tree = {path: entry for path, entry in repository.tree(revision).items() if entry["type"] == "file"}
        text = repository.files(revision).get("README.md")
        card = RepoCard(text.decode()).data.to_dict() if text else {}
        return {
            "_id": repository.name,
            "id": repository.name,
            "sha": repository.resolve(revision),
            "private": repository.private,
            "gated": repository.gated,
            "tags": card.get("tags") or [],
            "cardData": card,
            "siblings": [{"rfilename": path, "size": entry["size"]} for path, entry in tree.items()],
        }

    def commit(self, request: Request, repository: Repository, revision: str, raw: bytes, propose: bool) -> Response:
        header, *operations = [json.loads(line) for line in raw.splitlines() if line.strip()]
        message = header["value"]["summary"] + "\n\n" + header["value"].get("description", "")
        url, answer = _url(request, repository.kind, repository.name), {"success": True}
        with repository.lock:
            parent = repository.resolve(revision)
            if not parent.startswith(header["value"].get("parentCommit") or ""):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            changes: list[tuple[str, bytes | None]] = []
            for kind, value in ((operation["key"], operation["value"]) for operation in operations):
                content = None  # of "deletedFile"
                if kind == "file":
                    content = base64.b64decode(value["content"], validate=True)
                elif kind == "lfsFile":
                    head = "version https://git-lfs.github.com/spec/v1\noid sha256:"
                    content = f"{head}{value['oid']}\nsize {value['size']}\n".encode()
                changes.append((value["path"], content))
            ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
            if propose:
                repository.n_pull_requests += 1
                ref = f"refs/pr/{repository.n_pull_requests}"
                repository.refs[ref] = parent
                answer["pullRequestUrl"] = f"{url}/discussions/{repository.n_pull_requests}"
            new = repository.commit(ref, parent, message, changes)
        return JSONResponse({**answer, "commitOid": new, "commitUrl": f"{url}/commit/{new}"})

    def file(self, request: Request, repository: Repository, revision: str, path: str) -> Response:
        commit = repository.resolve(revision)
        entry = repository.tree(commit).get(path, {"type": "nothing"})
        if entry["type"] != "file":
            raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry["oid"]}"'}
        if "lfs" in entry:
            oid = entry["lfs"]["oid"]
            headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(entry["size"])}
            headers["Location"] = f"http://localhost:{self.cdn_port}/object/{oid}"
            return Response(status_code=302, headers=headers)
        return Response(repository.files(commit)[path], 200, headers, "text/plain")

    async def second_origin(self, request: Request, oid: str) -> Response:
        """Put or get a large file; whoever knows the address may."""
        headers = {"ETag": f'"{oid}"'}
        if request.method == "PUT":
            (self.objects / oid).write_bytes(await request.body())
            return Response(headers=headers)
        if self._next_fault(f"BODY {request.url.path}"):
            data = (self.objects / oid).read_bytes()

            async def half() -> Any:
                yield data[: len(data) // 2]
                raise ConnectionResetError

            return StreamingResponse(half(), headers={"Content-Length": str(len(data))})
        if not self.ranges:
            return Response((self.objects / oid).read_bytes(), headers=headers)
        return FileResponse(self.objects / oid, headers=headers, media_type="binary/octet-stream")

    async def route(self, request: Request) -> Response:
        # From the raw path: `refs%2Fpr%2F1` is one segment, while a file's path is many.
        path: list[str] = [unquote(part) for part in request.scope["raw_path"].decode().split("?")[0].split("/")[1:]]
        if request.scope["server"][1] == self.cdn_port:
            return await self.second_origin(request, path[-1])
        raw = await request.body()
        content_type = request.headers.get("content-type", "").split(";")[0]
        body = json.loads(raw) if raw and content_type.endswith("json") and "ndjson" not in content_type else {}
        return await run_in_threadpool(self.answer, request, path, raw, body)

    def answer(self, request: Request, path: list[str], raw: bytes, body: dict[str, Any]) -> Response:
        match path:
            case ["api", "whoami-v2"]:
                user = self.user(request)
                if user is None:
                    raise Refusal(401, "Invalid username or password.")
                token = {"accessToken": {"displayName": "test", "role": user[1]}}
                return JSONResponse({"type": "user", "name": user[0], "orgs": [], "auth": token})
            case ["api", "validate-yaml"]:
                return JSONResponse({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                return self.create(request, body)
            case ["api", "repos", "delete"]:
                kind, name = body.get("type") or "model", f"{body['organization']}/{body['name']}"
                self.repository(request, kind, name, "write")
                del self.repositories[kind, name]
                return Response(status_code=204)
            case ["api", ("models" | "datasets") as kinds, owner, name, *rest]:
                return self.of_repository(request, kinds[:-1], f"{owner}/{name}", rest, raw, body)
        kind = path.pop(0)[:-1] if path[0] == "datasets" else "model"
        match path:
            case [owner, name, "info", "lfs", "objects", "batch"]:
                # No ref is named for a pull request, which does not need the right to write.
                need = "write" if "ref" in body else "propose"
                self.repository(request, kind, f"{owner}/{name.removesuffix('.git')}", need)
                objects: list[dict[str, Any]] = [
                    {"oid": item["oid"], "size": item["size"]} for item in body["objects"]
                ]
                for item in objects:
                    if not (self.objects / item["oid"]).exists():
                        put = f"http://localhost:{self.cdn_port}/object/{item['oid']}"
                        item["actions"] = {"upload": {"href": put}}
                media_type = "application/vnd.git-lfs+json"
                return JSONResponse({"transfer": "basic", "objects": objects}, media_type=media_type)
            case [owner, name, "resolve", revision, *parts]:
                repository = self.repository(request, kind, f"{owner}/{name}", "read")
                return self.file(request, repository, revision, "/".join(parts))
        raise Refusal(404, "Not found")

    def of_repository(
        self, request: Request, kind: str, name: str, rest: list[str], raw: bytes, body: dict[str, Any]
    ) -> Response:
        propose = request.query_params.get("create_pr") == "1"
        need = "see" if request.method == "GET" else "propose" if propose else "write"
        repository = self.repository(request, kind, name, need)
        match request.method, rest:
            case "GET", [] | ["revision", _]:
                return JSONResponse(self.info(repository, rest[1] if rest else "main"))
            case "GET", ["tree", revision, *parts]:
                tree, folder = repository.tree(revision), "/".join(parts)
                if folder and tree.get(folder, {}).get("type") != "directory":
                    raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
                deep = request.query_params.get("recursive", "").lower() in ("true", "1")
                inside = [entry for path, entry in tree.items() if not folder or path.startswith(f"{folder}/")]
                depth = len(parts)
                return JSONResponse([entry for entry in inside if deep or entry["path"].count("/") == depth])
            case "POST", ["commit", revision]:
                return self.commit(request, repository, revision, raw, propose)
            case "POST", ["preupload", revision]:
                tree, answers = repository.tree(revision), []
                for path in (file["path"] for file in body["files"]):
                    mode, old = "lfs" if path.endswith(LFS_SUFFIXES) else "regular", tree.get(path)
                    there = {"oid": old.get("lfs", old)["oid"]} if old else {}  # what has not changed is not sent
                    answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **there})
                return JSONResponse({"files": answers})
            case "POST", ["branch", name]:
                if (ref := f"refs/heads/{name}") in repository.refs:
                    raise Refusal(409, f"Reference {ref} already exists")
                repository.refs[ref] = repository.resolve(body.get("startingPoint") or "main")
                return JSONResponse({})
        raise Refusal(404, "Not found")

    def _next_fault(self, line: str) -> int | str | None:
        with self.lock:
            found = next((fault for fault in self.faults if re.search(fault[0], line)), None)
            if found is None:
                return None
            self.faults.remove(found)
            return found[1]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        origin = "cdn" if scope["server"][1] == self.cdn_port else "hub"
        line = f"{request.method} {scope['raw_path'].decode()}"
        asked = Asked(line, origin, "authorization" in request.headers, request.headers.get("range"))
        self.asked.append(asked)

        async def send_and_count(message: Any) -> None:
            asked.status = message.get("status", asked.status)
            asked.sent += len(message.get("body", b"")) if request.method != "HEAD" else 0
            await send(message)

        try:
            what = self._next_fault(line)
            if what is not None:
                raise Refusal(int(what), "injected fault")
            response = await self.route(request)
        except Refusal as refusal:
            response = refusal.response
        await response(scope, receive, send_and_count)


def _url(request: Request, kind: str, name: str) -> str:
    return f"{request.base_url}{'' if kind == 'model' else kind + 's/'}{name}"


@contextmanager
def running(root: Path, users: dict[str, tuple[str, str]]) -> Iterator[tuple[Hub, str]]:
    """Serve on two free loopback ports while the block runs; gives the hub and its `HF_ENDPOINT`."""
    hub = Hub(root, users)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    hub.hub_port, hub.cdn_port = (sock.getsockname()[1] for sock in sockets)
    server = uvicorn.Server(uvicorn.Config(hub, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield hub, f"http://127.0.0.1:{hub.hub_port}"
    finally:
        server.should_exit = True
        thread.join(10)
        for sock in sockets:
            sock.close()
