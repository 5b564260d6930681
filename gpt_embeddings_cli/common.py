"""What the commands share: output for any terminal, file or pipe, loading the libraries, errors as one message."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


def prepare_streams() -> None:
    """Make both streams replace characters that their encoding lacks, and accept a reader that leaves early.

    A Windows console or `PYTHONIOENCODING=cp1252` must not end a command whose work is done, nor must `| head -1`.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors="replace")
        if not stream.isatty():
            file = io.BufferedWriter(_Pipe(os.dup(stream.fileno()), "w"))
            setattr(sys, name, io.TextIOWrapper(file, stream.encoding, "replace", line_buffering=True))


class _Pipe(io.FileIO):
    """A file that drops what is written once nobody reads it, as the output of `cat` is dropped after `head` ends.

    click and rich exit with 1 on a broken pipe instead, and the default action of SIGPIPE would also end the process
    when a connection to the Hub breaks.
    """

    def write(self, data: Any, /) -> int:
        """Write, or pretend to."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def load_libraries() -> None:
    """Import PyTorch and transformers, which takes seconds; on a terminal, say so.

    Ctrl-C ends the process at once, since some modules swallow a `KeyboardInterrupt` while they are imported.
    """

    def exit_at_once(*_: Any) -> None:
        os.write(2, b"Interrupted.\n")
        os._exit(130)

    if sys.stderr.isatty():
        typer.echo("Loading PyTorch and transformers ...", err=True)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, exit_at_once) if in_main_thread else None
    try:
        import gpt_embeddings  # noqa: F401
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print an expected error as one message and exit with 1, or with 130 after Ctrl-C, instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(130)
    except Exception as error:
        expected: list[type[Exception]] = [ImportError, OSError, TypeError, ValueError]
        # A request failed, or transformers refused a setting: whatever raises these has imported them already.
        if (hub := sys.modules.get("huggingface_hub.errors")) is not None:
            expected += [hub.HTTPError, hub.StrictDataclassError]
        if not isinstance(error, tuple(expected)):
            raise
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)
