"""The accelerated backend behind `encode_flat`: gigatoken, used only if it is proved equal to `tokenizers`.

It is compared with the reference on every character of Unicode, every vocabulary entry, every added token, and long
runs. Texts with a character that the two treat differently (a fallback character) go to `tokenizers`. The verdict is
stored in a file, so that the proof is made once for each tokenizer and versions of the libraries.

gigatoken encodes on its own threads, but in forked children and other workers on the calling thread, since a child
does not inherit threads. No thread forks while another encodes.
"""

import hashlib
import json
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub import cached_assets_path
from tokenizers import Tokenizer

from gpt_embeddings.outputs import write_json
from gpt_embeddings.text.tokenizer import FlatIds


PROBES_VERSION = 4  # part of a verdict's name: raise it when `_prove` changes
PROBE_BATCH = 4096
_BLOCK = 64  # characters that are compared in one text first
# Where Unicode has characters or may get some, and the ends of its private areas.
_CHARACTERS = [*range(0x80, 0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200), 0xF0000, 0x100000, 0x10FFFF]

# gigatoken 0.10 remembers every word that is not a token, in some 65 bytes, and forgets none: so a handle is made anew
# after so many tokens, which takes 0.15 s in a second or more and bounds it to 2 GB where no word comes twice.
MAX_TOKENS = 2**26

# So few are encoded one by one: a batch takes 0.3 ms to be wrapped up, a single text microseconds.
FEW_TEXTS, FEW_CHARACTERS = 64, 2**17

Encode: TypeAlias = Callable[[list[str]], FlatIds]

# What a probe is made of. `tokenizers` and gigatoken cut text by code and Unicode tables of their own, so the probes
# sit where character classes change and where GPT-2's pattern has its special cases.
_WORDS = (" ", "\n", "\t", "\r", "\u00a0", "\u3000", "a", "1", "!", "'", "s", "'s", "'re", "'LL")
_REPEATED = ("a", "=", "-", "\n", " ", "1", "ab", "é", "the", "\u200b", "\0")
_REPEATS = (15, 16, 17, 63, 64, 65, 499, 501, 1023)


class BatchNormalizer:
    r"""A normalizer as `tokenizer.json` describes it: lower case, and single ASCII characters replaced by others.

    `tokenizers` normalizes text by text, at about the speed at which it encodes; this takes a whole batch. Both look
    at each character alone (`str.lower` does not: it has two forms of a small sigma), so they are equal for all texts
    but those with a character of which only one of them knows the lower case; the proof finds these.

    >>> BatchNormalizer({"type": "Lowercase"}).apply(["Mug", "ÁGUA"]).to_pylist()
    ['mug', 'água']
    >>> BatchNormalizer({"type": "Replace", "pattern": {"String": "\n"}, "content": " "}).apply(["a\nb"]).to_pylist()
    ['a b']
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._lowercase = False
        self._table = np.arange(256, dtype=np.uint8)  # what each byte becomes
        for step in description["normalizers"] if description["type"] == "Sequence" else [description]:
            if step["type"] == "Lowercase":
                self._lowercase = True
                continue
            if step["type"] != "Replace":
                raise NotImplementedError(f"this tokenizer has the normalizer {step['type']}")
            old, new = step["pattern"].get("String", ""), step["content"]
            # Characters without upper and lower case, so that steps can be exchanged.
            if not all(len(text) == 1 and text.isascii() and not text.isalpha() for text in (old, new)):
                raise NotImplementedError(f"this tokenizer has the normalizer Replace of {step['pattern']} by {new!r}")
            self._table[self._table == ord(old)] = ord(new)
        self._last = int(np.flatnonzero(self._table != np.arange(256)).max(initial=-1))  # byte that is replaced

    def apply(self, texts: list[str]) -> pa.LargeStringArray:
        """Return texts as the tokenizer sees them."""
        column = pa.array(texts, pa.large_string())
        if self._lowercase:
            lowered = pc.ascii_lower(column)
            others = np.fromiter((not text.isascii() for text in texts), dtype=bool, count=len(texts))
            if others.any():  # much slower, so only for these texts; most have no capitals beyond ASCII
                wanted = pc.utf8_lower(column.filter(others))
                if not wanted.equals(lowered.filter(others)):
                    lowered = pc.replace_with_mask(lowered, others, wanted)
            column = lowered
        data = column.buffers()[2]
        if self._last >= 0 and data is not None and data.size:
            replaced = np.frombuffer(data, np.uint8)
            if replaced.min() > self._last:  # the usual case: no control characters, so nothing to look for
                return column
            replaced = replaced if replaced.flags.writeable else replaced.copy()  # nobody else has this column
            places = np.flatnonzero(replaced <= self._last)
            replaced[places] = self._table[replaced[places]]
            column = pa.LargeStringArray.from_buffers(len(column), column.buffers()[1], pa.py_buffer(replaced))
        return column


class GigatokenBackend:
    """One tokenizer in gigatoken, made from its `tokenizer.json` without the normalizer, which is applied before."""

    def __init__(self, description: str, reference: Encode, normalizer: BatchNormalizer | None = None) -> None:
        self._description, self._reference, self.normalizer = description, reference, normalizer
        self.set_fallback([])
        self._renew()

    def set_fallback(self, ranges: Iterable[Sequence[int]]) -> None:
        """Set the fallback characters, as ranges of code points."""
        self.fallback = [(int(first), int(last)) for first, last in ranges]
        # As Arrow's RE2 has it, which goes through text ten times as fast as Python's engines.
        self._pattern = "[" + "".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in self.fallback) + "]"

    def encode(self, texts: list[str]) -> FlatIds:
        """Return flat ids and offsets as `encode_flat` does, with gigatoken's own errors."""
        left = np.zeros(len(texts), dtype=bool)
        beyond_ascii = [i for i, text in enumerate(texts) if not text.isascii()] if self.fallback else []
        if beyond_ascii:
            column = pa.array([texts[i] for i in beyond_ascii], pa.large_string())
            left[beyond_ascii] = np.asarray(pc.match_substring_regex(column, self._pattern))
        if not left.any():
            return self._encode(texts)
        of_reference = self._reference([text for text, is_left in zip(texts, left, strict=True) if is_left])
        others = self._encode([text for text, is_left in zip(texts, left, strict=True) if not is_left])
        lengths = np.empty(len(texts), dtype=np.int64)
        lengths[left], lengths[~left] = np.diff(of_reference[1]), np.diff(others[1])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        input_ids, left_ids = np.empty(offsets[-1], dtype=np.int32), np.repeat(left, lengths)
        input_ids[left_ids], input_ids[~left_ids] = of_reference[0], others[0]
        return input_ids, offsets

    def _encode(self, texts: list[str]) -> FlatIds:
        if self._tokens > MAX_TOKENS:
            self._renew()
        column = None if self.normalizer is None else self.normalizer.apply(texts)
        if len(texts) <= FEW_TEXTS and sum(map(len, texts)) <= FEW_CHARACTERS:
            parts = [self._handle.encode(text) for text in (texts if column is None else column.to_pylist())]
            offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
            input_ids = np.concatenate([np.empty(0, dtype=np.uint32), *parts])
        else:
            given: Any = texts
            if column is not None:  # as gigatoken reads texts without making a Python string of each
                import awkward as ak  # type: ignore[import-untyped]  # comes with gigatoken

                _, ends, data = column.buffers()
                content = ak.contents.NumpyArray(
                    np.frombuffer(data or b"", np.uint8), parameters={"__array__": "char"}
                )
                index = ak.index.Index64(np.frombuffer(ends, np.int64, len(column) + 1))
                given = ak.Array(ak.contents.ListOffsetArray(index, content, parameters={"__array__": "string"}))
            rows = self._handle.encode_batch(given).layout
            input_ids, offsets = rows.content.data, rows.offsets.data.astype(np.int64, copy=False)
        self._tokens += len(input_ids)
        return input_ids.view(np.int32), offsets

    def _renew(self) -> None:
        import gigatoken

        self._handle, self._tokens = gigatoken.Tokenizer.from_json(self._description), 0


# Held while any backend encodes and around every fork: a child must not inherit a lock of gigatoken in mid-call.
encode_lock = threading.RLock()

_backends: dict[str, GigatokenBackend | None] = {}  # by digest; None if gigatoken was refused


def _start_child() -> None:
    """Let a forked child encode, on one thread: `TOKENIZERS_PARALLELISM=true` would have it wait for ever."""
    encode_lock.release()
    if os.environ.get("TOKENIZERS_PARALLELISM"):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=encode_lock.acquire, after_in_parent=encode_lock.release, after_in_child=_start_child)


def find_gigatoken(backend: Tokenizer, special_tokens: bool, reference: Encode) -> GigatokenBackend | None:
    """Return a tokenizer in gigatoken that gives the ids of `backend`, as `reference` does, or None with a warning."""
    try:
        import gigatoken  # noqa: F401
    except ImportError:
        return None
    document = backend.to_str()
    # Everything that a verdict depends on.
    versions = [metadata.version("gigatoken"), metadata.version("tokenizers"), PROBES_VERSION]
    key = json.dumps([document, special_tokens, versions, [platform.machine(), sys.platform]])
    digest = hashlib.sha256(key.encode()).hexdigest()
    with encode_lock:
        if digest not in _backends:
            try:
                _backends[digest] = _build(document, digest, backend, special_tokens, reference)
            except NotImplementedError as reason:
                _backends[digest] = None
                warnings.warn(
                    f"The accelerated tokenizer (gigatoken) is not used: {reason}. Encoding goes on with "
                    "`tokenizers`, with the same result, but slower.",
                    stacklevel=2,
                )
        return _backends[digest]


def _build(
    document: str, digest: str, backend: Tokenizer, special_tokens: bool, reference: Encode
) -> GigatokenBackend:
    """Return a proved backend, or raise a NotImplementedError that says what gigatoken or its normalizer cannot do."""
    content = json.loads(document)
    normalizer = BatchNormalizer(content["normalizer"]) if content["normalizer"] else None
    if normalizer is not None and (special_tokens or not all(token["special"] for token in content["added_tokens"])):
        # `tokenizers` cuts the text at added tokens before it normalizes what is between them.
        raise NotImplementedError("this tokenizer normalizes texts and looks for added tokens in them")
    if content["model"].get("dropout"):
        raise NotImplementedError("this tokenizer drops merges at random")
    if any(token["single_word"] for token in content["added_tokens"]):
        raise NotImplementedError("this tokenizer has an added token that matches whole words only (`single_word`)")
    content.update(normalizer=None, truncation=None, padding=None, post_processor=None)
    if not special_tokens:
        content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    try:
        candidate = GigatokenBackend(json.dumps(content), reference, normalizer)
    except Exception as error:  # the library names no type of its own
        raise NotImplementedError(
            f"it cannot load this tokenizer ({str(error).partition(chr(10))[0]:.200})"
        ) from error
    try:
        stored = json.loads((_verdicts() / f"{digest}.json").read_text(encoding="utf-8"))
        candidate.set_fallback(stored["fallback"])
        verdict = str(stored["verdict"])
    except (OSError, ValueError, KeyError, TypeError):  # absent or broken: the proof is made
        verdict = _prove(candidate, backend, reference)
        with suppress(OSError, ValueError):  # a cache that cannot be written costs three seconds next time
            write_json({"verdict": verdict, "fallback": candidate.fallback}, _verdicts() / f"{digest}.json")
    if verdict != "equal":
        raise NotImplementedError(verdict)
    return candidate


def _prove(candidate: GigatokenBackend, backend: Tokenizer, reference: Encode) -> str:
    """Find the fallback characters, then return "equal" or the text for which the two still differ."""
    texts = _beside(range(0x80))
    wrong = next(_differing(texts, candidate, reference), None)
    if wrong is None:
        # The characters beyond ASCII for which the two differ, as they know different versions of Unicode.
        candidate.set_fallback([])
        blocks = [_CHARACTERS[i : i + _BLOCK] for i in range(0, len(_CHARACTERS), _BLOCK)]
        joined = ["\n".join(_beside(block)) for block in blocks]
        suspects = [c for i in _differing(joined, candidate, reference) for c in blocks[i]]
        found = [suspects[i] for i in _differing(_beside(suspects), candidate, reference)]
        firsts = [c for i, c in enumerate(found) if i == 0 or found[i - 1] != c - 1]
        lasts = [c for i, c in enumerate(found) if i == len(found) - 1 or found[i + 1] != c + 1]
        candidate.set_fallback(zip(firsts, lasts, strict=True))
        # The texts on which the two have to agree.
        texts = ["", *("a{0}a 1{0}1 {0}'s  {0}".format(chr(c)) for c in range(0x3400))]
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
        wrong = next(_differing(texts, candidate, reference), None)
    return "equal" if wrong is None else f"its ids differ from those of `tokenizers` for {texts[wrong]!r:.60}"


def _differing(texts: list[str], candidate: GigatokenBackend, reference: Encode) -> Iterator[int]:
    """Yield the index of each text for which the two differ."""
    for i in range(0, len(texts), PROBE_BATCH):
        batch = texts[i : i + PROBE_BATCH]
        (ids, offsets), (wanted_ids, wanted_offsets) = candidate.encode(batch), reference(batch)
        if np.array_equal(ids, wanted_ids) and np.array_equal(offsets, wanted_offsets):
            continue
        for j in range(len(batch)):
            found, wanted = ids[offsets[j] : offsets[j + 1]], wanted_ids[wanted_offsets[j] : wanted_offsets[j + 1]]
            if not np.array_equal(found, wanted):
                yield i + j


def _beside(characters: Iterable[int]) -> list[str]:
    """Put each character where its ids show whether it is taken for a letter, a number or neither."""
    return ["a{0}1{0}'s".format(chr(c)) for c in characters]


def _verdicts() -> Path:
    """Return the folder of verdicts, in the Hugging Face cache (`HF_ASSETS_CACHE`); it raises where there is none."""
    return Path(cached_assets_path("gpt_embeddings", namespace="tokenizers", subfolder="verdicts"))
