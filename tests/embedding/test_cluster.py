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
from datasets import Dataset

from gpt_embeddings import Embedder
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
def model(saved):
    return str(saved / "before")


def check(out, model, ids, texts):
    """Every row is there once, with its vector."""
    table = pq.read_table(out).sort_by("id")
    assert table["id"].to_pylist() == ids and table["text"].to_pylist() == texts
    found = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 16)
    assert np.array_equal(found, Embedder.from_pretrained(model).encode(texts))


def test_every_row_once_although_an_actor_is_killed(cluster, model, tmp_path):
    """Nor does count what a lost actor writes late: a node that lost its connection goes on until it hears of that."""
    texts = [f"{i} " + "the tide clerk counts the waves " * 30 for i in range(9_000)]
    inputs = [tmp_path / f"part-{part}.parquet" for part in range(3)]
    for part, path in enumerate(inputs):
        rows = range(part * 3_000, (part + 1) * 3_000)
        pq.write_table(pa.table({"id": list(rows), "text": [texts[i] for i in rows]}), path)
    killed, ended = [], threading.Event()

    def kill_one_and_write_late():
        result, n = tmp_path / ".out.partial" / "result", 0
        while not ended.is_set() and not killed:
            actors = [p for p in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(p.info["cmdline"] or [])]
            # Its title says that it has a batch, so it is not in the middle of its start.
            busy = [p for p in actors if any(part.endswith(".submit") for part in p.info["cmdline"])]
            if busy and list(result.glob("*.parquet")):
                os.kill(busy[0].pid, signal.SIGKILL)
                killed.append(busy[0].pid)
            time.sleep(0.005)
        while not ended.is_set():
            n += 1
            with contextlib.suppress(OSError):
                pq.write_table(pa.table({"late": [1]}), result / f"part-late-{n}.parquet")
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one_and_write_late)
    killer.start()
    progress = Progress(hidden=True)
    try:
        assert embed_on_cluster(inputs, tmp_path / "out", model, model, progress=progress) == len(texts)
    finally:
        ended.set()
        killer.join()
    assert killed
    # A block that was done twice counts once.
    assert progress.counts.documents == progress.counts.truncated == len(texts)
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert all(name.startswith("part-") and name.endswith(".parquet") and "late" not in name for name in names)
    check(tmp_path / "out", model, list(range(len(texts))), texts)


def test_a_dataset_that_was_shuffled(cluster, model, tmp_path):
    """Rows of a dataset are those of its indices; what is missing or blank is counted."""
    texts = [None if i % 5 == 0 else "" if i % 5 == 1 else f"wave {i}" for i in range(300)]
    dataset = Dataset.from_dict({"id": range(300), "text": texts}).shuffle(seed=0).select(range(250))
    progress = Progress(hidden=True)
    assert embed_on_cluster(dataset, tmp_path / "out", model, model, n_actors=1, progress=progress) == 250
    nulls, blank = dataset["text"][:].count(None), dataset["text"][:].count("")
    assert (progress.counts.documents, progress.counts.nulls, progress.counts.blank) == (250, nulls, blank)
    assert "missing (null)" in progress.warnings[0]
    rows = sorted(dataset, key=lambda row: row["id"])
    check(tmp_path / "out", model, [row["id"] for row in rows], [row["text"] for row in rows])
    assert read_provenance(tmp_path / "out").model == model
    options = {"n_actors": 1, "drop_empty": True, "progress": (progress := Progress(hidden=True))}
    assert embed_on_cluster(dataset, tmp_path / "kept", model, model, **options) == 250 - nulls - blank
    assert progress.counts.dropped == nulls + blank and progress.counts.documents == 250 - nulls - blank
    assert sorted(pq.read_table(tmp_path / "kept")["text"].to_pylist()) == sorted(filter(None, dataset["text"]))


def test_an_output_that_a_node_does_not_share_is_told(model, tmp_path):
    actor = EmbedderActor(model, model, {}, str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"The node .* the output must be on storage that all nodes share"):
        actor(pa.table({"text": ["a bell"]}))


def test_errors(cluster, model, tmp_path):
    with pytest.raises(ValueError, match="No input was given"):
        embed_on_cluster([], tmp_path / "out", model, model)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("")
    with pytest.raises(FileExistsError, match="exists; choose another"):
        embed_on_cluster([tmp_path / "a.parquet"], tmp_path / "out", model, model)
    pq.write_table(pa.table({"review": ["a bell"]}), tmp_path / "reviews.parquet")
    with pytest.raises(ValueError, match="There is no column 'text'; the columns are review"):
        embed_on_cluster([tmp_path / "reviews.parquet"], tmp_path / "vectors", model, model)
    assert not (tmp_path / "vectors").exists()
