"""The teacher of a distillation: a model or a function that gives texts the vectors a student learns from.

Encoding takes nearly all the time of a distillation, so the vectors are stored in blocks, and a run that was killed
continues with the next block.

One call of `SentenceTransformer.encode` keeps nothing until all texts are read. It sorts texts by characters, where
sorting by tokens spares a third of the padded tokens (1.02 instead of 1.44 per token on sentences of docstrings), and
its threads share each small step, where one thread per batch is twice as fast. So texts are sorted and batched here.
"""

import hashlib
import math
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gpt_embeddings.analysis.similarity import unit_rows
from gpt_embeddings.checkpoints.files import Folder
from gpt_embeddings.progress import Bar
from gpt_embeddings.text.encoding import encode_flat
from gpt_embeddings.threads import thread_pool
from gpt_embeddings.training.runs import resumable_file


BLOCK_TEXTS = 1024  # a killed run encodes at most this many texts again
BATCH_TOKENS, DEVICE_BATCH_TOKENS = 1024, 2**15  # the former fits into the caches of a CPU
BATCH_CHARACTERS = 2**11  # for a teacher without a known tokenizer: about a second of a slow one
MAX_TOKENS = 128  # per text, for teachers that could read more
PROBE = ["The tide came in.", "A maré subiu e tornou a descer.", "harbour", "What is the time?"]
SAME_TEACHER = 0.99  # least cosine between the vectors that one teacher gives a text at two times
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Vectors = npt.NDArray[np.float16]


@dataclass(eq=False)
class Teacher:
    """A function of a list of texts that returns vectors `(n_texts, width)`, ready to encode.

    `package` is the one whose version goes into the metadata, `tokenizer` its tokenizer, if known. `on_cpu` is whether
    it may encode in several threads at once. `batch_size` is the most tokens of a batch, padding included, or
    characters if the tokenizer is not known.
    """

    call: Callable[[list[str]], Any]
    name: str
    package: str | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    on_cpu: bool = False
    batch_size: int = BATCH_CHARACTERS

    def __post_init__(self) -> None:
        self._width = 0  # not known yet
        self.probe = self._ask(PROBE)
        self._width = self.probe.shape[1]
        if not self.probe.any(1).all():
            raise ValueError(f"The teacher {self.name} returned a vector of zeros for a sentence.")

    def encode(self, texts: list[str]) -> Vectors:
        """Return vectors of length 1, `(n_texts, width)`; empty texts, which are not passed on, get zeros."""
        vectors = np.zeros((len(texts), self._width), np.float16)
        rows = [i for i, text in enumerate(texts) if text]
        if rows:
            vectors[rows] = self._ask([texts[i] for i in rows])
        return vectors

    def lengths(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return how many tokens the teacher reads of each text, or how many characters the text has."""
        if self.tokenizer is None:
            return np.array([len(text) for text in texts])
        return np.diff(encode_flat(texts, self.tokenizer, max_length=MAX_TOKENS)[1])

    def _ask(self, texts: list[str]) -> Vectors:
        try:
            found = np.asarray(self.call(texts), np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The teacher {self.name} did not return an array of numbers for a list of {len(texts)} texts: {error}"
            ) from error
        if found.ndim != 2 or len(found) != len(texts) or not found.size or self._width not in (0, found.shape[1]):
            raise ValueError(
                f"The teacher {self.name} returned an array of shape {found.shape} for {len(texts)} texts, expected "
                f"({len(texts)}, {self._width or 'width'}): it takes a list of texts and returns one vector for each."
            )
        if not np.isfinite(found).all():
            raise ValueError(f"The teacher {self.name} returned values that are not finite.")
        return unit_rows(found).astype(np.float16)


def load_teacher(teacher: Any) -> Teacher:
    """Load a teacher by its name, as `distil` takes it, or wrap an object that encodes.

    A sentence-transformers model that is given by name runs on the device that it chooses, and reads at most 128
    tokens of a text. On a CPU with bfloat16 arithmetic its weights are rounded to that: the vectors of
    all-MiniLM-L6-v2 keep a cosine of 0.9999 with the exact ones and take less than half the time.
    """
    name = None
    if isinstance(teacher, str) and FUNCTION.fullmatch(teacher) and not Path(teacher).exists():
        name = teacher
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # a user's own module is there, and may import others later
        try:
            teacher = pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            raise OSError(
                f"The teacher {name!r} could not be imported: {error}. Give 'package.module:function', or the folder "
                "or Hub name of a sentence-transformers model."
            ) from error
    elif isinstance(teacher, str):
        name = Path(teacher).name if Path(teacher).is_dir() else teacher
        teacher = _load_model(teacher)
    kind = type(teacher)
    encode = getattr(teacher, "encode", None if name is None else teacher)
    if not callable(encode):
        raise TypeError(
            f"The teacher is a {kind.__name__} without a method `encode`. Give an object that has one, the name of a "
            "sentence-transformers model, or 'package.module:function'."
        )
    if hasattr(teacher, "preprocess") and hasattr(teacher, "max_seq_length"):  # a SentenceTransformer
        on_cpu, tokenizer = teacher.device.type == "cpu", getattr(teacher, "tokenizer", None)
        if isinstance(tokenizer, Tokenizer):  # a static model's
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        return Teacher(
            partial(encode, batch_size=BLOCK_TEXTS, show_progress_bar=False),  # what is passed is one batch
            name or str(teacher.model_card_data.base_model or kind.__name__),
            "sentence-transformers",
            tokenizer if getattr(tokenizer, "is_fast", False) else None,
            on_cpu=on_cpu,
            batch_size=BATCH_TOKENS if on_cpu else DEVICE_BATCH_TOKENS,
        )
    module = kind.__module__ if name is None else name.split(":")[0]
    package = next(iter(packages_distributions().get(module.split(".", 1)[0], [])), None)
    return Teacher(encode, name or f"{kind.__module__}.{kind.__qualname__}", package)


def encode_texts(teacher: Teacher, texts: Sequence[str], folder: str | os.PathLike[str]) -> Vectors:
    """Return the teacher's unit vectors of texts, `(n_texts, width)`, kept in the folder in blocks by digest."""
    if not len(texts):
        raise ValueError("There is no text to encode.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "probe.npy").is_file():
        _save(teacher.probe, folder / "probe.npy")
    saved = np.load(folder / "probe.npy").astype(np.float32)
    if saved.shape != teacher.probe.shape or (saved * teacher.probe).sum(1).min() < SAME_TEACHER:
        raise ValueError(
            f"The teacher {teacher.name} returns other vectors than when this run began. Use the teacher as it was, "
            "or choose another output."
        )
    lengths = teacher.lengths(texts)
    order = np.argsort(lengths, kind="stable")  # texts of one length need no padding
    unit = "character" if teacher.tokenizer is None else "token"
    found = []
    with Bar(total=int(lengths.sum()), desc="Teacher", unit=unit, unit_scale=True) as bar:
        for start in range(0, len(order), BLOCK_TEXTS):
            rows = order[start : start + BLOCK_TEXTS]
            block = [texts[i] for i in rows]
            content = b"".join(text.encode("utf-8", "replace") + b"\0" for text in block)
            path = folder / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.npy"
            if path.is_file():
                bar.update(int(lengths[rows].sum()))
            else:
                size = max(1, teacher.batch_size // max(1, int(lengths[rows[-1]])))
                batches = [block[i : i + size] for i in range(0, len(block), size)]
                encode_all = thread_pool(os.getpid()).map if teacher.on_cpu else map
                parts = []
                for i, part in enumerate(encode_all(teacher.encode, batches)):
                    bar.update(int(lengths[rows[i * size : (i + 1) * size]].sum()))
                    parts.append(part)
                _save(np.concatenate(parts), path)
            found.append(np.load(path))
    return np.concatenate(found)[np.argsort(order)]


def _save(vectors: Vectors, path: Path) -> None:
    with resumable_file(path) as file:
        np.save(file, vectors)


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
                Folder(name).has("modules.json")
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
    if model.device.type != "cpu":
        return model
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older releases
    # A CPU without this arithmetic is slower in bfloat16 than in float32.
    return model.bfloat16() if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else model
