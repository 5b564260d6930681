"""The teacher of a distillation: a model or a function that gives texts the vectors a student learns from.

It is a sentence-transformers model, a function named `package.module:function`, or any object with `encode`. Encoding
takes nearly all the time of a distillation, so the vectors are stored in blocks, and a run that was killed continues
with the next block.

One call of `SentenceTransformer.encode` keeps nothing until all texts are read. It sorts texts by characters, where
sorting by tokens spares a third of the padded tokens (1.01 instead of 1.42 per token on sentences of docstrings), and
its threads share each small step, where one thread per batch is twice as fast. So batches are cut here.
Left out: what is learned from the vectors (`gpt_embeddings.training.distillation`).
"""

import hashlib
import importlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gpt_embeddings.analysis.similarity import unit_rows
from gpt_embeddings.checkpoints.files import open_folder
from gpt_embeddings.outputs import atomic_file
from gpt_embeddings.progress import Bar
from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.threads import thread_pool


BLOCK_TEXTS = 4096  # a killed run encodes at most this many texts again
BATCH_TOKENS, DEVICE_BATCH_TOKENS = 1024, 2**15  # the former fits into the caches of a CPU
BATCH_CHARACTERS = 2**11  # for a teacher without a known tokenizer: about a second of a slow one
MAX_TOKENS = 128  # per text, for teachers that could read more
TOLD_SECONDS = 60  # remaining time from which it is reported
PROBE = ["The tide came in.", "A maré subiu e tornou a descer.", "harbour", "What is the time?"]
SAME_TEACHER = 0.99  # least cosine between the vectors that one teacher gives a text at two times
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Lengths = npt.NDArray[np.int64]
Encode = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Teacher:
    """A teacher that is ready to encode.

    Args:
        call: Takes a list of texts and returns vectors `(n_texts, width)`, as an array or anything numpy converts.
        name: Its name in the metadata of a run.
        package: The package it is from, for its version in the metadata.
        tokenizer: Its tokenizer, if known.
        on_cpu: Whether it may encode in several threads at once, one for each CPU core.
        batch_size: Most tokens of a batch, padding included; characters where the tokenizer is not known.
    """

    call: Encode
    name: str
    package: str | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    on_cpu: bool = False
    batch_size: int = BATCH_CHARACTERS

    def encode(self, texts: list[str]) -> npt.NDArray[np.float16]:
        """Return vectors of length 1, `(n_texts, width)`; empty texts, which are not passed on, get zeros.

        Raises:
            ValueError: The teacher did not return one finite vector for each text.
        """
        rows = [i for i, text in enumerate(texts) if text]
        asked = [texts[i] for i in rows] or PROBE[:1]  # of empty texts alone the width must be known
        try:
            found = np.asarray(self.call(asked), np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The teacher {self.name} did not return an array of numbers for a list of {len(asked)} texts: {error}"
            ) from error
        if found.ndim != 2 or len(found) != len(asked) or found.shape[1] == 0:
            raise ValueError(
                f"The teacher {self.name} returned an array of shape {found.shape} for {len(asked)} texts, expected "
                f"({len(asked)}, width): it takes a list of texts and returns one vector for each."
            )
        if not np.isfinite(found).all():
            raise ValueError(f"The teacher {self.name} returned values that are not finite.")
        vectors = np.zeros((len(texts), found.shape[1]), np.float16)
        vectors[rows] = unit_rows(found)[: len(rows)]
        return vectors

    def lengths(self, texts: Sequence[str]) -> Lengths:
        """Return how many tokens the teacher reads of each text, or how many characters the text has."""
        if self.tokenizer is None:
            return np.array([len(text) for text in texts])
        _, offsets = encode_flat(texts, self.tokenizer, max_length=MAX_TOKENS)
        return np.diff(offsets)


def load_teacher(teacher: Any) -> Teacher:
    """Load a teacher by its name, or wrap an object that encodes.

    A sentence-transformers model that is given by name runs on the device that it chooses, and reads at most 128
    tokens of a text. On a CPU with bfloat16 arithmetic its weights are rounded to that: the vectors of
    all-MiniLM-L6-v2 keep a cosine of 0.9999 with the exact ones and take less than half the time.

    Args:
        teacher: Folder or Hub name of a sentence-transformers model; `package.module:function`, for a function (or an
            object with `encode`) that may also be in a module of the current folder; or an object with `encode`.

    Raises:
        ImportError: sentence-transformers is not installed.
        OSError: There is no such model or function, or it cannot be loaded.
        TypeError: The object has no `encode`.
        ValueError: It does not return one finite, non-zero vector for each of a few sentences.
    """
    if isinstance(teacher, str):
        if FUNCTION.fullmatch(teacher) and not Path(teacher).exists():
            loaded = Teacher(_import_function(teacher), teacher, _package(teacher.split(":")[0]))
        else:
            loaded = _of_model(_load_model(teacher), Path(teacher).name if Path(teacher).is_dir() else teacher)
    elif hasattr(teacher, "preprocess") and hasattr(teacher, "max_seq_length"):  # a SentenceTransformer
        loaded = _of_model(teacher, str(teacher.model_card_data.base_model or type(teacher).__name__))
    elif callable(encode := getattr(teacher, "encode", None)):
        kind = type(teacher)
        loaded = Teacher(encode, f"{kind.__module__}.{kind.__qualname__}", _package(kind.__module__))
    else:
        raise TypeError(
            f"The teacher is a {type(teacher).__name__} without a method `encode`. Give an object that has one, the "
            "name of a sentence-transformers model, or 'package.module:function'."
        )
    if not loaded.encode(PROBE).any(1).all():
        raise ValueError(f"The teacher {loaded.name} returned a vector of zeros for a sentence.")
    return loaded


def encode_texts(teacher: Teacher, texts: Sequence[str], folder: str | os.PathLike[str]) -> npt.NDArray[np.float16]:
    """Return the teacher's vectors of texts; blocks that are in the folder already are not encoded again.

    A vector does not depend on the number of threads.

    Args:
        teacher: The teacher.
        texts: The texts.
        folder: Where the blocks are kept, each named by the digest of its texts; made if needed.

    Returns:
        Vectors of shape `(len(texts), width of the teacher)`, of length 1 (or 0, for empty texts).

    Raises:
        OSError: A block could not be written; those before it stay.
        ValueError: There is no text, the teacher did not return a finite vector for each, or the blocks are from
            another teacher.
    """
    if not len(texts):
        raise ValueError("There is no text to encode.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _check_same_teacher(teacher, folder / "probe.npy")
    lengths = teacher.lengths(texts)
    order = np.argsort(lengths, kind="stable")  # texts of one length need no padding
    blocks = [order[i : i + BLOCK_TEXTS] for i in range(0, len(order), BLOCK_TEXTS)]
    paths = [folder / f"{_digest(texts, rows)}.npy" for rows in blocks]
    missing = [rows for rows, path in zip(blocks, paths, strict=True) if not path.is_file()]
    total, left = int(lengths.sum()), int(sum(lengths[rows].sum() for rows in missing))
    unit = "character" if teacher.tokenizer is None else "token"
    begun = None
    with Bar(total=total, initial=total - left, desc="Teacher", unit=unit, unit_scale=True) as bar:
        for rows, path in zip(blocks, paths, strict=True):
            if path.is_file():
                continue
            start = time.perf_counter()
            _save(_encode_block(teacher, [texts[i] for i in rows], lengths[rows], bar), path)
            if begun is None:
                begun = time.perf_counter() - start
                _report_time(begun * (left / max(1, int(lengths[rows].sum())) - 1), len(texts), bar)
    vectors = np.concatenate([np.load(path) for path in paths])
    return vectors[np.argsort(order)]


def _encode_block(teacher: Teacher, texts: list[str], lengths: Lengths, bar: Bar) -> npt.NDArray[np.float16]:
    """Encode texts that are sorted by length, in batches."""
    bounds = _batches(lengths, teacher.batch_size)
    batches = [texts[start:stop] for start, stop in bounds]
    parts: list[npt.NDArray[np.float16]] = []
    for part in thread_pool().map(teacher.encode, batches) if teacher.on_cpu else map(teacher.encode, batches):
        start, stop = bounds[len(parts)]
        parts.append(part)
        bar.update(int(lengths[start:stop].sum()))
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise ValueError(f"The teacher {teacher.name} returned vectors of different widths: {widths}.")
    return np.concatenate(parts)


def _report_time(seconds: float, n_texts: int, bar: Bar) -> None:
    if seconds >= TOLD_SECONDS:
        bar.write(
            f"The teacher reads {n_texts:,} texts: about {seconds / 60:.0f} minutes left, judging by the first block.",
            file=sys.stderr,
        )


def _batches(lengths: Lengths, limit: int) -> list[tuple[int, int]]:
    """Cut ascending lengths into batches of at most `limit` tokens, padding included, or of one text.

    >>> _batches(np.array([1, 2, 2, 3, 9]), 6)
    [(0, 3), (3, 4), (4, 5)]
    """
    starts = [0]
    for i, length in enumerate(lengths.tolist()):
        if i > starts[-1] and (i + 1 - starts[-1]) * length > limit:
            starts.append(i)
    return list(pairwise([*starts, len(lengths)]))


def _check_same_teacher(teacher: Teacher, path: Path) -> None:
    """Compare the vectors of a few sentences with those in a file, or write the file if there is none."""
    probe = teacher.encode(PROBE)
    if not path.is_file():
        _save(probe, path)
        return
    saved = np.load(path)
    if saved.shape != probe.shape:
        found = f"width {probe.shape[1]}, not {saved.shape[1]}"
    elif (cosine := float((saved.astype(np.float32) * probe).sum(1).min())) < SAME_TEACHER:
        found = f"cosine {cosine:.3f}"
    else:
        return
    raise ValueError(
        f"The teacher {teacher.name} returns other vectors than when this run began ({found}). Use the teacher as it "
        "was, or choose another output."
    )


def _digest(texts: Sequence[str], rows: Lengths) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for i in rows:
        digest.update(texts[i].encode("utf-8", "replace") + b"\0")
    return digest.hexdigest()


def _save(vectors: npt.NDArray[np.float16], path: Path) -> None:
    try:
        with atomic_file(path) as new, new.open("wb") as file:
            np.save(file, vectors)
    except OSError as error:
        raise OSError(
            f"The teacher's vectors could not be written to {str(path)!r}: {error}. Free some disk space and run the "
            "same command again: it continues with this block."
        ) from error


def _import_function(name: str) -> Encode:
    module, attributes = name.split(":", 1)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a user's own module is there, and may import others later
    try:
        found = importlib.import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise OSError(
            f"The teacher {name!r} could not be imported: {error}. Give 'package.module:function', or the folder or "
            "Hub name of a sentence-transformers model."
        ) from error
    encode = found if callable(found) else getattr(found, "encode", None)
    if not callable(encode):
        raise OSError(f"The teacher {name!r} is neither a function nor an object with `encode`.")
    return encode


def _package(module: str) -> str | None:
    return next(iter(packages_distributions().get(module.split(".", 1)[0], [])), None)


def _load_model(name: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError("A teacher needs sentence-transformers: `pip install 'gpt-embeddings[train]'`.") from error
    if not name:
        raise OSError("The teacher's name is empty; give a folder or the Hub name of a sentence-transformers model.")
    try:
        if not os.path.exists(name):
            with suppress(FileNotFoundError):  # sentence-transformers knows some names without their owner
                open_folder(name).has("modules.json")
        model = SentenceTransformer(name)
    except Exception as error:  # every loader behind it has errors of its own
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise OSError(
            f"The teacher {name!r} could not be loaded: {reason} Give a folder that holds a sentence-transformers "
            "model, or the name of one on the Hub (for which the Hub must be reachable)."
        ) from error
    if model.max_seq_length == math.inf:  # a static model is fast, and reads whole texts
        return model
    model.max_seq_length = min(model.max_seq_length or MAX_TOKENS, MAX_TOKENS)
    return model.bfloat16() if model.device.type == "cpu" and _has_bfloat16() else model


def _of_model(model: Any, name: str) -> Teacher:
    """Wrap a SentenceTransformer."""
    on_cpu = model.device.type == "cpu"
    batch_size = BATCH_TOKENS if on_cpu else DEVICE_BATCH_TOKENS
    tokenizer = model.tokenizer  # a static model has a tokenizer of `tokenizers`
    if isinstance(tokenizer, Tokenizer):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    # Texts that are so short or long that their batches differ in size are one batch for `encode` too.
    call = partial(model.encode, batch_size=BLOCK_TEXTS, show_progress_bar=False)
    return Teacher(call, name, "sentence-transformers", tokenizer, on_cpu, batch_size)


def _has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16, which is otherwise slower than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)
