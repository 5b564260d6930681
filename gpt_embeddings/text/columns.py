"""Columns of Arrow: which hold texts, which types can be joined, and numbers spelled as texts."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from gpt_embeddings.exceptions import ColumnError, NotStringsError


ALONE = "or read only the column of texts (`--texts-only`, `load_source(..., texts_only=True)`)"


def check_column(names: Iterable[str], column: str, option: str = "column") -> None:
    """Refuse a column that is not there; `option` is the one by which the user chooses it."""
    names = list(names)
    if column not in names:
        raise ColumnError(
            f"There is no column {column!r}; the columns are {', '.join(names)}. Choose one with "
            f"`--{option.replace('_', '-')}` (`{option}=` in Python)."
        )


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that holds the same values without views, dictionaries and runs.

    >>> str(plain_type(pa.list_(pa.dictionary(pa.int8(), pa.string_view()))))
    'list<item: large_string>'
    """
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(kind.value_field.with_type(plain_type(kind.value_type)))
    return kind


def types_message(column: str, one: Any, other: Any) -> str:
    """Say that a column cannot be one, and what to do."""
    return f"Column {column!r} holds {one} and, further on, {other}, which have no common type. Give it one, {ALONE}."


def join_types(one: pa.DataType, other: pa.DataType, *, as_texts: bool = False) -> pa.DataType | None:
    """Return a type for the values of both, or None if there is none.

    >>> str(join_types(pa.null(), pa.string())), str(join_types(pa.int64(), pa.float64()))
    ('string', 'double')
    >>> join_types(pa.int64(), pa.string()) is None
    True

    With `as_texts` values of different types become texts, as in CSV, where that changes no spelling.
    """
    if as_texts and one != other and pa.null() not in (one, other):
        return pa.string()
    if {one, other} == {pa.int64(), pa.uint64()}:  # Arrow says int64, which holds less
        return pa.uint64()
    schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def as_numbers(texts: pa.Array) -> pa.Array:
    """Return texts as numbers or truth values if each is spelled as Python prints that value, else as they are.

    >>> [str(as_numbers(pa.array(texts)).type) for texts in (["1", None], ["1.5", "2.0"], ["True"])]
    ['int64', 'double', 'bool']
    >>> [str(as_numbers(pa.array(texts)).type) for texts in (["1.50"], ["007"], ["1.5", "2"], ["-0"], ["true"])]
    ['string', 'string', 'string', 'string', 'string']
    """
    given = texts.drop_null()
    if not len(given):
        return pa.nulls(len(texts))
    if pc.all(pc.is_in(given, pa.array(["True", "False"]))).as_py():
        return texts.cast(pa.bool_())
    for kind in (pa.int64(), pa.uint64(), pa.float64()):
        try:
            numbers = texts.cast(kind)
        except pa.ArrowInvalid:
            continue
        printed = numbers.cast(pa.string())
        if kind == pa.float64():  # Arrow prints 2.0 as "2"
            whole = pc.match_substring_regex(printed, "^-?[0-9]+$")
            printed = pc.if_else(whole, pc.binary_join_element_wise(printed, "0", "."), printed)
        if pc.all(pc.is_finite(numbers)).as_py() and pc.all(pc.equal(texts, printed)).as_py():
            return numbers
    return texts


def check_texts(dataset: Dataset | IterableDataset, column: str) -> None:
    """Refuse a dataset without a column of strings, if its columns are known before it is read."""
    if dataset.column_names is None or dataset.features is None:
        return  # known when the first rows are read
    take_column(dataset.features.arrow_schema.empty_table(), column)


def take_column(batch: pa.Table, column: str) -> pa.ChunkedArray:
    """Return the texts of a batch as `string` or `large_string`."""
    check_column(batch.column_names, column)
    texts = batch[column]
    kind = plain_type(texts.type)
    if pa.types.is_null(kind):
        kind = pa.string()
    if kind not in (pa.string(), pa.large_string()):
        raise NotStringsError(f"Column {column!r} must hold strings, it holds {texts.type}.")
    return texts if kind == texts.type else texts.cast(kind)


def find_blank(texts: "pa.ChunkedArray | Sequence[str | None]") -> npt.NDArray[np.bool_]:
    """Return which texts are missing, empty or whitespace alone, of shape `(n_texts,)`.

    >>> find_blank(["a", None, "", " "]).tolist()
    [False, True, True, True]
    """
    if not isinstance(texts, (pa.Array, pa.ChunkedArray)):
        return np.array([not text or text.isspace() for text in texts], dtype=bool)
    try:
        blank = pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts))
    except pa.ArrowInvalid:  # invalid UTF-8, which whoever encodes the texts reports by its row
        blank = pc.equal(pc.binary_length(texts), 0)
    return np.asarray(pc.fill_null(blank, True), dtype=bool)
