"""A model to be looked at, with its tokenizer and its search, opened once and when it is first needed.

Left out: what is looked at (`views`), and where (`page`, `export`).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.neighbours import Neighbours
from gpt_embeddings.checkpoints.bundled import ENGLISH
from gpt_embeddings.checkpoints.loading import load_pair
from modeling_gpt_embeddings import GPTEmbeddingsModel


@dataclass(frozen=True)
class Opened:
    """What a view works with."""

    model: GPTEmbeddingsModel
    tokenizer: PreTrainedTokenizerBase
    neighbours: Neighbours


class Subject:
    """A model by name.

    Args:
        name: What the page calls it.
        load: Returns model and tokenizer; it is called once, and what it raises is raised at every `open`.
    """

    def __init__(self, name: str, load: Callable[[], tuple[GPTEmbeddingsModel, PreTrainedTokenizerBase]]) -> None:
        self.name = name
        self._load = load
        self._lock = threading.Lock()
        self._opened: Opened | Exception | None = None

    def open(self) -> Opened:
        """Return the model, loaded by whoever asks first; others wait.

        Raises:
            Exception: What loading raised.
        """
        with self._lock:
            if self._opened is None:
                try:
                    model, tokenizer = self._load()
                    self._opened = Opened(model.eval(), tokenizer, Neighbours(model, tokenizer))
                except Exception as error:  # kept, so that every view says the same
                    self._opened = error
        if isinstance(self._opened, Exception):
            raise self._opened
        return self._opened


def find_subject(name: str | None, tokenizer: str | None = None) -> Subject:
    """Return the subject of a folder or a Hub name; nothing is read yet.

    Args:
        name: A saved model of ours, or any GPT checkpoint that `from_gpt` knows; None is the one that comes with
            the package.
        tokenizer: Folder or Hub name; None takes the model's own where it has one, else GPT-2's.
    """
    return Subject(name or ENGLISH, lambda: load_pair(name, tokenizer))
