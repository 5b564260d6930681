"""How far long work has come: a bar on a terminal, elsewhere a line every ten seconds; and counts of texts."""

import io
import sys
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from datasets.utils import tqdm


LINE_SECONDS = 10.0  # between two lines in a log, a pipe, or the output of a job


class Counts(NamedTuple):
    """Counts of texts that were embedded."""

    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    nulls: int = 0  # missing texts
    blank: int = 0  # texts that are empty or whitespace alone, or have no token
    truncated: int = 0  # texts with more tokens than the model has positions, whose end was dropped
    dropped: int = 0  # missing and blank texts whose rows were dropped; they are not among the documents

    def warnings(self, n_positions: int, pooling: str | None) -> list[str]:
        """Return warnings about missing, blank, dropped and truncated texts, for a model and its pooling."""
        zero = "they have no vectors" if pooling == "none" else "the vectors of missing and empty texts are zero"
        found = [f"{self.nulls:,} missing (null)"] * (self.nulls > 0) + [f"{self.blank:,} blank"] * (self.blank > 0)
        said = [f"{' and '.join(found)}: {zero}. `drop_empty=True` (--drop-empty) drops them."] if found else []
        if self.dropped:
            said.append(f"{self.dropped:,} missing or blank: their rows are dropped.")
        if self.truncated:
            said.append(
                f"{self.truncated:,} truncated at {n_positions:,} tokens; overflow 'windows' keeps all tokens."
            )
        return [f"Of {self.documents + self.dropped:,} texts {sentence}" for sentence in said]


class Bar(tqdm):
    """`tqdm`; without a terminal a line every ten seconds, and none for work that ends sooner."""

    def __init__(self, *args: Any, **options: Any) -> None:
        file = options.get("file") or sys.stderr
        # A notebook is no terminal either, and draws bars of its own.
        if "ipykernel" not in sys.modules and not file.isatty():
            options |= {"file": _Lines(file), "mininterval": LINE_SECONDS, "delay": LINE_SECONDS}
        super().__init__(*args, **options)


@dataclass(eq=False)
class _Lines(io.TextIOBase):
    """Writes what `tqdm` draws over the line before as a line of its own."""

    _file: Any
    _last: str = ""

    def write(self, text: str) -> int:
        line = text.strip()
        if line not in ("", self._last):
            self._file.write(f"{line}\n")
            self._file.flush()
            self._last = line
        return len(text)


class Progress:
    """A bar that counts documents, with tokens and MB of text per second; afterwards the totals.

    Args:
        total: Number of documents, if known.
        hidden: Whether to count without a bar.
    """

    def __init__(self, total: int | None = None, *, hidden: bool = False) -> None:
        self.counts, self.resumed, self.seconds = Counts(), 0, 0.0
        self.warnings: list[str] = []
        """What `embed_dataset` has to say about missing, blank, dropped and truncated texts."""
        self._began = time.perf_counter()
        self._bar = Bar(total=total, desc="Embedding", unit=" documents", disable=hidden)

    def add(self, counts: Counts) -> None:
        """Count a finished batch."""
        self.counts = Counts(*map(sum, zip(self.counts, counts, strict=True)))
        self.seconds = time.perf_counter() - self._began
        tokens, megabytes = self.counts.tokens / self.seconds, self.counts.text_bytes / self.seconds / 1e6
        self._bar.set_postfix_str(f"{tokens:,.0f} tokens/s, {megabytes:.1f} MB/s", refresh=False)
        self._bar.update(counts.documents + counts.dropped)

    def skip(self, documents: int) -> None:
        """Count documents that an earlier run has finished."""
        self.resumed += documents
        self._bar.update(documents)

    def summary(self) -> str:
        """Return the totals as a sentence; with the speed from a megabyte on, as less only measures the start."""
        tokens, megabytes = self.counts.tokens, self.counts.text_bytes / 1e6
        size = f"{megabytes:.1f} MB" if megabytes >= 1 else f"{1000 * megabytes:.1f} kB"
        done = f"{tokens:,} tokens and {size} of text in {self.seconds:.1f} s"
        if megabytes < 1 or not self.seconds:
            return f"{done}."
        return f"{done}: {tokens / self.seconds:,.0f} tokens/s, {megabytes / self.seconds:.3g} MB/s."

    def close(self) -> None:
        """Stop the clock and leave the bar as it is."""
        self.seconds = time.perf_counter() - self._began
        self._bar.close()
