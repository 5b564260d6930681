"""The accelerated engine behind `encode_flat`: splintr, used only where it is proved equal to `tokenizers`.

A tokenizer is built from the same `tokenizer.json` as the reference and compared with it on some 25,000 probes: every
class of Unicode character in four contexts, every vocabulary entry, every added token, long runs. The verdict is kept
in a small file, so that a process pays for the proof once per tokenizer and versions of the libraries.

splintr starts a thread pool that a forked child inherits without its threads. So a child of a process that has loaded
splintr neither loads nor calls it in batches (both hang), but encodes text by text on the inherited handle; and no
thread forks while another encodes.
"""

import functools
import hashlib
import json
import os
import platform
import sys
import threading
import unicodedata
import warnings
from collections.abc import Callable
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import cached_assets_path
from tokenizers import Tokenizer

from gpt_embeddings.outputs import write_json
from gpt_embeddings.text.engine import FlatIds


PROBES_VERSION = 1  # part of a verdict's name: raise it when `probes` changes
PROBE_BATCH = 4096

# What a probe is made of. `tokenizers` and splintr read the same JSON with different regex engines and Unicode tables,
# so the probes sit where character classes change and where GPT-2's pattern has its special cases.
_WORDS = (" ", "\n", "\t", "\r", "\u00a0", "\u3000", "a", "1", "!", "'", "s", "'s", "'re", "'LL")
_REPEATED = ("a", "=", "-", "\n", " ", "1", "ab", "é", "the", "\u200b", "\0")
_REPEATS = (15, 16, 17, 63, 64, 65, 499, 501, 1023)


class Accelerator:
    """One tokenizer in splintr.

    Args:
        handle: What `splintr.from_json_bytes` returned.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def encode(self, texts: list[str]) -> FlatIds:
        """Return flat ids and offsets as `encode_flat` does, with splintr's own errors."""
        if _inherited:
            parts = [self._handle.encode_flat(text) for text in texts]
            offsets = np.zeros(len(parts) + 1, dtype=np.int64)
            np.cumsum([len(part) // 4 for part in parts], out=offsets[1:])
            input_ids = b"".join(parts)
        else:
            input_ids, ends = self._handle.encode_batch_flat(texts)
            offsets = np.frombuffer(ends, dtype=np.uint64).astype(np.int64)
        # A copy, because torch wants memory that may be written to.
        return np.frombuffer(input_ids, dtype=np.uint32).astype(np.int32), offsets


# Held while any engine encodes and around every fork: a child must not inherit a lock of the engine's in mid-call.
encode_lock = threading.RLock()

_accelerators: dict[str, Accelerator | None] = {}  # by `_digest`; None where splintr was refused
_loaded = False  # whether this process has loaded a tokenizer into splintr
_inherited = False  # whether a parent had, when it forked this process


def _after_fork_in_child() -> None:
    global _inherited
    _inherited = _inherited or _loaded
    encode_lock.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(
        before=encode_lock.acquire, after_in_parent=encode_lock.release, after_in_child=_after_fork_in_child
    )


def find_accelerator(
    backend: Tokenizer, special_tokens: bool, reference: Callable[[list[str]], FlatIds]
) -> Accelerator | None:
    """Return a tokenizer in splintr that gives the ids of the reference, or None.

    None comes without a word where splintr is not installed, and with one warning where it cannot stand in.

    Args:
        backend: The reference tokenizer, without truncation and padding.
        special_tokens: Whether special tokens that are spelled out in a text are recognised.
        reference: Encodes texts with `backend` in that mode.
    """
    try:
        import splintr
    except ImportError:
        return None
    document = backend.to_str()
    digest = _digest(document, special_tokens)
    with encode_lock:
        if digest not in _accelerators:
            try:
                _accelerators[digest] = _build(splintr, document, digest, backend, special_tokens, reference)
            except _RefusedError as reason:
                _accelerators[digest] = None
                warnings.warn(
                    f"The accelerated tokenizer (splintr) is not used: {reason}. Encoding goes on with `tokenizers`, "
                    "with the same result, but slower.",
                    stacklevel=2,
                )
        return _accelerators[digest]


class _RefusedError(Exception):
    """splintr cannot stand in for this tokenizer."""


def _build(
    splintr: Any,
    document: str,
    digest: str,
    backend: Tokenizer,
    special_tokens: bool,
    reference: Callable[[list[str]], FlatIds],
) -> Accelerator:
    global _loaded
    if _inherited:
        raise _RefusedError(
            "this process was forked after splintr had been loaded, and only tokenizers that the parent had made "
            "ready can be used here (call `gpt_embeddings.text.encoding.prepare(tokenizer)` before the fork)"
        )
    verdict = _read_verdict(digest)
    if verdict is not None and verdict != "equal":
        raise _RefusedError(verdict)
    description = _describe(document, special_tokens)
    _loaded = True
    try:
        accelerator = Accelerator(splintr.from_json_bytes(description))
    except Exception as error:  # the library names no type of its own
        raise _RefusedError(f"it cannot load this tokenizer ({error})") from error
    if verdict is None:
        verdict = _compare(accelerator, backend, reference)
        _write_verdict(digest, verdict)
        if verdict != "equal":
            raise _RefusedError(verdict)
    return accelerator


def _describe(document: str, special_tokens: bool) -> bytes:
    """Return the tokenizer.json that splintr is given, or refuse what it is known to get wrong."""
    content = json.loads(document)
    if content["model"].get("dropout"):
        raise _RefusedError("this tokenizer drops merges at random")
    if any(token["single_word"] for token in content["added_tokens"]):
        raise _RefusedError("this tokenizer has an added token that matches whole words only (`single_word`)")
    content.update(truncation=None, padding=None, post_processor=None)  # nothing is added, cut or padded
    if not special_tokens:
        content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    return json.dumps(content).encode()


def _digest(document: str, special_tokens: bool) -> str:
    """Name a tokenizer, a mode and everything else that a verdict depends on."""
    versions = [metadata.version("splintr-rs"), metadata.version("tokenizers"), PROBES_VERSION]
    machine = [platform.machine(), sys.platform, unicodedata.unidata_version]
    key = json.dumps([document, special_tokens, versions, machine])
    return hashlib.sha256(key.encode()).hexdigest()


def _compare(accelerator: Accelerator, backend: Tokenizer, reference: Callable[[list[str]], FlatIds]) -> str:
    texts = probes(backend)
    for i in range(0, len(texts), PROBE_BATCH):
        batch = texts[i : i + PROBE_BATCH]
        (ids, offsets), (wanted_ids, wanted_offsets) = accelerator.encode(batch), reference(batch)
        if np.array_equal(ids, wanted_ids) and np.array_equal(offsets, wanted_offsets):
            continue
        for j, text in enumerate(batch):
            found = ids[offsets[j] : offsets[j + 1]]
            if not np.array_equal(found, wanted_ids[wanted_offsets[j] : wanted_offsets[j + 1]]):
                return f"its ids differ from those of `tokenizers` for {text!r:.60}"
    return "equal"


def probes(backend: Tokenizer) -> list[str]:
    """Return the texts on which splintr has to agree with `backend`."""
    texts = ["", *_character_probes()]
    texts += [a + b + c for a, b, c in product(_WORDS, repeat=3)]
    texts += [unit * n + end for unit in _REPEATED for n in _REPEATS for end in ("", "x")]
    for token in backend.get_added_tokens_decoder().values():
        text = token.content
        texts += [a + text + b for a in ("", " ", "a", "\n") for b in ("", " ", "a", "\n")]
        texts += [text * 2, text[1:], text[:-1], text.upper(), text.lower()]
    size = backend.get_vocab_size(with_added_tokens=False)
    entries = backend.decode_batch([[i] for i in range(size)], skip_special_tokens=False)
    for i in range(0, size, 40):
        texts += ["".join(entries[i : i + 40]), " ".join(entries[i : i + 40])]
    return texts


@functools.lru_cache(maxsize=1)
def _character_probes() -> list[str]:
    """Put characters on both sides of every change of class, and samples between, among letters, digits, quotes."""
    scalars = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    kinds = [unicodedata.category(chr(c))[0] for c in scalars]
    chosen = {0xE000, 0xF8FF, sys.maxunicode, *range(0x3400), *range(0x3400, 0xD800, 64), *range(0x10000, 0x40000, 64)}
    for i in range(1, len(scalars)):
        if kinds[i] != kinds[i - 1]:
            chosen |= {scalars[i - 1], scalars[i]}
    return ["a{0}a 1{0}1 {0}'s  {0}".format(chr(c)) for c in sorted(chosen)]


def _verdicts() -> Path:
    """Return the folder of verdicts, in the Hugging Face cache (`HF_ASSETS_CACHE`); it raises where there is none."""
    return Path(cached_assets_path("gpt_embeddings", namespace="tokenizers", subfolder="verdicts"))


def _read_verdict(digest: str) -> str | None:
    try:
        verdict = json.loads((_verdicts() / f"{digest}.json").read_text(encoding="utf-8"))["verdict"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or broken: the proof is made again
    return verdict if isinstance(verdict, str) else None


def _write_verdict(digest: str, verdict: str) -> None:
    try:
        write_json({"verdict": verdict}, _verdicts() / f"{digest}.json")
    except (OSError, ValueError):
        return  # a cache that cannot be written costs two seconds next time


__all__ = ["Accelerator", "encode_lock", "find_accelerator", "probes"]
