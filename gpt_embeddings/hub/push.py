"""A complete model repository, in a folder or on the Hub, and a dataset of vectors on the Hub, each by one call."""

import fnmatch
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    ModelCard,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.checkpoints.files import read_json
from gpt_embeddings.checkpoints.loading import MODEL_TYPE, load_model_and_tokenizer
from gpt_embeddings.checkpoints.saving import POOLING_FILE, TRAINING_METADATA, save_model_and_tokenizer
from gpt_embeddings.hub import cards
from gpt_embeddings.hub.cards import CARD, CardMetadata, ParsedCard
from gpt_embeddings.outputs import check_folder_name
from gpt_embeddings.text.columns import check_column
from modeling_gpt_embeddings import (
    GPTEmbeddingsForCausalLM,
    GPTEmbeddingsForSequenceClassification,
    GPTEmbeddingsModel,
    GPTEmbeddingsPreTrainedModel,
)


logger = logging.getLogger(__name__)

LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access."
ADVICE = {
    401: LOG_IN,
    403: "Use a token with write access to {repo_id}, another name, or a pull request (`create_pr=True`, "
    "`--create-pr`).",
    412: "{repo_id} was changed by another commit in the meantime, and that commit was kept. Push again.",
}

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
        card = cards.write_model_card(
            model, saved_tokenizer, folder.resolve().name, metadata, cards.read_card(folder / CARD)
        )
        (complete / CARD).write_text(card, encoding="utf-8", newline="")
        new = _files_in(complete)
        for path in new:
            (folder / path).parent.mkdir(exist_ok=True)
            os.replace(complete / path, folder / path)
    for path in _stale_files(_files_in(folder), new):
        (folder / path).unlink()


def push_to_hub(
    obj: GPTEmbeddingsPreTrainedModel | Dataset | str | os.PathLike[str],
    repo_id: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    metadata: CardMetadata = CardMetadata(),  # noqa: B008 -- frozen
    model_id: str | None = None,
    model_revision: str | None = None,
    column: str = "embedding",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Publish a model with its tokenizer, a folder that they were saved to, or a dataset of vectors.

    A model goes up with everything that `save_folder` writes, as one commit. An existing repository is updated: only
    what changed is sent, other files stay, and in its card only our section is replaced. The commit is tied to the
    state that was read before, so that no other commit is overwritten. Of a folder the saved model, its tokenizer and
    its README.md are sent, and nothing else (checkpoints may hold private data).

    A dataset goes up with `Dataset.push_to_hub`; a second commit adds our section to its card. If that one fails, the
    same call again completes the card.

    Args:
        obj: The model, the folder or the dataset.
        repo_id: `"user/name"`, or `"name"` in the namespace of the token's user.
        tokenizer: The tokenizer of a model. A folder contains its own.
        metadata: Licence and provenance for the card of a model. What is not given is taken from the folder's card,
            its `training_metadata.json` or the Trainer's `trainer_state.json`.
        model_id: Hub name of the model that made the vectors of a dataset.
        model_revision: Its branch, tag or commit; the card names the commit.
        column: The dataset's column of vectors.
        private: Whether a new repository is private; None is the default of the account.
        revision: Branch to commit to, made from `main` if need be, or `"refs/pr/N"`; None is `main`.
        create_pr: Whether to open a pull request, for repositories that you may not write to.
        token: An access token; None is `HF_TOKEN` or the one stored by `hf auth login`.
        commit_message: First line of the commit.

    Returns:
        The (last) commit: `oid` is the sha to pin, `pr_url` the pull request if there is one.

    Raises:
        OSError: The folder does not contain a model or a tokenizer, there is no token, or the Hub refused (each reason
            has a subclass of `HfHubHTTPError`).
        RuntimeError: The upload of a large file failed; the reason is its `__cause__`.
        TypeError: `obj` is of another type, or an argument that it needs is missing.
        ValueError: Model and tokenizer do not fit, weights or the column are missing, the name is taken by another
            kind of model, or `private` was asked for and the repository is public. Nothing is published.
    """
    card = None
    if isinstance(obj, (str, os.PathLike)):
        check_folder_name(obj)
        obj, tokenizer, card, metadata = _read_folder(Path(obj), metadata)
    api = _api(token)
    if isinstance(obj, Dataset):
        if model_id is None:
            raise TypeError("A dataset of vectors needs `model_id`, the Hub name of the model that made them.")
        check_column(obj.column_names, column)
        with _advice(model_id):
            model_revision = str(api.model_info(model_id, revision=model_revision).sha)
        with _advice(repo_id):
            repo_id = _open_repository(api, repo_id, "dataset", private, revision)
            options: dict[str, Any] = {
                "commit_message": commit_message or "Upload vectors with gpt-embeddings",
                "commit_description": f"Made by {model_id} at revision {model_revision}.",
            }
            data = obj.push_to_hub(repo_id, token=api.token, revision=revision, create_pr=create_pr, **options)
            # The second commit is tied to the one with the data, and its card is the one that `datasets` wrote.
            length = getattr(obj.features[column], "length", -1)
            text = cards.write_dataset_card(
                _read_remote(api, repo_id, "dataset", data.oid, [CARD]),
                repo_id=repo_id,
                split=str(obj.split or "train"),
                column=column,
                n_embd=None if length == -1 else length,
                model_id=model_id,
                model_revision=model_revision,
            )
            return api.create_commit(
                repo_id,
                [CommitOperationAdd(CARD, text.encode())],
                repo_type="dataset",
                revision=data.pr_revision or revision,
                parent_commit=data.oid,
                **options,
            )
    if not isinstance(obj, GPTEmbeddingsPreTrainedModel):
        raise TypeError(f"`obj` must be a model of this package, a folder or a Dataset, got {type(obj).__name__}.")
    if tokenizer is None:
        raise TypeError("A model needs `tokenizer`, the tokenizer that belongs to it.")
    with _advice(repo_id), tempfile.TemporaryDirectory() as folder:
        saved_tokenizer = save_model_and_tokenizer(Path(folder), obj, tokenizer, metadata.training)
        repo_id = _open_repository(api, repo_id, "model", private, revision)
        state = api.model_info(repo_id, revision=revision)  # the commit is tied to it
        old = [file.rfilename for file in state.siblings or []]
        remote = _read_remote(api, repo_id, "model", str(state.sha), old)
        base = cards.choose_card(card, remote, f"{repo_id} at {state.sha}")
        text = cards.write_model_card(obj, saved_tokenizer, repo_id, metadata, base)
        if "license" not in cards.parse_card(text).metadata:
            logger.warning("The card of %s states no licence: without one nobody may use the model.", repo_id)
        new = _files_in(Path(folder))
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(CARD, text.encode()),
            *(CommitOperationAdd(path, Path(folder, path)) for path in new),
            *(CommitOperationDelete(path) for path in _stale_files(old, new)),
        ]
        # `create_commit`, unlike `upload_folder`, makes one commit however the contents travel.
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or "Upload model with gpt-embeddings",
            revision=revision,
            create_pr=create_pr,
            parent_commit=state.sha,
        )


def check_push(repo_id: str, *, token: str | None = None) -> None:
    """Check name, token and connection, before the work that is to be published is done."""
    validate_repo_id(repo_id)
    with _advice(repo_id):
        _api(token).whoami()


def _api(token: str | None) -> HfApi:
    secret = token or get_token()
    if secret is None:
        raise LocalTokenNotFoundError(f"There is no access token. {LOG_IN}")
    if not re.fullmatch("[!-~]+", secret):  # the HTTP library would quote it in its error
        raise ValueError(f"The access token contains a character that no token has, such as a space. {LOG_IN}")
    return HfApi(token=secret, library_name="gpt-embeddings")


@contextmanager
def _advice(repo_id: str) -> Iterator[None]:
    """Add what to do to three errors of the Hub."""
    try:
        yield
    except HfHubHTTPError as error:
        if advice := ADVICE.get(error.response.status_code):
            error.append_to_message("\n" + advice.format(repo_id=repo_id))
        raise


def _read_folder(
    folder: Path, metadata: CardMetadata
) -> tuple[GPTEmbeddingsPreTrainedModel, PreTrainedTokenizerBase, ParsedCard | None, CardMetadata]:
    """Load a saved model, with its head if it has one, its tokenizer, its card and the metadata of its training."""
    config = read_json(folder / "config.json")  # loading would also take a name on the Hub
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{str(folder)!r} holds a model of type {config.get('model_type')!r}, not {MODEL_TYPE!r}. Extract its "
            "input stage first (`gpt-embeddings extract`)."
        )
    heads: tuple[type[Any], ...] = (GPTEmbeddingsForCausalLM, GPTEmbeddingsForSequenceClassification)
    saved = config.get("architectures") or ()
    model_class = next((head for head in heads if head.__name__ in saved), GPTEmbeddingsModel)
    model, tokenizer = load_model_and_tokenizer(str(folder), str(folder), model_class)
    if not metadata.training:
        training: dict[str, Any] = {}
        if (folder / TRAINING_METADATA).is_file():
            training = read_json(folder / TRAINING_METADATA)
        elif (folder / "trainer_state.json").is_file():  # the Trainer's
            state = read_json(folder / "trainer_state.json")
            training = {"steps": state.get("global_step"), "epochs": state.get("epoch")}
            for entry in state.get("log_history") or []:  # the last value of each
                training |= {name: entry[name] for name in ("loss", "eval_loss") if name in entry}
        known = {name: value for name, value in training.items() if value is not None}
        metadata = replace(metadata, training=known)
    return model, tokenizer, cards.read_card(folder / CARD), metadata


def _open_repository(api: HfApi, repo_id: str, kind: str, private: bool | None, revision: str | None) -> str:
    """Make the repository and the branch if need be; return the full name of the repository."""
    repo_id = api.create_repo(repo_id, private=private, repo_type=kind, exist_ok=True).repo_id
    if private and api.repo_info(repo_id, repo_type=kind).private is False:
        raise ValueError(
            f"{repo_id} exists and is public, but a private repository was asked for. Nothing was sent. Choose "
            "another name, or make it private in its settings on the Hub first."
        )
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True)
    return repo_id


def _read_remote(api: HfApi, repo_id: str, kind: str, commit: str, files: list[str]) -> ParsedCard | None:
    """Read the card of a repository, and refuse a repository of another kind of model."""
    there = {
        name: Path(api.hf_hub_download(repo_id, name, repo_type=kind, revision=commit))
        for name in (CARD, "config.json")
        if name in files
    }
    model_type = read_json(there["config.json"]).get("model_type") if "config.json" in there else MODEL_TYPE
    if model_type != MODEL_TYPE:
        raise ValueError(
            f"The name {repo_id} is taken by a model of type {model_type!r}. Nothing was sent. Choose another name, "
            "or delete that repository first."
        )
    return cards.read_card(there[CARD], DatasetCard if kind == "dataset" else ModelCard) if CARD in there else None


def _files_in(folder: Path) -> list[str]:
    """Return the paths of all files in a folder, relative to it and sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _stale_files(old: list[str], new: list[str]) -> list[str]:
    """Return our files among the old ones that are not among the new ones."""
    return [path for path in old if path not in new and any(fnmatch.fnmatch(path, name) for name in OWN_FILES)]
