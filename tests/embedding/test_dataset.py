"""`embed_dataset`: every output, resuming after SIGKILL, processes, and memory that stays flat."""

import json
import os
import signal
import subprocess
import time

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import warm_python
from datasets import Dataset, DatasetDict, IterableDataset

from gpt_embeddings import (
    Embedder,
    GPTEmbeddingsConfig,
    GPTEmbeddingsModel,
    embed_dataset,
    load_source,
    load_tokenizer,
)
from gpt_embeddings.embedding import dataset as embed_module
from gpt_embeddings.embedding import shards as shards_module


TEXTS = [f"Bell {i} " + "rings at high tide " * (i % 7) for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def new_model(seed=0):
    torch.manual_seed(seed)
    return GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=16, n_positions=32)).eval()


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture
def small(monkeypatch):
    """Shards of about 60 rows and batches of few, so that little data is many of them."""
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 2**13)
    monkeypatch.setattr(embed_module, "SHARD_BYTES", 2**13)
    monkeypatch.setattr(embed_module, "TEXT_BYTES", 2**10)
    monkeypatch.setattr(embed_module, "VECTOR_BYTES", 2**10)


def source():
    return Dataset.from_dict({"id": range(len(TEXTS)), "text": TEXTS})


def check(dataset, model, tokenizer):
    rows = list(dataset)
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))
    assert [row["text"] for row in rows] == TEXTS
    vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    assert np.array_equal(vectors, Embedder(model, tokenizer).encode(TEXTS))


def test_in_memory(model, tokenizer, small):
    embedded = embed_dataset(source(), model, tokenizer)
    assert embedded.features["embedding"] == Embedder(model, tokenizer).feature
    check(embedded, model, tokenizer)


@pytest.mark.parametrize("num_proc", [None, 1, 2])
def test_arrow(model, tokenizer, small, tmp_path, num_proc):
    embedded = embed_dataset(source(), model, tokenizer, output=tmp_path / "out", num_proc=num_proc)
    check(embedded, model, tokenizer)
    check(datasets.load_from_disk(tmp_path / "out"), model, tokenizer)
    assert len(list((tmp_path / "out").glob("data-*.arrow"))) > 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_parquet(model, tokenizer, small, tmp_path, name):
    stream = embed_dataset(source(), model, tokenizer, output=tmp_path / name, format="parquet")
    assert isinstance(stream, IterableDataset)
    check(stream, model, tokenizer)
    if name == "out.parquet":
        assert pq.read_table(tmp_path / name).num_rows == len(TEXTS)
        check(Dataset.from_parquet(str(tmp_path / name), cache_dir=str(tmp_path / "cache")), model, tokenizer)


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_streams(model, tokenizer, small, tmp_path, format):
    stream = source().to_iterable_dataset(num_shards=3)
    check(embed_dataset(stream, model, tokenizer), model, tokenizer)
    check(embed_dataset(stream, model, tokenizer, output=tmp_path / "out", format=format), model, tokenizer)
    assert len(list((tmp_path / "out").glob(f"data-*.{format}"))) > 2


def test_a_stream_without_known_columns(model, tokenizer, tmp_path):
    def rows():
        yield from ({"id": i, "text": text} for i, text in enumerate(TEXTS))

    stream = IterableDataset.from_generator(rows)
    check(embed_dataset(stream, model, tokenizer, output=tmp_path / "out"), model, tokenizer)


def test_splits(model, tokenizer, tmp_path):
    splits = DatasetDict({"train": source(), "test": source()})
    for embedded in (
        embed_dataset(splits, model, tokenizer),
        embed_dataset(splits, model, tokenizer, output=tmp_path / "out"),
        datasets.load_from_disk(tmp_path / "out"),
    ):
        assert isinstance(embedded, DatasetDict) and list(embedded) == ["train", "test"]
        for split in embedded.values():
            check(split, model, tokenizer)


@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
def test_no_rows(model, tokenizer, tmp_path, pooling):
    empty = source().select([])
    for output in (None, tmp_path / "out"):
        embedded = embed_dataset(empty, model, tokenizer, output=output, pooling=pooling)
        assert embedded.num_rows == 0 and embedded.column_names == ["id", "text", "embedding"]


def test_other_columns_and_the_input_stay_as_they_are(model, tokenizer, tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    for output in (None, tmp_path / "out"):
        assert embed_dataset(dataset, model, tokenizer, output=output).features["label"] == features["label"]
    assert dataset.column_names == ["text", "label"]


@pytest.mark.parametrize("num_proc", [None, 1])
def test_a_bad_text_is_named_by_its_row_of_the_dataset(model, tokenizer, small, tmp_path, num_proc):
    texts = [text.encode() for text in TEXTS]
    texts[-3] = b"caf\xe9"
    dataset = Dataset(pa.table({"text": pa.array(texts).view(pa.string())}))
    with pytest.raises(ValueError, match=rf"Column 'text', row {len(TEXTS) - 3}: .* not valid UTF-8"):
        embed_dataset(dataset, model, tokenizer, output=tmp_path / "out", num_proc=num_proc)


def test_errors(model, tokenizer, tmp_path):
    dataset = source()
    with pytest.raises(ValueError, match="There is no column 'body'; the columns are id, text"):
        embed_dataset(dataset, model, tokenizer, column="body")
    with pytest.raises(TypeError, match="Column 'id' must hold strings"):
        embed_dataset(dataset, model, tokenizer, column="id")
    with pytest.raises(ValueError, match="already has a column 'id'"):
        embed_dataset(dataset, model, tokenizer, output_column="id")
    with pytest.raises(ValueError, match="`num_proc` must be at least 1, got 0"):
        embed_dataset(dataset, model, tokenizer, num_proc=0)
    with pytest.raises(ValueError, match="`format` must be 'arrow' or 'parquet', got 'csv'"):
        embed_dataset(dataset, model, tokenizer, output=tmp_path / "out", format="csv")
    with pytest.raises(ValueError, match="`num_proc` does not work on a streaming dataset"):
        embed_dataset(dataset.to_iterable_dataset(), model, tokenizer, num_proc=2)
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="exists; choose another"):
        embed_dataset(dataset, model, tokenizer, output=tmp_path / "out")


# Resuming --------------------------------------------------------------------------------------------------------


class StopError(Exception):
    pass


class StopAfter(embed_module.Progress):
    def __init__(self, documents):
        super().__init__(hidden=True)
        self.limit = documents

    def add(self, documents, tokens, text_bytes):
        super().add(documents, tokens, text_bytes)
        if self.documents >= self.limit:
            raise StopError


@pytest.mark.parametrize("format", ["arrow", "parquet"])
@pytest.mark.parametrize("streaming", [False, True], ids=["map-style", "stream"])
def test_resume(model, tokenizer, small, tmp_path, format, streaming):
    dataset = source().to_iterable_dataset() if streaming else source()
    options = {"output": tmp_path / "out", "format": format}
    for documents in (90, 60):
        with pytest.raises(StopError):
            embed_dataset(dataset, model, tokenizer, progress=StopAfter(documents), **options)
    assert not (tmp_path / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".out.partial" / "result").glob("data-*")}
    assert kept
    progress = embed_module.Progress(hidden=True)
    check(embed_dataset(dataset, model, tokenizer, progress=progress, **options), model, tokenizer)
    assert progress.resumed > 0 and progress.resumed + progress.documents == len(TEXTS)
    for path, written in kept.items():
        assert (tmp_path / "out" / path.name).stat().st_mtime_ns == written


def test_another_job_is_not_continued(model, tokenizer, small, tmp_path):
    with pytest.raises(StopError):
        embed_dataset(source(), model, tokenizer, output=tmp_path / "out", progress=StopAfter(90))
    with pytest.raises(ValueError, match=r"unfinished work in .* under other settings: `d"):
        embed_dataset(source(), new_model(seed=1), tokenizer, output=tmp_path / "out")
    embedded = embed_dataset(source(), new_model(seed=1), tokenizer, output=tmp_path / "out", resume=False)
    check(embedded, new_model(seed=1), tokenizer)


def test_a_shard_cut_short_is_made_again(model, tokenizer, small, tmp_path):
    with pytest.raises(StopError):
        embed_dataset(source(), model, tokenizer, output=tmp_path / "out", progress=StopAfter(90))
    shard = tmp_path / ".out.partial" / "result" / "data-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:1000])
    check(embed_dataset(source(), model, tokenizer, output=tmp_path / "out"), model, tokenizer)


LONG_RUN = """
import sys, torch, datasets
from gpt_embeddings import *
from gpt_embeddings.embedding import dataset as embed, shards
shards.SHARD_BYTES = 2**19
torch.manual_seed(0)
model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=16, n_positions=32))
num_proc = int(sys.argv[3]) or None
print("begin", flush=True)
embed_dataset(datasets.load_from_disk(sys.argv[1]), model, load_tokenizer(), output=sys.argv[2], num_proc=num_proc)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
@pytest.mark.parametrize("num_proc", [0, 2])
def test_sigkill(model, tokenizer, tmp_path, num_proc):
    texts = [f"{i} " + "the tide " * 100 for i in range(20_000)]
    Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "data")
    command = ["-c", LONG_RUN, str(tmp_path / "data"), str(tmp_path / "out"), str(num_proc)]
    partial, killed = tmp_path / ".out.partial" / "result", 0
    for shards in (1, 8):
        process = warm_python.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(partial.glob("data-*.arrow"))) < shards:
            time.sleep(0.002)
        killed += process.poll() is None
        process.kill()
        process.wait()
    assert killed and not (tmp_path / "out").exists()
    again = warm_python.run(command)
    assert again.returncode == 0, again.stderr
    embedded = datasets.load_from_disk(tmp_path / "out")
    assert embedded["text"][:] == texts
    found = embedded.data.column("embedding").combine_chunks().flatten().to_numpy().reshape(-1, 16)
    assert np.array_equal(found, Embedder(model, tokenizer).encode(texts))


MEMORY = """
import json, resource, sys, torch, datasets
from gpt_embeddings import *
torch.manual_seed(0)
model, tokenizer = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=64)), load_tokenizer()
def private():
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0]) * 1024
dataset, peak, total = datasets.load_from_disk(sys.argv[1]), 0, 0
embed_dataset(dataset.select(range(3000)), model, tokenizer, output=sys.argv[2] + "-warm")
before = private()
class Watch(embed.Progress):
    def add(self, *counts):
        global peak
        super().add(*counts)
        peak = max(peak, private())
watch = Watch(hidden=True)
from gpt_embeddings.embedding import dataset as module
embed_dataset(dataset, model, tokenizer, output=sys.argv[2], progress=watch)
print(json.dumps([before, peak, watch.text_bytes]))
""".replace("import json,", "import gpt_embeddings.embedding.dataset as embed\nimport json,")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell resident memory")
def test_memory_stays_flat(tmp_path):
    """1 GB of text, by repetition: anonymous memory grows by less than 100 MB over that after 3 MB of text."""
    story = (embed_module.Path(__file__).parents[2] / "data" / "the_tide_clerk.txt").read_text(encoding="utf-8")
    part = Dataset.from_dict({"text": [story[i : i + 1000] for i in range(0, len(story) - 1000, 7)]})
    part.save_to_disk(tmp_path / "part")
    size = os.path.getsize(next((tmp_path / "part").glob("*.arrow")))
    repeated = datasets.concatenate_datasets([datasets.load_from_disk(tmp_path / "part")] * (10**9 // size + 1))
    repeated.save_to_disk(tmp_path / "data")
    done = warm_python.run(["-c", MEMORY, str(tmp_path / "data"), str(tmp_path / "out")], timeout=500)
    assert done.returncode == 0, done.stderr
    before, peak, text_bytes = json.loads(done.stdout)
    assert text_bytes > 0.95e9
    assert peak - before < 100e6


def test_another_stream_or_model_does_not_continue_a_run(tmp_path, monkeypatch):
    """A run that stopped after its first shard is continued by the same job alone."""
    tokenizer = load_tokenizer()
    models = [GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=4, n_positions=8)).eval() for _ in range(2)]
    streams = []
    for name in "xy":
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(f'{{"text": "{name}{i}"}}\n' for i in range(6)))
        streams.append(load_source([str(path)], streaming=True))
    finish = shards_module.Shards.finish

    def stop(self, *arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards_module.Shards, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(streams[0], models[0], tokenizer, output=tmp_path / "out")
    monkeypatch.setattr(shards_module.Shards, "finish", finish)
    with pytest.raises(ValueError, match=r"unfinished work in .* under other settings: `d"):
        embed_dataset(streams[1], models[0], tokenizer, output=tmp_path / "out")
    assert embed_dataset(streams[0], models[0], tokenizer, output=tmp_path / "out")["text"][:][0] == "x0"

    splits = DatasetDict({name: Dataset.from_dict({"text": [name]}) for name in ("train", "test")})
    calls = []

    def stop_at_the_second(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return finish(self, *arguments, **options)

    monkeypatch.setattr(shards_module.Shards, "finish", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(splits, models[0], tokenizer, output=tmp_path / "splits")
    with pytest.raises(ValueError, match=r"unfinished work in .* under other settings: `digest"):
        embed_dataset(splits, models[1], tokenizer, output=tmp_path / "splits")
    assert set(embed_dataset(splits, models[0], tokenizer, output=tmp_path / "splits")) == {"train", "test"}
