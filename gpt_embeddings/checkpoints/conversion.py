"""A GPT checkpoint to a `GPTEmbeddingsModel`, and the tables back into a GPT."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.checkpoints.families import BY_HAND, component_fields, find_family, find_keys, source_fields
from gpt_embeddings.checkpoints.files import DTYPES, Folder, open_checkpoint, open_file, read_json
from modeling_gpt_embeddings import GPTEmbeddingsModel


# No file confirms the size of a sinusoidal table; this limit is 1 GiB, 128 times that of XGLM-7.5B.
MAX_SINUSOID_ENTRIES = 2**28


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
    target = None if dtype == "auto" else _parse_dtype(dtype)  # a wrong one is refused before anything is fetched
    by_hand, in_memory = wte_key is not None, isinstance(source, nn.Module)
    tensors: Mapping[str, Any]
    if isinstance(source, nn.Module):
        name, given, tensors = type(source).__name__, _config_of(source, by_hand), source.state_dict()
    else:
        file = Path(source) if Path(source).is_file() else None
        folder = Folder(source if file is None else file.parent, revision=revision, token=token)
        name = folder.name if file is None else str(file)
        if file is None and folder.has("adapter_config.json"):
            raise ValueError(
                f"{name} holds an adapter of PEFT, which may change the tables. Load it with `peft`, and give the "
                "model that `merge_and_unload()` returns."
            )
        tensors = open_checkpoint(folder) if file is None else open_file(folder, file.name)
        missing = by_hand and not folder.has("config.json")
        given = source_fields({} if missing else read_json(folder.download("config.json")))
    family = find_family(given, position_embedding_type=position_embedding_type, wte_key=wte_key, wpe_key=wpe_key)
    if isinstance(source, nn.Module):
        tensors = {**tensors, **_computed_tables(source, tensors, [family.wte, family.wpe])}
    keys = find_keys(tensors, family, given, in_memory=in_memory)
    tables = {own: tensors[key] if in_memory else tensors[key]() for own, key in keys.items()}
    sizes = _sizes_of(name, keys, tables, fields.get("position_offset", family.position_offset))
    if in_memory or by_hand:  # else `config.json` takes precedence
        given |= sizes
    config: Any = GPTEmbeddingsConfig(**{**component_fields(family, given), **fields})
    said = None if in_memory else given.get("dtype", given.get("torch_dtype"))
    config.dtype = target or _parse_dtype(said or tables["wte.weight"].dtype)
    for key, table in tables.items():
        tables[key] = table.detach().to(config.dtype, copy=in_memory, memory_format=torch.contiguous_format)
    return build_model(config, tables, name)


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
    given = _config_of(gpt)
    family = find_family(given, position_embedding_type=model.config.position_embedding_type)
    parameters = dict(gpt.named_parameters(remove_duplicate=False))
    keys = find_keys(parameters, family, given, in_memory=True)
    tables = {own: parameters[key] for own, key in keys.items()}
    given |= _sizes_of(type(gpt).__name__, keys, tables, family.position_offset)
    expected = GPTEmbeddingsConfig(**component_fields(family, given))
    for field in ("position_offset", "token_scale", "scale_inputs_embeds", "sinusoid_type", "sinusoid_zero_row"):
        ours, theirs = getattr(model.config, field), getattr(expected, field)
        if ours != theirs:
            raise ValueError(
                f"`{field}` of the model is {ours!r}, the {given['model_type']} has {theirs!r}: they do not fit."
            )
    _check_shapes(type(gpt).__name__, model, tables)
    with torch.no_grad():
        for name, key in keys.items():
            parameters[key].copy_(model.get_parameter(name))
    return gpt


def _parse_dtype(dtype: Any) -> torch.dtype:
    parsed = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or not parsed.is_floating_point or parsed.itemsize < 2:
        raise ValueError(f"`dtype` must be 'auto' or a floating-point dtype such as 'bfloat16', got {dtype!r}.")
    return parsed


def _config_of(source: nn.Module, by_hand: bool = False) -> dict[str, Any]:
    """Return the fields of the configuration of a model in memory."""
    config: Any = getattr(source, "config", None)
    if config is None:
        config = getattr(getattr(source, "module", None), "config", None)  # DataParallel
    if config is None and not by_hand:
        raise ValueError(
            f"The source, a {type(source).__name__}, has no `config`: it is not a transformers model. {BY_HAND}"
        )
    if getattr(getattr(source, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError("The source puts a learned prompt before its tokens; give its `get_base_model()`.")
    return source_fields(config.to_dict() if hasattr(config, "to_dict") else {})


def _computed_tables(
    source: nn.Module, tables: Mapping[str, torch.Tensor], keys: Collection[str | None]
) -> dict[str, torch.Tensor]:
    """Return the tables under `keys` that an adapter or a parametrization of a plain look-up computes for each id."""
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


def _sizes_of(name: str, keys: Mapping[str, str], tables: Mapping[str, Any], position_offset: Any) -> dict[str, int]:
    """Check that tables are such, and return the sizes that they have, as fields of a configuration."""
    for own, table in tables.items():
        found = type(table).__name__
        if isinstance(table, torch.Tensor):
            if table.dtype in DTYPES.values() and table.ndim == 2 and not table.is_meta:
                continue
            found = f"{table.dtype} of shape {tuple(table.shape)} on the device '{table.device.type}'"
        raise ValueError(
            f"{name}: {keys[own]!r} is {found}; a table has two axes, the dtype {', '.join(DTYPES)}, and values."
        )
    rows, width = tables["wte.weight"].shape
    sizes = {"vocab_size": rows, "hidden_size": width}
    if "wpe.weight" in tables:
        rows, sizes["hidden_size"] = tables["wpe.weight"].shape
        sizes["max_position_embeddings"] = rows - (position_offset if type(position_offset) is int else 0)
    elif "project_in.weight" in tables:
        sizes["hidden_size"] = tables["project_in.weight"].shape[0]
    return sizes


def _check_shapes(name: str, model: GPTEmbeddingsModel, tables: Mapping[str, torch.Tensor]) -> None:
    expected = {key: tuple(table.shape) for key, table in model.state_dict().items()}
    for key, table in tables.items():
        if table.shape != expected.get(key):
            raise ValueError(
                f"{name}: the table for `{key}` has the shape {tuple(table.shape)}, the configuration says "
                f"{expected.get(key)}. Give the model and the configuration that belong together."
            )


def build_model(config: Any, tables: dict[str, torch.Tensor], name: str = "The source") -> GPTEmbeddingsModel:
    """Make a model around its tables, without allocating others first, in evaluation mode."""
    with torch.device("meta"):
        model = GPTEmbeddingsModel(config)
    _check_shapes(name, model, tables)
    if model.token_weights is not None:  # those that are not known are 1 each, until `fit_token_weights`
        table = tables["wte.weight"]
        tables = {"token_weights": torch.ones(len(table), dtype=table.dtype), **tables}
    model.load_state_dict(tables, assign=True)
    if config.position_embedding_type == "sinusoidal":
        sinusoids: Any = model.wpe
        if sinusoids.weight.numel() > MAX_SINUSOID_ENTRIES:
            raise ValueError(
                f"The source's configuration asks for sinusoids of {config.n_positions} x {config.n_embd} entries; no "
                f"table in the file confirms that size, and the limit is {MAX_SINUSOID_ENTRIES} entries."
            )
        sinusoids.to_empty(device=tables["wte.weight"].device)
        sinusoids.reset()
    return model.eval()
