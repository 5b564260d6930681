"""Python processes that start warm: forks of one that has imported the libraries, but nothing of this project.

`run` and `start` are what `subprocess.run` and `subprocess.Popen` are, with the arguments of Python alone. The new
process has a pid, an exit code, signals and pipes of its own, and the environment and the folder that it is given;
only the libraries are imported already, which takes seven of the eight seconds of a start. What libraries read as they
are imported (`HF_HUB_OFFLINE`, say) cannot change later, so each such environment has a warm process of its own, which
is itself a fork: of one that has imported what all of them have in common, torch above all.
`spawning` has `multiprocessing` spawn such processes. Where the start itself is tested, where another library starts
the processes, and outside Linux they start from nothing.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from unittest import mock


# What is imported in turn, each after what may differ in the environment when it is: what begins with these words.
STAGES = (
    (
        ("KMP_", "MKL_", "OMP_", "PYTHON", "TORCH"),
        (
            "jinja2",
            "pandas",
            "pyarrow.dataset",
            "pydantic.type_adapter",
            "sklearn.metrics",
            "torch",
            "torch._dynamo",
            "torch.distributed.tensor",
            "torch.utils.data",
            "typer.testing",
        ),
    ),
    (
        ("ACCELERATE_", "HF_", "HUGGINGFACE_", "TOKENIZERS_", "USE_"),
        (
            "accelerate",
            "datasets",
            "sentence_transformers",
            "tokenizers",
            "transformers.pipelines",
            "transformers.trainer",
        ),
    ),
)
READ_EARLY = tuple(word for words, _ in STAGES for word in words)
READ_LATE = {"HF_TOKEN", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONUNBUFFERED"}  # the last three in `_become`
ISOLATED = ("-I", "-S")  # without PYTHONPATH, the current folder, and the .pth file of an editable install
WARM = sys.platform == "linux"
MOST_FILES = 64  # that a process is handed


class Process:
    """What `subprocess.Popen` is, as far as the tests use it, of a fork of a warm process.

    With `to_the_end` Python destroys all objects as it ends, which takes a second that others are spared.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        pass_fds: Sequence[int] = (),
        to_the_end: bool = False,
    ) -> None:
        self.args, self.returncode = list(arguments), None
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        files = [self._end(0, stdin), self._end(1, stdout)]
        files.append(files[1] if stderr == subprocess.STDOUT else self._end(2, stderr))
        isolated = tuple(arguments[:2]) == ISOLATED
        job = {
            "arguments": [str(argument) for argument in arguments[2 * isolated :]],
            "isolated": isolated,
            "env": dict(os.environ if env is None else env),
            "cwd": str(Path.cwd() if cwd is None else cwd),
            "files": [0, 1, 2, *pass_fds],
            "to_the_end": to_the_end,
        }
        self._told = _server(job["env"]).fork(job, [*files, *pass_fds])
        for file in {*files} - {0, 1, 2}:
            os.close(file)
        self.pid = int(self._told.readline())

    def _end(self, number: int, kind: int | None) -> int:
        """Return what the process has as its standard input, output or errors."""
        if kind is None:
            return number
        if kind == subprocess.DEVNULL:
            return os.open(os.devnull, os.O_RDWR)
        assert kind == subprocess.PIPE, kind
        reads, writes = os.pipe()
        theirs, ours = (reads, writes) if number == 0 else (writes, reads)
        name = ("stdin", "stdout", "stderr")[number]
        setattr(self, name, open(ours, "w" if number == 0 else "r", encoding="utf-8"))
        return theirs

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; minus the signal's number where one ended the process."""
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._told, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Close the input, read what the process says until it ends, and return that."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self.stdin:
            self.stdin.close()
        said: dict[Any, list[bytes]] = {pipe: [] for pipe in (self.stdout, self.stderr) if pipe and not pipe.closed}
        with selectors.DefaultSelector() as selector:
            for pipe in said:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                left = None if deadline is None else deadline - time.monotonic()
                ready = selector.select(left)
                if not ready:
                    raise subprocess.TimeoutExpired(self.args, timeout)
                for key, _ in ready:
                    said[key.fileobj].append(os.read(key.fd, 2**16))
                    if not said[key.fileobj][-1]:
                        selector.unregister(key.fileobj)
        for pipe in said:
            pipe.close()
        self.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        output, errors = (
            b"".join(said[pipe]).decode() if pipe in said else None for pipe in (self.stdout, self.stderr)
        )
        return output, errors

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                pipe.close()
        self.wait()


def start(arguments: Sequence[str], *, to_the_end: bool = False, **options: Any) -> "Process | subprocess.Popen[str]":
    """Start Python with arguments; the options are those of `Process`."""
    if WARM:
        return Process(arguments, to_the_end=to_the_end, **options)
    return subprocess.Popen([sys.executable, *arguments], text=True, **{"stdin": subprocess.DEVNULL, **options})


def run(arguments: Sequence[str], *, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python to its end; what it says is caught, unless `stdout` or `stderr` say otherwise."""
    with start(arguments, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(list(arguments), process.returncode, stdout, stderr)


if WARM:
    from multiprocessing import context, popen_spawn_posix, resource_tracker, util

    class _Spawned(popen_spawn_posix.Popen):
        """A process that `multiprocessing` spawns, warm: all that it is handed is what it always is."""

        def _launch(self, process_obj: Any) -> None:
            resource_tracker.ensure_running()
            with mock.patch.object(util, "spawnv_passfds", self._start):
                super()._launch(process_obj)

        def _start(self, path: str, args: Sequence[str], passfds: Sequence[int]) -> int:
            arguments = list(map(os.fsdecode, args))
            self._process = Process(arguments[arguments.index("-c") :], pass_fds=sorted(set(passfds)))
            return self._process.pid

        def poll(self, flag: int = os.WNOHANG) -> int | None:
            """Return the exit code, or None while the process runs."""
            self.returncode = self._process.poll() if flag == os.WNOHANG else self._process.wait()
            return self.returncode


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """Have `multiprocessing`, and what is built on it, spawn warm processes."""
    if not WARM:
        yield
        return
    with mock.patch.object(context.SpawnProcess, "_Popen", staticmethod(_Spawned)):
        yield


# The warm process, seen from the tests -------------------------------------------------------------------------------


class _Server:
    """A process that has imported libraries and forks at each job; it ends with this one."""

    def __init__(self, job: dict[str, Any], earlier: "_Server | None") -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            if earlier:
                self._told = earlier.fork(job, [theirs.fileno()])
            else:
                self._process = subprocess.Popen(
                    [sys.executable, __file__, str(theirs.fileno())],
                    env=job["env"], cwd="/", pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip

    def end(self) -> None:
        """End it, and what it has forked."""
        self._socket.close()
        if self._process:
            self._process.wait()
        else:
            with self._told as told:
                told.read()

    def fork(self, job: dict[str, Any], files: Sequence[int]) -> IO[bytes]:
        """Have a process forked; return the pipe that brings its pid, and its exit code when it ends."""
        reads, writes = os.pipe()
        with os.fdopen(writes, "wb"):
            socket.send_fds(self._socket, [json.dumps(job).encode()], [writes, *files])
        return open(reads, "rb", buffering=0)


_starting = threading.Lock()
_servers: dict[Any, _Server] = {}


def _server(env: Mapping[str, str]) -> _Server:
    """Return the warm process for what libraries read early in an environment."""
    told = {name: value for name, value in os.environ.items() if not name.startswith(READ_EARLY)}
    told |= {"PYTHONDONTWRITEBYTECODE": "1"} if sys.dont_write_bytecode else {}
    kind: tuple[frozenset[tuple[str, str]], ...] = ()
    server = None
    with _starting:
        for words, imports in STAGES:
            early = {name: value for name, value in env.items() if name.startswith(words) and name not in READ_LATE}
            kind, told = (*kind, frozenset(early.items())), {**told, **early}
            if kind not in _servers:
                _servers[kind] = _Server({"env": told, "imports": imports}, server)
                atexit.register(_servers[kind].end)
            server = _servers[kind]
    return server


# The warm process itself ---------------------------------------------------------------------------------------------


def _fork_at_each_job(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Serve until the socket ends; return in each forked process, with its job and files."""
    running: dict[int, int] = {}  # pid, and the pipe to tell of its end
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if woken in ready:
            os.read(woken, 2**10)
            _tell_of_the_ended(running)
        if control not in ready:
            continue
        message, files, _, _ = socket.recv_fds(control, 2**20, MOST_FILES)
        if not message:  # whoever asks has ended
            for pid in running:
                with contextlib.suppress(ProcessLookupError):  # a warm process is no group, and ends in this same way
                    os.killpg(pid, signal.SIGKILL)
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            selector.close()
            control.close()
            for file in (woken, wakes, files[0], *running.values()):
                os.close(file)
            return json.loads(message), files[1:]
        for file in files[1:]:
            os.close(file)
        running[pid] = files[0]
        os.write(files[0], b"%d\n" % pid)


def _tell_of_the_ended(running: dict[int, int]) -> None:
    for pid, told in list(running.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
            os.close(running.pop(pid))


def _become(job: dict[str, Any], files: Sequence[int]) -> None:
    """Give a forked process what a new one has."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _place(files, job["files"])
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    tempfile.tempdir = None
    if job["isolated"]:
        standard = sysconfig.get_paths()["stdlib"]
        sys.path[:] = [path for path in sys.path if path.startswith(standard) and not path.endswith("-packages")]
    else:
        sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    sys.modules["numpy"].random.seed()
    importlib.invalidate_caches()


def _place(files: Sequence[int], numbers: Sequence[int]) -> None:
    """Give open files the numbers that they are to have."""
    above = max(*files, *numbers) + 1  # where none is in the way of another
    for i, file in enumerate(files):
        os.dup2(file, above + i)
    for file in files:
        os.close(file)
    for i, number in enumerate(numbers):
        os.dup2(above + i, number)
        os.close(above + i)


def _begin(job: dict[str, Any], program: str, arguments: Sequence[str], folder: str) -> None:
    sys.argv[:] = [program, *arguments]
    if not job["isolated"]:
        sys.path[0] = folder


def _run(job: dict[str, Any]) -> None:
    """Run what follows `python` on a command line."""
    kind, *arguments = job["arguments"]
    if kind == "-c":
        code, *arguments = arguments
        _begin(job, "-c", arguments, "")
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif kind == "-m":
        module, *arguments = arguments
        _begin(job, module, arguments, os.getcwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        assert not kind.startswith("-"), f"a warm process cannot start with {kind}"
        _begin(job, kind, arguments, os.path.dirname(os.path.abspath(kind)))
        runpy.run_path(kind, run_name="__main__")


_exit_code: int | None = None


def _run_as_python(job: dict[str, Any]) -> None:
    """Run as Python does, so that the interpreter itself deals with every way to end."""
    global _exit_code
    try:
        _run(job)
        _exit_code = 0
    except SystemExit as end:
        _exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except Exception:
        _exit_code = 1
        raise


def _leave(job: dict[str, Any]) -> None:
    """Spare the second that it takes to destroy every object of the libraries."""
    if job.get("to_the_end"):
        gc.unfreeze()
    elif _exit_code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_code & 0xFF)


if __name__ == "__main__":
    job: dict[str, Any] = {"env": {}, "imports": STAGES[0][1]}
    files = [int(sys.argv[1])]
    atexit.register(_leave, job)  # before any import, and so called last
    while "imports" in job:
        os.environ.update(job["env"])
        for name in job["imports"]:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()  # so that a fork does not copy what it never writes
        asked, files = _fork_at_each_job(socket.socket(fileno=files[0]))
        job.clear()
        job.update(asked)
    _become(job, files)
    _run_as_python(job)
