"""Loading a model, with or without its tokenizer, by name: a folder or a Hub name, refused if weights are missing."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.bundled import NAMES, REINSTALL, find_bundled
from gpt_embeddings.checkpoints.conversion import from_gpt
from gpt_embeddings.checkpoints.files import Folder, find_static, read_json
from gpt_embeddings.checkpoints.saving import save_model_and_tokenizer
from gpt_embeddings.checkpoints.static import from_static
from gpt_embeddings.text.tokenizer import FORM_FILE, load_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsModel


DEFAULT_TOKENIZER = "openai-community/gpt2"
MODEL_TYPE = GPTEmbeddingsConfig.model_type

# A tokenizer has one of these files. Without one `AutoTokenizer` makes an empty tokenizer for some families.
VOCABULARIES = "tokenizer.json vocab.json vocab.txt sentencepiece.bpe.model spiece.model tokenizer.model".split()


def load_model_and_tokenizer(
    name: str | None = None, tokenizer: str | None = None, model_class: type[Any] = GPTEmbeddingsModel
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a model for inference, and its tokenizer with the model's `n_positions` as `model_max_length`.

    Args:
        name: Folder or Hub name of a saved model, of a GPT checkpoint, whose input stage is taken, or of a static
            model of another library; None is the bundled English table.
        tokenizer: Folder or Hub name of the tokenizer; None is the model's own or, if it has none, GPT-2's.
        model_class: One with a head loads saved models alone, as the others have only the input stage.

    Raises:
        OSError: There is no such model or tokenizer.
        ValueError: One of them is broken, or lacks weights.
    """
    name, own = find_bundled(name), None
    missing: set[str] = set()
    try:
        folder = Folder(name)
        if model_class is GPTEmbeddingsModel and find_static(folder) is not None:
            model, own = from_static(name)
        elif not folder.has("config.json"):
            raise FileNotFoundError("there is no config.json. Give a folder that `save_pretrained` wrote.")
        elif (model_type := read_json(folder.download("config.json")).get("model_type")) == MODEL_TYPE:
            # Without transformers' report on unused weights, such as those of a head, and its progress bar.
            verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
            logging.set_verbosity_error()
            logging.disable_progress_bar()
            try:
                model, report = model_class.from_pretrained(name, output_loading_info=True)
            finally:
                logging.set_verbosity(verbosity)
                if bar:
                    logging.enable_progress_bar()
            missing = set(report["missing_keys"])
        elif model_class is GPTEmbeddingsModel:
            model = from_gpt(name)
        else:
            raise ValueError(f"{name!r} holds a model of type {model_type!r}, not {MODEL_TYPE!r}.")
    except OSError as error:
        raise OSError(f"No model at {name!r}: {error}") from error
    except (RuntimeError, SafetensorError) as error:
        advice = f" {REINSTALL}" if name in NAMES else ""
        raise ValueError(f"The model at {name!r} is broken, or not a GPTEmbeddings model: {error}.{advice}") from error
    if missing:  # transformers has filled them with random numbers
        names = ", ".join(sorted(missing))
        raise ValueError(f"The model at {name!r} lacks {names}, which must not be random. Save the model again.")
    model.eval()
    if own is not None and tokenizer in (None, name):
        return model, own
    if tokenizer is None:
        tokenizer = name if any(map(folder.has, (*VOCABULARIES, FORM_FILE))) else DEFAULT_TOKENIZER
    return model, load_tokenizer(tokenizer, model_max_length=model.config.n_positions)


def save_with_tokenizer(model: GPTEmbeddingsModel, folder: Folder, output: Path) -> str:
    """Save an extracted model and the tokenizer of its checkpoint to a folder; return a line for the user."""
    if not any(map(folder.has, VOCABULARIES)):
        model.save_pretrained(output)
        return f"{folder.name} has no tokenizer; commands use GPT-2's with it, or the one given by `--tokenizer`."
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.repo_id, revision=folder.revision)
        save_model_and_tokenizer(output, model, tokenizer)
    except (AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        model.save_pretrained(output)
        reason = str(error).strip().split("\n", 1)[0]
        return (
            f"The tokenizer is left out, because it cannot be loaded here ({reason:.200}); give one by `--tokenizer`."
        )
    return f"  tokenizer  {len(tokenizer)} entries, {type(tokenizer).__name__}"
