"""Text streamed into training windows: documents in, batches of (input, target) ids out.

The order of work is: shuffle documents (or shards), tokenize, cut; or, in memory, tokenize, cut, shuffle.
Left out: attention masks, models, and mixing of corpora (`datasets.interleave_datasets` does that before).
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.utils.data
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader, get_worker_info
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.encoding import prepare
from gpt_embeddings.windows.corpus import check_integer, open_corpus
from gpt_embeddings.windows.packing import IGNORED, Ids
from gpt_embeddings.windows.stored_windows import store_windows
from gpt_embeddings.windows.streams import TokenStream


STATE_VERSION = 1


class WindowCounts(NamedTuple):
    """What a corpus amounts to."""

    documents: int
    """Documents with at least one token."""
    tokens: int
    """Their tokens, without separators."""
    windows: int
    """Windows cut from them."""


class TokenWindows(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    r"""Training windows over the tokens of a corpus: streamed, exact, and resumable to the token.

    **What a window is.** A document is a text with at least one token; nulls and empty texts are no documents.

    - `packing="stream"`: the documents of a stream, joined by `<|endoftext|>`, are one sequence `t`.
    - `packing="document"`: each document followed by `<|endoftext|>` is a sequence `t` of its own, so that the model
      learns where to stop.

    Windows begin at 0, `stride`, 2 `stride`, ... of a sequence. The window at i has

        input_ids  = t[i],     t[i + 1], ..., t[i + max_length - 1]
        target_ids = t[i + 1], t[i + 2], ..., t[i + max_length]

    With `tail="drop"` there are only full windows: those with `i + max_length < len(t)`. With `tail="pad"` there is
    also the window that starts at the next i, if it has a target that no window before has; where `t` has ended, its
    `input_ids` are `<|endoftext|>` and its `target_ids` -100. So with `tail="pad"` and `stride=max_length` every token
    of a sequence but the first is a target exactly once.

    **An example.** "The cat sat" has the tokens 464 3797 3332, "A mat" has 32 2603, `<|endoftext|>` is 50256:

    >>> from gpt_embeddings import TokenWindows, load_tokenizer
    >>> for window in TokenWindows(["The cat sat", "A mat"], load_tokenizer(), max_length=4):
    ...     print(window["input_ids"].tolist(), window["target_ids"].tolist())
    [464, 3797, 3332, 50256] [3797, 3332, 50256, 32]
    [32, 2603, 50256, 50256] [2603, -100, -100, -100]

    With `stride=2` the second window begins at 3332:

    >>> for window in TokenWindows(["The cat sat", "A mat"], load_tokenizer(), max_length=4, stride=2):
    ...     print(window["input_ids"].tolist(), window["target_ids"].tolist())
    [464, 3797, 3332, 50256] [3797, 3332, 50256, 32]
    [3332, 50256, 32, 2603] [50256, 32, 2603, -100]

    **Order.** A corpus is divided into `num_streams` streams, each a sequence (or source of sequences) of its own.
    Windows come from the streams in turn, stream 0 first, skipping streams that have ended;
    [`TokenWindows.dataloader`] takes a whole batch from a stream before it goes on to the next. Neither worker
    processes nor resuming change that order.

    **Resume.** [`TokenWindows.state_dict`] is small and JSON-serialisable: the position of the last block of rows that
    is still needed, in each stream, and how much of it is used. After [`TokenWindows.load_state_dict`] the next
    iteration goes on with the very next window. Any other iteration starts the epoch from its beginning.

    Args:
        dataset: A `datasets.Dataset` or `IterableDataset` with a column of texts, or an iterable of strings. A
            sequence or a dataset with random access resumes at once, an `IterableDataset` as its own `state_dict`
            does, any other iterable by reading up to the cursor.
        tokenizer: A fast tokenizer with an end-of-text token. Special tokens that stand in a text are plain text.
        max_length: Inputs of a window, in tokens, from 1 to the tokenizer's `model_max_length`.
        stride: Tokens from the start of a window to the start of the next, from 1 to `max_length` (the default).
        packing: `"stream"` or `"document"`, see above.
        tail: `"pad"` or `"drop"`, see above.
        column: The column of texts, where `dataset` has columns.
        shuffle: Whether to shuffle, anew in each epoch. True shuffles documents where the dataset has random access,
            shards (the order of files) where it streams; windows are cut after that. `"windows"` shuffles the windows
            themselves, as a loader with `shuffle=True` over a list of windows does: a dataset with random access is
            tokenized at once and held in memory (two bytes a token with GPT-2's vocabulary), and each stream and rank
            takes an equal part of all windows.
        seed: Seed of the shuffle, from 0.
        num_streams: Streams of this process, the most workers that can share the work. A dataset with random access is
            split into contiguous parts, the shards of one that streams are dealt out in turn.
        rank: The number of this process among those that train together, from 0 to `world_size - 1`.
        world_size: How many processes train together. The dataset is split as
            `datasets.distributed.split_dataset_by_node` does; one that was split by it is taken as it is.
        return_position_ids: Whether windows have `position_ids`: from 0 at the start of the window and again at each
            document that begins in it. A separator belongs to the document that it ends.
        return_document_ids: Whether windows have `document_ids`: 0 for the document at the start of the window, 1 for
            the next, ...; -1 for padding. Two positions may attend to each other if theirs are equal.

    Raises:
        TypeError: The tokenizer is not fast, or the dataset is an iterator, which cannot be read twice.
        ValueError: An argument is out of its range, a column is missing or holds no strings, the dataset has no rows
            or is shuffled in a way that cannot be resumed; the message says what to do.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset | Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int | None = None,
        *,
        packing: Literal["stream", "document"] = "stream",
        tail: Literal["pad", "drop"] = "pad",
        column: str = "text",
        shuffle: bool | Literal["windows"] = False,
        seed: int = 0,
        num_streams: int = 1,
        rank: int = 0,
        world_size: int = 1,
        return_position_ids: bool = False,
        return_document_ids: bool = False,
    ) -> None:
        self.corpus = open_corpus(
            dataset,
            tokenizer,
            max_length,
            stride,
            packing=packing,
            tail=tail,
            column=column,
            shuffle=shuffle,
            seed=seed,
            num_streams=num_streams,
            rank=rank,
            world_size=world_size,
        )
        self.return_position_ids, self.return_document_ids = return_position_ids, return_document_ids
        # The epoch, and how often a state was loaded: in shared memory, to reach workers that live on between epochs.
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._loaded = 0  # states that this copy knows of
        self._turn, self._resumed = 0, False
        self._states: list[dict[str, Any] | None] = [None] * num_streams
        self._sizes: dict[int, list[int]] = {}  # windows of each stream, by the order that they were counted in

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()  # a copy or a pickle has memory of its own; a worker's is shared already

    def __len__(self) -> int:
        """Return the number of windows of the epoch, if it is known or a moment's work.

        It is with `shuffle="windows"`, after [`TokenWindows.count`], and where a corpus with random access has at most
        16 MiB of text, which is counted when it is first asked for.

        Raises:
            TypeError: The text would have to be read through.
        """
        return sum(self.stream_sizes())

    def __bool__(self) -> bool:
        """Return True, without counting."""
        return True

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Iterate over the windows of the epoch, `(max_length,)` int64 tensors; a worker process takes its streams."""
        worker = get_worker_info()
        own = (
            range(self.corpus.num_streams)
            if worker is None
            else range(worker.id, self.corpus.num_streams, worker.num_workers)
        )
        self._begin()
        order = [stream for stream in self._rotation() if stream in own]
        for stream, windows, state in self._rotate(order, 1, drop_last=False):
            self._commit(stream, state)
            if windows is not None:
                yield {name: values[0] for name, values in self.as_batch(windows).items()}

    def dataloader(
        self, batch_size: int = 8, *, drop_last: bool = False, num_workers: int = 0, persistent_workers: bool = False
    ) -> "WindowLoader":
        """Return a loader of batches whose order and state do not depend on the number of workers.

        Args:
            batch_size: Windows of a batch, all from one stream.
            drop_last: Whether to leave out the last batch of a stream if it is not full.
            num_workers: Worker processes, at most `num_streams`; 0 works in this process.
            persistent_workers: Whether workers live on from epoch to epoch.

        Raises:
            ValueError: A number is out of its range, or there are no workers to live on.
        """
        check_integer("batch_size", batch_size, 1)
        check_integer(
            "num_workers",
            num_workers,
            0,
            self.corpus.num_streams,
            "A stream is read by one worker: raise `num_streams` to have more.",
        )
        if persistent_workers and not num_workers:
            raise ValueError("`persistent_workers` is True and `num_workers` 0: there are no workers to live on.")
        return WindowLoader(self, batch_size, drop_last, num_workers, persistent_workers)

    def count(self) -> WindowCounts:
        """Read the epoch through and count it; the cursor of iteration stays as it is, and `len()` is known.

        With `shuffle="windows"` documents and tokens are those of the whole corpus, windows those of this rank.
        """
        corpus = self.corpus
        streams = corpus.streams(self.epoch)
        sizes = [0] * len(streams)
        for n, stream in streams.items():
            while taken := len(stream.take(1024)):
                sizes[n] += taken
        self._sizes[self._order] = sizes
        if corpus.buffer is not None:
            return WindowCounts(corpus.buffer.n_documents, corpus.buffer.n_tokens, sum(sizes))
        read = [stream for stream in streams.values() if isinstance(stream, TokenStream)]
        return WindowCounts(
            sum(stream.n_documents for stream in read), sum(stream.n_tokens for stream in read), sum(sizes)
        )

    def stream_sizes(self) -> list[int]:
        """Return the number of windows of each stream; see `len()`."""
        if self._order not in self._sizes:
            if not self.corpus.is_small:
                raise TypeError(
                    "The number of windows is known when the text has been read: `count()` reads it through, and "
                    "`len()` knows it then. With Trainer, `max_steps` does without."
                )
            self.count()
        return self._sizes[self._order]

    def to_dataset(self, folder: str | os.PathLike[str] | None = None) -> Dataset:
        """WindowSpec the whole epoch and store it; see `gpt_embeddings.windows.stored_windows.store_windows`.

        Args:
            folder: Where to write; it appears whole or not at all, and a run that was killed goes on where it
                stopped. None keeps the windows in memory.

        Returns:
            A dataset with the columns `input_ids` and `target_ids`, fixed-size lists of `max_length`.
        """
        return store_windows(self.corpus, self.epoch, folder)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration belongs to."""
        return int(self._shared[0])

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing happens if it is the current one."""
        check_integer("epoch", epoch, 0)
        if epoch != self.epoch:
            self._shared[0] = epoch
            self._restart()

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands after the last window or batch that was handed out."""
        return {
            "version": STATE_VERSION,
            "settings": self.corpus.settings,
            "epoch": self.epoch,
            "turn": self._turn,
            "streams": list(self._states),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to where a state was saved; the next iteration begins there.

        Raises:
            ValueError: The state is of another dataset, tokenizer, spec, shuffle or world size; the message names all
                that differs.
        """
        if not isinstance(state_dict, Mapping) or state_dict.get("version") != STATE_VERSION:
            raise ValueError(f"This is no state of version {STATE_VERSION} of token windows: {state_dict!r:.80}.")
        _check_state(state_dict, self.corpus.num_streams)
        if differing := self.corpus.differences(state_dict["settings"]):
            raise ValueError(f"The state does not fit: {'; '.join(differing)}. Use what it was saved with.")
        self._shared[0] = state_dict["epoch"]
        self._turn, self._states, self._resumed = state_dict["turn"], list(state_dict["streams"]), True
        if get_worker_info() is None:  # a worker that loads a state has one of its own
            self._shared[1] += 1
            self._loaded = int(self._shared[1])

    def as_batch(self, windows: Ids) -> dict[str, torch.Tensor]:
        """Turn cut windows, `(batch, max_length + 1)` with -100 for padding, into contiguous int64 tensors."""
        inputs = windows[:, :-1].astype(np.int64)  # (batch, max_length)
        padding = inputs == IGNORED if windows[:, -1].min() == IGNORED else None  # padding is on the right
        batch = {"input_ids": inputs, "target_ids": windows[:, 1:].astype(np.int64)}
        if padding is not None:
            inputs[padding] = self.corpus.spec.separator
        if self.return_position_ids or self.return_document_ids:
            begins = np.zeros(inputs.shape, np.bool_)
            begins[:, 1:] = inputs[:, :-1] == self.corpus.spec.separator
            if self.return_position_ids:
                count = np.arange(inputs.shape[1])
                positions = count - np.maximum.accumulate(np.where(begins, count, 0), axis=1)
                batch["position_ids"] = positions if padding is None else np.where(padding, 0, positions)
            if self.return_document_ids:
                documents = begins.cumsum(axis=1)
                batch["document_ids"] = documents if padding is None else np.where(padding, -1, documents)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    @property
    def _order(self) -> int:
        """What the number of windows in a stream depends on beside the corpus: the epoch, where it deals anew."""
        return self.epoch if self.corpus.shuffle is True and self.corpus.num_streams > 1 else 0

    def _begin(self) -> None:
        if self._loaded != int(self._shared[1]):
            raise RuntimeError(
                "A state was loaded after the worker processes were made, and they live on (`persistent_workers`), so "
                "they do not have it. Load it before the first iteration, make the loader anew, or use "
                "`windows.dataloader(..., persistent_workers=True)`, which does that."
            )
        if not self._resumed:
            self._restart()
        self._resumed = False

    def _restart(self) -> None:
        self._states = [None] * self.corpus.num_streams
        self._turn, self._resumed = 0, False

    def _commit(self, stream: int, state: dict[str, Any] | None) -> None:
        self._states[stream] = state
        self._turn = (stream + 1) % self.corpus.num_streams

    def _rotation(self) -> list[int]:
        return [(self._turn + i) % self.corpus.num_streams for i in range(self.corpus.num_streams)]

    def _rotate(
        self, order: Sequence[int | None], batch_size: int, drop_last: bool
    ) -> Iterator[tuple[int, Ids | None, dict[str, Any] | None]]:
        """Give (stream, windows, state after them) in turn; None for a stream that has ended keeps workers in step."""
        streams = self.corpus.streams(self.epoch, {n: self._states[n] for n in order if n is not None})
        ended: dict[int | None, dict[str, Any] | None] = {None: None}
        while len(ended) <= len(streams):
            for n in order:
                if n is None or n in ended:
                    yield -1 if n is None else n, None, ended[n]
                    continue
                windows = streams[n].take(batch_size)
                if len(windows) == 0 or (drop_last and len(windows) < batch_size):
                    ended[n] = streams[n].state()
                    yield n, None, ended[n]
                else:
                    yield n, windows, streams[n].state()


class _Batches(torch.utils.data.IterableDataset[Any]):
    """What worker processes of a [`WindowLoader`] iterate over."""

    def __init__(self, windows: TokenWindows, batch_size: int, drop_last: bool) -> None:
        self.windows, self.batch_size, self.drop_last = windows, batch_size, drop_last

    def __iter__(self) -> Iterator[tuple[int, Ids | None, dict[str, Any] | None]]:
        self.windows._begin()
        worker = get_worker_info()
        order: list[int | None] = list(self.windows._rotation())
        if worker is not None:  # batches are fetched from the workers in turn: each has the same number of places
            order += [None] * (-len(order) % worker.num_workers)
            order = order[worker.id :: worker.num_workers]
        return self.windows._rotate(order, self.batch_size, self.drop_last)


class _Epochs(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    """Whole batches, an epoch an iteration, made by worker processes of its own if there are any.

    accelerate makes a loader of its own around the dataset of a [`WindowLoader`]; so the batches and the cursor are
    kept here, behind whatever loader hands them out.
    """

    def __init__(
        self, windows: TokenWindows, batch_size: int, drop_last: bool, num_workers: int, persistent_workers: bool
    ) -> None:
        self.windows, self.batch_size, self.drop_last = windows, batch_size, drop_last
        self._workers = DataLoader(
            _Batches(windows, batch_size, drop_last),
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            persistent_workers=persistent_workers,
        )

    def __len__(self) -> int:
        """Return the number of batches of an epoch, if that of windows is known."""
        sizes = self.windows.stream_sizes()
        return sum(size // self.batch_size if self.drop_last else -(-size // self.batch_size) for size in sizes)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Iterate for a loader of another making, which may deal the batches out to several processes."""
        if get_worker_info() is not None:
            raise ValueError("These batches have workers of their own: `windows.dataloader(num_workers=...)`.")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._check_dealt(torch.distributed.get_world_size())
        return self.batches()

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Iterate over the batches of an epoch, or what is left of it after a state was loaded."""
        windows = self.windows
        for stream, ids, state in self._open():
            if stream < 0:
                continue
            windows._commit(stream, state)
            if ids is not None:
                yield windows.as_batch(ids)
        windows.set_epoch(windows.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch for a loader of another making, which knows nothing of a state.

        Raises:
            ValueError: A state of another epoch was loaded.
        """
        if self.windows._resumed and epoch != self.windows.epoch:
            raise ValueError(
                f"A state of epoch {self.windows.epoch} was loaded, and the loader is about to begin epoch {epoch}. "
                f"Call its `set_epoch({self.windows.epoch})` first."
            )
        self.windows.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        return self.windows.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.windows.load_state_dict(state_dict)

    def _open(self) -> Iterator[tuple[int, Ids | None, dict[str, Any] | None]]:
        if not self._workers.num_workers:
            return iter(self._workers.dataset)
        # Whatever the tokenizer sets up is there before this process forks.
        prepare(self.windows.corpus.tokenizer)
        if self.windows._resumed:
            self._workers._iterator = None  # workers that live on do not have the state; new ones begin with it
        batches = iter(self._workers)
        self.windows._begin()
        return batches

    def _check_dealt(self, n_processes: int) -> None:
        if n_processes > 1 and self.windows.corpus.world_size > 1:
            raise ValueError(
                f"These windows are the part of rank {self.windows.corpus.rank}, and a prepared loader deals out the "
                "whole: leave out `rank` and `world_size`, or do not prepare the loader."
            )
        if n_processes > 1 and self.windows.corpus.num_streams > 1 and not self.drop_last:
            raise ValueError(
                "Each stream ends with a batch that is not full, which cannot be split between processes without "
                "losing windows: take `drop_last=True`, or one stream."
            )


class WindowLoader(DataLoader[dict[str, torch.Tensor]]):
    """Batches of [`TokenWindows`], as dictionaries of contiguous int64 tensors of shape `(batch, max_length)`.

    An iteration is one epoch; the next one is the epoch after, shuffled anew where the windows shuffle. One that is
    broken off is begun again by the next, unless a state was loaded. The state is that of the batches handed out,
    whatever workers have read ahead, and may be loaded with another number of workers or another batch size.
    """

    dataset: _Epochs

    def __init__(
        self, windows: TokenWindows, batch_size: int, drop_last: bool, num_workers: int, persistent_workers: bool
    ) -> None:
        self.windows = windows
        epochs = _Epochs(windows, batch_size, drop_last, num_workers, persistent_workers)
        super().__init__(epochs, batch_size=None, collate_fn=_as_it_is)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]
        """Iterate over the batches of an epoch, or what is left of it after a state was loaded."""
        return self.dataset.batches()

    def __len__(self) -> int:
        """Return the number of batches of an epoch; see [`TokenWindows.__len__`]."""
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing happens if it is the current one."""
        self.windows.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands; see [`TokenWindows.state_dict`]."""
        return self.windows.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to where a state was saved; see [`TokenWindows.load_state_dict`]."""
        self.windows.load_state_dict(state_dict)


def _as_it_is(batch: Any) -> Any:
    return batch


def _check_state(state: Mapping[str, Any], num_streams: int) -> None:
    """Refuse a state that is not of the form of `state_dict`, before anything is changed."""
    streams, numbers = state.get("streams"), (state.get("epoch"), state.get("turn"))
    whole = (
        isinstance(state.get("settings"), Mapping)
        and isinstance(streams, Sequence)
        and all(stream is None or isinstance(stream, Mapping) for stream in streams)
        and all(type(number) is int and number >= 0 for number in numbers)
    )
    if not whole or (state["settings"].get("num_streams") == num_streams and len(streams or ()) != num_streams):
        raise ValueError(f"The state of token windows is damaged: {state!r:.200}. Use one as `state_dict` gave it.")
