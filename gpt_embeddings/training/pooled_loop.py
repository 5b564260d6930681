"""Training on pooled vectors: a loop whose steps update the rows of a batch alone, and that resumes bit for bit.

The objective is a loss of the pooled vectors of some texts, as `distillation`, `contrastive` and
`classification` have it.
`transformers.Trainer` does not suit it: it pads texts, and its optimizers update every row of the table, which costs
many times the few milliseconds of a step on 256 sentences. Left out: the objectives, and next-token training (`clm`).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.progress import Bar
from gpt_embeddings.text.encoding import Texts, encode_flat
from gpt_embeddings.text.flat_ids import FlatIds, take_spans
from gpt_embeddings.training.options import TrainingOptions
from gpt_embeddings.training.row_adam import RowAdam
from gpt_embeddings.training.runs import RunFolder, non_finite_error
from modeling_gpt_embeddings import GPTEmbeddingsPreTrainedModel


SHOWN_STEPS = 50  # the bar shows a running mean of the loss
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bags:
    """Token ids of many texts as one flat array with offsets, from which texts can be taken."""

    input_ids: npt.NDArray[np.int32]
    """Shape `(n_tokens,)`."""

    offsets: npt.NDArray[np.int64]
    """Shape `(n_texts + 1,)`: text i is `input_ids[offsets[i]:offsets[i + 1]]`."""

    @classmethod
    def of(cls, texts: Texts, tokenizer: PreTrainedTokenizerBase, limit: int) -> "Bags":
        """Encode texts, each truncated to `limit` tokens.

        >>> from gpt_embeddings import load_tokenizer
        >>> bags = Bags.of(["the tide", "came in again"], load_tokenizer(), limit=2)
        >>> bags.offsets.tolist(), [part.tolist() for part in bags.take([1, 0])]
        ([0, 2, 4], [[66, 480, 1169, 20013], [0, 2, 4]])
        """
        return cls(*encode_flat(texts, tokenizer, max_length=limit))

    def numbers(self) -> Rows:
        """Return a number for each text; equal texts have equal numbers.

        >>> Bags(np.array([5, 5, 7, 5, 5], np.int32), np.array([0, 2, 3, 5])).numbers().tolist()
        [0, 1, 0]
        """
        buffers = [None, pa.py_buffer(self.offsets * self.input_ids.itemsize), pa.py_buffer(self.input_ids)]
        texts = pa.Array.from_buffers(pa.large_binary(), len(self), buffers)
        return texts.dictionary_encode().indices.to_numpy().astype(np.int64)

    def digest(self, *more: npt.NDArray[np.int64]) -> str:
        """Return a hash of the texts and of more arrays, by which a run knows its data again."""
        content = self.offsets.tobytes() + self.input_ids.tobytes() + b"".join(array.tobytes() for array in more)
        return blake2b(content, digest_size=16).hexdigest()

    def take(self, rows: Rows | list[int]) -> FlatIds:
        """Return ids and offsets of some of the texts."""
        return take_spans(self.input_ids, self.offsets[:-1][rows], np.diff(self.offsets)[rows])

    def __len__(self) -> int:
        return len(self.offsets) - 1


def fit_pooled(
    model: GPTEmbeddingsPreTrainedModel,
    n_examples: int,
    loss: Callable[[Rows, int], torch.Tensor],
    options: TrainingOptions,
    run: RunFolder,
    title: str,
) -> None:
    """Minimize a loss of pooled vectors, from the last checkpoint of the run if there is one.

    The order of examples depends on seed and epoch alone. An epoch leaves out the last examples that fill no batch.

    Args:
        model: The model; it is trained in place.
        n_examples: Number of examples.
        loss: Takes row numbers of examples and the step, returns their mean loss.
        options: How to train.
        run: Where checkpoints are stored.
        title: Label of the progress bar.
    """
    optimizer = RowAdam([p for p in model.parameters() if p.requires_grad], lr=options.learning_rate)
    step, per_epoch = 0, max(1, n_examples // options.batch_size)
    n_steps = per_epoch * int(options.epochs)
    saved = run.load_state()
    if saved is not None:
        step = saved["step"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    shown, order = float("nan"), None
    with _sparse_gradients(model), Bar(total=n_steps, initial=step, desc=title, unit="step") as bar:
        while step < n_steps:
            epoch, place = divmod(step, per_epoch)
            if order is None or place == 0:
                order = np.random.default_rng([options.seed, epoch]).permutation(n_examples)
            optimizer.param_groups[0]["lr"] = options.learning_rate * (1 - step / n_steps)
            value = loss(order[place * options.batch_size : (place + 1) * options.batch_size], step)
            number = value.item()
            if not math.isfinite(number):
                raise non_finite_error(step, f"the loss is {number}")
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            step += 1
            shown = number if shown != shown else shown + (number - shown) / SHOWN_STEPS
            bar.update()
            bar.set_postfix({"loss": f"{shown:.4f}"}, refresh=False)
            if step % options.save_steps == 0 or step == n_steps:
                run.save_state(step, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})


@contextmanager
def _sparse_gradients(model: GPTEmbeddingsPreTrainedModel) -> Iterator[None]:
    """Give the token table sparse gradients, and clear the gradients at the end."""
    wte: Any = model.base_model.wte
    sparse, wte.sparse = wte.sparse, True
    try:
        yield
    finally:
        wte.sparse = sparse
        model.zero_grad()
