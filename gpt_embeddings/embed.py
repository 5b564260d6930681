"""Whole datasets turned into vectors through `map()`.

A batch of texts becomes flat ids, the ids become means (`GPTEmbeddingsModel.embed_bags`), and the means become an
Arrow column over the same memory. Left out: search, and anything that trains.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.tokenization import encode_flat
from modeling_gpt_embeddings import GPTEmbeddingsModel


class Embedder:
    """A function for `Dataset.map` on Arrow batches that adds a column with the mean vector of each text.

    Args:
        model: The model; it is put into evaluation mode by the caller where dropout matters (bags have none).
        tokenizer: A fast tokenizer whose ids the model's vocabulary holds.
        column: The column of texts; a missing (null) text counts as empty.
        output_column: The column to add, a fixed-size list of float32.

    Raises:
        ValueError: The tokenizer can give ids that the model does not have.
    """

    def __init__(
        self,
        model: GPTEmbeddingsModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        column: str = "text",
        output_column: str = "embedding",
    ) -> None:
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} entries, more than the model's `vocab_size` "
                f"{model.config.vocab_size}. Give the tokenizer that belongs to the model."
            )
        self.model, self.tokenizer = model, tokenizer
        self.column, self.output_column = column, output_column

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the batch with the vectors as one more column."""
        texts = ["" if text is None else text for text in batch[self.column].to_pylist()]
        input_ids, offsets = encode_flat(texts, self.tokenizer)
        with torch.inference_mode():
            vectors = self.model.embed_bags(input_ids, offsets).float().cpu().numpy()  # (n_documents, n_embd)
        values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
        return batch.append_column(self.output_column, column)


def embed_dataset(
    dataset: Dataset,
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    column: str = "text",
    output_column: str = "embedding",
    batch_size: int = 1000,
    **map_options: Any,
) -> Dataset:
    """Embed a column of a dataset, in Arrow from end to end.

    Args:
        dataset: Any map-style dataset.
        model: The model.
        tokenizer: The tokenizer that belongs to it.
        column: The column of texts.
        output_column: The column to add.
        batch_size: Texts at a time.
        map_options: Further options of `Dataset.map`, such as `desc`.

    Returns:
        The dataset with `output_column`, a fixed-size list of `n_embd` float32.

    Raises:
        ValueError: The column is missing, the output column exists, or tokenizer and model do not fit.
    """
    if column not in dataset.column_names:
        raise ValueError(f"There is no column {column!r}; the columns are {', '.join(dataset.column_names)}.")
    if output_column in dataset.column_names:
        raise ValueError(f"The dataset already has a column {output_column!r}; remove it or name another.")
    embedder = Embedder(model, tokenizer, column=column, output_column=output_column)
    vectors = List(Value("float32"), length=model.config.n_embd)
    features = Features({**dataset.features, output_column: vectors})
    embedded = dataset.with_format("arrow").map(
        embedder, batched=True, batch_size=batch_size, features=features, **map_options
    )
    return embedded.with_format(None)


__all__ = ["Embedder", "embed_dataset"]
