"""A small Hugging Face Hub for tests, on real git storage, that the unmodified clients accept.

A repository is a bare git repository, so blobs, trees, commits and refs have their real ids. A commit is made whole
and becomes visible by one `git update-ref NEW OLD`: readers see all of it or nothing. Large files are git-LFS pointers
in git and objects named by their sha256 beside it, and are put and fetched at a second origin, as with the real Hub;
the log says which requests carried a token where. Routes were written from what huggingface_hub 2.4 asks for. Left
out: web pages, search, spaces, comments, merging, and everything else that no test here needs.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import uvicorn
from hub_xet import XetFolder
from huggingface_hub.repocard import RepoCard
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse


LFS_SUFFIXES = (".arrow", ".bin", ".npy", ".npz", ".onnx", ".parquet", ".pt", ".safetensors", ".zip")
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
LFS_SIZE = 10 * 2**20  # a larger file is kept in LFS whatever its name
LFS_POINTER = re.compile(rb"version https://git-lfs.github.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")
REPO_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
REFUSED_PARTS = {"", ".", "..", ".git"}
IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "hub"), ("EMAIL", "hub@test.invalid"))
}


class Refusal(Exception):
    """An error answer in the Hub's own form; clients tell errors apart by the code in `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        code_header = {"X-Error-Code": code} if code else {}
        self.response = JSONResponse({"error": message}, status, {"X-Error-Message": message, **code_header, **names})


@dataclass
class Fault:
    """What goes wrong: a status, a stop (in seconds) before the answer, or on "BODY /path" half an answer."""

    pattern: str  # regular expression on "METHOD /path"
    what: int | float | str
    times: int


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
class Repository:
    """One bare git repository and what the Hub knows about it besides."""

    folder: Path
    kind: str
    name: str
    private: bool = False
    gated: bool = False
    n_pull_requests: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def git(self, *arguments: str, stdin: bytes | None = None, index: str | None = None) -> bytes:
        environment = {**os.environ, **IDENTITY, **({"GIT_INDEX_FILE": index} if index else {})}
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, check=True, env=environment).stdout

    def has_ref(self, ref: str) -> bool:
        return bool(self.git("for-each-ref", ref))

    def resolve(self, revision: str) -> str:
        """Return the commit of a sha, branch, tag or full ref."""
        names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
        if revision.startswith("refs/") or re.fullmatch("[0-9a-f]{40}", revision):
            names = [revision]
        for name in names:
            try:
                return self.git("rev-parse", "--verify", "-q", name + "^{commit}").decode().strip()
            except subprocess.CalledProcessError:
                continue
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def tree(self, commit: str) -> dict[str, dict[str, Any]]:
        """Return every file and folder of a commit in the form of the Hub's tree route, by path."""
        entries = {}
        for line in self.git("ls-tree", "-r", "-t", "-l", "-z", commit).decode().split("\0")[:-1]:
            head, path = line.split("\t", 1)
            _, what, oid, size = head.split()
            if what == "tree":
                entries[path] = {"type": "directory", "path": path, "oid": oid, "size": 0}
                continue
            entry: dict[str, Any] = {"type": "file", "path": path, "oid": oid, "size": int(size)}
            pointer = LFS_POINTER.fullmatch(self.blob(oid)) if entry["size"] < 200 else None
            if pointer:
                entry["size"] = int(pointer[2])
                entry["lfs"] = {"oid": pointer[1].decode(), "size": entry["size"], "pointerSize": int(size)}
            entries[path] = entry
        return entries

    def blob(self, oid: str) -> bytes:
        return self.git("cat-file", "blob", oid)

    def commit(self, ref: str, parent: str | None, message: str, changes: list[tuple[str, bytes | None]]) -> str:
        """Write (path, bytes) and delete (path, None) in one commit and move `ref` to it from `parent`."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            index = f"{folder}/index"
            if parent:
                self.git("read-tree", parent, index=index)
            lines = b""
            for path, data in changes:
                oid = b"0" * 40 if data is None else self.git("hash-object", "-w", "--stdin", stdin=data).strip()
                lines += (b"0 " if data is None else b"100644 ") + oid + b"\t" + path.encode() + b"\0"
            self.git("update-index", "-z", "--index-info", stdin=lines, index=index)
            tree = self.git("write-tree", index=index).decode().strip()
        parents = ["-p", parent] if parent else []
        new = self.git("commit-tree", tree, *parents, stdin=message.encode()).decode().strip()
        self.set_ref(ref, new, parent or "0" * 40, Refusal(412, "A commit has happened since. Please refresh."))
        return new

    def set_ref(self, ref: str, new: str, old: str, otherwise: Refusal) -> None:
        try:
            self.git("update-ref", ref, new, old)
        except subprocess.CalledProcessError:
            raise otherwise from None

    def refs(self, prefix: str) -> list[dict[str, str]]:
        lines = self.git("for-each-ref", "--format=%(refname) %(objectname)", prefix).decode().splitlines()
        pairs = [line.split(" ") for line in lines]
        return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit} for ref, commit in pairs]


class Hub:
    """The server as an ASGI application.

    Args:
        root: Folder for all that is stored.
        users: Token -> `(name, role)`; the role is "write" or "read".
        xet: Whether uploads go through hf_xet; its chunks land in a folder instead of a storage service.
    """

    def __init__(self, root: Path, users: dict[str, tuple[str, str]], xet: bool = False) -> None:
        self.root, self.users = root, users
        self.objects = root / "objects"
        self.objects.mkdir(parents=True)
        self.xet = XetFolder(root / "xet") if xet else None
        self.secret, self.lock = secrets.token_bytes(16), threading.Lock()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.hub_port = self.cdn_port = 0
        self.ranges = True  # whether the second origin answers range requests

    def fault(self, pattern: str, what: int | float | str, times: int = 1) -> None:
        """Let the next `times` requests that match go wrong."""
        self.faults.append(Fault(pattern, what, times))

    # Who may do what ------------------------------------------------------------------------------------------------

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
        kind, owner, name = body.get("type") or "model", body.get("organization") or user[0], body["name"]
        if not REPO_NAME.fullmatch(name):
            raise Refusal(400, f"Invalid repo name: {name}")
        if user != (owner, "write"):
            raise Refusal(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        full = f"{owner}/{name}"
        answer = {"url": f"{request.base_url}{'' if kind == 'model' else kind + 's/'}{full}", "name": full}
        with self.lock:
            if (kind, full) in self.repositories:
                return JSONResponse({"error": f"You already created this {kind} repo", **answer}, 409)
            folder = self.root / kind / f"{full}.git"
            folder.mkdir(parents=True)
            repository = Repository(folder, kind, full, private=body.get("visibility") == "private")
            repository.git("init", "-q", "--bare", "-b", "main")
            repository.commit("refs/heads/main", None, "initial commit", [(".gitattributes", GIT_ATTRIBUTES.encode())])
            self.repositories[kind, full] = repository
        return JSONResponse(answer)

    # What a repository looks like -----------------------------------------------------------------------------------

    def info(self, repository: Repository, revision: str) -> dict[str, Any]:
        commit = repository.resolve(revision)
        tree = {path: entry for path, entry in repository.tree(commit).items() if entry["type"] == "file"}
        card: dict[str, Any] = {}
        if "README.md" in tree:
            card = RepoCard(repository.blob(tree["README.md"]["oid"]).decode()).data.to_dict()
        date = repository.git("log", "-1", "--format=%cd", "--date=format:%Y-%m-%dT%H:%M:%S.000Z", commit).decode()
        return {
            "_id": repository.name,
            "id": repository.name,
            "modelId": repository.name,
            "author": repository.name.split("/")[0],
            "sha": commit,
            "private": repository.private,
            "gated": repository.gated,
            "lastModified": date.strip(),
            "downloads": 0,
            "likes": 0,
            "tags": card.get("tags") or [],
            "cardData": card,
            "siblings": [{"rfilename": path, "size": entry["size"]} for path, entry in tree.items()],
            **{key: card[key] for key in ("library_name", "pipeline_tag") if key in card},
        }

    def upload_modes(self, repository: Repository, revision: str, files: list[dict[str, Any]]) -> dict[str, Any]:
        tree = repository.tree(repository.resolve(revision))
        answers = []
        for file in files:
            path, old = file["path"], tree.get(file["path"])
            large = file["size"] > LFS_SIZE or path.endswith(LFS_SUFFIXES) or b"\0" in base64.b64decode(file["sample"])
            answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if old is not None and old["type"] == "file":
                answer["oid"] = old["lfs"]["oid"] if "lfs" in old else old["oid"]
            answers.append(answer)
        return {"files": answers}

    def commit(self, request: Request, repository: Repository, revision: str, raw: bytes, propose: bool) -> Response:
        """Read and check the whole list of changes before git is touched, then make one commit of it."""
        header, *operations = [json.loads(line) for line in raw.splitlines() if line.strip()]
        message = header["value"]["summary"] + "\n\n" + header["value"].get("description", "")
        with repository.lock:
            parent = repository.resolve(revision)
            if not parent.startswith(header["value"].get("parentCommit") or ""):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            tree = repository.tree(parent)
            changes = [change for operation in operations for change in self._changes(tree, **operation)]
            ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
            if not repository.has_ref(ref):
                raise Refusal(400, f"Cannot commit to {revision}: it is no branch")
            url = f"{request.base_url}{'' if repository.kind == 'model' else repository.kind + 's/'}{repository.name}"
            answer = {"success": True}
            if propose:
                ref = f"refs/pr/{repository.n_pull_requests + 1}"
                repository.git("update-ref", ref, parent)
                repository.n_pull_requests += 1
                answer["pullRequestUrl"] = f"{url}/discussions/{repository.n_pull_requests}"
            new = repository.commit(ref, parent, message, changes)
        return JSONResponse({**answer, "commitOid": new, "commitUrl": f"{url}/commit/{new}"})

    def _changes(self, tree: dict[str, Any], key: str, value: dict[str, Any]) -> list[tuple[str, bytes | None]]:
        path = value["path"]
        if REFUSED_PARTS & set(path.rstrip("/").split("/")):
            raise Refusal(400, f"Invalid path: {path}")
        if key == "file":
            return [(path, base64.b64decode(value["content"], validate=True))]
        if key == "lfsFile":
            if not self.has_object(value["oid"]):
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            size = (self.objects / value["oid"]).stat().st_size
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {size}\n"
            return [(path, pointer.encode())]
        inside = path.rstrip("/") + "/"
        files = [name for name, entry in tree.items() if entry["type"] == "file"]
        paths = [name for name in files if (name == path if key == "deletedFile" else name.startswith(inside))]
        if not paths:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        return [(name, None) for name in paths]

    # Contents -------------------------------------------------------------------------------------------------------

    def signature(self, text: str) -> str:
        return hmac.new(self.secret, text.encode(), "sha256").hexdigest()

    def has_object(self, oid: str) -> bool:
        return (self.objects / oid).exists() or (self.xet is not None and self.xet.export(oid, self.objects))

    def file(self, request: Request, repository: Repository, revision: str, path: str) -> Response:
        commit = repository.resolve(revision)
        entry = repository.tree(commit).get(path)
        if entry is None or entry["type"] != "file":
            raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            oid = entry["lfs"]["oid"]
            url = f"http://localhost:{self.cdn_port}/object/{oid}?signature={self.signature('get' + oid)}"
            headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(entry["size"]), "Location": url}
            return Response(status_code=302, headers=headers)
        data = repository.blob(entry["oid"])
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if asked is None:
            return Response(data, 200, headers, "text/plain")
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first > last:
            raise Refusal(416, "Range not satisfiable", Content_Range=f"bytes */{len(data)}")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Response(data[first : last + 1], 206, headers, "text/plain")

    def lfs_batch(self, request: Request, objects: list[dict[str, Any]]) -> Response:
        answers = []
        for item in objects:
            oid, size = item["oid"], item["size"]
            answer = {"oid": oid, "size": size}
            if not self.has_object(oid):
                signature = self.signature(f"put{oid}{size}")
                put = f"http://localhost:{self.cdn_port}/object/{oid}?size={size}&signature={signature}"
                answer["actions"] = {"upload": {"href": put}, "verify": {"href": f"{request.base_url}verify/{oid}"}}
            answers.append(answer)
        return JSONResponse({"transfer": "basic", "objects": answers}, media_type="application/vnd.git-lfs+json")

    async def second_origin(self, request: Request, oid: str) -> Response:
        """Put or get a large file; the signature in the address is all the permission there is."""
        size = request.query_params.get("size", "")
        what = f"put{oid}{size}" if request.method == "PUT" else f"get{oid}"
        if not hmac.compare_digest(request.query_params.get("signature", ""), self.signature(what)):
            raise Refusal(403, "Bad signature")
        if request.method != "PUT":
            if self._next_fault(f"BODY {request.url.path}"):
                return self._half_of(self.objects / oid)
            if not self.ranges:
                return Response((self.objects / oid).read_bytes(), headers={"ETag": f'"{oid}"'})
            return FileResponse(self.objects / oid, headers={"ETag": f'"{oid}"'}, media_type="binary/octet-stream")
        handle, partial = tempfile.mkstemp(dir=self.root)
        try:
            digest = hashlib.sha256()
            with os.fdopen(handle, "wb") as file:
                async for chunk in request.stream():  # raises ClientDisconnect when the client is killed
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != oid or Path(partial).stat().st_size != int(size):
                raise Refusal(400, "The content has another sha256 or size")
            os.replace(partial, self.objects / oid)
        finally:
            Path(partial).unlink(missing_ok=True)
        return Response(headers={"ETag": f'"{oid}"'})

    @staticmethod
    def _half_of(path: Path) -> Response:
        async def half() -> Any:
            data = path.read_bytes()
            yield data[: len(data) // 2]
            raise ConnectionResetError

        return StreamingResponse(half(), headers={"Content-Length": str(path.stat().st_size)})

    # Routes ---------------------------------------------------------------------------------------------------------

    async def route(self, request: Request) -> Response:
        # From the raw path: `refs%2Fpr%2F1` is one segment, while a file's path is many.
        path: list[str] = [unquote(part) for part in request.scope["raw_path"].decode().split("?")[0].split("/")[1:]]
        if request.scope["server"][1] == self.cdn_port:
            return await self.second_origin(request, path[-1])
        raw = await request.body()
        is_json = request.headers.get("content-type", "").split(";")[0].endswith("json")
        many_lines = "ndjson" in request.headers.get("content-type", "")
        body = json.loads(raw) if raw and is_json and not many_lines else {}
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
                kind = body.get("type") or "model"
                repository = self.repository(request, kind, f"{body['organization']}/{body['name']}", "write")
                del self.repositories[kind, repository.name]
                shutil.rmtree(repository.folder)
                return Response(status_code=204)
            case ["api", ("models" | "datasets") as kinds, owner, name, *rest]:
                return self.of_repository(request, kinds[:-1], f"{owner}/{name}", rest, raw, body)
            case ["verify", oid]:
                return Response(status_code=200 if self.user(request) and self.has_object(oid) else 404)
        kind = path.pop(0)[:-1] if path[0] == "datasets" else "model"
        match path:
            case [owner, name, "info", "lfs", "objects", "batch"]:
                # No ref is named for a pull request, which does not need the right to write.
                need = "write" if "ref" in body else "propose"
                self.repository(request, kind, f"{owner}/{name.removesuffix('.git')}", need)
                return self.lfs_batch(request, body["objects"])
            case [owner, name, "resolve", revision, *parts]:
                repository = self.repository(request, kind, f"{owner}/{name}", "read")
                return self.file(request, repository, revision, "/".join(parts))
        raise Refusal(404, "Not found")

    def of_repository(
        self, request: Request, kind: str, name: str, rest: list[str], raw: bytes, body: dict[str, Any]
    ) -> Response:
        propose = request.query_params.get("create_pr") == "1"
        match request.method, rest:
            case "GET", [] | ["revision", _]:
                repository = self.repository(request, kind, name)
                return JSONResponse(self.info(repository, rest[1] if rest else "main"))
            case "GET", ["tree", revision, *parts]:
                return self.listing(request, self.repository(request, kind, name), revision, "/".join(parts))
            case "POST", ["paths-info", revision]:
                repository = self.repository(request, kind, name)
                tree = repository.tree(repository.resolve(revision))
                paths = body.get("paths") or parse_qs(raw.decode()).get("paths", [])
                return JSONResponse([tree[path] for path in paths if path in tree])
            case "GET", ["refs"]:
                repository = self.repository(request, kind, name)
                names = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
                return JSONResponse({"converts": []} | {key: repository.refs(name) for key, name in names.items()})
            case "POST", [("preupload" | "commit") as what, revision]:
                repository = self.repository(request, kind, name, "propose" if propose else "write")
                if what == "commit":
                    return self.commit(request, repository, revision, raw, propose)
                return JSONResponse(self.upload_modes(repository, revision, body["files"]))
            case "GET", ["xet-write-token", _] if self.xet is not None:
                self.repository(request, kind, name, "propose" if propose else "write")
                expiry = int(time.time()) + 3600
                return JSONResponse({"accessToken": "xet", "exp": expiry, "casUrl": self.xet.new_address()})
            case "POST", [("branch" | "tag") as what, label]:
                repository = self.repository(request, kind, name, "write")
                start = (body.get("startingPoint") or "main") if what == "branch" else label
                label = label if what == "branch" else body["tag"]
                ref = f"refs/{'heads' if what == 'branch' else 'tags'}/{label}"
                taken = Refusal(409, f"Reference {ref} already exists")
                repository.set_ref(ref, repository.resolve(start), "0" * 40, taken)
                return JSONResponse({})
        raise Refusal(404, "Not found")

    def listing(self, request: Request, repository: Repository, revision: str, folder: str) -> Response:
        tree = repository.tree(repository.resolve(revision))
        if folder and tree.get(folder, {}).get("type") != "directory":
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        prefix = f"{folder}/" if folder else ""
        deep = request.query_params.get("recursive", "").lower() in ("true", "1")
        inside = {path.removeprefix(prefix): entry for path, entry in tree.items() if path.startswith(prefix)}
        return JSONResponse([entry for path, entry in inside.items() if deep or "/" not in path])

    # The wire -------------------------------------------------------------------------------------------------------

    def _next_fault(self, line: str) -> int | float | str | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault.what
        return None

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
            if isinstance(what, float):
                await request.body()  # first, since looking for a disconnect would swallow it
                held_until = time.monotonic() + what
                while time.monotonic() < held_until:
                    await asyncio.sleep(0.05)
                    if await request.is_disconnected():
                        return
            elif what is not None:
                raise Refusal(int(what), "injected fault")
            response = await self.route(request)
        except Refusal as refusal:
            response = refusal.response
        except ClientDisconnect:
            return
        await response(scope, receive, send_and_count)


@contextmanager
def running(root: Path, users: dict[str, tuple[str, str]], xet: bool = False) -> Iterator[tuple[Hub, str]]:
    """Serve on two free loopback ports while the block runs; gives the hub and its `HF_ENDPOINT`."""
    hub = Hub(root, users, xet)
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
