"""Run a script in a group of two: `two_processes.py SCRIPT ARGUMENTS`.

It is what `torchrun --standalone --nproc-per-node 2` does, with forks in place of processes that start from nothing.
"""

import runpy
import sys

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def run(script: str, *arguments: str) -> None:
    """Run it in one of the two."""
    torch.set_num_threads(1)
    sys.argv[:] = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        start_method="fork",
    )  # fmt: skip
    elastic_launch(config, run)(*sys.argv[1:])
