"""Distillation: tables whose means of texts come near a teacher's vectors of these texts.

    start      each token's row is the teacher's vector of the token as a text, less their common mean, projected to
               `n_embd` dimensions, times a / (a + p(token))
    training   on sentences of the data, and on phrases of words drawn from both vocabularies, so that words which the
               data lack are learned too; the loss is 1 - cosine to the teacher's vector, plus the squared differences
               of all cosines within a batch from the teacher's

The start is model2vec's. What is learned of a token's weight is the length of its row, so that plain means are enough
afterwards. Positions are left out: `position_embedding_type` is "none". Left out too: vectors of the teacher for
anything but text, and training on human judgements.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from configuration_gpt_embeddings import MAX_N_POSITIONS, GPTEmbeddingsConfig
from gpt_embeddings.analysis.meaning import similar_pairs, spearman
from gpt_embeddings.analysis.neighbours import nearest_words
from gpt_embeddings.analysis.readable_tokens import whole_words
from gpt_embeddings.outputs import whole_file
from gpt_embeddings.progress import Bar
from gpt_embeddings.text.sentences import SHORTEST, pick_sentences
from gpt_embeddings.text.sources import read_blocks
from gpt_embeddings.text.tokenizer import tokenizer_digest, vocabulary_rows
from gpt_embeddings.training.pooled_loop import Bags, PooledOptions, Rows, fit_pooled
from gpt_embeddings.training.runs import RunFolder, versions
from gpt_embeddings.training.teacher import encode_texts, load_teacher, name_of, package_of, tokenizer_of
from modeling_gpt_embeddings import GPTEmbeddingsModel


HELD_OUT = 2000  # sentences, and at most a tenth of all, on which training is judged
PHRASE_WORDS = (2, 8)
WEIGHT_SHARE = 1e-4  # a in a / (a + p)
RELATIONS = 10.0  # weight of the squared differences of cosines
SHOWN_RANKS = (10, 50, 100, 200, 400, 800)  # of words by frequency, whose neighbours are told
READ_TEXTS = 1000  # at a time

Vectors = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class DistilOptions(PooledOptions):
    """How a teacher is distilled."""

    batch_size: int = 1024
    epochs: int = 4
    learning_rate: float = 1e-3

    n_embd: int = 256
    """Dimensions of the student; at most the teacher's."""

    sentences: int = 250_000
    """Sentences of the data to learn from: a random choice where there are more. The teacher's time is theirs."""

    phrases: int = 150_000
    """Phrases of random words to learn from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("n_embd", 1), ("sentences", 1), ("phrases", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")


def distil(
    teacher: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset,
    output: str | os.PathLike[str],
    options: DistilOptions = DistilOptions(),
    *,
    column: str = "text",
    data_name: str = "a dataset",
) -> dict[str, Any]:
    """Distil a teacher into a table, and save model, tokenizer and the facts of the run.

    The same call goes on after an interruption, a full disk or SIGKILL, and ends with the very same weights as a run
    that was left alone (on the same machine, with the same number of threads).

    Args:
        teacher: Folder or Hub name of a sentence-transformers model; `package.module:function`, for a function that
            takes a list of texts and returns vectors; or any object with such an `encode`.
        tokenizer: Tokenizer of the student; its ids are the rows of the table.
        dataset: The text.
        output: Folder to make; it appears when the run is complete.
        options: How to distil.
        column: The column of texts.
        data_name: What the facts call the data.

    Returns:
        The facts that `training_facts.json` has: teacher, data, steps, rank correlations before and after, versions,
        and the nearest words of some frequent ones.

    Raises:
        ImportError: sentence-transformers is not installed.
        OSError: The output exists, the teacher could not be loaded, or something could not be written.
        TypeError: The teacher has no `encode`.
        ValueError: The data has too few sentences, the teacher does not return a finite vector for each text, the
            settings are not those of the unfinished run at this place, or the loss is not finite.
    """
    settings = {
        **asdict(options),
        "teacher": teacher if isinstance(teacher, str) else name_of(teacher),
        "tokenizer": tokenizer_digest(tokenizer),
        "column": column,
        "data": data_name,
    }
    model_of_teacher = load_teacher(teacher)
    with RunFolder(output, "train distil", settings) as run:
        texts = _Texts.kept_in(run.folder / "texts.parquet")
        if texts is None:
            sentences = pick_sentences(_read(dataset, column), options.sentences, options.seed)
            tokenizers = [known for known in (tokenizer, tokenizer_of(model_of_teacher)) if known is not None]
            phrases = make_phrases(tokenizers, options.phrases, options.seed)
            texts = _Texts(_token_texts(tokenizer), sentences, phrases)
            texts.keep(run.folder / "texts.parquet")
        vectors = encode_texts(model_of_teacher, texts.all, run.folder / "teacher")
        package = package_of(model_of_teacher)
        del model_of_teacher
        if options.n_embd > vectors.shape[1]:
            raise ValueError(
                f"`n_embd` is {options.n_embd}, but the teacher's vectors have {vectors.shape[1]} dimensions."
            )

        limit = min(tokenizer.model_max_length, MAX_N_POSITIONS)  # where it knows no limit it has a huge number
        bags = Bags.of(texts.sentences + texts.phrases, tokenizer, limit)
        counts = np.bincount(bags.input_ids, minlength=len(texts.tokens))
        model = _start(texts, vectors, counts, tokenizer, options)
        judge = _Judge(texts, vectors, bags, counts, tokenizer)
        before = judge.facts(model)
        _fit(model, texts.n_held_out, bags, vectors[len(texts.tokens) :], options, run)
        after = judge.facts(model)
        facts = {
            "Objective": "vectors of a teacher (distillation): cosine, and cosines within a batch",
            "Teacher": f"{name_of(teacher)}, {vectors.shape[1]} dimensions",
            "Data": f"{data_name}; {texts.n_learned:,} sentences and {len(texts.phrases):,} phrases of random words",
            "Steps": f"{options.epochs} epochs in batches of {options.batch_size}",
            "Learning rate": f"{options.learning_rate:g}, RowAdam, falling to 0; seed {options.seed}",
            **{name: f"{before[name]} at the start, {after[name]} trained" for name in before},
            "Versions": versions(*[package] if package else []),
        }
        run.save(model, tokenizer, facts)
    return facts


def make_phrases(tokenizers: Iterable[PreTrainedTokenizerBase], n: int, seed: int) -> list[str]:
    """Return phrases of words drawn from vocabularies, every second one with a capital at its beginning."""
    words = sorted({word for tokenizer in tokenizers for word in whole_words(tokenizer)})
    if not words:
        return []
    rng = np.random.default_rng(seed)
    lengths = rng.integers(*PHRASE_WORDS, n, endpoint=True)
    drawn = rng.integers(len(words), size=lengths.sum())
    phrases, start = [], 0
    for i, length in enumerate(lengths):
        phrase = " ".join(words[j] for j in drawn[start : start + length])
        phrases.append(phrase[0].upper() + phrase[1:] if i % 2 else phrase)
        start += length
    return phrases


@dataclass(frozen=True)
class _Texts:
    """What the teacher reads, in this order; of the sentences the first are held out."""

    tokens: list[str]
    sentences: list[str]
    phrases: list[str]

    def __post_init__(self) -> None:
        if self.n_held_out < 3:
            raise ValueError(
                f"The data has {len(self.sentences)} distinct sentences of at least {SHORTEST} characters; a "
                "distillation needs 30, and is worth its while from some 10,000. Give more text, or another column."
            )

    @property
    def all(self) -> list[str]:
        return self.tokens + self.sentences + self.phrases

    @property
    def n_held_out(self) -> int:
        return min(HELD_OUT, len(self.sentences) // 10)

    @property
    def n_learned(self) -> int:
        return len(self.sentences) - self.n_held_out

    def keep(self, path: Path) -> None:
        parts = np.repeat([0, 1, 2], [len(self.tokens), len(self.sentences), len(self.phrases)])
        with whole_file(path) as partial:
            pq.write_table(pa.table({"text": pa.array(self.all, pa.large_string()), "part": parts}), partial)

    @classmethod
    def kept_in(cls, path: Path) -> "_Texts | None":
        if not path.is_file():
            return None
        table = pq.read_table(path)
        ends = np.searchsorted(table["part"].to_numpy(), [1, 2])
        texts = table["text"].to_pylist()
        return cls(texts[: ends[0]], texts[ends[0] : ends[1]], texts[ends[1] :])


class _Judge:
    """What a model is judged by before and after: held-out pairs, and the nearest words of some frequent ones."""

    def __init__(
        self, texts: _Texts, vectors: Vectors, bags: Bags, counts: Rows, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.held_out = bags.take(np.arange(texts.n_held_out))
        first = len(texts.tokens)
        self.first, self.second, self.cosines = similar_pairs(vectors[first : first + texts.n_held_out])
        self.vocabulary = whole_words(tokenizer)
        known = sorted((-counts[i], word) for word, i in self.vocabulary.items() if len(word) > 3 and counts[i])
        self.words = [known[rank][1] for rank in SHOWN_RANKS if rank < len(known)]

    @torch.no_grad()
    def facts(self, model: GPTEmbeddingsModel) -> dict[str, str]:
        ours = F.normalize(model.embed_bags(*self.held_out), dim=1).numpy()
        correlation = spearman((ours[self.first] * ours[self.second]).sum(1), self.cosines)
        nearest = nearest_words(model, self.words, self.vocabulary)
        return {
            "Rank correlation with the teacher on held-out pairs": f"{correlation:.3f}",
            **{f"Nearest to {word!r}": ", ".join(found) for word, found in zip(self.words, nearest, strict=True)},
        }


def _start(
    texts: _Texts, vectors: Vectors, counts: Rows, tokenizer: PreTrainedTokenizerBase, options: DistilOptions
) -> GPTEmbeddingsModel:
    """Make the model that training starts from: the teacher's vectors of the tokens, projected and weighted."""
    config = GPTEmbeddingsConfig(
        vocab_size=len(texts.tokens),
        n_positions=min(tokenizer.model_max_length, MAX_N_POSITIONS),
        n_embd=options.n_embd,
        embd_pdrop=0.0,
        position_embedding_type="none",
        pad_token_id=tokenizer.pad_token_id,
    )
    model = GPTEmbeddingsModel(config).eval()
    rows = torch.from_numpy(vectors[: len(texts.tokens)].astype(np.float32))
    zipf = 1 / np.arange(2, len(rows) + 2)  # byte-pair vocabularies are in about the order of frequency
    share = (counts / counts.sum() + zipf / zipf.sum()) / 2
    weights = torch.from_numpy(WEIGHT_SHARE / (WEIGHT_SHARE + share)).float()
    rows = (rows - rows.mean(0)) @ _projection(vectors[len(texts.tokens) + texts.n_held_out :], options.n_embd)
    rows[[not text for text in texts.tokens]] = 0  # spaces, and pieces of characters
    with torch.no_grad():
        model.wte.weight.copy_(rows * weights.unsqueeze(1))
    return model


def _projection(vectors: Vectors, n_embd: int) -> torch.Tensor:
    """Return the directions that hold most of the vectors, `(width, n_embd)`; not centred, as cosines are not."""
    width = vectors.shape[1]
    products = torch.zeros(width, width, dtype=torch.float64)
    for i in range(0, len(vectors), 2**14):
        part = torch.from_numpy(vectors[i : i + 2**14].astype(np.float64))
        products.addmm_(part.T, part)
    return torch.linalg.eigh(products).eigenvectors.flip(1)[:, :n_embd].float()


def _fit(
    model: GPTEmbeddingsModel, n_held_out: int, bags: Bags, vectors: Vectors, options: DistilOptions, run: RunFolder
) -> None:
    projection = _projection(vectors[n_held_out:], options.n_embd)

    def loss(rows: Rows) -> torch.Tensor:
        rows = rows + n_held_out
        theirs = torch.from_numpy(vectors[rows].astype(np.float32))  # (batch, width of the teacher)
        ours = F.normalize(model.embed_bags(*bags.take(rows)), dim=1)  # (batch, n_embd)
        misses = 1 - (ours * F.normalize(theirs @ projection, dim=1)).sum(1).mean()
        return misses + RELATIONS * (ours @ ours.T - theirs @ theirs.T).square().mean()

    fit_pooled(model, len(bags) - n_held_out, loss, options, run, "Distilling")


def _token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return each id as a text without its space; empty for spaces and for pieces of characters."""
    texts = tokenizer.batch_decode([[i] for i in range(vocabulary_rows(tokenizer))])
    return ["" if "\ufffd" in text else text.strip() for text in texts]


def _read(dataset: Dataset | IterableDataset, column: str) -> Iterator[str]:
    batches = read_blocks(dataset.with_format("arrow"), READ_TEXTS, [column])
    for batch in Bar(batches, desc="Reading", unit="batch", leave=False):
        yield from (text for text in batch[column].to_pylist() if text)


__all__ = ["DistilOptions", "distil", "make_phrases"]
