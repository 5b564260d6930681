"""Measure the forward pass and the flat path against what a user would write instead.

One process, one thread, contenders interleaved round by round, medians of CPU time and ratios; the machine may be
noisy, ratios hold better than times. Of large batches the first line makes three tensors and may find no memory of the
process free, and be twice as slow. Run: python scripts/benchmark_forward.py [--rounds 30] [--compile]
"""

import argparse
import itertools
import random
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from docstrings import docstrings
from transformers import GPT2Config, GPT2Model

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings import encode_flat, load_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsModel


def median_times(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run every contender once a round and return median seconds by name.

    The order changes from round to round: whoever runs first may find other memory free than whoever comes next.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order, shuffle = list(contenders.items()), random.Random(0).shuffle
    for run in contenders.values():  # warm up, and compile
        run()
        run()
    for _ in range(rounds):
        shuffle(order)
        for name, run in order:
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def report(title: str, medians: dict[str, float], base: str) -> None:
    """Print a table of milliseconds and of speed relative to `base`."""
    print(f"\n{title}\n\n| contender | median CPU ms | {base} / it |\n| --- | ---: | ---: |")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds * 1e3:.3f} | {medians[base] / seconds:.2f} |")


def benchmark_forward(batch: int, length: int, n_embd: int, rounds: int, with_compile: bool) -> None:
    """Compare forward passes at one shape, float32."""
    torch.manual_seed(0)
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=n_embd)).eval()
    unpooled = GPTEmbeddingsModel(model.config, add_pooling_layer=False).eval()
    unpooled.load_state_dict(model.state_dict(), assign=True)
    gpt2 = GPT2Model(GPT2Config(n_embd=n_embd, n_layer=0, n_head=1)).eval()
    gpt2.load_state_dict(model.state_dict(), strict=False)
    ids = torch.randint(0, model.config.vocab_size, (batch, length))
    positions, mask = torch.arange(length), torch.ones_like(ids)
    output = model(ids).last_hidden_state.detach()

    def gpt2_stage() -> torch.Tensor:  # the statements of GPT2Model.forward up to its first block
        inputs_embeds = gpt2.wte(ids)
        position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device).unsqueeze(0)
        hidden: torch.Tensor = gpt2.drop(inputs_embeds + gpt2.wpe(position_ids))
        return hidden

    assert torch.equal(gpt2_stage(), output)
    contenders: dict[str, Callable[[], object]] = {
        "wte(ids) + wpe(pos), eager": lambda: model.wte(ids) + model.wpe(positions),
        "GPT2Model's embedding stage": gpt2_stage,
        "ours, with the pooled mean": lambda: model(ids),
        "the same, with a mask of ones": lambda: model(ids, attention_mask=mask),
        "ours, add_pooling_layer=False": lambda: unpooled(ids),
        "limit: copy of the output": output.clone,
    }
    if with_compile:
        compiled = torch.compile(model, fullgraph=True)
        contenders["ours, with the pooled mean, torch.compile"] = lambda: compiled(ids)
    # A short text is measured more often: it is over before the processor has noticed.
    rounds *= max(1, 2**23 // output.numel())
    with torch.inference_mode():
        medians = median_times(contenders, rounds)
    report(
        f"Forward, ({batch}, {length}) x {n_embd}, float32",
        medians,
        "wte(ids) + wpe(pos), eager",
    )


def some_docstrings(limit: int) -> list[str]:
    """Return docstrings of the standard library, of uneven length, in a random order."""
    texts = list(docstrings(sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[:limit]
    return [texts[i] for i in order.tolist()]


def benchmark_bags(n_embd: int, batch: int, rounds: int) -> None:
    """Compare the flat path with padded batches and a mean."""
    torch.manual_seed(0)
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=n_embd)).eval()
    ids, offsets = encode_flat(some_docstrings(4096), load_tokenizer())
    documents = [torch.from_numpy(ids[a:b][:1024]).long() for a, b in itertools.pairwise(offsets)]

    def pad(order: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batches = []
        for start in range(0, len(order), batch):
            chosen = [documents[i] for i in order[start : start + batch]]
            lengths = torch.tensor([len(document) for document in chosen])
            padded = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)  # (batch, longest)
            batches.append((padded, (torch.arange(padded.shape[1]) < lengths.unsqueeze(1)).long()))
        return batches

    in_order = pad(list(range(len(documents))))
    by_length = pad(sorted(range(len(documents)), key=lambda i: len(documents[i])))

    def padded_mean(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        means = []
        for padded, mask in batches:
            hidden = model.wte(padded) + model.wpe(torch.arange(padded.shape[1]))
            weights = mask.unsqueeze(-1).float()
            means.append((hidden * weights).sum(1) / weights.sum(1).clamp(min=1))
        return torch.cat(means)

    def flat() -> torch.Tensor:
        return model.embed_bags(ids, offsets)

    torch.testing.assert_close(flat(), padded_mean(in_order), rtol=1e-4, atol=1e-6)
    flat_ids, starts = torch.from_numpy(ids), torch.from_numpy(offsets).to(torch.int32)
    with torch.inference_mode():
        medians = median_times(
            {
                "padded forward + mean": lambda: padded_mean(in_order),
                "the same, sorted by length": lambda: padded_mean(by_length),
                "our forward, padded": lambda: [model(p, attention_mask=m).pooler_output for p, m in in_order],
                "embed_bags": flat,
                "limit: embedding_bag of the tokens": lambda: F.embedding_bag(
                    flat_ids, model.wte.weight, starts, mode="sum", include_last_offset=True
                ),
            },
            rounds,
        )
    lengths = torch.from_numpy(offsets).diff()
    report(
        f"Pooling {len(documents)} docstrings, {len(ids)} tokens (median {int(lengths.median())}, longest "
        f"{int(lengths.max())}), {n_embd} dimensions, batches of {batch}",
        medians,
        "padded forward + mean",
    )


def main() -> None:
    """Run both benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=30, help="runs of each contender, more of short ones (default: 30)"
    )
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes a minute")
    options = parser.parse_args()
    rounds = options.rounds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread")
    for batch, length, n_embd in ((8, 1024, 768), (64, 128, 256), (1, 128, 768)):
        benchmark_forward(batch, length, n_embd, rounds, options.compile)
    benchmark_bags(256, 64, max(3, rounds // 5))
    benchmark_bags(768, 64, max(3, rounds // 5))


if __name__ == "__main__":
    main()
