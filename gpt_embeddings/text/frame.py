"""What a tokenizer puts around a text: OPT's `</s>` before it, say, or `[CLS]` and `[SEP]` about it.

A model was trained with these ids, and counts its positions from the first of them. Left out: pairs of texts.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


PROBES = ("The tide came in.", "a", "1 2", "água", "")


@dataclass(frozen=True)
class Frame:
    """The ids before a text and those after it."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Number of ids that a text gets."""
        return len(self.before) + len(self.after)

    def put_around(
        self,
        input_ids: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        *,
        max_length: int | None = None,
        bare: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Put the frame around each of several texts.

        Args:
            input_ids: Ids of shape `(n_tokens,)`.
            offsets: Where each text begins, of shape `(n_texts + 1,)`.
            max_length: Longest sequence, frame included: a longer text loses its end, as in `truncation=True`.
            bare: Texts to leave without a frame, of shape `(n_texts,)`.

        Returns:
            Flat ids and offsets.
        """
        lengths = np.diff(offsets)  # (n_texts,)
        if not self.width and (max_length is None or lengths.max(initial=0) <= max_length):
            return input_ids, offsets
        framed = np.ones(len(lengths), dtype=bool) if bare is None else ~bare
        kept = lengths if max_length is None else np.minimum(lengths, np.maximum(max_length - self.width * framed, 0))
        ends = np.concatenate([[0], np.cumsum(kept + self.width * framed)])  # (n_texts + 1,)
        first = np.cumsum(kept) - kept
        within = np.arange(kept.sum())
        result = np.empty(ends[-1], dtype=np.int32)
        target = np.repeat(ends[:-1] + len(self.before) * framed - first, kept) + within
        result[target] = input_ids[np.repeat(offsets[:-1] - first, kept) + within]
        for i, token in enumerate(self.before):
            result[ends[:-1][framed] + i] = token
        for i, token in enumerate(self.after):
            result[ends[1:][framed] - len(self.after) + i] = token
        return result, ends


# Frames by tokenizer, each beside the post-processor that it is of, which may be changed in place.
_frames: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Hashable, Frame]]" = WeakKeyDictionary()


def find_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Find what a fast tokenizer's post-processor puts around a text.

    Args:
        tokenizer: A fast tokenizer.

    Returns:
        The frame, empty for a tokenizer like GPT-2's.

    Raises:
        ValueError: It does other things to some texts than putting the same ids around them.
    """
    processor = tokenizer.backend_tokenizer.post_processor
    if processor is None:
        return Frame()
    state = processor.__getstate__()
    if tokenizer not in _frames or _frames[tokenizer][0] != state:
        # A copy, so that the caller's tokenizer keeps its truncation and padding.
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        _frames[tokenizer] = (state, _probe(backend))
    return _frames[tokenizer][1]


def _probe(backend: Tokenizer) -> Frame:
    probe = backend.encode(PROBES[0])
    inside = [i for i, sequence in enumerate(probe.sequence_ids) if sequence is not None]
    frame = Frame(tuple(probe.ids[: inside[0]]), tuple(probe.ids[inside[-1] + 1 :])) if inside else Frame()
    for text in PROBES:
        plain = backend.encode(text, add_special_tokens=False).ids
        if backend.encode(text).ids != [*frame.before, *plain, *frame.after]:
            raise ValueError(
                f"The tokenizer's post-processor, {type(backend.post_processor).__name__}, does more to {text!r} than "
                "to put the same ids around each text. Give one that does not."
            )
    return frame


__all__ = ["Frame", "find_frame"]
