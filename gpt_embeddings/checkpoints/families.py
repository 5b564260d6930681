"""The GPT families of transformers: where each keeps the tables of its input stage, and how it adds them up.

One row a family. What a row says in the component's words becomes a `GPTEmbeddingsConfig`; what it says in the words
of the checkpoint finds the tensors. Left out: reading files (`checkpoints`) and building models (`conversion`).
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass
from typing import Any

from transformers import CONFIG_MAPPING


ReadField = Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What one family's input stage has; the defaults are GPT-2's.

    Keys are those of the base model: a checkpoint of a model with a head has a prefix before them. Fields are named
    as in the family's own configuration, where `hidden_size` and `max_position_embeddings` are common to all.
    """

    wte: str = "wte.weight"
    wpe: str | None = "wpe.weight"
    """Key of the position table; None where there is none."""
    project_in: str | None = None
    """Key of the matrix that follows `wte` where `word_embed_proj_dim` is not `hidden_size`."""
    head: str = "lm_head.weight"
    """Key of the head, which stands in for `wte` where the two are tied and `wte` was left out of the file."""
    dropout: str | None = "embd_pdrop"
    """Field with the dropout of the sum; None where there is none."""
    initializer_range: str = "initializer_range"
    position_offset: int = 0
    padding_position: int | None = None
    scale: str | bool = False
    """Whether tokens are scaled by sqrt(hidden_size), or the field that says so."""
    scale_inputs_embeds: bool = False
    add_token_types: bool = True
    sinusoid_type: str | None = None
    """Kind of sinusoids; None with a learned table."""
    sinusoid_zero_row: str | None = None
    """Field with the row of the sinusoids that is all zeros."""

    @property
    def position_embedding_type(self) -> str:
        """Return the component's word for the positions."""
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

# Families without absolute positions at the input: what they have instead, and the key of their token table. Others
# with rotary positions are known by the field `rope_parameters` and have ROTARY_KEY.
WITHOUT_POSITIONS: dict[str, tuple[str, Family]] = {
    "bloom": ("ALiBi", Family(wte="word_embeddings.weight", wpe=None, dropout=None, add_token_types=False)),
    "codegen": ("rotary positions", Family(wpe=None)),
    "falcon": (
        "rotary positions or ALiBi",
        Family(wte="word_embeddings.weight", wpe=None, dropout=None, add_token_types=False),
    ),
    "gpt_neox": ("rotary positions", Family(wte="embed_in.weight", wpe=None, dropout=None, add_token_types=False)),
    "gpt_neox_japanese": (
        "rotary positions",
        Family(wte="embed_in.weight", wpe=None, dropout=None, add_token_types=False),
    ),
    "gptj": ("rotary positions", Family(wpe=None)),
    "mamba": ("no positions", Family(wte="embeddings.weight", wpe=None, dropout=None, add_token_types=False)),
    "mamba2": ("no positions", Family(wte="embeddings.weight", wpe=None, dropout=None, add_token_types=False)),
    "mpt": ("ALiBi", Family(wpe=None, dropout=None, add_token_types=False)),
    "rwkv": ("no positions", Family(wte="embeddings.weight", wpe=None, dropout=None, add_token_types=False)),
    "t5": (
        "relative positions",
        Family(wte="shared.weight", wpe=None, dropout=None, add_token_types=False),
    ),
}
ROTARY = ("rotary positions", Family(wte="embed_tokens.weight", wpe=None, dropout=None, add_token_types=False))

# Wrappers around a base model that leave their name before its keys.
PREFIXES = re.compile(r"(?:(?:module|_orig_mod|transformer|model|biogpt)\.)*")

# The `n_positions` of a model without positions whose source names no longest sequence.
LONGEST = 2**20

BY_HAND = (
    'Give the names of the tensors by hand, `wte_key="..."` and `wpe_key="..."` (or '
    '`position_embedding_type="none"` for the token table alone).'
)


def find_family(
    model_type: str | None,
    read: ReadField,
    *,
    position_embedding_type: str | None = None,
    wte_key: str | None = None,
    wpe_key: str | None = None,
) -> Family:
    """Find the row of a model.

    Args:
        model_type: `model_type` of its configuration.
        read: A function from a field of its configuration to the value, or None.
        position_embedding_type: `"none"` where the token table alone is wanted.
        wte_key: Name of the token table, where it was given by hand.
        wpe_key: Name of the position table, where it was given by hand.

    Returns:
        The row.

    Raises:
        ValueError: The family is unknown or has no absolute positions at its input.
    """
    if position_embedding_type not in (None, "learned", "sinusoidal", "none"):
        raise ValueError(
            "`position_embedding_type` must be 'learned', 'sinusoidal', 'none' or None for the source's own, got "
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
        family = Family()  # nothing but the names is known: GPT-2's sum
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
    """Read fields of a `config.json` with the defaults of its family, without making the configuration.

    A configuration class may do much work on what it is given, and a file may come from anywhere.

    Args:
        values: What `config.json` holds.

    Returns:
        The `model_type` (None if there is none) and a function from a field to its value, or None.
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        model_type = None
    config_class: Any = None
    if model_type is not None and model_type in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[model_type]
        model_type = config_class.model_type

    def read(name: str) -> Any:
        native = getattr(config_class, "attribute_map", {}).get(name, name)
        for key in (native, name):
            if key in values:
                return values[key]
        field = getattr(config_class, "__dataclass_fields__", {}).get(native)
        if name == "rope_parameters" and field is not None:
            return {}  # the class has the field: its positions are rotary whatever the file says
        return None if field is None or field.default is MISSING else field.default

    return model_type, read


def find_keys(
    names: Collection[str],
    family: Family,
    *,
    with_positions: bool,
    with_projection: bool,
    tied: bool,
    wte_key: str | None = None,
    wpe_key: str | None = None,
) -> dict[str, str]:
    """Find the names of the tensors in a checkpoint, whatever prefix they have.

    Args:
        names: All names in the checkpoint.
        family: The row.
        with_positions: Whether the position table is wanted.
        with_projection: Whether there is a `project_in`.
        tied: Whether the head may stand in for a token table that was left out.
        wte_key: Full name of the token table, where it was given by hand.
        wpe_key: Full name of the position table, where it was given by hand.

    Returns:
        Names by the component's own: `wte.weight` and, where wanted, `wpe.weight` and `project_in.weight`.

    Raises:
        ValueError: A tensor is missing, or there are several that it could be.
    """
    wanted = {"wte.weight": family.wte}
    if with_positions and family.wpe is not None:
        wanted["wpe.weight"] = family.wpe
    if with_projection and family.project_in is not None:
        wanted["project_in.weight"] = family.project_in
    keys: dict[str, str] = {}
    for name, key in (("wte.weight", wte_key), ("wpe.weight", wpe_key if with_positions else None)):
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
    if tied and "wte.weight" in wanted:
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
    """Refuse a table of which only parts are there, as an adapter leaves them, before another stands in for it."""
    for key in keys:
        place = f".{key.removesuffix('weight')}"
        parts = [name for name in names if place in f".{name}"]
        if parts and not any(f".{name}".endswith(f".{key}") for name in names):
            raise ValueError(
                f"The table {key!r} is there in parts alone ({parts[0]!r} and others), as an adapter keeps it. "
                "Call `merge_and_unload()` on the model first, and give or save what it returns."
            )


def _find_prefix(names: Collection[str], keys: list[str]) -> str | None:
    """Return the prefix that has all of `keys` behind it, or None where there is none."""
    if not keys:
        return None
    first = keys[0]
    prefixes = [name[: -len(first)] for name in names if name == first or name.endswith(f".{first}")]
    prefixes = [prefix for prefix in prefixes if all(prefix + key in names for key in keys)]
    if len(prefixes) > 1:  # other models may be in the file: those with a usual prefix go first
        prefixes = [prefix for prefix in prefixes if PREFIXES.fullmatch(prefix)] or prefixes
    if len(prefixes) > 1:
        several = ", ".join(repr(prefix + first) for prefix in prefixes[:4])
        raise ValueError(f"Several tensors could be the table: {several}. {BY_HAND}")
    return prefixes[0] if prefixes else None


def _name_some(names: Collection[str]) -> str:
    some = ", ".join(repr(name) for name in sorted(names)[:6])
    return f"It has {len(names)} tensors: {some}{', ...' if len(names) > 6 else ''}."


def component_fields(family: Family, read: ReadField, *, position_embedding_type: str | None = None) -> dict[str, Any]:
    """Say a source's input stage in the fields of `GPTEmbeddingsConfig`; `vocab_size` and ids are not among them.

    Args:
        family: The row.
        read: A function from a field of the source's configuration to the value, or None.
        position_embedding_type: `"none"` where the token table alone is wanted.

    Returns:
        The fields.

    Raises:
        ValueError: A size is missing or no positive integer.
    """
    kind = position_embedding_type or family.position_embedding_type
    n_embd = read_size(read, "hidden_size")
    width = read("word_embed_proj_dim") if family.project_in is not None else None
    fields: dict[str, Any] = {
        "n_embd": n_embd,
        "embd_pdrop": _or(read(family.dropout), 0.0) if family.dropout is not None else 0.0,
        "initializer_range": _or(read(family.initializer_range), 0.02),
        "position_embedding_type": kind,
        "token_scale": math.sqrt(n_embd) if _is_scaled(family, read) else 1.0,
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
    """Return a positive integer of the source's configuration.

    Raises:
        ValueError: It is missing or something else.
    """
    value = read(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"`{name}` of the source's configuration must be a positive integer, got {value!r}.")
    return value


def is_tied(read: ReadField) -> bool:
    """Return whether the source's head shares its weight with the token table, which is transformers' default."""
    return _or(read("tie_word_embeddings"), True) is True


def _is_scaled(family: Family, read: ReadField) -> bool:
    return bool(read(family.scale)) if isinstance(family.scale, str) else family.scale


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
