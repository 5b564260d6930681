"""The GPT families of transformers: where each keeps the tables of its input stage, and how it adds them up.

Each family is one row: fields for `GPTEmbeddingsConfig`, and the names of its tensors and configuration fields. Left
out: reading files (`tensors`) and building models (`conversion`).
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import CONFIG_MAPPING


ReadField = Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """The input stage of one family; the defaults are GPT-2's.

    Keys are those of the base model: in a checkpoint of a model with a head they have a prefix. Fields have the names
    of the family's own configuration; `hidden_size` and `max_position_embeddings` are common to all.
    """

    wte: str = "wte.weight"
    wpe: str | None = "wpe.weight"
    """Key of the position table, or None."""
    project_in: str | None = None
    """Key of the matrix after `wte` if `word_embed_proj_dim` is not `hidden_size`."""
    head: str = "lm_head.weight"
    """Key of the head, which is read in place of a tied `wte` that was left out of the file."""
    dropout: str | None = "embd_pdrop"
    """Field with the dropout of the sum, or None."""
    initializer_range: str = "initializer_range"
    position_offset: int = 0
    padding_position: int | None = None
    scale: str | bool = False
    """Whether tokens are scaled by sqrt(hidden_size), or the name of the field that says so."""
    scale_inputs_embeds: bool = False
    add_token_types: bool = True
    sinusoid_type: str | None = None
    """Kind of sinusoids, or None with a learned table."""
    sinusoid_zero_row: str | None = None
    """Field with the row of the sinusoids that is zero."""

    @property
    def position_embedding_type(self) -> str:
        """Return the value of the component's field of this name."""
        if self.sinusoid_type is not None:
            return "sinusoidal"
        return "none" if self.wpe is None else "learned"


FAMILIES: dict[str, Family] = {
    "biogpt": Family(
        wte="embed_tokens.weight",
        wpe="embed_positions.weight",
        head="output_projection.weight",
        dropout="hidden_dropout_prob",
        position_offset=2,
        scale="scale_embedding",
        add_token_types=False,
    ),
    "ctrl": Family(wte="w.weight", wpe=None, scale=True, scale_inputs_embeds=True, sinusoid_type="ctrl"),
    "gpt2": Family(),
    "gpt_bigcode": Family(),
    "gpt_neo": Family(dropout="embed_dropout"),
    "imagegpt": Family(),
    "openai-gpt": Family(wte="tokens_embed.weight", wpe="positions_embed.weight"),
    "opt": Family(
        wte="decoder.embed_tokens.weight",
        wpe="decoder.embed_positions.weight",
        project_in="decoder.project_in.weight",
        dropout=None,
        initializer_range="init_std",
        position_offset=2,
        padding_position=-1,
        add_token_types=False,
    ),
    "xglm": Family(
        wte="embed_tokens.weight",
        wpe=None,
        dropout="dropout",
        initializer_range="init_std",
        position_offset=2,
        scale="scale_embedding",
        add_token_types=False,
        sinusoid_type="tensor2tensor",
        sinusoid_zero_row="pad_token_id",
    ),
}


_tokens = partial(Family, wpe=None, dropout=None, add_token_types=False)

# Families without absolute positions at the input: what they have instead, and their token table. Others with rotary
# positions, known by the field `rope_parameters`, are ROTARY.
WITHOUT_POSITIONS: dict[str, tuple[str, Family]] = {
    "bloom": ("ALiBi", _tokens(wte="word_embeddings.weight")),
    "codegen": ("rotary positions", Family(wpe=None)),
    "falcon": ("rotary positions or ALiBi", _tokens(wte="word_embeddings.weight")),
    "gpt_neox": ("rotary positions", _tokens(wte="embed_in.weight")),
    "gpt_neox_japanese": ("rotary positions", _tokens(wte="embed_in.weight")),
    "gptj": ("rotary positions", Family(wpe=None)),
    "mamba": ("no positions", _tokens(wte="embeddings.weight")),
    "mamba2": ("no positions", _tokens(wte="embeddings.weight")),
    "mpt": ("ALiBi", _tokens(wte="wte.weight")),
    "rwkv": ("no positions", _tokens(wte="embeddings.weight")),
    "t5": ("relative positions", _tokens(wte="shared.weight")),
}
ROTARY = ("rotary positions", _tokens(wte="embed_tokens.weight"))

# Prefixes that wrappers around a base model add to its keys.
PREFIXES = re.compile(r"(?:(?:module|_orig_mod|transformer|model|biogpt)\.)*")

# The `n_positions` of a model without positions if its source does not limit the sequence.
LONGEST = 2**20

BY_HAND = (
    'Name the tensors: `wte_key="..."` and `wpe_key="..."` (or `position_embedding_type="none"` for the token table '
    "alone)."
)


def find_family(
    model_type: str | None,
    read: ReadField,
    *,
    position_embedding_type: str | None = None,
    wte_key: str | None = None,
    wpe_key: str | None = None,
) -> Family:
    """Return the row of a model; a ValueError says what an unknown or unsuitable family has instead."""
    if position_embedding_type not in (None, "learned", "sinusoidal", "none"):
        raise ValueError(
            "`position_embedding_type` must be 'learned', 'sinusoidal', 'none' or None (the source's own), got "
            f"{position_embedding_type!r}."
        )
    if model_type == "gpt_embeddings":
        raise ValueError("The source is a GPTEmbeddingsModel already; load it with `from_pretrained`.")
    without = WITHOUT_POSITIONS.get(model_type or "")
    if without is None and model_type not in FAMILIES and read("rope_parameters") is not None:
        without = ROTARY
    if model_type in FAMILIES:
        family = FAMILIES[model_type]
    elif wte_key is not None and position_embedding_type == "none":
        return Family(wpe=None) if without is None else without[1]
    elif wte_key is not None and wpe_key is not None:
        family = Family()  # only the names are known: add up as GPT-2 does
    elif without is not None and position_embedding_type != "none":
        raise ValueError(
            f"`model_type` {model_type!r} has {without[0]} and adds no absolute positions to its tokens. Ask for the "
            'token table alone with `position_embedding_type="none"`.'
        )
    elif without is not None:
        family = without[1]
    else:
        raise ValueError(
            f"The input stage of `model_type` {model_type!r} is not known; known are {', '.join(FAMILIES)} and, "
            f"without positions, {', '.join(WITHOUT_POSITIONS)} and families with rotary positions. {BY_HAND}"
        )
    if position_embedding_type not in (None, "none", family.position_embedding_type):
        raise ValueError(
            f"`model_type` {model_type!r} has positions of the type {family.position_embedding_type!r}, not "
            f"{position_embedding_type!r}."
        )
    return family


def field_reader(values: dict[str, Any]) -> tuple[str | None, ReadField]:
    """Return the `model_type` of a `config.json` and a function from a field to its value, its default, or None.

    No configuration is made of the values: its class may do much work on them, and the file is not trusted.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return model_type if isinstance(model_type, str) else None, values.get
    config_class: Any = CONFIG_MAPPING[model_type]
    defaults = vars(config_class())

    def read(name: str) -> Any:
        native = config_class.attribute_map.get(name, name)
        return next((found[key] for found in (values, defaults) for key in (native, name) if key in found), None)

    return config_class.model_type, read


def find_keys(
    names: Collection[str],
    family: Family,
    read: ReadField,
    position_embedding_type: str,
    *,
    wte_key: str | None = None,
    wpe_key: str | None = None,
    in_memory: bool = False,
) -> dict[str, str]:
    """Find the names of the tensors in a checkpoint, whatever their prefix.

    A model in memory has its token table even if it is tied; in a file the tied head may be in its place.

    Returns:
        Names by the component's own: `wte.weight` and, if there are any, `wpe.weight` and `project_in.weight`.
    """
    wanted = {"wte.weight": family.wte}
    if position_embedding_type == "learned" and family.wpe is not None:
        wanted["wpe.weight"] = family.wpe
    if family.project_in is not None and read("word_embed_proj_dim") not in (None, read("hidden_size")):
        wanted["project_in.weight"] = family.project_in
    keys: dict[str, str] = {}
    for name, key in (
        ("wte.weight", wte_key),
        ("wpe.weight", wpe_key if position_embedding_type == "learned" else None),
    ):
        if key is not None:
            prefix = "" if key in names else _find_prefix(names, [key])
            if prefix is None:
                raise ValueError(f"There is no tensor {key!r} in the checkpoint. {_name_some(names)}")
            wanted.pop(name, None)
            keys[name] = prefix + key
    if not wanted:
        return keys
    found = _find_prefix(names, list(wanted.values()))
    if found is not None:
        return {**keys, **{name: found + key for name, key in wanted.items()}}
    _refuse_parts(names, wanted.values())
    if is_tied(read) and not in_memory and "wte.weight" in wanted:
        head = _find_prefix(names, [family.head])
        rest = {name: key for name, key in wanted.items() if name != "wte.weight"}
        prefix = _find_prefix(names, list(rest.values()))
        if head is not None and (prefix is not None or not rest):
            return {**keys, "wte.weight": head + family.head, **{name: f"{prefix}{key}" for name, key in rest.items()}}
    raise ValueError(
        f"The checkpoint has no tensors {' and '.join(map(repr, wanted.values()))}, with or without a prefix. "
        f"{_name_some(names)} {BY_HAND}"
    )


def _refuse_parts(names: Collection[str], keys: Collection[str]) -> None:
    """Refuse a table that an adapter has left in parts, before another is read in its place."""
    for key in keys:
        place = f".{key.removesuffix('weight')}"
        parts = [name for name in names if place in f".{name}"]
        if parts and not any(f".{name}".endswith(f".{key}") for name in names):
            raise ValueError(
                f"The table {key!r} is stored in parts ({parts[0]!r} and others), as an adapter keeps it. Call "
                "`merge_and_unload()` on the model first, and use or save what it returns."
            )


def _find_prefix(names: Collection[str], keys: list[str]) -> str | None:
    """Return the prefix with which all of `keys` exist, or None."""
    if not keys:
        return None
    first = keys[0]
    prefixes = [name[: -len(first)] for name in names if name == first or name.endswith(f".{first}")]
    prefixes = [prefix for prefix in prefixes if all(prefix + key in names for key in keys)]
    if len(prefixes) > 1:  # the file may hold other models, too: prefer the usual prefixes
        prefixes = [prefix for prefix in prefixes if PREFIXES.fullmatch(prefix)] or prefixes
    if len(prefixes) > 1:
        several = ", ".join(repr(prefix + first) for prefix in prefixes[:4])
        raise ValueError(f"Several tensors could be the table: {several}. {BY_HAND}")
    return prefixes[0] if prefixes else None


def _name_some(names: Collection[str]) -> str:
    some = ", ".join(repr(name) for name in sorted(names)[:6])
    return f"It has {len(names)} tensors: {some}{', ...' if len(names) > 6 else ''}."


def component_fields(family: Family, read: ReadField, *, position_embedding_type: str | None = None) -> dict[str, Any]:
    """Return a source's fields for `GPTEmbeddingsConfig`, without `vocab_size` and the ids of special tokens."""
    kind = position_embedding_type or family.position_embedding_type
    n_embd = read_size(read, "hidden_size")
    width = read("word_embed_proj_dim") if family.project_in is not None else None
    scaled = read(family.scale) if isinstance(family.scale, str) else family.scale
    fields: dict[str, Any] = {
        "n_embd": n_embd,
        "embd_pdrop": _or(read(family.dropout), 0.0) if family.dropout is not None else 0.0,
        "initializer_range": _or(read(family.initializer_range), 0.02),
        "position_embedding_type": kind,
        "token_scale": math.sqrt(n_embd) if scaled else 1.0,
        "scale_inputs_embeds": family.scale_inputs_embeds,
        "word_embed_proj_dim": width if width != n_embd else None,
        "add_token_types": family.add_token_types,
        "tie_word_embeddings": is_tied(read),
    }
    if kind == "none":
        length = read("max_position_embeddings")
        fields["n_positions"] = length if type(length) is int and 0 < length < LONGEST else LONGEST
    else:
        fields["n_positions"] = read_size(read, "max_position_embeddings")
        fields["position_offset"] = family.position_offset
        fields["padding_position"] = family.padding_position
    if kind == "sinusoidal":
        fields["sinusoid_type"] = family.sinusoid_type
        row = read(family.sinusoid_zero_row) if family.sinusoid_zero_row is not None else None
        if isinstance(row, int) and -fields["n_positions"] <= row < 0:
            row += fields["n_positions"] + family.position_offset  # an index from the end, as torch reads it
        fields["sinusoid_zero_row"] = row
    return fields


def read_size(read: ReadField, name: str) -> int:
    """Return a size of the source's configuration; a ValueError says that it is not a positive integer."""
    value = read(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"`{name}` of the source's configuration must be a positive integer, got {value!r}.")
    return value


def is_tied(read: ReadField) -> bool:
    """Return whether the source's head shares the token table, which is the default of transformers."""
    return _or(read("tie_word_embeddings"), True) is True


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
