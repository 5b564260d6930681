"""Checkpoints with int8 rows: what is loaded against numpy's own arithmetic, by every loader, and broken ones."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny import new_model
from transformers import AutoModel

from gpt_embeddings import GPTEmbeddingsForCausalLM, GPTEmbeddingsModel
from gpt_embeddings.checkpoints.saving import save_int8


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with a row of zeros and a large one, and the folder that it is saved to."""
    model = new_model(vocab_size=50, n_embd=16)
    with torch.no_grad():
        model.wte.weight[7], model.wte.weight[8] = 0, 1e6 * model.wte.weight[8]
    folder = tmp_path_factory.mktemp("int8")
    before = model.wte.weight.clone()
    error = save_int8(model, folder)
    assert torch.equal(model.wte.weight, before) and model.config.wte_storage == "float"
    assert 0.001 < error < 1.001 / 254
    stored = load_file(folder / "model.safetensors")
    assert {name: (t.dtype.name, t.shape) for name, t in stored.items()} == {
        "wte.weight": ("int8", (50, 16)),
        "wte_scale": ("float32", (50,)),
        "wpe.weight": ("float32", (16, 16)),
    }
    assert json.loads((folder / "config.json").read_text())["wte_storage"] == "int8"
    return model, folder


def expected(model):
    table = model.wte.weight.detach().numpy()
    scale = np.abs(table).max(1, keepdims=True) / np.float32(127)
    return np.rint(np.divide(table, scale, where=scale > 0, out=np.zeros_like(table))) * scale


@pytest.mark.parametrize("load", [GPTEmbeddingsModel.from_pretrained, AutoModel.from_pretrained])
def test_loaded_is_a_plain_table(saved, load, tmp_path):
    model, folder = saved
    loaded, report = load(folder, output_loading_info=True)
    assert not any(report.values()) and not loaded.training and loaded.wte.weight.dtype == torch.float32
    np.testing.assert_array_equal(loaded.wte.weight.detach(), expected(model))
    assert torch.equal(loaded.wpe.weight, model.wpe.weight)
    assert list(loaded.state_dict()) == list(model.state_dict())
    loaded.save_pretrained(tmp_path)  # as any other, trained on or not
    assert load_file(tmp_path / "model.safetensors")["wte.weight"].dtype == np.float32
    assert torch.equal(load(tmp_path).wte.weight, loaded.wte.weight)
    save_int8(loaded, tmp_path)  # nothing is lost a second time
    assert torch.equal(load(tmp_path).wte.weight, loaded.wte.weight)


def test_other_dtypes_and_the_head(saved):
    model, folder = saved
    half = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert torch.equal(half.wte.weight, torch.from_numpy(expected(model)).bfloat16())
    head = GPTEmbeddingsForCausalLM.from_pretrained(folder)
    assert head.lm_head.weight is head.transformer.wte.weight
    np.testing.assert_array_equal(head.lm_head.weight.detach(), expected(model))


def test_broken_ones_are_refused(saved, tmp_path):
    for change, message in (
        ({"wte_scale": None}, "lacks `wte_scale`"),
        ({"wte_scale": np.full(50, np.nan, np.float32)}, "not finite"),
        ({"wte_scale": np.full(50, -1, np.float32)}, "below 0"),
        ({"wte_scale": np.ones(49, np.float32)}, "(?s)size|shape|mismatch"),
        ({"wte.weight": np.full((50, 16), 0.5, np.float32)}, "other values"),
        ({"wte.weight": np.full((50, 16), -128, np.int8)}, "other values"),
    ):
        _, folder = saved
        stored = {
            name: t for name, t in {**load_file(folder / "model.safetensors"), **change}.items() if t is not None
        }
        save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        with pytest.raises((ValueError, RuntimeError), match=message):
            GPTEmbeddingsModel.from_pretrained(tmp_path)


def test_what_cannot_be_saved(tmp_path):
    head = new_model(GPTEmbeddingsForCausalLM, vocab_size=5)
    with pytest.raises(TypeError, match="GPTEmbeddingsForCausalLM"):
        save_int8(head, tmp_path)
    with torch.no_grad():
        head.transformer.wte.weight[1, 1] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        save_int8(head.transformer, tmp_path)
    assert not list(tmp_path.iterdir())
