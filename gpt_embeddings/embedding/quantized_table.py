"""Sums of token rows out of a table in 16 or 8 bits: there is less of it to read, and sums are float32 as ever.

A table whose rows are whole numbers times a factor, as a checkpoint in int8 gives them, is summed as it was stored
and nothing is lost. Left out: checkpoints (`gpt_embeddings.checkpoints.int8_rows`).
"""

from typing import Any, Literal, TypeAlias, get_args

import torch
from torch.utils.weak import WeakIdKeyDictionary

from gpt_embeddings.checkpoints.int8_rows import quantize_rows
from modeling_gpt_embeddings import sum_rows


TableDtype: TypeAlias = Literal["float32", "float16", "int8"]

PROBED_ROWS = 64  # tell nearly every table that is not of int8 rows
_kept: Any = WeakIdKeyDictionary()  # of each table, by form: what was seen of it, and its rows
EXACT = 1e-6  # of a row's largest entry: whole numbers times a factor, rounded in float32


class QuantizedTable:
    """A copy of a table in another form, to be summed.

    Args:
        table: Table of shape `(vocab_size, width)`, finite.
        form: `"float16"`, or `"int8"`: whole numbers from -127 to 127 and a float32 factor for each row.

    Raises:
        ValueError: The table is not finite, or too large for float16.
    """

    def __init__(self, table: torch.Tensor, form: Literal["float16", "int8"]) -> None:
        table = table.detach().float().cpu()
        largest = table.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)  # (vocab_size,)
        if form == "float16":
            self._rows = table.half()
            unpacked = self._rows.float()
        else:
            rows, scale = quantize_rows(table)
            # What the operator wants: unsigned bytes, then factor and offset of the row as float32.
            factors = torch.stack([scale, -128 * scale], 1)  # (vocab_size, 2)
            self._rows = torch.cat([(rows.short() + 128).to(torch.uint8), factors.view(torch.uint8)], 1)
            unpacked = rows * scale.unsqueeze(1)
        self.form = form
        self.error = float(((unpacked - table).abs().amax(1) / largest).max())
        """The largest error of an entry, as a share of the largest entry of its row."""
        if not self.error < 1:
            raise ValueError(f"The token table has values that {form} cannot hold.")

    def __call__(
        self, input_ids: torch.Tensor, offsets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sum the rows of each document, times their weights, `(n_documents, width)`, float32."""
        if self.form == "float16":
            return sum_rows(
                self._rows, input_ids, offsets, weights=None if weights is None else weights.half()
            ).float()
        weights = None if weights is None else weights.float()
        sums: torch.Tensor = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            self._rows, input_ids, offsets.to(input_ids.dtype), False, 0, False, weights, None, True
        )
        return sums


def pack_rows(table: torch.Tensor, form: TableDtype | None) -> QuantizedTable | None:
    """Return a table to sum rows of, or None to sum those of the table itself.

    Args:
        table: Table of shape `(vocab_size, width)`.
        form: The form; None takes int8 where the table is of such rows to within rounding.

    Raises:
        ValueError: The form is unknown, or cannot hold the table.
    """
    if form not in (None, *get_args(TableDtype)):
        raise ValueError(f"`weights` must be None, 'float32', 'float16' or 'int8', got {form!r}.")
    if form == "float16" or form == "int8":
        return QuantizedTable(table, form)
    if form == "float32" or table.dtype != torch.float32 or table.device.type != "cpu":
        return None
    probe = table[torch.linspace(0, len(table) - 1, min(len(table), PROBED_ROWS)).long()]
    for rows in (probe, table):
        if not bool(rows.isfinite().all() & rows.any()):
            return None
        packed = QuantizedTable(rows, "int8")
        if packed.error > EXACT:
            return None
    return packed


def pack_once(table: torch.Tensor, form: TableDtype | None, seen: tuple[int, int | None]) -> QuantizedTable | None:
    """Return what [`pack_rows`] does, kept with the table: packing takes as long as embedding 20 MB of text.

    Args:
        table: Table of shape `(vocab_size, width)`, the same object each time.
        form: As in `pack_rows`.
        seen: What changes with the table's values; where its second part is None nothing is kept.
    """
    forms = _kept.setdefault(table, {})
    if form not in forms or forms[form][0] != seen or seen[1] is None:
        forms[form] = (seen, pack_rows(table.detach(), form))
    return forms[form][1]
