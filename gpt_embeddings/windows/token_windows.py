"""Text streamed into training windows: documents in, batches of (input, target) ids out.

The order of work is: shuffle documents (or shards), tokenize, cut; with `shuffle="windows"`: tokenize, cut, shuffle.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Literal

import numpy as np
import torch
import torch.utils.data
from datasets import Dataset, IterableDataset
from torch.utils.data import get_worker_info
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.arguments import check_integer
from gpt_embeddings.text.tokenizer import check_fast
from gpt_embeddings.windows.corpus import Corpus, WindowCounts
from gpt_embeddings.windows.cursor import Cursor
from gpt_embeddings.windows.loader import WindowLoader, hand_out, take_turns
from gpt_embeddings.windows.packing import IGNORED, Ids, WindowSpec
from gpt_embeddings.windows.stored_windows import store_windows
from gpt_embeddings.windows.streams import Stopping


STATE_VERSION = 1
COUNTED_BYTES = 2**24  # of text; tokenizing it takes about a second


class TokenWindows(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    r"""Training windows over the tokens of a corpus: streamed, exact, and resumable to the token.

    **What a window is.** A document is a text with at least one token; nulls and empty texts are skipped.

    - `packing="stream"`: the documents of a stream, joined by `<|endoftext|>`, are one sequence `t`.
    - `packing="document"`: each document followed by `<|endoftext|>` is a sequence `t` of its own, so that the model
      learns where to stop.

    Windows begin at 0, `stride`, 2 `stride`, ... of a sequence. The window at i has

        input_ids  = t[i],     t[i + 1], ..., t[i + max_length - 1]
        target_ids = t[i + 1], t[i + 2], ..., t[i + max_length]

    With `tail="drop"` there are only full windows: those with `i + max_length < len(t)`. With `tail="pad"` there is
    also the window that starts at the next i, if it has a target that no earlier window has; after the end of `t`, its
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

    **Resume.** [`TokenWindows.state_dict`] is small and JSON-serializable: for each stream, the position of the last
    block of rows that is still needed, and how much of it is used. After [`TokenWindows.load_state_dict`] the next
    iteration continues with the very next window. Any other iteration starts at the beginning of the epoch, or of the
    next epoch if the last iteration was complete.

    Args:
        dataset: A `datasets.Dataset` or `IterableDataset` with a column of texts, or an iterable of strings. Resuming
            is immediate with a sequence or a dataset with random access, takes what its own `state_dict` takes with an
            `IterableDataset`, and reads up to the position with any other iterable. The texts are those that the
            dataset shows, if it has a transform.
        tokenizer: A fast tokenizer with an end-of-text token. Special tokens spelled out in a text are plain text.
        max_length: Inputs of a window, in tokens, from 1 to the tokenizer's `model_max_length`.
        stride: Tokens from the start of a window to the start of the next, from 1 to `max_length` (the default).
        packing: `"stream"` or `"document"`, see above.
        tail: `"pad"` or `"drop"`, see above.
        column: The column of texts, if `dataset` has columns.
        weights: Numbers above 0 if `dataset` is a list of corpora: the share of windows that comes from each. Nothing
            is random: each stream takes the next window from the corpus that is furthest behind its share, so the
            shares are exact within a window. Each window has `source_ids`, the number of its corpus.
        stopping_strategy: With `weights`, an epoch (of each stream) ends when a window is due from a corpus that has
            no more (`"first_exhausted"`), or when that has happened to all (`"all_exhausted"`), until which those that
            have ended start again.
        shuffle: Whether to shuffle, differently in each epoch. True shuffles documents of a dataset with random
            access, or shards (the order of files) of one that streams, before windows are cut. `"windows"` shuffles
            the windows themselves, as a loader with `shuffle=True` over a list of windows does: a dataset with random
            access is tokenized at once and kept in memory (two bytes a token with GPT-2's vocabulary), and each stream
            and rank takes an equal part of all windows.
        seed: Seed of the shuffle, from 0.
        num_streams: Streams of this process, the most workers that can share the work. A dataset with random access is
            split into contiguous parts, the shards of one that streams are distributed round-robin.
        rank: The number of this process among those that train together, from 0 to `world_size - 1`.
        world_size: How many processes train together. The dataset is split as
            `datasets.distributed.split_dataset_by_node` does; one that it has split already is taken as it is.
        return_position_ids: Whether windows have `position_ids`: from 0 at the start of the window and again at each
            document that begins in it. A separator belongs to the document that it ends.
        return_document_ids: Whether windows have `document_ids`: 0 for the document at the start of the window, 1 for
            the next, ...; -1 for padding. Two positions may attend to each other if theirs are equal.

    Raises:
        TypeError: The tokenizer is not fast, or the dataset is an iterator, which cannot be read twice.
        ValueError: An argument is out of range, a column is missing or has no strings, the dataset has no rows or is
            shuffled in a way that cannot be resumed; the message says what to do.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset | Iterable[Any],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int | None = None,
        *,
        packing: Literal["stream", "document"] = "stream",
        tail: Literal["pad", "drop"] = "pad",
        column: str = "text",
        weights: Sequence[float] | None = None,
        stopping_strategy: Stopping = "first_exhausted",
        shuffle: bool | Literal["windows"] = False,
        seed: int = 0,
        num_streams: int = 1,
        rank: int = 0,
        world_size: int = 1,
        return_position_ids: bool = False,
        return_document_ids: bool = False,
    ) -> None:
        check_fast(tokenizer)
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer has no end-of-text token to separate documents; set its `eos_token`.")
        if check_integer("max_length", max_length, 1) > tokenizer.model_max_length:
            raise ValueError(
                f"`max_length` is {max_length}, above the {tokenizer.model_max_length} positions (`n_positions`) of "
                "the tokenizer's model, its `model_max_length`. Use shorter windows, or, if the model has more "
                "positions, `load_tokenizer(..., model_max_length=n_positions)`."
            )
        spec = WindowSpec(
            max_length=max_length,
            stride=max_length if stride is None else stride,
            packing=packing,
            tail=tail,
            separator=int(tokenizer.eos_token_id),
        )
        datasets: list[Any] = [dataset]
        if weights is not None:
            if not isinstance(dataset, (list, tuple)) or len(dataset) != len(weights):
                found = f"{len(dataset)} in a {type(dataset).__name__}" if isinstance(dataset, Sized) else "no list"
                raise ValueError(
                    f"`weights` has {len(weights)} numbers and needs a list of as many corpora, got {found}."
                )
            datasets, given, weights = list(dataset), weights, [float(weight) for weight in weights]
            if not weights or not all(weight > 0 and math.isfinite(weight) for weight in weights):
                raise ValueError(
                    f"`weights` must be positive numbers, got {list(given)}. Leave out what has no weight."
                )
        order = (shuffle, seed, num_streams, rank, world_size)
        self.corpus = Corpus(datasets, column, tokenizer, spec, *order, weights, stopping_strategy)
        self.return_position_ids, self.return_document_ids = return_position_ids, return_document_ids
        self.cursor = Cursor(self.corpus.num_streams)
        self._sizes: dict[int, list[int]] = {}  # windows of each stream, by `_order`
        self.warned = False  # that an epoch is empty

    def __len__(self) -> int:
        """Return the number of windows of the epoch, if it is known or quick to count.

        It is with `shuffle="windows"`, after [`TokenWindows.count`], and for a corpus with random access and at most
        16 MiB of text, which is counted when its length is first needed.
        """
        return sum(self.stream_sizes())

    def __bool__(self) -> bool:
        """Return True, without counting."""
        return True

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Iterate over the windows of the epoch, `(max_length,)` int64 tensors; a worker process takes its streams."""
        worker = get_worker_info()
        self.cursor.begin()
        order = self.cursor.order()
        if worker is not None:
            order = [stream for stream in order if stream % worker.num_workers == worker.id]
        if not order:  # there are more workers than streams
            self.cursor.finish()
            return
        for ids in hand_out(self, take_turns(self.corpus, self.cursor, order, 1, False), 1, drop_last=False):
            yield {name: values[0] for name, values in self.as_batch(ids).items()}

    def dataloader(
        self, batch_size: int = 8, *, drop_last: bool = False, num_workers: int = 0, persistent_workers: bool = False
    ) -> WindowLoader:
        """Return a loader of batches whose order and state do not depend on the number of workers.

        Args:
            batch_size: Windows of a batch, all from one stream.
            drop_last: Whether to drop the last batch of a stream if it is not full.
            num_workers: Worker processes, at most `num_streams`; 0 works in this process.
            persistent_workers: Whether workers live from epoch to epoch.

        Raises:
            ValueError: A number is out of range, or there are no workers to keep.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        advice = "A stream is read by one worker: raise `num_streams` to have more."
        num_workers = check_integer("num_workers", num_workers, 0, self.corpus.num_streams, advice)
        if persistent_workers and not num_workers:
            raise ValueError("`persistent_workers` is True, but `num_workers` is 0: there are no workers to keep.")
        return WindowLoader(self, batch_size, drop_last, num_workers, persistent_workers)

    def count(self) -> WindowCounts:
        """Read the epoch through and count it; the cursor stays as it is, and `len()` is known afterwards.

        With `shuffle="windows"` documents and tokens are those of the whole corpus, windows those of this rank.
        """
        streams, sizes = self.corpus.streams(self.epoch), [0] * self.corpus.num_streams
        for n, stream in streams.items():
            while taken := len(stream.take(1024)):
                sizes[n] += taken
        self._sizes[self._order] = sizes
        documents, tokens = (sum(getattr(s, name) for s in streams.values()) for name in ("n_documents", "n_tokens"))
        return WindowCounts(documents, tokens, sum(sizes))

    def stream_sizes(self) -> list[int]:
        """Return the number of windows of each stream; see `len()`."""
        if self._order not in self._sizes:
            for dataset in self.corpus.datasets if not self.corpus.buffers else []:
                size = math.inf  # bytes, which only random access tells at once
                if isinstance(dataset, Dataset):
                    table = dataset.data  # of which the dataset may have selected a few rows
                    size = table.nbytes * len(dataset) // max(1, table.num_rows)
                elif isinstance(dataset, Sequence):
                    size = sum(len(text) for text in dataset if isinstance(text, str))
                if size > COUNTED_BYTES:
                    raise TypeError(
                        "The number of windows is not known before the text has been read: call `count()`, which "
                        "reads it, and use `len()` after that. Trainer does without if it has `max_steps`."
                    )
            self.count()
        return self._sizes[self._order]

    def to_dataset(self, folder: str | os.PathLike[str] | None = None) -> Dataset:
        """Cut the whole epoch and store it.

        Args:
            folder: Where to write. It must not exist and appears when it is complete; a run that was killed resumes
                where it stopped. None keeps the windows in memory.

        Returns:
            A dataset with the columns `input_ids` and `target_ids`, fixed-size lists of `max_length`.
        """
        return store_windows(self.corpus, self.epoch, folder)

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration."""
        return self.cursor.epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing happens if it is the current one."""
        self.cursor.set_epoch(check_integer("epoch", epoch, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last window or batch that was handed out."""
        return {"version": STATE_VERSION, "settings": self.corpus.settings, **self.cursor.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to a saved position; the next iteration begins there.

        Raises:
            ValueError: The state belongs to another dataset, tokenizer, shuffle, world size or other windows; the
                message names all differences.
        """
        if not isinstance(state_dict, Mapping) or state_dict.get("version") != STATE_VERSION:
            raise ValueError(f"This is not a state of token windows, version {STATE_VERSION}: {state_dict!r:.80}.")
        saved = state_dict["settings"]
        differences = [
            f"`{name}` is {value!r} and was {saved.get(name)!r}"
            for name, value in self.corpus.settings.items()
            if saved.get(name) != value
        ]
        if differences:
            raise ValueError(f"The state does not fit: {'; '.join(differences)}. Use what it was saved with.")
        self.cursor.load_state_dict(state_dict)

    def as_batch(self, windows: Ids) -> dict[str, torch.Tensor]:
        """Turn windows, `(batch, max_length + 1)` with -100 for padding, into contiguous int64 tensors."""
        source_ids = None
        if self.corpus.weights is not None:
            windows, source_ids = windows[:, :-1], windows[:, -1].astype(np.int64)
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
        if source_ids is not None:
            batch["source_ids"] = source_ids
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    @property
    def _order(self) -> int:
        """What the number of windows of a stream depends on: the epoch, if documents are shuffled."""
        return self.epoch if self.corpus.shuffle is True and self.corpus.num_streams > 1 else 0
