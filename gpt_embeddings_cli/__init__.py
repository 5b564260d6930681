"""The command line: `gpt-embeddings COMMAND`. Each command is one call of the library with files around it.

This package imports typer alone, and the library inside each command: what is asked of the command line itself (help,
a version, a wrong option, a file that is not there) is answered before seconds of imports begin.

Read `options`, `common`, then the commands.
"""

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from gpt_embeddings_cli.commands import app as app


def __getattr__(name: str) -> Any:
    """Import the commands when the program is asked for; from then on Ctrl-C is one line, imports included."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if plain and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)
    from gpt_embeddings_cli.commands import app as app

    globals()["app"] = app
    return app


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, but in the middle of an import, where some modules swallow it, end the process."""
    if is_importing(frame):
        os.write(2, b"Interrupted.\n")
        os._exit(130)
    raise KeyboardInterrupt


def is_importing(frame: FrameType | None) -> bool:
    """Say whether what runs in a frame is the import of a module."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
