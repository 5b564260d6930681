"""A model to be looked at, with its tokenizer and its search, opened once and when it is first needed.

Left out: what is looked at (`views`), and where (`explore`, `report`).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.analysis.neighbours import Neighbours
from gpt_embeddings.checkpoints.conversion import from_gpt
from gpt_embeddings.checkpoints.files import open_folder, read_json
from gpt_embeddings.checkpoints.loading import load_model
from gpt_embeddings.text.tokenizer import load_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsModel


VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
FRESH = "fresh tables of GPT-2's size, untrained"


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
        name: A saved model of ours, or any GPT checkpoint that `from_gpt` knows; None gives fresh tables.
        tokenizer: Folder or Hub name; None takes the model's own where it has one, else GPT-2's.
    """
    return Subject(name or FRESH, lambda: load_pair(name, tokenizer))


def load_pair(name: str | None, tokenizer: str | None) -> tuple[GPTEmbeddingsModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer, as `find_subject` says.

    Raises:
        OSError: There is no such model or tokenizer.
        ValueError: One of them is broken, or of a kind that has no input stage to look at.
    """
    if name is None:
        torch.manual_seed(0)
        model = GPTEmbeddingsModel(GPTEmbeddingsConfig())
        return model, load_tokenizer(tokenizer or "openai-community/gpt2")
    folder = open_folder(name)
    if not folder.has("config.json"):
        raise OSError(f"No model at {name!r}: there is no config.json.")
    ours = read_json(folder, "config.json").get("model_type") == GPTEmbeddingsConfig.model_type
    model = load_model(name) if ours else from_gpt(name)
    if tokenizer is None and any(folder.has(file) for file in VOCABULARIES):
        tokenizer = name
    return model, load_tokenizer(tokenizer or "openai-community/gpt2")


def is_local(name: str) -> bool:
    """Return whether a name is that of a folder here, which takes precedence over the Hub."""
    return Path(name).is_dir()


__all__ = ["FRESH", "Opened", "Subject", "find_subject", "is_local", "load_pair"]
