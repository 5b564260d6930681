"""Compare a training step that touches a batch's rows with dense AdamW and with torch's SparseAdam.

    python scripts/benchmark_optimizer.py

A table of 50,257 x 256 learns to give the means that another table gives, from 4,096 tokens a step drawn by Zipf's
law. The three take the same batches in turn, so that the machine's noise falls on all of them alike. CPU time.
"""

import argparse
import statistics
import time
from collections.abc import Iterable

import torch

from gpt_embeddings.training.row_adam import RowAdam
from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel


def main() -> None:
    """Train three copies in turn, print the loss curves and the ratios of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--documents", type=int, default=64, help="of 64 tokens each, in a step")
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--n-embd", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    names = ("AdamW", "SparseAdam", "RowAdam")
    models = {name: make_model(options, sparse=name != "AdamW") for name in names}
    steps = {
        "AdamW": torch.optim.AdamW(models["AdamW"].parameters(), lr=2e-3, weight_decay=0.0),
        "SparseAdam": torch.optim.SparseAdam(list(models["SparseAdam"].parameters()), lr=2e-3),
        "RowAdam": RowAdam(models["RowAdam"].parameters(), lr=2e-3),
    }
    target = make_model(options, sparse=False, seed=1)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in names}
    probability = 1 / torch.arange(1, options.vocab_size + 1, dtype=torch.float64)
    offsets = torch.arange(0, options.documents * 64 + 1, 64)
    for _ in range(options.steps):
        ids = torch.multinomial(probability, int(offsets[-1]), replacement=True)
        with torch.no_grad():
            wanted = target.embed_bags(ids, offsets)
        for name, model in models.items():
            start = time.process_time()
            loss = take_step(model, steps[name], ids, offsets, wanted)
            seconds[name].append(time.process_time() - start)
            losses[name].append(loss)
    report(seconds, losses, options.steps)


def make_model(options: argparse.Namespace, *, sparse: bool, seed: int = 0) -> GPTEmbeddingsModel:
    """Return a table without positions, the same for the same seed."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": options.vocab_size, "n_embd": options.n_embd}
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig(**sizes, position_embedding_type="none"))
    model.wte.sparse = sparse
    return model


def take_step(
    model: GPTEmbeddingsModel,
    optimizer: torch.optim.Optimizer,
    ids: torch.Tensor,
    offsets: torch.Tensor,
    wanted: torch.Tensor,
) -> float:
    """Take one step of regression and return its loss."""
    optimizer.zero_grad()
    loss = (model.embed_bags(ids, offsets) - wanted).square().sum(1).mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def report(seconds: dict[str, list[float]], losses: dict[str, list[float]], steps: int) -> None:
    """Print medians, their ratios and the losses along the way."""
    marks = [steps * i // 5 - 1 for i in range(1, 6)]
    print(f"{'':12}{'ms a step':>10}{'ratio':>8}   loss at step " + "".join(f"{mark + 1:>10}" for mark in marks))
    slowest = statistics.median(seconds["AdamW"][5:])
    for name, values in seconds.items():
        median = statistics.median(values[5:])
        curve: Iterable[str] = (f"{statistics.mean(losses[name][max(0, m - 9) : m + 1]):10.5f}" for m in marks)
        print(f"{name:12}{median * 1e3:10.2f}{slowest / median:8.1f}                " + "".join(curve))


if __name__ == "__main__":
    main()
