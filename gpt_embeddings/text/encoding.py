"""Encode texts as one flat array of ids, by the fastest backend that is proved to give the ids of `tokenizers`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.exceptions import BadTextError
from gpt_embeddings.text.columns import take_column
from gpt_embeddings.text.gigatoken_backend import Encode, encode_lock, find_gigatoken
from gpt_embeddings.text.tokenizer import FlatIds, SpecialTokens, find_special_tokens, remembered


Texts: TypeAlias = "Sequence[str] | pa.Array | pa.ChunkedArray"

SLOW_CHARACTERS = 2**20  # `tokenizers` encodes these in about the time that the accelerated backend takes to load
SHORT_CALL = 2**12  # characters; a short call, such as a question to a server, does not wait for that


def encode_flat(
    texts: Texts,
    tokenizer: PreTrainedTokenizerBase,
    *,
    special_tokens: bool = False,
    add_special_tokens: bool = True,
    max_length: int | None = None,
) -> FlatIds:
    """Encode texts to one flat id array: the ids that `tokenizer(text)` has, without padding.

    The first megabyte goes to `tokenizers` itself, since the accelerated backend takes seconds to load; a call of less
    than 4 kB never waits for it. Then, with the extra `fast` installed, gigatoken does the work, after a proof that it
    gives the ids of `tokenizers` for this very tokenizer (see `gigatoken_backend`). Safe to call from threads and
    forked processes.

    Args:
        texts: Documents: a sequence of strings, or an Arrow array of strings.
        tokenizer: A fast tokenizer.
        special_tokens: Whether a literal such as `<|endoftext|>` in a text becomes the special token. By default it
            is plain text, so that no document can inject a separator.
        add_special_tokens: Whether to add the tokenizer's special tokens to each text, such as OPT's `</s>`; GPT-2's
            tokenizer adds none.
        max_length: Longest sequence, special tokens included; longer texts are truncated. None keeps all.

    Returns:
        `input_ids` of shape `(n_tokens,)`, int32, and `offsets` of shape `(len(texts) + 1,)`, int64: text i is
        `input_ids[offsets[i]:offsets[i + 1]]`.

    Raises:
        BadTextError: A text is missing (None, NaN, `pandas.NA`), is not a string, or holds a lone surrogate, which has
            no UTF-8 form; the message names its index.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"`texts` must be a sequence of strings, got one {type(texts).__name__}; give [text].")
    try:
        documents = texts.to_pylist() if isinstance(texts, (pa.Array, pa.ChunkedArray)) else list(texts)
    except UnicodeDecodeError:
        for i, text in enumerate(texts):
            try:
                text.as_py()
            except UnicodeDecodeError as error:
                raise BadTextError(i, f"Text {i} is not valid UTF-8: {error}.") from error
        raise
    if not all(issubclass(kind, str) for kind in set(map(type, documents))):  # a pair would be taken for two sequences
        raise bad_text(documents)
    with encode_lock:
        backend = find_backend(tokenizer, special_tokens)
        try:
            input_ids, offsets = backend.encode(documents)
        except (TypeError, UnicodeEncodeError) as error:
            raise bad_text(documents) from error
    special = find_special_tokens(tokenizer) if add_special_tokens else SpecialTokens()
    return special.add_to(input_ids, offsets, max_length=max_length)


def prepare(tokenizer: PreTrainedTokenizerBase, *, special_tokens: bool = False) -> None:
    """Load the fastest backend now, for example before a fork, so that the children need not load their own."""
    with encode_lock:
        find_backend(tokenizer, special_tokens).prepare()


def find_words(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int | None]:
    """Return the number of the pre-tokenizer's word for each id of `encode_flat([text])`; None for special tokens."""
    with encode_lock:
        backend = find_backend(tokenizer, False).backend
        words = backend.encode(text, add_special_tokens=False).word_ids
    special = find_special_tokens(tokenizer)
    return [None] * len(special.before) + words + [None] * len(special.after)


def as_texts(texts: Any) -> Any:
    """Return a sequence or a column, also of pandas or polars, as an Arrow column or a list, with None if missing."""
    names = getattr(texts, "column_names", getattr(texts, "columns", None))  # of Arrow and `datasets`, or of frames
    is_column = names is None and getattr(texts, "ndim", 1) == 1 and isinstance(texts, Iterable)
    if not is_column or isinstance(texts, (bytes, Mapping, set, frozenset)):
        columns = "" if names is None else f" with the columns {', '.join(map(str, names))}"
        raise TypeError(
            "`texts` must be a string, a list of strings or one column of them, such as table['text'], got "
            f"{type(texts).__name__}{columns}."
        )
    if hasattr(texts, "to_arrow"):  # polars
        texts = texts.to_arrow()
    elif hasattr(texts, "isna"):  # pandas
        series = texts
        try:
            texts = pa.array(series, from_pandas=True)
            if texts.null_count == len(texts):  # pandas keeps a column of missing values alone as floats
                texts = pa.nulls(len(texts), pa.string())
        except pa.ArrowException:  # values of several types, of which `encode_flat` names the first wrong one
            texts = list(series)
    if isinstance(texts, (pa.Array, pa.ChunkedArray)):
        return take_column(pa.table({"texts": texts}), "texts")
    texts = texts if isinstance(texts, list) else list(texts)
    if set(map(type, texts)) <= {str, type(None)}:
        return texts
    return [None if _is_missing(text) else text for text in texts]


def _is_missing(text: Any) -> bool:
    return type(text).__name__ in ("NAType", "NaTType") or (isinstance(text, (float, np.floating)) and text != text)


def fill_missing(texts: Texts) -> tuple[Texts, npt.NDArray[np.bool_] | None]:
    """Replace missing texts by "", and return which they are, of shape `(n_texts,)`, or None if none is missing."""
    if not isinstance(texts, (pa.Array, pa.ChunkedArray)):
        if None not in texts:
            return texts, None
        return ["" if text is None else text for text in texts], np.array([text is None for text in texts])
    if not texts.null_count:
        return texts, None
    return texts.fill_null(""), np.asarray(texts.is_null())


def bad_text(texts: Sequence[object], name: Callable[[int], str] = "Text {}".format) -> Exception:
    """Return the error for the first text that is not a string or has no UTF-8 form; `name` names it by its index."""
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            advice = ' Use "" for what is missing, or leave it out.' if text is None or _is_missing(text) else ""
            return BadTextError(i, f"{name(i)} must be a string, got {type(text).__name__}: {text!r:.80}.{advice}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            message = (
                f"{name(i)} holds the lone surrogate {text[error.start]!r} at character {error.start}, which has no "
                "UTF-8 form. Clean it with text.encode('utf-8', 'replace').decode()."
            )
            return BadTextError(i, message)
    return ValueError("The texts could not be encoded.")


def encode_by_reference(backend: Tokenizer, texts: list[str]) -> FlatIds:
    """Return flat ids and offsets by `tokenizers` itself; `backend` has no truncation and no padding."""
    encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
    input_ids = np.empty(offsets[-1], dtype=np.int32)
    for i, encoding in enumerate(encodings):
        input_ids[offsets[i] : offsets[i + 1]] = encoding.ids
    return input_ids, offsets


class LazyBackend:
    """`tokenizers` for the first texts, then the fastest backend; neither truncates nor pads."""

    def __init__(self, tokenizer: Tokenizer, special_tokens: bool) -> None:
        self.backend = Tokenizer.from_str(tokenizer.to_str())  # a copy, so that the caller's keeps its mode
        self.backend.encode_special_tokens = not special_tokens
        self._special_tokens, self._slow = special_tokens, partial(encode_by_reference, self.backend)
        self._fast: Encode | None = None
        self._seen = 0  # characters

    def encode(self, texts: list[str]) -> FlatIds:
        """Return flat ids and offsets as `encode_flat` does."""
        if self._fast is None:
            size = sum(map(len, texts))
            self._seen += size
            if size < SHORT_CALL or self._seen <= SLOW_CHARACTERS:
                return self._slow(texts)
        return self.prepare()(texts)

    def prepare(self) -> Encode:
        """Return the fastest backend."""
        if self._fast is None:
            gigatoken = find_gigatoken(self.backend, self._special_tokens, self._slow)
            self._fast = gigatoken.encode if gigatoken else self._slow
        return self._fast


find_backend = remembered(LazyBackend)
