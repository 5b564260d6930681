"""Checks of arguments, with one message for one mistake."""

from operator import index
from typing import Any

import numpy as np


def check_integer(name: str, value: Any, low: int, high: int | None = None, advice: str = "") -> int:
    """Return an integer of any type, numpy's too, as a plain one, or refuse it with its range and the advice."""
    try:
        number = None if isinstance(value, (bool, np.bool_)) else index(value)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"`{name}` must be an integer {limits}, got {value!r}. {advice}".rstrip())
    return number


def check_choice(name: str, value: Any, choices: tuple[str | bool | None, ...]) -> None:
    """Refuse a value that is not among the choices; 1 is not True."""
    if not any(isinstance(value, type(choice)) and value == choice for choice in choices):
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")
