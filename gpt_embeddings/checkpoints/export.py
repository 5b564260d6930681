"""Export for other libraries, which then need none of our code: a static table, or ONNX."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.arguments import check_choice
from gpt_embeddings.checkpoints.families import UNLIMITED
from gpt_embeddings.checkpoints.files import MODEL2VEC
from gpt_embeddings.checkpoints.saving import save_tokenizer
from gpt_embeddings.checkpoints.static import from_static, unknown_id
from gpt_embeddings.outputs import check_folder_name, write_json
from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.text.tokenizer import check_vocabulary, find_special_tokens, vocabulary_rows
from modeling_gpt_embeddings import GPTEmbeddingsModel


Format: TypeAlias = Literal["static", "model2vec", "onnx"]

# Texts of 1 to some 150 tokens that the cost of dropping positions is measured on.
SAMPLES = (
    "water",
    "The tide came in.",
    "How do I return a product that I bought last week?",
    "A man plays the guitar on a small stage in front of a crowd.",
    "Parliament voted to raise taxes on fuel from January, after a debate that lasted two days.",
    "The river burst its banks after a week of rain, and by morning the lower part of the village lay under water. "
    "People were taken to the school on the hill by boat. Nobody was hurt, but the bridge to the main road is closed, "
    "and engineers expect that it will take several weeks until heavy traffic can use it again. The mayor thanked the "
    "volunteers who had filled sand bags all night, and asked everybody to save drinking water for the time being.",
)


def export_model(
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike[str],
    format: Format,
    *,
    drop_positions: bool = False,
) -> str:
    """Write a model into a folder that other libraries load without our code.

    Args:
        model: The model.
        tokenizer: The tokenizer that belongs to it.
        folder: Where to; made if need be.
        format: `"static"` for a `StaticEmbedding` of sentence-transformers, which model2vec loads, too; `"model2vec"`
            for model2vec's own form; `"onnx"` for `model.onnx` beside the tokenizer, with the inputs `input_ids` and
            `attention_mask` and the outputs `last_hidden_state` and `pooler_output`.
        drop_positions: Whether to export a model with positions as a static table without them. A position table of
            zeros is dropped in any case, as nothing is lost.

    Returns:
        A line on how its vectors compare with the model's own.

    Raises:
        ImportError: The exporter of ONNX is not installed.
        ValueError: The format is unknown, or cannot hold this model, or the folder's name is blank.
    """
    check_choice("format", format, get_args(Format))
    check_vocabulary(tokenizer, model.config.vocab_size)
    check_folder_name(folder)
    folder = Path(folder)
    if format == "onnx":
        if drop_positions:
            raise ValueError("`drop_positions` is for static tables; an ONNX export keeps the positions.")
        return _export_onnx(model, tokenizer, folder)
    has_positions = model.wpe is not None and bool(model.wpe.weight.any())
    if has_positions and not drop_positions:
        raise ValueError(
            f"The model adds positions (`position_embedding_type` {model.config.position_embedding_type!r}), and a "
            "static table cannot hold them. Export it as 'onnx', or leave them out with `--drop-positions` "
            "(`drop_positions=True`)."
        )
    if find_special_tokens(tokenizer):
        raise ValueError(
            f"The {type(tokenizer).__name__} adds special tokens to each text, which static models leave out. Export "
            "the model as 'onnx'."
        )
    comparison = _export_static(model, tokenizer, folder, format)
    if not has_positions:
        return comparison
    input_ids, offsets = encode_flat(SAMPLES, tokenizer)
    with torch.no_grad():
        vectors = model.embed_bags(input_ids, offsets).float().cpu()  # (n_samples, n_embd)
        exported = from_static(folder)[0].embed_bags(input_ids, offsets).float()
    cosines, lengths = torch.cosine_similarity(vectors, exported), np.diff(offsets)
    return (
        f"Its vectors lack the positions: on {len(SAMPLES)} sample texts of {lengths.min()} to {lengths.max()} tokens "
        f"their cosine with the model's own is {cosines.mean():.3f} on average and at least {cosines.min():.3f}."
    )


def _export_static(model: GPTEmbeddingsModel, tokenizer: PreTrainedTokenizerBase, folder: Path, format: Format) -> str:
    length = model.config.n_positions
    # A tokenizer that encodes as `encode_flat` does: literal special tokens of a text are plain text.
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    known = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    if document["model"]["type"] == "BPE":  # no merge makes them, so as plain entries they are never found in a text
        special = {token["content"]: token["id"] for token in document["added_tokens"] if token["special"]}
        known = document["model"]["vocab"] = special | known
    added = [token for token in document["added_tokens"] if not (token["special"] and token["content"] in known)]
    backend = Tokenizer.from_str(json.dumps({**document, "added_tokens": added, "post_processor": None}))
    backend.no_padding()
    backend.no_truncation()
    if length < UNLIMITED:
        backend.enable_truncation(length)
    rows = vocabulary_rows(tokenizer)
    with torch.no_grad():
        table = model.embed_flat(torch.arange(rows, dtype=torch.int64)).cpu()  # (rows, n_embd)
    weights = torch.ones(rows) if model.token_weights is None else model.token_weights[:rows].float().cpu()
    if format == "model2vec":
        unknown = unknown_id(backend)
        if backend.get_vocab_size() != rows:
            raise ValueError(f"model2vec needs ids without gaps; {rows} rows have {backend.get_vocab_size()} tokens.")
        if unknown is not None and weights[unknown] != 0:
            raise ValueError(
                "model2vec leaves unknown tokens out of the mean, and this model counts them. Export it as 'static'."
            )
        weights[slice(0) if unknown is None else unknown] = 1  # model2vec leaves it out, whatever its weight
    weighted = bool((weights != 1).any())
    if weighted:
        table = (table.float() * weights.unsqueeze(1)).to(table.dtype)
    path = "." if format == "model2vec" else "0_StaticEmbedding"
    (folder / path).mkdir(parents=True, exist_ok=True)
    name = "embeddings" if format == "model2vec" else "embedding.weight"
    save_file({name: table.contiguous()}, folder / path / "model.safetensors", metadata={"format": "pt"})
    backend.save(str(folder / path / "tokenizer.json"))
    package = "sentence_transformers.models"  # where every version has these modules
    modules = [{"idx": 0, "name": "0", "path": path, "type": f"{package}.StaticEmbedding"}]
    if weighted:
        (folder / "1_Normalize").mkdir(exist_ok=True)
        modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{package}.Normalize"})
    write_json(modules, folder / "modules.json", sort_keys=True)
    config: dict[str, Any] = {"normalize": weighted, "max_length": length if length < UNLIMITED else None}
    if format == "model2vec":
        config |= {"model_type": MODEL2VEC, "architectures": ["StaticModel"]}
        write_json(config, folder / "config.json", sort_keys=True)
    else:  # what model2vec looks for stands beside what sentence-transformers does
        config |= {"model_type": "SentenceTransformer", "prompts": {}, "similarity_fn_name": "cosine"}
        write_json(config, folder / "config_sentence_transformers.json", sort_keys=True)
    if weighted:
        return "Its vectors are the model's own scaled to length 1: the token weights are in the rows of the table."
    return "Its vectors are the model's own."


def _export_onnx(model: GPTEmbeddingsModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    if importlib.util.find_spec("onnxscript") is None:
        raise ImportError("ONNX needs torch's exporter: `pip install 'gpt-embeddings[onnx]'`.")
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("position")}
    example = torch.zeros(2, min(3, model.config.n_positions), dtype=torch.int64)
    n_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model.eval(),
        (example, torch.ones_like(example)),
        folder / "model.onnx",
        input_names=["input_ids", "attention_mask"],
        output_names=["last_hidden_state", "pooler_output"],
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        external_data=n_bytes > 2**31 - 2**20,  # the limit of one file; a larger model has its tables in a second
        dynamo=True,
        verbose=False,
    )
    # Without the keys by which transformers would look for our code when it loads the tokenizer.
    config = json.loads(model.config.to_json_string())
    write_json(
        {name: value for name, value in config.items() if name not in ("auto_map", "model_type")},
        folder / "config.json",
        sort_keys=True,
    )
    save_tokenizer(tokenizer, model.config.n_positions, folder)
    return "Its vectors are the model's own; longer inputs than `n_positions` have to be cut by the tokenizer."
