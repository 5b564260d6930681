"""One batch is taken and the program ends: nothing is printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]

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
def test_nothing_is_printed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("END\n", "", 0)
