"""The engine behind `encode_flat` where gigatoken is not: each word is encoded once, by `tokenizers`, and remembered.

GPT-2's pattern cuts a text into words that are encoded independently of each other. Python's `regex` cuts at several
times the speed at which `tokenizers` encodes, so text that repeats its words, as all real text does, needs little more
than a dictionary. Where the two could cut differently, because they know different versions of Unicode, the text goes
to `tokenizers` whole.

Left out: added tokens, normalizers and other patterns, for which `tokenizers` is used throughout.
"""

import functools
from typing import Any

import numpy as np
import regex
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from gpt_embeddings.text.backend import Encode, FallbackCharacters, FlatIds


# From encoder.py of openai/gpt-2, which `tokenizers.pre_tokenizers.ByteLevel` repeats.
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

MAX_CHARACTERS = 2**21  # in the words that are remembered, which are then about 300,000 and take 50 MB

# The characters that are compared: the basic plane, which has all but rare scripts, and emoji.
COMPARED = ((0x80, 0xD800), (0xE000, 0x10000), (0x1F000, 0x1FB00))
_PROBES = 1024  # characters compared at once


class WordCache:
    """An engine that asks `tokenizers` for each word once.

    Args:
        backend: A tokenizer without truncation and padding, as `find_word_cache` checks it.
        reference: The engine for texts that hold a doubtful character.
    """

    def __init__(self, backend: Tokenizer, reference: Encode) -> None:
        self._backend, self._reference = backend, reference
        self._ids: dict[str, bytes] = {}  # of each word, as the bytes of int32
        self._size = 0  # characters in those words

    def encode(self, texts: list[str]) -> FlatIds:
        """Return flat ids and offsets as `encode_flat` does."""
        return _doubtful().encode(texts, self._encode, self._reference)

    def _encode(self, texts: list[str]) -> FlatIds:
        cut = list(map(_pattern().findall, texts))
        self._learn(set().union(*cut))
        parts = [b"".join(map(self._ids.__getitem__, words)) for words in cut]
        ends = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([len(part) // 4 for part in parts], out=ends[1:])
        # A bytearray, because torch wants memory that may be written to.
        return np.frombuffer(bytearray().join(parts), dtype=np.int32), ends

    def _learn(self, words: set[str]) -> None:
        """Have the ids of these words at hand; the cache is emptied when they would make it too large."""
        new = words.difference(self._ids)
        if self._size + sum(map(len, new)) > MAX_CHARACTERS:
            self._ids, self._size, new = {}, 0, words
        listed = list(new)
        encodings = self._backend.encode_batch_fast(listed, add_special_tokens=False)
        for word, encoding in zip(listed, encodings, strict=True):
            self._ids[word] = np.array(encoding.ids, dtype=np.int32).tobytes()
        self._size += sum(map(len, listed))


def find_word_cache(backend: Tokenizer, special_tokens: bool, reference: Encode) -> WordCache | None:
    """Return an engine that gives the ids of the reference, or None where words do not stand alone.

    Args:
        backend: The tokenizer, without truncation and padding.
        special_tokens: Whether special tokens in a text are such.
        reference: The engine that it has to equal.
    """
    cutter = backend.pre_tokenizer
    standing_alone = (
        isinstance(backend.model, BPE)
        and not backend.model.dropout
        and backend.normalizer is None
        and isinstance(cutter, ByteLevel)
        and cutter.use_regex
        and not cutter.add_prefix_space
        and not special_tokens
        and all(token.special for token in backend.get_added_tokens_decoder().values())
    )
    if not standing_alone or _differ([chr(i) for i in range(0x80)]):
        return None
    return WordCache(backend, reference)


@functools.cache
def _pattern() -> Any:
    return regex.compile(PATTERN)


@functools.cache
def _doubtful() -> FallbackCharacters:
    """Return the characters that the two cut differently or that were not compared."""
    characters = [chr(i) for start, stop in COMPARED for i in range(start, stop)]
    found = []
    for i in range(0, len(characters), _PROBES):
        found += _differ(characters[i : i + _PROBES])
    ranges = [(ord(character), ord(character)) for character in found]
    bounds = [0x80, *(bound for both in COMPARED for bound in both), 0x110000]
    ranges += [(a, b - 1) for a, b in zip(bounds[::2], bounds[1::2], strict=True) if a < b]
    return FallbackCharacters(ranges)


def _differ(characters: list[str]) -> list[str]:
    """Return the characters that the two take for different kinds: a letter, a digit, a mark or a space."""
    probe = "".join(f"a{c}1{c}!{c}" for c in characters)  # each kind is cut in its own way
    ours = [match.span() for match in _pattern().finditer(probe)]
    theirs = [span for _, span in ByteLevel(add_prefix_space=False).pre_tokenize_str(probe)]
    if ours == theirs:
        return []
    if len(characters) == 1:
        return characters
    half = len(characters) // 2
    return _differ(characters[:half]) + _differ(characters[half:])
