"""The special tokens that a tokenizer adds around a text: OPT's `</s>` before it, or `[CLS]` and `[SEP]` around it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.flat_ids import FlatIds, take_spans
from gpt_embeddings.text.tokenizer import remember, without_limits


_PROBES = ("The tide came in.", "a", "1 2", "água", "")


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
    """Return what the post-processor of a fast tokenizer adds around each text; nothing for GPT-2's."""
    found: SpecialTokens = remember(tokenizer, "special tokens", lambda: _probe(tokenizer))
    return found


def _probe(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    backend = without_limits(tokenizer.backend_tokenizer)
    if backend.post_processor is None:
        return SpecialTokens()
    probe = backend.encode(_PROBES[0])
    inside = [i for i, sequence in enumerate(probe.sequence_ids) if sequence is not None]
    found = (
        SpecialTokens(tuple(probe.ids[: inside[0]]), tuple(probe.ids[inside[-1] + 1 :])) if inside else SpecialTokens()
    )
    for text in _PROBES:
        plain = backend.encode(text, add_special_tokens=False).ids
        if backend.encode(text).ids != [*found.before, *plain, *found.after]:
            raise ValueError(
                f"The tokenizer's post-processor {type(backend.post_processor).__name__} does not add the same ids to "
                f"every text: {text!r} differs. Use a tokenizer whose post-processor only adds special tokens."
            )
    return found
