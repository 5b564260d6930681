"""Windows in the loaders of others: workers that live on, accelerate, and what a length is."""

import copy
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from windows_reference import TOKENIZER, joined, plain, words

from gpt_embeddings import TokenWindows, WindowCollator


ROOT = Path(__file__).parents[2]
STARTS = [name for name in ("fork", "spawn") if name in multiprocessing.get_all_start_methods()]


def some_windows(**options):
    dataset = Dataset.from_dict({"text": words(60)})
    return TokenWindows(dataset, TOKENIZER, 8, **{"shuffle": True, "num_lanes": 2, **options})


def tiny():
    return GPT2Config(n_positions=32, n_embd=4, n_layer=1, n_head=1)


class Watched(GPT2LMHeadModel):
    """A model that keeps the ids it is given."""

    def __init__(self, config):
        super().__init__(config)
        self.seen = []

    def forward(self, input_ids, **inputs):
        self.seen.append(input_ids.tolist())
        return super().forward(input_ids, **inputs)


def train(model, windows, folder, **options):
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=8, remove_unused_columns=False, report_to="none",
        use_cpu=True, save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, **options,
    )  # fmt: skip
    trainer = Trainer(model, arguments, data_collator=WindowCollator(), train_dataset=windows)
    trainer.train()
    return trainer


class TestPersistentWorkers:
    @pytest.mark.slow
    @pytest.mark.parametrize("start", STARTS)
    def test_each_epoch_has_its_order_in_a_plain_loader(self, start):
        def epochs(**options):
            windows = some_windows()
            loader = DataLoader(windows, batch_size=4, num_workers=2, **options)
            found = []
            for epoch in (0, 1, 2):
                windows.set_epoch(epoch)
                found.append(plain(loader))
            return found

        living = epochs(persistent_workers=True, multiprocessing_context=start)
        assert living[0] != living[1] != living[2]
        assert living == epochs()

    @pytest.mark.slow
    @pytest.mark.parametrize("start", STARTS)
    def test_each_epoch_has_its_order_in_our_loader(self, start):
        alone = some_windows().dataloader(4)
        wanted = [plain(alone) for _ in range(3)]
        before = multiprocessing.get_start_method(allow_none=True)
        multiprocessing.set_start_method(start, force=True)
        try:
            loader = some_windows().dataloader(4, num_workers=2, persistent_workers=True)
            assert [plain(loader) for _ in range(2)] == wanted[:2]
            next(iter(loader))  # broken off: the epoch begins again
            assert plain(loader) == wanted[2]
        finally:
            multiprocessing.set_start_method(before, force=True)

    @pytest.mark.slow
    def test_a_state_reaches_our_loader_while_its_workers_live(self):
        alone = some_windows().dataloader(4)
        wanted = [plain(alone) for _ in range(3)]
        loader = some_windows().dataloader(4, num_workers=2, persistent_workers=True)
        iterator = iter(loader)
        for _ in range(5):
            next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
        assert wanted[0][5:] == plain(iterator)
        assert plain(loader) == wanted[1]
        loader.load_state_dict(state)
        assert plain(loader) == wanted[0][5:]
        assert [plain(loader), plain(loader)] == wanted[1:]

    @pytest.mark.slow
    def test_a_plain_loader_says_that_a_state_cannot_reach_living_workers(self):
        windows = some_windows()
        state = windows.state_dict()
        loader = DataLoader(windows, batch_size=4, num_workers=2, persistent_workers=True)
        list(loader)
        windows.load_state_dict(state)
        with pytest.raises(RuntimeError, match=r"Load it before the first iteration, make the loader anew"):
            list(loader)
        again, fresh = (DataLoader(each, batch_size=4, num_workers=2) for each in (windows, some_windows()))
        assert plain(again) == plain(fresh)

    @pytest.mark.slow
    def test_a_copy_has_an_epoch_of_its_own(self):
        windows = some_windows()
        other = copy.deepcopy(windows)
        other.set_epoch(1)
        assert (windows.epoch, other.epoch) == (0, 1)
        loader = DataLoader(other, batch_size=4, num_workers=2, persistent_workers=True)
        first = plain(loader)
        other.set_epoch(2)
        assert plain(loader) != first

    def test_without_workers(self):
        with pytest.raises(ValueError, match="there are no workers to live on"):
            some_windows().dataloader(persistent_workers=True)

    @pytest.mark.slow
    def test_under_trainer(self, tmp_path):
        def steps(**options):
            model = Watched(tiny())
            train(model, some_windows(), tmp_path, max_steps=70, dataloader_num_workers=2, **options)
            return model.seen

        living = steps(dataloader_persistent_workers=True)
        assert len(living) == 70 and living == steps()
        n_batches = len(list(DataLoader(some_windows(), batch_size=8, num_workers=2)))
        assert n_batches < 35 and living[:n_batches] != living[n_batches : 2 * n_batches]
