"""A corpus: a dataset, a tokenizer and the options of its windows, checked once and compared on resume."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.arguments import check_choice, check_integer
from gpt_embeddings.text.columns import check_texts
from gpt_embeddings.text.sources import has_transform, steps_of
from gpt_embeddings.text.tokenizer import tokenizer_digest
from gpt_embeddings.windows.documents import Documents, log_texts, partition, take_texts
from gpt_embeddings.windows.packing import WindowSpec
from gpt_embeddings.windows.streams import BufferedStream, TokenBuffer, TokenStream


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


@dataclass
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
        if isinstance(self.dataset, Dataset) and not has_transform(self.dataset):
            self.dataset = self.dataset.select_columns([self.column]).with_format("arrow")
        if isinstance(self.dataset, IterableDataset) and self.dataset._distributed is not None:
            # Undo the split of a dataset by node: streams are made from the whole dataset, by the same rules.
            split = self.dataset._distributed
            if self.world_size > 1:
                raise ValueError(
                    f"The dataset is already split by node ({split.rank} of {split.world_size}); leave out `rank` and "
                    "`world_size`."
                )
            self.dataset = self.dataset.with_format("arrow")  # a new object: the caller's stays split
            self.dataset._distributed = None
            self.rank, self.world_size = split.rank, split.world_size
        if self.shuffle == "windows":
            if not isinstance(self.dataset, (Dataset, Sequence)):
                raise ValueError(
                    '`shuffle="windows"` needs a corpus with random access, which is tokenized once and kept in '
                    f"memory, but a {type(self.dataset).__name__} is read from beginning to end. Use a list or a "
                    "`datasets.Dataset`, or store the windows with `to_dataset(folder)` and shuffle those: "
                    "`.shuffle(seed)`."
                )
            (documents,) = partition(self.dataset, self.column, 1, 0, 1, None)
            self.buffer = TokenBuffer(documents, self.tokenizer, self.spec)
            return
        self.partition(0)  # raises now what it would raise later
        if not self.shuffle:
            return
        if isinstance(self.dataset, IterableDataset):
            size, what = self.dataset.num_shards, "the shards (files) of a stream, and this has a single shard"
            advice = "Split it into more files, or shuffle stored windows: `to_dataset(folder).shuffle(seed)`."
        else:
            size, what = len(cast(Sequence[str], self.dataset)), "documents, and there is one"
            advice = '`shuffle="windows"` shuffles its windows.'
        if size == 1:
            message = f"`shuffle=True` shuffles {what}: every epoch has the same order. {advice}"
            warnings.warn(message, stacklevel=4)  # the caller of TokenWindows

    def streams(
        self,
        epoch: int,
        states: Mapping[int, Mapping[str, Any] | None] | None = None,
        log: list[dict[str, Any]] | None = None,
    ) -> dict[int, TokenStream | BufferedStream]:
        """Open streams of this rank in an epoch: those that have a state here, at that state; by default all.

        A log gets what is read (see `log_texts`), except with `shuffle="windows"`, where a state has a checksum of the
        whole text.
        """
        if states is None:
            states = dict.fromkeys(range(self.num_streams))
        if self.buffer is not None:
            n_parts = self.num_streams * self.world_size
            parts = {n: (self.rank * self.num_streams + n, n_parts) for n in states}
            return {n: BufferedStream(self.buffer, (self.seed, epoch), parts[n], states[n], n == 0) for n in states}
        documents = self.partition(epoch)
        if log is not None:
            documents = [log_texts(part, log, [epoch, n]) for n, part in enumerate(documents)]
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
        """What must be the same for a saved state to be of use.

        A dataset is described by what can be seen at once; the text itself is compared at the saved position.
        """
        if isinstance(self.dataset, IterableDataset):
            description = f"streaming, {self.dataset.num_shards} shards"
        elif not isinstance(self.dataset, (Dataset, Sequence)):
            description = "an iterable of strings"
        else:
            size = len(self.dataset)
            rows = (slice(0, 1), slice(size - 1, size))
            ends = [text for row in rows for text in take_texts(self.dataset, self.column, row).to_pylist()]
            digest = hashlib.sha256(json.dumps(ends).encode()).hexdigest()[:16]
            description = f"{size} rows, first and last {digest}"
        return {
            **asdict(self.spec),
            "column": self.column,
            "shuffle": self.shuffle,
            "seed": self.seed if self.shuffle else None,
            "num_streams": self.num_streams,
            "rank": self.rank,
            "world_size": self.world_size,
            "tokenizer": tokenizer_digest(self.tokenizer)[:16],
            "dataset": description,
        }


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
