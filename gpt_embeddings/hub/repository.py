"""A complete model repository in a folder: what `checkpoints.saving` writes, and the card."""

import fnmatch
import os
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from gpt_embeddings.checkpoints.files import read_json
from gpt_embeddings.checkpoints.saving import POOLING_FILE, TRAINING_METADATA, save_model_and_tokenizer
from gpt_embeddings.hub.cards import CARD, CardMetadata, read_card, write_model_card
from gpt_embeddings.outputs import check_folder_name
from modeling_gpt_embeddings import GPTEmbeddingsPreTrainedModel


# Our files of an earlier save, which are removed unless they are written again: a stale shard would be loaded.
OWN_FILES = (
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    TRAINING_METADATA,
    POOLING_FILE,
)


def save_folder(
    folder: str | os.PathLike[str],
    model: GPTEmbeddingsPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    metadata: CardMetadata = CardMetadata(),  # noqa: B008 -- frozen
) -> None:
    """Write a complete model repository: what `push_to_hub` publishes.

    That is `config.json` with `auto_map`, the weights, the two files of the component, the tokenizer, the files of
    sentence-transformers, the metadata of the training run if there is any, and the card. Other files in the folder
    stay, and in an existing README.md only our section is replaced.

    Args:
        folder: Where to; made if need be.
        model: The model.
        tokenizer: The tokenizer that belongs to it. It is saved with the model's `n_positions` as its
            `model_max_length`; the object itself is not changed.
        metadata: Licence and provenance for the card.

    Raises:
        ValueError: The name is blank, the tokenizer has ids that the model lacks, or the existing README.md cannot be
            read.
    """
    check_folder_name(folder)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A folder within it is on the same file system, even if it is a mount point, so that files can be renamed.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as name:
        complete = Path(name)
        saved_tokenizer = save_model_and_tokenizer(complete, model, tokenizer, metadata.training)
        card = write_model_card(model, saved_tokenizer, folder.resolve().name, metadata, read_card(folder / CARD))
        (complete / CARD).write_text(card, encoding="utf-8", newline="")
        new = files_in(complete)
        for path in new:
            (folder / path).parent.mkdir(exist_ok=True)
            os.replace(complete / path, folder / path)
    for path in stale_files(files_in(folder), new):
        (folder / path).unlink()


def read_training_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of the training run in a folder: ours, else the Trainer's, else none."""
    if (folder / TRAINING_METADATA).is_file():
        return read_json(folder / TRAINING_METADATA)
    if not (folder / "trainer_state.json").is_file():
        return {}
    state = read_json(folder / "trainer_state.json")
    metadata = {"steps": state.get("global_step"), "epochs": state.get("epoch")}
    for entry in state.get("log_history") or []:  # the last value of each
        metadata |= {name: entry[name] for name in ("loss", "eval_loss") if name in entry}
    return {name: value for name, value in metadata.items() if value is not None}


def files_in(folder: Path) -> list[str]:
    """Return the paths of all files in a folder, relative to it and sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def stale_files(old: list[str], new: list[str]) -> list[str]:
    """Return our files among the old ones that are not among the new ones."""
    return [path for path in old if path not in new and any(fnmatch.fnmatch(path, name) for name in OWN_FILES)]
