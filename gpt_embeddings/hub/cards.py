"""Cards: the README.md of a repository. A section between two HTML comments is ours, the rest is the user's."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData, RepoCard
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from yaml import YAMLError


logger = logging.getLogger(__name__)

CARD = "README.md"
SECTION = re.compile(r"<!-- gpt-embeddings section\b.*?<!-- end of the gpt-embeddings section -->", re.DOTALL)
TASKS = ("feature-extraction", "text-classification")  # of a model without and with a layer for classes
TITLE = re.compile(r"\A\s*# .*")
TEMPLATES = resources.files("gpt_embeddings.hub") / "templates"


@dataclass(frozen=True, kw_only=True)
class CardMetadata:
    """What only the publisher knows. Values that are not given are left out of the card."""

    license: str | None = None
    """Licence of the tables, an identifier of the Hub such as "mit"."""
    base_model: str | None = None
    """Hub name of the checkpoint that the tables were extracted from or trained from."""
    datasets: Sequence[str] = ()
    """Hub names of the training data."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Metadata of the training run, such as steps, tokens and loss; listed in the card."""


@dataclass(frozen=True)
class ParsedCard:
    """A card in its two parts."""

    text: str
    metadata: dict[str, Any]
    body: str  # what follows the metadata, our section included


def parse_card(text: str, kind: type[RepoCard] = ModelCard) -> ParsedCard:
    """Split a card into metadata, checked by the class `kind`, and body."""
    try:
        card = kind(text)
    except (YAMLError, ValueError, TypeError) as error:
        raise ValueError(
            f"The metadata block at the head of README.md (between the lines `---`) cannot be read: {error}. "
            "Correct it, then push again."
        ) from error
    return ParsedCard(text, card.data.to_dict(), card.text)


def read_card(path: Path, kind: type[RepoCard] = ModelCard) -> ParsedCard | None:
    """Return the card in a file, or None if there is no file."""
    try:
        return parse_card(path.read_bytes().decode("utf-8"), kind) if path.is_file() else None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8: {error}. Save it as UTF-8.") from error


def choose_card(local: ParsedCard | None, remote: ParsedCard | None, remote_name: str) -> ParsedCard | None:
    """Return the card to keep, the folder's if the user wrote into it, else the Hub's, with all metadata."""
    if local is None or remote is None:
        return remote or local
    # The user's text: without metadata, our section and the title.
    here, there = (TITLE.sub("", SECTION.sub("", card.body, count=1)).strip() for card in (local, remote))
    if not here:
        return replace(remote, metadata={**local.metadata, **remote.metadata})
    if there not in ("", here):
        logger.warning(
            "README.md of the folder replaces different text on the Hub, which is still in %s.", remote_name
        )
    return replace(local, metadata={**remote.metadata, **local.metadata})


def write_model_card(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    repo_id: str,
    metadata: CardMetadata,
    base: ParsedCard | None = None,
) -> str:
    """Write the card of a model: a new one, or `base` with our section; the examples in it load `repo_id`."""
    stated = {"license": metadata.license, "base_model": metadata.base_model, "datasets": metadata.datasets}
    architecture = type(model).__name__
    classifies = architecture == "GPTEmbeddingsForSequenceClassification"
    task = TASKS[classifies]
    tags = ["gpt-embeddings", "embeddings", "sentence-transformers"]
    fields = _complete(base, stated, {"library_name": "transformers", "pipeline_tag": task, "tags": tags})
    if fields["pipeline_tag"] in TASKS:  # ours, perhaps of another model that was pushed here before
        fields["pipeline_tag"] = task
    listed = {}
    for name in stated:
        names = fields.get(name) or []
        listed[name] = names if isinstance(names, str) else ", ".join(names)
    fresh = ModelCard.from_template(
        ModelCardData(**fields),
        template_str=(TEMPLATES / "model_card.md").read_text(encoding="utf-8"),
        config=model.config,
        architecture=architecture,
        classifies=classifies,
        n_parameters=model.num_parameters(),
        dtype=str(model.dtype).removeprefix("torch."),
        n_tokens=len(tokenizer),
        repo_id=repo_id,
        training=metadata.training,
        **listed,
    )
    return _keep(base, fresh)


def write_dataset_card(base: ParsedCard | None, **values: Any) -> str:
    """Write the card of a dataset, from the values `repo_id, split, column, n_embd, model_id, model_revision`."""
    fields = _complete(base, {}, {"tags": ["gpt-embeddings", "embeddings"]})
    template = (TEMPLATES / "dataset_card.md").read_text(encoding="utf-8")
    return _keep(base, DatasetCard.from_template(DatasetCardData(**fields), template_str=template, **values))


def _complete(base: ParsedCard | None, stated: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a card: what is stated, else what the card has, else the defaults; lists are joined."""
    fields = {**defaults, **(base.metadata if base else {})}
    for name in ("tags", "datasets"):
        lists = [fields.get(name) or [], defaults.get(name) or [], stated.get(name) or []]
        joined = dict.fromkeys(item for items in lists for item in ([items] if isinstance(items, str) else items))
        if joined:
            fields[name] = list(joined)
    return fields | {name: value for name, value in stated.items() if name != "datasets" and value is not None}


def _keep(base: ParsedCard | None, fresh: RepoCard) -> str:
    """Put the section and the metadata of a fresh card into the card that is kept."""
    if base is None:
        return str(fresh).rstrip() + "\n"
    section, old = SECTION.search(fresh.text), SECTION.search(base.body)
    new = section.group() if section else ""
    if old is None:
        body = f"{base.body.rstrip()}\n\n{new}\n"
    else:
        body = base.body[: old.start()] + new + base.body[old.end() :]
    head = base.text.removesuffix(base.body)
    if fresh.data.to_dict() != parse_card(base.text, type(fresh)).metadata:
        kept = type(fresh)(base.text or "---\n---\n")
        kept.data, kept.text = fresh.data, ""
        head = str(kept)  # in the order of the old keys
    return head + body
