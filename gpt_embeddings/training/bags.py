"""Token ids of many texts as one flat array with offsets, from which a training step takes some of the texts."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.text.encoding import Texts, encode_flat
from gpt_embeddings.text.flat_ids import FlatIds, take_spans


Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bags:
    """Texts as token ids: `input_ids[offsets[i]:offsets[i + 1]]` is text i."""

    input_ids: npt.NDArray[np.int32]  # (n_tokens,)
    offsets: Rows  # (n_texts + 1,)

    @classmethod
    def of(cls, texts: Texts, tokenizer: PreTrainedTokenizerBase, limit: int) -> "Bags":
        """Encode texts, each truncated to `limit` tokens.

        >>> from gpt_embeddings import load_tokenizer
        >>> bags = Bags.of(["the tide", "came in again"], load_tokenizer(), limit=2)
        >>> bags.offsets.tolist(), [part.tolist() for part in bags.take([1, 0])]
        ([0, 2, 4], [[66, 480, 1169, 20013], [0, 2, 4]])
        """
        return cls(*encode_flat(texts, tokenizer, max_length=limit))

    def numbers(self) -> Rows:
        """Return a number for each text; equal texts have equal numbers.

        >>> Bags(np.array([5, 5, 7, 5, 5], np.int32), np.array([0, 2, 3, 5])).numbers().tolist()
        [0, 1, 0]
        """
        buffers = [None, pa.py_buffer(self.offsets * self.input_ids.itemsize), pa.py_buffer(self.input_ids)]
        texts = pa.Array.from_buffers(pa.large_binary(), len(self), buffers)
        return texts.dictionary_encode().indices.to_numpy().astype(np.int64)

    def digest(self, *more: Rows) -> str:
        """Return a hash of the texts and of more arrays, by which a run knows its data again."""
        content = self.offsets.tobytes() + self.input_ids.tobytes() + b"".join(array.tobytes() for array in more)
        return blake2b(content, digest_size=16).hexdigest()

    def take(self, rows: Rows | list[int]) -> FlatIds:
        """Return ids and offsets of some of the texts."""
        return take_spans(self.input_ids, self.offsets[:-1][rows], np.diff(self.offsets)[rows])

    def __len__(self) -> int:
        return len(self.offsets) - 1
