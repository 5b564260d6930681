"""What windows are cut from: a dataset, a tokenizer, a cut and an order, checked once and compared when work goes on.

Left out: iterating (`token_windows`) and storing (`stored_windows`), which both begin here.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.columns import check_texts
from gpt_embeddings.text.sources import steps_of
from gpt_embeddings.text.tokenizer import check_fast, tokenizer_digest
from gpt_embeddings.windows.packing import WindowSpec
from gpt_embeddings.windows.streams import Documents, TokenStream, partition
from gpt_embeddings.windows.token_buffer import BufferedStream, TokenBuffer, fill_buffer


# What of `datasets` draws random numbers while iterating, and why it is refused.
RANDOM_SOURCES = {
    "BufferShuffledExamplesIterable": "`IterableDataset.shuffle` fills a buffer that is not saved: resuming would "
    "lose and repeat rows. Leave it out and give `shuffle=True` here: it shuffles shards",
    "RandomlyCyclingMultiSourcesExamplesIterable": "`interleave_datasets` with probabilities draws random numbers "
    "that differ from shard to shard. Leave the probabilities out",
}


COUNTED_BYTES = 2**24  # of text; tokenizing it takes about a second


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text to be cut into windows; [`open_corpus`] checks what it is made of."""

    dataset: Dataset | IterableDataset | Iterable[str]
    """The whole text, split by no node."""
    column: str
    """Its column of texts, where it has columns."""
    tokenizer: PreTrainedTokenizerBase
    """A fast tokenizer."""
    spec: WindowSpec
    """How its tokens are cut."""
    shuffle: bool | Literal["windows"]
    """Whether documents or shards are shuffled, anew in each epoch, or the windows themselves."""
    seed: int
    """Of the shuffle."""
    num_streams: int
    """Streams of this rank."""
    rank: int
    """This process among those that train together."""
    world_size: int
    """How many there are."""
    buffer: TokenBuffer | None = None
    """The tokens of all of it, where its windows are shuffled."""

    def streams(
        self, epoch: int, states: Mapping[int, Mapping[str, Any] | None] | None = None
    ) -> dict[int, TokenStream | BufferedStream]:
        """Open streams of this rank in an epoch: those that states are given of, from there on, by default all."""
        if states is None:
            states = dict.fromkeys(range(self.num_streams))
        if self.buffer is not None:
            n_parts = self.num_streams * self.world_size
            parts = {n: (self.rank * self.num_streams + n, n_parts) for n in states}
            return {n: BufferedStream(self.buffer, (self.seed, epoch), parts[n], states[n]) for n in states}
        documents = self.partition(epoch)
        return {n: TokenStream(documents[n], self.tokenizer, self.spec, states[n]) for n in states}

    @property
    def is_small(self) -> bool:
        """Whether the corpus has random access and so little text that its windows are counted in a moment."""
        if self.buffer is not None:
            return True
        if isinstance(self.dataset, Dataset):
            table = self.dataset.select_columns([self.column]).data
            return table.nbytes * len(self.dataset) <= COUNTED_BYTES * max(1, table.num_rows)
        if not isinstance(self.dataset, Sequence):
            return False
        sizes = accumulate(len(text or "") for text in self.dataset)
        return all(size <= COUNTED_BYTES for size in sizes)

    def partition(self, epoch: int) -> list[Documents]:
        """Return what each stream of this rank reads in an epoch."""
        seed = (self.seed, epoch) if self.shuffle is True else None
        return partition(self.dataset, self.column, self.num_streams, self.rank, self.world_size, seed)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must be the same for a saved cursor to be of use."""
        spec = self.spec
        return {
            "max_length": spec.max_length,
            "stride": spec.stride,
            "packing": spec.packing,
            "tail": spec.tail,
            "separator": spec.separator,
            "column": self.column,
            "shuffle": self.shuffle,
            "seed": self.seed if self.shuffle else None,
            "num_streams": self.num_streams,
            "rank": self.rank,
            "world_size": self.world_size,
            "tokenizer": tokenizer_digest(self.tokenizer)[:16],
            "dataset": _describe(self.dataset, self.column),
        }

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """Say which of these settings are not the saved ones."""
        return [
            f"`{name}` is {value!r} and was {saved.get(name)!r}"
            for name, value in self.settings.items()
            if saved.get(name) != value
        ]


def open_corpus(
    dataset: Dataset | IterableDataset | Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int | None,
    *,
    packing: Literal["stream", "document"],
    tail: Literal["pad", "drop"],
    column: str,
    shuffle: bool | Literal["windows"],
    seed: int,
    num_streams: int,
    rank: int,
    world_size: int,
) -> Corpus:
    """Check everything that windows are made of; the arguments are those of `TokenWindows`.

    Raises:
        TypeError: The tokenizer is not fast, or the dataset is an iterator, which cannot be read twice.
        ValueError: An argument is out of its range, a column is missing or holds no strings, the dataset has no rows
            or is shuffled in a way that cannot be resumed; the message says what to do.
    """
    stride = max_length if stride is None else stride
    _check_tokenizer(tokenizer, max_length)
    check_integer("max_length", max_length, 1)
    check_integer("stride", stride, 1, max_length, "A stride above `max_length` would leave out tokens.")
    check_integer("seed", seed, 0)
    check_integer("num_streams", num_streams, 1)
    check_integer("world_size", world_size, 1)
    check_integer("rank", rank, 0, world_size - 1)
    _check_choice("packing", packing, ("stream", "document"))
    _check_choice("tail", tail, ("pad", "drop"))
    _check_choice("shuffle", shuffle, (False, True, "windows"))
    _check_dataset(dataset, column)
    if isinstance(dataset, IterableDataset) and dataset._distributed is not None:
        split = dataset._distributed  # streams are dealt from the whole dataset, by the same rules
        if world_size > 1:
            raise ValueError(
                f"The dataset is split by node already ({split.rank} of {split.world_size}); leave out `rank` and "
                "`world_size`."
            )
        dataset = dataset.with_format("arrow")  # a new object: the caller's stays split
        dataset._distributed = None
        rank, world_size = split.rank, split.world_size
    separator = int(tokenizer.eos_token_id)  # checked above
    corpus = Corpus(
        dataset=dataset,
        column=column,
        tokenizer=tokenizer,
        spec=WindowSpec(max_length=max_length, stride=stride, packing=packing, tail=tail, separator=separator),
        shuffle=shuffle,
        seed=seed,
        num_streams=num_streams,
        rank=rank,
        world_size=world_size,
    )
    if shuffle == "windows":
        return replace(corpus, buffer=_fill_buffer(corpus))
    corpus.partition(0)  # tells now what it would tell later
    if shuffle:
        _check_shuffled(corpus.dataset)
    return corpus


def _fill_buffer(corpus: Corpus) -> TokenBuffer:
    dataset = corpus.dataset
    if not isinstance(dataset, (Dataset, Sequence)):
        raise ValueError(
            f'`shuffle="windows"` takes a corpus with random access, which is tokenized once and held in memory; a '
            f"{type(dataset).__name__} is read from its beginning to its end. Give a list or a `datasets.Dataset`, or "
            "store the windows with `to_dataset(folder)` and shuffle these: `.shuffle(seed)`."
        )
    (documents,) = partition(dataset, corpus.column, 1, 0, 1, None)
    return fill_buffer(documents, corpus.tokenizer, corpus.spec)


def _check_shuffled(dataset: Any) -> None:
    """Warn where a shuffle has a single thing to shuffle."""
    if isinstance(dataset, IterableDataset):
        if dataset.num_shards == 1:
            warnings.warn(
                "`shuffle=True` shuffles the shards (files) of a stream, and this one has one: every epoch has the "
                "same order. Split it with `dataset.reshard()` or into more files, or store the windows with "
                "`to_dataset(folder)` and shuffle these: `.shuffle(seed)`.",
                stacklevel=4,
            )
    elif len(dataset) == 1:
        warnings.warn(
            "`shuffle=True` shuffles documents, and there is one: every epoch has the same order. "
            '`shuffle="windows"` shuffles its windows.',
            stacklevel=4,
        )


def check_integer(name: str, value: Any, low: int, high: int | None = None, advice: str = "") -> None:
    """Refuse what is not an integer within its limits.

    Raises:
        ValueError: The message names the value, the limits and the advice.
    """
    if type(value) is not int or value < low or (high is not None and value > high):
        limits = f"from {low} on" if high is None else f"from {low} to {high}"
        raise ValueError(f"`{name}` must be an integer {limits}, got {value!r}. {advice}".rstrip())


def _check_choice(name: str, value: Any, choices: tuple[str | bool, ...]) -> None:
    if not isinstance(value, (str, bool)) or value not in choices:
        raise ValueError(f"`{name}` must be {' or '.join(map(repr, choices))}, got {value!r}.")


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    check_fast(tokenizer)
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no end-of-text token to part documents with; set its `eos_token`.")
    if isinstance(max_length, int) and max_length > tokenizer.model_max_length:
        raise ValueError(
            f"`max_length` is {max_length}, above the {tokenizer.model_max_length} positions (`n_positions`) of the "
            "tokenizer's model, its `model_max_length`. Take a shorter window, or, if the model has more positions, "
            "`load_tokenizer(..., model_max_length=n_positions)`."
        )


def _check_dataset(dataset: Any, column: str) -> None:
    if isinstance(dataset, (str, bytes, Mapping)) or not isinstance(dataset, Iterable):
        raise TypeError(
            "`dataset` must be a `datasets.Dataset`, an `IterableDataset` or an iterable of strings, got "
            f"{type(dataset).__name__}." + (" Put it into a list." if isinstance(dataset, str) else "")
        )
    if isinstance(dataset, Iterator):
        raise TypeError(
            f"`dataset` is a {type(dataset).__name__}, which can be read only once, so no epoch can be repeated and "
            "no state restored. Give a list, or `datasets.IterableDataset.from_generator(function)`."
        )
    if isinstance(dataset, (Dataset, IterableDataset)):
        check_texts(dataset, column)
    if isinstance(dataset, (Dataset, Sequence)) and not len(dataset):
        raise ValueError("The dataset has no rows.")
    for source in steps_of(getattr(dataset, "_ex_iterable", None)):
        if type(source).__name__ in RANDOM_SOURCES:
            raise ValueError(f"The dataset cannot be resumed: {RANDOM_SOURCES[type(source).__name__]}.")


def _describe(dataset: Dataset | IterableDataset | Iterable[str], column: str) -> str:
    """Say what can be seen of a dataset at once; the text itself is compared at the cursor where work goes on."""
    if isinstance(dataset, IterableDataset):
        return f"streaming, {dataset.num_shards} shards"
    if isinstance(dataset, Dataset):
        plain = dataset.with_format(None).select_columns([column])
        ends = [plain[i][column] for i in (0, -1)]
    elif isinstance(dataset, Sequence):
        ends = [dataset[i] for i in (0, -1)]
    else:
        return "an iterable of strings"
    block = hashlib.sha256(json.dumps(ends).encode()).hexdigest()[:16]
    return f"{len(dataset)} rows, first and last {block}"
