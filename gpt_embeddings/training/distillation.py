"""Distillation: a table whose mean of token rows comes near a teacher's vectors of whole texts.

A row starts at the teacher's vector of the token as a text, as model2vec has it ([`initial_rows`]), and needs no data.
Then means of rows are trained on sentences, and on phrases of random words, so that words which the data lacks are
learned too. Each width has a loss of its own over the teacher's principal components, so that the first dimensions
serve alone ([`matryoshka_loss`]; Matryoshka representation learning, Kusupati et al. 2022).
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from configuration_gpt_embeddings import INTEGER_RANGES, GPTEmbeddingsConfig
from gpt_embeddings.analysis.evaluation import matryoshka_dims, similar_pairs, spearman
from gpt_embeddings.analysis.neighbours import Neighbours
from gpt_embeddings.analysis.readable_tokens import whole_words
from gpt_embeddings.outputs import write_json
from gpt_embeddings.progress import Bar
from gpt_embeddings.text.sentences import SHORTEST, pick_sentences
from gpt_embeddings.text.sources import read_blocks
from gpt_embeddings.text.tokenizer import vocabulary_rows
from gpt_embeddings.training.options import DistilOptions
from gpt_embeddings.training.runs import Bags, Rows, RunFolder
from gpt_embeddings.training.teacher import encode_texts, load_teacher
from modeling_gpt_embeddings import GPTEmbeddingsModel


LEAST_SENTENCES = 30
HELD_OUT = 2000  # sentences for evaluation, at most a tenth of all
WEIGHT_SHARE = 1e-4  # a in a / (a + p)
SIMILARITY_WEIGHT = 10.0  # weight of the squared differences of cosines
ANISOTROPIC_SIMILARITY_WEIGHT = 30.0  # for a teacher whose vectors lie in a narrow cone
WIDTH_WEIGHTS = (1.0, 0.4, 0.3, 0.3)  # of the losses of all dimensions, half of them, ...
AUGMENTATION_PROBABILITIES = (0.8, 0.1, 0.1)  # of the texts as they are, after a space, in lower case
ANISOTROPIC = 0.5  # mean cosine of a teacher's vectors from which they are centred
SHOWN_RANKS = (10, 50, 100, 200, 400, 800)  # frequency ranks of the words whose neighbours are reported

Vectors = npt.NDArray[np.floating[Any]]


def distil(
    teacher: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset | None,
    output: str | os.PathLike[str],
    options: DistilOptions = DistilOptions(),  # noqa: B008 -- frozen
    *,
    column: str = "text",
    data_name: str = "a dataset",
) -> dict[str, Any]:
    """Distil a teacher into a table, and save model, tokenizer and metadata; the same call continues a run.

    Args:
        teacher: Folder or Hub name of a sentence-transformers model; `package.module:function`, for a function that
            takes a list of texts and returns vectors; or any object with such an `encode`.
        tokenizer: Tokenizer of the student; its ids are the rows of the table.
        dataset: The texts; None returns the table as it starts, without training.
        output: Folder to make; it appears when the run is complete.
        options: How to distil.
        column: The column of texts.
        data_name: Name of the data in the metadata.

    Returns:
        The content of `training_metadata.json`: teacher, data, steps, Spearman correlations and nearest words before
        and after, versions.

    Raises:
        ImportError: sentence-transformers is not installed.
        OSError: The teacher could not be loaded.
        TypeError: The teacher has no `encode`.
        ValueError: The data has too few sentences, or the teacher does not return a finite vector for each text; and
            what [`RunFolder`] raises.
    """
    if dataset is None and options.init == "random":
        raise ValueError("`init` is 'random', but without data nothing is trained: give data, or `init='teacher'`.")
    loaded = load_teacher(teacher)
    width = loaded.probe.shape[1]
    if options.n_embd > width:
        raise ValueError(f"`n_embd` is {options.n_embd}, but the teacher's vectors have {width} dimensions.")
    settings = {"teacher": loaded.name, "column": column, "data": data_name}
    with RunFolder(output, "train distil", tokenizer, options, **settings) as run:
        file = run.folder / "texts.json"
        if not file.is_file():
            write_json(_choose_texts(dataset, column, tokenizer, loaded.tokenizer, options), file)
        chosen = json.loads(file.read_text(encoding="utf-8"))
        tokens, sentences, phrases = chosen["tokens"], chosen["sentences"], chosen["phrases"]
        Bar.write(
            f"The teacher reads {len(sentences):,} sentences, {len(phrases):,} phrases and {len(tokens):,} tokens of "
            "the vocabulary (none of these with `init='random'`, --init random).",
            file=sys.stderr,
        )
        texts, n_held_out = sentences + phrases, min(HELD_OUT, len(sentences) // 10)
        vectors = encode_texts(loaded, tokens + texts, run.folder / "teacher")
        pairs = similar_pairs(vectors[len(tokens) :][:n_held_out]) if n_held_out else None
        first = len(tokens) if texts else 0  # of the vectors that are learned from: of texts, else of tokens
        anisotropic = mean_cosine(vectors[first:]) > ANISOTROPIC
        if anisotropic:
            vectors = center(vectors, first)
        targets = vectors[first:]
        projection = principal_directions(targets[n_held_out:], options.n_embd)
        # The tokenizer has a huge number where it has no limit.
        limit = min(tokenizer.model_max_length, INTEGER_RANGES["n_positions"][1])
        bags = [Bags.of(augmented, tokenizer, limit) for augmented in augmentations(texts)]
        counts = np.bincount(bags[0].input_ids, minlength=vocabulary_rows(tokenizer)) if texts else None
        model = _start_model(tokens, vectors, counts, projection, tokenizer, limit, options)
        results, steps = _evaluate(model, tokenizer, counts, bags[0], pairs), {}
        metadata = {
            "Objective": "a teacher's vectors of the tokens, projected and weighted by frequency (as model2vec)",
            "Data": "none",
        }
        if texts:
            weight = ANISOTROPIC_SIMILARITY_WEIGHT if anisotropic else SIMILARITY_WEIGHT

            def loss(rows: Rows, step: int) -> torch.Tensor:
                rows = rows + n_held_out
                random = np.random.default_rng([options.seed, step])
                ours = model.embed_bags(*bags[random.choice(len(bags), p=AUGMENTATION_PROBABILITIES)].take(rows))
                theirs = torch.from_numpy(targets[rows].astype(np.float32))  # (batch, width of the teacher)
                return matryoshka_loss(ours, theirs, projection, weight)

            initial = model.wte.weight.detach().clone()
            steps = run.fit(model, len(texts) - n_held_out, loss, desc="Distilling")
            if options.init == "random":  # zeros in rows that no step has changed leave a mean its direction
                with torch.no_grad():
                    model.wte.weight[(model.wte.weight == initial).all(1)] = 0
            if options.positions == "learned":
                fill_rare_positions(model)
            trained = _evaluate(model, tokenizer, counts, bags[0], pairs)
            results = {name: f"{results[name]} at the start, {trained[name]} trained" for name in trained}
            widths = ", ".join(map(str, matryoshka_dims(options.n_embd)[: len(WIDTH_WEIGHTS)]))
            n_sentences = len(sentences) - n_held_out
            metadata = {
                "Objective": f"vectors of a teacher (distillation): cosine, cosines within a batch, at {widths} "
                "dimensions",
                "Data": f"{data_name}; {n_sentences:,} sentences and {len(phrases):,} phrases of random words",
            }
        metadata |= steps | {"Teacher": f"{loaded.name}, {width} dimensions{', centred' if anisotropic else ''}"}
        return run.save(model, metadata | results, *[loaded.package] if loaded.package else [])


def _choose_texts(
    dataset: Dataset | IterableDataset | None,
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
    options: DistilOptions,
) -> dict[str, list[str]]:
    """Return what the teacher reads: tokens, empty for spaces and parts of characters, sentences and phrases."""
    tokens = []
    if options.init == "teacher":
        decoded = tokenizer.batch_decode([[i] for i in range(vocabulary_rows(tokenizer))])
        tokens = ["" if "\ufffd" in text else text.strip() for text in decoded]
    if dataset is None:
        return {"tokens": tokens, "sentences": [], "phrases": []}
    batches = Bar(read_blocks(dataset, 1000, [column]), desc="Reading", unit="batch", leave=False)
    texts = (text for batch in batches for text in batch[column].to_pylist() if text)
    sentences = pick_sentences(texts, options.sentences, options.seed)
    if len(sentences) < LEAST_SENTENCES:
        raise ValueError(
            f"The data has {len(sentences)} distinct sentences of at least {SHORTEST} characters; distillation needs "
            f"{LEAST_SENTENCES}, and begins to pay off at some 10,000. Give more text, or another column."
        )
    tokenizers = [tokenizer, *([teacher_tokenizer] if teacher_tokenizer is not None else [])]
    phrases = make_phrases(tokenizers, options.phrases, options.seed)
    return {"tokens": tokens, "sentences": sentences, "phrases": phrases}


def make_phrases(tokenizers: Iterable[PreTrainedTokenizerBase], n: int, seed: int) -> list[str]:
    """Return phrases of 2 to 8 random words of the vocabularies; every second one begins with a capital."""
    words = sorted({word for tokenizer in tokenizers for word in whole_words(tokenizer)})
    if not words or not n:
        return []
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 8, n, endpoint=True)
    drawn = np.split(rng.integers(len(words), size=lengths.sum()), lengths.cumsum()[:-1])
    phrases = (" ".join(words[j] for j in numbers) for numbers in drawn)
    return [phrase[0].upper() + phrase[1:] if i % 2 else phrase for i, phrase in enumerate(phrases)]


def _start_model(
    tokens: list[str],
    vectors: Vectors,
    counts: Rows | None,
    projection: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    n_positions: int,
    options: DistilOptions,
) -> GPTEmbeddingsModel:
    """Return the table before training: of the teacher's vectors of the tokens if it has read them, else random."""
    config = GPTEmbeddingsConfig(
        vocab_size=vocabulary_rows(tokenizer),
        n_positions=n_positions,
        n_embd=options.n_embd,
        embd_pdrop=0.0,
        position_embedding_type=options.positions,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(options.seed)
        model = GPTEmbeddingsModel(config).eval()
        if tokens:
            model.wte.weight.copy_(initial_rows(tokens, vectors[: len(tokens)], counts, projection))
        if options.positions == "learned":
            model.get_parameter("wpe.weight").zero_()
    return model


@torch.no_grad()
def _evaluate(
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    counts: Rows | None,
    bags: Bags,
    pairs: tuple[Rows, Rows, Vectors] | None,
) -> dict[str, str]:
    """Compare held-out pairs, the first of the bags, with the teacher; find the nearest words of frequent ones."""
    ids, results = whole_words(tokenizer), {}
    if counts is None:
        counts = np.arange(model.config.vocab_size, 0, -1)  # vocabularies are roughly sorted by frequency
    if pairs is not None:
        first, second, cosines = pairs
        vectors = model.embed_bags(*bags.take(np.arange(len(first))))
        widths, found = matryoshka_dims(model.config.n_embd)[: len(WIDTH_WEIGHTS)], []
        for width in widths:
            ours = F.normalize(vectors[:, :width], dim=1).numpy()
            found.append(f"{spearman((ours[first] * ours[second]).sum(1), cosines):.3f}")
        more = f" ({', '.join(found[1:])} by the first {', '.join(map(str, widths[1:]))})" if found[1:] else ""
        results["Spearman correlation with the teacher on held-out pairs"] = found[0] + more
    index = Neighbours(model, tokenizer, ids.values())
    known = sorted((-counts[i], word) for word, i in ids.items() if len(word) > 3 and counts[i])
    for word in [known[rank][1] for rank in SHOWN_RANKS if rank < len(known)]:
        nearest = index.nearest(index.table[ids[word]], 5, [ids[word]])
        results[f"Nearest to {word!r}"] = ", ".join(near.text.lstrip("␣") for near in nearest)
    return results


def mean_cosine(vectors: Vectors) -> float:
    """Return the mean cosine of pairs of these unit vectors; near 1 if they lie in a narrow cone (anisotropy)."""
    return float(np.square(vectors.mean(0, dtype=np.float64)).sum())


def center(vectors: Vectors, first: int) -> Vectors:
    """Subtract the mean of the vectors from `first` on, and scale each to length 1."""
    mean = vectors[first:].mean(0, dtype=np.float64).astype(np.float32)
    result = np.empty(vectors.shape, np.float16)
    for i in range(0, len(vectors), 2**14):
        part = vectors[i : i + 2**14].astype(np.float32) - mean
        result[i : i + 2**14] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6)
    return result


def principal_directions(vectors: Vectors, n_embd: int) -> torch.Tensor:
    """Return the principal components of vectors, `(width, n_embd)`, without centring, as cosines are not centred."""
    width = vectors.shape[1]
    products = torch.zeros(width, width, dtype=torch.float64)
    for i in range(0, len(vectors), 2**14):
        part = torch.from_numpy(vectors[i : i + 2**14].astype(np.float64))
        products.addmm_(part.T, part)
    return torch.linalg.eigh(products).eigenvectors.flip(1)[:, :n_embd].float()


def initial_rows(tokens: list[str], vectors: Vectors, counts: Rows | None, projection: torch.Tensor) -> torch.Tensor:
    """Return the teacher's vectors of tokens, projected and weighted by a / (a + share of the token).

    Tokens are texts, empty for pieces of characters, whose rows are zeros; `vectors` are the teacher's, `(n_tokens,
    width)`; `counts` of the tokens in the data are None without data; `projection` is of shape `(width, n_embd)`.
    """
    zipf = 1 / np.arange(2, len(tokens) + 2)  # byte-pair vocabularies are roughly sorted by frequency
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
    """Return the loss of a batch, summed over all dimensions, the first half of them, the first quarter, and so on.

    `ours` are of shape `(batch, n_embd)`, `theirs`, of length 1, `(batch, width)`, and `projection` `(width, n_embd)`,
    the principal components first. `similarity_weight` is that of the squared differences of cosines in the batch.
    """
    targets, cosines = theirs @ projection, theirs @ theirs.T
    total = ours.new_zeros(())
    for width, weight in zip(matryoshka_dims(ours.shape[1]), WIDTH_WEIGHTS, strict=False):
        unit = F.normalize(ours[:, :width], dim=1)
        misses = 1 - (unit * F.normalize(targets[:, :width], dim=1)).sum(1).mean()
        total = total + weight * (misses + similarity_weight * (unit @ unit.T - cosines).square().mean())
    return total


def augmentations(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts as they are, after a space, and in lower case: other tokens, but nearly the same meaning."""
    yield texts
    yield [f" {text}" for text in texts]
    yield [text.lower() for text in texts]


@torch.no_grad()
def fill_rare_positions(model: GPTEmbeddingsModel) -> None:
    """Fill the positions that few texts reach, from 32 on, with the mean of the well-trained rows 8 to 31.

    Hardly any sentence has 60 tokens. Adam's step is as large for a row with few gradients as for the others, so rare
    positions grow, and from 80 on outweigh the tokens. On documents of 142 tokens the Spearman correlation with the
    teacher is 0.62 with such rows, 0.81 with zeros from 64 on, 0.83 with this; on sentences 0.772, 0.773 and 0.774.
    """
    table = model.get_parameter("wpe.weight")
    table[32:] = table[8:32].mean(0)
