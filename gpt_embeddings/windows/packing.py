"""Flat token ids cut into windows: pure numpy, no text, no files.

A packer takes documents in (`push`) and gives windows of `max_length + 1` ids out (`take`): the first `max_length` are
the input, the last `max_length` the targets. -100 stands where a window is padded. What a window is, is defined in
`gpt_embeddings.windows.token_windows`.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view


IGNORED = -100  # the target that torch's cross-entropy leaves out

Ids: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How token streams are cut into windows."""

    max_length: int
    """Inputs of a window, in tokens."""
    stride: int
    """Tokens from the start of a window to the start of the next, from 1 to `max_length`."""
    packing: Literal["stream", "document"]
    """Whether windows run across documents or stay within one."""
    tail: Literal["pad", "drop"]
    """What becomes of a last window that is not full."""
    separator: int
    """Id of `<|endoftext|>`."""


@dataclass
class Block:
    """A cursor that work can start from again, and how much of what was read there is used up."""

    cursor: dict[str, Any]
    used: int  # tokens ("stream") or windows ("document")
    size: int


class StreamPacker:
    """Cuts one token stream, documents joined by the separator, across their borders.

    Args:
        spec: How to cut.
        used: Tokens to leave out at the start: those that earlier windows have used up.

    Attributes:
        ended: Whether the last window was taken, so that there is no cursor to go on from.
    """

    def __init__(self, spec: WindowSpec, used: int = 0) -> None:
        self.ended = False
        self._spec, self._skip = spec, used
        self._parts: list[Ids] = []  # tokens read since the last windows were laid out
        self._views = np.empty((0, spec.max_length + 1), np.int32)  # full windows, not yet taken, over one buffer
        self._left = np.empty(0, np.int32)  # the buffer from the first window that is no full one on
        self._size = 0  # tokens from the start of the next window on
        self._blocks: deque[Block] = deque()  # the first one holds the start of the next window

    def push(self, input_ids: Ids, offsets: npt.NDArray[np.int64], cursor: dict[str, Any]) -> None:
        """Take in documents, at least one with a token; `cursor["tokens"]` says how many tokens came before them."""
        tokens = separated(input_ids, offsets[:-1][np.diff(offsets) > 0], self._spec.separator)
        if cursor["tokens"] == 0:
            tokens = tokens[1:]  # a separator stands between documents, so none before the first
        skip = min(self._skip, len(tokens))
        self._skip -= skip
        self._blocks.append(Block(cursor, skip, len(tokens)))
        self._parts.append(tokens[skip:])
        self._size += len(tokens) - skip

    def take(self, n: int, final: bool) -> Ids | None:
        """Return the next `n` windows, `(n, max_length + 1)`, or None if more documents must be read first.

        With `final` there are no more documents: what is left is returned, possibly fewer than `n` windows.
        """
        if len(self._views) < n:
            if self._size < (n - 1) * self._spec.stride + self._spec.max_length + 1 and not final:
                return None
            self._lay_out()
        windows, self._views = self._views[:n], self._views[n:]
        self._advance(len(windows) * self._spec.stride)
        if len(windows) < n:
            rest = self._rest()
            if rest is not None:
                windows = np.concatenate([windows, rest[None]])
            self._size, self.ended = 0, True
        return windows

    def block(self) -> Block | None:
        """Return the cursor to start from again, or None before anything was read."""
        return self._blocks[0] if self._blocks else None

    def _lay_out(self) -> None:
        """Join what is left with what was read since, and see it as windows."""
        length, stride = self._spec.max_length, self._spec.stride
        waiting = [self._views[:, :stride].reshape(-1), self._left]
        tokens = np.concatenate([*waiting, *self._parts])
        self._parts = []
        whole = max(0, (len(tokens) - length - 1) // stride + 1)
        if whole:
            self._views = sliding_window_view(tokens, length + 1)[: whole * stride : stride]
        self._left = tokens[whole * stride :]

    def _advance(self, count: int) -> None:
        # A stride is at most max_length, so the token after the last one used is always there.
        self._size -= count
        while count:
            block = self._blocks[0]
            step = min(count, block.size - block.used)
            block.used += step
            count -= step
            if block.used == block.size:
                self._blocks.popleft()

    def _rest(self) -> Ids | None:
        """Return the last window, padded, if it has a target that no earlier window has."""
        if self._spec.tail == "drop" or not self._blocks:
            return None
        first = self._blocks[0].cursor["tokens"] == 0 and self._blocks[0].used == 0
        covered = 1 if first else self._spec.max_length - self._spec.stride + 1
        if self._size <= covered:
            return None
        window = np.full(self._spec.max_length + 1, IGNORED, np.int32)
        window[: self._size] = self._left
        return window


class DocumentPacker:
    """Cuts each document by itself, with the separator as its last token.

    Args:
        spec: How to cut.
        used: Windows to leave out at the start.

    Attributes:
        ended: Whether the last window was taken and more were asked for.
    """

    def __init__(self, spec: WindowSpec, used: int = 0) -> None:
        self.ended = False
        self._spec, self._skip = spec, used
        self._parts: deque[tuple[Block, Ids, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = deque()
        self._size = 0  # windows waiting

    def push(self, input_ids: Ids, offsets: npt.NDArray[np.int64], cursor: dict[str, Any]) -> None:
        """Take in documents, at least one with a token."""
        ends = offsets[1:][np.diff(offsets) > 0]
        tokens = separated(input_ids, ends, self._spec.separator)
        ends = ends + np.arange(1, len(ends) + 1)
        starts = np.concatenate([[0], ends[:-1]])
        counts = count_windows(ends - starts, self._spec)
        first = np.cumsum(counts) - counts  # the number of each document's first window
        within = np.arange(counts.sum()) - np.repeat(first, counts)
        skip = min(self._skip, len(within))
        self._skip -= skip
        self._size += len(within) - skip
        begins = np.repeat(starts, counts) + within * self._spec.stride
        self._parts.append((Block(cursor, skip, len(within)), tokens, begins, np.repeat(ends, counts)))
        while len(self._parts) > 1 and self._parts[0][0].used == self._parts[0][0].size:
            self._parts.popleft()  # no window is left in it, or none was

    def take(self, n: int, final: bool) -> Ids | None:
        """Return the next `n` windows, as [`StreamPacker.take`] does."""
        if self._size < n and not final:
            return None
        pieces = [np.empty((0, self._spec.max_length + 1), np.int32)]
        missing = min(n, self._size)
        self.ended = missing < n
        self._size -= missing
        while missing:
            block, tokens, begins, ends = self._parts[0]
            step = min(missing, block.size - block.used)
            chosen = slice(block.used, block.used + step)
            pieces.append(_gather(tokens, begins[chosen], ends[chosen], self._spec.max_length))
            block.used += step
            missing -= step
            if block.used == block.size and len(self._parts) > 1:
                self._parts.popleft()
        return np.concatenate(pieces)

    def block(self) -> Block | None:
        """Return the cursor to start from again, or None before anything was read."""
        return self._parts[0][0] if self._parts else None


class BufferedWindows:
    """Windows of sequences that are held in memory as a whole, each found by its number.

    Args:
        spec: How to cut.
        tokens: The sequences, one after the other, with the separators that belong to them; any integer dtype.
        ends: Where each ends, ascending.
    """

    def __init__(self, spec: WindowSpec, tokens: npt.NDArray[Any], ends: npt.NDArray[np.int64]) -> None:
        self._spec, self._tokens, self._ends = spec, tokens, ends
        self._starts = np.concatenate([[0], ends[:-1]])[: len(ends)]
        counts = count_windows(ends - self._starts, spec)
        self._after = np.cumsum(counts)  # windows up to the end of each sequence
        self._before = self._after - counts

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self._after[-1]) if len(self._after) else 0

    def take(self, numbers: npt.NDArray[Any]) -> Ids:
        """Return the windows of these numbers, `(n, max_length + 1)`, as packers do."""
        length = self._spec.max_length
        if not len(numbers):
            return np.empty((0, length + 1), np.int32)
        numbers = numbers.astype(np.int64)
        sequence = np.searchsorted(self._after, numbers, side="right")
        begins = self._starts[sequence] + (numbers - self._before[sequence]) * self._spec.stride
        return _gather(self._tokens, begins, self._ends[sequence], length)


def count_windows(lengths: npt.NDArray[np.int64], spec: WindowSpec) -> npt.NDArray[np.int64]:
    """Return how many windows sequences of these lengths have."""
    beyond = lengths - 1 - spec.max_length  # targets beyond the first window
    if spec.tail == "drop":
        return np.where(beyond >= 0, beyond // spec.stride + 1, 0)
    return np.where(lengths > 1, 1 + -(-np.maximum(beyond, 0) // spec.stride), 0)


def _gather(
    tokens: npt.NDArray[Any], begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], max_length: int
) -> Ids:
    index = begins[:, None] + np.arange(max_length + 1)  # (window, max_length + 1)
    padded = index >= ends[:, None]
    windows = tokens[np.minimum(index, len(tokens) - 1, out=index)].astype(np.int32, copy=False)
    windows[padded] = IGNORED
    return windows


def separated(input_ids: Ids, places: npt.NDArray[np.int64], separator: int) -> Ids:
    """Return the ids with a separator before each of the places, which ascend."""
    places = places + np.arange(len(places))
    tokens = np.empty(len(input_ids) + len(places), np.int32)
    kept = np.ones(len(tokens), np.bool_)
    kept[places] = False
    tokens[places] = separator
    tokens[kept] = input_ids
    return tokens
