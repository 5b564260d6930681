"""A model and its tokenizer by name, the one way: a folder here or on the Hub, checked for weights that are missing.

A name is that of a saved model of ours, of a GPT checkpoint, whose input stage is taken out, or of a static model of
another library; None is the model that comes with the package. Left out: fresh models.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

import modeling_gpt_embeddings
from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.checkpoints.bundled import find_bundled
from gpt_embeddings.checkpoints.conversion import from_gpt
from gpt_embeddings.checkpoints.files import Folder, open_folder, read_json
from gpt_embeddings.checkpoints.saving import save_pair
from gpt_embeddings.checkpoints.static import find_static, from_static
from gpt_embeddings.text.tokenizer import load_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM, GPTEmbeddingsModel, GPTEmbeddingsPreTrainedModel


DEFAULT_TOKENIZER = "openai-community/gpt2"
MODEL_TYPE = GPTEmbeddingsConfig.model_type

# A tokenizer has one of these; `AutoTokenizer` makes an empty one of some families where there is none.
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
# Files that a tokenizer may be made of.
TOKENIZER_FILES = (
    *VOCABULARIES,
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
)

_Model = TypeVar("_Model", bound=GPTEmbeddingsPreTrainedModel)


def load_model(name: str | None = None) -> GPTEmbeddingsModel:
    """Load a saved model for inference, the input stage of a GPT checkpoint, or a static model of another library.

    Args:
        name: Folder or Hub name; None is the model that comes with the package.

    Returns:
        The model, in evaluation mode; of a model with a head, what is below it.

    Raises:
        OSError: There is no such model.
        ValueError: It is broken, lacks weights, or is of a kind that has no input stage to take out.
    """
    name = find_bundled(name)
    if _is_static(name):
        return from_static(name)[0]
    return _load(GPTEmbeddingsModel, name) if _read_config(name).get("model_type") == MODEL_TYPE else from_gpt(name)


def load_head(name: str) -> GPTEmbeddingsForCausalLM:
    """Load a saved model with its head, of which a tied one needs no weights of its own.

    Args:
        name: Folder or Hub name.

    Returns:
        The model, in evaluation mode.

    Raises:
        OSError: There is no such model.
        ValueError: It is broken, lacks weights, or is none of ours.
    """
    name = find_bundled(name)
    _read_own_config(name)
    return _load(GPTEmbeddingsForCausalLM, name)


def load_as_saved(name: str) -> GPTEmbeddingsPreTrainedModel:
    """Load a saved model of the class that its configuration names, with or without a head.

    Args:
        name: Folder or Hub name.

    Returns:
        The model, in evaluation mode.

    Raises:
        OSError: There is no such model.
        ValueError: It is broken, lacks weights, or is none of ours.
    """
    saved = _read_own_config(name).get("architectures") or []
    names = [name for name in saved if name in modeling_gpt_embeddings.__all__]
    return _load(getattr(modeling_gpt_embeddings, names[0]) if names else GPTEmbeddingsModel, name)


def load_pair(
    name: str | None = None, tokenizer: str | None = None
) -> tuple[GPTEmbeddingsModel, PreTrainedTokenizerBase]:
    """Load a model as [`load_model`] does, and its tokenizer.

    Args:
        name: Folder or Hub name of the model; None is the one that comes with the package.
        tokenizer: Folder or Hub name of the tokenizer; None takes the model's own where it has one, else GPT-2's.

    Returns:
        The model, in evaluation mode, and the tokenizer with its longest sequence.

    Raises:
        OSError: There is no such model or tokenizer.
        ValueError: One of them is broken.
    """
    name = find_bundled(name)
    model = load_model(name)
    return model, load_tokenizer_of(name, tokenizer, model.config.n_positions)


def load_tokenizer_of(model: str | None, tokenizer: str | None, n_positions: int) -> PreTrainedTokenizerBase:
    """Load the tokenizer that is given, else the model's own, else GPT-2's.

    Args:
        model: Folder or Hub name of a model; None for a fresh one.
        tokenizer: Folder or Hub name of a tokenizer.
        n_positions: Longest sequence of the model.

    Raises:
        OSError: There is no such model or tokenizer.
        ValueError: It is broken.
    """
    model = None if model is None else find_bundled(model)
    if model is not None and tokenizer in (None, model) and _is_static(model):
        return from_static(model)[1]
    return load_tokenizer(find_tokenizer(model, tokenizer), model_max_length=n_positions)


def find_tokenizer(model: str | None, tokenizer: str | None = None) -> str:
    """Return the name of the tokenizer to load: the one that is given, else the model's own, else GPT-2's.

    Args:
        model: Folder or Hub name of a model; None for a fresh one.
        tokenizer: Folder or Hub name of a tokenizer.

    Raises:
        OSError: The model's repository cannot be reached.
    """
    model = None if model is None else find_bundled(model)
    try:
        if tokenizer is None and model is not None and any(map(open_folder(model).has, VOCABULARIES)):
            return model
    except OSError as error:
        raise OSError(f"No model at {model!r}: {error}") from error
    return tokenizer or DEFAULT_TOKENIZER


def save_with_tokenizer(model: GPTEmbeddingsModel, folder: Folder, output: Path) -> str:
    """Save a model and the tokenizer of the checkpoint that it is from, and say how that went.

    A tokenizer that needs a library which is not here is copied file by file.

    Args:
        model: What was taken out of the checkpoint.
        folder: The checkpoint.
        output: Where to save both; it exists.

    Returns:
        One line for the user.
    """
    paths = [folder.download(file) for file in TOKENIZER_FILES if folder.has(file)]
    if not any(path.name in VOCABULARIES for path in paths):
        model.save_pretrained(output)
        return f"{folder.name} has no tokenizer: commands take GPT-2's with it, or the one that `--tokenizer` names."
    if folder.has("config.json"):  # it says which class an older tokenizer is of
        folder.download("config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(paths[0].parent))
        save_pair(output, model, tokenizer)
    except (AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        model.save_pretrained(output)
        for path in paths:
            shutil.copyfile(path, output / path.name)
        reason = str(error).strip().split("\n", 1)[0]
        return f"The tokenizer's files were copied as they are, as they do not load here ({reason:.200})."
    return f"  tokenizer  {len(tokenizer)} entries, {type(tokenizer).__name__}"


def _is_static(name: str) -> bool:
    """Whether a name is that of a static model of another library; what is wrong with it, others say."""
    try:
        return find_static(open_folder(name)) is not None
    except (OSError, ValueError):
        return False


def _read_config(name: str) -> dict[str, Any]:
    try:
        folder = open_folder(name)
        if not folder.has("config.json"):
            raise FileNotFoundError("there is no config.json. Give a folder that `save_pretrained` wrote.")
    except OSError as error:
        raise OSError(f"No model at {name!r}: {error}") from error
    return read_json(folder, "config.json")


def _read_own_config(name: str) -> dict[str, Any]:
    config = _read_config(name)
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(f"{name!r} holds a model of type {config.get('model_type')!r}, not {MODEL_TYPE!r}.")
    return config


def _load(model_class: type[_Model], name: str) -> _Model:
    """Load a model of ours, and refuse one that random numbers would complete."""
    try:
        with _quiet():
            loaded: Any = model_class.from_pretrained(name, output_loading_info=True)
    except OSError as error:
        raise OSError(f"No model at {name!r}: {error}") from error
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"The model at {name!r} is broken, or not one of ours: {error}") from error
    model, report = loaded
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"]))
        raise ValueError(f"The model at {name!r} lacks {missing}; random numbers would stand in. Save it again.")
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting what is looked at here: a head's weights, say, which the base does not need.

    Nor is there a bar for the three tensors of a model, which are there at once.
    """
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
