import pytest
import torch
from tiny import new_model

from gpt_embeddings.training.row_adam import RowAdam
from modeling_gpt_embeddings import GPTEmbeddingsModel


IDS, OFFSETS = torch.tensor([3, 5, 5, 9, 3, 1]), torch.tensor([0, 3, 6])


def make_model(sparse: bool) -> GPTEmbeddingsModel:
    model = new_model(vocab_size=12, n_embd=6).double()
    model.wte.sparse = sparse
    return model


def take_steps(model, optimizer, steps: int) -> list[float]:
    target, losses = torch.arange(12, dtype=torch.float64).view(2, 6).sin(), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model.embed_bags(IDS, OFFSETS) - target).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("sparse", [True, False])
def test_the_same_rows_at_every_step_make_it_adam(sparse):
    ours, theirs = make_model(sparse), make_model(False)
    got = take_steps(ours, RowAdam(ours.parameters(), lr=0.05), 20)
    expected = take_steps(theirs, torch.optim.Adam(theirs.parameters(), lr=0.05), 20)
    assert got == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(ours.wte.weight, theirs.wte.weight)
    assert got[-1] < got[0] / 2


def test_rows_that_come_and_go():
    """Against torch's own optimizer of sparse gradients."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(4, 2, dtype=torch.float64)) for _ in range(2))
    optimizers = RowAdam([ours], lr=0.1), torch.optim.SparseAdam([theirs], lr=0.1)
    for rows in ([0, 0], [0, 1], [2, 2], [1, 0], [2, 1]):
        values = torch.randn(2, 2, dtype=torch.float64)
        for table, optimizer in zip((ours, theirs), optimizers, strict=True):
            table.grad = torch.sparse_coo_tensor([rows], values, (4, 2), check_invariants=True)
            optimizer.step()
    assert (ours[3] == 1).all() and not (ours[:3] == 1).any()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # which adds `eps` before the correction


def test_small_gradients_make_it_adam_and_not_sparse_adam():
    """Why `torch.optim.SparseAdam` is not used: its `eps` counts for more at the first steps."""
    kinds = RowAdam, torch.optim.Adam, torch.optim.SparseAdam
    tables = [torch.nn.Parameter(torch.zeros(1, 2, dtype=torch.float64)) for _ in kinds]
    gradient = torch.full((1, 2), 1e-7, dtype=torch.float64)
    for kind, table in zip(kinds, tables, strict=True):
        table.grad = gradient if kind is torch.optim.Adam else gradient.to_sparse(1)
        kind([table], lr=0.1).step()
    ours, adam, sparse_adam = (table[0, 0].item() for table in tables)
    assert ours == pytest.approx(adam, rel=1e-9) and sparse_adam == pytest.approx(adam * 0.26, rel=0.1)
