"""A corpus: one or several datasets, a tokenizer and the options of windows, checked once and compared on resume."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.arguments import check_choice, check_integer
from gpt_embeddings.text.columns import check_texts
from gpt_embeddings.text.sources import has_transform, steps_of
from gpt_embeddings.text.tokenizer import tokenizer_digest
from gpt_embeddings.windows.documents import (
    Documents,
    log_texts,
    read_iterable,
    read_rows,
    read_shards,
    shuffled,
    take_texts,
)
from gpt_embeddings.windows.packing import WindowSpec
from gpt_embeddings.windows.streams import BufferedStream, MixedStream, Stopping, Stream, TokenBuffer, TokenStream


# Steps of `datasets` that draw random numbers while iterating, and why they are refused.
RANDOM_SOURCES = {
    "BufferShuffledExamplesIterable": "`IterableDataset.shuffle` fills a buffer that is not saved, so resuming would "
    "lose and repeat rows. Leave it out and use `shuffle=True` here, which shuffles shards",
    "RandomlyCyclingMultiSourcesExamplesIterable": "`interleave_datasets` with probabilities mixes each shard by "
    "itself, so the rows depend on the number of streams. Use `TokenWindows([one, other], ..., weights=[...])`",
}


class WindowCounts(NamedTuple):
    """The size of a corpus: documents with at least one token, their tokens without separators, and windows."""

    documents: int
    tokens: int
    windows: int


@dataclass
class Corpus:
    """Text to be cut into windows; see `TokenWindows` for the fields and what is refused."""

    datasets: list[Any]  # of the whole text, not split by node; several have weights
    column: str
    tokenizer: PreTrainedTokenizerBase
    spec: WindowSpec
    shuffle: bool | Literal["windows"]
    seed: int
    num_streams: int
    rank: int
    world_size: int
    weights: Sequence[float] | None
    stopping_strategy: Stopping

    def __post_init__(self) -> None:
        self.seed = check_integer("seed", self.seed, 0)
        self.num_streams = check_integer("num_streams", self.num_streams, 1)
        self.world_size = check_integer("world_size", self.world_size, 1)
        self.rank = check_integer("rank", self.rank, 0, self.world_size - 1)
        check_choice("shuffle", self.shuffle, (False, True, "windows"))
        check_choice("stopping_strategy", self.stopping_strategy, ("first_exhausted", "all_exhausted"))
        self.datasets = [_check_dataset(dataset, self.column) for dataset in self.datasets]
        nodes = [getattr(dataset, "_distributed", None) for dataset in self.datasets]
        # Undo the split of a dataset by node: streams are made from the whole dataset, by the same rules.
        splits = {(node.rank, node.world_size) for node in nodes if node is not None}
        self.is_split = bool(splits)
        for rank, world_size in splits:
            if self.world_size > 1:
                raise ValueError(
                    f"The dataset is already split by node ({rank} of {world_size}); leave out `rank` and "
                    "`world_size`, and split all datasets in the same way."
                )
            self.rank, self.world_size = rank, world_size
        for k, node in enumerate(nodes):
            if node is not None:
                self.datasets[k] = self.datasets[k].with_format("arrow")  # a new object: the caller's stays split
                self.datasets[k]._distributed = None
        self.buffers: list[TokenBuffer] = []  # all tokens, if windows are shuffled
        for k, dataset in enumerate(self.datasets):
            if self.shuffle == "windows":
                if not isinstance(dataset, (Dataset, Sequence)):
                    raise ValueError(
                        '`shuffle="windows"` needs a corpus with random access, which is tokenized once and kept in '
                        f"memory, but a {type(dataset).__name__} is read from beginning to end. Use a list or a "
                        "`datasets.Dataset`, or store the windows with `to_dataset(folder)` and shuffle those: "
                        "`.shuffle(seed)`."
                    )
                documents = partial(read_rows, dataset, self.column, 0, len(dataset), None)
                self.buffers.append(TokenBuffer(documents, self.tokenizer, self.spec))
                continue
            self.partition(0, k)  # raises now what it would raise later
            if not self.shuffle:
                continue
            if isinstance(dataset, IterableDataset):
                size, what = dataset.num_shards, "the shards (files) of a stream, and this has a single shard"
                advice = "Split it into more files, or shuffle stored windows: `to_dataset(folder).shuffle(seed)`."
            else:
                size, what = len(dataset), "documents, and there is one"
                advice = '`shuffle="windows"` shuffles its windows.'
            if size == 1:
                message = f"`shuffle=True` shuffles {what}: every epoch has the same order. {advice}"
                warnings.warn(message, stacklevel=4)  # the caller of TokenWindows

    def streams(
        self,
        epoch: int,
        states: Mapping[int, Mapping[str, Any] | None] | None = None,
        logs: Sequence[list[dict[str, Any]]] | None = None,
    ) -> dict[int, Stream]:
        """Open streams of this rank in an epoch: those that have a state here, at that state; by default all.

        The log of each dataset gets what is read (see `log_texts`), except with `shuffle="windows"`, where a state has
        a checksum of the whole text.
        """
        if states is None:
            states = dict.fromkeys(range(self.num_streams))
        if self.weights is None:
            return self._open(0, epoch, states, logs)

        def opener(number: int) -> Callable[[int, int, Any], Stream]:
            # A pass over a dataset within an epoch is an epoch to it, far beyond the others.
            return lambda k, n_pass, state: self._open(k, epoch + (n_pass << 32), {number: state}, logs)[number]

        options = self.weights, self.stopping_strategy, self.spec.max_length
        return {n: MixedStream(opener(n), *options, state) for n, state in states.items()}

    def _open(
        self,
        k: int,
        epoch: int,
        states: Mapping[int, Mapping[str, Any] | None],
        logs: Sequence[list[dict[str, Any]]] | None,
    ) -> dict[int, Stream]:
        """Open streams of one dataset."""
        if self.buffers:
            n_parts, first = self.num_streams * self.world_size, self.rank * self.num_streams
            return {
                n: BufferedStream(self.buffers[k], (self.seed, epoch), (first + n, n_parts), state, n == 0)
                for n, state in states.items()
            }
        documents = self.partition(epoch, k)
        if logs is not None:
            documents = [log_texts(part, logs[k], [epoch, n]) for n, part in enumerate(documents)]
        return {n: TokenStream(documents[n], self.tokenizer, self.spec, state) for n, state in states.items()}

    def partition(self, epoch: int, k: int = 0) -> list[Documents]:
        """Return the documents of each stream of this rank in an epoch, for one dataset.

        A dataset with random access is split into contiguous rows, of the shuffled order if documents are shuffled.
        The shards of a streaming dataset are distributed round-robin; if their number is not a multiple of
        `world_size`, each rank reads every shard and keeps every `world_size`-th row.
        """
        dataset, column, n_streams = self.datasets[k], self.column, self.num_streams
        rank, world_size = self.rank, self.world_size
        seed = (self.seed, epoch) if self.shuffle is True else None
        if isinstance(dataset, IterableDataset):
            if n_streams == world_size == 1 and seed is None:
                return [partial(read_shards, dataset, column, [None], None)]
            by_shards = dataset.num_shards % world_size == 0
            own = list(range(dataset.num_shards)) if seed is None else shuffled(dataset.num_shards, *seed).tolist()
            if by_shards:
                own = own[rank::world_size]
            if n_streams > len(own):
                raise ValueError(
                    f"`num_streams` is {n_streams}, more than the {len(own)} shards (files) of the dataset that this "
                    "rank reads. Use at most that, or split the dataset into more files."
                )
            node = None if by_shards else (rank, world_size)
            return [partial(read_shards, dataset, column, own[n::n_streams], node) for n in range(n_streams)]
        if self.is_split:  # this is a part already: split by node, a dataset with random access has no mark
            rank, world_size = 0, 1
        if isinstance(dataset, Dataset):
            rows: Any = split_dataset_by_node(dataset, rank, world_size) if world_size > 1 else dataset
        elif isinstance(dataset, Sequence):
            rows = dataset[len(dataset) * rank // world_size : len(dataset) * (rank + 1) // world_size]
        elif n_streams == world_size == 1 and seed is None:
            return [partial(read_iterable, dataset)]
        else:
            raise ValueError(
                f"A {type(dataset).__name__} can only be read from beginning to end, so it cannot be shuffled or "
                "split into streams or ranks. Use a list or a `datasets.Dataset`."
            )
        if n_streams > max(1, len(rows)):
            raise ValueError(
                f"`num_streams` is {n_streams}, more than the {len(rows)} rows of this rank; use at most that."
            )
        bounds = [len(rows) * i // n_streams for i in range(n_streams + 1)]
        return [partial(read_rows, rows, column, start, stop, seed) for start, stop in pairwise(bounds)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must be the same for a saved state to be of use; the text itself is compared at its position."""
        descriptions = []
        for dataset in self.datasets:
            if isinstance(dataset, IterableDataset):
                descriptions.append(f"streaming, {dataset.num_shards} shards")
            elif isinstance(dataset, (Dataset, Sequence)):
                size = len(dataset)
                rows = (slice(0, 1), slice(size - 1, size))
                ends = [text for row in rows for text in take_texts(dataset, self.column, row).to_pylist()]
                digest = hashlib.sha256(json.dumps(ends).encode()).hexdigest()[:16]
                descriptions.append(f"{size} rows, first and last {digest}")
            else:
                descriptions.append("an iterable of strings")
        settings = {
            **asdict(self.spec),
            "column": self.column,
            "shuffle": self.shuffle,
            "seed": self.seed if self.shuffle else None,
            "num_streams": self.num_streams,
            "rank": self.rank,
            "world_size": self.world_size,
            "tokenizer": tokenizer_digest(self.tokenizer)[:16],
            "dataset": descriptions[0],
        }
        if self.weights is not None:
            mixed = {"weights": list(self.weights), "stopping_strategy": self.stopping_strategy}
            settings.update(dataset=descriptions, **mixed)
        return settings


def _check_dataset(dataset: Any, column: str) -> Any:
    """Refuse what cannot be read twice or resumed; return the dataset as it is read."""
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
    if isinstance(dataset, Dataset) and not has_transform(dataset):
        return dataset.select_columns([column]).with_format("arrow")
    return dataset
