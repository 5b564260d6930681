"""The worked examples by which the field teaches this layer, number by number."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gpt_embeddings import encode_flat
from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel


STORY = Path(__file__).parent.parent / "data" / "the_tide_clerk.txt"


def make_model(table: torch.Tensor, n_positions: int, kind: str = "learned") -> GPTEmbeddingsModel:
    config = GPTEmbeddingsConfig(
        vocab_size=len(table), n_positions=n_positions, n_embd=table.shape[1], position_embedding_type=kind
    )
    model = GPTEmbeddingsModel(config).eval()
    with torch.no_grad():
        model.wte.weight.copy_(table)
    return model


def test_vocabulary_of_six():
    """Build a Large Language Model (From Scratch), section 2.7."""
    torch.manual_seed(123)
    table = nn.Embedding(6, 3).weight.detach()
    model = make_model(table, 4, "none")
    vectors = model(torch.tensor([[2, 3, 5, 1]])).last_hidden_state
    assert torch.equal(vectors[0], table[[2, 3, 5, 1]])
    assert vectors[0, 1].tolist() == pytest.approx([-0.4015, 0.9666, -1.1481], abs=5e-5)


def test_o_rato_roeu():
    """A vocabulary of 13 words and 10 dimensions under seed 42, with a context of 20."""
    torch.manual_seed(42)
    table = nn.Embedding(13, 10).weight.detach()
    words = "O rato roeu a roupa do Rei de Roma".split()
    ids = dict(zip(words, [1, 2, 4, 6, 5, 8, 12, 10, 11], strict=True))
    model = make_model(table, 20)
    with torch.no_grad():
        model.wpe.weight.zero_()
        model.wpe.weight[0, :2] = torch.tensor([1.3541, -0.0709])
    output = model(torch.tensor([[ids[word] for word in words]]))
    assert output.last_hidden_state.shape == (1, 9, 10)
    assert table[1, :2].tolist() == pytest.approx([-0.3925, -1.4036], abs=5e-5)
    assert output.last_hidden_state[0, 0, :2].tolist() == pytest.approx([0.9617, -1.4745], abs=1.01e-4)
    assert torch.equal(output.last_hidden_state[0, 1:], table[[2, 4, 6, 5, 8, 12, 10, 11]])


def test_sum_by_hand():
    model = make_model(torch.tensor([[0.5, -0.2, 0.1]]), 1)
    with torch.no_grad():
        model.wpe.weight.copy_(torch.tensor([[0.1, 0.3, -0.1]]))
    torch.testing.assert_close(model(torch.tensor([[0]])).last_hidden_state[0, 0], torch.tensor([0.6, 0.1, 0.0]))


def test_eight_windows_of_four_in_256_dimensions(gpt2_tokenizer):
    ids, _ = encode_flat([STORY.read_text(encoding="utf-8")], gpt2_tokenizer)
    windows = torch.from_numpy(ids[:32].astype("int64")).view(8, 4)
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=256, n_positions=4)).eval()
    vectors = model(windows).last_hidden_state
    assert vectors.shape == (8, 4, 256)
    assert torch.equal(vectors, model.wte.weight[windows] + model.wpe.weight)


def test_one_hot():
    torch.manual_seed(123)
    table = nn.Embedding(6, 3).weight.detach()
    model = make_model(table, 4, "none")
    ids = torch.tensor([[2, 3, 5, 1]])
    assert torch.equal(model(ids).last_hidden_state, F.one_hot(ids, 6).float() @ table)


def test_order_is_seen():
    model = make_model(torch.randn(13, 10), 20)
    one, other = model(torch.tensor([[1, 2, 4]])), model(torch.tensor([[4, 2, 1]]))
    assert not torch.equal(one.last_hidden_state[0, 0], other.last_hidden_state[0, 2])
    torch.testing.assert_close(one.pooler_output, other.pooler_output)  # the mean forgets it again
