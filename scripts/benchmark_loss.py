"""Compare the loss of `GPTEmbeddingsForCausalLM` with one that forms all logits: time and peak of memory.

    python scripts/benchmark_loss.py

Forward and backward of one batch, each way in processes of its own, in turn; CPU time and resident memory.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsForCausalLM


WAYS = ("chunked", "whole")


def main() -> None:
    """Run each way in turn and print medians, or, as a child, measure one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--n-embd", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure(options)
        return
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--tokens", str(options.tokens)]
            line = subprocess.check_output([*command, "--n-embd", str(options.n_embd)], text=True)
            seconds, megabytes = map(float, line.split())
            found[way].append((seconds, megabytes))
    for way in WAYS:
        seconds, megabytes = (statistics.median(values) for values in zip(*found[way], strict=True))
        print(f"{way:8} {seconds:7.2f} s a step, {megabytes:7.0f} MB above the model and its gradient")


def measure(options: argparse.Namespace) -> None:
    """Print the seconds of the second of two steps, and what both added to the peak of memory."""
    torch.set_num_threads(1)
    config = GPTEmbeddingsConfig(n_embd=options.n_embd, n_positions=options.tokens, embd_pdrop=0.0)
    model = GPTEmbeddingsForCausalLM(config)
    ids = torch.randint(config.vocab_size, (1, options.tokens))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        start = time.process_time()
        if options.way == "chunked":
            loss = model(ids, labels=ids).loss
        else:
            loss = F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
        loss.backward()
        seconds = time.process_time() - start
    print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


if __name__ == "__main__":
    main()
