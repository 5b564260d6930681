"""Threads: the number of cores, torch on some of them, and what a fork leaves of them.

A forked child inherits OpenMP's thread pool without its threads, and waits for them forever as soon as torch uses more
than one. So code that computes asks [`was_forked`] first.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch


_PROCESS = os.getpid()  # which imported this module


def was_forked() -> bool:
    """Return whether this process was forked after this module had been imported."""
    return os.getpid() != _PROCESS


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def thread_pool(process: int) -> ThreadPoolExecutor:
    """Return one pool of a process, given by its id, with a thread per core; torch uses one thread in each."""
    return ThreadPoolExecutor(n_cores(), "gpt-embeddings", initializer=torch.set_num_threads, initargs=(1,))


@contextmanager
def torch_threads(n: int | None = None) -> Iterator[None]:
    """Run torch on n threads, and afterwards on as many as before; None changes nothing, unless a fork allows one."""
    before = torch.get_num_threads()
    n = n or (1 if was_forked() else before)
    if n == before:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        if not was_forked():
            torch.set_num_threads(before)
