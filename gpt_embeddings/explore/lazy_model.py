"""A model with its tokenizer and its neighbours, loaded once, when a view first needs it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Self

from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.neighbours import Neighbours
from gpt_embeddings.analysis.word_lists import load_words
from gpt_embeddings.bundled import ENGLISH
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.explore.translation import Language
from modeling_gpt_embeddings import GPTEmbeddingsModel


class LazyModel:
    """A model by name; `model`, `tokenizer` and `tokens`, the search among its tokens, are there after `load()`.

    `load` returns model and tokenizer, and is called again after an error. `words` are word lists by language.
    """

    model: GPTEmbeddingsModel
    tokenizer: PreTrainedTokenizerBase
    tokens: Neighbours

    def __init__(
        self,
        name: str,
        load: Callable[[], tuple[GPTEmbeddingsModel, PreTrainedTokenizerBase]],
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.name, self.words = name, words or {}
        self._load, self._lock = load, threading.Lock()
        self._among = cache(lambda language: Neighbours(self.model, self.tokenizer, words=self.words[language]))

    @classmethod
    def from_pretrained(cls, name: str | None = None, tokenizer: str | None = None) -> Self:
        """Return a saved model or any GPT checkpoint, with its own tokenizer or another; only words are read yet."""
        words: dict[str, list[str]] = {}
        with suppress(FileNotFoundError):  # of a bundled table that is missing, which `load` reports
            words = load_words(name)
        return cls(name or ENGLISH, lambda: load_model_and_tokenizer(name, tokenizer), words)

    @property
    def words_language(self) -> Language | None:
        """The language of the words to begin with: Portuguese if there are Portuguese words; None without a list."""
        return "pt" if "pt" in self.words else "en" if self.words else None

    def load(self) -> Self:
        """Load the model if it is not there yet. Threads that ask while it is being loaded wait for it."""
        with self._lock:
            if not hasattr(self, "tokens"):
                self.model, self.tokenizer = self._load()
                self.tokens = Neighbours(self.model.eval(), self.tokenizer)
        return self

    def search(self, *query: str) -> Neighbours:
        """Return the search among the words of one language, or among tokens if there is no word list.

        It is the language in which the words of the query are most frequent.
        """

        def rank(language: str) -> int:
            listed, asked = self.words[language], [word.strip().lower() for word in query]
            return sum(listed.index(word) if word in listed else len(listed) for word in asked)

        return self._among(min(self.words, key=rank)) if self.words else self.tokens
