"""A model and its tokenizer by name: every kind of folder, and what is wrong with one."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import new_gpt, new_model
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from gpt_embeddings import Embedder, from_gpt, from_static
from gpt_embeddings.bundled import ENGLISH, PORTUGUESE
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM, GPTEmbeddingsModel


KINDS = [GPTEmbeddingsModel, GPTEmbeddingsForCausalLM]


@pytest.fixture
def folder(tmp_path, gpt2_tokenizer):
    """A saved model with a head of its own."""
    new_model(GPTEmbeddingsForCausalLM, n_positions=8, tie_word_embeddings=False).save_pretrained(tmp_path)
    gpt2_tokenizer.save_pretrained(tmp_path)
    return tmp_path


def load(name, model_class=GPTEmbeddingsModel):
    return load_model_and_tokenizer(str(name), None, model_class)[0]


def test_each_way_gives_its_class_quietly(folder, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tables = load_file(folder / "model.safetensors")
    for kind in KINDS:
        model = load(folder, kind)
        assert type(model) is kind and not model.training
        assert torch.equal(model.base_model.wpe.weight, tables["transformer.wpe.weight"])
    assert not caplog.records  # the head, which the base leaves out, is no news


@pytest.mark.parametrize("missing", ["transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"])
def test_weights_that_are_missing(folder, missing):
    tables = load_file(folder / "model.safetensors")
    del tables[missing]
    save_file(tables, folder / "model.safetensors", metadata={"format": "pt"})
    kind = GPTEmbeddingsForCausalLM if missing == "lm_head.weight" else GPTEmbeddingsModel
    with pytest.raises(ValueError, match=f"lacks {missing.removeprefix('transformer.')}, which must not be random"):
        load(folder, kind)


def test_a_tied_head_needs_no_weights_of_its_own(tmp_path):
    new_model().save_pretrained(tmp_path)
    head = load(tmp_path, GPTEmbeddingsForCausalLM)
    assert head.lm_head.weight is head.transformer.wte.weight


def test_a_gpt_checkpoint_is_taken_for_its_input_stage(tmp_path, small_tokenizer):
    gpt = new_gpt(vocab_size=500, n_positions=8)
    gpt.save_pretrained(tmp_path)
    small_tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_model_and_tokenizer(str(tmp_path))
    assert torch.equal(model.wte.weight, gpt.transformer.wte.weight)
    assert tokenizer("tide").input_ids == small_tokenizer("tide").input_ids and tokenizer.model_max_length == 8
    with pytest.raises(ValueError, match="holds a model of type 'gpt2', not 'gpt_embeddings'"):
        load(tmp_path, GPTEmbeddingsForCausalLM)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_model(kind, tmp_path):
    with pytest.raises(OSError, match=r"No model at 'nobody/nothing'"):
        load("nobody/nothing", kind)
    for file, content, error, message in (
        (None, None, OSError, r"No model at .* no config\.json\. Give a folder that `save_pretrained` wrote"),
        ("config.json", '{"model_type": "gpt_embeddings", "n_embd": 4}', OSError, r"No model at .*model\.safetensors"),
        ("model.safetensors", "12345678", ValueError, "is broken"),
    ):
        if file is not None:
            (tmp_path / file).write_text(content)
        with pytest.raises(error, match=message):
            load(tmp_path, kind)


def test_which_tokenizer(folder, tmp_path):
    """The one that is named, else the model's own, else GPT-2's."""
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"tide": 0})))
    other.save_pretrained(tmp_path / "other")
    load(folder).save_pretrained(tmp_path / "bare")
    for name, tokenizer, size in (
        (folder, None, 50_257),
        (tmp_path / "bare", None, 50_257),
        (folder, tmp_path / "other", 1),
        (folder, "gpt2", 50_257),
    ):
        found = load_model_and_tokenizer(str(name), tokenizer and str(tokenizer))[1]
        assert len(found) == size and found.model_max_length == 8


def test_a_name_like_that_of_a_bundled_table_is_not_guessed():
    for read in (load, Embedder.from_pretrained, from_gpt, from_static):
        with pytest.raises(OSError, match=rf"'portuguese'.*The bundled tables are {ENGLISH} and {PORTUGUESE}\."):
            read("portuguese")
    with pytest.raises(OSError, match="nobody/portuguese") as error:
        load("nobody/portuguese")
    assert "bundled" not in str(error.value)
