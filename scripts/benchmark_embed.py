"""Measure how fast texts become vectors: this package, its peers, and the limits that no package can pass.

Each contender runs in a process of its own on the same texts: once cold (the first pass, with all that is built at
first use) and then warm. A pass ends with the vectors where the contender leaves them: in an Arrow file for the ways
of `datasets`, in an array for `encode` methods. CPU time counts the process and its children, so that a busy machine
can be told from a slow contender. Texts are the prose in docstrings of the installed packages; nothing is downloaded.

    pip install -e ".[bench]"
    python scripts/benchmark_embed.py --dims 256 --texts documents sentences
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from docstrings import docstrings


SLOW = {"transformers forward + mean in map": 0.1}  # the part of the texts that is enough to measure it
Run = Callable[[], Any]


def paragraphs() -> list[str]:
    """Return prose of the installed packages, shuffled; kept in a temporary file, as reading takes minutes."""
    cache = Path(tempfile.gettempdir()) / "gpt-embeddings-benchmark.json"
    if cache.is_file():
        return json.loads(cache.read_text(encoding="utf-8"))
    found: set[str] = set()
    for text in docstrings(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        found.update(" ".join(block.split()) for block in text.split("\n\n"))
    prose = sorted(text for text in found if len(text) >= 80 and _is_prose(text))
    random.Random(0).shuffle(prose)
    cache.write_text(json.dumps(prose), encoding="utf-8")
    return prose


def _is_prose(text: str) -> bool:
    letters = sum(c.isalpha() or c == " " for c in text)
    return letters >= 0.85 * len(text) and ">>>" not in text and "::" not in text


def texts(kind: str, megabytes: int = 20) -> list[str]:
    """Return documents of about 1 kB or sentences of about 100 bytes, at least so many MB of them."""
    size = 1000 if kind == "documents" else 100
    pieces: list[str] = []
    for text in paragraphs():
        pieces += [text] if kind == "documents" else [text[i : i + size] for i in range(0, len(text), size)]
    result, current, length = [], [], 0
    for piece in pieces:
        current.append(piece)
        length += len(piece) + 1
        if length >= size:
            result.append("\n".join(current))
            current, length = [], 0
    total = sum(map(len, result))
    return result * -(-megabytes * 1_000_000 // total)


@dataclass
class Setting:
    """What the contenders of a process work with."""

    documents: list[str]
    model: Any
    tokenizer: Any
    folder: Path

    @property
    def table(self) -> Any:
        """The token table, `(vocab_size, n_embd)`."""
        return self.model.wte.weight.detach()

    @cached_property
    def dataset(self) -> Any:
        """The documents, on disk and mapped."""
        import datasets

        datasets.Dataset.from_dict({"text": self.documents}).save_to_disk(self.folder / "data")
        return datasets.load_from_disk(self.folder / "data")

    def map_with(self, function: Any) -> Run:
        """Return a pass of `map`."""
        dataset = self.dataset
        return lambda: dataset.map(function, batched=True, load_from_cache_file=False)


def set_up(name: str, documents: list[str], n_embd: int, folder: Path) -> Run:
    """Set a contender up and return what makes one pass."""
    if name.endswith("without gigatoken"):
        sys.modules["gigatoken"] = None  # type: ignore[assignment]  # as if the extra `fast` were not installed
    import datasets
    import torch

    from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
    from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer

    datasets.disable_progress_bars()
    if name.endswith("bundled"):
        model, tokenizer = load_model_and_tokenizer()
    else:
        torch.manual_seed(0)
        model, tokenizer = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=n_embd)).eval(), load_tokenizer()
    return CONTENDERS[name](Setting(documents, model, tokenizer, folder))


def by_embed_dataset(setting: Setting, num_proc: int | None = None) -> Run:
    """From a dataset on disk to a dataset on disk."""
    from gpt_embeddings import embed_dataset
    from gpt_embeddings.progress import Progress

    dataset, output = setting.dataset, setting.folder / "out"

    def embed() -> None:
        shutil.rmtree(output, ignore_errors=True)
        hidden = Progress(hidden=True)
        embed_dataset(dataset, setting.model, setting.tokenizer, output=output, num_proc=num_proc, progress=hidden)

    return embed


def by_map(setting: Setting) -> Run:
    """Our object as the function of `map`, with its batches of 1000."""
    from gpt_embeddings import Embedder

    return setting.map_with(Embedder(setting.model, setting.tokenizer))


def by_model2vec(setting: Setting) -> Run:
    """model2vec with the same table and tokenizer."""
    from model2vec import StaticModel

    static = StaticModel(setting.table.numpy(), setting.tokenizer.backend_tokenizer, max_length=1024)
    return lambda: static.encode(setting.documents)


def by_static_embedding(setting: Setting, in_map: bool = False) -> Run:
    """sentence-transformers with the same table and tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding

    module = StaticEmbedding(setting.tokenizer, embedding_weights=setting.table)
    sentences = SentenceTransformer(modules=[module], device="cpu")
    if in_map:
        return setting.map_with(lambda batch: {"embedding": sentences.encode(batch["text"])})
    return lambda: sentences.encode(setting.documents)


def by_forward(setting: Setting) -> Run:
    """What one would write with transformers: padded batches and a masked mean."""
    import torch

    tokenizer, model = setting.tokenizer, setting.model
    tokenizer.model_max_length = 1024

    def forward(batch: Any) -> dict[str, Any]:
        inputs = tokenizer(batch["text"], padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            vectors = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        return {"embedding": ((vectors * mask).sum(1) / mask.sum(1).clamp(min=1)).numpy()}

    return setting.map_with(forward)


def tokenizer_alone(setting: Setting) -> Run:
    """Flat ids, and nothing done with them."""
    from gpt_embeddings import encode_flat

    return lambda: encode_flat(setting.documents, setting.tokenizer)


def tokenizer_and_bag(setting: Setting) -> Run:
    """Flat ids through torch's own operator, without positions."""
    import numpy as np
    import torch
    from torch.nn.functional import embedding_bag

    from gpt_embeddings import encode_flat

    def bag() -> Any:
        parts = []
        for i in range(0, len(setting.documents), 4000):
            input_ids, offsets = encode_flat(setting.documents[i : i + 4000], setting.tokenizer)
            ids, starts = torch.from_numpy(input_ids), torch.from_numpy(offsets.astype(np.int32))
            with torch.inference_mode():
                vectors = embedding_bag(ids, setting.table, starts, mode="mean", include_last_offset=True)
            parts.append(vectors.numpy())
        return np.concatenate(parts)

    return bag


def raw_column(setting: Setting) -> Run:
    """An Arrow file of texts and of vectors that are there already."""
    import numpy as np
    import pyarrow as pa

    n_embd = setting.table.shape[1]
    vectors, strings = np.zeros((len(setting.documents), n_embd), dtype=np.float32), pa.array(setting.documents)

    def write() -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), n_embd)
        rows = pa.table({"text": strings, "embedding": column})
        with (
            pa.OSFile(str(setting.folder / "raw.arrow"), "wb") as file,
            pa.RecordBatchStreamWriter(file, rows.schema) as writer,
        ):
            writer.write_table(rows, 4000)

    return write


CONTENDERS: dict[str, Callable[[Setting], Run]] = {
    "embed_dataset": by_embed_dataset,
    "embed_dataset, bundled": by_embed_dataset,
    "embed_dataset, num_proc=2": partial(by_embed_dataset, num_proc=2),
    "map(Embedder)": by_map,
    "embed_dataset without gigatoken": by_embed_dataset,
    "model2vec encode": by_model2vec,
    "StaticEmbedding encode": by_static_embedding,
    "StaticEmbedding in map": partial(by_static_embedding, in_map=True),
    "transformers forward + mean in map": by_forward,
    "flat tokenizer alone": tokenizer_alone,
    "tokenizer + embedding_bag": tokenizer_and_bag,
    "raw column to Arrow": raw_column,
}

# What one runs from a shell: a file of documents, a line each, to vectors on the disk, start-up included.
COMMANDS = {
    "gpt-embeddings embed": "from gpt_embeddings_cli import app; app()",
    "model2vec": """
import sys, numpy, torch
from model2vec import StaticModel
from gpt_embeddings import load_tokenizer
table = numpy.random.default_rng(0).standard_normal((50257, 256), dtype=numpy.float32)
static = StaticModel(table, load_tokenizer().backend_tokenizer, max_length=1024)
numpy.save(sys.argv[2], static.encode(open(sys.argv[1], encoding="utf-8").read().splitlines()))
""",
    "StaticEmbedding": """
import sys, numpy, torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding
from gpt_embeddings import load_tokenizer
module = StaticEmbedding(load_tokenizer(), embedding_weights=torch.randn(50257, 256))
model = SentenceTransformer(modules=[module], device="cpu")
numpy.save(sys.argv[2], model.encode(open(sys.argv[1], encoding="utf-8").read().splitlines()))
""",
}
SLOW_COMMAND_MB = 200  # peers are not given more: their time grows with the text


def report_commands(sizes: list[int]) -> None:
    """Print the seconds of commands by the size of the text, start-up included."""
    print(f"{'':24}" + "".join(f"{size:>10} MB" for size in sizes) + "   (wall seconds / CPU seconds)")
    for name, code in COMMANDS.items():
        cells = []
        for size in sizes:
            ours = name.startswith("gpt")
            if not ours and size > SLOW_COMMAND_MB:
                cells.append("-")
                continue
            with tempfile.TemporaryDirectory(prefix="gpt-embeddings-") as folder:
                source, output = Path(folder) / "text.txt", Path(folder) / "out"
                write_lines(source, size)
                arguments = ["embed", source, "--streaming", "--output", output] if ours else [source, output]
                environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
                before, start = os.times(), time.perf_counter()
                command = [sys.executable, "-c", code, *map(str, arguments)]
                subprocess.run(command, check=True, env=environment, capture_output=True)
                after, wall = os.times(), time.perf_counter() - start
                cpu = after.children_user + after.children_system - before.children_user - before.children_system
                cells.append(f"{wall:.1f} / {cpu:.1f}")
        print(f"{name:24}" + "".join(f"{cell:>13}" for cell in cells), flush=True)


def write_lines(path: Path, megabytes: int) -> None:
    """Write documents of about 1 kB, a line each."""
    lines = [" ".join(text.split()) for text in texts("documents")]
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write("\n".join(lines[: megabytes * 1000]) + "\n")


def cpu_seconds() -> float:
    """Return the CPU time of this process and its children, ended or running."""
    import psutil

    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            total += sum(child.cpu_times()[:2])
        except psutil.Error:
            continue
    return total


def measure(name: str, kind: str, n_embd: int, repeats: int, megabytes: int) -> None:
    """Run one contender in this process and print its times as JSON."""
    import resource

    documents = texts(kind, megabytes)
    documents = documents[: int(len(documents) * SLOW.get(name, 1.0))]
    size = sum(len(text.encode()) for text in documents)
    with tempfile.TemporaryDirectory(prefix="gpt-embeddings-") as folder:
        run = set_up(name, documents, n_embd, Path(folder))
        passes = []
        for _ in range(1 + repeats):
            cpu, wall = cpu_seconds(), time.perf_counter()
            run()
            passes.append((time.perf_counter() - wall, cpu_seconds() - cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"size": size, "passes": passes, "peak_mib": peak}))


def measure_memory(megabytes: int) -> None:
    """Embed a corpus of that size from disk to disk, and print how far anonymous memory rose meanwhile."""
    import threading

    import datasets
    import psutil
    import pyarrow as pa

    from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, embed_dataset, load_tokenizer
    from gpt_embeddings.progress import Progress

    documents = pa.array(texts("documents"))
    process, done, peak = psutil.Process(), threading.Event(), 0

    def anonymous() -> int:
        memory = process.memory_info()
        return int(memory.rss - memory.shared)

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, anonymous())

    with tempfile.TemporaryDirectory(prefix="gpt-embeddings-") as folder:
        path, written = Path(folder) / "corpus.arrow", 0
        schema = pa.schema({"text": pa.string()})
        with pa.OSFile(str(path), "wb") as file, pa.RecordBatchStreamWriter(file, schema) as writer:
            while written < megabytes * 1_000_000:
                some = documents[: max(1, min(len(documents), megabytes * 1000))]
                writer.write_batch(pa.record_batch([some], schema=schema))
                written += some.nbytes
        dataset = datasets.Dataset.from_file(str(path))
        model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=256)).eval()
        tokenizer = load_tokenizer()
        embed_dataset(dataset.select(range(10)), model, tokenizer)  # builds what is built once
        before = anonymous()
        watcher = threading.Thread(target=watch)
        watcher.start()
        embed_dataset(dataset, model, tokenizer, output=Path(folder) / "out", progress=Progress(hidden=True))
        done.set()
        watcher.join()
    print(f"{written / 1e6:8.0f} MB of text: {(peak - before) / 1e6:6.0f} MB above {before / 1e6:.0f} MB", flush=True)


def main() -> None:
    """Run all contenders and print a table for each kind of text and each width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 256, 768])
    parser.add_argument("--texts", nargs="+", default=["documents", "sentences"], choices=["documents", "sentences"])
    parser.add_argument("--repeats", type=int, default=5, help="Warm passes.")
    parser.add_argument("--megabytes", type=int, default=20, help="Size of the texts, which are repeated to reach it.")
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--memory", type=int, nargs="+", metavar="MB", help="Measure memory on so much text instead.")
    parser.add_argument("--command", type=int, nargs="+", metavar="MB", help="Time commands on so much text instead.")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, kind, n_embd = options.measure
        measure(name, kind, int(n_embd), options.repeats, options.megabytes)
        return
    paragraphs()
    if options.memory:
        for megabytes in options.memory:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                pool.submit(measure_memory, megabytes).result()
        return
    if options.command:
        report_commands(options.command)
        return
    for kind in options.texts:
        for n_embd in options.dims:
            report(kind, n_embd, options.only, options.repeats, options.megabytes)


def report(kind: str, n_embd: int, names: list[str], repeats: int, megabytes: int) -> None:
    """Run contenders one after the other and print a table; ratios are of medians, by CPU time and by wall time."""
    results = {}
    for name in names:
        command = [sys.executable, __file__, "--measure", name, kind, str(n_embd)]
        command += ["--repeats", str(repeats), "--megabytes", str(megabytes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr}")
        results[name] = json.loads(done.stdout.splitlines()[-1])
    base = results.get("model2vec encode")
    print(f"\n{kind}, {megabytes} MB, {n_embd} dimensions, {repeats} warm passes, load {os.getloadavg()[0]:.1f}")
    print(f"{'':36}{'cold MB/s':>10}{'warm MB/s':>10}{'MB/CPU-s':>10}{'x wall':>8}{'x CPU':>8}{'peak MiB':>10}")

    def rates(result: dict[str, Any]) -> tuple[float, float, float]:
        megabytes, (cold, *warm) = result["size"] / 1e6, result["passes"]
        wall, cpu = (statistics.median(column) for column in zip(*warm, strict=True))
        return megabytes / cold[0], megabytes / wall, megabytes / max(cpu, 1e-9)

    for name, result in results.items():
        cold, wall, cpu = rates(result)
        ratios = "" if base is None else f"{wall / rates(base)[1]:>8.1f}{cpu / rates(base)[2]:>8.1f}"
        print(f"{name:36}{cold:>10.1f}{wall:>10.1f}{cpu:>10.1f}{ratios:>16}{result['peak_mib']:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
