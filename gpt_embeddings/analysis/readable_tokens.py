"""Tokens that a person can read: `Ġgato` as `␣gato`, half a character as its bytes; which tokens a text can reach."""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.tokenizer import FlatIds, take_spans


SPACE_MARKS = ("Ġ", "▁")  # how byte-level and SentencePiece vocabularies write the space before a word
SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥", "▁": "␣"}
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}  # of a byte-level vocabulary


def show(text: str) -> str:
    """Make the spaces, line ends and invisible characters of a text visible."""
    return "".join(
        SHOWN.get(char) or (char if char.isprintable() else char.encode("unicode_escape").decode()) for char in text
    )


def readable_pieces(tokenizer: PreTrainedTokenizerBase, input_ids: Iterable[int]) -> list[str]:
    """Return each token as a person reads it.

    Args:
        tokenizer: A fast tokenizer.
        input_ids: Ids; one without a token is shown as `row ID`.

    Returns:
        Pieces: a space as `␣`, a line end as `⏎`, bytes that are not a whole character in hexadecimal as `⟨F0 9F⟩`.
    """
    pieces = []
    for token_id, token in _tokens(tokenizer, map(int, input_ids)):
        if isinstance(token, bytes):
            parts = re.split("([\udc80-\udcff]+)", token.decode("utf-8", "surrogateescape"))
            for i in range(1, len(parts), 2):  # bytes that are no whole character
                parts[i] = f"⟨{parts[i].encode('utf-8', 'surrogateescape').hex(' ').upper()}⟩"
            parts[::2] = map(show, parts[::2])
            pieces.append("".join(parts))
        else:
            pieces.append(f"row {token_id}" if token is None else show(token))
    return pieces


def reachable_tokens(tokenizer: PreTrainedTokenizerBase, n_rows: int) -> npt.NDArray[np.bool_]:
    """Return for each row whether a text can produce its token: not ` Mug` if the normalizer makes text lower case."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    reachable = np.ones(n_rows, bool)
    for token_id, token in _tokens(tokenizer, range(n_rows)):
        if token is None:
            reachable[token_id] = False
        elif normalizer is not None and token_id not in added:
            text = token.decode("utf-8", "replace") if isinstance(token, bytes) else token
            reachable[token_id] = "\ufffd" in text or normalizer.normalize_str(text).strip() == text.strip()
    return reachable


def word_ids(tokenizer: PreTrainedTokenizerBase, word: str) -> npt.NDArray[np.int32]:
    """Return the ids, `(n_tokens,)`, of a word after a space (` cat`), or without it (`cat`) if these are fewer."""
    word = word.strip()
    if not word:
        raise ValueError("There is no word; type one.")
    chosen, _ = encode_words(tokenizer, [word])
    unknown = tokenizer.unk_token_id
    if not len(chosen) or (unknown in chosen and word != tokenizer.unk_token):
        raise ValueError(f"The vocabulary has no tokens for {word!r}.")
    return chosen


def encode_words(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> FlatIds:
    """Return the ids of words, each as in `word_ids`, as flat ids and offsets like those of `encode_flat`."""
    input_ids, offsets = encode_flat([f" {word}" for word in words], tokenizer, add_special_tokens=False)
    starts, lengths = offsets[:-1].copy(), np.diff(offsets)
    split = np.flatnonzero(lengths > 1)
    first, bounds = encode_flat([words[i] for i in split.tolist()], tokenizer, add_special_tokens=False)
    shorter = np.diff(bounds) < lengths[split]
    starts[split[shorter]] = (bounds[:-1] + len(input_ids))[shorter]
    lengths[split[shorter]] = np.diff(bounds)[shorter]
    return take_spans(np.concatenate([input_ids, first]), starts, lengths)


def whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the entries of a vocabulary that are whole words, without the space before them, and their ids.

    >>> from gpt_embeddings import load_tokenizer
    >>> words = whole_words(load_tokenizer())
    >>> words["harbour"], "ing" in words, len(words)
    (39720, True, 32012)
    """
    vocabulary = sorted(tokenizer.get_vocab().items())
    marked = [(token[1:], i) for token, i in vocabulary if token.startswith(SPACE_MARKS)]
    words = {word: i for word, i in marked or vocabulary if len(word) > 1 and word.isalpha()}
    # Without the bytes of a byte-level vocabulary, which are letters too.
    return {word: i for word, i in words.items() if not any("\x80" <= char <= "\u0143" for char in word)}


def _tokens(tokenizer: PreTrainedTokenizerBase, input_ids: Iterable[int]) -> Iterator[tuple[int, bytes | str | None]]:
    """Give ids with their tokens: bytes in a byte-level vocabulary, else text; None for ids without a token."""
    backend = tokenizer.backend_tokenizer
    byte_level = backend.decoder is not None and b"ByteLevel" in backend.decoder.__getstate__()
    added = backend.get_added_tokens_decoder()
    for token_id in input_ids:
        token = backend.id_to_token(token_id)
        if token is not None and byte_level and token_id not in added and all(char in BYTES for char in token):
            yield token_id, bytes(BYTES[char] for char in token)
        else:
            yield token_id, token
