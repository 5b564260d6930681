"""Embedding on a real Ray cluster of two nodes, with a worker killed in mid-job."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from gpt_embeddings import Embedder, GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.embedding.cluster import EmbedderActor, embed_on_cluster
from gpt_embeddings.embedding.shards import read_provenance
from gpt_embeddings.progress import Progress


psutil = pytest.importorskip("psutil")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else whatever else runs starves them, other tests above all
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        unwatched = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **unwatched})
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=16, n_positions=64)).save_pretrained(folder)
    load_tokenizer().save_pretrained(folder)
    return str(folder)


def actor_processes():
    return [p for p in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(p.info["cmdline"] or [])]


def test_every_row_once_although_an_actor_is_killed(cluster, saved, tmp_path):
    texts = [f"{i} " + "the tide clerk counts the waves " * 30 for i in range(9_000)]
    for part in range(3):
        rows = range(part * 3_000, (part + 1) * 3_000)
        pq.write_table(
            pa.table({"id": list(rows), "text": [texts[i] for i in rows]}), tmp_path / f"part-{part}.parquet"
        )
    killed = []

    def kill_one():
        deadline = time.monotonic() + 600
        while not killed and time.monotonic() < deadline:
            # Its title says that it has a batch, so it is not in the middle of its start.
            busy = [p for p in actor_processes() if any(part.endswith(".submit") for part in p.info["cmdline"])]
            written = list((tmp_path / ".out.partial" / "result").glob("*.parquet"))
            if busy and written:
                os.kill(busy[0].pid, signal.SIGKILL)
                killed.append(busy[0].pid)
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    inputs = [tmp_path / f"part-{part}.parquet" for part in range(3)]
    progress = Progress(hidden=True)
    assert embed_on_cluster(inputs, tmp_path / "out", saved, saved, progress=progress) == len(texts)
    killer.join()
    assert killed
    assert (
        progress.counts.documents == progress.counts.truncated == len(texts)
    )  # a block that was done twice counts once
    assert all(path.name.startswith("part-") and path.suffix == ".parquet" for path in (tmp_path / "out").iterdir())
    table = pq.read_table(tmp_path / "out").sort_by("id")
    assert table["id"].to_pylist() == list(range(len(texts)))
    assert table["text"].to_pylist() == texts
    found = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 16)
    embedder = Embedder(GPTEmbeddingsModel.from_pretrained(saved), load_tokenizer(saved))
    assert np.array_equal(found, embedder.encode(texts))


def test_a_dataset_that_was_shuffled(cluster, saved, tmp_path):
    """Rows of a dataset are those of its indices; what is missing or blank is counted."""
    texts = [None if i % 5 == 0 else "" if i % 5 == 1 else f"wave {i}" for i in range(300)]
    dataset = Dataset.from_dict({"id": range(300), "text": texts}).shuffle(seed=0).select(range(250))
    progress = Progress(hidden=True)
    assert embed_on_cluster(dataset, tmp_path / "out", saved, saved, n_actors=1, progress=progress) == 250
    nulls, blank = dataset["text"][:].count(None), dataset["text"][:].count("")
    assert (progress.counts.documents, progress.counts.nulls, progress.counts.blank) == (250, nulls, blank)
    assert "missing (null)" in progress.warnings[0]
    table = pq.read_table(tmp_path / "out").sort_by("id")
    assert table["id"].to_pylist() == sorted(dataset["id"])
    assert read_provenance(tmp_path / "out").model == saved
    options = {"n_actors": 1, "drop_empty": True, "progress": (progress := Progress(hidden=True))}
    assert embed_on_cluster(dataset, tmp_path / "kept", saved, saved, **options) == 250 - nulls - blank
    assert progress.counts.dropped == nulls + blank and progress.counts.documents == 250 - nulls - blank
    assert sorted(pq.read_table(tmp_path / "kept")["text"].to_pylist()) == sorted(filter(None, dataset["text"]))
    expected = Embedder(GPTEmbeddingsModel.from_pretrained(saved), load_tokenizer(saved))
    found = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 16)
    assert np.array_equal(found, expected.encode(table["text"].to_pylist()))


def test_what_a_lost_actor_writes_late_does_not_count(cluster, saved, tmp_path):
    """A node that lost its connection is given up, and goes on writing until it hears of that."""
    written, ended = tmp_path / ".out.partial" / "result", threading.Event()

    def write_late():
        while not ended.is_set():
            if written.is_dir():
                with contextlib.suppress(OSError):
                    pq.write_table(pa.table({"late": [1]}), written / f"part-late-{time.monotonic_ns()}.parquet")
            time.sleep(0.001)

    writer = threading.Thread(target=write_late)
    writer.start()
    try:
        embed_on_cluster(Dataset.from_dict({"text": ["a bell"] * 20}), tmp_path / "out", saved, saved, n_actors=1)
    finally:
        ended.set()
        writer.join()
    assert pq.read_table(tmp_path / "out")["text"].to_pylist() == ["a bell"] * 20
    assert not list((tmp_path / "out").glob("*late*"))


def test_an_output_that_a_node_does_not_share_is_told(saved, tmp_path):
    actor = EmbedderActor(saved, saved, {}, str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"The node .* the output must be on storage that all nodes share"):
        actor(pa.table({"text": ["a bell"]}))


def test_errors(cluster, saved, tmp_path):
    with pytest.raises(ValueError, match="No input was given"):
        embed_on_cluster([], tmp_path / "out", saved, saved)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("")
    with pytest.raises(FileExistsError, match="exists; choose another"):
        embed_on_cluster([tmp_path / "a.parquet"], tmp_path / "out", saved, saved)
    pq.write_table(pa.table({"review": ["a bell"]}), tmp_path / "reviews.parquet")
    with pytest.raises(ValueError, match="There is no column 'text'; the columns are review"):
        embed_on_cluster([tmp_path / "reviews.parquet"], tmp_path / "vectors", saved, saved)
    assert not (tmp_path / "vectors").exists()
