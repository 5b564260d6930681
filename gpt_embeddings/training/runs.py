"""Training runs that can be killed at any moment: their folder, their checkpoints, and how they resume.

During a run the folder that `outputs` provides holds the prepared data and the checkpoints. A checkpoint is either one
file that is replaced, or a folder of `transformers.Trainer`, which counts once a marker is in it. Left out: what is
trained, and on what.
"""

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.checkpoints.saving import save_model_and_tokenizer
from gpt_embeddings.outputs import AtomicOutput, atomic_file
from gpt_embeddings.training.options import TrainingOptions
from modeling_gpt_embeddings import GPTEmbeddingsPreTrainedModel


COMPLETE = "complete"  # the marker in a folder of `transformers.Trainer`
KEPT_CHECKPOINTS = 2  # the one being written and the last good one


class RunFolder(AtomicOutput):
    """The output of a run, with its checkpoints; its kind is the command, such as `train clm`."""

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints of `transformers.Trainer`."""
        return self.folder / "checkpoints"

    @property
    def state(self) -> Path:
        """The checkpoint of other loops, one file that is replaced."""
        return self.folder / "state.pt"

    def last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, and delete incomplete ones."""
        self.delete_incomplete()
        return max(self.checkpoints.glob("checkpoint-*"), key=_step, default=None)

    def delete_incomplete(self) -> bool:
        """Delete checkpoints that were not written completely; return whether there were any."""
        folders = [folder for folder in self.checkpoints.glob("checkpoint-*") if not (folder / COMPLETE).is_file()]
        for folder in folders:
            shutil.rmtree(folder)
        return bool(folders)

    def save_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the state after a step: tensors, numbers and containers of them."""
        try:
            with atomic_file(self.state) as partial:
                torch.save({"step": step, **state}, partial)
        except (OSError, RuntimeError) as error:  # torch raises the latter on a full disk
            raise checkpoint_error(step, self.state, error) from error

    def load_state(self) -> dict[str, Any] | None:
        """Return what [`save_state`] wrote last, with its `step`, if anything."""
        return torch.load(self.state, weights_only=True) if self.state.is_file() else None

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


def checkpoint_error(step: int, path: Path, error: Exception) -> OSError:
    """Return the error of a checkpoint that could not be written."""
    reason = str(error).split("\n", 1)[0]
    return OSError(
        f"The checkpoint of step {step} could not be written to {str(path)!r}: {reason}. Free some disk space and run "
        "the same command again: it continues from the checkpoint before."
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
