"""The table in the box: that it is the one that was trained, that it is found, and that its vectors mean something."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from gpt_embeddings import Embedder
from gpt_embeddings.checkpoints import shipped
from gpt_embeddings.checkpoints.loading import load_model, load_pair
from gpt_embeddings.checkpoints.shipped import ENGLISH, FOLDER
from gpt_embeddings_cli import app


# A paragraph of each subject, and a question put in other words.
PARAGRAPHS = [
    "The orchestra rehearsed the slow movement until the cellos found the right tone.",
    "Doctors advise washing your hands often, since germs spread by touch.",
    "The river burst its banks after a week of rain, and the village lay under water.",
    "He kneaded the dough, let it rise overnight and baked two loaves at dawn.",
    "Parliament voted to raise taxes on fuel from January.",
]
QUESTIONS = {
    "What did the musicians practise?": 0,
    "How can I avoid getting ill?": 1,
    "Where did the flood happen?": 2,
    "How was the bread made?": 3,
    "What did the politicians decide about petrol?": 4,
}


def test_it_is_its_int8_rows_and_positions():
    stored, model = load_file(FOLDER / "model.safetensors"), load_model()
    assert stored["wte.weight"].dtype == torch.int8 and stored["wte.weight"].shape == (50_257, 256)
    assert torch.equal(model.wte.weight, stored["wte.weight"] * stored["wte_scale"].unsqueeze(1))
    assert torch.equal(model.wpe.weight, stored["wpe.weight"])
    assert not model.training


def test_it_is_small():
    assert (FOLDER / "model.safetensors").stat().st_size < 14.2e6  # 12 MB in a wheel, which is compressed


@pytest.mark.parametrize("name", [None, ENGLISH])
def test_by_name(name):
    model, tokenizer = load_pair(name)
    assert torch.equal(model.wte.weight, load_model().wte.weight)
    assert len(tokenizer) == 50_257 and tokenizer.model_max_length == 1024


@pytest.mark.parametrize("dim", [None, 128, 64])
def test_a_question_finds_its_paragraph(dim):
    embedder = Embedder.from_pretrained(truncate_dim=dim, normalize=True)
    scores = embedder.encode(list(QUESTIONS)) @ embedder.encode(PARAGRAPHS).T
    assert scores.argmax(1).tolist() == list(QUESTIONS.values())


def test_long_documents_keep_their_subject():
    """Positions past those of the sentences that it learned from must not outweigh the tokens."""
    embedder = Embedder.from_pretrained(normalize=True)
    long = embedder.encode([" ".join([text] * 12) for text in PARAGRAPHS])  # some 200 tokens each
    scores = long @ embedder.encode(PARAGRAPHS).T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3, 4]
    others = scores[~np.eye(5, dtype=bool)]
    assert scores.diagonal().min() > 0.8 and others.max() < 0.4


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_damage_is_told_with_how_to_mend_it(damage, monkeypatch, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "english")
    weights = tmp_path / "english" / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "english")
    with pytest.raises(OSError, match=r"missing or damaged: .*pip install --force-reinstall"):
        load_model()
    result = CliRunner().invoke(app, ["embed", __file__, "--output", str(tmp_path / "out")])
    assert result.exit_code == 1 and result.output.startswith("Error: The table that comes with the package is")


def test_a_folder_of_that_name_is_that_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ENGLISH).mkdir()
    with pytest.raises(OSError, match="No model at"):
        load_model(ENGLISH)


def test_the_command_says_whose_vectors_they_are(tmp_path):
    (tmp_path / "notes.txt").write_text("The tide came in.\n")
    for options, words in (((), f"from {ENGLISH}"), (("--fresh",), "The tables are random")):
        out = tmp_path / f"out{len(options)}"
        result = CliRunner().invoke(app, ["embed", str(tmp_path / "notes.txt"), "--output", str(out), *options])
        assert result.exit_code == 0, result.output
        assert words in result.output
    result = CliRunner().invoke(app, ["embed", "x.txt", "--output", "x", "--fresh", "--model", "y"])
    assert result.exit_code == 1 and "not both" in result.output
