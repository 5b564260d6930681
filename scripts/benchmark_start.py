"""What a start costs, in CPU time of fresh processes: this package beside what it is built on, and the command line.

    python scripts/benchmark_start.py [--rounds 7]

Each row is the median of the rounds, which take turns, so that other work on the machine falls on all of them.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys


BASE = "import torch; from transformers import PreTrainedModel"
OURS = "import gpt_embeddings"
TYPER = "import typer"
COMMAND = "from gpt_embeddings_cli import app; app()"
IMPORTS = (BASE, OURS, TYPER)
ANSWERS = (["--version"], ["--help"], ["embed", "--help"], ["embed", "--oops"], ["embed", "none.txt", "--output", "x"])


def cpu_seconds(code: str, arguments: list[str]) -> float:
    """Return the seconds of user and system time of a Python process that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    rows: dict[str, tuple[str, list[str]]] = {code: (code, []) for code in IMPORTS}
    rows |= {" ".join(words): (COMMAND, words) for words in ANSWERS}
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, (code, arguments) in rows.items():
            seconds[name].append(cpu_seconds(code, arguments))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        shown = name if name in IMPORTS else f"gpt-embeddings {name}"
        print(f"{shown:56} {median:7.2f} s")
    print(f"ours / base: {medians[OURS] / medians[BASE]:.2f}")


if __name__ == "__main__":
    main()
