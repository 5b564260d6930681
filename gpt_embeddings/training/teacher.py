"""A teacher: a sentence-transformers model that gives texts the vectors that a student is to learn.

Encoding is the long part of a distillation, so that it is done in blocks that stay on the disk: a run that is killed
goes on with the next block. Left out: what is learned from the vectors (`gpt_embeddings.training.distillation`).
"""

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gpt_embeddings.checkpoints.files import open_folder
from gpt_embeddings.outputs import whole_file
from gpt_embeddings.progress import Bar
from gpt_embeddings.threads import n_cores


BLOCK_TEXTS = 4096  # what a killed run has to encode again at most
BATCH_TOKENS, DEVICE_BATCH_TOKENS = 1024, 2**15  # on a CPU what its caches hold
MAX_TOKENS = 128  # of a text, for teachers that would read more

Lengths = npt.NDArray[np.int64]


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
    if not os.path.exists(name):
        with suppress(FileNotFoundError):  # sentence-transformers knows some names without their owner
            open_folder(name).has("modules.json")
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

    On a CPU batches are shared out to threads of our own, of which each computes alone: torch's threads share each
    small step and wait for each other busily. So a vector does not depend on the number of threads, and is within
    1e-6 of what `teacher.encode` gives (on a CPU without bfloat16) before it is rounded to float16.

    Args:
        teacher: What [`load_teacher`] gave.
        texts: The texts.
        folder: Where blocks are kept, each under the digest of its texts; made if need be.

    Returns:
        Vectors of shape `(len(texts), width of the teacher)`, of length 1.

    Raises:
        OSError: A block could not be written; those before it stay.
        ValueError: There is no text, or the teacher gave values that are not finite.
    """
    if not len(texts):
        raise ValueError("There is no text to encode.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lengths = _n_tokens(teacher, texts)
    order = np.argsort(lengths, kind="stable")  # texts of a length need no padding
    blocks = [order[i : i + BLOCK_TEXTS] for i in range(0, len(order), BLOCK_TEXTS)]
    paths = [folder / f"{_digest(texts, rows)}.npy" for rows in blocks]
    there = sum(int(lengths[rows].sum()) for rows, path in zip(blocks, paths, strict=True) if path.is_file())
    parts = []
    with (
        _Readers(teacher) as readers,
        Bar(total=int(lengths.sum()), initial=there, desc="Teacher", unit="token", unit_scale=True) as bar,
    ):
        for rows, path in zip(blocks, paths, strict=True):
            if not path.is_file():
                _write(readers.encode([texts[i] for i in rows], lengths[rows], bar), path)
            parts.append(np.load(path))
    vectors = np.empty((len(texts), parts[0].shape[1]), np.float16)
    vectors[order] = np.concatenate(parts)
    return vectors


class _Readers:
    """Threads that a teacher reads in; where it is not on a CPU, one."""

    def __init__(self, teacher: Any) -> None:
        on_cpu = str(teacher.device) == "cpu"
        self.teacher = teacher
        self.batch_tokens = BATCH_TOKENS if on_cpu else DEVICE_BATCH_TOKENS
        self.pool = ThreadPoolExecutor(n_cores() if on_cpu else 1, "teacher", torch.set_num_threads, (1,))

    def __enter__(self) -> "_Readers":
        self.teacher.encode([""], show_progress_bar=False)  # sets up its tokenizer, which threads must not do at once
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def encode(self, texts: list[str], lengths: Lengths, bar: Bar) -> npt.NDArray[np.float16]:
        """Encode texts, the shortest first."""
        parts = []
        bounds = _batches(lengths, self.batch_tokens)
        read = self.pool.map(lambda bound: self._read(texts[slice(*bound)]), bounds)
        for (start, stop), part in zip(bounds, read, strict=True):
            parts.append(part)
            bar.update(int(lengths[start:stop].sum()))
        vectors = np.concatenate(parts)
        if not np.isfinite(vectors).all():
            raise ValueError("The teacher gave values that are not finite; is its checkpoint whole?")
        return vectors

    def _read(self, texts: list[str]) -> npt.NDArray[np.float16]:
        with torch.inference_mode():
            vectors = self.teacher.encode(
                texts, batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True
            )
            return torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy().astype(np.float16)


def _batches(lengths: Lengths, most: int) -> list[tuple[int, int]]:
    """Cut ascending lengths into batches of at most so many tokens, padding included, or of one text.

    >>> _batches(np.array([1, 2, 2, 3, 9]), 6)
    [(0, 3), (3, 4), (4, 5)]
    """
    starts = [0]
    for i, length in enumerate(lengths.tolist()):
        if i > starts[-1] and (i + 1 - starts[-1]) * length > most:
            starts.append(i)
    return list(pairwise([*starts, len(lengths)]))


def _n_tokens(teacher: Any, texts: Sequence[str]) -> Lengths:
    """Return how many tokens the teacher reads of each text; of a teacher without attention, how many characters."""
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(lengths, kind="stable")
    for start in Bar(range(0, len(texts), BLOCK_TEXTS), desc="Counting", unit="block", leave=False):
        rows = order[start : start + BLOCK_TEXTS]
        features = teacher.preprocess([texts[i] for i in rows])
        if "attention_mask" not in features:
            break
        lengths[rows] = features["attention_mask"].sum(1).numpy()
    return lengths


def _digest(texts: Sequence[str], rows: Lengths) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for i in rows:
        digest.update(texts[i].encode("utf-8", "replace") + b"\0")
    return digest.hexdigest()


def _write(vectors: npt.NDArray[np.float16], path: Path) -> None:
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            np.save(file, vectors)
    except OSError as error:
        raise OSError(
            f"The teacher's vectors could not be written to {str(path)!r}: {error}. Make room on the disk and give "
            "the same command again: it goes on with this block."
        ) from error


def _has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16, which is otherwise slower than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


__all__ = ["encode_texts", "load_teacher", "tokenizer_of"]
