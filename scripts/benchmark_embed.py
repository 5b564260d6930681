"""Measure how fast texts become vectors: this package, its peers, and the limits that no package can pass.

Each contender runs in a process of its own on the same texts: once cold (the first pass, with all that is built at
first use) and then warm. A pass ends with the vectors where the contender leaves them: in an Arrow file for the ways
of `datasets`, in an array for `encode` methods. CPU time counts the process and its children, so that a busy machine
can be told from a slow contender. Texts are the prose in docstrings of the installed packages; nothing is downloaded.

    pip install -e ".[bench]"
    python scripts/benchmark_embed.py --dims 256 --texts documents sentences
"""

import argparse
import ast
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
from pathlib import Path
from typing import Any


SLOW = {"transformers forward + mean in map": 0.1}  # the part of the texts that is enough to measure it
LIMITS = ("flat tokenizer alone", "tokenizer + embedding_bag", "raw column to Arrow")
Run = Callable[[], Any]


def paragraphs() -> list[str]:
    """Return prose of the installed packages, shuffled; kept in a temporary file, as reading takes minutes."""
    cache = Path(tempfile.gettempdir()) / "gpt-embeddings-benchmark.json"
    if cache.is_file():
        return json.loads(cache.read_text(encoding="utf-8"))
    found: set[str] = set()
    for path in Path(sysconfig.get_paths()["purelib"]).rglob("*.py"):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                blocks = (ast.get_docstring(node) or "").split("\n\n")
                found.update(" ".join(block.split()) for block in blocks)
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


def contender(name: str, documents: list[str], n_embd: int, folder: Path) -> Run:
    """Set a contender up and return what makes one pass."""
    if name.endswith("without splintr"):
        sys.modules["splintr"] = None  # type: ignore[assignment]  # as if the extra `fast` were not installed
    import datasets
    import numpy as np
    import torch

    from gpt_embeddings import (
        Embedder,
        GPTEmbeddingsConfig,
        GPTEmbeddingsModel,
        embed_dataset,
        encode_flat,
        load_tokenizer,
    )
    from gpt_embeddings.progress import Progress

    datasets.disable_progress_bars()
    torch.manual_seed(0)
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=n_embd)).eval()
    tokenizer = load_tokenizer()
    dataset = datasets.Dataset.from_dict({"text": documents})
    dataset.save_to_disk(folder / "data")
    dataset = datasets.load_from_disk(folder / "data")
    table = model.wte.weight.detach()

    def map_with(function: Any) -> Run:
        return lambda: dataset.map(function, batched=True, load_from_cache_file=False)

    if name.startswith("embed_dataset"):
        num_proc = 2 if "num_proc" in name else None

        def embed() -> None:
            shutil.rmtree(folder / "out", ignore_errors=True)
            embed_dataset(
                dataset, model, tokenizer, output=folder / "out", num_proc=num_proc, progress=Progress(hidden=True)
            )

        return embed
    if name == "map(Embedder)":
        return map_with(Embedder(model, tokenizer))
    if name == "model2vec encode":
        from model2vec import StaticModel

        static = StaticModel(table.numpy(), tokenizer.backend_tokenizer, max_length=1024)
        return lambda: static.encode(documents)
    if "StaticEmbedding" in name:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import StaticEmbedding

        module = StaticEmbedding(tokenizer, embedding_weights=table)
        sentences = SentenceTransformer(modules=[module], device="cpu")
        if name.endswith("in map"):
            return map_with(lambda batch: {"embedding": sentences.encode(batch["text"])})
        return lambda: sentences.encode(documents)
    if name.startswith("transformers"):
        tokenizer.model_max_length = 1024

        def forward(batch: Any) -> dict[str, Any]:
            inputs = tokenizer(batch["text"], padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                vectors = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            return {"embedding": ((vectors * mask).sum(1) / mask.sum(1).clamp(min=1)).numpy()}

        return map_with(forward)
    if name == "flat tokenizer alone":
        return lambda: encode_flat(documents, tokenizer)
    if name == "tokenizer + embedding_bag":

        def bag() -> Any:
            parts = []
            for i in range(0, len(documents), 4000):
                input_ids, offsets = encode_flat(documents[i : i + 4000], tokenizer)
                ids, starts = torch.from_numpy(input_ids), torch.from_numpy(offsets.astype(np.int32))
                with torch.inference_mode():
                    parts.append(
                        torch.nn.functional.embedding_bag(
                            ids, table, starts, mode="mean", include_last_offset=True
                        ).numpy()
                    )
            return np.concatenate(parts)

        return bag
    if name == "raw column to Arrow":
        import pyarrow as pa

        vectors = np.zeros((len(documents), n_embd), dtype=np.float32)
        strings = pa.array(documents)

        def write() -> None:
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), n_embd)
            rows = pa.table({"text": strings, "embedding": column})
            with (
                pa.OSFile(str(folder / "raw.arrow"), "wb") as file,
                pa.RecordBatchStreamWriter(file, rows.schema) as w,
            ):
                w.write_table(rows, 4000)

        return write
    raise ValueError(f"There is no contender {name!r}.")


CONTENDERS = (
    "embed_dataset",
    "embed_dataset, num_proc=2",
    "map(Embedder)",
    "embed_dataset without splintr",
    "model2vec encode",
    "StaticEmbedding encode",
    "StaticEmbedding in map",
    "transformers forward + mean in map",
    *LIMITS,
)


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
        run = contender(name, documents, n_embd, Path(folder))
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
    parser.add_argument("--only", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--memory", type=int, nargs="+", metavar="MB", help="Measure memory on so much text instead.")
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
