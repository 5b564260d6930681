"""Distillation: tables whose means of texts come near a teacher's vectors of these texts.

    start      each token's row is the teacher's vector of the token as a text, less their common mean, projected to
               `n_embd` dimensions, times a / (a + p(token)); that is model2vec's distillation, and needs no text
    training   on sentences of the data, and on phrases of words drawn from both vocabularies, so that words which the
               data lack are learned too; the loss is 1 - cosine to the teacher's vector, plus the squared differences
               of all cosines within a batch from the teacher's, of all dimensions and of the first half, quarter, ...

Each width has a loss of its own over the teacher's principal components, so that the first dimensions serve alone
(Matryoshka representation learning, Kusupati et al. 2022). Left out: how the teacher reads (`training.teacher`).
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from configuration_gpt_embeddings import MAX_N_POSITIONS, GPTEmbeddingsConfig
from gpt_embeddings.analysis.evaluation import matryoshka_dims, similar_pairs, spearman
from gpt_embeddings.analysis.neighbours import Neighbours
from gpt_embeddings.analysis.readable_tokens import whole_words
from gpt_embeddings.outputs import atomic_file
from gpt_embeddings.progress import Bar
from gpt_embeddings.text.sentences import SHORTEST, pick_sentences
from gpt_embeddings.text.sources import read_blocks
from gpt_embeddings.text.tokenizer import tokenizer_digest, vocabulary_rows
from gpt_embeddings.training.pooled_loop import Bags, PooledOptions, Rows, fit_pooled
from gpt_embeddings.training.runs import RunFolder, versions
from gpt_embeddings.training.teacher import encode_texts, load_teacher, name_of, package_of, tokenizer_of
from modeling_gpt_embeddings import GPTEmbeddingsModel


HELD_OUT = 2000  # sentences, and at most a tenth of all, on which training is evaluated
PHRASE_WORDS = (2, 8)
WEIGHT_SHARE = 1e-4  # a in a / (a + p)
SIMILARITY_WEIGHT = 10.0  # weight of the squared differences of cosines
ANISOTROPIC_SIMILARITY_WEIGHT = 30.0  # for a teacher whose vectors lie in a narrow cone
WIDTH_WEIGHTS = (1.0, 0.4, 0.3, 0.3)  # of the losses of all dimensions, half of them, ...
AUGMENTATION_PROBABILITIES = (0.8, 0.1, 0.1)  # shares of steps: texts as they are, after a space, in lower case
ANISOTROPIC = 0.5  # mean cosine of a teacher's vectors from which they are centred
TRAINED_POSITIONS = (8, 32)  # whose mean stands for what comes after them
SHOWN_RANKS = (10, 50, 100, 200, 400, 800)  # of words by frequency, whose neighbours are told
READ_TEXTS = 1000  # at a time

Vectors = npt.NDArray[np.floating[Any]]
Positions = Literal["none", "learned"]


@dataclass(frozen=True, kw_only=True)
class DistilOptions(PooledOptions):
    """How a teacher is distilled."""

    batch_size: int = 1024
    epochs: int = 4
    learning_rate: float = 3e-3

    n_embd: int = 256
    """Dimensions of the student; at most the teacher's."""

    sentences: int = 250_000
    """Sentences of the data to learn from: a random choice where there are more. The teacher's time is theirs."""

    phrases: int = 150_000
    """Phrases of random words to learn from."""

    positions: Positions = "none"
    """Whether rows of positions are learned too, from zero; without them every static form holds the model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("n_embd", 1), ("sentences", 1), ("phrases", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.positions not in get_args(Positions):
            raise ValueError(f"`positions` must be 'none' or 'learned', got {self.positions!r}.")


def distil(
    teacher: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset | None,
    output: str | os.PathLike[str],
    options: DistilOptions = DistilOptions(),
    *,
    column: str = "text",
    data_name: str = "a dataset",
) -> dict[str, Any]:
    """Distil a teacher into a table, and save model, tokenizer and the metadata of the run.

    The same call goes on after an interruption, a full disk or SIGKILL, and ends with the very same weights as a run
    that was left alone (on the same machine, with the same number of threads).

    Args:
        teacher: Folder or Hub name of a sentence-transformers model; `package.module:function`, for a function that
            takes a list of texts and returns vectors; or any object with such an `encode`.
        tokenizer: Tokenizer of the student; its ids are the rows of the table.
        dataset: The text; None stops at the start, which needs none.
        output: Folder to make; it appears when the run is complete.
        options: How to distil.
        column: The column of texts.
        data_name: What the metadata calls the data.

    Returns:
        The content of `training_metadata.json`: teacher, data, steps, rank correlations before and after, versions,
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
    loaded = load_teacher(teacher)
    with RunFolder(output, "train distil", settings) as run:
        texts = _Texts.kept_in(run.folder / "texts.parquet")
        if texts is None:
            texts = _choose(dataset, column, [tokenizer, tokenizer_of(loaded)], options)
            texts.keep(run.folder / "texts.parquet")
        vectors = encode_texts(loaded, texts.all, run.folder / "teacher")
        package = package_of(loaded)
        del loaded
        if options.n_embd > vectors.shape[1]:
            raise ValueError(
                f"`n_embd` is {options.n_embd}, but the teacher's vectors have {vectors.shape[1]} dimensions."
            )
        anisotropic = mean_cosine(vectors[len(texts.tokens) :] if texts.learned else vectors) > ANISOTROPIC
        targets = center(vectors, len(texts.tokens) if texts.learned else 0) if anisotropic else vectors
        bags = Bags.of(texts.learned, tokenizer, _limit(tokenizer))
        model = _start(texts, targets, bags, tokenizer, options)
        evaluate = _Evaluation(texts, vectors, bags, tokenizer)
        before = evaluate.metadata(model)
        if texts.learned:
            similarity_weight = ANISOTROPIC_SIMILARITY_WEIGHT if anisotropic else SIMILARITY_WEIGHT
            _fit(model, texts, tokenizer, bags, targets[len(texts.tokens) :], similarity_weight, options, run)
        after = evaluate.metadata(model)
        metadata = {
            **_describe(texts, options, data_name),
            "Teacher": f"{name_of(teacher)}, {vectors.shape[1]} dimensions{', centred' if anisotropic else ''}",
            **{name: f"{before[name]} at the start, {after[name]} trained" for name in before if texts.learned},
            **{name: after[name] for name in after if not texts.learned},
            "Versions": versions(*[package] if package else []),
        }
        run.save(model, tokenizer, metadata)
    return metadata


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
    sentences: list[str] | None
    """None where there is no data."""
    phrases: list[str]

    def __post_init__(self) -> None:
        if self.sentences is not None and self.n_held_out < 3:
            raise ValueError(
                f"The data has {len(self.sentences)} distinct sentences of at least {SHORTEST} characters; a "
                "distillation needs 30, and is worth its while from some 10,000. Give more text, or another column."
            )

    @property
    def learned(self) -> list[str]:
        """Sentences and phrases."""
        return [*(self.sentences or ()), *self.phrases]

    @property
    def all(self) -> list[str]:
        return self.tokens + self.learned

    @property
    def n_held_out(self) -> int:
        return min(HELD_OUT, len(self.sentences or ()) // 10)

    @property
    def n_learned(self) -> int:
        return len(self.sentences or ()) - self.n_held_out

    def keep(self, path: Path) -> None:
        sizes = [len(self.tokens), len(self.sentences or ()), len(self.phrases)]
        with atomic_file(path) as partial:
            pq.write_table(
                pa.table({"text": pa.array(self.all, pa.large_string()), "part": np.repeat([0, 1, 2], sizes)}), partial
            )

    @classmethod
    def kept_in(cls, path: Path) -> "_Texts | None":
        if not path.is_file():
            return None
        table = pq.read_table(path)
        ends = np.searchsorted(table["part"].to_numpy(), [1, 2])
        texts = table["text"].to_pylist()
        return cls(texts[: ends[0]], texts[ends[0] : ends[1]] or None, texts[ends[1] :])


class _Evaluation:
    """What a model is evaluated by before and after: held-out pairs, and the nearest words of some frequent ones."""

    def __init__(self, texts: _Texts, vectors: Vectors, bags: Bags, tokenizer: PreTrainedTokenizerBase) -> None:
        self.pairs = None
        if texts.n_held_out:
            first = len(texts.tokens)
            self.pairs = similar_pairs(vectors[first : first + texts.n_held_out])
            self.held_out = bags.take(np.arange(texts.n_held_out))
        self.tokenizer, self.vocabulary = tokenizer, whole_words(tokenizer)
        counts = _counts(texts, bags)
        if counts is None:
            counts = np.arange(len(texts.tokens), 0, -1)  # vocabularies are in about the order of frequency
        known = sorted((-counts[i], word) for word, i in self.vocabulary.items() if len(word) > 3 and counts[i])
        self.words = [known[rank][1] for rank in SHOWN_RANKS if rank < len(known)]

    @torch.no_grad()
    def metadata(self, model: GPTEmbeddingsModel) -> dict[str, str]:
        index, ids = Neighbours(model, self.tokenizer, self.vocabulary.values()), self.vocabulary
        nearest = [
            [near.piece.lstrip("␣") for near in index.nearest(index.table[ids[word]], 5, [ids[word]])]
            for word in self.words
        ]
        words = {f"Nearest to {word!r}": ", ".join(found) for word, found in zip(self.words, nearest, strict=True)}
        if self.pairs is None:
            return words
        first, second, cosines = self.pairs
        vectors = model.embed_bags(*self.held_out)
        found = []
        for width in _widths(model.config.n_embd):
            ours = F.normalize(vectors[:, :width], dim=1).numpy()
            found.append(f"{spearman((ours[first] * ours[second]).sum(1), cosines):.3f}")
        cut = f" ({', '.join(found[1:])} by the first {', '.join(map(str, _widths(model.config.n_embd)[1:]))})"
        return {
            "Spearman correlation with the teacher on held-out pairs": found[0] + (cut if found[1:] else ""),
            **words,
        }


def mean_cosine(vectors: Vectors) -> float:
    """Return the mean cosine of two of these vectors, of length 1: near 1 where they crowd in a narrow cone."""
    return float(np.square(vectors.mean(0, dtype=np.float64)).sum())


def center(vectors: Vectors, first: int) -> Vectors:
    """Return vectors less the mean of those from `first` on, of length 1."""
    mean = vectors[first:].mean(0, dtype=np.float64).astype(np.float32)
    result = np.empty(vectors.shape, np.float16)
    for i in range(0, len(vectors), 2**14):
        part = vectors[i : i + 2**14].astype(np.float32) - mean
        result[i : i + 2**14] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6)
    return result


def principal_directions(vectors: Vectors, n_embd: int) -> torch.Tensor:
    """Return the directions that hold most of the vectors, `(width, n_embd)`; not centred, as cosines are not."""
    width = vectors.shape[1]
    products = torch.zeros(width, width, dtype=torch.float64)
    for i in range(0, len(vectors), 2**14):
        part = torch.from_numpy(vectors[i : i + 2**14].astype(np.float64))
        products.addmm_(part.T, part)
    return torch.linalg.eigh(products).eigenvectors.flip(1)[:, :n_embd].float()


def initial_rows(tokens: list[str], vectors: Vectors, counts: Rows | None, projection: torch.Tensor) -> torch.Tensor:
    """Return the teacher's vectors of tokens, projected and weighted by a / (a + share of the token).

    Args:
        tokens: The text of each token; empty for pieces of characters, whose rows are zeros.
        vectors: The teacher's vectors of these, `(n_tokens, width)`.
        counts: How often each token is in the data, if there is any.
        projection: Shape `(width, n_embd)`.

    Returns:
        Rows of shape `(n_tokens, n_embd)`.
    """
    zipf = 1 / np.arange(2, len(tokens) + 2)  # byte-pair vocabularies are in about the order of frequency
    share = zipf / zipf.sum()
    if counts is not None:
        share = (share + counts / counts.sum()) / 2
    rows = torch.from_numpy(vectors.astype(np.float32))
    rows = (rows - rows.mean(0)) @ projection
    rows[[not text for text in tokens]] = 0
    return rows * torch.from_numpy(WEIGHT_SHARE / (WEIGHT_SHARE + share)).float().unsqueeze(1)


def matryoshka_loss(
    ours: torch.Tensor, theirs: torch.Tensor, projection: torch.Tensor, similarity_weight: float = SIMILARITY_WEIGHT
) -> torch.Tensor:
    """Return the loss of a batch, summed over all dimensions, the first half of them, and so on.

    Args:
        ours: Vectors of the student, `(batch, n_embd)`.
        theirs: Vectors of the teacher, of length 1, `(batch, width)`.
        projection: Shape `(width, n_embd)`, the directions that tell most first.
        similarity_weight: Weight of the squared differences of cosines within the batch.

    Returns:
        The loss, `()`.
    """
    return target_loss(ours, theirs @ projection, theirs @ theirs.T, similarity_weight)


def target_loss(
    ours: torch.Tensor, targets: torch.Tensor, cosines: torch.Tensor, similarity_weight: float = SIMILARITY_WEIGHT
) -> torch.Tensor:
    """Return the loss of a batch for given target vectors and cosines, summed over widths as `matryoshka_loss` does.

    Args:
        ours: Vectors of the student, `(batch, n_embd)`.
        targets: Where they are to point, of the same shape, the directions that tell most first.
        cosines: What their cosines are to be, `(batch, batch)`.
        similarity_weight: Weight of the squared differences of cosines.

    Returns:
        The loss, `()`.
    """
    total = ours.new_zeros(())
    for width, weight in zip(_widths(ours.shape[1]), WIDTH_WEIGHTS, strict=False):
        unit = F.normalize(ours[:, :width], dim=1)
        misses = 1 - (unit * F.normalize(targets[:, :width], dim=1)).sum(1).mean()
        total = total + weight * (misses + similarity_weight * (unit @ unit.T - cosines).square().mean())
    return total


def augmentations(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts as they are, after a space, in lower case: tokens differ by it, and a teacher hardly minds."""
    yield texts
    yield [f" {text}" for text in texts]
    yield [text.lower() for text in texts]


@torch.no_grad()
def fill_rare_positions(model: GPTEmbeddingsModel) -> None:
    """Give positions past those that most texts reach the mean of well-trained ones.

    Hardly any sentence has 60 tokens. Rows that are trained a few times grow with the step of Adam instead of their
    use, and from 80 on outweigh the tokens. With them documents of 142 tokens rank like the teacher's by 0.62, with
    zeros from 64 on by 0.81, with this by 0.83; sentences lose nothing (0.772, 0.773, 0.774).
    """
    first, last = TRAINED_POSITIONS
    table = model.get_parameter("wpe.weight")
    table[last:] = table[first:last].mean(0)


def _widths(n_embd: int) -> list[int]:
    return matryoshka_dims(n_embd)[: len(WIDTH_WEIGHTS)]


def _start(
    texts: _Texts, vectors: Vectors, bags: Bags, tokenizer: PreTrainedTokenizerBase, options: DistilOptions
) -> GPTEmbeddingsModel:
    """Make the model that training starts from: the teacher's vectors of the tokens, projected and weighted."""
    config = GPTEmbeddingsConfig(
        vocab_size=len(texts.tokens),
        n_positions=_limit(tokenizer),
        n_embd=options.n_embd,
        embd_pdrop=0.0,
        position_embedding_type=options.positions,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = GPTEmbeddingsModel(config).eval()
    n = len(texts.tokens)
    projection = principal_directions(
        vectors[n + texts.n_held_out :] if texts.learned else vectors[:n], options.n_embd
    )
    with torch.no_grad():
        model.wte.weight.copy_(initial_rows(texts.tokens, vectors[:n], _counts(texts, bags), projection))
        if options.positions == "learned":
            model.get_parameter("wpe.weight").zero_()
    return model


def _fit(
    model: GPTEmbeddingsModel,
    texts: _Texts,
    tokenizer: PreTrainedTokenizerBase,
    bags: Bags,
    vectors: Vectors,
    similarity_weight: float,
    options: DistilOptions,
    run: RunFolder,
) -> None:
    n_held_out = texts.n_held_out
    projection = principal_directions(vectors[n_held_out:], options.n_embd)
    _, *others = augmentations(texts.learned)
    forms = [bags, *(Bags.of(other, tokenizer, _limit(tokenizer)) for other in others)]

    def loss(rows: Rows, step: int) -> torch.Tensor:
        rows = rows + n_held_out
        form = forms[np.random.default_rng([options.seed, step]).choice(len(forms), p=AUGMENTATION_PROBABILITIES)]
        theirs = torch.from_numpy(vectors[rows].astype(np.float32))  # (batch, width of the teacher)
        return matryoshka_loss(model.embed_bags(*form.take(rows)), theirs, projection, similarity_weight)

    fit_pooled(model, len(bags) - n_held_out, loss, options, run, "Distilling")
    if options.positions == "learned":
        fill_rare_positions(model)


def _choose(
    dataset: Dataset | IterableDataset | None,
    column: str,
    tokenizers: list[PreTrainedTokenizerBase | None],
    options: DistilOptions,
) -> _Texts:
    """Choose what the teacher reads; the first tokenizer is the student's."""
    student = tokenizers[0]
    assert student is not None
    if dataset is None:
        return _Texts(_token_texts(student), None, [])
    sentences = pick_sentences(_read(dataset, column), options.sentences, options.seed)
    known = [tokenizer for tokenizer in tokenizers if tokenizer is not None]
    return _Texts(_token_texts(student), sentences, make_phrases(known, options.phrases, options.seed))


def _describe(texts: _Texts, options: DistilOptions, data_name: str) -> dict[str, str]:
    """Return the metadata that is known before training."""
    if not texts.learned:
        return {
            "Objective": "a teacher's vectors of the tokens, projected and weighted by frequency (as model2vec)",
            "Data": "none",
        }
    return {
        "Objective": "vectors of a teacher (distillation): cosine, and cosines within a batch, at "
        f"{', '.join(map(str, _widths(options.n_embd)))} dimensions",
        "Data": f"{data_name}; {texts.n_learned:,} sentences and {len(texts.phrases):,} phrases of random words",
        "Steps": f"{options.epochs} epochs in batches of {options.batch_size}",
        "Learning rate": f"{options.learning_rate:g}, RowAdam, falling to 0; seed {options.seed}",
    }


def _counts(texts: _Texts, bags: Bags) -> Rows | None:
    return np.bincount(bags.input_ids, minlength=len(texts.tokens)) if texts.learned else None


def _limit(tokenizer: PreTrainedTokenizerBase) -> int:
    return min(tokenizer.model_max_length, MAX_N_POSITIONS)  # where it knows no limit it has a huge number


def _token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return each id as a text without its space; empty for spaces and for pieces of characters."""
    texts = tokenizer.batch_decode([[i] for i in range(vocabulary_rows(tokenizer))])
    return ["" if "\ufffd" in text else text.strip() for text in texts]


def _read(dataset: Dataset | IterableDataset, column: str) -> Iterator[str]:
    batches = read_blocks(dataset.with_format("arrow"), READ_TEXTS, [column])
    for batch in Bar(batches, desc="Reading", unit="batch", leave=False):
        yield from (text for text in batch[column].to_pylist() if text)
