"""`embed_dataset`: every output, resuming after SIGKILL, processes, and memory that stays flat."""

import multiprocessing
import os
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from command import STORY
from datasets import Array2D, Dataset, DatasetDict, Features, IterableDataset, List, Value
from windows_reference import TOKENIZER

from gpt_embeddings import Embedder, GPTEmbeddingsModel, embed_dataset
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.embedding import dataset as embed_module
from gpt_embeddings.embedding import shards as shards_module
from gpt_embeddings.embedding.shards import Provenance, read_provenance
from gpt_embeddings.progress import Counts, Progress


new_model = partial(tiny.new_model, n_embd=16, n_positions=32)
TEXTS = [f"Bell {i} " + "rings at high tide " * (i % 7) for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer():
    return TOKENIZER


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture
def small(monkeypatch):
    """Shards of about 60 rows and batches of few, so that little data is many of them."""
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 2**13)
    monkeypatch.setattr(embed_module, "PART_ROWS", 60)
    monkeypatch.setattr(embed_module, "TEXT_BYTES", 2**10)
    monkeypatch.setattr(embed_module, "VECTOR_BYTES", 2**10)


def source():
    return Dataset.from_dict({"id": range(len(TEXTS)), "text": TEXTS})


def stop_after(documents, data, model, tokenizer, **options):
    """Embed, and break off after so many documents."""

    class Stopping(Progress):
        def add(self, counts):
            super().add(counts)
            if self.counts.documents >= documents:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_dataset(data, model, tokenizer, progress=Stopping(hidden=True), **options)


def check(dataset, model, tokenizer):
    rows = list(dataset)
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))
    assert [row["text"] for row in rows] == TEXTS
    vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    assert np.array_equal(vectors, Embedder(model, tokenizer).encode(TEXTS))


@pytest.mark.parametrize("streaming", [False, True], ids=["map-style", "stream"])
@pytest.mark.parametrize("name", [None, "v1.5", "parquet", "out.PQ", "final [v2].parquet"])
def test_every_output(model, tokenizer, small, tmp_path, streaming, name):
    """In memory or lazy, in Arrow, in Parquet files, in one file; names are taken as they are."""
    (tmp_path / "final 2.parquet").write_bytes(b"of another")
    data = source().to_iterable_dataset(num_shards=3) if streaming else source()
    one_file, format = str(name).lower().endswith(("quet", "pq")) and name != "parquet", name == "parquet" and name
    options = {"output": name and tmp_path / name, "format": format or None, "overwrite": True}
    embedded = embed_dataset(data, model, tokenizer, **options)
    assert embedded.features["embedding"] == Embedder(model, tokenizer).feature
    assert isinstance(embedded, IterableDataset) == bool(streaming if name is None else format or one_file)
    check(embedded, model, tokenizer)
    if name is None:
        return
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["final 2.parquet", name])
    if one_file:
        check(pq.ParquetFile(tmp_path / name).read().to_pylist(), model, tokenizer)
    else:
        assert len(list((tmp_path / name).glob(f"data-*.{format or 'arrow'}"))) > 2
        check(embedded if format else datasets.load_from_disk(tmp_path / name), model, tokenizer)
    assert embed_dataset(source(), model, tokenizer, **options).column_names  # replaced


@pytest.mark.parametrize("features", [None, source().features], ids=["unknown columns", "known columns"])
@pytest.mark.parametrize("name", [None, "out.parquet"])
def test_a_stream_that_can_be_read_once(model, tokenizer, small, tmp_path, features, name):
    def stream():
        rows = iter(source().to_list())
        begun.append(rows)
        return rows

    begun = []
    made = IterableDataset.from_generator(stream, features=features)
    embedded = embed_dataset(made, model, tokenizer, output=name and tmp_path / name)
    assert len(begun) == (name is not None)  # a lazy stream is begun when it is read
    check(embedded, model, tokenizer)
    assert len(begun) == 1
    once = IterableDataset.from_generator(lambda: begun[0], features=features)
    begun[0] = iter(source().to_list())
    stop_after(90, once, model, tokenizer, output=tmp_path / "out")
    with pytest.raises(ValueError, match="a stream over an iterator has to be made again"):
        embed_dataset(once, model, tokenizer, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_a_stream_is_continued_if_the_finished_rows_are_the_same(model, tokenizer, small, tmp_path, format):
    """All of them are compared, not only the first and the last; NaN is NaN."""
    nan, options = float("nan"), {"output": tmp_path / "out", "format": format}
    rows = [
        {"text": text, "x": nan if i % 3 else 0.5, "y": [{"z": [nan, 1.0]}], "grid": [[nan, i]]}
        for i, text in enumerate(TEXTS)
    ]
    features = Features({"text": Value("string"), "x": Value("float32")})
    features |= {"y": [{"z": List(Value("float64"), length=2)}], "grid": Array2D((1, 2), "float32")}

    def stream(rows):
        return Dataset.from_list(rows, features=features).to_iterable_dataset()

    stop_after(150, stream(rows), model, tokenizer, **options)
    edits = ({"text": "x"}, {"x": 0.5}, {"y": [{"z": [1.0, nan]}]}, {"grid": [[0.0, 20]]})
    changed = [[*rows[:20], rows[20] | edit, *rows[21:]] for edit in edits]
    for other in (*changed, [*rows[:20], rows[21], rows[20], *rows[22:]], rows[:30]):
        with pytest.raises(ValueError, match="does not repeat the rows that an earlier run has embedded: rows 0 to"):
            embed_dataset(stream(other), model, tokenizer, **options)
    progress = Progress(hidden=True)
    more = [*rows, rows[0] | {"text": "one more"}]  # only rows after the finished ones differ
    embedded = embed_dataset(stream(more), model, tokenizer, progress=progress, **options)
    assert progress.resumed > 0 and [row["text"] for row in embedded] == [*TEXTS, "one more"]


def test_rows_that_are_lost_are_an_error(model, tokenizer, small, tmp_path, monkeypatch):
    write = shards_module.Shards.write

    def lose_some(self, part, index, tables):
        return write(self, part, index, (table.slice(1) for table in tables))

    monkeypatch.setattr(shards_module.Shards, "write", lose_some)
    for dataset in (source(), source().to_iterable_dataset()):
        with pytest.raises(ValueError, match=r"200 rows were read, but the shards in .* hold 1\d\d"):
            embed_dataset(dataset, model, tokenizer, output=tmp_path / "out", resume=False)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["lazy", "mapped", "output"])
def test_a_stream_of_unknown_columns_that_begins_with_missing_texts(model, tokenizer, small, tmp_path, way):
    texts = [None] * 100 + TEXTS
    stream = IterableDataset.from_generator(lambda: ({"text": text} for text in texts))
    if way == "mapped":
        stream = stream.map(lambda row: {"n": len(row["text"] or "")})
    rows = list(embed_dataset(stream, model, tokenizer, output=tmp_path / "out" if way == "output" else None))
    assert [row["text"] for row in rows] == texts and type(rows[0]["embedding"]) is list
    found = np.array([row["embedding"] for row in rows], np.float32)
    assert np.array_equal(found, Embedder(model, tokenizer).encode(texts))


def test_a_dataset_that_shows_other_texts_than_it_stores(model, tokenizer, tmp_path):
    dataset = Dataset.from_dict({"text": ["a", "b"]})
    shown = dataset.with_transform(lambda batch: {"text": [text * 2 for text in batch["text"]]})
    for options in ({}, {"output": tmp_path / "out"}):
        with pytest.raises(ValueError, match=r"has a transform .*Store them with `dataset\.map"):
            embed_dataset(shown, model, tokenizer, **options)
    assert embed_dataset(shown.with_format(None), model, tokenizer)["text"][:] == ["a", "b"]


def test_int8_finds_its_ranges_on_a_sample(model, tokenizer, tmp_path):
    dataset = Dataset.from_dict({"text": [None, *TEXTS]})
    embedded = embed_dataset(dataset, model, tokenizer, output=tmp_path / "out", dtype="int8")
    ranges = read_provenance(tmp_path / "out").options["ranges"]
    floats = Embedder(model, tokenizer).encode(TEXTS)
    assert np.allclose(ranges, [floats.min(0), floats.max(0)])
    expected = Embedder(model, tokenizer, dtype="int8", ranges=ranges).encode(TEXTS)
    assert np.array_equal(embedded["embedding"][1:], expected)
    with pytest.raises(ValueError, match="int8 on a streaming dataset needs `ranges`"):
        embed_dataset(dataset.to_iterable_dataset(), model, tokenizer, output=tmp_path / "x", dtype="int8")


def test_a_column_of_another_type_later_on(model, tokenizer, small, tmp_path):
    stream = IterableDataset.from_generator(
        lambda: ({"text": text, "x": None if i < 100 else "late"} for i, text in enumerate(TEXTS))
    )
    with pytest.raises(ValueError, match="Column 'x' holds string in some rows and null in the first ones"):
        embed_dataset(stream, model, tokenizer, output=tmp_path / "out")


KINDS = {
    "list": list,
    "numpy": lambda texts: np.array(texts, dtype=object),
    "pandas column": pd.Series,
    "pandas": lambda texts: pd.DataFrame({"text": texts, "id": [0, 1, 2]}, index=[7, 8, 9]),
    "polars": lambda texts: pytest.importorskip("polars").DataFrame({"text": texts, "id": [0, 1, 2]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_tables_of_other_libraries(model, tokenizer, tmp_path, kind):
    names = ["text", "id", "embedding"] if kind in ("pandas", "polars") else ["text", "embedding"]
    for texts in (["A bell.", None, "The tide came in."], [np.nan, np.nan, np.nan] if "pandas" in kind else [""] * 3):
        wanted = [text if isinstance(text, str) else None for text in texts]
        for output in (None, tmp_path / "out"):
            embedded = embed_dataset(KINDS[kind](texts), model, tokenizer, output=output, overwrite=True)
            assert embedded.column_names == names and embedded["text"][:] == wanted
            assert embedded.features["text"].dtype in ("string", "large_string")
            assert np.array_equal(embedded["embedding"][:], Embedder(model, tokenizer).encode(wanted))


def test_too_little_room_for_one_file(model, tokenizer, small, tmp_path, monkeypatch, caplog):
    """A warning before the work, and none for a folder."""
    monkeypatch.setattr(shards_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    embed_dataset(source(), model, tokenizer, output=tmp_path / "out", format="parquet")
    assert not caplog.messages
    embed_dataset(source(), model, tokenizer, output=tmp_path / "out.parquet")
    assert caplog.messages[0].startswith("One Parquet file of about 0.0 GB needs twice that")


@pytest.mark.parametrize("way", ["memory", "processes", "stream"])
def test_what_is_missing_blank_or_cut_is_counted_and_told(model, tokenizer, small, tmp_path, way, caplog):
    long = "tide " * 40
    texts = ["A bell.", None, " \n", long, None, "x"] * 20
    dataset = Dataset.from_dict({"text": texts})
    options = {"num_proc": 2} if way == "processes" else {}
    data = dataset.to_iterable_dataset() if way == "stream" else dataset
    output = None if way == "memory" else tmp_path / "out"
    progress = Progress(hidden=True)
    embed_dataset(data, model, tokenizer, output=output, progress=progress, **options)
    n_tokens = sum(len(tokenizer(text)["input_ids"]) for text in texts if text)  # of whitespace too
    n_bytes = sum(len(text or "") for text in texts)
    assert progress.counts == Counts(120, n_tokens, n_bytes, nulls=40, blank=20, truncated=20)
    assert not caplog.messages
    embed_dataset(dataset, model, tokenizer)
    assert caplog.messages == [
        "Of 120 texts 40 missing (null) and 20 blank: the vectors of missing and empty texts are zero. "
        "`drop_empty=True` (--drop-empty) drops them.",
        "Of 120 texts 20 truncated at 32 tokens; overflow 'windows' keeps all tokens.",
    ]
    counts = Embedder(model, tokenizer, overflow="windows").extend(pa.table({"text": texts}))[1]
    assert counts.truncated == 0
    caplog.clear()
    output = None if way == "memory" else tmp_path / "dropped"
    embedded = embed_dataset(data, model, tokenizer, output=output, drop_empty=True, **options)
    assert embedded["text"][:] == ["A bell.", long, "x"] * 20
    assert np.array_equal(embedded["embedding"][:], Embedder(model, tokenizer).encode(embedded["text"][:]))
    assert caplog.messages[0] == "Of 120 texts 60 missing or blank: their rows are dropped."


def test_a_refused_output_leaves_a_stream_unread(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    once = iter(source().to_list())
    stream = IterableDataset.from_generator(lambda: once)
    with pytest.raises(ValueError, match=r"is named as a \.csv file, which `embed` does not write"):
        embed_dataset(stream, model, tokenizer, output="out.csv")
    assert not list(tmp_path.iterdir()) and len(list(once)) == len(TEXTS)


def test_other_columns_and_the_input_stay_as_they_are_also_without_rows(model, tokenizer, tmp_path):
    features = Features({"text": Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    dataset = Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    for output in (None, tmp_path / "out"):
        embedded = embed_dataset(dataset, model, tokenizer, output=output)
        assert embedded.features["label"] == features["label"]
        empty = embed_dataset(dataset.select([]), model, tokenizer, output=output, overwrite=True)
        assert empty.num_rows == 0 and empty.column_names == ["text", "label", "embedding"]
    assert dataset.column_names == ["text", "label"]


@pytest.mark.parametrize("num_proc", [None, 1])
def test_a_bad_text_is_named_by_its_row_of_the_dataset(model, tokenizer, small, tmp_path, num_proc):
    texts = [b"a bell"] * 197 + [b"caf\xe9"] + [b"a bell"] * 2
    dataset = Dataset(pa.table({"text": pa.array(texts).view(pa.string())}))
    with pytest.raises(ValueError, match="Column 'text', row 197 is not valid UTF-8"):
        embed_dataset(dataset, model, tokenizer, output=tmp_path / "out", num_proc=num_proc)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (source, {"column": "body"}, "There is no column 'body'; the columns are id, text"),
        (source, {"column": "id"}, "Column 'id' must hold strings"),
        (source, {"output_column": "id"}, "already has a column 'id'"),
        (source, {"num_proc": 0}, "`num_proc` must be an integer of at least 1, got 0"),
        (source, {"output": "out", "format": "csv"}, "`format` must be one of 'arrow', 'parquet', got 'csv'"),
        (source, {"output": "x.pq", "format": "arrow"}, r"`format` is 'arrow', but the output is named as a \.pq fil"),
        (lambda: source().to_iterable_dataset(), {"num_proc": 2}, "`num_proc` does not work on a streaming dataset"),
        (lambda: source().to_iterable_dataset(), {"drop_empty": True}, "`drop_empty` needs an `output` for a stream"),
        (lambda: IterableDataset.from_generator(list), {"output": "out"}, "has no rows, and its columns are unknown"),
        (lambda: {"a", "b"}, {}, "got set"),
        (lambda: "file.txt", {}, "got str"),
        (lambda: iter(["a"]), {}, "got list_iterator"),
        (lambda: ["a", float("nan"), 2], {}, "`data`, item 2 must be a string, got int: 2"),
        (lambda: pd.DataFrame({"text": ["a", 3]}), {}, "Conversion failed for column text"),
    ],
)
def test_what_does_not_fit_is_refused(model, tokenizer, tmp_path, monkeypatch, make, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError), match=message):
        embed_dataset(make(), model, tokenizer, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["arrow", "parquet"])
@pytest.mark.parametrize("streaming", [False, True], ids=["map-style", "stream"])
def test_resume(model, tokenizer, small, tmp_path, format, streaming):
    dataset = source().to_iterable_dataset() if streaming else source()
    options = {"output": tmp_path / "out", "format": format}
    for documents in (90, 60):
        stop_after(documents, dataset, model, tokenizer, **options)
    assert not (tmp_path / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".out.partial" / "result").glob("data-*")}
    assert kept
    progress = Progress(hidden=True)
    check(embed_dataset(dataset, model, tokenizer, progress=progress, **options), model, tokenizer)
    assert progress.resumed > 0 and progress.resumed + progress.counts.documents == len(TEXTS)
    for path, written in kept.items():
        assert (tmp_path / "out" / path.name).stat().st_mtime_ns == written


def test_another_job_is_not_continued_and_a_shard_cut_short_is_made_again(model, tokenizer, small, tmp_path):
    stop_after(90, source(), model, tokenizer, output=tmp_path / "out")
    with pytest.raises(ValueError, match=r"unfinished work in .* under other settings: `d"):
        embed_dataset(source(), new_model(seed=1), tokenizer, output=tmp_path / "out")
    shard = tmp_path / ".out.partial" / "result" / "data-000-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:1000])
    check(embed_dataset(source(), model, tokenizer, output=tmp_path / "out"), model, tokenizer)
    with pytest.raises(FileExistsError, match="exists; choose another"):
        embed_dataset(source(), model, tokenizer, output=tmp_path / "out")
    stop_after(90, source(), model, tokenizer, output=tmp_path / "new")
    embedded = embed_dataset(source(), new_model(seed=1), tokenizer, output=tmp_path / "new", resume=False)
    check(embedded, new_model(seed=1), tokenizer)


def test_worker_processes_share_in_a_small_dataset(model, tokenizer, small, tmp_path):
    """Each has shards of its own; a run is continued as it was cut."""
    stop_after(60, source(), model, tokenizer, output=tmp_path / "out", num_proc=2)
    with pytest.raises(ValueError, match=r"`parts for worker processes \(--num-proc\)` is False and was True"):
        embed_dataset(source(), model, tokenizer, output=tmp_path / "out")
    progress = Progress(hidden=True)
    embedded = embed_dataset(source(), model, tokenizer, output=tmp_path / "out", num_proc=3, progress=progress)
    check(embedded, model, tokenizer)
    assert progress.resumed > 0 and progress.resumed + progress.counts.documents == len(TEXTS)
    assert {path.name[:8] for path in (tmp_path / "out").glob("data-*")} == {f"data-00{part}" for part in range(4)}


def long_run(data, output, model, tokenizer, **options):
    embed_dataset(datasets.load_from_disk(data), model, tokenizer, output=output, num_proc=2, **options)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_sigkill(model, gpt2_tokenizer, tmp_path, monkeypatch):
    """Of two worker processes and their parent; `test_resume` stops a run in other ways."""
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 2**17)
    texts, out = [f"{i} " + "the tide " * 100 for i in range(8_000)], tmp_path / "out"
    Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "data")
    arguments = (tmp_path / "data", out, model, gpt2_tokenizer)
    process = multiprocessing.get_context("fork").Process(target=long_run, args=arguments)
    process.start()
    while len(list((tmp_path / ".out.partial" / "result").glob("data-*.arrow"))) < 4:
        assert process.is_alive()
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not out.exists()
    progress = Progress(hidden=True)
    long_run(*arguments, progress=progress)
    assert progress.resumed > 0
    embedded = datasets.load_from_disk(out)
    assert embedded["text"][:] == texts
    found = embedded.data.column("embedding").combine_chunks().flatten().to_numpy().reshape(-1, 16)
    assert np.array_equal(found, Embedder(model, gpt2_tokenizer).encode(texts))


def private_memory():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell resident memory")
def test_memory_stays_flat(gpt2_tokenizer, tmp_path):
    """60 MB of text have 180 MB of vectors: anonymous memory grows by less than 100 MB over that after 3 MB."""

    class Watch(Progress):
        peak = 0

        def add(self, counts):
            super().add(counts)
            self.peak = max(self.peak, private_memory())

    model, story = tiny.new_model(n_positions=1024, n_embd=768), STORY.read_text(encoding="utf-8")
    part = Dataset.from_dict({"text": [story[i : i + 1000] for i in range(0, len(story) - 1000, 7)]})
    part.save_to_disk(tmp_path / "part")
    part = datasets.load_from_disk(tmp_path / "part")
    dataset = datasets.concatenate_datasets([part] * (60_000 // len(part) + 1))
    embed_dataset(dataset.select(range(3000)), model, gpt2_tokenizer, output=tmp_path / "warm")
    before, watch = private_memory(), Watch(hidden=True)
    embed_dataset(dataset, model, gpt2_tokenizer, output=tmp_path / "out", progress=watch)
    assert watch.counts.text_bytes > 0.055e9
    assert watch.peak - before < 100e6


def test_splits_are_continued_by_the_same_model_alone(model, tokenizer, small, tmp_path):
    splits = DatasetDict({"train": source(), "test": source()})
    stop_after(300, splits, model, tokenizer, output=tmp_path / "splits")  # in the second
    with pytest.raises(ValueError, match=r"unfinished work in .* under other settings: `digest"):
        embed_dataset(splits, new_model(seed=1), tokenizer, output=tmp_path / "splits")
    progress = Progress(hidden=True)
    for embedded in (
        embed_dataset(splits, model, tokenizer, output=tmp_path / "splits", progress=progress),
        datasets.load_from_disk(tmp_path / "splits"),
        embed_dataset(splits, model, tokenizer),
    ):
        assert isinstance(embedded, DatasetDict) and list(embedded) == ["train", "test"] and progress.resumed > 200
        for split in embedded.values():
            check(split, model, tokenizer)


@pytest.mark.parametrize("name", ["arrow", "vectors.parquet", "folder", "memory"])
def test_every_output_says_it(name, model, tokenizer, tmp_path):
    dataset = Dataset.from_dict({"said": ["the tide", "comes in"]})
    chosen = {"column": "said", "output_column": "v", "pooling": "last", "normalize": True, "dtype": "float16"}
    options = {**chosen, "format": "parquet" if name == "folder" else None, "model_name": "me/tide"}
    output = None if name == "memory" else tmp_path / name
    embedded = embed_dataset(dataset, model, tokenizer, output=output, **options)
    if output is None:
        embedded.save_to_disk(tmp_path / name)
    found = read_provenance(tmp_path / name)
    embedder = Embedder(model, tokenizer, **chosen)
    assert found == Provenance(
        model="me/tide",
        weights=found.weights,
        tokenizer=found.tokenizer,
        n_embd=16,
        options={"overflow": "truncate", "truncate_dim": None, "ranges": None, "weights": None, **chosen},
        version=version("gpt-embeddings"),
    )
    assert len(found.tokenizer) == 64
    assert Embedder(model, tokenizer, **found.options).digest == embedder.digest
    if name == "arrow":  # what others read of it
        assert datasets.load_from_disk(tmp_path / name).info.description == found.to_json()
    elif name == "vectors.parquet":
        assert (
            datasets.load_dataset("parquet", data_files=str(tmp_path / name), split="train").features["v"].length == 16
        )


def test_other_weights_have_another_digest(model, tokenizer, tmp_path):
    for i, some in enumerate((model, new_model(seed=1))):
        splits = DatasetDict({"train": Dataset.from_dict({"text": ["a"]}), "test": Dataset.from_dict({"text": ["b"]})})
        embed_dataset(splits, some, tokenizer, output=tmp_path / str(i))
    found = [read_provenance(tmp_path / str(i)) for i in range(2)]
    assert found[0].weights != found[1].weights
    assert found[0].tokenizer == found[1].tokenizer and found[0].model is None


def test_a_loaded_model_is_named_by_where_it_is_from(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    saved = GPTEmbeddingsModel.from_pretrained(tmp_path / "saved")
    bundled, other = load_model_and_tokenizer("gpt-embeddings-portuguese")
    assert Embedder(model, tokenizer).provenance().model is None
    assert Embedder(saved, tokenizer).provenance().model == str(tmp_path / "saved")
    assert Embedder(bundled, other).provenance().model == "gpt-embeddings-portuguese"


def test_what_does_not_say_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no dataset"):
        read_provenance(tmp_path / "none")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "b")
    (tmp_path / "c").mkdir()
    for name in ("a.parquet", "b", "c"):
        with pytest.raises(ValueError, match="does not say which model its vectors are from"):
            read_provenance(tmp_path / name)
