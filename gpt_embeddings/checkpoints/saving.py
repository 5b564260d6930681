"""What a saved folder contains: the one place that writes a model and its tokenizer for all libraries.

A checkpoint with `wte` as int8 rows, each with a float32 scale, is a quarter of the size; loaders give a float table.
"""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.checkpoints.files import read_json
from gpt_embeddings.outputs import check_folder_name, write_json
from gpt_embeddings.text.tokenizer import check_vocabulary
from modeling_gpt_embeddings import GPTEmbeddingsModel, GPTEmbeddingsPreTrainedModel


TRAINING_METADATA = "training_metadata.json"
COMPONENT = {
    "AutoConfig": "configuration_gpt_embeddings.GPTEmbeddingsConfig",
    "AutoModel": "modeling_gpt_embeddings.GPTEmbeddingsModel",
}
LARGEST = 127  # of int8 rows
POOLING_FILE = "1_Pooling/config.json"  # written for mean pooling only


def save_model_and_tokenizer(
    folder: Path,
    model: GPTEmbeddingsPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    metadata: Mapping[str, Any] | None = None,
) -> PreTrainedTokenizerBase:
    """Write a model, with a head or without, and its tokenizer into a folder that exists; return the latter as saved.

    `metadata` of a training run goes into `training_metadata.json`, which a push puts into the card.
    """
    check_vocabulary(tokenizer, model.config.vocab_size)
    model.save_pretrained(folder)
    config = read_json(folder / "config.json")
    # The entry of a model with a head lacks AutoModel. Entries that name another repository are dropped.
    heads = {name: path for name, path in config.get("auto_map", {}).items() if "--" not in path}
    write_json({**config, "auto_map": {**COMPONENT, **heads}}, folder / "config.json", sort_keys=True)
    tokenizer = save_tokenizer(tokenizer, model.config.n_positions, folder)
    # The files from which sentence-transformers 6 loads the model with its own module classes. Mean pooling is one of
    # these. Its module for weights holds them a second time, as a Python list, so a model with weighted pooling
    # outputs its `pooler_output` as the vector of the text.
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
    if model.config.pooling == "mean":
        output, name = "last_hidden_state", "token_embeddings"
        pooling = {"idx": 1, "name": "1", "path": "1_Pooling"}
        files["modules.json"].append({**pooling, "type": f"{modules}.sentence_transformer.modules.pooling.Pooling"})
        files[POOLING_FILE] = {
            "embedding_dimension": model.config.n_embd,
            "pooling_mode": "mean",
            "include_prompt": True,
        }
    files["sentence_bert_config.json"] = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": output}},
        "module_output_name": name,
    }
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        write_json(content, folder / path, sort_keys=True)
    if metadata:
        write_json(metadata, folder / TRAINING_METADATA)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, n_positions: int, folder: Path) -> PreTrainedTokenizerBase:
    """Write a tokenizer, without truncation and padding, so that each version of transformers gives the same ids.

    It is saved under the general class `PreTrainedTokenizerFast`, which reads `tokenizer.json` as it is: transformers
    5 builds other classes, such as `GPT2Tokenizer`, from vocabulary and merges alone and loses a normalizer. With a
    class in `tokenizer_config.json` transformers 4 does not look at `config.json`, where it would find that the model
    needs remote code and ask for consent; 5.0 to 5.24 always look there. The object itself is not changed; the saved
    one is returned.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = n_positions
    for name in ("is_local", "local_files_only", "token"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(folder)
    if tokenizer.is_fast:
        general: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": list(tokenizer.model_input_names),  # other defaults in transformers 4
        }
        split = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] or {}
        if "add_prefix_space" in split:  # transformers 4 sets it anew from here
            general["add_prefix_space"] = split["add_prefix_space"]
        config = read_json(folder / "tokenizer_config.json")
        write_json({**config, **general}, folder / "tokenizer_config.json", sort_keys=True)
    return tokenizer


def quantize_rows(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row of a finite table, `(n_rows, width)`, to 255 levels of int8; its float32 scale is beside it.

    The error of their product is at most half a scale.

    >>> rows, scale = quantize_rows(torch.tensor([[0.5, -1.27], [0.0, 0.0]]))
    >>> rows.tolist(), [round(factor, 4) for factor in scale.tolist()]
    ([[50, -127], [0, 0]], [0.01, 0.0])
    """
    table = table.detach().float().cpu()
    largest = table.abs().amax(1)
    if not bool(largest.isfinite().all()):
        raise ValueError("The table has values that are not finite.")
    scale = largest / LARGEST
    rows = (table / torch.where(scale > 0, scale, 1).unsqueeze(1)).round()
    return rows.clamp(-LARGEST, LARGEST).to(torch.int8), scale


def save_int8(model: GPTEmbeddingsModel, folder: str | os.PathLike[str]) -> float:
    """Save a model as `save_pretrained` does, but its token table as int8 rows; the model does not change.

    Returns:
        The largest error of an entry relative to the largest entry of its row; at most 1/254.
    """
    if not isinstance(model, GPTEmbeddingsModel):
        raise TypeError(f"`model` must be a GPTEmbeddingsModel, got {type(model).__name__}.")
    check_folder_name(folder)
    rows, scale = quantize_rows(model.wte.weight)
    model.save_pretrained(folder, state_dict={**model.state_dict(), "wte.weight": rows, "wte_scale": scale})
    error = (rows * scale.unsqueeze(1) - model.wte.weight.detach().float().cpu()).abs().amax(1)
    return float((error / (LARGEST * scale).clamp(min=torch.finfo(torch.float32).tiny)).max())
