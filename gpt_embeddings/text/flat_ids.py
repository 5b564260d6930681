"""Flat ids: the token ids of many texts in one array, with the special tokens that a tokenizer adds around a text."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.tokenizer import remember, without_limits


FlatIds: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""Ids of shape `(n_tokens,)` and offsets of shape `(n_texts + 1,)`: text i is `ids[offsets[i]:offsets[i + 1]]`."""


def take_spans(
    input_ids: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> FlatIds:
    """Return spans of an array of ids, one after the other, as flat ids.

    >>> ids, offsets = take_spans(np.array([5, 6, 7, 8], np.int32), np.array([2, 0]), np.array([2, 1]))
    >>> ids.tolist(), offsets.tolist()
    ([7, 8, 5], [0, 2, 3])
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return input_ids[index], offsets


@dataclass(frozen=True)
class SpecialTokens:
    """The ids added before a text and those added after it."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of ids that each text gets."""
        return len(self.before) + len(self.after)

    def add_to(
        self,
        input_ids: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        *,
        max_length: int | None = None,
        bare: npt.NDArray[np.bool_] | None = None,
    ) -> FlatIds:
        """Add the special tokens to each text of flat ids but the `bare` ones, `(n_texts,)`; return flat ids.

        The end of a text that is longer than `max_length` with them is cut, as with `truncation=True`.
        """
        lengths = np.diff(offsets)  # (n_texts,)
        if not len(self) and (max_length is None or lengths.max(initial=0) <= max_length):
            return input_ids, offsets
        wrapped = np.ones(len(lengths), dtype=bool) if bare is None else ~bare
        added = len(self) * wrapped  # (n_texts,)
        if max_length is not None:
            kept = np.minimum(lengths, np.maximum(max_length - added, 0))
            input_ids, offsets = take_spans(input_ids, offsets[:-1], kept)
        # Text by text: where one ends, the next begins, and equal places keep their order.
        places = np.repeat([offsets[:-1][wrapped], offsets[1:][wrapped]], [len(self.before), len(self.after)], axis=0)
        ids = np.insert(input_ids, places.T.ravel(), np.tile([*self.before, *self.after], wrapped.sum()))
        return ids, offsets + np.concatenate([[0], np.cumsum(added)])


def find_special_tokens(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """Return what the post-processor of a fast tokenizer adds around each text: OPT's `</s>`, nothing for GPT-2's."""
    found: SpecialTokens = remember(tokenizer, _probe)
    return found


def _probe(backend: Tokenizer) -> SpecialTokens:
    backend = without_limits(backend)
    if backend.post_processor is None:
        return SpecialTokens()
    texts = ("The tide came in.", "a", "1 2", "água", "")
    probe = backend.encode(texts[0])
    inside = [i for i, sequence in enumerate(probe.sequence_ids) if sequence is not None]
    found = SpecialTokens()
    if inside:
        found = SpecialTokens(tuple(probe.ids[: inside[0]]), tuple(probe.ids[inside[-1] + 1 :]))
    for text in texts:
        plain = backend.encode(text, add_special_tokens=False).ids
        if backend.encode(text).ids != [*found.before, *plain, *found.after]:
            raise ValueError(
                f"The tokenizer's post-processor {type(backend.post_processor).__name__} does not add the same ids to "
                f"every text: {text!r} differs. Use a tokenizer whose post-processor only adds special tokens."
            )
    return found
