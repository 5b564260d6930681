"""A GPT checkpoint to a `GPTEmbeddingsModel`, and the tables back into a GPT.

`families` knows the names, `tensors` reads the file. Left out: blocks and heads.
"""

import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.checkpoints.families import (
    BY_HAND,
    FAMILIES,
    Family,
    ReadField,
    component_fields,
    field_reader,
    find_family,
    find_keys,
    read_size,
)
from gpt_embeddings.checkpoints.files import open_folder, read_json
from gpt_embeddings.checkpoints.tensors import Checkpoint, StoredTensor, open_checkpoint, open_dict, open_file
from modeling_gpt_embeddings import GPTEmbeddingsModel


# No file confirms the size of a sinusoidal table; this limit is 1 GiB, 128 times that of XGLM-7.5B.
MAX_SINUSOID_ENTRIES = 2**28

ADAPTER = "adapter_config.json"

# Fields that a model and the GPT that gets its tables back must share.
SHARED_FIELDS = (
    "position_offset",
    "token_scale",
    "scale_inputs_embeds",
    "sinusoid_type",
    "sinusoid_zero_row",
    "word_embed_proj_dim",
)


def from_gpt(
    source: str | os.PathLike[str] | nn.Module,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype | str = "auto",
    position_embedding_type: str | None = None,
    wte_key: str | None = None,
    wpe_key: str | None = None,
    **fields: Any,
) -> GPTEmbeddingsModel:
    """Extract the input stage of a GPT; nothing else of the checkpoint is read.

    The tables of a local safetensors file are mapped, as by `from_pretrained`: pages are read when their rows are
    looked up, and copied when they are written to.

    Args:
        source: A folder, a Hub name, a file of tensors (`.safetensors`, or one of `torch.save`: the tensors, or a
            dictionary that has them under `model` or `state_dict`), or a model in memory, whose tables are copied: a
            GPT, or any module if both keys are given.
        revision: Branch, tag or commit of a Hub name.
        token: Token for a gated or private repository; None is the one of `hf auth login`.
        dtype: Dtype of the tables; `"auto"` is that of the source's configuration, else of its token table, as in
            `from_pretrained`.
        position_embedding_type: `"none"` extracts the token table alone, which is all that a family without absolute
            positions at the input has.
        wte_key: Name of the token table in the checkpoint, for an unknown architecture.
        wpe_key: Name of its position table.
        fields: Fields of the configuration that are to differ from the source's, such as `embd_pdrop` or, for an
            unknown architecture, `position_offset` and `token_scale`.

    Returns:
        A model in evaluation mode.

    Raises:
        OSError: There is no such checkpoint, or it cannot be reached.
        ValueError: The family is unknown or has no absolute positions at its input; the checkpoint is broken or
            disagrees with its configuration.
    """
    target = _parse_dtype(dtype)
    in_memory = isinstance(source, nn.Module)
    if isinstance(source, nn.Module):
        name, (model_type, read, tables) = type(source).__name__, _open_memory(source, by_hand=wte_key is not None)
        checkpoint = open_dict(tables, name, copy=True)
    else:
        name, model_type, read, checkpoint = _open_files(source, revision, token, by_hand=wte_key is not None)
    family = find_family(
        model_type, read, position_embedding_type=position_embedding_type, wte_key=wte_key, wpe_key=wpe_key
    )
    kind = position_embedding_type or family.position_embedding_type
    if wpe_key is not None and kind != "learned":
        raise ValueError(f"`wpe_key` is given, but the positions are of the type {kind!r} and have no table.")
    if isinstance(source, nn.Module):
        tables.update(_computed_tables(source, tables, [family.wte, family.wpe, wte_key, wpe_key]))
    names = checkpoint.names
    keys = find_keys(names, family, read, kind, wte_key=wte_key, wpe_key=wpe_key, in_memory=in_memory)
    stored = _find_tables(checkpoint, keys)
    if model_type not in FAMILIES or in_memory:
        sure = in_memory or wte_key is not None  # else `config.json` takes precedence
        read = _read_sizes_of(stored, read, fields.get("position_offset", family.position_offset), sure)
    config = _make_config(family, read, kind, fields)
    _check_sizes(name, config, stored)
    if target is None:
        said = None if in_memory else read("dtype") or read("torch_dtype")
        target = _parse_dtype(said or stored["wte.weight"].dtype)
    config.dtype = target
    return _build(config, {key: tensor.read().to(target) for key, tensor in stored.items()})


def to_gpt(model: GPTEmbeddingsModel, gpt: nn.Module) -> nn.Module:
    """Copy the tables of a model back into a full GPT, in place; a tied head stays tied.

    Args:
        model: A model that `from_gpt` extracted from a GPT of the same family and sizes. With
            `position_embedding_type="none"` only the token table is copied.
        gpt: The GPT, with or without a head.

    Returns:
        `gpt`.

    Raises:
        ValueError: Family or shapes do not fit; nothing has changed.
    """
    model_type, read, _ = _open_memory(gpt)
    kind = model.config.position_embedding_type
    family = find_family(model_type, read, position_embedding_type=kind)
    parameters = dict(gpt.named_parameters(remove_duplicate=False))
    keys = find_keys(parameters, family, read, kind, in_memory=True)
    stored = _find_tables(open_dict(parameters, type(gpt).__name__, copy=False), keys)
    expected = component_fields(family, read, position_embedding_type=kind)
    for field in SHARED_FIELDS:
        ours, theirs = getattr(model.config, field), expected.get(field, getattr(model.config, field))
        if field == "word_embed_proj_dim":  # None and n_embd say the same
            ours, theirs = ours or model.config.n_embd, theirs or expected["n_embd"]
        if ours != theirs and not (isinstance(ours, float) and math.isclose(ours, theirs)):
            raise ValueError(f"`{field}` of the model is {ours!r}, the {model_type} has {theirs!r}: they do not fit.")
    tables = model.state_dict()
    for name, tensor in stored.items():
        if name not in tables or tuple(tables[name].shape) != tensor.shape:
            shape = tuple(tables[name].shape) if name in tables else None
            raise ValueError(
                f"`{name}` of the model has the shape {shape}, {keys[name]!r} of the {type(gpt).__name__} has "
                f"{tensor.shape}. Resize one of the two first."
            )
    with torch.no_grad():
        for name, key in keys.items():
            parameters[key].copy_(tables[name])
    return gpt


def _open_memory(source: nn.Module, *, by_hand: bool = False) -> tuple[str | None, ReadField, dict[str, torch.Tensor]]:
    """Return the model type of a model in memory, a reader of its configuration, and its tensors."""
    config = getattr(source, "config", None)
    if config is None:
        config = getattr(getattr(source, "module", None), "config", None)  # DataParallel
    if config is None and not by_hand:
        raise ValueError(
            f"The source, a {type(source).__name__}, has no `config`: it is not a transformers model. {BY_HAND}"
        )
    if getattr(getattr(source, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError("The source puts a learned prompt before its tokens; give its `get_base_model()`.")

    def read(name: str) -> Any:
        return getattr(config, name, None)

    return getattr(config, "model_type", None), read, source.state_dict()


def _open_files(
    source: str | os.PathLike[str], revision: str | None, token: str | bool | None, *, by_hand: bool
) -> tuple[str, str | None, ReadField, Checkpoint]:
    """Return the name of a folder or file, the model type in its `config.json`, a reader of that, and the tensors."""
    file = Path(source) if Path(source).is_file() else None
    folder = open_folder(source if file is None else file.parent, revision=revision, token=token)
    if file is None and folder.has(ADAPTER):
        raise ValueError(
            f"{folder.name} holds an adapter of PEFT, which may change the tables. Load it with `peft`, and give the "
            "model that `merge_and_unload()` returns."
        )
    checkpoint = open_checkpoint(folder) if file is None else open_file(folder, file.name)
    try:
        model_type, read = field_reader(read_json(folder, "config.json"))
    except FileNotFoundError:
        if not by_hand:
            raise
        model_type, read = field_reader({})
    return folder.name if file is None else str(file), model_type, read, checkpoint


def _computed_tables(
    source: nn.Module, tables: dict[str, torch.Tensor], keys: Collection[str | None]
) -> dict[str, torch.Tensor]:
    """Return the tables under `keys` that an adapter or a parametrization computes, as they are for each id.

    An adapter around an embedding that does more than look up is left out.
    """
    computed = {}
    for path, module in source.named_modules():
        name = f"{path}.weight"
        if name in tables or not any(key and f".{name}".endswith(f".{key}") for key in keys):
            continue
        inside = [part for part in module.modules() if isinstance(part, nn.Embedding)]
        plain = all(type_before_parametrizations(part) is nn.Embedding for part in inside)
        if plain and len({part.num_embeddings for part in inside}) == 1:
            ids = torch.arange(inside[0].num_embeddings, device=inside[0].weight.device)
            with torch.no_grad():
                computed[name] = module(ids)  # (rows, width)
    return computed


def _find_tables(checkpoint: Checkpoint, keys: dict[str, str]) -> dict[str, StoredTensor]:
    """Return the stored tables, by the component's own names."""
    stored = {name: checkpoint.find(key) for name, key in keys.items()}
    for name, tensor in stored.items():
        if len(tensor.shape) != 2:
            raise ValueError(f"The tensor {keys[name]!r} has the shape {tensor.shape}; a table has two axes.")
    return stored


def _read_sizes_of(stored: dict[str, StoredTensor], read: ReadField, position_offset: Any, sure: bool) -> ReadField:
    """Return a reader that takes sizes from the tables: always if they are `sure`, else if the source has none."""
    sizes: dict[str, int] = {"vocab_size": stored["wte.weight"].shape[0]}
    if "wpe.weight" in stored:
        rows, sizes["hidden_size"] = stored["wpe.weight"].shape
        sizes["max_position_embeddings"] = rows - (position_offset if type(position_offset) is int else 0)
    elif "project_in.weight" in stored:
        sizes["hidden_size"] = stored["project_in.weight"].shape[0]
    else:
        sizes["hidden_size"] = stored["wte.weight"].shape[1]
    return lambda name: sizes[name] if name in sizes and (sure or read(name) is None) else read(name)


def _make_config(
    family: Family,
    read: ReadField,
    kind: str,
    fields: dict[str, Any],
) -> Any:
    known = component_fields(family, read, position_embedding_type=kind)
    sizes = ("dtype", "n_embd", "n_positions", "position_embedding_type", "vocab_size", "word_embed_proj_dim")
    for field in fields:
        if field in sizes or field not in vars(GPTEmbeddingsConfig()):
            raise ValueError(
                f"`{field}` cannot be set here: "
                + ("it is taken from the source." if field in sizes else "the configuration has no such field.")
            )
    known["vocab_size"] = read_size(read, "vocab_size")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        known[name] = _keep_ids(read(name), known["vocab_size"])
    if kind == "sinusoidal" and (known["n_positions"] + known["position_offset"]) * known["n_embd"] > (
        MAX_SINUSOID_ENTRIES
    ):
        raise ValueError(
            f"The source's configuration asks for sinusoids of {known['n_positions']} x {known['n_embd']} entries; "
            f"no table in the file confirms that size, and the limit is {MAX_SINUSOID_ENTRIES} entries."
        )
    return GPTEmbeddingsConfig(**{**known, **fields})


def _keep_ids(value: Any, vocab_size: int) -> Any:
    """Leave out ids of special tokens that have no row in the table, as in some fine-tuned models."""
    if isinstance(value, list):
        return [item for item in value if type(item) is int and 0 <= item < vocab_size] or None
    return value if type(value) is int and 0 <= value < vocab_size else None


def _check_sizes(name: str, config: Any, stored: dict[str, StoredTensor]) -> None:
    """Compare the shapes of the tables with the configuration, before they are read."""
    width = config.word_embed_proj_dim or config.n_embd
    expected = {
        "wte.weight": (config.vocab_size, width),
        "wpe.weight": (config.n_positions + config.position_offset, config.n_embd),
        "project_in.weight": (config.n_embd, width),
    }
    for key, tensor in stored.items():
        if tensor.shape != expected[key]:
            raise ValueError(
                f"{name}: the table for `{key}` has the shape {tensor.shape}, the configuration says {expected[key]}. "
                "Correct `config.json`, or load the checkpoint that belongs to it."
            )


def _parse_dtype(dtype: Any) -> torch.dtype | None:
    """Return the torch dtype, or None for "auto"."""
    if dtype == "auto":
        return None
    parsed = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or not parsed.is_floating_point or parsed.itemsize < 2:
        raise ValueError(f"`dtype` must be 'auto' or a floating-point dtype such as 'bfloat16', got {dtype!r}.")
    return parsed


def _build(config: Any, tables: dict[str, torch.Tensor]) -> GPTEmbeddingsModel:
    """Make a model around the tables, without allocating others first."""
    with torch.device("meta"):
        model = GPTEmbeddingsModel(config)
    if model.token_weights is not None:  # no GPT has them: 1 each, until `fit_token_weights`
        table = tables["wte.weight"]
        tables["token_weights"] = torch.ones(len(table), dtype=table.dtype)
    model.load_state_dict(tables, assign=True)
    if config.position_embedding_type == "sinusoidal":
        sinusoids: Any = model.wpe
        sinusoids.to_empty(device=tables["wte.weight"].device)
        sinusoids.reset()
    return model.eval()
