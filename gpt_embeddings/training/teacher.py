"""A teacher: a sentence-transformers model that gives texts the vectors that a student is to learn.

Encoding is the long part of a distillation, so that it is done in blocks that stay on the disk: a run that is killed
goes on with the next block. Left out: what is learned from the vectors (`gpt_embeddings.training.distillation`).
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets.utils import tqdm
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gpt_embeddings.outputs import whole_file


BLOCK_TEXTS = 4096  # what a killed run has to encode again at most
BATCH_TEXTS = 64
MAX_TOKENS = 128  # of a text, for teachers that would read more


def load_teacher(name: str) -> Any:
    """Load a sentence-transformers model for encoding on the device that it chooses.

    On a CPU with bfloat16 arithmetic its weights are rounded to that: of all-MiniLM-L6-v2 the vectors keep a cosine of
    0.9999 with the exact ones, and come more than twice as fast.

    Args:
        name: Folder or Hub name.

    Returns:
        A `SentenceTransformer`.

    Raises:
        ImportError: sentence-transformers is not installed.
        OSError: There is no such model, or it cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError("A teacher needs sentence-transformers: `pip install 'gpt-embeddings[train]'`.") from error
    if not name:
        raise OSError("The teacher's name is empty; give a folder or the Hub name of a sentence-transformers model.")
    try:
        teacher = SentenceTransformer(name)
    except Exception as error:  # each of the loaders behind it has errors of its own
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise OSError(
            f"The teacher {name!r} could not be loaded: {reason} Give a folder that holds a sentence-transformers "
            "model, or the name of one on the Hub (for which the Hub must be reachable)."
        ) from error
    if teacher.max_seq_length == math.inf:  # a static model, which is fast as it is and reads all of a text
        return teacher.eval()
    if teacher.device.type == "cpu" and _has_bfloat16():
        teacher = teacher.bfloat16()
    if (teacher.max_seq_length or MAX_TOKENS + 1) > MAX_TOKENS:
        teacher.max_seq_length = MAX_TOKENS
    return teacher.eval()


def tokenizer_of(teacher: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of what [`load_teacher`] gave."""
    tokenizer = teacher.tokenizer  # a static model has that of `tokenizers`
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer) if isinstance(tokenizer, Tokenizer) else tokenizer


def encode_texts(teacher: Any, texts: Sequence[str], folder: str | os.PathLike[str]) -> npt.NDArray[np.float16]:
    """Return the teacher's vectors of texts, from the blocks in a folder as far as they are there.

    Args:
        teacher: What [`load_teacher`] gave.
        texts: The texts, the same at each call for a folder.
        folder: Where blocks are kept; made if need be.

    Returns:
        Vectors of shape `(len(texts), width of the teacher)`, of length 1.

    Raises:
        OSError: A block could not be written; those before it stay.
        ValueError: The teacher gave values that are not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # texts of a length pad each other least
    starts = range(0, len(texts), BLOCK_TEXTS)
    vectors: npt.NDArray[np.float16] | None = None
    characters = sum(map(len, texts))
    with tqdm(total=characters, desc="Teacher", unit="character", unit_scale=True) as bar:
        for start in starts:
            rows = order[start : start + BLOCK_TEXTS]
            block = _block(teacher, [texts[i] for i in rows], folder / f"{start // BLOCK_TEXTS:06d}.npy")
            if vectors is None:
                vectors = np.empty((len(texts), block.shape[1]), np.float16)
            vectors[rows] = block
            bar.update(sum(len(texts[i]) for i in rows))
    if vectors is None:
        raise ValueError("There is no text to encode.")
    return vectors


def _block(teacher: Any, texts: list[str], path: Path) -> npt.NDArray[np.float16]:
    if path.is_file():
        return np.load(path)
    with torch.inference_mode():
        encoded = teacher.encode(texts, batch_size=BATCH_TEXTS, show_progress_bar=False, convert_to_tensor=True)
        vectors = torch.nn.functional.normalize(encoded.float(), dim=1).cpu().numpy().astype(np.float16)
    if not np.isfinite(vectors).all():
        raise ValueError("The teacher gave values that are not finite; is its checkpoint whole?")
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            np.save(file, vectors)
    except OSError as error:
        raise OSError(
            f"The teacher's vectors could not be written to {str(path)!r}: {error}. Make room on the disk and give "
            "the same command again: it goes on with this block."
        ) from error
    return vectors


def _has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16, which is otherwise slower than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


__all__ = ["encode_texts", "load_teacher", "tokenizer_of"]
