"""Token weights for pooling: smooth inverse frequency (SIF), from the token counts of a corpus.

A frequent token says little about a text. Arora et al. 2017 ("A simple but tough-to-beat baseline for sentence
embeddings") weight each token by a / (a + p), where p is its share of all tokens.
"""

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.sources import read_blocks
from gpt_embeddings.text.tokenizer import check_vocabulary
from gpt_embeddings.training.runs import RunFolder
from modeling_gpt_embeddings import GPTEmbeddingsModel


def fit_token_weights(
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset,
    *,
    a: float = 1e-3,
    column: str = "text",
    batch_size: int = 1000,
) -> npt.NDArray[np.int64]:
    """Count the tokens of a corpus and set the token weights of a model to a / (a + p(token)).

    Args:
        model: The model; its `config.pooling` becomes "weighted", and both are saved with it.
        tokenizer: The tokenizer that belongs to it.
        dataset: The corpus.
        a: The share of all tokens at which a token has weight 1/2; 1e-3 as in the paper. A token that does not occur
            has weight 1.
        column: The column of texts; a null counts as empty.
        batch_size: Texts at a time.

    Returns:
        Counts of shape `(vocab_size,)`.

    Raises:
        ValueError: `a` is not above 0, the column is missing, or there is no token.
    """
    if not 0 < a < float("inf"):
        raise ValueError(f"`a` must be above 0, got {a}.")
    size = model.config.vocab_size
    check_vocabulary(tokenizer, size)
    counts = np.zeros(size, np.int64)
    for batch in read_blocks(dataset, batch_size, [column]):
        input_ids, _ = encode_flat(batch[column].fill_null(""), tokenizer)
        counts += np.bincount(input_ids, minlength=size)
    total = counts.sum()
    if not total:
        raise ValueError(f"Column {column!r} has no token to count. Check the column and the files.")
    model.set_token_weights(a / (a + counts / total))
    return counts


def train_token_weights(
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset,
    output: str | os.PathLike[str],
    *,
    a: float = 1e-3,
    column: str = "text",
    model_name: str = "a model",
    data_name: str = "a dataset",
) -> dict[str, Any]:
    """Call [`fit_token_weights`], save model, tokenizer and metadata, and return the latter."""
    with RunFolder(output, "train weights", tokenizer) as run:
        counts = fit_token_weights(model, tokenizer, dataset, a=a, column=column)
        metadata = {
            "Token weights": f"a / (a + share of the token), a = {a:g}",
            "Data": f"{data_name}; {counts.sum():,} tokens, {(counts > 0).sum():,} distinct ones",
            "Tables": f"of {model_name}",
        }
        return run.save(model, metadata)
