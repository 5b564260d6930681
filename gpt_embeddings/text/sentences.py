"""Sentences: texts cut where a sentence or a paragraph ends, and a choice of the distinct ones."""

import hashlib
import re
import textwrap
from collections.abc import Iterable, Iterator


SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n(?=\s*[-*#\d])")  # a single line end is none: prose is wrapped
SHORTEST, LONGEST = 10, 300  # characters of a sentence; a longer one is cut up


def pick_sentences(texts: Iterable[str], limit: int, seed: int) -> list[str]:
    """Split texts into sentences, and return some of the distinct ones, in random order.

    A sentence is picked by its hash, so that the choice depends on what is there and not on its order.

    >>> pick_sentences(["The tide came in. It went out again!", "The tide came in."], limit=5, seed=0)
    ['It went out again!', 'The tide came in.']
    """
    picked: dict[bytes, str] = {}
    key = seed.to_bytes(8, "little")
    for text in texts:
        for sentence in split_sentences(text):
            if len(sentence) >= SHORTEST and any(map(str.isalpha, sentence)):
                digest = hashlib.blake2b(sentence.encode("utf-8", "replace"), digest_size=8, key=key).digest()
                picked[digest] = sentence
        if len(picked) > 2 * limit:
            picked = dict(sorted(picked.items())[:limit])
    return [sentence for _, sentence in sorted(picked.items())[:limit]]


def split_sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text, their spaces and line ends made one; long ones in pieces."""
    for sentence in SENTENCE_END.split(text):
        sentence = " ".join(sentence.split())
        yield from [sentence] if len(sentence) <= LONGEST else textwrap.wrap(sentence, LONGEST)
