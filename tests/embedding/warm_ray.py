"""Workers of a Ray cluster that start warm: from nothing, an actor imports libraries for six seconds.

A node runs this file for each worker, in place of Ray's own: it has a warm process fork the worker, and ends with it.
That process is neither the node's nor that of the tests, which waits for a worker where nothing else of it can go on.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


ADDRESS = "WARM_RAY_WORKERS"  # of the warm process, in the environment of the nodes


@contextlib.contextmanager
def warm_workers(folder: Path) -> Iterator[dict[str, str]]:
    """Serve the nodes of a cluster that are started with the arguments that this gives, and with this environment."""
    import warm_python  # which a node does without

    if not warm_python.WARM:
        yield {}
        return
    address = str(folder / "workers")
    with warm_python.start([__file__, "serve", address], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout.readline() == "ready\n"
            os.environ[ADDRESS] = address
            yield {"setup_worker_path": __file__}
        finally:
            os.environ.pop(ADDRESS, None)
            server.kill()


def serve(address: str) -> None:
    """Fork a process for each node that asks; it goes on in `work`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as asked:
        asked.bind(address)
        asked.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        node, _ = asked.accept()
        while os.fork():
            node.close()
            node, _ = asked.accept()
    work(node)


def work(node: socket.socket) -> None:
    """Be the worker, and another process that tells the node of its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with node.makefile() as file:
        arguments, env, cwd = json.loads(file.readline())
    worker = os.fork()
    if worker:
        _, status = os.waitpid(worker, 0)
        node.sendall(b"%d" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    node.close()
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv[:] = arguments
    sys.path[0] = str(Path(arguments[0]).parent)
    runpy.run_path(arguments[0], run_name="__main__")


def ask(arguments: list[str]) -> int:
    """Have a worker forked; return its exit code when it ends."""
    arguments = [each for each in arguments if not each.startswith(("--serialized-runtime-env-context", "--language"))]
    with socket.socket(socket.AF_UNIX) as warm:
        warm.connect(os.environ.pop(ADDRESS))
        warm.sendall(json.dumps([arguments, dict(os.environ), os.getcwd()]).encode() + b"\n")
        return int(warm.makefile().read() or 1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1:]))
