"""Publishing: a model or a dataset of vectors on the Hub, by one call.

`push_model` sends exactly what `save_folder` writes, as one commit. `push_dataset` sends a dataset and names the model
that made it. Errors of the client keep their class and get one sentence on what to do. Left out: reading from the Hub,
which `from_pretrained` and `load_dataset` do.
"""

import logging
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.checkpoints.files import LocalFolder, read_json
from gpt_embeddings.checkpoints.loading import MODEL_TYPE, load_model
from gpt_embeddings.checkpoints.saving import save_model_and_tokenizer
from gpt_embeddings.hub.advice import LOG_IN, STATE_LICENCE, add_advice
from gpt_embeddings.hub.cards import (
    CardMetadata,
    ParsedCard,
    choose_card,
    parse_card,
    stamp_card,
    write_dataset_card,
    write_model_card,
)
from gpt_embeddings.hub.repository import (
    CARD,
    files_in,
    read_card,
    read_text,
    read_training_metadata,
    stale_files,
)
from gpt_embeddings.text.columns import check_column
from gpt_embeddings.text.tokenizer import load_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM, GPTEmbeddingsPreTrainedModel


logger = logging.getLogger(__name__)


def push_model(
    model: GPTEmbeddingsPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    repo_id: str,
    *,
    metadata: CardMetadata = CardMetadata(),  # noqa: B008 -- frozen
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Publish a model with everything that belongs to it, as one commit.

    A repository that exists is updated: unchanged files are not sent again, files of others stay, and of its card all
    but our section. The commit is tied to the state that was read before, so nobody else's commit is overwritten.

    Args:
        model: The model.
        tokenizer: The tokenizer that belongs to it.
        repo_id: `"user/name"`, or `"name"` in the namespace of the token's user.
        metadata: Licence and provenance for the card.
        private: Whether a new repository is private; None leaves it to the account's settings.
        revision: Branch to commit to, made from `main` if need be, or `"refs/pr/N"`; None is `main`.
        create_pr: Propose the commit as a pull request, for repositories that one may not write to.
        token: An access token; None takes `HF_TOKEN` or the one stored by `hf auth login`.
        commit_message: First line of the commit; None is "Upload model with gpt-embeddings".

    Returns:
        The commit: `oid` is the sha to pin, `pr_url` the pull request if there is one.

    Raises:
        LocalTokenNotFoundError: There is no token.
        HfHubHTTPError: The Hub refused, with the client's own subclass for each reason.
        httpx2.HTTPError: The connection failed.
        RuntimeError: The upload of a large file failed; the reason is its `__cause__`.
        ValueError: Tokenizer and model do not fit, the name holds another kind of model, `private` was asked of a
            public repository, or the card was edited in two places. Nothing is published.
    """
    target = _Target(_api(token), repo_id, private, revision, create_pr)
    return _push(target, model, tokenizer, metadata, None, commit_message)


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    metadata: CardMetadata = CardMetadata(),  # noqa: B008 -- frozen
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Publish a saved model: read model, tokenizer and card from a folder, then do as [`push_model`].

    Nothing else in the folder is sent (checkpoints and optimizer states may hold private things). Facts of a training
    run are taken from `training_metadata.json`, or else from the Trainer's `trainer_state.json`.

    Args:
        folder: Where `save_folder`, or `save_pretrained` of model and tokenizer, wrote.
        repo_id: As in [`push_model`], as are the others.
        metadata: Licence and provenance; what is not given is taken from the folder's card.
        private: Whether a new repository is private.
        revision: Branch to commit to.
        create_pr: Propose the commit as a pull request.
        token: An access token.
        commit_message: First line of the commit.

    Returns:
        The commit.

    Raises:
        FileNotFoundError: The folder holds no model.
        OSError: The folder holds no tokenizer.
        ValueError: The folder holds another kind of model, or weights are missing; else as [`push_model`].
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():  # a name of the Hub is no folder
        raise FileNotFoundError(f"{str(folder)!r} holds no config.json. Give a folder that `save_pretrained` wrote.")
    model, card = _load_saved(folder), read_card(folder / CARD)
    tokenizer = load_tokenizer(folder, model_max_length=model.config.n_positions)
    if not metadata.training:
        metadata = replace(metadata, training=read_training_metadata(folder))
    target = _Target(_api(token), repo_id, private, revision, create_pr)
    return _push(target, model, tokenizer, metadata, card, commit_message)


def push_dataset(
    dataset: Dataset,
    repo_id: str,
    *,
    model_id: str,
    model_revision: str | None = None,
    column: str = "embedding",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """Publish a dataset of vectors, with a card that names the model and the revision that made them.

    The data go up with `Dataset.push_to_hub`, whose commit already names the model in its description; a second
    commit adds our section to the card. Should that one fail, the same call again completes the card.

    Args:
        dataset: The dataset.
        repo_id: `"user/name"`, or `"name"` in the namespace of the token's user.
        model_id: Hub name of the model that made the vectors.
        model_revision: Its branch, tag or commit; whatever it is, the card names the commit.
        column: The column of vectors.
        private: Whether a new repository is private.
        revision: Branch to commit to.
        create_pr: Propose the dataset as a pull request.
        token: An access token.

    Returns:
        The last commit.

    Raises:
        HfHubHTTPError: The Hub refused, or there is no such model or revision; else as [`push_model`].
        ValueError: There is no such column.
    """
    check_column(dataset.column_names, column)
    api = _api(token)
    with add_advice(model_id):
        made_by = {"model_id": model_id, "model_revision": api.model_info(model_id, revision=model_revision).sha}
    with add_advice(repo_id):
        target = _open(_Target(api, repo_id, private, revision, create_pr, "dataset"))
        message = "Upload vectors with gpt-embeddings"
        options = {"revision": revision, "create_pr": create_pr, "commit_message": message}
        description = "Made by {model_id} at revision {model_revision}.".format(**made_by)
        data = dataset.push_to_hub(target.repo_id, token=api.token, commit_description=description, **options)

        metadata: dict[str, Any] = {"split": str(dataset.split or "train"), "column": column, **made_by}
        length = getattr(dataset.features[column], "length", -1)
        metadata["n_embd"] = None if length == -1 else length
        with tempfile.TemporaryDirectory() as folder:
            base = api.hf_hub_download(target.repo_id, CARD, repo_type="dataset", revision=data.oid, local_dir=folder)
            card = write_dataset_card(read_text(Path(base)), repo_id=target.repo_id, **metadata)
        return api.create_commit(
            target.repo_id,
            [CommitOperationAdd(CARD, card.encode())],
            repo_type="dataset",
            commit_message=message,
            commit_description=description,
            revision=data.pr_revision or revision,
            parent_commit=data.oid,
        )


def _load_saved(folder: Path) -> GPTEmbeddingsPreTrainedModel:
    """Load a model of ours, with its head if it was saved with one."""
    config = read_json(LocalFolder(folder), "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{str(folder)!r} holds a model of type {config.get('model_type')!r}, not {MODEL_TYPE!r}. Extract its "
            "input stage first (`gpt-embeddings extract`)."
        )
    if GPTEmbeddingsForCausalLM.__name__ in (config.get("architectures") or ()):
        return load_model(str(folder), GPTEmbeddingsForCausalLM)
    return load_model(str(folder))


@dataclass(frozen=True)
class _Target:
    """Where a push goes."""

    api: HfApi
    repo_id: str
    private: bool | None
    revision: str | None
    create_pr: bool
    kind: str = "model"


def check_push(repo_id: str, *, token: str | None = None) -> None:
    """Refuse what could not be published in the end, before the work that is to be published is done.

    Args:
        repo_id: `"user/name"`, or `"name"` in the namespace of the token's user.
        token: An access token; None takes `HF_TOKEN` or the one stored by `hf auth login`.

    Raises:
        LocalTokenNotFoundError: There is no token.
        HfHubHTTPError: The Hub does not know the token.
        httpx2.HTTPError: The Hub cannot be reached.
        ValueError: The Hub takes no such name.
    """
    validate_repo_id(repo_id)
    with add_advice(repo_id):
        _api(token).whoami()


def _api(token: str | None) -> HfApi:
    secret = token or get_token()
    if secret is None:
        raise LocalTokenNotFoundError(f"There is no access token. {LOG_IN}")
    if not re.fullmatch("[!-~]+", secret):  # the HTTP library would quote it in its error
        raise ValueError(f"The access token has characters that no token has, such as a space or line end. {LOG_IN}")
    return HfApi(token=secret, library_name="gpt-embeddings")


def _open(target: _Target) -> _Target:
    """Make the repository and the branch if need be; return the target with the full name of the repository."""
    api, kind = target.api, target.kind
    repo_id = api.create_repo(target.repo_id, private=target.private, repo_type=kind, exist_ok=True).repo_id
    if target.private and api.repo_info(repo_id, repo_type=kind).private is False:
        raise ValueError(
            f"{repo_id} exists and is public, but a private repository was asked for. Nothing was sent. Choose "
            "another name, or make it private in its settings on the Hub first."
        )
    if target.revision is not None and not target.revision.startswith("refs/"):
        api.create_branch(repo_id, branch=target.revision, repo_type=kind, exist_ok=True)
    return replace(target, repo_id=repo_id)


def _push(
    target: _Target,
    model: GPTEmbeddingsPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    metadata: CardMetadata,
    local: ParsedCard | None,
    message: str | None,
) -> CommitInfo:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved_tokenizer = save_model_and_tokenizer(folder, model, tokenizer, metadata.training)
        new = files_in(folder)
        with add_advice(target.repo_id):
            target = _open(target)
            state = target.api.model_info(target.repo_id, revision=target.revision)
            old = [file.rfilename for file in state.siblings or []]
            remote = _read_remote(target, state.sha, old)
            card = write_model_card(model, saved_tokenizer, target.repo_id, metadata, choose_card(local, remote))
            if "license" not in parse_card(card).metadata:
                logger.warning("The card of %s states no licence. %s", target.repo_id, STATE_LICENCE)
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(CARD, stamp_card(card, local, remote).encode()),
                *(CommitOperationAdd(path, folder / path) for path in new),
                *(CommitOperationDelete(path) for path in stale_files(old, new)),
            ]
            # `create_commit`, unlike `upload_folder`, makes one commit however the contents travel.
            return target.api.create_commit(
                target.repo_id,
                operations,
                commit_message=message or "Upload model with gpt-embeddings",
                revision=target.revision,
                create_pr=target.create_pr,
                parent_commit=state.sha,
            )


def _read_remote(target: _Target, commit: str | None, files: list[str]) -> ParsedCard | None:
    """Read the card of a model repository, and refuse to write into a repository of another kind of model."""
    with tempfile.TemporaryDirectory() as folder:
        there = {
            name: Path(target.api.hf_hub_download(target.repo_id, name, revision=commit, local_dir=folder))
            for name in (CARD, "config.json")
            if name in files
        }
        if "config.json" in there:
            model_type = read_json(LocalFolder(Path(folder)), "config.json").get("model_type")
            if model_type != MODEL_TYPE:
                raise ValueError(
                    f"The name {target.repo_id} is taken by a model of type {model_type!r}. Nothing was sent. Choose "
                    "another name, or delete that repository first."
                )
        return read_card(there[CARD]) if CARD in there else None
