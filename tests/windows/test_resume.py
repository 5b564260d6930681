"""Windows that go on where they stopped: any batch, epoch, number of workers, processes, and a kill."""

import copy
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from datasets.distributed import split_dataset_by_node
from hypothesis import given, settings
from hypothesis import strategies as st
from windows_reference import TOKENIZER, joined, plain, reference, words

from gpt_embeddings import TokenWindows, load_tokenizer
from gpt_embeddings.windows import stored_windows
from gpt_embeddings.windows.packing import Packer, WindowSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six Parquet files of several row groups, and so several blocks and shards."""
    place = tmp_path_factory.mktemp("corpus")
    for i in range(6):
        texts = words(300 + 100 * i, seed=i, longest=12)
        pq.write_table(pa.table({"text": texts, "other": texts}), place / f"{i}.parquet", row_group_size=120)
    return place


def corpus(folder, kind):
    files = sorted(str(path) for path in folder.glob("*.parquet"))
    if kind == "streaming":
        return load_dataset("parquet", data_files=files, split="train", streaming=True)
    if kind == "mapped":
        rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
        rows = rows.map(lambda batch: {"text": [t.upper() for t in batch["text"]]}, batched=True, batch_size=70)
        return rows.filter(lambda row: len(row["text"]) % 3 > 0)
    texts = [text for name in files for text in pq.read_table(name).column("text").to_pylist()]
    return Dataset.from_dict({"text": texts}) if kind == "rows" else texts


def some(loader, n):
    """The first n batches, and the loader's state after the last of them."""
    return plain(itertools.islice(loader, n)), json.loads(json.dumps(loader.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "packing", "shuffle"),
    [
        ("list", "document", False),
        ("rows", "stream", True),
        ("streaming", "document", True),
        ("mapped", "stream", True),
        ("rows", "document", "windows"),
    ],
)
def test_after_any_batch_with_any_number_of_workers(folder, kind, packing, shuffle):
    dataset = corpus(folder, kind)

    def loader(num_workers=0):
        windows = TokenWindows(dataset, TOKENIZER, 64, 48, packing=packing, shuffle=shuffle, num_streams=3)
        return windows.dataloader(16, num_workers=num_workers)

    whole = plain(loader())
    assert len(whole) > 24
    for n, before, after in ((1, 0, 0), (11, 0, 2), (20, 2, 1), (len(whole) - 2, 0, 0), (len(whole), 0, 0)):
        seen, state = some(loader(before), n)
        resumed = loader(after)
        resumed.load_state_dict(state)
        assert seen + plain(resumed) == whole, n


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Epoch 0 has no window")
@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.sampled_from(["", None, *words(12, longest=8)]), min_size=3, max_size=30),
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3),
    st.sampled_from(["stream", "document"]), st.sampled_from(["pad", "drop"]), st.data(),
)  # fmt: skip
def test_several_stops(documents, length, stride, batch_size, streams, packing, tail, data):
    def loader():
        options = {"packing": packing, "tail": tail, "num_streams": streams, "shuffle": True}
        return TokenWindows(documents, TOKENIZER, length, min(stride, length), **options).dataloader(batch_size)

    whole, found, state = plain(loader()), [], None
    while len(found) < len(whole):
        resumed = loader()
        if state is not None:
            resumed.load_state_dict(state)
        part, state = some(resumed, data.draw(st.integers(1, len(whole) - len(found))))
        found += part
    assert found == whole


@pytest.mark.parametrize(("kind", "shuffle"), [("streaming", True), ("rows", "windows")])
def test_in_a_later_epoch(folder, kind, shuffle):
    def loader():
        return TokenWindows(corpus(folder, kind), TOKENIZER, 64, shuffle=shuffle).dataloader(16)

    first = loader()
    epochs = [plain(first) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    stopped = loader()
    list(stopped)
    seen, state = some(stopped, 11)
    assert state["epoch"] == 1
    resumed = loader()
    resumed.load_state_dict(state)
    resumed.set_epoch(1)  # as a training loop does; it is the current one
    assert seen + plain(resumed) == epochs[1]
    assert plain(resumed) == epochs[2]


def test_another_batch_size(folder):
    loader = TokenWindows(corpus(folder, "rows"), TOKENIZER, 64).dataloader(16)
    some(loader, 3)  # broken off: the epoch begins again
    seen, state = some(loader, 5)
    resumed = TokenWindows(corpus(folder, "rows"), TOKENIZER, 64).dataloader(3)
    resumed.load_state_dict(state)
    wanted = reference(corpus(folder, "list"), 64, 64)
    assert joined(seen) + joined(plain(resumed)) == wanted


@pytest.mark.parametrize("kind", ["rows", "streaming"])
def test_a_dataset_that_is_split_by_node(folder, kind):
    for rank in (0, 1):
        split = split_dataset_by_node(corpus(folder, kind), rank, 2)
        ours = TokenWindows(corpus(folder, kind), TOKENIZER, 64, rank=rank, world_size=2)
        theirs = TokenWindows(split, TOKENIZER, 64)
        assert plain(theirs.dataloader(16)) == plain(ours.dataloader(16))
        if kind == "streaming":
            assert (theirs.corpus.rank, theirs.corpus.world_size) == (rank, 2)
            with pytest.raises(ValueError, match="already split by node"):
                TokenWindows(split, TOKENIZER, 64, rank=0, world_size=2)


class TestWhatDoesNotFit:
    def test_settings(self, folder):
        rows, other = corpus(folder, "rows"), load_tokenizer()
        state = some(TokenWindows(rows, TOKENIZER, 64).dataloader(16), 9)[1]
        assert set(WindowSpec.__annotations__) <= set(state["settings"])  # every field is compared
        other.add_tokens(["zeppelins"])
        for windows, message in (
            (TokenWindows(rows, TOKENIZER, 32), "`max_length` is 32 and was 64; `stride` is 32 and was 64"),
            (TokenWindows(rows, TOKENIZER, 64, shuffle="windows"), "`shuffle` is 'windows' and was False"),
            (TokenWindows(rows, TOKENIZER, 64, rank=1, world_size=3), "`rank` is 1 and was 0"),
            (TokenWindows(rows, other, 64), r"`tokenizer` is '[0-9a-f]*' and was '[0-9a-f]*'"),
        ):
            with pytest.raises(ValueError, match=message):
                windows.load_state_dict(state)
        for none in ({"version": 0}, None):
            with pytest.raises(ValueError, match="not a state of token windows, version 1"):
                windows.load_state_dict(none)

    def test_other_text(self, folder):
        texts = corpus(folder, "list")
        reversed_words = [texts[0], *(text[::-1] for text in texts[1:-1]), texts[-1]]
        streams = [Dataset.from_dict({"text": part}).to_iterable_dataset() for part in (texts, texts[:100])]
        cases = [(texts, reversed_words, False), (texts, reversed_words, "windows"), (*streams, False)]
        for one, other, shuffle in cases:
            resumed = TokenWindows(other, TOKENIZER, 64, shuffle=shuffle).dataloader(16)
            resumed.load_state_dict(some(TokenWindows(one, TOKENIZER, 64, shuffle=shuffle).dataloader(16), 30)[1])
            with pytest.raises(ValueError, match="has different text at the saved position"):
                next(iter(resumed))


def many_windows(folder):
    return TokenWindows(corpus(folder, "streaming"), TOKENIZER, 32, 8, shuffle=True, num_streams=2)


def write_batches(folder, out):
    os.setsid()  # to be killed together with the workers
    loader = many_windows(folder).dataloader(4, num_workers=2)
    with open(out / "batches", "w", encoding="utf-8") as file:
        for n, batch in enumerate(loader):
            file.write(json.dumps(plain([batch])[0]) + "\n")
            file.flush()
            (out / "checkpoint.tmp").write_text(json.dumps({"batches": n + 1, "state": loader.state_dict()}))
            os.replace(out / "checkpoint.tmp", out / "checkpoint.json")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_sigkill_in_mid_epoch(folder, tmp_path):
    def lines():
        place = tmp_path / "batches"
        return place.read_text(encoding="utf-8").splitlines() if place.exists() else []

    process = multiprocessing.get_context("spawn").Process(target=write_batches, args=(folder, tmp_path))
    process.start()
    while len(lines()) <= 50:
        assert process.is_alive()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    checkpoint = json.loads((tmp_path / "checkpoint.json").read_text())
    wanted = plain(many_windows(folder).dataloader(4))
    resumed = many_windows(folder).dataloader(4)
    seen = [list(map(tuple, json.loads(line))) for line in lines()[: checkpoint["batches"]]]
    resumed.load_state_dict(checkpoint["state"])
    assert seen + plain(resumed) == wanted and 50 <= len(seen) < len(wanted)


def as_stream(texts):
    return Dataset.from_dict({"text": texts}).to_iterable_dataset(num_shards=2)


@pytest.mark.parametrize(
    ("opened", "options"),
    [
        (as_stream, {"num_streams": 2, "shuffle": True}),
        (list, {"shuffle": True, "packing": "document"}),
        (lambda texts: Dataset.from_dict({"text": texts}), {"shuffle": "windows"}),
        (lambda texts: [as_stream(texts), words(50)], {"weights": [2, 1], "stopping_strategy": "all_exhausted"}),
    ],
)
def test_storing_resumes_only_with_the_same_text(tmp_path, monkeypatch, opened, options):
    """One word of a row far before the saved position is edited."""
    write, documents, output = stored_windows._write_arrow, words(1400), tmp_path / "out"

    def store(texts, n_files=10_000):
        def write_or_stop(table, to):
            if int(to.stem.split("-")[1]) >= n_files:
                raise KeyboardInterrupt
            write(table, to)

        monkeypatch.setattr(stored_windows, "_write_arrow", write_or_stop)
        return TokenWindows(opened(texts), TOKENIZER, 16, **options).to_dataset(output)

    monkeypatch.setattr(stored_windows, "FILE_BYTES", 2**14)
    wanted = TokenWindows(opened(documents), TOKENIZER, 16, **options).to_dataset()
    n_files = -(-len(wanted) // 128)
    for stop in (n_files // 2, n_files - 2):
        with pytest.raises(KeyboardInterrupt):
            store(documents, stop)
        assert not output.exists()
    for row in (100, 101):
        edited = [text + " edited" if i == row else text for i, text in enumerate(documents)]
        with pytest.raises(ValueError, match=r"text has changed|different text"):
            store(edited)
    assert store(documents)[:] == wanted[:]


@pytest.mark.parametrize("tail", ["pad", "drop"])
def test_a_packer_from_every_position(tail):
    """Work resumes at the documents after any take, also if a padded window fills a batch."""
    for total, length, n in itertools.product(range(2, 30, 3), (3, 8), (1, 3)):
        for stride in range(1, length + 1):
            spec = WindowSpec(max_length=length, stride=stride, packing="stream", tail=tail, separator=0)

            def packer(first, position, spec=spec, total=total):
                packer = Packer(spec, position)
                for start in range(first, total, 7):
                    ids = np.arange(start, min(start + 7, total), dtype=np.int32)
                    packer.push(ids, np.array([0, len(ids)]), {"tokens": start, "documents": start // 7})
                return packer

            going = packer(0, None)
            while len(going.take(n, final=True)) == n and not going.ended:
                resumed = packer(going.cursor()["tokens"], going.position)
                assert resumed.take(99, final=True).tolist() == copy.deepcopy(going).take(99, final=True).tolist()
