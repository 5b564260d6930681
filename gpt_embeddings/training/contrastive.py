"""Contrastive training: the vectors of two texts that belong together become more similar than those of others.

The loss is that of sentence-transformers' MultipleNegativesSymmetricRankingLoss: each first text has to find its own
second text in the batch by cosine, and the other way round (van den Oord et al. 2018; Henderson et al. 2017).
Duplicates within a batch are masked, so that none counts as a negative, which sentence-transformers does not do. Its
trainer also pads every text and updates every row of the table; `training.runs` updates the rows of a batch.
"""

import math
import os
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
from gpt_embeddings.text.tokenizer import check_vocabulary
from gpt_embeddings.training.options import ContrastiveOptions
from gpt_embeddings.training.runs import Bags, Rows, RunFolder
from modeling_gpt_embeddings import GPTEmbeddingsModel


TEMPERATURE = 0.05  # cosines are divided by it: sentence-transformers' scale of 20
SHORTEST = 10  # characters of a sentence in a pair
HELD_OUT = 1000  # pairs for evaluation, at most a tenth of all


def train_contrastive(
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset,
    output: str | os.PathLike[str],
    options: ContrastiveOptions = ContrastiveOptions(),  # noqa: B008 -- frozen
    *,
    columns: tuple[str, str] | None = None,
    column: str = "text",
    data_name: str = "a dataset",
) -> dict[str, Any]:
    """Train on pairs of texts, and save model, tokenizer and metadata; the same call continues an unfinished run.

    Args:
        model: The model, fresh or trained; it is trained in place, with its own pooling.
        tokenizer: The tokenizer that belongs to it.
        dataset: The pairs, or text.
        output: Folder to make; it appears when the run is complete.
        options: How to train.
        columns: The two columns of pairs; None pairs each sentence of `column` with the next one.
        column: The column of texts, without `columns`.
        data_name: Name of the data in the metadata.

    Returns:
        The content of `training_metadata.json`: data, steps, recall@1 of held-out pairs before and after, versions.

    Raises:
        ValueError: There are too few pairs; and what [`RunFolder`] raises.
    """
    check_vocabulary(tokenizer, model.config.vocab_size)
    read: list[tuple[str, str]] = []
    skipped = 0
    for batch in Bar(read_blocks(dataset, 1000, columns or [column]), desc="Reading", unit="batch", leave=False):
        if columns is None:
            for text in batch[column].to_pylist():
                sentences = [sentence for sentence in split_sentences(text or "") if len(sentence) >= SHORTEST]
                read += [(a, b) for a, b in pairwise(sentences) if a != b]
        else:
            found = [pair for pair in zip(*(batch[name].to_pylist() for name in columns), strict=True) if all(pair)]
            skipped += batch.num_rows - len(found)
            read += found
    pairs = _Pairs(read, tokenizer, model.config.n_positions)
    settings = {
        "columns": columns or column,
        "data": data_name,
        "pairs": pairs.texts.digest(),
        "n_embd": model.config.n_embd,
        "pooling": model.config.pooling,
    }
    with RunFolder(output, "train contrastive", tokenizer, options, **settings) as run:
        before = pairs.evaluate(model)
        steps = run.fit(model, pairs.n_learned, lambda rows, _: pairs.loss(model, rows))
        after = pairs.evaluate(model)
        metadata = {
            "Objective": f"pairs of texts (contrastive, negatives in the batch), temperature {TEMPERATURE}",
            "Data": f"{data_name}; {pairs.n_learned:,} pairs, {pairs.n_pairs - pairs.n_learned:,} held out"
            + (f", {skipped:,} rows skipped without both texts" if skipped else ""),
            **steps,
            "Recall@1 of held-out pairs": f"{before:.1%} at the start, {after:.1%} trained",
        }
        return run.save(model, metadata)


class _Pairs:
    """Pairs of texts as token ids; the last ones are held out."""

    def __init__(self, pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        if len(pairs) < 4:
            raise ValueError(
                f"The data has {len(pairs)} pairs; at least 4 are needed, and thousands to learn anything. Give more "
                "text, or other columns."
            )
        self.texts = Bags.of([pair[side] for side in (0, 1) for pair in pairs], tokenizer, limit)  # firsts, seconds
        self.numbers = self.texts.numbers()
        self.n_pairs = len(pairs)
        self.n_learned = self.n_pairs - max(1, min(HELD_OUT, self.n_pairs // 10))

    def loss(self, model: GPTEmbeddingsModel, rows: Rows) -> torch.Tensor:
        scores = self._cosines(model, rows) / TEMPERATURE
        right = torch.arange(len(rows), device=scores.device)
        return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2

    @torch.no_grad()
    def evaluate(self, model: GPTEmbeddingsModel) -> float:
        """Return recall@1: the share of held-out first texts whose most similar second text is their own."""
        rows = np.arange(self.n_learned, self.n_pairs)
        nearest = self._cosines(model, rows).argmax(1).cpu()
        return float((nearest == torch.arange(len(rows))).float().mean())

    def _cosines(self, model: GPTEmbeddingsModel, rows: Rows) -> torch.Tensor:
        """Return the cosines of first and second texts, `(batch, batch)`, with the pairs on the diagonal."""
        sides = rows, rows + self.n_pairs
        vectors = [F.normalize(model.embed_bags(*self.texts.take(side)), dim=1) for side in sides]
        first, second = (np.unique(self.numbers[side], return_inverse=True)[1] for side in sides)
        paired = np.zeros((len(rows), len(rows)), bool)  # which distinct texts belong together
        paired[first, second] = True
        # A second text that belongs to another first one too, or is that one itself, is no negative of it.
        masked = paired[np.ix_(first, second)] | (self.numbers[sides[0]][:, None] == self.numbers[sides[1]])
        np.fill_diagonal(masked, False)
        cosines = vectors[0] @ vectors[1].T
        return cosines.masked_fill(torch.from_numpy(masked).to(cosines.device), -math.inf)
