"""Training runs that can be killed at any moment: texts as ids, one loop for all objectives, folder and checkpoint.

During a run the folder that `outputs` provides holds the prepared data and the checkpoint, one file that is replaced.
After an interruption, a full disk or SIGKILL the same call continues, and ends with the same weights as a run without
interruption (on the same machine, with the same number of threads).

`transformers.Trainer` does not suit objectives on pooled vectors: it pads texts, and its optimizers update every row
of the table, which costs many times the few milliseconds of a step on 256 sentences.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.checkpoints.saving import save_model_and_tokenizer
from gpt_embeddings.outputs import AtomicOutput, atomic_file
from gpt_embeddings.progress import Bar
from gpt_embeddings.text.encoding import Texts, encode_flat
from gpt_embeddings.text.tokenizer import FlatIds, take_spans, tokenizer_digest
from gpt_embeddings.training.options import TrainingOptions
from gpt_embeddings.training.row_adam import RowAdam
from modeling_gpt_embeddings import GPTEmbeddingsPreTrainedModel


SHOWN_STEPS = 50  # the bar shows a running mean of the loss

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bags:
    """Texts as token ids: `input_ids[offsets[i]:offsets[i + 1]]` is text i."""

    input_ids: npt.NDArray[np.int32]  # (n_tokens,)
    offsets: Rows  # (n_texts + 1,)

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

    def digest(self, *more: Rows) -> str:
        """Return a hash of the texts and of more arrays, by which a run knows its data again."""
        content = self.offsets.tobytes() + self.input_ids.tobytes() + b"".join(array.tobytes() for array in more)
        return blake2b(content, digest_size=16).hexdigest()

    def take(self, rows: Rows | list[int]) -> FlatIds:
        """Return ids and offsets of some of the texts."""
        return take_spans(self.input_ids, self.offsets[:-1][rows], np.diff(self.offsets)[rows])

    def __len__(self) -> int:
        return len(self.offsets) - 1


@contextmanager
def resumable_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which replaces one that a run continues from when it is complete."""
    try:
        with atomic_file(path) as partial, partial.open("wb") as file:
            yield file
    except (OSError, RuntimeError) as error:  # torch raises the latter on a full disk
        reason = str(error).split("\n", 1)[0]
        raise OSError(
            f"{str(path)!r} could not be written: {reason}. Free some disk space and run the same command again: it "
            "continues where it was."
        ) from error


class RunFolder(AtomicOutput):
    """The output of a run of the command `kind`, with its checkpoint.

    A run continues if options, tokenizer and `settings` (JSON-serializable) are the same. One without options has no
    steps, and starts anew each time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        tokenizer: PreTrainedTokenizerBase,
        options: TrainingOptions | None = None,
        **settings: Any,
    ) -> None:
        self.tokenizer, self.options = tokenizer, options
        if options is not None:
            settings |= {**asdict(options), "tokenizer": tokenizer_digest(tokenizer)}
        super().__init__(path, kind, settings or None)

    def save_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the state after a step: tensors, numbers and containers of them."""
        with resumable_file(self.folder / "state.pt") as file:
            torch.save({"step": step, **state}, file)

    def fit(
        self,
        model: GPTEmbeddingsPreTrainedModel,
        n_examples: int,
        loss: Callable[[Rows, int], torch.Tensor],
        *,
        sparse: bool = True,
        **bar_options: Any,
    ) -> dict[str, str]:
        """Minimize a loss in place, from the checkpoint of the run if there is one; return metadata on the steps.

        `loss` takes row numbers of examples and the step, returns their mean loss, and depends on nothing else. The
        order of examples depends on seed and epoch alone; an epoch leaves out the last ones that fill no batch. If
        `sparse`, a step updates only the rows of `wte` that its batch has.
        """
        options: Any = self.options
        size, rate = options.batch_size, options.learning_rate
        optimizer = RowAdam([p for p in model.parameters() if p.requires_grad], lr=rate)
        step, per_epoch = 0, max(1, n_examples // size)
        n_steps = max(1, round(per_epoch * options.epochs))
        if (self.folder / "state.pt").is_file():
            saved = torch.load(self.folder / "state.pt", weights_only=True)
            step = saved["step"]
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        shown, order = float("nan"), None
        wte: Any = model.base_model.wte
        before, wte.sparse = wte.sparse, sparse
        try:
            with Bar(total=n_steps, initial=step, **{"desc": "Training", "unit": "step", **bar_options}) as bar:
                while step < n_steps:
                    epoch, place = divmod(step, per_epoch)
                    if order is None or place == 0:
                        order = np.random.default_rng([options.seed, epoch]).permutation(n_examples)
                    optimizer.param_groups[0]["lr"] = rate * (1 - step / n_steps)
                    value = loss(order[place * size : (place + 1) * size], step)
                    number = value.item()
                    _check_finite(step, f"the loss is {number}", math.isfinite(number))
                    optimizer.zero_grad()
                    value.backward()
                    optimizer.step()
                    step += 1
                    shown = number if shown != shown else shown + (number - shown) / SHOWN_STEPS
                    bar.update()
                    bar.set_postfix({"loss": f"{shown:.4f}"}, refresh=False)
                    if step % options.save_steps == 0 or step == n_steps:
                        finite = all(bool(weight.isfinite().all()) for weight in model.parameters())
                        _check_finite(step, "weights are not finite", finite)
                        self.save_state(step, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        finally:
            wte.sparse = before
            model.zero_grad()
        return {
            "Steps": f"{options.epochs:g} epochs in batches of {size}",
            "Learning rate": f"{rate:g}, RowAdam, falling to 0; seed {options.seed}",
        }

    def save(self, model: GPTEmbeddingsPreTrainedModel, metadata: Mapping[str, Any], *packages: str) -> dict[str, Any]:
        """Save the result under the name of the output; return the metadata with versions of packages."""
        names = ("gpt-embeddings", "torch", "transformers", "tokenizers", "datasets", *packages)
        metadata = {**metadata, "Versions": ", ".join(f"{name} {version(name)}" for name in names)}
        self.result.mkdir(exist_ok=True)
        save_model_and_tokenizer(self.result, model, self.tokenizer, metadata)
        self.finish()
        return metadata


def _check_finite(step: int, what: str, finite: bool) -> None:
    if not finite:
        raise ValueError(
            f"After step {step} {what}. Nothing of it was saved. Try again with a lower learning rate and another "
            "output, as this one keeps the settings of the run."
        )
