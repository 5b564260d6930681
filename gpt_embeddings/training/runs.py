"""Training runs that can be killed at any moment: where they work, what they keep, and how they go on.

While a run NAME is under way it works in the folder `.NAME.partial` beside it: `settings.json`, what was made of the
data, and `checkpoints`. A checkpoint counts once its mark is there, which is written last. NAME itself appears when
the run is complete. Left out: what is trained, and on what.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets.utils import tqdm
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


FACTS_FILE = "training_facts.json"  # `gpt-embeddings push` puts these into the model card
MARK = "complete"  # in a checkpoint's folder
STATE = "state.pt"  # of a loop of our own, beside it
KEPT_CHECKPOINTS = 2  # the one being written, and the last good one


class RunFolder:
    """The folder in which a run works, and its settings.

    Args:
        output: The folder that the run is for; it must not exist.
        settings: What must be the same for a run to go on; JSON-serialisable.

    Raises:
        FileExistsError: The output exists.
        ValueError: A run of other settings was left unfinished there; the message names what differs.
    """

    def __init__(self, output: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.output = Path(output).absolute()
        if self.output.exists():
            raise FileExistsError(f"The output {str(output)!r} exists; choose another, or delete it.")
        self.path = self.output.with_name(f".{self.output.name}.partial")
        self.path.mkdir(parents=True, exist_ok=True)
        log = self.path / "settings.json"
        if log.exists():
            _check_same(dict(settings), json.loads(log.read_text(encoding="utf-8")), self.path)
        else:
            write_json(settings, log)

    @property
    def checkpoints(self) -> Path:
        """Where the trainer puts checkpoints."""
        return self.path / "checkpoints"

    def last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, and delete what was left of incomplete ones."""
        complete = []
        for folder in self.checkpoints.glob("checkpoint-*"):
            if (folder / MARK).is_file():
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
            (folder / MARK).touch()
        except (OSError, RuntimeError) as error:  # torch's writer has the latter for a full disk
            raise _not_written(step, folder, error) from error
        complete = sorted((mark.parent for mark in self.checkpoints.glob(f"checkpoint-*/{MARK}")), key=_step)
        for old in complete[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def load_state(self) -> tuple[int, dict[str, Any]] | None:
        """Return the steps and the state of the newest complete checkpoint that [`save_state`] wrote, if any."""
        folder = self.last_checkpoint()
        if folder is None:
            return None
        return _step(folder), torch.load(folder / STATE, weights_only=True)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Give the result, saved in `result`, the name of the output, and delete the rest."""
        write_json(facts, self.result / FACTS_FILE)
        os.replace(self.result, self.output)
        shutil.rmtree(self.path)

    @property
    def result(self) -> Path:
        """Where the result is saved before it gets its name."""
        return self.path / "result"


class SafeCheckpoints:
    """What a run adds to a `transformers.Trainer`, as the base before it: checkpoints that are complete and sane.

    A checkpoint is marked when all of it is on the disk. A step whose loss is no number ends the run before anything
    of it is saved.
    """

    args: TrainingArguments
    state: TrainerState

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take a step, and end the run if the loss is no number."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if not math.isfinite(loss.item()):
            raise not_finite(self.state.global_step, f"the loss is {loss.item()}")
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise not_finite(self.state.global_step, f"{name} holds values that are no numbers")
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            (folder / MARK).touch()
        except Exception as error:  # each of the writers behind it has errors of its own
            raise _not_written(self.state.global_step, folder, error) from error


class ProgressBar(TrainerCallback):
    """A bar with the loss, what it is to be judged by, and the tokens a second.

    Args:
        title: Name of the run.
        tokens_per_step: Tokens of a step.
        bound: The least loss that can be had, if it is known.
    """

    def __init__(self, title: str, tokens_per_step: float, bound: float | None = None) -> None:
        self.title, self.tokens_per_step, self.bound = title, tokens_per_step, bound
        self.losses: list[tuple[int, float]] = []
        self._bar: Any = None
        self._shown: dict[str, str] = {} if bound is None else {"loss": "-", "bound": f"{bound:.3f}"}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the run begins or goes on."""
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title, unit="step")
        self._first = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        self._bar.update(state.global_step - self._bar.n)
        seconds = self._bar.format_dict["elapsed"]
        if seconds:
            self._shown["tokens/s"] = f"{(state.global_step - self._first) * self.tokens_per_step / seconds:,.0f}"
            self._bar.set_postfix(self._shown, refresh=False)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the loss."""
        logs = kwargs.get("logs") or {}
        if "loss" in logs:
            self.losses.append((state.global_step, float(logs["loss"])))
            self._shown["loss"] = f"{float(logs['loss']):.3f}"
            if self._bar is not None:
                self._bar.set_postfix(self._shown)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self._bar.close()


def not_finite(step: int, what: str) -> ValueError:
    """Return the error that ends a run whose numbers are no numbers any more."""
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


def _not_written(step: int, folder: Path, error: Exception) -> OSError:
    """Delete what was written of a checkpoint; return the error to raise."""
    shutil.rmtree(folder, ignore_errors=True)
    reason = str(error).split("\n", 1)[0]
    return OSError(
        f"The checkpoint of step {step} could not be written to {str(folder)!r}: {reason}. "
        "Make room on the disk and give the same command again: it goes on from the checkpoint before."
    )


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a file as a whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def versions(*more: str) -> str:
    """Return the versions of what a run depends on, for its facts."""
    names = ("gpt-embeddings", "torch", "transformers", "tokenizers", "datasets", *more)
    return ", ".join(f"{name} {version(name)}" for name in names)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def _check_same(settings: dict[str, Any], saved: dict[str, Any], folder: Path) -> None:
    settings = json.loads(json.dumps(settings))
    differing = [
        f"`{name}` is {settings.get(name)!r} and was {saved.get(name)!r}"
        for name in sorted(settings.keys() | saved.keys())
        if settings.get(name) != saved.get(name)
    ]
    if differing:
        raise ValueError(
            f"An earlier run left unfinished work in {str(folder)!r} under other settings: {'; '.join(differing)}. "
            "Repeat that run as it was to go on, or delete that folder to begin anew."
        )


__all__ = [
    "FACTS_FILE",
    "KEPT_CHECKPOINTS",
    "ProgressBar",
    "RunFolder",
    "SafeCheckpoints",
    "check_options",
    "not_finite",
    "versions",
    "write_json",
]
