"""A corpus: a dataset, a tokenizer and the options of its windows, checked once and compared on resume."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.arguments import check_choice, check_integer
from gpt_embeddings.text.columns import check_texts
from gpt_embeddings.text.sources import steps_of
from gpt_embeddings.text.tokenizer import check_fast, tokenizer_digest
from gpt_embeddings.windows.documents import (
    Documents,
    as_read,
    has_transform,
    log_texts,
    partition,
    take_texts,
)
from gpt_embeddings.windows.packing import WindowSpec
from gpt_embeddings.windows.streams import BufferedStream, TokenBuffer, TokenStream, fill_buffer


# Steps of `datasets` that draw random numbers while iterating, and why they are refused.
RANDOM_SOURCES = {
    "BufferShuffledExamplesIterable": "`IterableDataset.shuffle` fills a buffer that is not saved, so resuming would "
    "lose and repeat rows. Leave it out and use `shuffle=True` here, which shuffles shards",
    "RandomlyCyclingMultiSourcesExamplesIterable": "`interleave_datasets` with probabilities mixes each shard by "
    "itself, so the rows depend on the number of streams. Use `TokenWindows([one, other], ..., weights=[...])`",
}

COUNTED_BYTES = 2**24  # of text; tokenizing it takes about a second


class WindowCounts(NamedTuple):
    """The size of a corpus."""

    documents: int
    """Documents with at least one token."""
    tokens: int
    """Their tokens, without separators."""
    windows: int
    """Windows cut from them."""


@dataclass(kw_only=True)
class Corpus:
    """Text to be cut into windows; see `TokenWindows` for the fields and what is refused."""

    dataset: Dataset | IterableDataset | Iterable[str]  # the whole text, not split by node
    column: str
    tokenizer: PreTrainedTokenizerBase
    spec: WindowSpec
    shuffle: bool | Literal["windows"]
    seed: int
    num_streams: int
    rank: int
    world_size: int
    buffer: TokenBuffer | None = field(init=False, default=None)  # all tokens, if windows are shuffled

    def __post_init__(self) -> None:
        self.seed = check_integer("seed", self.seed, 0)
        self.num_streams = check_integer("num_streams", self.num_streams, 1)
        self.world_size = check_integer("world_size", self.world_size, 1)
        self.rank = check_integer("rank", self.rank, 0, self.world_size - 1)
        check_choice("shuffle", self.shuffle, (False, True, "windows"))
        _check_dataset(self.dataset, self.column)
        if isinstance(self.dataset, Dataset):
            self.dataset = as_read(self.dataset, self.column)
        self._take_over_split()
        if self.shuffle == "windows":
            self.buffer = self._fill_buffer()
            return
        self.partition(0)  # raises now what it would raise later
        if self.shuffle:
            _warn_of_one_unit(self.dataset)

    def streams(
        self,
        epoch: int,
        states: Mapping[int, Mapping[str, Any] | None] | None = None,
        logs: Sequence[list[dict[str, Any]]] | None = None,
    ) -> dict[int, TokenStream | BufferedStream]:
        """Open streams of this rank in an epoch: those that have a state here, at that state; by default all.

        If there are logs, the first one gets what is read (see `log_texts`), except with `shuffle="windows"`,
        where a state has a checksum of the whole text.
        """
        if states is None:
            states = dict.fromkeys(range(self.num_streams))
        if self.buffer is not None:
            n_parts = self.num_streams * self.world_size
            parts = {n: (self.rank * self.num_streams + n, n_parts) for n in states}
            return {n: BufferedStream(self.buffer, (self.seed, epoch), parts[n], states[n], n == 0) for n in states}
        documents = self.partition(epoch)
        if logs is not None:
            documents = [log_texts(part, logs[0], [epoch, n]) for n, part in enumerate(documents)]
        return {n: TokenStream(documents[n], self.tokenizer, self.spec, states[n]) for n in states}

    def partition(self, epoch: int) -> list[Documents]:
        """Return the documents of each stream of this rank in an epoch."""
        seed = (self.seed, epoch) if self.shuffle is True else None
        return partition(self.dataset, self.column, self.num_streams, self.rank, self.world_size, seed)

    @property
    def is_small(self) -> bool:
        """Whether the corpus has random access and so little text that its windows are counted in a moment."""
        if self.buffer is not None:
            return True
        if isinstance(self.dataset, Dataset):
            table = self.dataset.data  # of which the dataset may have selected a few rows
            return table.nbytes * len(self.dataset) <= COUNTED_BYTES * max(1, table.num_rows)
        if not isinstance(self.dataset, Sequence):
            return False
        return sum(len(text) for text in self.dataset if isinstance(text, str)) <= COUNTED_BYTES

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must be the same for a saved state to be of use."""
        return {
            **asdict(self.spec),
            "column": self.column,
            "shuffle": self.shuffle,
            "seed": self.seed if self.shuffle else None,
            "num_streams": self.num_streams,
            "rank": self.rank,
            "world_size": self.world_size,
            "tokenizer": tokenizer_digest(self.tokenizer)[:16],
            "dataset": _describe(self.dataset, self.column),
        }

    def _take_over_split(self) -> None:
        """Undo the split of a dataset by node: streams are made from the whole dataset, by the same rules."""
        if not isinstance(self.dataset, IterableDataset) or self.dataset._distributed is None:
            return
        split = self.dataset._distributed
        if self.world_size > 1:
            raise ValueError(
                f"The dataset is already split by node ({split.rank} of {split.world_size}); leave out `rank` and "
                "`world_size`."
            )
        self.dataset = self.dataset.with_format("arrow")  # a new object: the caller's stays split
        self.dataset._distributed = None
        self.rank, self.world_size = split.rank, split.world_size

    def _fill_buffer(self) -> TokenBuffer:
        if not isinstance(self.dataset, (Dataset, Sequence)):
            raise ValueError(
                '`shuffle="windows"` needs a corpus with random access, which is tokenized once and kept in memory, '
                f"but a {type(self.dataset).__name__} is read from beginning to end. Use a list or a "
                "`datasets.Dataset`, or store the windows with `to_dataset(folder)` and shuffle those: "
                "`.shuffle(seed)`."
            )
        (documents,) = partition(self.dataset, self.column, 1, 0, 1, None)
        return fill_buffer(documents, self.tokenizer, self.spec)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Refuse a tokenizer that cannot make windows of this length."""
    check_fast(tokenizer)
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no end-of-text token to separate documents; set its `eos_token`.")
    if check_integer("max_length", max_length, 1) > tokenizer.model_max_length:
        raise ValueError(
            f"`max_length` is {max_length}, above the {tokenizer.model_max_length} positions (`n_positions`) of the "
            "tokenizer's model, its `model_max_length`. Use shorter windows, or, if the model has more positions, "
            "`load_tokenizer(..., model_max_length=n_positions)`."
        )


def _warn_of_one_unit(dataset: Any) -> None:
    """Warn if a shuffle has a single thing to shuffle."""
    if isinstance(dataset, IterableDataset):
        size, what = dataset.num_shards, "the shards (files) of a stream, and this has a single shard"
        advice = "Split it into more files, or shuffle stored windows: `to_dataset(folder).shuffle(seed)`."
    else:
        size, what = len(dataset), "documents, and there is one"
        advice = '`shuffle="windows"` shuffles its windows.'
    if size == 1:
        message = f"`shuffle=True` shuffles {what}: every epoch has the same order. {advice}"
        warnings.warn(message, stacklevel=5)  # the caller of TokenWindows


def _check_dataset(dataset: Any, column: str) -> None:
    if isinstance(dataset, (str, bytes, Mapping)) or not isinstance(dataset, Iterable):
        raise TypeError(
            "`dataset` must be a `datasets.Dataset`, an `IterableDataset` or an iterable of strings, got "
            f"{type(dataset).__name__}." + (" Put it into a list." if isinstance(dataset, str) else "")
        )
    if isinstance(dataset, Iterator):
        raise TypeError(
            f"`dataset` is a {type(dataset).__name__}, which can be read only once, so no epoch can be repeated and "
            "no state restored. Use a list, or `datasets.IterableDataset.from_generator(function)`."
        )
    if isinstance(dataset, (Dataset, Sequence)) and not len(dataset):
        raise ValueError("The dataset has no rows.")
    if has_transform(dataset):
        take_texts(dataset, column, slice(0, 1))
    elif isinstance(dataset, (Dataset, IterableDataset)):
        check_texts(dataset, column)
    for source in steps_of(getattr(dataset, "_ex_iterable", None)):
        if type(source).__name__ in RANDOM_SOURCES:
            raise ValueError(f"The dataset cannot be used: {RANDOM_SOURCES[type(source).__name__]}.")


def _describe(dataset: Dataset | IterableDataset | Iterable[str], column: str) -> str:
    """Describe a dataset by what can be seen at once; the text itself is compared at the saved position."""
    if isinstance(dataset, IterableDataset):
        return f"streaming, {dataset.num_shards} shards"
    if not isinstance(dataset, (Dataset, Sequence)):
        return "an iterable of strings"
    rows = (slice(0, 1), slice(len(dataset) - 1, len(dataset)))
    ends = [text for row in rows for text in take_texts(dataset, column, row).to_pylist()]
    digest = hashlib.sha256(json.dumps(ends).encode()).hexdigest()[:16]
    return f"{len(dataset)} rows, first and last {digest}"
