"""Small changes of sentences, so that training learns how much each changes the meaning.

A word is replaced by one whose row is near, by one with the same ending, or left out; a statement is negated; the
second half comes from another sentence. The teacher says how similar the results are. Many are no good English, which
does no harm: the words of a table are added up all the same.
"""

import re

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase


GROUP = 8  # a sentence and seven variations
WORDS = range(4, 15)  # length of the sentences that are varied, in words
NEIGHBOURS = 15
NEGATED = {"is", "are", "was", "were", "can", "will", "should"}
NEGATE = 0.35  # of the sentences in which one of these words occurs
FUNCTION_WORDS = frozenset(
    """
    about after again all also and any are because been before being between both but can could did didn does doesn don
    during for from get going got had has have her here him his how into isn its just let like may mean might more
    not off once one only other our out over really she should some such sure than that the their them then there these
    they this through too two under use very wasn were what when where which while who why will with won would yes
    you your
    """.split()
)


class Variations:
    """Makes groups of sentences that differ in little.

    Args:
        rows: Token rows, `(vocab_size, n_embd)`, whose neighbours replace words.
        tokenizer: Its tokenizer.
        seed: Of the random choices.
    """

    def __init__(self, rows: torch.Tensor, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> None:
        ids = {token[1:]: i for token, i in tokenizer.get_vocab().items() if re.fullmatch("Ġ[a-z]{3,}", token)}
        self._words = sorted(ids.keys() - FUNCTION_WORDS)
        unit = F.normalize(rows[[ids[word] for word in self._words]], dim=1)
        near = torch.cat([(part @ unit.T).topk(NEIGHBOURS + 1, dim=1).indices[:, 1:] for part in unit.split(1024)])
        self._near = {word: near[i].tolist() for i, word in enumerate(self._words)}
        self._endings: dict[str, list[str]] = {}
        for word in self._words:
            self._endings.setdefault(word[-2:], []).append(word)
        self._used: dict[str, int] = {}  # how often a word was replaced, so that rare ones get their turn
        self._rng = np.random.default_rng(seed)

    def groups(self, sentences: list[str], most: int) -> list[str]:
        """Return groups of `GROUP` texts, one after the other, each a sentence of `sentences` and its variations."""
        fitting = [words for words in map(str.split, sentences) if len(words) in WORDS]
        texts: list[str] = []
        for i in self._rng.permutation(len(fitting))[:most]:
            words, other = fitting[i], fitting[self._rng.integers(len(fitting))]
            swapped = [self._swap(words, near=True) for _ in range(5)]
            variations = [
                words,
                *swapped[:4],
                self._swap(words, near=False),
                self._swap(swapped[0], near=True),
                self._negate(words),
                self._drop(words),
                words[: len(words) // 2] + other[len(other) // 2 :],
                swapped[4],
            ]
            different = list(dict.fromkeys(" ".join(one) for one in variations))[:GROUP]
            if len(different) == GROUP:
                texts += different
        return texts

    def _places(self, words: list[str]) -> list[int]:
        return [i for i, word in enumerate(words) if _bare(word) in self._near]

    def _swap(self, words: list[str], *, near: bool) -> list[str]:
        places = self._places(words)
        if not places:
            return words
        place = min(self._rng.permutation(places)[:2], key=lambda i: self._used.get(_bare(words[i]), 0))
        old = _bare(words[place])
        self._used[old] = self._used.get(old, 0) + 1
        if near:
            new = self._words[self._near[old][self._rng.integers(NEIGHBOURS)]]
        else:
            new = str(self._rng.choice(self._endings[old[-2:]]))
        mark = words[place][len(words[place].rstrip(".,!?")) :]
        return [*words[:place], new + mark, *words[place + 1 :]]

    def _drop(self, words: list[str]) -> list[str]:
        places = self._places(words)
        if len(places) < 2:
            return words
        place = self._rng.choice(places)
        return [*words[:place], *words[place + 1 :]]

    def _negate(self, words: list[str]) -> list[str]:
        for i, word in enumerate(words):
            if word in NEGATED and self._rng.random() < NEGATE:
                return [*words[: i + 1], "not", *words[i + 1 :]]
        return words


def _bare(word: str) -> str:
    return word.lower().strip(".,!?")
