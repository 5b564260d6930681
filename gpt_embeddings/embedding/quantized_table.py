"""A copy of the token table in float16 or int8, from which sums of rows are faster.

A table whose rows are whole numbers times a factor, as an int8 checkpoint gives them, is summed in int8 and nothing is
lost. A copy is made once per table, and made again when the table has changed: torch counts most changes, and the
checksums of rows show those through `.data` or numpy, which it does not count.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch.utils.weak import WeakIdKeyDictionary

from gpt_embeddings.checkpoints.int8_rows import quantize_rows


TableDtype: TypeAlias = Literal["float32", "float16", "int8"]

PROBED_ROWS = 64  # enough to reject nearly every table that is not made of int8 rows
EXACT = 1e-6  # of a row's largest entry: whole numbers times a factor, rounded in float32
FEW_ROWS = 512  # up to here it is faster to check the rows of the ids, from here on the whole table
CHUNK_ROWS = 1024  # of a table whose rows are hashed, so that the products stay in the processor's cache

_copies: Any = WeakIdKeyDictionary()  # by table, then by dtype: its last copy


@dataclass(frozen=True)
class QuantizedTable:
    """A copy of a table, with what tells whether the table has changed since."""

    dtype: Literal["float16", "int8"]
    rows: torch.Tensor
    """`(vocab_size, width)` in float16; in int8 uint8 rows, as `embed_bags` takes them."""

    error: float
    """The largest error of an entry, as a share of the largest entry of its row."""

    row_hashes: npt.NDArray[np.int64]
    """Of the table's rows, `(vocab_size,)`."""

    table_hash: str

    def is_current(self, table: torch.Tensor, ids: npt.NDArray[np.int32] | None) -> bool:
        """Return whether the rows of these ids, of shape `(n_tokens,)`, are as they were; None means all rows."""
        if ids is not None:
            rows: npt.NDArray[Any] = ids[(ids >= 0) & (ids < len(table))]  # the model refuses other ids
            if len(rows) > FEW_ROWS:
                seen = np.zeros(len(table), dtype=bool)
                seen[rows] = True
                rows = np.flatnonzero(seen)
            if len(rows) <= FEW_ROWS:
                return bool((_hash_rows(_bytes(table).take(rows, 0)) == self.row_hashes[rows]).all())
        return _hash_table(table) == self.table_hash


def quantize_table(table: torch.Tensor, dtype: TableDtype | None) -> QuantizedTable | None:
    """Copy a table of shape `(vocab_size, width)`; None if the table itself is to be summed.

    Without a dtype the copy is in int8 if that is exact within rounding.
    """
    table = table.detach()
    if dtype in ("float16", "int8"):
        if table.device.type != "cpu":
            raise ValueError(
                f"`weights` {dtype!r} needs a model on the CPU, but its table is on {table.device}. Move it with "
                '`model.to("cpu")`, or leave `weights` out.'
            )
        return _quantize(table, dtype)
    if dtype == "float32" or table.dtype != torch.float32 or table.device.type != "cpu":
        return None
    probe = table[torch.linspace(0, len(table) - 1, min(len(table), PROBED_ROWS)).long()]
    for rows in (probe, table):
        if not bool(rows.isfinite().all() & rows.any()):
            return None
        copy = _quantize(rows, "int8")
        if copy.error > EXACT:
            return None
    return copy


def find_quantized(
    table: torch.Tensor, dtype: TableDtype | None, ids: npt.NDArray[np.int32] | None = None
) -> QuantizedTable | None:
    """Return what [`quantize_table`] does, made again only if the table has changed.

    `table` must be the same object each time. `ids` are those whose rows will be summed, `(n_tokens,)`; None is any.
    """
    if dtype == "float32":
        return None
    copies = _copies.setdefault(table, {})
    state = (table.data_ptr(), None if table.is_inference() else table._version)
    known, copy = copies.get(dtype, (None, None))
    # Without a copy the table itself is summed, which is right whatever it holds by now.
    if known != state or (copy is not None and not copy.is_current(table, ids)):
        copy = quantize_table(table, dtype)
        copies[dtype] = (state, copy)
    return copy


def _quantize(table: torch.Tensor, dtype: Literal["float16", "int8"]) -> QuantizedTable:
    floats = table.float().cpu()
    largest = floats.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)  # (vocab_size,)
    if dtype == "float16":
        rows = floats.half()
        restored = rows.float()
    else:
        whole, scale = quantize_rows(floats)
        # Rows as the operator takes them: unsigned bytes, then factor and offset of the row in float32.
        factors = torch.stack([scale, -128 * scale], 1)  # (vocab_size, 2)
        rows = torch.cat([(whole.short() + 128).to(torch.uint8), factors.view(torch.uint8)], 1)
        restored = whole * scale.unsqueeze(1)
    error = float(((restored - floats).abs().amax(1) / largest).max())
    if not error < 1:
        raise ValueError(f"The token table has values that {dtype} cannot hold.")
    data = _bytes(table)
    hashes = [_hash_rows(data[i : i + CHUNK_ROWS]) for i in range(0, len(data), CHUNK_ROWS)]
    return QuantizedTable(dtype, rows, error, np.concatenate(hashes), _hash_table(table))


def _bytes(table: torch.Tensor) -> npt.NDArray[np.uint8]:
    return table.detach().cpu().contiguous().view(torch.uint8).numpy()


def _hash_rows(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return a number for each row: the sum of its words, each times an odd random number.

    Words have at most 32 bits and the sum has 64: modulo the length of a word, two flipped signs would cancel.
    """
    words = rows.view(f"i{np.gcd(rows.shape[1], 4)}")  # the longest words that fit
    hashes: npt.NDArray[np.int64] = np.einsum("ij,j->i", words, _factors(words.shape[1]))
    return hashes


@cache
def _factors(n: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 2**30, n) * 2 + 1


def _hash_table(table: torch.Tensor) -> str:
    return str(xxhash.xxh3_128_hexdigest(_bytes(table).data))
