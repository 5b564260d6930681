"""Windows in loaders: persistent workers, torchdata, accelerate, several processes, and lengths."""

import copy
import itertools
import json
import os
import pickle
import socket
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, gather_object
from command import ROOT
from datasets import Dataset
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import Trainer, TrainingArguments
from windows_reference import TOKENIZER, Lines, joined, plain, words

import gpt_embeddings.windows.token_windows
from gpt_embeddings import TokenWindows, WindowCollator
from gpt_embeddings.text import encoding


# torchdata 0.11 under torch 2.13
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


@pytest.fixture(autouse=True)
def without_gigatoken(monkeypatch):
    """Its proof takes seconds, and copies of the tokenizer would make it."""
    monkeypatch.setattr(encoding, "find_gigatoken", lambda *arguments: None)


def some_windows(**options):
    dataset = Dataset.from_dict({"text": words(60)})
    return TokenWindows(dataset, TOKENIZER, 8, **{"shuffle": True, "num_streams": 2, **options})


@pytest.mark.slow
def test_the_tokenizer_is_ready_before_workers_are_forked():
    """Else each worker proves its own engine, or may have none: it is refused after a fork."""
    windows = TokenWindows(Dataset.from_dict({"text": words(60)}), copy.deepcopy(TOKENIZER), 8)
    assert encoding.find_backend(windows.corpus.tokenizer, False)._fast is None
    next(iter(windows.dataloader(4, num_workers=1)))
    assert encoding.find_backend(windows.corpus.tokenizer, False)._fast is not None


def test_a_worker_that_is_spawned_gets_each_token_once():
    buffers = [TokenWindows(words(60), TOKENIZER, n, shuffle="windows").corpus.buffers for n in (8, 64)]
    one, other = (len(pickle.dumps(buffer)) for buffer in buffers)
    assert abs(one - other) < 500


class TestPersistentWorkers:
    @pytest.mark.slow
    def test_each_epoch_has_its_order_in_a_plain_loader(self, monkeypatch):
        """Also where threads of `tokenizers` are asked for, and have run in the parent: children must do without."""
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
        TOKENIZER._tokenizer.encode_batch_fast(words(60))

        def epochs(**options):
            original = some_windows()
            windows = copy.deepcopy(original)
            loader = DataLoader(windows, batch_size=4, num_workers=2, **options)
            found = []
            for epoch in (0, 1, 2):
                windows.set_epoch(epoch)
                found.append(plain(loader))
            assert (original.epoch, windows.epoch) == (0, 2)
            return found

        living = epochs(persistent_workers=True)
        assert living[0] != living[1] != living[2]
        assert living == epochs()
        # torch's loader gives other batches with another number of workers
        assert living[0] != plain(DataLoader(some_windows(), batch_size=4))

    @pytest.mark.slow
    def test_each_epoch_has_its_order_in_our_loader_and_a_state_reaches_its_living_workers(self):
        alone = some_windows().dataloader(4)
        wanted = [plain(alone) for _ in range(3)]
        sent = pickle.loads(pickle.dumps(some_windows()))  # as to a process that is spawned
        loader = sent.dataloader(4, num_workers=2, persistent_workers=True)
        assert [plain(loader) for _ in range(2)] == wanted[:2]
        next(iter(loader))  # broken off: the epoch begins again
        assert plain(loader) == wanted[2]
        loader.set_epoch(0)
        iterator = iter(loader)
        assert plain(itertools.islice(iterator, 5)) == wanted[0][:5]
        state = json.loads(json.dumps(loader.state_dict()))
        assert plain(iterator) == wanted[0][5:]
        loader.load_state_dict(state)
        assert [plain(loader), plain(loader)] == [wanted[0][5:], wanted[1]]

    @pytest.mark.slow
    def test_a_plain_loader_says_that_a_state_cannot_reach_living_workers(self):
        windows = some_windows()
        state = windows.state_dict()
        loader = DataLoader(windows, batch_size=4, num_workers=2, persistent_workers=True)
        list(loader)
        windows.load_state_dict(state)
        with pytest.raises(RuntimeError, match=r"Load it before the first iteration, make a new loader"):
            list(loader)
        again, fresh = (DataLoader(each, batch_size=4, num_workers=2) for each in (windows, some_windows()))
        assert plain(again) == plain(fresh)


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "set_epoch"), [(0, "before"), (2, "never")])
def test_a_stateful_loader_goes_on_in_the_epoch_and_at_its_end_with_the_next(num_workers, set_epoch):
    def loader():
        windows = some_windows()
        return windows, StatefulDataLoader(windows, batch_size=4, num_workers=num_workers)

    windows, whole = loader()
    first = plain(whole)
    windows.set_epoch(1)
    second = plain(whole)
    assert sorted(joined(first)) == sorted(joined(plain(some_windows().dataloader(4))))
    for n in (1, len(first) - 1, None):
        _, stopped = loader()
        assert plain(itertools.islice(stopped, n)) == first[:n]
        windows, resumed = loader()
        if n is None and set_epoch == "before":
            windows.set_epoch(1)
        resumed.load_state_dict(stopped.state_dict())
        assert plain(resumed) == (first[n:] if n else second) != first


class TestAccelerate:
    @pytest.fixture(autouse=True)
    def reset(self):
        yield
        AcceleratorState._reset_state(reset_partial_state=True)

    @pytest.mark.parametrize(
        ("dispatch", "split", "num_workers"), [(None, False, 2), (None, True, 0), (False, False, 0), (False, True, 0)]
    )
    def test_a_prepared_loader_gives_the_same_batches(self, dispatch, split, num_workers):
        config = DataLoaderConfiguration(dispatch_batches=dispatch, split_batches=split)
        loader = some_windows().dataloader(4, num_workers=num_workers, persistent_workers=num_workers > 0)
        prepared = Accelerator(cpu=True, dataloader_config=config).prepare(loader)
        alone = some_windows().dataloader(4)
        assert len(prepared) == len(alone)
        assert [plain(prepared) for _ in range(3)] == [plain(alone) for _ in range(3)]

    @pytest.mark.parametrize("ours", [True, False])
    def test_a_state_of_a_stateful_loader_is_exact(self, ours):
        config = DataLoaderConfiguration(use_stateful_dataloader=True)
        accelerator = Accelerator(cpu=True, dataloader_config=config)

        def loader():
            windows = some_windows(num_streams=1)
            return accelerator.prepare(windows.dataloader(4) if ours else DataLoader(windows, batch_size=4))

        whole = loader()
        epochs = [plain(whole) for _ in range(3)]
        for n in (1, len(epochs[0]) - 1, None) if ours else (None,):
            stopped, resumed = loader(), loader()
            assert plain(itertools.islice(stopped, n)) == epochs[0][:n]
            resumed.load_state_dict(stopped.state_dict())
            if n is None:
                resumed.set_epoch(1)
            assert [plain(resumed), plain(resumed)] == ([epochs[0][n:], epochs[1]] if n else epochs[1:])

    def test_a_state_of_a_later_epoch_is_not_lost(self):
        loader = some_windows().dataloader(4)
        list(loader)
        seen = plain(itertools.islice(loader, 3))
        resumed = some_windows().dataloader(4)
        resumed.load_state_dict(loader.state_dict())
        prepared = Accelerator(cpu=True).prepare(resumed)
        with pytest.raises(ValueError, match=r"A state of epoch 1 was loaded.*Call its `set_epoch\(1\)` first"):
            next(iter(prepared))
        prepared.set_epoch(1)
        whole = some_windows()
        whole.set_epoch(1)
        assert seen + plain(prepared) == plain(whole.dataloader(4))

    def test_workers_around_workers(self):
        loader = DataLoader(some_windows().dataloader(4).dataset, batch_size=None, num_workers=1)
        with pytest.raises(ValueError, match=r"their own workers: use `windows.dataloader\(num_workers=...\)`"):
            list(loader)


def share(rank, store):
    """What each of two processes does, as under `torchrun --nproc-per-node 2`."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GLOO_SOCKET_IFNAME": loopback}
    os.environ.update({name: str(value) for name, value in group.items()})
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)

    def rows(loader):
        return [tuple(row) for batch in loader for row in batch["input_ids"].tolist()]

    def loader(drop_last, **options):
        return TokenWindows(words(60), TOKENIZER, 8, shuffle=True, **options).dataloader(4, drop_last=drop_last)

    for options in ({"num_streams": 1, "drop_last": False}, {"num_streams": 3, "drop_last": True}):
        wanted = rows(loader(**options))
        for dispatch, split in itertools.product((None, False), (False, True)):
            AcceleratorState._reset_state(reset_partial_state=True)
            config = DataLoaderConfiguration(dispatch_batches=dispatch, split_batches=split)
            accelerator = Accelerator(cpu=True, dataloader_config=config)
            own = rows(accelerator.prepare(loader(**options)))
            found = gather_object(own)
            # accelerate fills the last batch up from the first one
            assert set(found) == set(wanted) and len(own) < len(wanted) <= len(found) < len(wanted) + 8, options
    for options, message in (
        ({"num_streams": 3}, "use `drop_last=True`"),
        ({"rank": 0, "world_size": 2}, "leave out `rank`"),
    ):
        with pytest.raises(ValueError, match=message):
            next(iter(accelerator.prepare(loader(False, **options))))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_what_accelerate_prepares(tmp_path):
    # Not forks: a process that has imported torch has threads, whose locks a fork copies as they are.
    torch.multiprocessing.spawn(share, args=((tmp_path / "store").as_uri(),), nprocs=2)


@pytest.mark.slow
class TestLength:
    @pytest.mark.parametrize("options", [{}, {"shuffle": "windows"}, {"packing": "document", "num_streams": 3}])
    def test_is_that_of_each_epoch(self, options):
        for corpus, drop_last in ((words(60), True), (Dataset.from_dict({"text": words(60)}), False)):
            windows = TokenWindows(corpus, TOKENIZER, 8, 5, **options)
            loader = windows.dataloader(4, drop_last=drop_last)
            for _ in range(2):
                assert len(loader) == len(list(loader)) and len(windows) == len(list(windows))

    def test_is_known_after_a_count(self, monkeypatch):
        stream = Dataset.from_dict({"text": words(60)}).to_iterable_dataset(num_shards=2)
        monkeypatch.setattr(gpt_embeddings.windows.token_windows, "COUNTED_BYTES", 1000)
        for corpus in (stream, words(60), Dataset.from_dict({"text": words(60)}), Lines(words(60))):
            windows = TokenWindows(corpus, TOKENIZER, 8)
            for sized in (windows, windows.dataloader(4)):
                with pytest.raises(TypeError, match=r"call `count\(\)`, which reads it.*Trainer does without"):
                    len(sized)
            assert windows
            assert windows.count().windows == len(windows)
            assert len(windows.dataloader(4)) == -(-len(windows) // 4)
        few = Dataset.from_dict({"text": words(60)}).select(range(0, 60, 10))  # a small part of a large dataset
        assert len(TokenWindows(few, TOKENIZER, 8)) == len(list(TokenWindows(few, TOKENIZER, 8)))

    @pytest.mark.slow
    @pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": "windows", "num_streams": 1}])
    def test_trainer_without_max_steps(self, tmp_path, options):
        class Model(torch.nn.Linear):
            def forward(self, **inputs):
                return {"loss": self.weight.sum()}

        windows = some_windows(**options)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=2, remove_unused_columns=False, report_to="none", use_cpu=True,
            save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(Model(1, 1), arguments, data_collator=WindowCollator(), train_dataset=windows)
        trainer.train()
        assert trainer.state.global_step == 2 * -(-len(windows) // 8)


PROGRAM = """
from datasets import Dataset, disable_progress_bars
from torch.utils.data import DataLoader
from gpt_embeddings import TokenWindows, load_source, load_tokenizer
from gpt_embeddings.text import encoding
from gpt_embeddings.windows.stored_windows import read_windows

disable_progress_bars()
texts = [f"Row {i} of a file with many rows, each of them as dull as the one before." for i in range(6000)]
rows = Dataset.from_dict({"text": texts})
rows.to_parquet("a.parquet", batch_size=1000)
rows.to_json("a.jsonl")
rows.to_csv("a.csv")
tokenizer = load_tokenizer()
corpora = [load_source([name], streaming=True) for name in ("a.parquet", "a.jsonl", "a.csv")]
corpora += [texts, rows]
every = [TokenWindows(corpus, tokenizer, 8) for corpus in corpora]
encoding.find_gigatoken = lambda *arguments: None  # whose proof takes seconds
for windows in every:
    next(iter(windows))
# The iterators stay alive to the end of the program, as names of a notebook or a script do.
iterators = [iter(windows) for windows in every] + [iter(windows.dataloader(4)) for windows in every]
iterators.append(read_windows(every[3].to_dataset("stored"), 4))
iterators.append(iter(DataLoader(every[0], batch_size=4, num_workers=1)))
iterators.append(iter(every[1].dataloader(4, num_workers=1, persistent_workers=True)))
for iterator in iterators:
    next(iterator)
print("END")
"""


@pytest.mark.slow
def test_nothing_is_printed_if_a_batch_is_taken_and_the_program_ends(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("END\n", "", 0)
