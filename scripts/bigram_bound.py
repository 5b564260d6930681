"""Print the least loss that a model without layers can have on a text, and what it can gain from positions.

    python scripts/bigram_bound.py corpus.txt --max-length 1024

The pairs are those of training windows: each target of `gpt_embeddings.TokenWindows` with the token before it and its
position in the window. Left out: everything that trains; `gpt-embeddings train clm` prints this bound as it goes.
"""

import argparse
import math
import time

from gpt_embeddings import TokenWindows, load_source, load_tokenizer
from gpt_embeddings.training.bigrams import BigramCounts


def main() -> None:
    """Read the arguments, count once, print both bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files of one format, or one Hub dataset name")
    parser.add_argument("--tokenizer", default="openai-community/gpt2", help="folder or Hub name")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of a window")
    parser.add_argument("--column", default="text", help="column of texts")
    parser.add_argument("--sample-by", default="document", help="row of a text file: line, paragraph or document")
    options = parser.parse_args()

    tokenizer = load_tokenizer(options.tokenizer, model_max_length=options.max_length)
    source = load_source(options.inputs, column=options.column, sample_by=options.sample_by, streaming=True)
    plain, placed = BigramCounts(len(tokenizer)), BigramCounts(len(tokenizer), options.max_length)
    start, counting = time.perf_counter(), 0.0
    for batch in TokenWindows(source, tokenizer, options.max_length, column=options.column).dataloader(64):
        inputs, targets = batch["input_ids"].numpy(), batch["target_ids"].numpy()
        begun = time.perf_counter()
        plain.add(inputs, targets)
        counting += time.perf_counter() - begun
        placed.add(inputs, targets)
    bounds = plain.bound(), placed.bound()
    seconds = time.perf_counter() - start

    print(f"{plain.n_pairs:,} pairs in {seconds:.1f} s; adding those of one bound {counting:.2f} s")
    for name, counts, bound in (("token", plain, bounds[0]), ("token, position", placed, bounds[1])):
        print(f"given {name:16} {bound:.4f} nats, perplexity {math.exp(bound):9.2f}, {counts.n_distinct:,} distinct")


if __name__ == "__main__":
    main()
