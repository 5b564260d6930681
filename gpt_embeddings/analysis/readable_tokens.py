"""Tokens that a person can read: `Ġgato` as `␣gato`, half a character as its bytes.

Left out: decoding whole texts, which `tokenizer.decode` does.
"""

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.encoding import encode_flat


SPACE_MARKS = ("Ġ", "▁")  # how byte-level and SentencePiece vocabularies write the space before a word
SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥", "▁": "␣"}


def _byte_alphabet() -> dict[str, int]:
    """Return the byte behind each character of a byte-level vocabulary (`bytes_to_unicode` in openai/gpt-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_alphabet()


def show(text: str) -> str:
    """Return a text with its spaces, line ends and invisible characters made visible."""
    return "".join(
        SHOWN.get(char) or (char if char.isprintable() else char.encode("unicode_escape").decode()) for char in text
    )


def readable_pieces(tokenizer: PreTrainedTokenizerBase, input_ids: Iterable[int]) -> list[str]:
    """Return each token as a person reads it.

    Args:
        tokenizer: A fast tokenizer.
        input_ids: Ids; one that the tokenizer does not have is shown as `row ID`.

    Returns:
        Pieces: a space as `␣`, a line end as `⏎`, bytes that are no whole character in hexadecimal as `⟨F0 9F⟩`.
    """
    ids = [int(token_id) for token_id in input_ids]
    byte_level = b"ByteLevel" in _state(tokenizer.backend_tokenizer.decoder)
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    pieces = []
    for token_id in ids:
        token = tokenizer.backend_tokenizer.id_to_token(token_id)
        if token is None:
            pieces.append(f"row {token_id}")
        elif byte_level and token_id not in added and all(char in BYTES for char in token):
            pieces.append(_show_bytes(bytes(BYTES[char] for char in token)))
        else:
            pieces.append(show(token))
    return pieces


def word_ids(tokenizer: PreTrainedTokenizerBase, word: str) -> npt.NDArray[np.int32]:
    """Return the ids of a word as it stands in a sentence, or at its beginning where that takes fewer tokens.

    Byte-level vocabularies hold most words with the space before them: ` cat` and `cat` are two tokens.

    Args:
        tokenizer: A fast tokenizer.
        word: A word, or several; spaces around it do not count.

    Returns:
        Ids of shape `(n_tokens,)`, int32.

    Raises:
        ValueError: There is no word, or the vocabulary has no token for a part of it.
    """
    word = word.strip()
    if not word:
        raise ValueError("There is no word; type one.")
    input_ids, offsets = encode_flat([f" {word}", word], tokenizer, add_special_tokens=False)
    within, first = input_ids[: offsets[1]], input_ids[offsets[1] :]
    chosen = within if len(within) <= len(first) else first
    unknown = tokenizer.unk_token_id
    if not len(chosen) or (unknown in chosen and word != tokenizer.unk_token):
        raise ValueError(f"The vocabulary has no tokens for {word!r}.")
    return chosen


def whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the entries of a vocabulary that are whole words, without the mark of their space, and their ids.

    >>> from gpt_embeddings import load_tokenizer
    >>> words = whole_words(load_tokenizer())
    >>> words["harbour"], "ing" in words, len(words)
    (39720, True, 32012)
    """
    vocabulary = sorted(tokenizer.get_vocab().items())
    marked = [(token[1:], i) for token, i in vocabulary if token.startswith(SPACE_MARKS)]
    return {word: i for word, i in marked or vocabulary if len(word) > 1 and word.isalpha() and _is_text(word)}


def _state(part: object) -> bytes:
    return b"" if part is None else part.__getstate__()  # type: ignore[return-value]


def _show_bytes(data: bytes) -> str:
    """Show what is whole characters as such and other bytes in hexadecimal."""
    parts = re.split("([\udc80-\udcff]+)", data.decode("utf-8", "surrogateescape"))
    return "".join(
        f"⟨{part.encode('utf-8', 'surrogateescape').hex(' ').upper()}⟩" if i % 2 else show(part)
        for i, part in enumerate(parts)
    )


def _is_text(word: str) -> bool:
    return word.isascii() or not any("\x80" <= c <= "\u0143" for c in word)  # bytes of a byte-level vocabulary
