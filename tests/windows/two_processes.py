"""Run a script in a group of two processes, as `torchrun --standalone --nproc-per-node 2` does without its agent."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from torch.distributed import TCPStore


ROOT = Path(__file__).parents[2]


def run_two(script: str | Path, *arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """Run it as rank 0 and rank 1 until both end, or one fails; return what both printed.

    Neither is a fork: a process that has imported torch has threads, whose locks a fork copies as they are.

    Raises:
        AssertionError: If one fails, with what it wrote to its standard error.
    """
    # The store is here, on a port that the system chose, so that no other test can take it in between.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    group = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback,
    }  # fmt: skip
    running: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        try:
            for rank in ("0", "1"):
                own = {**os.environ, **(env or {}), **group, "RANK": rank, "LOCAL_RANK": rank}
                command = [sys.executable, script, *arguments]
                running.append(subprocess.Popen(command, cwd=ROOT, env=own, stdout=printed, stderr=errors, text=True))
            ended: list[int | None] = [None, None]
            while None in ended and not any(ended):  # the other of one that fails may wait for it for half an hour
                time.sleep(0.05)
                ended = [process.poll() for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()
        for written in (printed, errors):
            written.seek(0)
        assert ended == [0, 0], errors.read()[-3000:]
        return printed.read()
