"""Training runs that can be killed at any moment: their folder, their checkpoints, and how they resume.

During a run the folder that `outputs` provides holds the prepared data and `checkpoints`. A checkpoint counts once its
marker file exists, which is written last. Left out: what is trained, and on what.
"""

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.checkpoints.saving import save_model_and_tokenizer
from gpt_embeddings.outputs import AtomicOutput
from gpt_embeddings.training.options import TrainingOptions
from modeling_gpt_embeddings import GPTEmbeddingsPreTrainedModel


COMPLETE = "complete"  # the marker in a checkpoint's folder
STATE = "state.pt"  # beside it, for loops other than transformers' Trainer
KEPT_CHECKPOINTS = 2  # the one being written and the last good one


class RunFolder(AtomicOutput):
    """The output of a run, with its checkpoints; its kind is the command, such as `train clm`."""

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, and delete incomplete ones."""
        complete = []
        for folder in self.checkpoints.glob("checkpoint-*"):
            if (folder / COMPLETE).is_file():
                complete.append(folder)
            else:
                shutil.rmtree(folder)
        return max(complete, key=_step, default=None)

    def incomplete_checkpoint(self) -> Path | None:
        """Return the checkpoint that was being written when an error came, if any."""
        return next(
            (folder for folder in self.checkpoints.glob("checkpoint-*") if not (folder / COMPLETE).is_file()), None
        )

    def save_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, and delete all but the last two.

        Args:
            step: Steps taken.
            state: Tensors, numbers and containers of them.

        Raises:
            OSError: It could not be written; the checkpoint before stays.
        """
        folder = self.checkpoints / f"checkpoint-{step}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(dict(state), folder / STATE)
            (folder / COMPLETE).touch()
        except (OSError, RuntimeError) as error:  # torch raises the latter on a full disk
            raise checkpoint_error(folder, error) from error
        complete = sorted((marker.parent for marker in self.checkpoints.glob(f"checkpoint-*/{COMPLETE}")), key=_step)
        for old in complete[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def load_state(self) -> tuple[int, dict[str, Any]] | None:
        """Return step and state of the newest complete checkpoint written by [`save_state`], if any."""
        folder = self.last_checkpoint()
        if folder is None:
            return None
        return _step(folder), torch.load(folder / STATE, weights_only=True)

    def save(
        self, model: GPTEmbeddingsPreTrainedModel, tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any]
    ) -> None:
        """Save the result under the name of the output."""
        self.result.mkdir(exist_ok=True)
        save_model_and_tokenizer(self.result, model, tokenizer, metadata)
        self.finish()


def non_finite_error(step: int, what: str) -> ValueError:
    """Return the error that ends a run whose loss or weights are no longer finite."""
    return ValueError(
        f"After step {step} {what}. Nothing of it was saved. Try again with a lower learning rate and another output, "
        "as this one keeps the settings of the run."
    )


def checkpoint_error(folder: Path, error: Exception) -> OSError:
    """Delete an incomplete checkpoint; return the error to raise."""
    shutil.rmtree(folder, ignore_errors=True)
    reason = str(error).split("\n", 1)[0]
    return OSError(
        f"The checkpoint of step {_step(folder)} could not be written to {str(folder)!r}: {reason}. Free some disk "
        "space and run the same command again: it continues from the checkpoint before."
    )


def describe_steps(options: TrainingOptions, optimizer: str) -> dict[str, str]:
    """Return how long and how fast was trained, for the metadata."""
    return {
        "Steps": f"{options.epochs:g} epochs in batches of {options.batch_size}",
        "Learning rate": f"{options.learning_rate:g}, {optimizer}, falling to 0; seed {options.seed}",
    }


def versions(*more: str) -> str:
    """Return the versions of the packages that a run depends on, for the metadata."""
    names = ("gpt-embeddings", "torch", "transformers", "tokenizers", "datasets", *more)
    return ", ".join(f"{name} {version(name)}" for name in names)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))
