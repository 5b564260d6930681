"""Training runs that can be killed at any moment: where they work, what they keep, and how they go on.

While a run is under way, the folder that `outputs` gives it has what was made of the data, and `checkpoints`. A
checkpoint counts once its mark is there, which is written last. Left out: what is trained, and on what.
"""

import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.checkpoints.saving import save_model_and_tokenizer
from gpt_embeddings.outputs import AtomicOutput
from modeling_gpt_embeddings import GPTEmbeddingsPreTrainedModel


COMPLETE = "complete"  # in a checkpoint's folder
STATE = "state.pt"  # of a loop of our own, beside it
KEPT_CHECKPOINTS = 2  # the one being written, and the last good one


class RunFolder(AtomicOutput):
    """The output of a run, its kind being the command (`train clm`), with the checkpoints of the run."""

    @property
    def checkpoints(self) -> Path:
        """Where the trainer puts checkpoints."""
        return self.folder / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, and delete what was left of incomplete ones."""
        complete = []
        for folder in self.checkpoints.glob("checkpoint-*"):
            if (folder / COMPLETE).is_file():
                complete.append(folder)
            else:
                shutil.rmtree(folder)
        return max(complete, key=_step, default=None)

    def save_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of a loop that is not `transformers.Trainer`'s, and delete those before the last two.

        Args:
            step: Steps taken.
            state: Tensors, numbers and containers of them.

        Raises:
            OSError: It could not be written; the checkpoint before is good.
        """
        folder = self.checkpoints / f"checkpoint-{step}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(dict(state), folder / STATE)
            (folder / COMPLETE).touch()
        except (OSError, RuntimeError) as error:  # torch's writer has the latter for a full disk
            raise checkpoint_error(step, folder, error) from error
        complete = sorted((mark.parent for mark in self.checkpoints.glob(f"checkpoint-*/{COMPLETE}")), key=_step)
        for old in complete[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def load_state(self) -> tuple[int, dict[str, Any]] | None:
        """Return the steps and the state of the newest complete checkpoint that [`save_state`] wrote, if any."""
        folder = self.last_checkpoint()
        if folder is None:
            return None
        return _step(folder), torch.load(folder / STATE, weights_only=True)

    def save(
        self, model: GPTEmbeddingsPreTrainedModel, tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any]
    ) -> None:
        """Save what the run has made, with its metadata, under the name of the output."""
        self.result.mkdir(exist_ok=True)
        save_model_and_tokenizer(self.result, model, tokenizer, metadata)
        self.finish()


def non_finite_error(step: int, what: str) -> ValueError:
    """Return the error that ends a run whose numbers are not finite any more."""
    return ValueError(
        f"After step {step} {what}. Nothing of it was saved, and the checkpoint before is good: try again with a "
        "lower learning rate (and another output, as this run's settings are kept)."
    )


def check_options(options: Any, *, whole: Iterable[str], above_0: Iterable[str] = ()) -> None:
    """Check the fields of a run's options: those that are at least 1, those above 0, and the seed.

    Raises:
        ValueError: A field is out of range.
    """
    for name in whole:
        if getattr(options, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(options, name)}.")
    for name in above_0:
        if not 0 < getattr(options, name) < float("inf"):
            raise ValueError(f"`{name}` must be above 0, got {getattr(options, name)}.")
    if options.seed < 0:
        raise ValueError(f"`seed` must be at least 0, got {options.seed}.")


def checkpoint_error(step: int, folder: Path, error: Exception) -> OSError:
    """Delete what was written of a checkpoint; return the error to raise."""
    shutil.rmtree(folder, ignore_errors=True)
    reason = str(error).split("\n", 1)[0]
    return OSError(
        f"The checkpoint of step {step} could not be written to {str(folder)!r}: {reason}. "
        "Make room on the disk and give the same command again: it goes on from the checkpoint before."
    )


def versions(*more: str) -> str:
    """Return the versions of what a run depends on, for its metadata."""
    names = ("gpt-embeddings", "torch", "transformers", "tokenizers", "datasets", *more)
    return ", ".join(f"{name} {version(name)}" for name in names)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))
