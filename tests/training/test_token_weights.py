"""Pooling by token weights: the same vectors from every way in, and weights that are those of the counts."""

import copy
import json

import numpy as np
import pytest
import torch
from command import run
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import new_model
from transformers import AutoModel, AutoTokenizer

from gpt_embeddings import save_folder
from gpt_embeddings.training.token_weights import fit_token_weights
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM, GPTEmbeddingsModel


def make_model(**fields) -> GPTEmbeddingsModel:
    model = new_model(**{"vocab_size": 30, "n_positions": 6, **fields})
    model.set_token_weights(torch.rand(30))
    return model


def by_definition(model, document, overflow="truncate") -> torch.Tensor:
    """Weighted mean of the vectors of a document, one after the other."""
    n_positions = model.config.n_positions
    if overflow == "truncate":
        document = document[:n_positions]
    total, weight = torch.zeros(model.config.n_embd), 0.0
    for i, token in enumerate(document):
        position = torch.tensor([[i % n_positions]])
        vector = model(torch.tensor([[token]]), position_ids=position).last_hidden_state[0, 0]
        total += model.token_weights[token] * vector
        weight += float(model.token_weights[token])
    return total / weight if weight else total


DOCUMENTS = st.lists(st.lists(st.integers(0, 29), max_size=15), min_size=1, max_size=5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position_embedding_type": "none"},
        {"position_embedding_type": "sinusoidal", "token_scale": 2.5},
        {"position_offset": 2, "word_embed_proj_dim": 5},
    ],
    ids=["learned", "none", "sinusoidal", "opt"],
)
@settings(max_examples=25, deadline=None)
@given(documents=DOCUMENTS, overflow=st.sampled_from(["truncate", "windows"]))
def test_bags_and_forward_agree(options, documents, overflow):
    model = make_model(**options)
    with torch.no_grad():
        expected = torch.stack([by_definition(model, document, overflow) for document in documents])
        ids = np.concatenate([np.array(document, np.int64) for document in documents])
        offsets = np.cumsum([0, *map(len, documents)])
        torch.testing.assert_close(model.embed_bags(ids, offsets, overflow), expected)
        if overflow == "truncate":
            padded = torch.zeros(len(documents), 6, dtype=torch.long)
            mask = torch.zeros_like(padded)
            for row, document in enumerate(documents):
                kept = torch.tensor(document[:6], dtype=torch.long)
                padded[row, : len(kept)], mask[row, : len(kept)] = kept, 1
            pooled = model(padded, attention_mask=mask).pooler_output
            torch.testing.assert_close(pooled, expected)


def test_saved_with_the_checkpoint(tmp_path):
    """Weights that are missing there are one."""
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.config.pooling == "weighted"
    assert torch.equal(loaded.token_weights, model.token_weights)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(ids).pooler_output, model(ids).pooler_output)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    torch.testing.assert_close(half(ids).pooler_output.float(), model(ids).pooler_output, rtol=0.02, atol=1e-3)
    head = GPTEmbeddingsForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(head.transformer.token_weights, model.token_weights)
    copied = copy.deepcopy(model)
    assert torch.equal(copied.embed_bags([1, 2], [0, 2]), model.embed_bags([1, 2], [0, 2]))
    new_model(vocab_size=30).save_pretrained(tmp_path / "none")
    assert (GPTEmbeddingsModel.from_pretrained(tmp_path / "none", pooling="weighted").token_weights == 1).all()


def test_resized():
    model = make_model()
    before = model.token_weights.clone()
    model.resize_token_embeddings(35)
    assert torch.equal(model.token_weights, torch.cat([before, torch.ones(5)]))
    model.resize_token_embeddings(20)
    assert torch.equal(model.token_weights, before[:20])
    assert model.embed_bags([19], [0, 1]).shape == (1, 8)


def test_gradients_are_sparse_too():
    sparse, dense = make_model(), make_model()
    sparse.wte.sparse = True
    for model in (sparse, dense):
        model.embed_bags([3, 5, 3], [0, 2, 3]).square().sum().backward()
    gradient = sparse.wte.weight.grad.coalesce()
    assert gradient.indices().flatten().tolist() == [3, 5]
    torch.testing.assert_close(gradient.to_dense(), dense.wte.weight.grad)


def test_fitted_by_hand(gpt2_tokenizer):
    model = new_model(position_embedding_type="none")
    dataset = Dataset.from_dict({"text": ["The cat sat", None, "The cat", ""]})  # 464 3797 3332, 464 3797
    for corpus in (dataset, dataset.to_iterable_dataset()):
        counts = fit_token_weights(model, gpt2_tokenizer, corpus, a=0.1, batch_size=1)
        assert {i: int(counts[i]) for i in counts.nonzero()[0]} == {464: 2, 3797: 2, 3332: 1}
        expected = torch.ones(50257)
        expected[[464, 3797, 3332]] = torch.tensor([0.1 / 0.5, 0.1 / 0.5, 0.1 / 0.3])
        torch.testing.assert_close(model.token_weights, expected)


def test_the_published_files_say_how_tokens_are_pooled(gpt2_tokenizer, tmp_path):
    """Those of a model that was published with mean pooling before."""
    model = new_model()
    fit_token_weights(model, gpt2_tokenizer, Dataset.from_dict({"text": ["The cat sat on the mat"]}))
    for pooling in ("mean", "weighted"):
        model.config.pooling = pooling
        save_folder(tmp_path, model, gpt2_tokenizer)
        assert (tmp_path / "1_Pooling" / "config.json").exists() == (pooling == "mean")
    assert [module["type"] for module in json.loads((tmp_path / "modules.json").read_text())] == [
        "sentence_transformers.base.modules.transformer.Transformer"
    ]
    card = (tmp_path / "README.md").read_text()
    assert "| Pooling (`pooling`) | weighted, by `token_weights` |\n| Parameters |" in card
    assert "# weighted pooling: (2, 8)" in card


@pytest.mark.slow
def test_command(gpt2_tokenizer, tmp_path):
    new_model(position_embedding_type="none").save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("The cat sat\n\nThe cat")
    result = run(
        "train", "weights", tmp_path / "model", tmp_path / "text.txt", "--a", 0.1, "--output", tmp_path / "out"
    )
    assert "Data: text.txt; 5 tokens, 3 distinct ones" in result.stdout
    before, after = (GPTEmbeddingsModel.from_pretrained(tmp_path / name) for name in ("model", "out"))
    assert torch.equal(before.wte.weight, after.wte.weight)
    torch.testing.assert_close(after.token_weights[[464, 3332, 0]], torch.tensor([0.1 / 0.5, 0.1 / 0.3, 1.0]))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 50257


def test_bad_weights():
    for call, message in (
        (lambda model: model.embed_bags([1], [0, 1], pooling="weighted"), "no token weights to pool by"),
        (lambda model: model.embed_bags([1], [0, 1], pooling="max"), "`pooling` must be 'mean' or 'weighted', got 'm"),
        (lambda model: model.set_token_weights(torch.ones(3)), r"`weights` must be of shape \(30,\)"),
        (lambda model: model.set_token_weights(-torch.ones(30)), "not negative"),
        (lambda model: model.set_token_weights([float("nan")] * 30), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call(new_model(vocab_size=30))


def test_bad_corpora(gpt2_tokenizer):
    for texts, options, message in (
        (["", ""], {}, "no token to count"),
        (["a"], {"column": "body"}, "no column 'body'; the columns are text"),
        (["a"], {"a": 0}, "`a` must be above 0"),
        (["The cat"], {"model": make_model()}, "`vocab_size` 30"),
    ):
        options = {"model": new_model(), "tokenizer": gpt2_tokenizer, **options}
        with pytest.raises(ValueError, match=message):
            fit_token_weights(dataset=Dataset.from_dict({"text": texts}), **options)
