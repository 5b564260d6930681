"""Static models of model2vec and sentence-transformers: a table; the vector of a text is the mean of its rows."""

import json
import os

from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.checkpoints.conversion import build_model
from gpt_embeddings.checkpoints.families import UNLIMITED
from gpt_embeddings.checkpoints.files import MODEL2VEC, Folder, find_static, read_json
from gpt_embeddings.text.tokenizer import check_vocabulary
from modeling_gpt_embeddings import GPTEmbeddingsModel


PADDING = ("[PAD]", "<pad>", "<|endoftext|>", "</s>", "[UNK]", "<unk>")


def from_static(
    source: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> tuple[GPTEmbeddingsModel, PreTrainedTokenizerBase]:
    """Load a model of model2vec, or a sentence-transformers model that is a `StaticEmbedding`.

    Args:
        source: A folder, or a Hub name.
        revision: Branch, tag or commit of a Hub name.
        token: Token for a gated or private repository; None is the one of `hf auth login`.

    Returns:
        The model, in evaluation mode, and its tokenizer, without special tokens around a text. Vectors are those of
        the library before a normalization.

    Raises:
        OSError: There is no such model, or it cannot be reached.
        ValueError: It is a model of another kind, or broken.
    """
    folder = Folder(source, revision=revision, token=token)
    place = find_static(folder)
    if place is None:
        raise ValueError(
            f"{folder.name} is neither a model2vec model nor a `StaticEmbedding` of sentence-transformers."
        )
    config = read_json(folder.download("config.json")) if folder.has("config.json") else {}
    ours = config.get("model_type") == MODEL2VEC
    path = folder.download(f"{place}model.safetensors")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is broken: {error}.") from error
    table = tensors.get("embedding.weight", tensors.get("embeddings"))
    if table is None or table.ndim != 2 or not table.is_floating_point():
        found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        raise ValueError(f"{path} has no float table named 'embedding.weight' or 'embeddings'; it has {found}.")
    # The rows that the library averages, one per token.
    if "mapping" in tensors:  # several tokens share a row
        table = table[tensors["mapping"].long()]
    if "weights" in tensors:
        table = table.float() * tensors["weights"].float().unsqueeze(1)
    path = folder.download(f"{place}tokenizer.json")
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises `Exception` itself
        raise ValueError(f"{path} is not a tokenizer: {error}.") from error
    backend.post_processor = None  # both libraries encode without special tokens
    cut = (backend.truncation or {}).get("max_length")  # sentence-transformers applies it
    backend.no_truncation()
    backend.no_padding()
    unknown = unknown_id(backend) if ours else None  # left out of the mean, so that it gets the weight 0
    length = config.get("max_length", 512) if ours else cut  # model2vec's default
    padding = next((token for token in PADDING if backend.token_to_id(token) is not None), None)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=padding)
    config = GPTEmbeddingsConfig(
        vocab_size=table.shape[0],
        n_positions=length if isinstance(length, int) and 0 < length < UNLIMITED else UNLIMITED,
        n_embd=table.shape[1],
        embd_pdrop=0.0,
        position_embedding_type="none",
        pooling="mean" if unknown is None else "weighted",
        bos_token_id=None,
        eos_token_id=None,
        dtype=table.dtype,
    )
    model = build_model(config, {"wte.weight": table.contiguous()})
    if model.token_weights is not None:
        model.token_weights[unknown] = 0
    model.config.pad_token_id = tokenizer.pad_token_id
    check_vocabulary(tokenizer, model.config.vocab_size)
    tokenizer.model_max_length = model.config.n_positions
    return model, tokenizer


def unknown_id(backend: Tokenizer) -> int | None:
    """Return the id of the unknown token, which model2vec leaves out, or None."""
    model = json.loads(backend.to_str())["model"]
    unknown = model.get("unk_token")
    found: int | None = model.get("unk_id") if unknown is None else backend.token_to_id(unknown)
    return found
