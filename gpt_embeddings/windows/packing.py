"""Flat token ids cut into windows: pure numpy, no text, no files.

A packer takes documents in (`push`) and returns windows of `max_length + 1` ids (`take`): the first `max_length` are
the input, the last `max_length` the targets. -100 stands where a window is padded. The docstring of
`gpt_embeddings.windows.token_windows.TokenWindows` defines what a window is.
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

    def count(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many windows sequences of these lengths have."""
        beyond = lengths - 1 - self.max_length  # targets beyond the first window
        if self.tail == "drop":
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
    """Return the ids with a separator before ("stream") or after ("document") each document, and where each ends.

    Empty documents get none.
    """
    filled = np.diff(offsets) > 0
    borders = (offsets[:-1] if spec.packing == "stream" else offsets[1:])[filled]
    ends = offsets[1:][filled] + np.arange(1, len(borders) + 1)
    return np.insert(input_ids, borders, spec.separator), ends


class Sequences:
    """Sequences of tokens in memory, whose windows have numbers; `ends` says where each sequence ends."""

    def __init__(self, spec: WindowSpec, tokens: npt.NDArray[Any], ends: npt.NDArray[np.int64]) -> None:
        self.tokens = tokens
        self._spec, self._ends = spec, ends
        self._starts = np.concatenate([[0], ends[:-1]])[: len(ends)]
        counts = spec.count(ends - self._starts)
        self._after = np.cumsum(counts)  # windows up to the end of each sequence
        self._before = self._after - counts

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self._after[-1]) if len(self._after) else 0

    def take(self, numbers: npt.NDArray[Any]) -> Ids:
        """Return the windows with these numbers, `(n, max_length + 1)`."""
        return self.gather(*self.find(numbers))

    def find(self, numbers: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where the windows with these numbers begin, and where their sequences end."""
        numbers = numbers.astype(np.int64, copy=False)
        sequence = np.searchsorted(self._after, numbers, side="right")
        return self._starts[sequence] + (numbers - self._before[sequence]) * self._spec.stride, self._ends[sequence]

    def gather(self, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Ids:
        """Return the windows that [`Sequences.find`] has found."""
        if not len(begins):
            return np.empty((0, self._spec.max_length + 1), np.int32)
        at = begins[:, None] + np.arange(self._spec.max_length + 1)  # (window, max_length + 1)
        padded = at >= ends[:, None]
        windows = self.tokens[np.minimum(at, len(self.tokens) - 1, out=at)].astype(np.int32, copy=False)
        windows[padded] = IGNORED
        return windows


@dataclass
class Block:
    """Documents that were read together: where they begin, and how much of them is used up."""

    cursor: dict[str, Any]
    used: int  # tokens ("stream") or windows ("document")
    size: int


class StreamPacker:
    """Cuts one sequence, documents joined by the separator, into windows that run across documents.

    The first `used` tokens are skipped: earlier windows have used them up.
    """

    def __init__(self, spec: WindowSpec, used: int = 0) -> None:
        self.ended = False  # whether the last window was taken
        self._spec, self._skip = spec, used
        self._parts: list[Ids] = []  # tokens read since the last windows were laid out
        self._views = np.empty((0, spec.max_length + 1), np.int32)  # full windows, not yet taken, over one buffer
        self._left = np.empty(0, np.int32)  # the buffer from the first window on that is not full
        self._size = 0  # tokens from the start of the next window on
        self._blocks: deque[Block] = deque()  # the first one holds the start of the next window

    def push(self, input_ids: Ids, offsets: npt.NDArray[np.int64], cursor: dict[str, Any]) -> None:
        """Add documents, at least one with a token; `cursor["tokens"]` says how many tokens came before them."""
        tokens, _ = add_separators(input_ids, offsets, self._spec)
        if cursor["tokens"] == 0:
            tokens = tokens[1:]  # separators stand between documents, so none before the first
        skip = min(self._skip, len(tokens))
        self._skip -= skip
        self._blocks.append(Block(cursor, skip, len(tokens)))
        self._parts.append(tokens[skip:])
        self._size += len(tokens) - skip

    def take(self, n: int, final: bool) -> Ids | None:
        """Return the next `n` windows, `(n, max_length + 1)`, or None if more documents must be read first.

        With `final` there are no more documents, and fewer than `n` windows may be left.
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
        """Return the block that holds the next window, or None if nothing was read yet."""
        return self._blocks[0] if self._blocks else None

    def _lay_out(self) -> None:
        """Join what is left with what was read since, and view it as windows without a copy of each."""
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
    """Cuts each document by itself, with the separator as its last token, skipping the first `used` windows."""

    def __init__(self, spec: WindowSpec, used: int = 0) -> None:
        self.ended = False  # whether the last window was taken and more were asked for
        self._spec, self._skip = spec, used
        self._parts: deque[tuple[Block, Sequences, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = deque()
        self._size = 0  # windows waiting

    def push(self, input_ids: Ids, offsets: npt.NDArray[np.int64], cursor: dict[str, Any]) -> None:
        """Add documents, at least one with a token."""
        sequences = Sequences(self._spec, *add_separators(input_ids, offsets, self._spec))
        skip = min(self._skip, len(sequences))
        self._skip -= skip
        self._size += len(sequences) - skip
        self._parts.append(
            (Block(cursor, skip, len(sequences)), sequences, *sequences.find(np.arange(len(sequences))))
        )
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
            block, sequences, begins, ends = self._parts[0]
            step = min(missing, block.size - block.used)
            chosen = slice(block.used, block.used + step)
            pieces.append(sequences.gather(begins[chosen], ends[chosen]))
            block.used += step
            missing -= step
            if block.used == block.size and len(self._parts) > 1:
                self._parts.popleft()
        return np.concatenate(pieces)

    def block(self) -> Block | None:
        """Return the block that holds the next window, or None if nothing was read yet."""
        return self._parts[0][0] if self._parts else None
