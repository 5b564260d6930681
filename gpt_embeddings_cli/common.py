"""What the commands share: loading the libraries, models and tokenizers by name, errors as one message."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modeling_gpt_embeddings import GPTEmbeddingsModel


def load_libraries() -> None:
    """Import PyTorch and transformers, which takes seconds; on a terminal, say so.

    Ctrl-C ends the process at once, since some modules swallow a `KeyboardInterrupt` while they are imported.
    """
    if sys.stderr.isatty():
        typer.echo("Loading PyTorch and transformers ...", err=True)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, _exit_at_once) if in_main_thread else None
    try:
        import gpt_embeddings  # noqa: F401
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


def _exit_at_once(*_: Any) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(130)


def open_model_and_tokenizer(
    name: str | None, tokenizer: str | None, fresh: bool, config: Path | None, seed: int
) -> "tuple[GPTEmbeddingsModel, PreTrainedTokenizerBase, str]":
    """Return a saved, fresh or bundled model, its tokenizer, and a description of where the model is from.

    Args:
        name: Folder or Hub name of a saved model; None is the bundled English table.
        tokenizer: Folder or Hub name; None is the model's own or, if it has none, GPT-2's.
        fresh: Whether to make a model with random tables.
        config: config.json of a fresh model.
        seed: Seed of a fresh model.
    """
    import torch

    from configuration_gpt_embeddings import GPTEmbeddingsConfig
    from gpt_embeddings.checkpoints.bundled import ENGLISH
    from gpt_embeddings.checkpoints.loading import DEFAULT_TOKENIZER, load_model_and_tokenizer
    from gpt_embeddings.text.tokenizer import load_tokenizer
    from modeling_gpt_embeddings import GPTEmbeddingsModel

    if not fresh and config is None:
        return *load_model_and_tokenizer(name, tokenizer), name or ENGLISH
    sizes = GPTEmbeddingsConfig() if config is None else GPTEmbeddingsConfig.from_json_file(config)
    torch.manual_seed(seed)
    typer.echo("The tables are random: their vectors mean nothing before training.", err=True)
    model = GPTEmbeddingsModel(sizes).eval()
    tokens = load_tokenizer(tokenizer or DEFAULT_TOKENIZER, model_max_length=sizes.n_positions)
    return model, tokens, f"random, untrained tables (seed {seed})"


def check_one_model(name: str | None, config: Path | None, fresh: bool = False) -> None:
    """Refuse a saved model and a random one at once."""
    if name is not None and (fresh or config is not None):
        raise ValueError("Give `--model` for a saved model, or `--fresh` or `--config` for a random one, not both.")


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print an expected error as one message and exit with 1, or with 130 after Ctrl-C, instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(130)
    except Exception as error:
        expected = isinstance(error, (ImportError, OSError, TypeError, ValueError))
        if not expected and not _is_of_the_hub_library(error):
            raise
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _is_of_the_hub_library(error: Exception) -> bool:
    """Whether a request failed or transformers refused a setting; whatever raises these has imported them already."""
    errors = sys.modules.get("huggingface_hub.errors")
    return errors is not None and isinstance(error, (errors.HTTPError, errors.StrictDataclassError))
