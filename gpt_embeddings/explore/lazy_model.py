"""A model with its tokenizer and its neighbours, loaded once, when a view first needs it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.neighbours import Neighbours
from gpt_embeddings.checkpoints.bundled import ENGLISH
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsModel


@dataclass(frozen=True)
class LoadedModel:
    """What the views work with."""

    model: GPTEmbeddingsModel
    tokenizer: PreTrainedTokenizerBase
    neighbours: Neighbours


class LazyModel:
    """A model by name.

    Args:
        name: The name that the page shows.
        load: Returns model and tokenizer. It is called once if it succeeds, and again after an error.
    """

    def __init__(self, name: str, load: Callable[[], tuple[GPTEmbeddingsModel, PreTrainedTokenizerBase]]) -> None:
        self.name = name
        self._load = cache(load)
        self._neighbours = cache(Neighbours)
        self._lock = threading.Lock()  # `cache` alone would let two threads load at the same time

    @classmethod
    def from_pretrained(cls, name: str | None = None, tokenizer: str | None = None) -> "LazyModel":
        """Return the model of a folder or a Hub name; nothing is read yet.

        Args:
            name: A saved model, or any GPT checkpoint that `from_gpt` supports; None is the bundled English table.
            tokenizer: Folder or Hub name; None takes the model's own if it has one, else GPT-2's.
        """
        return cls(name or ENGLISH, lambda: load_model_and_tokenizer(name, tokenizer))

    def load(self) -> LoadedModel:
        """Return the model. Threads that ask while it is being loaded wait for it."""
        with self._lock:
            model, tokenizer = self._load()
            return LoadedModel(model.eval(), tokenizer, self._neighbours(model, tokenizer))
