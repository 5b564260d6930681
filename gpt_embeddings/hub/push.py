"""Publishing: one complete repository from one call, on disk or on the Hub.

`save_folder` writes all that a model repository holds; `push_model` sends exactly that, as one commit. `push_dataset`
does the same for a dataset of vectors and names the model that made them. Errors of the client keep their class and
get one sentence on what to do. Left out: reading from the Hub, which `from_pretrained` and `load_dataset` do.
"""

import copy
import fnmatch
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
from datasets import Dataset
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import PreTrainedTokenizerBase

import modeling_gpt_embeddings
from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.hub.cards import (
    CardFacts,
    ParsedCard,
    choose_card,
    parse_card,
    stamp_card,
    write_dataset_card,
    write_model_card,
)
from gpt_embeddings.text.sources import check_column
from gpt_embeddings.text.tokenizer import check_vocabulary, load_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsModel, GPTEmbeddingsPreTrainedModel


logger = logging.getLogger(__name__)

MODEL_TYPE = GPTEmbeddingsConfig.model_type
CARD = "README.md"
TRAINING_FACTS = "training_facts.json"
COMPONENT = {
    "AutoConfig": "configuration_gpt_embeddings.GPTEmbeddingsConfig",
    "AutoModel": "modeling_gpt_embeddings.GPTEmbeddingsModel",
}
# Files of ours that a push removes where it does not bring them: a stale shard or index would be loaded.
# The second module of sentence-transformers is there with mean pooling alone.
POOLING_FILE = "1_Pooling/config.json"
OWN_FILES = (
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
    TRAINING_FACTS,
    POOLING_FILE,
)

STATE_LICENCE = "Without one nobody may use it: push again with `--license`, or `CardFacts(license=...)`."
LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access from the Hub's settings."
AGAIN = "A commit appears whole or not at all; push again, and what is there already is not sent twice."
ADVICE = {
    400: "The Hub refused the request as it stands; nothing was published. Correct what it names, then push again.",
    401: f"The token was not accepted. {LOG_IN}",
    403: "The token may not do this to {repo_id}. Take a token with write access for its owner, choose a name in your "
    "own namespace, or propose the change as a pull request (`create_pr=True`, `--create-pr`).",
    409: "The name {repo_id} or its branch is taken, or being changed by another push. Choose another, or push again.",
    412: "{repo_id} was changed by another commit meanwhile, which was left as it is. Push again to build on it.",
    429: f"The Hub asks to wait. Try again in a few minutes. {AGAIN}",
    500: f"The Hub is in trouble at the moment. Try again later. {AGAIN}",
}


def save_folder(
    folder: str | os.PathLike[str],
    model: GPTEmbeddingsPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    facts: CardFacts = CardFacts(),  # noqa: B008 -- frozen
) -> None:
    """Write a complete model repository: what `push_model` would publish.

    That is `config.json` with `auto_map`, the weights, the component's two files, the tokenizer, the files of
    sentence-transformers (for the model's own pooling), the facts of the training run where there are some, and the
    card. Other files in the folder stay, and of an existing README.md all but our section. The tokenizer is saved with
    the model's `n_positions` as its `model_max_length`; the object itself is not changed.

    Args:
        folder: Where to; made if need be.
        model: The model.
        tokenizer: The tokenizer that belongs to it.
        facts: Licence and provenance for the card.

    Raises:
        ValueError: The tokenizer has ids that the model lacks, or the README.md that is there cannot be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Within the folder, which may be a mount point or a link to another file system: renaming does not leave one.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as name:
        complete = Path(name)
        saved_tokenizer = _write_files(complete, model, tokenizer, facts)
        card = write_model_card(model, saved_tokenizer, folder.resolve().name, facts, _read_card(folder / CARD))
        (complete / CARD).write_text(card, encoding="utf-8", newline="")
        new = _files_in(complete)
        for path in new:
            (folder / path).parent.mkdir(exist_ok=True)
            os.replace(complete / path, folder / path)
    for path in _stale(_files_in(folder), new):
        (folder / path).unlink()


def push_model(
    model: GPTEmbeddingsPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    repo_id: str,
    *,
    facts: CardFacts = CardFacts(),  # noqa: B008 -- frozen
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
        facts: Licence and provenance for the card.
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
    return _push(target, model, tokenizer, facts, None, commit_message)


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    facts: CardFacts = CardFacts(),  # noqa: B008 -- frozen
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Publish a saved model: read model, tokenizer and card from a folder, then do as [`push_model`].

    Nothing else in the folder is sent (checkpoints and optimizer states may hold private things). Facts of a training
    run are taken from `training_facts.json`, or else from the Trainer's `trainer_state.json`.

    Args:
        folder: Where `save_folder`, or `save_pretrained` of model and tokenizer, wrote.
        repo_id: As in [`push_model`], as are the others.
        facts: Licence and provenance; what is not given is taken from the folder's card.
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
    model, card = _load_model(folder), _read_card(folder / CARD)
    tokenizer = load_tokenizer(folder, model_max_length=model.config.n_positions)
    if not facts.training:
        facts = replace(facts, training=_read_training_facts(folder))
    target = _Target(_api(token), repo_id, private, revision, create_pr)
    return _push(target, model, tokenizer, facts, card, commit_message)


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
    with _advice(model_id):
        made_by = {"model_id": model_id, "model_revision": api.model_info(model_id, revision=model_revision).sha}
    with _advice(repo_id):
        target = _open(_Target(api, repo_id, private, revision, create_pr, "dataset"))
        message = "Upload vectors with gpt-embeddings"
        options = {"revision": revision, "create_pr": create_pr, "commit_message": message}
        description = "Made by {model_id} at revision {model_revision}.".format(**made_by)
        data = dataset.push_to_hub(target.repo_id, token=api.token, commit_description=description, **options)

        facts: dict[str, Any] = {"split": str(dataset.split or "train"), "column": column, **made_by}
        length = getattr(dataset.features[column], "length", -1)
        facts["n_embd"] = None if length == -1 else length
        with tempfile.TemporaryDirectory() as folder:
            base = api.hf_hub_download(target.repo_id, CARD, repo_type="dataset", revision=data.oid, local_dir=folder)
            card = write_dataset_card(_read(Path(base)), repo_id=target.repo_id, **facts)
        return api.create_commit(
            target.repo_id,
            [CommitOperationAdd(CARD, card.encode())],
            repo_type="dataset",
            commit_message=message,
            commit_description=description,
            revision=data.pr_revision or revision,
            parent_commit=data.oid,
        )


@dataclass(frozen=True)
class _Target:
    """Where a push goes."""

    api: HfApi
    repo_id: str
    private: bool | None
    revision: str | None
    create_pr: bool
    kind: str = "model"


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
    facts: CardFacts,
    local: ParsedCard | None,
    message: str | None,
) -> CommitInfo:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved_tokenizer = _write_files(folder, model, tokenizer, facts)
        new = _files_in(folder)
        with _advice(target.repo_id):
            target = _open(target)
            state = target.api.model_info(target.repo_id, revision=target.revision)
            old = [file.rfilename for file in state.siblings or []]
            remote = _read_remote(target, state.sha, old)
            card = write_model_card(model, saved_tokenizer, target.repo_id, facts, choose_card(local, remote))
            if "license" not in parse_card(card).metadata:
                logger.warning("The card of %s states no licence. %s", target.repo_id, STATE_LICENCE)
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(CARD, stamp_card(card, local, remote).encode()),
                *(CommitOperationAdd(path, folder / path) for path in new),
                *(CommitOperationDelete(path) for path in _stale(old, new)),
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


def _write_files(
    folder: Path, model: GPTEmbeddingsPreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: CardFacts
) -> PreTrainedTokenizerBase:
    """Write all but the card; return the tokenizer as it was saved."""
    check_vocabulary(tokenizer, model.config.vocab_size)
    model.save_pretrained(folder)
    config = _read_json(folder / "config.json")
    # A head's own entry alone would leave AutoModel without a class; names of other repositories are dropped.
    heads = {name: path for name, path in config.get("auto_map", {}).items() if "--" not in path}
    _write_json(folder / "config.json", {**config, "auto_map": {**COMPONENT, **heads}})
    tokenizer = _detached_tokenizer(tokenizer, model.config.n_positions)
    tokenizer.save_pretrained(folder)
    for path, content in _sentence_transformers_files(model.config).items():
        (folder / path).parent.mkdir(exist_ok=True)
        _write_json(folder / path, content)
    if facts.training:
        _write_json(folder / TRAINING_FACTS, dict(facts.training))
    return tokenizer


def _sentence_transformers_files(config: GPTEmbeddingsConfig) -> dict[str, Any]:
    """Return what sentence-transformers 6 loads this model from: its own module classes, no code of ours.

    Mean pooling is a module of theirs. Theirs for weights keeps a second copy of them as a Python list, so a model
    that pools by weights gives its `pooler_output` as the vector of the text.
    """
    modules = "sentence_transformers"
    transformer = {"idx": 0, "name": "0", "path": "", "type": f"{modules}.base.modules.transformer.Transformer"}
    files: dict[str, Any] = {
        "modules.json": [transformer],
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    output, name = "pooler_output", "sentence_embedding"
    if config.pooling == "mean":
        output, name = "last_hidden_state", "token_embeddings"
        pooling = {"idx": 1, "name": "1", "path": "1_Pooling"}
        files["modules.json"].append({**pooling, "type": f"{modules}.sentence_transformer.modules.pooling.Pooling"})
        files[POOLING_FILE] = {
            "embedding_dimension": config.n_embd,
            "pooling_mode": "mean",
            "include_prompt": True,
        }
    files["sentence_bert_config.json"] = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": output}},
        "module_output_name": name,
    }
    return files


def _detached_tokenizer(tokenizer: PreTrainedTokenizerBase, n_positions: int) -> PreTrainedTokenizerBase:
    """Copy a tokenizer without what its use and its origin left in it, so that it is always saved alike."""
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = n_positions
    for name in ("is_local", "local_files_only", "token"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def _load_model(folder: Path) -> GPTEmbeddingsPreTrainedModel:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no config.json. Give a folder that `save_pretrained` wrote.")
    config = _read_json(folder / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(f"{str(folder)!r} holds a model of type {config.get('model_type')!r}, not {MODEL_TYPE!r}.")
    names = [name for name in config.get("architectures") or [] if name in modeling_gpt_embeddings.__all__]
    model_class = getattr(modeling_gpt_embeddings, names[0]) if names else GPTEmbeddingsModel
    loaded: Any = model_class.from_pretrained(folder, output_loading_info=True)
    model, report = loaded
    if report["missing_keys"]:  # transformers fills them with random numbers
        raise ValueError(f"The weights in {str(folder)!r} lack {', '.join(sorted(report['missing_keys']))}.")
    return model.eval()


def _read_training_facts(folder: Path) -> dict[str, Any]:
    if (folder / TRAINING_FACTS).is_file():
        return _read_json(folder / TRAINING_FACTS)
    if not (folder / "trainer_state.json").is_file():
        return {}
    state = _read_json(folder / "trainer_state.json")
    facts = {"steps": state.get("global_step"), "epochs": state.get("epoch")}
    for entry in state.get("log_history") or []:  # the last value of each counts
        facts |= {name: entry[name] for name in ("loss", "eval_loss") if name in entry}
    return {name: value for name, value in facts.items() if value is not None}


def _read_remote(target: _Target, commit: str | None, files: list[str]) -> ParsedCard | None:
    """Read the card of a model repository, and refuse to write into a repository of another kind of model."""
    with tempfile.TemporaryDirectory() as folder:
        there = {
            name: Path(target.api.hf_hub_download(target.repo_id, name, revision=commit, local_dir=folder))
            for name in (CARD, "config.json")
            if name in files
        }
        if "config.json" in there:
            model_type = _read_json(there["config.json"]).get("model_type")
            if model_type != MODEL_TYPE:
                raise ValueError(
                    f"The name {target.repo_id} is taken by a model of type {model_type!r}. Nothing was sent. Choose "
                    "another name, or delete that repository first."
                )
        return _read_card(there[CARD]) if CARD in there else None


def _read_card(path: Path) -> ParsedCard | None:
    return parse_card(_read(path)) if path.is_file() else None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # line ends as they are
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8: {error}. Save it as UTF-8.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold a JSON object, it holds {type(content).__name__}.")
    return content


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _stale(old: list[str], new: list[str]) -> list[str]:
    """Return our files among the old ones that the new state does not have."""
    return [path for path in old if path not in new and any(fnmatch.fnmatch(path, name) for name in OWN_FILES)]


@contextmanager
def _advice(repo_id: str) -> Iterator[None]:
    """Let the client's error through with a sentence on what to do."""
    try:
        yield
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        sentence = _what_to_do(error, repo_id)
        if sentence and isinstance(error, HfHubHTTPError):
            error.append_to_message(f"\n{sentence}")
        elif sentence and len(error.args) == 1:
            error.args = (f"{error.args[0]}\n{sentence}",)
        raise


def _what_to_do(error: Exception, repo_id: str) -> str | None:
    reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if isinstance(reason, OfflineModeIsEnabled):
        return "Unset HF_HUB_OFFLINE to publish."
    if isinstance(reason, GatedRepoError):
        return f"{repo_id} is gated: ask for access on its page, with the account that the token belongs to."
    if isinstance(reason, RevisionNotFoundError):
        return f"Check the revision: {repo_id} has no such branch, tag or commit."
    if isinstance(reason, RepositoryNotFoundError):
        return f"Check the name {repo_id!r}, and that the token may see it: a private repository looks like none."
    if isinstance(reason, HfHubHTTPError):
        status = reason.response.status_code
        sentence = ADVICE.get(status, ADVICE[500] if status >= 500 else None)
        return sentence and sentence.format(repo_id=repo_id)
    if isinstance(reason, (httpx2.HTTPError, ConnectionError, TimeoutError)):
        return f"The connection to the Hub failed. {AGAIN}"
    return f"The upload failed. {AGAIN}" if isinstance(reason, RuntimeError) else None


__all__ = ["push_dataset", "push_folder", "push_model", "save_folder"]
