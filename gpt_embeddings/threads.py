"""How many cores there are, how many threads torch takes of them, and what a fork changes about that."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


_is_forked = False


def _after_fork_in_child() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork_in_child)


def forked() -> bool:
    """Return whether this process is a forked child, in which torch must not use more than one thread.

    It inherits OpenMP's thread pool without its threads, and waits for them for ever.
    """
    return _is_forked


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Run torch on n threads, and afterwards on as many as before; None changes nothing."""
    before = torch.get_num_threads()
    if n is None or n == before:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        if not forked():
            torch.set_num_threads(before)


__all__ = ["forked", "n_cores", "torch_threads"]
