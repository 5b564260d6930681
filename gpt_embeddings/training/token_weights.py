"""How much a token counts in the vector of a text: smooth inverse frequency, from the counts of a corpus.

A token that is everywhere says little of any text. Arora et al. 2017 ("A simple but tough-to-beat baseline for
sentence embeddings") weigh it a / (a + p), where p is its share of all tokens. Left out: the removal of the first
principal component, which they do afterwards and which depends on the set of texts.
"""

import numpy as np
import numpy.typing as npt
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.sources import take_column
from gpt_embeddings.text.tokenizer import check_vocabulary
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
    """Count the tokens of a corpus and have the model pool by their smooth inverse frequency, a / (a + p(token)).

    Args:
        model: The model that gets the weights, and `config.pooling` "weighted"; both are saved with it.
        tokenizer: The tokenizer that belongs to it.
        dataset: The corpus.
        a: Share of all tokens at which a token weighs half; 1e-3 as in the paper. A token that never occurs weighs 1.
        column: The column of texts; a missing (null) text counts as empty.
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
    for batch in dataset.with_format("arrow").iter(batch_size=batch_size):
        input_ids, _ = encode_flat(take_column(batch, column).fill_null(""), tokenizer)
        counts += np.bincount(input_ids, minlength=size)
    total = counts.sum()
    if not total:
        raise ValueError(f"Column {column!r} has no token to count. Is the right column or file given?")
    model.set_token_weights(a / (a + counts / total))
    return counts


__all__ = ["fit_token_weights"]
