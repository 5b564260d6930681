"""Batches of windows, in an order and with a state that do not depend on the number of workers.

torch's `DataLoader` over `TokenWindows` cannot do this: its batches come from the workers in turn, so their order
depends on how many there are, and it has no state. The state of torchdata's `StatefulDataLoader` fits one number of
workers only.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.distributed
import torch.utils.data
from torch.utils.data import DataLoader, get_worker_info

from gpt_embeddings.text.encoding import prepare
from gpt_embeddings.windows.corpus import Corpus
from gpt_embeddings.windows.cursor import Cursor
from gpt_embeddings.windows.packing import Ids


if TYPE_CHECKING:
    from gpt_embeddings.windows.token_windows import TokenWindows

Batch: TypeAlias = dict[str, torch.Tensor]
Turn: TypeAlias = "tuple[()] | tuple[int, Ids, dict[str, Any] | None]"


class WindowLoader(DataLoader[Batch]):
    """Batches of `TokenWindows`, as dictionaries of contiguous int64 tensors of shape `(batch, max_length)`.

    An iteration is one epoch; the next one is the next epoch, with its own order if the windows are shuffled. An
    iteration that is broken off starts again, unless a state was loaded. The state is that of the batches handed out,
    whatever workers have read ahead, and may be loaded with another number of workers or another batch size.
    """

    def __init__(
        self, windows: "TokenWindows", batch_size: int, drop_last: bool, num_workers: int, persistent_workers: bool
    ) -> None:
        self.windows, self._drops = windows, drop_last
        self._turns = DataLoader(
            _Turns(windows, batch_size, drop_last),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=tuple,  # as it is
            persistent_workers=persistent_workers,
        )
        # For accelerate, which makes a loader of its own from these. Its `drop_last` would drop whole batches too.
        super().__init__(_Rows(self), batch_size=batch_size, collate_fn=self._collate)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Iterate over the batches of an epoch, or what is left of it after a state was loaded."""
        return (self.windows.as_batch(ids) for ids in self.read())

    def __len__(self) -> int:
        """Return the number of batches of an epoch; see `TokenWindows.__len__`."""
        sizes, size = self.windows.stream_sizes(), int(self.batch_size or 1)
        return sum(n // size if self._drops else -(-n // size) for n in sizes)

    def read(self) -> Iterator[Ids]:
        """Iterate over the batches as arrays, `(batch, max_length + 1)`."""
        if not self._turns.num_workers:
            turns: Iterator[Turn] = iter(self._turns.dataset)
        else:
            # Whatever the tokenizer sets up is there before this process forks.
            prepare(self.windows.corpus.tokenizer)
            if self.windows.cursor.resumed:
                self._turns._iterator = None  # living workers do not have the state; new ones begin with it
            turns = iter(self._turns)
            self.windows.cursor.begin()
        yield from hand_out(self.windows, turns, int(self.batch_size or 1), drop_last=self._drops)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing happens if it is the current one."""
        self.windows.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch that was handed out; see `TokenWindows.state_dict`."""
        return self.windows.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to a saved position; see `TokenWindows.load_state_dict`."""
        self.windows.load_state_dict(state_dict)

    def _collate(self, rows: Sequence[Ids | None]) -> Batch:
        return self.windows.as_batch(np.stack([row for row in rows if row is not None]))


class _Turns(torch.utils.data.IterableDataset[Any]):
    """What the worker processes of a [`WindowLoader`] iterate over."""

    def __init__(self, windows: "TokenWindows", batch_size: int, drop_last: bool) -> None:
        self.windows, self.batch_size, self.drop_last = windows, batch_size, drop_last

    def __iter__(self) -> Iterator[Turn]:
        cursor = self.windows.cursor
        cursor.begin()
        worker = get_worker_info()
        order: list[int | None] = list(cursor.order())
        if worker is not None:  # batches are fetched from the workers in turn, so each needs the same number of turns
            order += [None] * (-len(order) % worker.num_workers)
            order = order[worker.id :: worker.num_workers]
        return take_turns(self.windows.corpus, cursor, order, self.batch_size, self.drop_last)


class _Rows(torch.utils.data.IterableDataset[Any]):
    """The windows of a [`WindowLoader`] one by one, for the loader that accelerate makes from it.

    Only whole batches are taken, filled up with None, so its batches are the same, and the state after one is exact.
    """

    def __init__(self, loader: WindowLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        """Return the number of rows, including None, if the number of windows is known."""
        return len(self._loader) * int(self._loader.batch_size or 1)

    def __iter__(self) -> Iterator[Ids | None]:
        corpus, size = self._loader.windows.corpus, int(self._loader.batch_size or 1)
        if get_worker_info() is not None:
            raise ValueError("These batches have their own workers: use `windows.dataloader(num_workers=...)`.")
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if several and torch.distributed.get_world_size() > 1:
            if corpus.world_size > 1:
                raise ValueError(
                    f"These windows are the part of rank {corpus.rank}, but a prepared loader splits the whole "
                    "between processes: leave out `rank` and `world_size`, or do not prepare the loader."
                )
            if corpus.num_streams > 1 and not self._loader._drops:
                raise ValueError(
                    "Each stream ends with a batch that is not full, which cannot be split between processes without "
                    "losing windows: use `drop_last=True`, or one stream."
                )
        for ids in self._loader.read():
            yield from ids
            if corpus.num_streams > 1:  # the batch that is not full may not be the last one
                yield from [None] * (size - len(ids))

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, which accelerate does without knowing of a loaded state."""
        cursor = self._loader.windows.cursor
        if cursor.resumed and epoch != cursor.epoch:
            raise ValueError(
                f"A state of epoch {cursor.epoch} was loaded, but the loader is about to begin epoch {epoch}. "
                f"Call its `set_epoch({cursor.epoch})` first."
            )
        self._loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._loader.load_state_dict(state_dict)


def hand_out(windows: "TokenWindows", turns: Iterable[Turn], batch_size: int, *, drop_last: bool) -> Iterator[Ids]:
    """Yield the windows of turns with the cursor behind them, then end the epoch; warn if there was nothing."""
    cursor, worker, dropped = windows.cursor, get_worker_info(), False
    seen = any(state is not None for state in cursor.states)  # before the state that was loaded
    for turn in turns:
        if not turn:
            continue
        stream, ids, state = turn
        cursor.advance(stream, state)
        if drop_last and 0 < len(ids) < batch_size:
            dropped = True
        elif len(ids):
            seen = True
            yield ids
    if not seen and not windows.warned:
        windows.warned = True
        of_worker = f" of worker {worker.id}" if worker is not None and worker.num_workers > 1 else ""
        message = f"Epoch {cursor.epoch}{of_worker} has no window: {windows.corpus.spec.no_window()}."
        if dropped:
            message = (
                f"Epoch {cursor.epoch} has no batch of {batch_size} windows: no stream has that many. Use a smaller "
                "`batch_size`, fewer streams or `drop_last=False`."
            )
        warnings.warn(message, stacklevel=2)
    cursor.finish()


def take_turns(
    corpus: Corpus, cursor: Cursor, order: Sequence[int | None], batch_size: int, drop_last: bool
) -> Iterator[Turn]:
    """Yield (stream, windows, state after them), stream after stream, until all have ended."""
    streams = corpus.streams(cursor.epoch, {n: cursor.states[n] for n in order if n is not None})
    live: set[int | None] = set(streams)
    while live:
        for n in order:
            # Without a stream, or after its end, a turn is empty, which keeps workers in step.
            if n is None or n not in live:
                yield ()
                continue
            windows = streams[n].take(batch_size)
            if len(windows) < (batch_size if drop_last else 1):
                live.remove(n)  # with `drop_last` the caller drops windows that are less than a batch
            yield n, windows, streams[n].state()
