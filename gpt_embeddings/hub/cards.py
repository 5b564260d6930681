"""Cards: the README.md of a model or dataset repository, of which one section is ours and the rest the user's.

Our section lies between two HTML comments and is written anew at every push. Metadata is completed and overruled only
by what the caller states. The first comment records what the rest of the card was, so that an edit made here can be
told from one made on the Hub. Left out: sending anything (`hub.py`).
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData, RepoCard
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from yaml import YAMLError


# `as` is the digest of the rest of the card as it was last pushed from here: whoever finds another knows of an edit on
# the Hub, however many pushes have kept it since. `from` is the digest of the local card that the last push has seen.
SECTION = re.compile(
    r"<!-- gpt-embeddings section(?: as=(?P<written>\w+) from=(?P<source>\w+))?[^>]*-->.*?"
    r"<!-- end of the gpt-embeddings section -->",
    re.DOTALL,
)
BEGIN = (
    "<!-- gpt-embeddings section as={written} from={source}: rewritten at each push, the rest of the card is kept -->"
)
DIGEST_LENGTH = 16
NO_DIGEST = "none"


@dataclass(frozen=True, kw_only=True)
class CardMetadata:
    """What only the publisher knows; what is not given is neither invented nor written."""

    license: str | None = None
    """Licence of the tables, an identifier of the Hub such as "mit"."""

    base_model: str | None = None
    """Hub name of the checkpoint that the tables were taken from or started from."""

    datasets: Sequence[str] = ()
    """Hub names of the data that the tables were trained on."""

    training: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the training run, such as steps, tokens and loss; listed in the card."""


@dataclass(frozen=True)
class ParsedCard:
    """A card taken apart: what belongs to the user, and what our comment recorded."""

    text: str
    metadata: dict[str, Any]
    body: str
    """What follows the metadata, our section included."""

    written: str | None
    source: str | None

    @property
    def head(self) -> str:
        """The metadata block as it stands, delimiters included."""
        return self.text[: len(self.text) - len(self.body)]

    @property
    def digest(self) -> str:
        """Digest of all that is the user's: the metadata and the text around our section."""
        around = [part.strip() for part in SECTION.sub("\0", self.body, count=1).split("\0")]
        rest = json.dumps([self.metadata, *filter(None, around)], sort_keys=True, default=str)
        return hashlib.sha256(rest.encode()).hexdigest()[:DIGEST_LENGTH]


def parse_card(text: str, kind: type[RepoCard] = ModelCard) -> ParsedCard:
    """Take a card apart.

    Args:
        text: The whole README.md.
        kind: The class that checks the metadata.

    Raises:
        ValueError: The metadata block is no YAML mapping.
    """
    try:
        card = kind(text)
    except (YAMLError, ValueError, TypeError) as error:
        raise ValueError(
            f"The metadata block at the head of README.md (between the lines `---`) cannot be read: {error}. "
            "Correct it, then push again."
        ) from error
    section = SECTION.search(card.text)
    written, source = section.group("written", "source") if section else (None, None)
    return ParsedCard(text, card.data.to_dict(), card.text, written, source)


def choose_card(local: ParsedCard | None, remote: ParsedCard | None) -> ParsedCard | None:
    """Return the card that the user edited last, of the one here and the one on the Hub.

    Raises:
        ValueError: Both were edited since the last push; the message says how to bring them together.
    """
    if local is None or remote is None:
        return remote or local
    untouched_here = local.written == local.digest or remote.source == local.digest
    if untouched_here or local.digest == remote.digest:
        return remote
    if remote.written == remote.digest:
        return local
    raise ValueError(
        "README.md was edited both here and on the Hub since the last push. Nothing was changed. Set your own aside, "
        "fetch the Hub's in its place (`hf download USER/NAME README.md --local-dir FOLDER`), push once, then put "
        "your edits in again."
    )


def write_model_card(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    repo_id: str,
    facts: CardMetadata,
    base: ParsedCard | None = None,
) -> str:
    """Write the card of a model: a new one, or `base` with our section and what the metadata lacked.

    Args:
        model: The model as it is saved.
        tokenizer: The tokenizer that is saved with it.
        repo_id: What the examples load: a Hub name or a folder.
        facts: Licence and provenance.
        base: The card to keep.

    Returns:
        README.md; the same arguments always give the same text.
    """
    stated = {"license": facts.license, "base_model": facts.base_model, "datasets": facts.datasets}
    defaults = ModelCardData(
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["gpt-embeddings", "embeddings", "sentence-transformers"],
    )
    metadata = _complete(base, stated, defaults.to_dict())
    fresh = ModelCard.from_template(
        ModelCardData(**metadata),
        template_str=_template("model_card.md"),
        config=model.config,
        architecture=type(model).__name__,
        n_parameters=model.num_parameters(),
        dtype=str(model.dtype).removeprefix("torch."),
        tokenizer_class=type(tokenizer).__name__,
        n_tokens=len(tokenizer),
        repo_id=repo_id,
        training=facts.training,
        license=_listed(metadata.get("license")),
        base_model=_listed(metadata.get("base_model")),
        datasets=_listed(metadata.get("datasets")),
    )
    return _keep(base, fresh)


def write_dataset_card(base: str | None, **facts: Any) -> str:
    """Write the card of a dataset of vectors, keeping the one that there is.

    Args:
        base: The README.md to keep.
        facts: `repo_id`, `split`, `column` and `n_embd` of the vectors, `model_id` and `model_revision`.

    Returns:
        README.md with our section, which names the model and its revision.
    """
    parsed = None if base is None else parse_card(base, DatasetCard)
    metadata = _complete(parsed, {}, {"tags": ["gpt-embeddings", "embeddings"]})
    template = _template("dataset_card.md")
    return _keep(parsed, DatasetCard.from_template(DatasetCardData(**metadata), template_str=template, **facts))


def stamp_card(card: str, local: ParsedCard | None, remote: ParsedCard | None) -> str:
    """Record in a card that is about to be pushed what it is and where it came from, for the next `choose_card`."""
    source = local.digest if local else remote.source if remote else None
    kept_edit = remote is not None and choose_card(local, remote) is remote and remote.written != remote.digest
    if remote is not None and kept_edit and not (local and local.digest == remote.digest):
        return _with_begin(card, BEGIN.format(written=remote.written or NO_DIGEST, source=source or NO_DIGEST))
    return _with_digest(card, source, ModelCard)


def _complete(base: ParsedCard | None, stated: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of the card: what is stated, then what stands there, then the defaults."""
    metadata = {**defaults, **(base.metadata if base else {})}
    for name in ("tags", "datasets"):
        lists = [metadata.get(name) or [], (defaults.get(name) or []), (stated.pop(name, None) or [])]
        merged = dict.fromkeys(item for items in lists for item in ([items] if isinstance(items, str) else items))
        if merged:
            metadata[name] = list(merged)
    return metadata | {name: value for name, value in stated.items() if value is not None}


def _keep(base: ParsedCard | None, fresh: RepoCard) -> str:
    """Put the section and the metadata of a fresh card into the card that is kept."""
    if base is None:
        return _with_digest(str(fresh).rstrip() + "\n", None, type(fresh))
    section, old = SECTION.search(fresh.text), SECTION.search(base.body)
    new = section.group() if section else ""
    if old is None:
        body = f"{base.body.rstrip()}\n\n{new}\n"
    else:
        body = base.body[: old.start()] + new + base.body[old.end() :]
    head = base.head
    if fresh.data.to_dict() != base.metadata:
        kept = type(fresh)(base.text or "---\n---\n")
        kept.data, kept.text = fresh.data, ""
        head = str(kept)  # in the order of the old keys
    if base.written is not None:
        body = _with_begin(body, BEGIN.format(written=base.written, source=base.source))
    return head + body


def _with_digest(card: str, source: str | None, kind: type[RepoCard]) -> str:
    return _with_begin(card, BEGIN.format(written=parse_card(card, kind).digest, source=source or NO_DIGEST))


def _with_begin(card: str, begin: str) -> str:
    section = SECTION.search(card)
    if section is None:
        return card
    return card[: section.start()] + begin + card[card.index("-->", section.start()) + len("-->") :]


def _listed(names: str | list[str] | None) -> str:
    return names if isinstance(names, str) else ", ".join(names or [])


def _template(name: str) -> str:
    return resources.files("gpt_embeddings.hub").joinpath("templates", name).read_text(encoding="utf-8")
