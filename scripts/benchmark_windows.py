"""Raw text to batches of training windows: this package and its peers, each in a process of its own.

    python scripts/benchmark_windows.py [--length 1024] [--stride 1024] [--rounds 3] [--only NAME ...]

The corpus is English prose and code from the docstrings of installed packages, the same for all, at least 20 MB, made
once and kept in --folder. Measured is everything from the files to the last batch of eight int64 windows, preparation
included: CPU time of the process and its children (which is what a shared machine does not distort much), wall time,
and the memory added to what imports and the tokenizer take. Contenders take turns; slow ones run once. Ratios are of
medians of CPU time a window, to ours with the extra `fast`.

The peers come with `pip install -c constraints.txt -e ".[bench]"`; one that is not installed is left out with a word.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from docstrings import docstrings


BATCH = 8
CORPUS_BYTES = 24_000_000
CORPUS_PACKAGES = (
    "torch",
    "transformers",
    "sklearn",
    "scipy",
    "pandas",
    "numpy",
    "datasets",
    "onnx",
    "sympy",
    "huggingface_hub",
)
SHARDS = 8
EOT = 50256

Contender = Callable[[Path, int, int], int]


# ---- the corpus ----


def make_corpus(folder: Path) -> None:
    """Write documents of a few paragraphs to Parquet files, and the same joined in one text file."""
    texts: dict[str, None] = {}
    size = 0
    for text in docstrings(_source_files()):
        if len(text) > 200 and text not in texts:
            texts[text] = None
            size += len(text.encode())
        if size >= CORPUS_BYTES:
            break
    documents = list(texts)
    print(f"corpus: {len(documents)} documents, {size / 1e6:.1f} MB")
    if size < 20_000_000:
        raise SystemExit("The installed packages hold too little text; install the extras `bench` and `test`.")
    for shard in range(SHARDS):
        part = documents[len(documents) * shard // SHARDS : len(documents) * (shard + 1) // SHARDS]
        pq.write_table(pa.table({"text": part}), folder / f"corpus-{shard}.parquet", row_group_size=1000)
    (folder / "corpus.txt").write_text("<|endoftext|>".join(documents), encoding="utf-8")


def _source_files() -> Iterator[Path]:
    for name in CORPUS_PACKAGES:
        try:
            yield from sorted(Path(str(import_module(name).__file__)).parent.rglob("*.py"))
        except ImportError:
            continue
    yield from sorted(Path(os.__file__).parent.glob("*.py"))


def files(folder: Path) -> list[str]:
    """Return the Parquet files of the corpus."""
    return sorted(str(path) for path in folder.glob("corpus-*.parquet"))


def streamed(folder: Path) -> Any:
    """Return the corpus as a streaming dataset."""
    from datasets import load_dataset

    return load_dataset("parquet", data_files=files(folder), split="train", streaming=True)


# ---- ours, and limits ----


def ours(folder: Path, length: int, stride: int) -> int:
    """This package, streaming."""
    from gpt_embeddings import TokenWindows

    windows = TokenWindows(streamed(folder), tokenizer(), length, stride, tail="drop")
    return consume(windows.dataloader(BATCH))


def ours_stored(folder: Path, length: int, stride: int) -> int:
    """This package: cut, stored, read back."""
    from gpt_embeddings import TokenWindows

    with tempfile.TemporaryDirectory(dir=folder) as place:
        windows = TokenWindows(streamed(folder), tokenizer(), length, stride, tail="drop")
        return consume(read_stored(windows.to_dataset(Path(place) / "windows")))


def ideal(folder: Path, length: int, stride: int) -> int:
    """The flat tokenizer, separators, strided views; no state, no streams, no checks."""
    carry, seen = np.empty(0, np.int32), 0
    for ids, offsets in _encoded(folder):
        parts = np.insert(ids, offsets[:-1], EOT)
        tokens = np.concatenate([carry, parts])
        ready = max(0, (len(tokens) - length - 1) // stride + 1) // BATCH * BATCH
        if ready:
            seen += _touch_views(tokens, length, stride, ready)
        carry = tokens[ready * stride :]
    rest = max(0, (len(carry) - length - 1) // stride + 1)
    return seen + (_touch_views(carry, length, stride, rest) if rest else 0)


def tokenizer_alone(folder: Path, length: int, stride: int) -> int:
    """Text to flat ids and nothing else."""
    return sum(len(ids) + len(offsets) - 1 for ids, offsets in _encoded(folder)) // stride


def memcpy(folder: Path, length: int, stride: int) -> int:
    """Windows of ids that are there already, copied to int64 batches."""
    tokens = np.zeros(5_500_000, np.int32)
    return _touch_views(tokens, length, stride, (len(tokens) - length - 1) // stride + 1)


def _encoded(folder: Path) -> Iterator[tuple[Any, Any]]:
    from gpt_embeddings import encode_flat

    for name in files(folder):
        for batch in pq.ParquetFile(name).iter_batches(batch_size=1000):
            yield encode_flat(batch.column("text").to_pylist(), tokenizer())


def _touch_views(tokens: Any, length: int, stride: int, count: int) -> int:
    views = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::stride][:count]
    for i in range(0, count, BATCH):
        torch.from_numpy(views[i : i + BATCH, :-1].astype(np.int64))
        torch.from_numpy(views[i : i + BATCH, 1:].astype(np.int64))
    return count


# ---- peers ----


def rasbt(folder: Path, length: int, stride: int) -> int:
    """LLMs-from-scratch, chapter 2: `GPTDatasetV1` and `create_dataloader_v1`."""
    from torch.utils.data import DataLoader, Dataset

    class GPTDatasetV1(Dataset[Any]):
        def __init__(self, txt: str) -> None:
            self.input_ids, self.target_ids = [], []
            token_ids = tiktoken_gpt2().encode(txt, allowed_special={"<|endoftext|>"})
            for i in range(0, len(token_ids) - length, stride):
                self.input_ids.append(torch.tensor(token_ids[i : i + length]))
                self.target_ids.append(torch.tensor(token_ids[i + 1 : i + length + 1]))

        def __len__(self) -> int:
            return len(self.input_ids)

        def __getitem__(self, idx: int) -> Any:
            return self.input_ids[idx], self.target_ids[idx]

    text = (folder / "corpus.txt").read_text(encoding="utf-8")
    return sum(len(x) for x, _ in DataLoader(GPTDatasetV1(text), batch_size=BATCH, shuffle=False))


def run_clm(folder: Path, length: int, stride: int) -> int:
    """Transformers' examples/pytorch/language-modeling/run_clm.py: tokenize and `group_texts` with `map`."""
    from datasets import load_dataset
    from torch.utils.data import DataLoader
    from transformers import default_data_collator

    def group_texts(examples: Any) -> Any:
        joined = {k: [i for row in examples[k] for i in row] for k in examples}
        total = len(joined["input_ids"]) // length * length
        result = {k: [t[i : i + length] for i in range(0, total, length)] for k, t in joined.items()}
        result["labels"] = result["input_ids"].copy()
        return result

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        dataset = load_dataset("parquet", data_files=files(folder), split="train", cache_dir=cache)
        dataset = dataset.map(lambda rows: tokenizer()(rows["text"]), batched=True, remove_columns=["text"])
        dataset = dataset.map(group_texts, batched=True)
        loader: Any = DataLoader(dataset, batch_size=BATCH, collate_fn=default_data_collator)
        return sum(len(batch["input_ids"]) for batch in loader)


def trl_wrapped(folder: Path, length: int, stride: int) -> int:
    """Packing of trl, strategy "wrapped", behind a `map` that tokenizes."""
    from datasets import load_dataset
    from torch.utils.data import DataLoader
    from trl import pack_dataset

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        dataset = load_dataset("parquet", data_files=files(folder), split="train", cache_dir=cache)
        dataset = dataset.map(
            lambda rows: {"input_ids": [[*ids, EOT] for ids in tokenizer()(rows["text"])["input_ids"]]},
            batched=True,
            remove_columns=["text"],
        )
        packed = pack_dataset(dataset, length, strategy="wrapped").with_format("torch", columns=["input_ids"])
        loader: Any = DataLoader(packed, batch_size=BATCH, collate_fn=list)
        return sum(len(batch) for batch in loader)


def nanogpt(folder: Path, length: int, stride: int) -> int:
    """nanoGPT: data/openwebtext/prepare.py to a uint16 memmap, then random windows of `get_batch`."""
    from datasets import load_dataset

    def process(example: Any) -> Any:
        ids = [*tiktoken_gpt2().encode_ordinary(example["text"]), EOT]
        return {"ids": ids, "len": len(ids)}

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        dataset = load_dataset("parquet", data_files=files(folder), split="train", cache_dir=cache)
        dataset = dataset.map(process, remove_columns=["text"])
        size, place = sum(dataset["len"]), Path(cache) / "train.bin"
        data, index = np.memmap(place, dtype=np.uint16, mode="w+", shape=(size,)), 0
        for shard in range(64):
            batch = np.concatenate(dataset.shard(64, shard, contiguous=True).with_format("numpy")["ids"][:])
            data[index : index + len(batch)] = batch
            index += len(batch)
        data.flush()
        return memmap_batches(place, length, (size - length - 1) // stride + 1)


def memmap_batches(path: Path, length: int, count: int) -> int:
    """Read windows as nanoGPT's `get_batch` does."""
    data = np.memmap(path, dtype=np.uint16, mode="r")
    for _ in range(0, count, BATCH):
        ix = torch.randint(len(data) - length, (BATCH,)).tolist()
        torch.stack([torch.from_numpy(data[i : i + length].astype(np.int64)) for i in ix])
        torch.stack([torch.from_numpy(data[i + 1 : i + 1 + length].astype(np.int64)) for i in ix])
    return count


def token_buffer(folder: Path, length: int, stride: int) -> int:
    """A Python list as a buffer of tokens, in the manner of torchtitan's older dataset, with tiktoken."""
    from torch.utils.data import DataLoader, IterableDataset

    class Buffered(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            buffer: list[int] = []
            for row in streamed(folder):
                buffer.extend(tiktoken_gpt2().encode_ordinary(row["text"]))
                buffer.append(EOT)
                while len(buffer) >= length + 1:
                    x = torch.LongTensor(buffer[: length + 1])
                    buffer = buffer[stride:]
                    yield x[:-1], x[1:]

    return sum(len(x) for x, _ in DataLoader(Buffered(), batch_size=BATCH))


def mosaic(folder: Path, length: int, stride: int) -> int:
    """mosaicml-streaming: windows written as MDS with tiktoken, read by its dataset and loader."""
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

    with tempfile.TemporaryDirectory(dir=folder) as place:
        with MDSWriter(out=place, columns={"tokens": f"ndarray:uint16:{length + 1}"}) as writer:
            buffer: list[int] = []
            for row in streamed(folder):
                buffer += tiktoken_gpt2().encode_ordinary(row["text"])
                buffer.append(EOT)
                while len(buffer) >= length + 1:
                    writer.write({"tokens": np.array(buffer[: length + 1], np.uint16)})
                    buffer = buffer[stride:]
        dataset = StreamingDataset(local=place, shuffle=False, batch_size=BATCH)

        def collate(rows: Any) -> Any:
            ids = torch.from_numpy(np.stack([row["tokens"] for row in rows]).astype(np.int64))
            return ids[:, :-1], ids[:, 1:]

        return sum(len(x) for x, _ in StreamingDataLoader(dataset, batch_size=BATCH, collate_fn=collate))


def litdata(folder: Path, length: int, stride: int) -> int:
    """litdata: `optimize` with its TokensLoader, read by its dataset and loader."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader, optimize

    with tempfile.TemporaryDirectory(dir=folder) as place:
        optimize(
            fn=_litdata_tokens,
            inputs=files(folder),
            output_dir=place,
            chunk_size=length * 2048,
            item_loader=TokensLoader(block_size=length),
            num_workers=1,
            start_method="fork",
        )
        dataset = StreamingDataset(place, item_loader=TokensLoader(block_size=length), shuffle=False)
        return sum(len(batch) for batch in StreamingDataLoader(dataset, batch_size=BATCH))


def _litdata_tokens(name: str) -> Iterator[torch.Tensor]:
    for text in pq.read_table(name).column("text").to_pylist():
        yield torch.tensor([*tiktoken_gpt2().encode_ordinary(text), EOT], dtype=torch.int32)


# ---- stored windows, read ----


def stored_ours(folder: Path, length: int, stride: int) -> int:
    """Reading windows that this package stored, in order, five times."""
    from datasets import load_from_disk

    dataset = load_from_disk(str(folder / f"windows-{length}-{stride}"))
    return sum(consume(read_stored(dataset)) for _ in range(5))


def stored_memmap(folder: Path, length: int, stride: int) -> int:
    """Reading a uint16 memmap as nanoGPT does, as many windows."""
    count = (len(np.memmap(folder / "train.bin", dtype=np.uint16, mode="r")) - length - 1) // stride + 1
    return sum(memmap_batches(folder / "train.bin", length, count) for _ in range(5))


def read_stored(dataset: Any) -> Iterator[Any]:
    """Give batches of a stored dataset."""
    from gpt_embeddings.windows.stored_windows import read_windows

    return read_windows(dataset, BATCH)


def prepare_stored(folder: Path, length: int, stride: int) -> None:
    """Write what the contenders for reading read."""
    from gpt_embeddings import TokenWindows

    place = folder / f"windows-{length}-{stride}"
    if not place.exists():
        TokenWindows(streamed(folder), tokenizer(), length, stride, tail="drop").to_dataset(place)
    if not (folder / "train.bin").exists():
        np.concatenate([np.insert(ids, offsets[:-1], EOT) for ids, offsets in _encoded(folder)]).astype(
            np.uint16
        ).tofile(folder / "train.bin")


# ---- measuring ----


def consume(batches: Any) -> int:
    """Count the windows of all batches."""
    return sum(len(batch["input_ids"]) for batch in batches)


_kept: dict[str, Any] = {}


def tokenizer() -> Any:
    """Return GPT-2's tokenizer, loaded once."""
    if "gpt2" not in _kept:
        from gpt_embeddings import encode_flat, load_tokenizer

        _kept["gpt2"] = load_tokenizer(model_max_length=10**9)
        encode_flat(["warm"], _kept["gpt2"])
    return _kept["gpt2"]


def tiktoken_gpt2() -> Any:
    """Return tiktoken's GPT-2 from the vocabulary of the extra `offline`."""
    if "tiktoken" not in _kept:
        import tiktoken
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
        vocab = tokenizer().get_vocab()
        special = {"<|endoftext|>": vocab.pop("<|endoftext|>")}
        pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
        ranks = {bytes(to_byte[c] for c in token): i for token, i in vocab.items()}
        _kept["tiktoken"] = tiktoken.Encoding(
            "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special, explicit_n_vocab=50257
        )
    return _kept["tiktoken"]


# name: (function, module it needs, whether the stride may differ from the length, whether it is slow)
CONTENDERS: dict[str, tuple[Contender, str, bool, bool]] = {
    "ours, fast": (ours, "gigatoken", True, False),
    "ours, without fast": (ours, "tokenizers", True, True),
    "ours, stored and read": (ours_stored, "gigatoken", True, False),
    "ideal": (ideal, "gigatoken", True, False),
    "tokenizer alone": (tokenizer_alone, "gigatoken", True, False),
    "memcpy of the windows": (memcpy, "numpy", True, False),
    "create_dataloader_v1": (rasbt, "tiktoken", True, False),
    "mosaicml-streaming": (mosaic, "streaming", True, False),
    "token buffer (torchtitan)": (token_buffer, "tiktoken", True, False),
    "litdata": (litdata, "litdata", False, True),
    "trl wrapped": (trl_wrapped, "trl", False, True),
    "nanoGPT": (nanogpt, "tiktoken", True, True),
    "run_clm": (run_clm, "transformers", False, True),
    "read: ours stored": (stored_ours, "datasets", True, False),
    "read: memmap": (stored_memmap, "numpy", True, False),
}


def child(name: str, folder: Path, length: int, stride: int) -> None:
    """Run one contender and print what it took."""
    if name == "ours, without fast":
        sys.modules["gigatoken"] = None  # type: ignore[assignment]
    import datasets

    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    function, module, _, _ = CONTENDERS[name]
    import_module(module)
    import gpt_embeddings  # noqa: F401 -- imports are no part of the work

    tokenizer()
    if module not in ("gigatoken", "tokenizers", "transformers", "trl", "numpy", "datasets"):
        tiktoken_gpt2()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what came before
    start_memory, start, start_wall = _memory("VmRSS"), _cpu(), time.perf_counter()
    windows = function(folder, length, stride)
    cpu, wall = _cpu() - start, time.perf_counter() - start_wall
    added = _memory("VmHWM") - start_memory
    print("RESULT " + json.dumps({"windows": windows, "cpu": cpu, "wall": wall, "memory": added}))


def _cpu() -> float:
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def _memory(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def measure(name: str, folder: Path, length: int, stride: int) -> dict[str, float] | None:
    """Run one contender in a process of its own."""
    arguments = ["--child", name, "--folder", str(folder), "--length", str(length), "--stride", str(stride)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            found: dict[str, float] = json.loads(line[7:])
            return found
    print(f"{name}: left out: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return None


def table(folder: Path, length: int, stride: int, rounds: int, only: list[str]) -> None:
    """Measure contenders in turn and print a line for each."""
    prepare_stored(folder, length, stride)
    names = [n for n, c in CONTENDERS.items() if (stride == length or c[2]) and (not only or n in only)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names:
            if (i == 0 or (found[name] and not CONTENDERS[name][3])) and (
                result := measure(name, folder, length, stride)
            ):
                found[name].append(result)
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
        if runs
    }
    base = medians.get("ours, fast")
    print(
        f"\nlength {length}, stride {stride}, batches of {BATCH}; windows of CPU-second, ratio of CPU time to ours\n"
    )
    print(f"| {'contender':26} | windows / CPU s | windows / s | added MB | CPU, ours = 1 | wall, ours = 1 |")
    print(f"| {'-' * 26} | ---: | ---: | ---: | ---: | ---: |")
    for name, run in medians.items():
        ratios = [
            (run[kind] / run["windows"]) / (base[kind] / base["windows"]) if base else float("nan")
            for kind in ("cpu", "wall")
        ]
        print(
            f"| {name:26} | {run['windows'] / run['cpu']:,.0f} | {run['windows'] / run['wall']:,.0f} | "
            f"{run['memory']:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} |",
            flush=True,
        )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "benchmark_windows")
    parser.add_argument("--length", type=int, nargs="*", default=[256, 1024], help="lengths to measure")
    parser.add_argument("--stride", type=int, help="by default the length, then half of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], choices=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder, options.length[0], options.stride)
        return
    if not list(options.folder.glob("corpus.txt")):
        shutil.rmtree(options.folder, ignore_errors=True)
        options.folder.mkdir(parents=True)
        make_corpus(options.folder)
    for length in options.length:
        for stride in [options.stride] if options.stride else [length, length // 2]:
            table(options.folder, length, stride, options.rounds, options.only)


if __name__ == "__main__":
    main()
