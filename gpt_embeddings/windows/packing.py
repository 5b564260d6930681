"""Flat token ids cut into windows, which `TokenWindows` defines: pure numpy, no text, no files.

A packer takes documents in (`push`) and returns windows of `max_length + 1` ids (`take`): the first `max_length` are
the input, the last `max_length` the targets. -100 stands where a window is padded.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from gpt_embeddings.arguments import check_choice, check_integer


IGNORED = -100  # the target that torch's cross-entropy ignores

Ids: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How sequences of tokens are cut into windows; see `TokenWindows`."""

    max_length: int
    stride: int
    packing: Literal["stream", "document"]
    tail: Literal["pad", "drop"]
    separator: int  # id of `<|endoftext|>`

    def __post_init__(self) -> None:
        advice = "A stride above `max_length` would skip tokens."
        length = check_integer("max_length", self.max_length, 1)
        stride = check_integer("stride", self.stride, 1, length, advice)
        self.__dict__.update(max_length=length, stride=stride)  # plain integers, for JSON
        check_choice("packing", self.packing, ("stream", "document"))
        check_choice("tail", self.tail, ("pad", "drop"))

    def count(self, lengths: npt.NDArray[np.int64], *, padded: bool = True) -> npt.NDArray[np.int64]:
        """Return how many windows sequences of these lengths have, or how many that need no padding."""
        beyond = lengths - 1 - self.max_length  # targets beyond the first window
        if self.tail == "drop" or not padded:
            return np.where(beyond >= 0, beyond // self.stride + 1, 0)
        return np.where(lengths > 1, 1 + -(-np.maximum(beyond, 0) // self.stride), 0)

    def no_window(self) -> str:
        """Say why a text may have no window."""
        if self.tail == "pad":
            return "a window needs 2 tokens. Check the column and the files"
        return f'a window needs {self.max_length + 1} tokens (`max_length` + 1). Use a shorter one, or `tail="pad"`'


def add_separators(
    input_ids: Ids, offsets: npt.NDArray[np.int64], spec: WindowSpec
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Return ids with a separator before ("stream") or after ("document") each text with tokens, and their ends."""
    filled = np.diff(offsets) > 0
    borders = (offsets[:-1] if spec.packing == "stream" else offsets[1:])[filled]
    ends = offsets[1:][filled] + np.arange(1, len(borders) + 1)
    return np.insert(input_ids, borders, spec.separator), ends


class Sequences:
    """Sequences of tokens, whose windows have numbers; sequence i is from `bounds[i]` to `bounds[i + 1]`."""

    def __init__(self, spec: WindowSpec, bounds: npt.NDArray[np.int64]) -> None:
        self._stride, self._bounds = spec.stride, bounds
        counts = spec.count(np.diff(bounds))
        self._after = np.cumsum(counts)  # windows up to the end of each sequence
        self._before = self._after - counts

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self._after[-1]) if len(self._after) else 0

    def find(self, numbers: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where the windows with these numbers begin, and how much of their sequences follows."""
        numbers = numbers.astype(np.int64, copy=False)
        sequence = np.searchsorted(self._after, numbers, side="right")
        begins = self._bounds[sequence] + (numbers - self._before[sequence]) * self._stride
        return begins, self._bounds[sequence + 1] - begins


def pad_windows(windows: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> Ids:
    """Return windows, `(n, max_length + 1)`, padded after so many tokens of each."""
    return np.where(np.arange(windows.shape[1]) < lengths[:, None], windows, np.int32(IGNORED))


class Packer:
    """Cuts documents into windows as they are read, from a position on.

    A position counts the tokens of a stream, a separator for each document among them. The first document has one too:
    with `packing="stream"` it stands before the document, so windows begin at position 1.
    """

    def __init__(self, spec: WindowSpec, position: int | None = None) -> None:
        self.ended = False  # whether the last window was taken and more were asked for
        self._spec = spec
        self._cursors: deque[tuple[int, dict[str, Any]]] = deque()  # of what was read, each with its position
        self._read: list[Ids] = []  # since windows were last laid out
        self._stop = 0  # the position up to which was read
        self._tokens = np.empty(0, np.int32)  # laid out
        self._start = self._laid = 0  # the positions from which and up to which
        self._views = np.empty((0, spec.max_length + 1), np.int32)  # of the tokens laid out
        self._bounds = [np.empty(0, np.int64)]  # between the documents that may have windows left
        self._begins = self._lengths = np.empty(0, np.int64)  # of windows laid out and not yet taken
        self._is_padded = False  # whether any of them may be padded
        # Where the window after these begins.
        self._next = int(spec.packing == "stream") if position is None else position

    @property
    def position(self) -> int:
        """Where the next window begins."""
        return self._start + int(self._begins[0]) if len(self._begins) else self._next

    def push(self, input_ids: Ids, offsets: npt.NDArray[np.int64], cursor: dict[str, Any]) -> None:
        """Add documents, at least one with a token; the cursor says how many `documents` and `tokens` came before."""
        tokens, ends = add_separators(input_ids, offsets, self._spec)
        start = cursor["documents"] + cursor["tokens"]
        if not self._cursors:
            self._start = self._laid = start
            self._bounds = [np.array([start])]
        self._cursors.append((start, cursor))
        self._read.append(tokens)
        self._bounds.append(start + ends)
        self._stop = start + len(tokens)

    def take(self, n: int, final: bool) -> Ids | None:
        """Return the next `n` windows, `(n, max_length + 1)`, or None if more documents must be read first.

        With `final` there are no more documents, and fewer than `n` windows may be left.
        """
        if len(self._begins) < n:
            # Only if as much was read as is waiting, so that a large batch is not copied again for each part of it.
            if final or self._stop - self._laid >= self._laid - self.position:
                self._lay_out(final)
            if len(self._begins) < n and not final:
                return None
        windows: Ids = self._views[self._begins[:n]]
        if self._is_padded:
            windows = pad_windows(windows, self._lengths[:n])
        self._begins, self._lengths = self._begins[n:], self._lengths[n:]
        self.ended = len(windows) < n
        return windows

    def cursor(self) -> dict[str, Any] | None:
        """Return the cursor of the documents that the next window begins in, or None if nothing was read yet."""
        while len(self._cursors) > 1 and self._cursors[1][0] <= self.position:
            self._cursors.popleft()
        return self._cursors[0][1] if self._cursors else None

    def _lay_out(self, final: bool) -> None:
        """Join what is waiting with what was read since, and find its windows."""
        spec, position = self._spec, self.position
        start = min(position, self._laid)  # what was read may begin before the position of a saved state
        waiting = self._tokens[start - self._start : self._laid - self._start]
        self._tokens = np.concatenate([waiting, *self._read, np.zeros(spec.max_length + 1, np.int32)])
        self._views = sliding_window_view(self._tokens, spec.max_length + 1)
        self._start, self._laid, self._read = start, self._stop, []
        bounds = np.concatenate(self._bounds)
        if spec.packing == "stream":
            end = 1 + spec.stride * int(spec.count(np.array(self._stop - 1), padded=final))
            begins = np.arange(position, end, spec.stride)
            self._lengths = self._stop - begins
            self._bounds, self._next = [bounds[:0]], max(position, end)
        else:
            bounds = bounds[max(0, np.searchsorted(bounds, position, side="right") - 1) :]
            sequences = Sequences(spec, bounds)
            begins, lengths = sequences.find(np.arange(len(sequences)))
            left = begins >= position
            begins, self._lengths = begins[left], lengths[left]
            self._bounds, self._next = [bounds], max(position, self._stop)
        self._begins = begins - start
        self._is_padded = spec.packing == "document" or final
