"""What the commands share: models and tokenizers by name, errors as text."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gpt_embeddings_cli import is_importing


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modeling_gpt_embeddings import GPTEmbeddingsModel


SILENT_SECONDS = 2.0  # of imports


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
    return model, tokens, f"fresh, untrained tables (seed {seed})"


def check_one_model(name: str | None, config: Path | None, fresh: bool = False) -> None:
    """Refuse a saved model and a fresh one at once."""
    if name is not None and (fresh or config is not None):
        raise ValueError("Give `--model` for a saved model or `--fresh` or `--config` for a fresh one, not both.")


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print an expected error as one message and exit with 1, or with 130 after Ctrl-C, instead of a traceback.

    On a terminal, imports that take long are told.
    """
    waiting = threading.Timer(SILENT_SECONDS, _tell_of_imports, [threading.get_ident()])
    waiting.daemon = True
    if sys.stderr.isatty():
        waiting.start()
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(130)
    except Exception as error:
        expected = isinstance(error, (ImportError, OSError, TypeError, ValueError))
        if not expected and not _is_refused_setting(error) and not _is_of_the_network(error):
            raise
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)
    finally:
        waiting.cancel()


def _tell_of_imports(thread: int) -> None:
    """Say what takes so long if a thread is importing: right after an installation that may be a minute."""
    if is_importing(sys._current_frames().get(thread)):
        typer.echo("Loading PyTorch and transformers, which takes longest the first time ...", err=True)


def _is_refused_setting(error: Exception) -> bool:
    """Return whether a configuration refused a value; who raises it has imported the class already."""
    errors = sys.modules.get("huggingface_hub.errors")
    return errors is not None and isinstance(error, errors.StrictDataclassError)


def _is_of_the_network(error: Exception) -> bool:
    """Return whether a request failed; who raises it has imported the client already."""
    client = sys.modules.get("httpx2")
    return client is not None and isinstance(error, client.HTTPError)
