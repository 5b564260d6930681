"""Contrastive training: the vectors of two texts that belong together, nearer to each other than to all others.

The loss is that of sentence-transformers' MultipleNegativesRankingLoss, in both directions: among the second texts of
a batch each first text has to find its own by cosine, and the other way round (van den Oord et al. 2018; Henderson et
al. 2017). sentence-transformers' trainer is not used: it pads every text and keeps dense gradients of the table, at
many times the cost of a step of `gpt_embeddings.training.pooled_loop`.

A text that occurs several times in a batch is no negative of what it belongs to there. Left out: hard negatives, and
more than two texts a row.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.progress import Bar
from gpt_embeddings.text.sentences import split_sentences
from gpt_embeddings.text.sources import read_blocks
from gpt_embeddings.text.tokenizer import check_vocabulary, tokenizer_digest
from gpt_embeddings.training.pooled_loop import Bags, PooledOptions, Rows, fit_pooled
from gpt_embeddings.training.runs import RunFolder, versions
from modeling_gpt_embeddings import GPTEmbeddingsModel


TEMPERATURE = 0.05  # cosines are divided by it: sentence-transformers' scale of 20
SHORTEST = 10  # characters of a sentence that is worth a pair
HELD_OUT = 1000  # pairs, and at most a tenth of all, on which training is evaluated
READ_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class ContrastiveOptions(PooledOptions):
    """How a model is trained on pairs."""

    batch_size: int = 512
    """Pairs of a step; each has all others of them for negatives."""

    epochs: int = 3
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 2:
            raise ValueError(f"`batch_size` must be at least 2, got {self.batch_size}: others are the negatives.")


def train_contrastive(
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset,
    output: str | os.PathLike[str],
    options: ContrastiveOptions = ContrastiveOptions(),
    *,
    columns: tuple[str, str] | None = None,
    column: str = "text",
    data_name: str = "a dataset",
) -> dict[str, Any]:
    """Train on pairs of texts, and save model, tokenizer and the metadata of the run.

    The same call goes on after an interruption, a full disk or SIGKILL, and ends with the very same weights as a run
    that was left alone (on the same machine, with the same number of threads).

    Args:
        model: The model, fresh or trained; it is trained in place, by its own pooling.
        tokenizer: The tokenizer that belongs to it.
        dataset: The pairs, or text.
        output: Folder to make; it appears when the run is complete.
        options: How to train.
        columns: The two columns of pairs; None takes sentences of `column` that follow each other.
        column: The column of texts, without `columns`.
        data_name: What the metadata calls the data.

    Returns:
        The metadata that `training_metadata.json` has: data, steps, how many held-out pairs are found before and
        after, versions.

    Raises:
        OSError: The output exists, or could not be written; the last good checkpoint stays.
        ValueError: There are too few pairs, the settings are not those of the unfinished run at this place, or the
            loss is not finite.
    """
    check_vocabulary(tokenizer, model.config.vocab_size)
    pairs = _Pairs(list(_pairs(dataset, columns, column)), tokenizer, model.config.n_positions)
    settings = {
        **asdict(options),
        "tokenizer": tokenizer_digest(tokenizer),
        "columns": columns or column,
        "data": data_name,
        "pairs": len(pairs),
        "n_embd": model.config.n_embd,
        "pooling": model.config.pooling,
    }
    with RunFolder(output, "train contrastive", settings) as run:
        before = pairs.evaluate(model)
        fit_pooled(model, pairs.n_learned, lambda rows, _: pairs.loss(model, rows), options, run, "Contrasting")
        after = pairs.evaluate(model)
        metadata = {
            "Objective": f"pairs against the others of a batch (contrastive), temperature {TEMPERATURE}",
            "Data": f"{data_name}; {pairs.n_learned:,} pairs, {len(pairs) - pairs.n_learned:,} held out",
            "Steps": f"{options.epochs} epochs in batches of {options.batch_size}",
            "Learning rate": f"{options.learning_rate:g}, RowAdam, falling to 0; seed {options.seed}",
            "Held-out pairs of which one finds the other": f"{before:.1%} at the start, {after:.1%} trained",
            "Versions": versions(),
        }
        run.save(model, tokenizer, metadata)
    return metadata


class _Pairs:
    """Pairs of texts as ids; those at the end are held out."""

    def __init__(self, pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        if len(pairs) < 4:
            raise ValueError(
                f"The data has {len(pairs)} pairs; at least 4 are needed, and thousands to learn anything. Give more "
                "text, or the right columns."
            )
        self.texts = Bags.of([pair[side] for side in (0, 1) for pair in pairs], tokenizer, limit)  # firsts, seconds
        self.numbers = self.texts.numbers()
        self.n_pairs = len(pairs)
        self.n_learned = self.n_pairs - max(1, min(HELD_OUT, self.n_pairs // 10))

    def __len__(self) -> int:
        return self.n_pairs

    def loss(self, model: GPTEmbeddingsModel, rows: Rows) -> torch.Tensor:
        scores = self._cosines(model, rows) / TEMPERATURE
        right = torch.arange(len(rows), device=scores.device)
        return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2

    @torch.no_grad()
    def evaluate(self, model: GPTEmbeddingsModel) -> float:
        """Return the share of held-out first texts whose nearest second text is their own."""
        rows = np.arange(self.n_learned, len(self))
        nearest = self._cosines(model, rows).argmax(1).cpu()
        return float((nearest == torch.arange(len(rows))).float().mean())

    def _cosines(self, model: GPTEmbeddingsModel, rows: Rows) -> torch.Tensor:
        """Return cosines of firsts and seconds, `(batch, batch)`, each pair's own on the diagonal.

        Where a second is another right answer to a first, or the first itself, which are no negatives, it is -inf.
        """
        sides = rows, rows + self.n_pairs
        vectors = [F.normalize(model.embed_bags(*self.texts.take(side)), dim=1) for side in sides]
        first, second = (np.unique(self.numbers[side], return_inverse=True)[1] for side in sides)
        paired = np.zeros((len(rows), len(rows)), bool)  # which of the batch's distinct texts belong together
        paired[first, second] = True
        masked = paired[np.ix_(first, second)] | (self.numbers[sides[0]][:, None] == self.numbers[sides[1]])
        np.fill_diagonal(masked, False)
        cosines = vectors[0] @ vectors[1].T
        return cosines.masked_fill(torch.from_numpy(masked).to(cosines.device), -math.inf)


def _pairs(
    dataset: Dataset | IterableDataset, columns: tuple[str, str] | None, column: str
) -> Iterator[tuple[str, str]]:
    batches = read_blocks(dataset.with_format("arrow"), READ_ROWS, columns or [column])
    for batch in Bar(batches, desc="Reading", unit="batch", leave=False):
        texts = [batch[name].to_pylist() for name in columns or [column]]
        if columns is not None:
            yield from (pair for pair in zip(*texts, strict=True) if all(pair))
            continue
        for text in texts[0]:
            sentences = [sentence for sentence in split_sentences(text or "") if len(sentence) >= SHORTEST]
            yield from ((a, b) for a, b in pairwise(sentences) if a != b)
