"""The GPT families of transformers, a row each: where the tables of the input stage are, and how they add up."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import CONFIG_MAPPING


@dataclass(frozen=True, kw_only=True)
class Family:
    """The input stage of one family; the defaults are GPT-2's.

    Keys are those of the base model: in a checkpoint of a model with a head they have a prefix. Fields have the names
    of the family's own configuration; `hidden_size` and `max_position_embeddings` are common to all.
    """

    wte: str = "wte.weight"
    wpe: str | None = "wpe.weight"  # key of the position table, or None
    project_in: str | None = None  # key of the matrix after `wte` if `word_embed_proj_dim` is not `hidden_size`
    head: str = "lm_head.weight"  # key of the head, read in place of a tied `wte` that was left out of the file
    dropout: str | None = "embd_pdrop"  # field with the dropout of the sum, or None
    initializer_range: str = "initializer_range"
    position_offset: int = 0
    padding_position: int | None = None
    scale: str | bool = False  # whether tokens are scaled by sqrt(hidden_size), or the name of the field that says so
    scale_inputs_embeds: bool = False
    add_token_types: bool = True
    sinusoid_type: str | None = None  # kind of sinusoids, or None with a learned table
    sinusoid_zero_row: str | None = None  # field with the row of the sinusoids that is zero
    instead: str | None = None  # what the family has instead of absolute positions at its input

    @property
    def position_embedding_type(self) -> str:
        """Return the value of the component's field of this name."""
        if self.sinusoid_type is not None:
            return "sinusoidal"
        return "none" if self.wpe is None else "learned"


_tokens = partial(Family, wpe=None, dropout=None, add_token_types=False)

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
    "bloom": _tokens(wte="word_embeddings.weight", instead="ALiBi"),
    "codegen": Family(wpe=None, instead="rotary positions"),
    "falcon": _tokens(wte="word_embeddings.weight", instead="rotary positions or ALiBi"),
    "gpt_neox": _tokens(wte="embed_in.weight", instead="rotary positions"),
    "gpt_neox_japanese": _tokens(wte="embed_in.weight", instead="rotary positions"),
    "gptj": Family(wpe=None, instead="rotary positions"),
    "mamba": _tokens(wte="embeddings.weight", instead="no positions"),
    "mamba2": _tokens(wte="embeddings.weight", instead="no positions"),
    "mpt": _tokens(instead="ALiBi"),
    "rwkv": _tokens(wte="embeddings.weight", instead="no positions"),
    "t5": _tokens(wte="shared.weight", instead="relative positions"),
}
# All other families that have the field `rope_parameters`.
ROTARY = _tokens(wte="embed_tokens.weight", instead="rotary positions")

# Prefixes that wrappers around a base model add to its keys.
PREFIXES = re.compile(r"(?:(?:module|_orig_mod|transformer|model|biogpt)\.)*")

# The `n_positions` of a model without positions if its source does not limit the sequence.
UNLIMITED = 2**20

BY_HAND = (
    'Name the tensors: `wte_key="..."` and `wpe_key="..."` (or `position_embedding_type="none"` for the token table '
    "alone)."
)


def source_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `config.json`, with the defaults of its class, by their own and their common names."""
    # No configuration is made of the values: its class may do much work on them, and the file is not trusted.
    model_type = config.get("model_type")
    fields = {**config, "model_type": model_type if isinstance(model_type, str) else None}
    if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        config_class: Any = CONFIG_MAPPING[model_type]
        fields = {**vars(config_class()), **config, "model_type": config_class.model_type}
        for common, name in config_class.attribute_map.items():
            fields[common] = fields[name] = config.get(name, config.get(common, fields.get(name)))
    return {name: value for name, value in fields.items() if value is not None}


def find_family(
    fields: Mapping[str, Any],
    *,
    position_embedding_type: str | None = None,
    wte_key: str | None = None,
    wpe_key: str | None = None,
) -> Family:
    """Return the row of a model, with the positions and keys that were asked for; a ValueError if they do not fit."""
    model_type = fields.get("model_type")
    if model_type == "gpt_embeddings":
        raise ValueError("The source is a GPTEmbeddingsModel already; load it with `from_pretrained`.")
    family = FAMILIES.get(model_type or "", None if fields.get("rope_parameters") is None else ROTARY)
    if (
        wte_key is not None
        and (family is None or family.instead is not None)
        and (wpe_key is not None or position_embedding_type == "none")
    ):
        family = Family()  # only the names are known: add up as GPT-2 does
    if family is None:
        raise ValueError(
            f"The input stage of `model_type` {model_type!r} is not known; known are {', '.join(FAMILIES)} and "
            f"families with rotary positions. {BY_HAND}"
        )
    if position_embedding_type == "none":
        family = replace(family, wpe=None, sinusoid_type=None)
    elif family.instead is not None:
        raise ValueError(
            f"`model_type` {model_type!r} has {family.instead} and adds no absolute positions to its tokens. Ask for "
            'the token table alone with `position_embedding_type="none"`.'
        )
    kind = family.position_embedding_type
    if position_embedding_type not in (None, kind):
        raise ValueError(
            f"`model_type` {model_type!r} has positions of the type {kind!r}, not {position_embedding_type!r}."
        )
    if wpe_key is not None and kind != "learned":
        raise ValueError(f"`wpe_key` is given, but the positions are of the type {kind!r} and have no table.")
    if wte_key is not None:
        family = replace(family, wte=wte_key, head=wte_key)  # nothing is read in place of what was named
    return replace(family, wpe=wpe_key or family.wpe)


def find_keys(
    names: Collection[str], family: Family, fields: Mapping[str, Any], *, in_memory: bool = False
) -> dict[str, str]:
    """Find the tensors in a checkpoint, with any prefix: their names by the component's own, such as `wte.weight`."""
    wanted = {"wte.weight": family.wte}
    if family.wpe is not None:
        wanted["wpe.weight"] = family.wpe
    if family.project_in is not None and fields.get("word_embed_proj_dim") not in (None, fields.get("hidden_size")):
        wanted["project_in.weight"] = family.project_in
    keys = {name: _find_key(names, key) for name, key in wanted.items()}
    for name, key in wanted.items():
        # A table that an adapter has left in parts is refused, before the head is read in its place.
        parts = [other for other in names if f".{key.removesuffix('weight')}" in f".{other}"]
        if keys[name] is None and key.endswith(".weight") and parts:
            raise ValueError(
                f"The table {key!r} is stored in parts ({parts[0]!r} and others), as an adapter keeps it. Call "
                "`merge_and_unload()` on the model first, and use or save what it returns."
            )
    # A model in memory has its token table even if it is tied; in a file the tied head may be in its place.
    if keys["wte.weight"] is None and fields.get("tie_word_embeddings", True) is True and not in_memory:
        keys["wte.weight"] = _find_key(names, family.head)
    found = {name: key for name, key in keys.items() if key is not None}
    if len(found) < len(wanted):
        missing = " and ".join(repr(key) for name, key in wanted.items() if name not in found)
        some = ", ".join(repr(name) for name in sorted(names)[:6])
        raise ValueError(
            f"There is no tensor {missing} in the checkpoint, with or without a prefix. It has {len(names)} tensors: "
            f"{some}{', ...' if len(names) > 6 else ''}. {BY_HAND}"
        )
    prefixes = {key.removesuffix(wanted[name]) for name, key in found.items() if key.endswith(f".{wanted[name]}")}
    if len(prefixes) > 1:
        raise ValueError(f"The tables seem to be of several models: {', '.join(map(repr, found.values()))}. {BY_HAND}")
    return found


def _find_key(names: Collection[str], key: str) -> str | None:
    """Return the name that is a key with or without a prefix, or None."""
    if key in names:
        return key
    found = [name for name in names if name.endswith(f".{key}")]
    if len(found) > 1:  # the file may hold other models, too: prefer the usual prefixes
        found = [name for name in found if PREFIXES.fullmatch(name.removesuffix(key))] or found
    if len(found) > 1:
        several = ", ".join(map(repr, found[:4]))
        raise ValueError(f"Several tensors could be the table: {several}. {BY_HAND}")
    return found[0] if found else None


def component_fields(family: Family, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source's fields for `GPTEmbeddingsConfig`."""
    kind = family.position_embedding_type
    n_embd, vocab_size = _size(fields, "hidden_size"), _size(fields, "vocab_size")
    width = fields.get("word_embed_proj_dim") if family.project_in is not None else None
    scaled = fields.get(family.scale) if isinstance(family.scale, str) else family.scale
    found: dict[str, Any] = {
        "vocab_size": vocab_size,
        "n_embd": n_embd,
        "embd_pdrop": fields.get(family.dropout or "", 0.0),
        "initializer_range": fields.get(family.initializer_range, 0.02),
        "position_embedding_type": kind,
        "token_scale": math.sqrt(n_embd) if scaled else 1.0,
        "scale_inputs_embeds": family.scale_inputs_embeds,
        "word_embed_proj_dim": width if width != n_embd else None,
        "add_token_types": family.add_token_types,
        "tie_word_embeddings": fields.get("tie_word_embeddings", True) is True,  # the default of transformers
    }
    if kind == "none":
        length = fields.get("max_position_embeddings")
        found["n_positions"] = length if type(length) is int and 0 < length < UNLIMITED else UNLIMITED
    else:
        found["n_positions"] = _size(fields, "max_position_embeddings")
        found["position_offset"] = family.position_offset
        found["padding_position"] = family.padding_position
    if kind == "sinusoidal":
        found["sinusoid_type"] = family.sinusoid_type
        row = fields.get(family.sinusoid_zero_row or "")
        if isinstance(row, int) and -found["n_positions"] <= row < 0:
            row += found["n_positions"] + family.position_offset  # an index from the end, as torch reads it
        found["sinusoid_zero_row"] = row
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        # Some fine-tuned models have ids of special tokens without a row in the table.
        value = fields.get(name)
        ids = [i for i in (value if isinstance(value, list) else [value]) if type(i) is int and 0 <= i < vocab_size]
        found[name] = (ids if isinstance(value, list) else ids[0]) if ids else None
    return found


def _size(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"`{name}` of the source's configuration must be a positive integer, got {value!r}.")
    return value
