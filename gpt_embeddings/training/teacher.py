"""A teacher: what gives texts the vectors that a student is to learn.

It is a sentence-transformers model, or anything else that takes texts and returns vectors: a function by name
(`package.module:function`), or an object with `encode`. Encoding is the long part of a distillation, so that it is
done in blocks that stay on the disk: a run that is killed goes on with the next block.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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

from gpt_embeddings.checkpoints.files import open_folder
from gpt_embeddings.outputs import atomic_file
from gpt_embeddings.progress import Bar
from gpt_embeddings.threads import n_cores


BLOCK_TEXTS = 4096  # what a killed run has to encode again at most
BATCH_TOKENS, DEVICE_BATCH_TOKENS = 1024, 2**15  # on a CPU what its caches hold
MAX_TOKENS = 128  # of a text, for teachers that would read more
BATCH_CHARACTERS = 2**11  # of a teacher whose tokens are not known: about a second of a slow one
PROBE = ["The tide came in.", "A maré subiu e tornou a descer.", "harbour", "What is the time?"]
TIMED_TEXTS = 64  # by which the time is told
SAME = 0.99  # cosine of vectors of one teacher, read at two times
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Lengths = npt.NDArray[np.int64]


class CallableTeacher:
    """A teacher that is no sentence-transformers model: texts in, vectors out.

    It reads in one thread, as nothing is known of it.

    Args:
        encode: Takes a list of texts; returns vectors `(n_texts, width)`, as an array or whatever numpy makes one of.
        name: What the metadata of a run calls it.
        module: Where it is from, for the version of its package.

    Raises:
        ValueError: What it returns for a few sentences is not one finite vector for each, all of one width.
    """

    def __init__(self, encode: Callable[[list[str]], Any], name: str, module: str) -> None:
        self.name = name
        self._encode = encode
        packages = packages_distributions().get(module.split(".", 1)[0], [])
        self.package = packages[0] if packages else None
        self.probe = self._ask(PROBE)
        if not self.probe.any(1).all():
            raise ValueError(f"The teacher {name} gave a vector of zeros for a sentence.")

    def encode(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return the vectors of texts, `(n_texts, width)`; of those that are empty, which are not asked for, zeros.

        Raises:
            ValueError: They have another shape, or are not finite.
        """
        vectors = np.zeros((len(texts), self.probe.shape[1]), np.float32)
        rows = [i for i, text in enumerate(texts) if text]
        if rows:
            vectors[rows] = self._ask([texts[i] for i in rows])
        return vectors

    def _ask(self, texts: list[str]) -> npt.NDArray[np.float32]:
        try:
            vectors = np.asarray(self._encode(texts), np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The teacher {self.name} gave no array of numbers for a list of {len(texts)} texts: {error}"
            ) from error
        width = self.probe.shape[1] if hasattr(self, "probe") else "width"
        if (
            vectors.ndim != 2
            or len(vectors) != len(texts)
            or vectors.shape[1] == 0
            or width not in ("width", vectors.shape[1])
        ):
            raise ValueError(
                f"The teacher {self.name} gave an array of shape {vectors.shape} for {len(texts)} texts, expected "
                f"({len(texts)}, {width}): it takes a list of texts and returns a vector for each."
            )
        if not np.isfinite(vectors).all():
            raise ValueError(f"The teacher {self.name} gave values that are not finite.")
        return vectors


def load_teacher(teacher: Any) -> Any:
    """Load a teacher, or make one of an object.

    A sentence-transformers model is loaded for encoding on the device that it chooses. On a CPU with bfloat16
    arithmetic its weights are rounded to that: of all-MiniLM-L6-v2 the vectors keep a cosine of 0.9999 with the exact
    ones, and come more than twice as fast.

    Args:
        teacher: Folder or Hub name of a sentence-transformers model; `package.module:function` for a function that
            takes texts and returns vectors (or for an object with `encode`), also of a module in the current folder;
            or such an object itself.

    Returns:
        A `SentenceTransformer`, or a [`CallableTeacher`].

    Raises:
        ImportError: sentence-transformers is not installed.
        OSError: There is no such model or function, or it cannot be loaded.
        TypeError: The object has no `encode`.
        ValueError: What an object or a function returns for a few sentences is not one finite vector for each.
    """
    if isinstance(teacher, str):
        if FUNCTION.fullmatch(teacher) and not Path(teacher).exists():
            return _by_name(teacher)
        return _ready(_load_sentence_transformer(teacher))
    if _is_sentence_transformer(teacher):
        return _ready(teacher)
    encode = getattr(teacher, "encode", None)
    if not callable(encode):
        raise TypeError(
            f"A teacher is a name or has `encode`, got a {type(teacher).__name__}. For a function give its name, "
            "'package.module:function'."
        )
    kind = type(teacher)
    return CallableTeacher(encode, f"{kind.__module__}.{kind.__qualname__}", kind.__module__)


def name_of(teacher: Any) -> str:
    """Return what the metadata of a run calls a teacher that was given as a name or as an object."""
    if isinstance(teacher, str):
        return Path(teacher).name if Path(teacher).is_dir() else teacher
    if _is_sentence_transformer(teacher):
        return str(teacher.model_card_data.base_model or type(teacher).__name__)
    return f"{type(teacher).__module__}.{type(teacher).__qualname__}"


def package_of(teacher: Any) -> str | None:
    """Return the package that what [`load_teacher`] gave is from, if it is from one."""
    return teacher.package if isinstance(teacher, CallableTeacher) else "sentence-transformers"


def _is_sentence_transformer(teacher: Any) -> bool:
    return hasattr(teacher, "encode") and hasattr(teacher, "preprocess") and hasattr(teacher, "max_seq_length")


def _by_name(name: str) -> CallableTeacher:
    module, attributes = name.split(":", 1)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as a module of one's own lies there; it may import others later
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
        raise OSError(f"The teacher {name!r} is neither a function nor has `encode`.")
    return CallableTeacher(encode, name, module)


def _load_sentence_transformer(name: str) -> Any:
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
        return SentenceTransformer(name)
    except Exception as error:  # each of the loaders behind it has errors of its own
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise OSError(
            f"The teacher {name!r} could not be loaded: {reason} Give a folder that holds a sentence-transformers "
            "model, or the name of one on the Hub (for which the Hub must be reachable)."
        ) from error


def _ready(teacher: Any) -> Any:
    """Set a sentence-transformers model up for encoding."""
    if teacher.max_seq_length == math.inf:  # a static model, which is fast as it is and reads all of a text
        return teacher.eval()
    if teacher.device.type == "cpu" and _has_bfloat16():
        teacher = teacher.bfloat16()
    if (teacher.max_seq_length or MAX_TOKENS + 1) > MAX_TOKENS:
        teacher.max_seq_length = MAX_TOKENS
    return teacher.eval()


def tokenizer_of(teacher: Any) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of what [`load_teacher`] gave, if it is known."""
    if isinstance(teacher, CallableTeacher):
        return None
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
        ValueError: There is no text, the teacher gave values that are not finite, or it is not the one whose blocks
            are there.
    """
    if not len(texts):
        raise ValueError("There is no text to encode.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(teacher, CallableTeacher):
        _check_same(teacher, folder / "probe.npy")
    lengths = _n_tokens(teacher, texts)
    order = np.argsort(lengths, kind="stable")  # texts of a length need no padding
    blocks = [order[i : i + BLOCK_TEXTS] for i in range(0, len(order), BLOCK_TEXTS)]
    paths = [folder / f"{_digest(texts, rows)}.npy" for rows in blocks]
    there = sum(int(lengths[rows].sum()) for rows, path in zip(blocks, paths, strict=True) if path.is_file())
    parts = []
    with (
        _Readers(teacher) as readers,
        Bar(total=int(lengths.sum()), initial=there, desc="Teacher", unit=readers.unit, unit_scale=True) as bar,
    ):
        left = [rows for rows, path in zip(blocks, paths, strict=True) if not path.is_file()]
        if left:
            _tell_time(readers, texts, lengths, np.concatenate(left), bar)
        for rows, path in zip(blocks, paths, strict=True):
            if not path.is_file():
                _write(readers.encode([texts[i] for i in rows], lengths[rows], bar), path)
            parts.append(np.load(path))
    vectors = np.empty((len(texts), parts[0].shape[1]), np.float16)
    vectors[order] = np.concatenate(parts)
    return vectors


def _tell_time(readers: "_Readers", texts: Sequence[str], lengths: Lengths, left: Lengths, bar: Bar) -> None:
    """Read a few texts of all lengths, and say how long the others will take if that is a minute or more."""
    some = left[np.linspace(0, len(left) - 1, min(TIMED_TEXTS, len(left))).astype(int)]
    start = time.perf_counter()
    readers.encode([texts[i] for i in some], lengths[some], None)
    seconds = (time.perf_counter() - start) * lengths[left].sum() / max(1, lengths[some].sum())
    if seconds >= 60:
        bar.write(
            f"The teacher has {len(left):,} texts to read: about {seconds / 60:.0f} minutes on this machine "
            f"({n_cores()} cores), by the time that {len(some)} of them took.",
            file=sys.stderr,
        )


class _Readers:
    """Threads that a teacher reads in; where it is not on a CPU, or not known, one."""

    def __init__(self, teacher: Any) -> None:
        known = not isinstance(teacher, CallableTeacher)
        on_cpu = known and str(teacher.device) == "cpu"
        self.teacher, self.unit = teacher, "token" if known else "character"
        self.batch_size = (BATCH_TOKENS if on_cpu else DEVICE_BATCH_TOKENS) if known else BATCH_CHARACTERS
        alone = partial(torch.set_num_threads, 1) if on_cpu else None
        self.pool = ThreadPoolExecutor(n_cores() if on_cpu else 1, "teacher", alone)

    def __enter__(self) -> "_Readers":
        if not isinstance(self.teacher, CallableTeacher):
            self.teacher.encode([""], show_progress_bar=False)  # its tokenizer, which threads must not set up at once
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def encode(self, texts: list[str], lengths: Lengths, bar: Bar | None) -> npt.NDArray[np.float16]:
        """Encode texts, the shortest first."""
        parts = []
        bounds = _batches(lengths, self.batch_size)
        read = self.pool.map(lambda bound: self._read(texts[slice(*bound)]), bounds)
        for (start, stop), part in zip(bounds, read, strict=True):
            parts.append(part)
            if bar is not None:
                bar.update(int(lengths[start:stop].sum()))
        vectors = np.concatenate(parts)
        if not np.isfinite(vectors).all():
            raise ValueError("The teacher gave values that are not finite; is its checkpoint whole?")
        return vectors

    def _read(self, texts: list[str]) -> npt.NDArray[np.float16]:
        if isinstance(self.teacher, CallableTeacher):
            return _scaled(self.teacher.encode(texts)).astype(np.float16)
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
    """Return how many tokens the teacher reads of each text; where that is not known, how many characters it has."""
    lengths = np.array([len(text) for text in texts])
    if isinstance(teacher, CallableTeacher):
        return lengths
    order = np.argsort(lengths, kind="stable")
    for start in Bar(range(0, len(texts), BLOCK_TEXTS), desc="Counting", unit="block", leave=False):
        rows = order[start : start + BLOCK_TEXTS]
        features = teacher.preprocess([texts[i] for i in rows])
        if "attention_mask" not in features:
            break
        lengths[rows] = features["attention_mask"].sum(1).numpy()
    return lengths


def _check_same(teacher: CallableTeacher, path: Path) -> None:
    """Have the teacher be the one whose vectors are kept beside `path`, or keep what it is known by."""
    probe = _scaled(teacher.probe)
    if not path.is_file():
        return _write(probe.astype(np.float16), path)
    kept = np.load(path).astype(np.float32)
    if kept.shape != probe.shape or (cosine := float((kept * probe).sum(1).min())) < SAME:
        found = f"width {probe.shape[1]}, not {kept.shape[1]}" if kept.shape != probe.shape else f"cosine {cosine:.3f}"
        raise ValueError(
            f"The teacher {teacher.name} gives other vectors than when this run began ({found}). Have it as it was, "
            "or choose another output."
        )
    return None


def _scaled(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return vectors of length 1, and those of zeros as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _digest(texts: Sequence[str], rows: Lengths) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for i in rows:
        digest.update(texts[i].encode("utf-8", "replace") + b"\0")
    return digest.hexdigest()


def _write(vectors: npt.NDArray[np.float16], path: Path) -> None:
    try:
        with atomic_file(path) as new, new.open("wb") as file:
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
