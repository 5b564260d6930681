"""The options of the training objectives: each with its default, its limit and its help, declared once.

The command line makes its own options from these fields without importing the package, whose imports take seconds. So
this module imports the standard library alone.
"""

import math
import operator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin


def _option(default: Any, help: str, *, least: int | None = None) -> Any:
    """Return a dataclass field with its help and, for an integer, its least value; a float must be above 0."""
    return field(default=default, metadata={"help": help, "least": least})


_EPOCHS = "Passes over the texts."
_LEARNING_RATE = "Learning rate of the first step; it falls linearly to 0."
_SAVE_STEPS = "Steps between checkpoints: at most so many are repeated after an interruption."


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What every objective has; some have defaults of their own."""

    batch_size: int
    epochs: float
    learning_rate: float = _option(0.001, _LEARNING_RATE)
    save_steps: int = _option(1000, _SAVE_STEPS, least=1)
    seed: int

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.type is int:
                try:
                    value = operator.index(value)
                except TypeError:
                    raise TypeError(f"`{option.name}` must be an integer, got {value!r}.") from None
                if value < option.metadata["least"]:
                    raise ValueError(f"`{option.name}` must be at least {option.metadata['least']}, got {value}.")
            elif option.type is float:
                value = float(value)
                if not 0 < value < math.inf:
                    raise ValueError(f"`{option.name}` must be above 0 and finite, got {value}.")
            elif get_origin(option.type) is Literal and value not in get_args(option.type):
                choices = " or ".join(map(repr, get_args(option.type)))
                raise ValueError(f"`{option.name}` must be {choices}, got {value!r}.")
            object.__setattr__(self, option.name, value)  # plain numbers, which JSON holds


@dataclass(frozen=True, kw_only=True)
class ClmOptions(TrainingOptions):
    """Options of next-token training."""

    max_length: int = _option(128, "Tokens per window; at most `n_positions` of the model.", least=1)
    batch_size: int = _option(32, "Windows per step.", least=1)
    epochs: float = _option(1.0, "Passes over the windows.")
    learning_rate: float = _option(0.01, _LEARNING_RATE)
    save_steps: int = _option(500, _SAVE_STEPS, least=1)
    seed: int = _option(0, "Seed of fresh tables, of the order of windows and of dropout.", least=0)


@dataclass(frozen=True, kw_only=True)
class DistilOptions(TrainingOptions):
    """Options of distillation."""

    n_embd: int = _option(256, "Dimensions of the table; at most the teacher's.", least=1)
    sentences: int = _option(250_000, "Sentences to learn from; a random choice if the data has more.", least=1)
    phrases: int = _option(150_000, "Phrases of random words to learn from, for words that the data lacks.", least=0)
    init: Literal["teacher", "random"] = _option(
        "teacher",
        "Rows at the start: the teacher's vector of each token, for which it reads the whole vocabulary, or random "
        "numbers; then tokens that no step trains end as zeros.",
    )
    positions: Literal["none", "learned"] = _option(
        "none", "Learn rows for positions too, or have none, so that every static format can hold the model."
    )
    batch_size: int = _option(1024, "Texts per step.", least=1)
    epochs: int = _option(4, _EPOCHS, least=1)
    learning_rate: float = _option(0.003, _LEARNING_RATE)
    seed: int = _option(0, "Seed of the choice of texts and of their order.", least=0)


@dataclass(frozen=True, kw_only=True)
class ContrastiveOptions(TrainingOptions):
    """Options of contrastive training."""

    batch_size: int = _option(512, "Pairs per step; the others of a batch are the negatives.", least=2)
    epochs: int = _option(3, _EPOCHS, least=1)
    seed: int = _option(0, "Seed of a fresh table and of the order of pairs.", least=0)


@dataclass(frozen=True, kw_only=True)
class ClassesOptions(TrainingOptions):
    """Options of training a classifier."""

    frozen: bool = _option(False, "Train the linear layer alone, and leave the table as it is.")
    batch_size: int = _option(64, "Texts per step.", least=1)
    epochs: int = _option(8, _EPOCHS, least=1)
    seed: int = _option(0, "Seed of the choice of held-out rows and of the order of texts.", least=0)
