"""Time `gpt-embeddings explore`: from start to the first page, and neighbours in a table of GPT-2's size.

    python scripts/benchmark_explore.py [--runs 3]

The first page is the HTML that the server sends once it listens; with a Chromium on the machine also the moment when
the first figure is drawn. What the command imports before that (torch, transformers, Gradio) is measured in fresh
processes of its own, interleaved with the runs.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch

from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.analysis.neighbours import Neighbours


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "explore"))
from browser import find_chromium, open_browser


ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-c", "from gpt_embeddings_cli import app; app()")
IMPORTS = {
    "import torch, transformers": "import torch, transformers.modeling_utils",
    "import gpt_embeddings_cli": "import gpt_embeddings_cli",
    "import gradio": "import gradio",
}
# It ends at once: a thread is still loading the model.
LATENCY = """from gpt_embeddings.explore.page import launch_page
import time
from gpt_embeddings.explore.views import LazyModel
import gradio
start = time.perf_counter()
page = launch_page([LazyModel.from_pretrained(None)])
import urllib.request
urllib.request.urlopen(page.local_url).read()
print(time.perf_counter() - start, flush=True)
import os
os._exit(0)
"""


def environment() -> dict[str, str]:
    """Return the variables of a process that takes this tree and no network."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def time_process(code: str) -> float:
    """Return the seconds of a fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def time_after_import() -> float:
    """Return the seconds from the call that serves the page to its HTML, everything being imported."""
    done = subprocess.run([sys.executable, "-c", LATENCY], check=True, env=environment(), stdout=subprocess.PIPE)
    return float(done.stdout)


def time_command(look: Callable[[str], None] | None) -> tuple[float, float | None]:
    """Return the seconds from the command's start to its first page, and to the first figure in a browser."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    start = time.perf_counter()
    server = subprocess.Popen(
        [*COMMAND, "explore", "--no-browser", "--port", str(port)], env=environment(), stdout=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(url, timeout=30) as response:
                    response.read()
                break
            except (urllib.error.URLError, ConnectionError):
                if server.poll() is not None:
                    raise SystemExit("The command ended.") from None
                time.sleep(0.02)
        page = time.perf_counter() - start
        if look is None:
            return page, None
        look(url)
        return page, time.perf_counter() - start
    finally:
        server.kill()
        server.wait()


def time_neighbours(runs: int) -> list[float]:
    """Return milliseconds of single questions in 50,257 x 768."""
    torch.manual_seed(0)
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig()).eval()
    index = Neighbours(model, load_tokenizer())
    words = ["king", "queen", "gato", "sea", "clerk", "tide", "Paris", "embedding"]
    index.of_word("warm")
    times = []
    for i in range(runs):
        start = time.perf_counter()
        index.of_word(words[i % len(words)])
        times.append(1000 * (time.perf_counter() - start))
    return times


def main(runs: int) -> None:
    """Print what was measured."""
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    seconds: dict[str, list[float]] = {}
    with open_browser() as new_page:
        browser = new_page

        def look(url: str) -> None:
            watched = browser()
            watched.open(url)
            watched.page.close()

        for _ in range(runs):
            for name, code in IMPORTS.items():
                seconds.setdefault(name, []).append(time_process(code))
            seconds.setdefault("first page, after the imports", []).append(time_after_import())
            page, figure = time_command(look)
            seconds.setdefault("first page, from the command's start", []).append(page)
            if figure is not None:
                seconds.setdefault("first figure in a browser, from there", []).append(figure)
    for name, values in seconds.items():
        print(f"{name:40} median {statistics.median(values):6.2f} s   best {min(values):6.2f} s")
    times = sorted(time_neighbours(200))
    p95 = times[int(0.95 * len(times))]
    print(f"neighbours in 50,257 x 768, 200 words     median {statistics.median(times):6.1f} ms  p95 {p95:6.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    if find_chromium() is None:
        raise SystemExit("There is no Chromium here: `apt-get install chromium`.")
    main(arguments.runs)
