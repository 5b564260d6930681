"""What the commands share: models and tokenizers by name, outputs that appear whole or not at all, errors as text."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modeling_gpt_embeddings import GPTEmbeddingsModel


def open_model(name: str | None, config: Path | None, seed: int) -> "tuple[GPTEmbeddingsModel, str]":
    """Return a saved model, or a fresh one made from a config.json and a seed, and words for where it is from."""
    import torch

    from configuration_gpt_embeddings import GPTEmbeddingsConfig
    from gpt_embeddings.checkpoints.loading import load_model
    from modeling_gpt_embeddings import GPTEmbeddingsModel

    if name is not None:
        return load_model(name), name
    sizes = GPTEmbeddingsConfig() if config is None else GPTEmbeddingsConfig.from_json_file(config)
    torch.manual_seed(seed)
    return GPTEmbeddingsModel(sizes).eval(), f"fresh, untrained tables (seed {seed})"


def open_tokenizer(name: str | None, model: str | None, n_positions: int) -> "PreTrainedTokenizerBase":
    """Return the tokenizer that was named, the model's own, or GPT-2's."""
    from gpt_embeddings.checkpoints.loading import load_tokenizer_of

    return load_tokenizer_of(model, name, n_positions)


def check_one_model(name: str | None, config: Path | None) -> None:
    """Refuse a saved model and a fresh one at once."""
    if name is not None and config is not None:
        raise ValueError("Give `--model` for a saved model or `--config` for a fresh one, not both.")


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output that exists before any work is done."""
    if output.exists() and not overwrite:
        raise ValueError(f"The output {str(output)!r} exists; choose another, delete it, or give --overwrite.")


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """Give a folder beside the output that takes its name in the end, or is gone where something fails."""
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=output.parent, prefix=f".{output.name}.", ignore_cleanup_errors=True
    ) as folder:
        partial = Path(folder) / output.name
        partial.mkdir()
        yield partial
        if output.is_dir():
            shutil.rmtree(output)
        os.replace(partial, output)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Print an expected error as one message and exit with 1, or with 130 after Ctrl-C, instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, (ImportError, OSError, TypeError, ValueError)) and not _is_refused_setting(error):
            raise
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _is_refused_setting(error: Exception) -> bool:
    """Return whether a configuration refused a value; who raises it has imported the class already."""
    errors = sys.modules.get("huggingface_hub.errors")
    return errors is not None and isinstance(error, errors.StrictDataclassError)


__all__ = ["check_one_model", "check_output", "errors_as_messages", "open_model", "open_tokenizer", "whole_folder"]
