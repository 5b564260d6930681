"""Standard output and standard error that any terminal, file or pipe can take."""

import io
import os
import sys
from typing import Any, TextIO


def prepare_streams() -> None:
    """Make both streams replace characters that their encoding lacks, and accept a reader that leaves early.

    A Windows console or `PYTHONIOENCODING=cp1252` must not end a command whose work is done, nor must `| head -1`.
    """
    sys.stdout, sys.stderr = _prepared(sys.stdout), _prepared(sys.stderr)


def _prepared(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="replace")
    if stream.isatty():
        return stream
    file = _Pipe(os.dup(stream.fileno()), "w")
    return io.TextIOWrapper(io.BufferedWriter(file), stream.encoding, "replace", line_buffering=True)


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
