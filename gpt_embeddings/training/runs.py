"""Training runs that can be killed at any moment: where they work, what they keep, and how they go on.

While a run NAME is under way it works in the folder `.NAME.partial` beside it: `settings.json`, what was made of the
data, and `checkpoints`. A checkpoint counts once its mark is there, which is written last. NAME itself appears when
the run is complete. Left out: what is trained, and on what.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


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
            raise not_written(step, folder, error) from error
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


def not_finite(step: int, what: str) -> ValueError:
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


def not_written(step: int, folder: Path, error: Exception) -> OSError:
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
    "MARK",
    "RunFolder",
    "check_options",
    "not_finite",
    "not_written",
    "versions",
    "write_json",
]
