"""Load test of the server in docs/recipes.md on loopback by eight clients: `pip install -e ".[test,bench]"`.

The server is a process with the bundled English table and random vectors to search in. Each client sends one request
after the other: a query of some words, or a list of 16 texts to embed. CPU is the server's, of one request.
"""

import json
import multiprocessing
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import numpy as np
import psutil
import uvicorn


ROOT = Path(__file__).resolve().parent.parent
CLIENTS, REQUESTS, ROWS = 8, 200, 10_000  # requests of each client, rows to search in
TEXTS = [line for line in (ROOT / "data" / "the_tide_clerk.txt").read_text(encoding="utf-8").split("\n") if line]


def serve(port: int) -> None:
    """Run the recipe with many rows to search in."""
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    for block in (blocks[0], next(block for block in blocks if "Starlette(" in block)):
        exec(compile(block, "docs/recipes.md", "exec"), names)
    vectors = np.random.default_rng(0).standard_normal((ROWS, 256), np.float32)
    names |= {"vectors": vectors / np.linalg.norm(vectors, axis=1, keepdims=True), "texts": ["a text"] * ROWS}
    uvicorn.run(names["app"], port=port, log_level="error")  # type: ignore[arg-type]


def send(port: int, path: str, requests: int) -> list[float]:
    """Be one client; return the seconds of each request."""
    connection, seconds = HTTPConnection("127.0.0.1", port, timeout=60), []
    for i in range(requests):
        words = TEXTS[i % len(TEXTS)][:40]
        start = time.perf_counter()
        if path == "/search":
            connection.request("GET", f"/search?q={quote(words)}")
        else:
            connection.request("POST", path, json.dumps({"input": [words] * 16, "model": "bundled"}))
        response = connection.getresponse()
        answer = response.read()
        seconds.append(time.perf_counter() - start)
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {answer[:200]!r}")
    return seconds


def main() -> None:
    """Start the server, load it, print a table."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    server.start()
    while socket.socket().connect_ex(("127.0.0.1", port)) and server.is_alive():
        time.sleep(0.5)
    process = psutil.Process(server.pid)
    print("| request | per second | median, ms | 99th percentile, ms | CPU, ms |\n|---|---:|---:|---:|---:|")
    with ThreadPoolExecutor(CLIENTS) as clients:
        for path in ("/search", "/v1/embeddings"):
            send(port, path, 5)
            start, before = time.perf_counter(), sum(process.cpu_times()[:2])
            parts = list(clients.map(send, [port] * CLIENTS, [path] * CLIENTS, [REQUESTS] * CLIENTS))
            total, sent = time.perf_counter() - start, CLIENTS * REQUESTS
            used = 1000 * (sum(process.cpu_times()[:2]) - before) / sent
            median, last = 1000 * np.percentile(np.concatenate(parts), [50, 99])
            print(f"| `{path}` | {sent / total:,.0f} | {median:.1f} | {last:.1f} | {used:.1f} |", flush=True)
    server.terminate()


if __name__ == "__main__":
    main()
