import math
import runpy
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from command import ROOT, STORY
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import new_model

from gpt_embeddings.training import bigrams as module
from gpt_embeddings.training.bigrams import BigramCounts
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM


def entropy(pairs) -> float:
    """By the definition, in plain Python."""
    joint, alone = Counter(pairs), Counter(context for context, _ in pairs)
    return -sum(n * math.log(n / alone[context]) for (context, _), n in joint.items()) / len(pairs)


BATCHES = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from([-100, 0, 1, 2, 3, 4])), max_size=20),
    max_size=8,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(batches=BATCHES, buffer=st.sampled_from([1, 4, 1000]))
def test_any_batches(batches, buffer):
    plain, placed = BigramCounts(5), BigramCounts(5, 4)
    previous, module.BUFFER_PAIRS = module.BUFFER_PAIRS, buffer
    try:
        for batch in batches:
            p, x, y = np.array(batch, np.int32).reshape(-1, 3).T
            plain.add(x, y)
            placed.add(x, y, p)
    finally:
        module.BUFFER_PAIRS = previous
    rows = [row for batch in batches for row in batch if row[2] != -100]
    assert plain.n_pairs == placed.n_pairs == len(rows)
    if rows:
        assert plain.bound() == pytest.approx(entropy([(x, y) for _, x, y in rows]), abs=1e-12)
        assert placed.bound() == pytest.approx(entropy([((p, x), y) for p, x, y in rows]), abs=1e-12)
        assert placed.bound() <= plain.bound() + 1e-12


def test_bad_input():
    for call, message in (
        (lambda: BigramCounts(0), "`vocab_size` must be an integer of at least 1, got 0"),
        (lambda: BigramCounts(2**24, 2**24), "63 bits"),
        (lambda: BigramCounts(3).add([3], [0]), "`input_ids` must lie from 0 to 2, got 3"),
        (lambda: BigramCounts(3).add([0], [-1]), "`target_ids` must lie from 0 to 2, got -1"),
        (lambda: BigramCounts(3, 1).add([0, 1], [1, 0]), "`position_ids` must lie from 0 to 0, got 1"),
        (lambda: BigramCounts(3).add([0, 1], [1]), "must agree"),
        (lambda: BigramCounts(3).bound(), "at least 2 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "learned"])
def test_training_reaches_the_bound(kind):
    """An untied model as wide as its vocabulary learns every bigram: to within 1 %, and never below."""
    characters, ids = np.unique(np.frombuffer(STORY.read_bytes(), np.uint8), return_inverse=True)
    size, ids = len(characters), torch.from_numpy(ids[: 48 * 64 + 1].astype(np.int64))
    inputs, targets = ids[:-1].view(48, 64), ids[1:].view(48, 64)
    plain, placed = BigramCounts(size), BigramCounts(size, 64)
    for counts in (plain, placed):
        counts.add(inputs, targets)
    options = {"embd_pdrop": 0.0, "tie_word_embeddings": False, "initializer_range": 0.1}
    options |= {"vocab_size": size, "n_positions": 64, "n_embd": size, "position_embedding_type": kind}
    model = new_model(GPTEmbeddingsForCausalLM, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 200)
    loss = math.inf
    for _ in range(200):
        latest = model(inputs, shift_labels=targets).loss
        optimizer.zero_grad()
        latest.backward()
        optimizer.step()
        schedule.step()
        loss = min(loss, latest.item())
    if kind == "none":
        assert plain.bound() - 1e-5 <= loss <= 1.01 * plain.bound()
    else:  # positions are added, not crossed with tokens: below the bigrams, above the table of both
        assert placed.bound() < loss < plain.bound()


def test_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bigram_bound.py", str(STORY), "--max-length", "128"])
    runpy.run_path(str(ROOT / "scripts" / "bigram_bound.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "given token " in shown and "given token, position" in shown
