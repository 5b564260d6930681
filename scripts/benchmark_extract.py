"""Loading the input stage of GPT-2 small: all of the checkpoint, or its two tables.

    python scripts/benchmark_extract.py [--rounds 5] [--folder FOLDER]

A random GPT-2 small is saved by transformers (497.8 MB, of which the tables are 157.5 MB). Every figure is of a fresh
process, the contestants taking turns; "cold" processes have the file dropped from the page cache first, "again" is
the second load in a process. Time is shown for the load alone and for the load with one forward of 8 x 1024 random
tokens; tables that are mapped come from disk when they are looked up, so the last row of each contestant reads every
row of both tables. Bytes are what the process had from the disk (`read_bytes` of /proc/self/io) or by `read`
(`rchar`), memory is the peak above that after the imports. The Hub is a server of this machine that counts what it
sends. Left out: networks, which make the Hub rows slower by the bytes they transfer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# What a fresh process runs; `LOAD` and `TABLES` depend on the contestant.
CHILD = """
import gc, json, os, sys, threading, time, warnings
import torch
from transformers import GPT2Model
from gpt_embeddings import from_gpt
from safetensors import safe_open
torch.set_num_threads(2)
source, cold = sys.argv[1], sys.argv[2] == "cold"

def load():
    {load}

def counters():
    io = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    return int(io["read_bytes"]), int(io["rchar"])

def resident(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

open("/proc/self/clear_refs", "w").write("5")  # forget the peak of the imports
before = counters()
memory = resident("VmRSS")
start = time.perf_counter()
model = load()
loaded = time.perf_counter() - start
io = counters()
peak = resident("VmHWM") - memory
start = time.perf_counter()
with torch.no_grad():
    for table in ({tables}):
        table.sum()
touched = loaded + time.perf_counter() - start
after = counters()
peak_touched = resident("VmHWM") - memory
result = dict(load=loaded, touched=touched, peak=peak, peak_touched=peak_touched, disk=after[0] - before[0],
              read=io[1] - before[1])
if not cold:
    del model
    gc.collect()
    start = time.perf_counter()
    model = load()
    result["again"] = time.perf_counter() - start
print(json.dumps(result))
"""
FULL = ("return GPT2Model.from_pretrained(source)", "model.wte.weight, model.wpe.weight")
OURS = ("return from_gpt(source)", "model.wte.weight, model.wpe.weight")
BY_HAND = (
    'with safe_open(source + "/model.safetensors", "pt") as f: '
    'return f.get_tensor("transformer.wte.weight"), f.get_tensor("transformer.wpe.weight")',
    "model",
)


def run(contestant: tuple[str, str], source: str, state: str, environment: dict[str, str] | None = None) -> Any:
    """Run one fresh process and return what it measured."""
    load, tables = contestant
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(load=load, tables=tables), source, state],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **(environment or {})},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget the pages of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class CountingHub(BaseHTTPRequestHandler):
    """The part of the Hub that serves the files of one folder, and counts their bytes."""

    protocol_version = "HTTP/1.1"
    folder = Path()
    sent = 0

    def log_message(self, *_: Any) -> None:
        """Keep still."""

    def do_HEAD(self) -> None:  # noqa: D102 -- the name is http.server's
        self.answer()

    def do_GET(self) -> None:  # noqa: D102
        self.answer()

    def answer(self) -> None:
        """Answer HEAD and GET, in part where a range is asked for."""
        if self.path.startswith("/api/models/"):  # which files there are
            paths = [(path.name, path.stat().st_size) for path in self.folder.iterdir()]
            said: Any = {"id": "someone/gpt2", "sha": COMMIT, "siblings": [{"rfilename": name} for name, _ in paths]}
            if "/tree/" in self.path:
                said = [{"type": "file", "path": name, "size": size, "oid": COMMIT} for name, size in paths]
            body = json.dumps(said).encode()
            self.head(200, {"Content-Type": "application/json", "Content-Length": len(body)})
            self.wfile.write(body)
            return
        path = self.folder / self.path.rsplit("/", 1)[-1]
        if not path.is_file():
            self.head(404, {"X-Error-Code": "EntryNotFound", "Content-Length": 0})
            return
        size = path.stat().st_size
        start, end, status = 0, size, 200
        asked = self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start, end, status = int(first), min(size, int(last or size - 1) + 1), 206
        headers = {"Content-Length": end - start, "ETag": f'"{size}"', "Accept-Ranges": "bytes"}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self.head(status, headers)
        if self.command == "GET":
            with path.open("rb") as file:
                self.wfile.flush()
                while start < end:
                    n = os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)
                    CountingHub.sent += n
                    start += n

    def head(self, status: int, headers: dict[str, Any]) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()


def measure_hub(folder: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Load from the server, each time with an empty cache."""
    CountingHub.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), CountingHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    results: dict[str, list[dict[str, float]]] = {"GPT2Model.from_pretrained, Hub": [], "from_gpt, Hub": []}
    for _ in range(rounds):
        for name, contestant in zip(results, (FULL, OURS), strict=True):
            with tempfile.TemporaryDirectory() as home:
                environment = {
                    "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                    "HF_HOME": home,
                    "HF_HUB_OFFLINE": "0",
                    "HF_HUB_DISABLE_XET": "1",
                    "NO_PROXY": "127.0.0.1",
                }
                CountingHub.sent = 0
                result = run(contestant, "someone/gpt2", "cold", environment)
                results[name].append({**result, "sent": CountingHub.sent})
    server.shutdown()
    return results


def median(results: list[dict[str, float]], key: str) -> float:
    """Return the median of one figure."""
    return statistics.median(result[key] for result in results)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="Fresh processes of each kind.")
    parser.add_argument("--folder", type=Path, help="A GPT-2 small that is there already.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "gpt2"
        if options.folder is None:
            make = (
                "import sys, torch; from transformers import GPT2Config, GPT2LMHeadModel; torch.manual_seed(0); "
                "GPT2LMHeadModel(GPT2Config()).save_pretrained(sys.argv[1])"
            )
            subprocess.run([sys.executable, "-c", make, str(folder)], check=True, capture_output=True)
        file = folder / "model.safetensors"
        size = file.stat().st_size

        contestants = {"GPT2Model.from_pretrained": FULL, "safe_open by hand": BY_HAND, "from_gpt": OURS}
        results: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(options.rounds):
            for state in ("cold", "warm"):
                for name, contestant in contestants.items():
                    if state == "cold":
                        drop_from_cache(file)
                    results.setdefault((name, state), []).append(run(contestant, str(folder), state))
        hub = measure_hub(folder, max(1, options.rounds // 2))

    print(f"GPT-2 small, {size / 1e6:.1f} MB; medians of {options.rounds} fresh processes; times in ms, sizes in MB")
    print("| | cold | cold, tables read | warm | again | from disk | of the file | memory | memory, tables read |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in contestants:
        cold, warm = results[name, "cold"], results[name, "warm"]
        disk = max(median(cold, "disk"), median(cold, "read"))
        cells = [
            *(f"{1000 * median(rows, key):.0f}" for rows, key in ((cold, "load"), (cold, "touched"), (warm, "load"))),
            f"{1000 * median(warm, 'again'):.1f}",
            f"{disk / 1e6:.1f}",
            f"{100 * disk / size:.1f} %",
            f"{median(warm, 'peak') / 1e6:.0f}",
            f"{median(warm, 'peak_touched') / 1e6:.0f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    full, ours = "GPT2Model.from_pretrained", "from_gpt"
    for state, key in (
        ("cold", "load"),
        ("cold", "touched"),
        ("warm", "load"),
        ("warm", "touched"),
        ("warm", "again"),
    ):
        ratio = median(results[full, state], key) / median(results[ours, state], key)
        print(f"from_gpt is {ratio:.1f} x faster: {state}, {key}")
    for name, rows in hub.items():
        sent = median(rows, "sent")
        print(
            f"{name}: {sent / 1e6:.1f} MB sent, {100 * sent / size:.1f} % of the file, "
            f"{1000 * median(rows, 'load'):.0f} ms"
        )


if __name__ == "__main__":
    main()
