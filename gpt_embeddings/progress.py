"""How far long work has come: a bar on a terminal, elsewhere a line every ten seconds; and what is counted of texts.

Left out: the bars of downloads, which are `huggingface_hub`'s own.
"""

import sys
import time
from typing import Any, NamedTuple

from datasets.utils import tqdm


LINE_SECONDS = 10.0  # from line to line where nobody watches: in a log, a pipe, a job's output


class Counts(NamedTuple):
    """What was in some texts."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    nulls: int = 0
    """Missing texts."""

    blank: int = 0
    """Texts that are there and have no token."""

    truncated: int = 0
    """Texts of more tokens than the model has positions, of which the end was left out."""

    def plus(self, other: "Counts") -> "Counts":
        """Return the counts of both."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class Bar(tqdm):
    """`tqdm` with its arguments; without a terminal a line every ten seconds, and none of what is done sooner."""

    last_print_t: float
    last_print_n: float

    def __init__(self, *args: Any, **options: Any) -> None:
        file = options.get("file") or sys.stderr
        # A notebook has no terminal either, and draws bars of its own.
        self._by_lines = "ipykernel" not in sys.modules and not file.isatty()
        if self._by_lines:
            options |= {"mininterval": LINE_SECONDS, "delay": LINE_SECONDS, "miniters": 1}
        super().__init__(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None, **options: Any) -> Any:
        """Draw the bar, or write the next line; a notebook's bar has more options."""
        if not self._by_lines:
            return super().display(msg, pos, **options)
        self.fp.write(f"{str(self) if msg is None else msg}\n")
        self.fp.flush()
        return True

    def refresh(self, *args: Any, **options: Any) -> Any:
        """Draw the bar anew, or write a line if it is time for one."""
        if not self._by_lines:
            return super().refresh(*args, **options)
        now = self._time()
        if not self.disable and now >= max(self.start_t + self.delay, self.last_print_t + self.mininterval):
            self.display()
            self.last_print_t, self.last_print_n = now, self.n
        return True

    def close(self) -> None:
        """Leave the bar as it is; where lines were written, the last one says how it ended."""
        if getattr(self, "_by_lines", False) and not self.disable:
            if self.leave and self.last_print_t >= self.start_t + self.delay and self.n > self.last_print_n:
                self.display()
            self.last_print_t = self.start_t  # so that tqdm has nothing left to draw
        super().close()


class Progress:
    """A bar that counts documents, with tokens and MB of text a second; afterwards the totals.

    Args:
        total: Number of documents, where it is known.
        hidden: Whether to count without a bar.
    """

    def __init__(self, total: int | None = None, *, hidden: bool = False) -> None:
        self.counts, self.resumed, self.seconds = Counts(), 0, 0.0
        self._began = time.perf_counter()
        self._bar = Bar(total=total, desc="Embedding", unit=" documents", disable=hidden)

    def add(self, counts: Counts) -> None:
        """Count a finished batch."""
        self.counts = self.counts.plus(counts)
        self.seconds = time.perf_counter() - self._began
        tokens, megabytes = self.counts.tokens / self.seconds, self.counts.text_bytes / self.seconds / 1e6
        self._bar.set_postfix_str(f"{tokens:,.0f} tokens/s, {megabytes:.1f} MB/s", refresh=False)
        self._bar.update(counts.documents)

    def skip(self, documents: int) -> None:
        """Count documents that an earlier run has finished."""
        self.resumed += documents
        self._bar.update(documents)

    def summary(self) -> str:
        """Return the totals as a sentence, of a megabyte and more with the speed: of less it is that of the start."""
        tokens, megabytes = self.counts.tokens, self.counts.text_bytes / 1e6
        size = f"{megabytes:.1f} MB" if megabytes >= 1 else f"{1000 * megabytes:.1f} kB"
        done = f"{tokens:,} tokens and {size} of text in {self.seconds:.1f} s"
        if megabytes < 1 or not self.seconds:
            return f"{done}."
        return f"{done}: {tokens / self.seconds:,.0f} tokens/s, {megabytes / self.seconds:.3g} MB/s."

    def close(self) -> None:
        """Leave the bar as it is."""
        self.seconds = time.perf_counter() - self._began
        self._bar.close()
