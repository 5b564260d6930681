"""The part of the Hub that reads files: HEAD and ranges of a folder's files, content from a second origin.

Large files come from another host, as on the Hub: a client that sends its token there can be seen.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class RangeServer:
    """`with RangeServer({"alice/tiny": folder}) as server`: `server.url` is the endpoint, `server.log` what was asked.

    Attributes:
        ranges: Whether range requests are answered with the range.
        cut: Bytes after which content connections break, once for each entry.
        token: Token that is asked for.
        gated: Whether the token alone does not do.
    """

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.log: list[dict] = []
        self.ranges, self.cut, self.token, self.gated = True, [], None, False
        self.origins = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler(content)) for content in (False, True)]
        self.url, self.content_url = (f"http://127.0.0.1:{server.server_port}" for server in self.origins)

    def __enter__(self):
        for server in self.origins:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self.origins:
            server.shutdown()
            server.server_close()

    def sent(self) -> int:
        """Return how many bytes of content have left."""
        return sum(entry["sent"] for entry in self.log)

    def _handler(self, content: bool):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.answer()

            def do_GET(self):
                self.answer()

            def answer(self):
                entry = {
                    "line": f"{self.command} {self.path}",
                    "content": content,
                    "auth": self.headers.get("Authorization"),
                    "range": self.headers.get("Range"),
                    "sent": 0,
                }
                hub.log.append(entry)
                if re.fullmatch(r"/api/models/[\w-]+/[\w-]+(/revision/\w+)?", self.path):
                    return self.describe(self.path.split("/")[3:5])
                match = re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/([^/]+)/(.+)", self.path)
                if match is None or match[1] not in hub.folders:
                    return self.refuse(404, "RepoNotFound")
                if match[2] not in ("main", COMMIT):
                    return self.refuse(404, "RevisionNotFound")
                if not content and hub.token is not None:
                    if self.headers.get("Authorization") != f"Bearer {hub.token}":
                        return self.refuse(401, "GatedRepo" if hub.gated else "RepoNotFound")
                path = hub.folders[match[1]] / match[3]
                if not path.is_file():
                    return self.refuse(404, "EntryNotFound")
                size = path.stat().st_size
                if not content and path.suffix in (".safetensors", ".bin"):
                    headers = {"Location": hub.content_url + self.path, "X-Linked-Size": size, "X-Linked-Etag": '"e"'}
                    return self.head(302, {**headers, "Content-Length": 0})
                start, end, status = 0, size, 200
                if hub.ranges and (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")):
                    start, end, status = int(asked[1]), min(size, int(asked[2] or size - 1) + 1), 206
                headers = {"Content-Length": end - start, "ETag": f'"{size}"', "Accept-Ranges": "bytes"}
                if status == 206:
                    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
                self.head(status, headers)
                if self.command == "GET":
                    limit = hub.cut.pop(0) if content and hub.cut else size
                    with path.open("rb") as file:
                        file.seek(start)
                        data = file.read(min(end - start, limit))
                    try:
                        self.wfile.write(data)
                        entry["sent"] = len(data)
                    except ConnectionError:  # the client has seen that it gets the whole file, and left
                        self.close_connection = True
                    if len(data) < end - start:
                        self.close_connection = True
                return None

            def describe(self, name):
                body = json.dumps({"id": "/".join(name), "modelId": "/".join(name), "sha": COMMIT, "siblings": []})
                self.head(200, {"Content-Length": len(body), "Content-Type": "application/json"})
                self.wfile.write(body.encode())

            def head(self, status, headers):
                self.send_response(status)
                for name, value in {"X-Repo-Commit": COMMIT, **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()

            def refuse(self, status, code):
                self.head(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": 0})

        return Handler
