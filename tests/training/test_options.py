"""The options of training: declared once, checked when they are made, shown by the command line."""

import json
from dataclasses import asdict, fields

import numpy as np
import pytest
from command import run

from gpt_embeddings.training.options import ClmOptions, ContrastiveOptions, DistilOptions


def test_bad_values():
    for kind, options, message in (
        (ClmOptions, {"epochs": 0}, "`epochs` must be above 0 and finite, got 0.0"),
        (ClmOptions, {"learning_rate": float("nan")}, "`learning_rate` must be above 0 and finite, got nan"),
        (ClmOptions, {"seed": -1}, "`seed` must be at least 0, got -1"),
        (DistilOptions, {"n_embd": 0}, "`n_embd` must be at least 1"),
        (DistilOptions, {"phrases": -1}, "`phrases` must be at least 0"),
        (DistilOptions, {"positions": "sinusoidal"}, "`positions` must be 'none' or 'learned', got 'sinusoidal'"),
        (DistilOptions, {"epochs": 0}, "`epochs` must be at least 1"),
        (ContrastiveOptions, {"batch_size": 1}, "`batch_size` must be at least 2, got 1"),
        (ContrastiveOptions, {"batch_size": 2.5}, "`batch_size` must be an integer, got 2.5"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            kind(**options)


def test_numbers_of_numpy():
    options = ClmOptions(max_length=np.int64(64), epochs=np.float32(2), learning_rate=1)
    assert json.loads(json.dumps(asdict(options))) == asdict(ClmOptions(max_length=64, epochs=2.0, learning_rate=1.0))


@pytest.mark.parametrize("kind", [ClmOptions, ContrastiveOptions, DistilOptions])
def test_help_shows_them(kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = kind.__name__.removesuffix("Options").lower()
    shown = " ".join(run("train", command, "--help").stdout.replace("│", " ").split())
    for option in fields(kind):
        assert f"--{option.name.replace('_', '-')} " in shown
        said = " ".join(option.metadata["help"].replace("`", "").split())  # help is rendered as markdown
        assert f"{said} [default: {option.default}]" in shown
