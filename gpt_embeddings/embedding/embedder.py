"""One object for texts to vectors: `encode` a list, or give the object itself to `map()`.

Texts become flat ids, ids become vectors (`GPTEmbeddingsModel.embed_bags`), and vectors become an Arrow column over
the same memory: no padding, no vector per token, no Python float. An embedder travels to other processes as a
reference to its weights, and is hashed by what it holds.

Left out: running over a dataset, which is `map()`'s business or that of `gpt_embeddings.embedding.dataset`; the forms
that a table can be summed in (`quantized_table`) and a vector stored in (`quantization`).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from datasets import List, Value
from datasets.formatting.formatting import LazyBatch
from huggingface_hub import CommitInfo
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.checkpoints.saving import save_model_and_tokenizer
from gpt_embeddings.embedding.quantization import Dtype, check_ranges, find_ranges, to_binary, to_int8
from gpt_embeddings.embedding.quantized_table import QuantizedTable, TableDtype, pack_once
from gpt_embeddings.embedding.shared_weights import SharedWeights, can_share, hash_weights, open_shared, share
from gpt_embeddings.progress import Bar, Counts
from gpt_embeddings.text.columns import check_column, take_column
from gpt_embeddings.text.encoding import Texts, as_texts, encode_flat, fill_missing
from gpt_embeddings.text.special_tokens import find_special_tokens
from gpt_embeddings.text.tokenizer import check_fast, check_vocabulary, tokenizer_digest
from gpt_embeddings.threads import n_cores, thread_pool, torch_threads, was_forked
from modeling_gpt_embeddings import GPTEmbeddingsModel


Pooling: TypeAlias = Literal["mean", "weighted", "last", "none"]
Overflow: TypeAlias = Literal["truncate", "windows"]

MIN_THREAD_TOKENS = 2**15  # less is not worth a thread
LONG_LIST = 50_000  # texts from which on `encode` shows a bar
BLOCK_TEXTS = 8192  # of a long list at a time
OPTIONS = (
    "column",
    "output_column",
    "pooling",
    "normalize",
    "overflow",
    "dtype",
    "truncate_dim",
    "ranges",
    "weights",
)


class Embedder:
    """Texts to vectors: of a list, of a column by `map(..., batched=True)`, of a step in scikit-learn's `Pipeline`.

    >>> from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
    >>> embedder = Embedder(GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=16)), load_tokenizer())
    >>> embedder.encode(["The tide came in.", "It went out."]).shape, embedder.encode("One text.").shape
    ((2, 16), (16,))

    `map` takes it on `Dataset`, `DatasetDict` and `IterableDataset`, with `num_proc`, and with the format None,
    `"arrow"`, `"numpy"` or `"torch"` set on the dataset. It hashes by content (weights, tokenizer and options), so
    that the cache of `datasets` hits in another process and misses after training. Its pickle refers to the weights
    instead of holding them: it can be loaded for as long as the process that made it lives.

    A missing (null) or empty text gives a zero vector, with `pooling="none"` an empty list.

    Args:
        model: The model; dropout is not applied, in training mode neither.
        tokenizer: A fast tokenizer whose ids the model's vocabulary holds.
        column: The column of texts.
        output_column: The column to add.
        pooling: `"mean"` of all token vectors of a text, their mean `"weighted"` by the model's `token_weights`, the
            `"last"` of them, or `"none"`: all of them, as a list. None is the model's own, `config.pooling`.
        normalize: Whether vectors are scaled to length 1, so that their inner product is the cosine. Zero vectors
            stay as they are.
        overflow: What happens to tokens past `n_positions`: `"truncate"` leaves them out, `"windows"` keeps all and
            begins again at position 0 every `n_positions` tokens.
        dtype: What vectors are stored in: `"float32"`, `"float16"`, `"int8"` or `"binary"` (8 dimensions to a byte),
            as `sentence_transformers.quantize_embeddings` has them; sums are float32 in any case.
        truncate_dim: How many dimensions to keep, from the first; they are cut off before vectors are normalised.
        ranges: For int8 the least and the largest value of each dimension, `(2, dim)`; `calibrate` finds them.
        weights: What the token table is summed from, for `"mean"` and `"weighted"`. None sums it as it is stored: a
            table of int8 rows in int8, others in their own dtype. `"float16"` and `"int8"` make a copy of any table,
            which is faster and not the same: `weights_error` says by how much. `"float32"` makes none.

    Raises:
        TypeError: The model is not a `GPTEmbeddingsModel`, or the tokenizer is not a fast one.
        ValueError: An option is unknown, the model has no token weights to pool by, or the tokenizer can give ids that
            the model does not have.
    """

    def __init__(
        self,
        model: GPTEmbeddingsModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        column: str = "text",
        output_column: str = "embedding",
        pooling: Pooling | None = None,
        normalize: bool = False,
        overflow: Overflow = "truncate",
        dtype: Dtype = "float32",
        truncate_dim: int | None = None,
        ranges: Any = None,
        weights: TableDtype | None = None,
    ) -> None:
        if not isinstance(model, GPTEmbeddingsModel):
            raise TypeError(f"`model` must be a GPTEmbeddingsModel, got {type(model).__name__}.")
        check_fast(tokenizer)
        pooling = model.config.pooling if pooling is None else pooling
        for name, value, known in (
            ("pooling", pooling, get_args(Pooling)),
            ("overflow", overflow, get_args(Overflow)),
            ("dtype", dtype, get_args(Dtype)),
            ("weights", weights, (None, *get_args(TableDtype))),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}, got {value!r}.")
        n_embd = model.config.n_embd
        if truncate_dim is not None and (type(truncate_dim) is not int or not 1 <= truncate_dim <= n_embd):
            raise ValueError(f"`truncate_dim` must be None or from 1 to `n_embd` = {n_embd}, got {truncate_dim!r}.")
        check_vocabulary(tokenizer, model.config.vocab_size)
        if pooling == "weighted" and model.token_weights is None:
            raise ValueError(
                "`pooling` is 'weighted', but the model has no token weights; `fit_token_weights` makes them."
            )
        if column == output_column:
            raise ValueError(f"`column` and `output_column` are both {column!r}; name another output column.")
        self.model, self.tokenizer = model, tokenizer
        self.column, self.output_column = column, output_column
        self.pooling, self.normalize, self.overflow, self.dtype = pooling, normalize, overflow, dtype
        self.truncate_dim, self.weights = truncate_dim, weights
        self.ranges = None if ranges is None else check_ranges(ranges, self.dim)
        self._packed: tuple[Any, QuantizedTable | None] | None = None

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str] | None = None, *, tokenizer: str | None = None, **options: Any
    ) -> Self:
        """Load a saved model with its tokenizer.

        Args:
            name: Folder or Hub name: a model of ours, any GPT checkpoint with absolute positions, or a static model of
                model2vec or sentence-transformers; None is the English table that comes with the package.
            tokenizer: Folder or Hub name; None takes the model's own where it has one, else GPT-2's.
            options: Those of [`Embedder`].

        Raises:
            OSError: There is no such model or tokenizer.
            ValueError: One of them is broken, or an option is unknown.
        """
        return cls(*load_model_and_tokenizer(None if name is None else os.fspath(name), tokenizer), **options)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save model and tokenizer, for this and every other loader; options are the caller's and not saved."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model_and_tokenizer(Path(folder), self.model, self.tokenizer)

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Publish model and tokenizer as [`push_model`] does, with its options."""
        from gpt_embeddings.hub.push import push_model  # the Hub's writing side, which embedding does without

        return push_model(self.model, self.tokenizer, repo_id, **options)

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self.truncate_dim or self.model.config.n_embd

    @property
    def width(self) -> int:
        """Numbers that a vector is stored in: `dim`, of binary ones an eighth."""
        return -(-self.dim // 8) if self.dtype == "binary" else self.dim

    @property
    def storage(self) -> str:
        """The dtype of those numbers."""
        return "int8" if self.dtype == "binary" else self.dtype

    @property
    def feature(self) -> List:
        """The feature of the output column: a list of `width` numbers, with `pooling="none"` a list of those."""
        vector = List(Value(self.storage), length=self.width)
        return List(vector) if self.pooling == "none" else vector

    @property
    def options(self) -> dict[str, Any]:
        """The options, as JSON has them; another embedder can be made with them."""
        ranges = None if self.ranges is None else self.ranges.tolist()
        return {name: getattr(self, name) for name in OPTIONS} | {"ranges": ranges}

    @property
    def digest(self) -> str:
        """A name for all that decides the result: weights, tokenizer and options."""
        key = json.dumps([self.weights_digest, tokenizer_digest(self.tokenizer), self.options])
        return hashlib.sha256(key.encode()).hexdigest()

    @property
    def weights_digest(self) -> str:
        """A name for the model's configuration and weights."""
        return hash_weights(self.model)

    @property
    def weights_error(self) -> float:
        """The largest error of an entry of the table that is summed, as a share of the largest entry of its row."""
        with torch_threads(1 if was_forked() else None):
            packed = self._quantized_table()
        return 0.0 if packed is None else packed.error

    def encode(self, texts: Any, *, show_progress_bar: bool | None = None) -> npt.NDArray[Any]:
        """Embed a text or a list of texts, outside of any dataset.

        Args:
            texts: A string, a sequence of them, or a column: of Arrow, numpy, pandas or polars. A missing text (None)
                has a zero vector.
            show_progress_bar: Whether to show one; None shows it for long lists.

        Returns:
            Vectors of shape `(len(texts), width)`, of one string `(width,)`; `width` is `dim` but for binary ones.
            With `pooling="none"` of shape `(n_tokens, width)`, the texts one after the other.

        Raises:
            TypeError: A text is not a string; the message names its index.
            ValueError: A text is not valid Unicode.
        """
        if isinstance(texts, str):
            vectors = self._vectors(*self._encode([texts])[:2], 1)[0]
            return vectors if self.pooling == "none" else vectors[0]
        column = as_texts(texts)
        shown = len(column) >= LONG_LIST if show_progress_bar is None else show_progress_bar
        if len(column) <= BLOCK_TEXTS and not shown:
            return self._embed_texts(column, n_cores())[0]
        blocks = range(0, len(column), BLOCK_TEXTS)
        bar = Bar(blocks, desc="Embedding", unit=f" x {BLOCK_TEXTS} texts", disable=not shown)
        parts = []
        for i in bar:
            try:
                parts.append(self._embed_texts(column[i : i + BLOCK_TEXTS], n_cores())[0])
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"Counted from text {i}: {error}") from error
        return np.concatenate(parts) if parts else self._embed_texts(column, 1)[0]

    def similarity(self, a: Any, b: Any) -> Any:
        """Return cosines, as floats: one of two texts, `(n, m)` of two lists.

        Args:
            a: A text, texts, or vectors in float32 or float16 that `encode` gave.
            b: The same.
        """
        units = []
        for given in (a, b):
            vectors = given
            if not (isinstance(given, np.ndarray) and given.dtype.kind == "f"):
                vectors = self._copy(dtype="float32").encode(given)
            length = np.linalg.norm(vectors.astype(np.float32), axis=-1, keepdims=True)
            units.append(vectors / np.where(length > 0, length, 1))
        found = units[0] @ units[1].T
        return float(found) if np.ndim(found) == 0 else found

    def calibrate(self, texts: Any) -> Self:
        """Find the `ranges` of int8 on some thousands of texts of the kind that will be embedded; return self."""
        vectors = self._copy(dtype="float32").encode(texts)
        if len(vectors) < 2:
            raise ValueError(f"Ranges are found on at least 2 texts, got {len(vectors)}.")
        self.ranges = find_ranges(vectors)
        return self

    # As scikit-learn's pipelines want a step: there is nothing to fit, so that a clone is the object itself.

    def fit(self, texts: Any, y: Any = None) -> Self:
        """Return self."""
        return self

    def transform(self, texts: Any) -> npt.NDArray[Any]:
        """Embed texts, as `encode` does."""
        return self.encode(texts)

    def fit_transform(self, texts: Any, y: Any = None) -> npt.NDArray[Any]:
        """Embed texts, as `encode` does."""
        return self.encode(texts)

    def __sklearn_clone__(self) -> Self:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        texts = InputTags(one_d_array=True, two_d_array=False, string=True)
        return Tags(None, TargetTags(required=False), TransformerTags(), requires_fit=False, input_tags=texts)

    def _copy(self, **options: Any) -> "Embedder":
        """Return an embedder of the same model with other options."""
        return Embedder(self.model, self.tokenizer, **{**self.options, **options})

    def __call__(self, batch: Any) -> Any:
        """Add the vectors to a batch from `map(..., batched=True)`.

        Args:
            batch: What `datasets` hands over: a `pa.Table` under the format `"arrow"`; otherwise a dictionary of
                columns.

        Returns:
            A table with one column more; or the new column as `{output_column: vectors}`. A lazy batch, which is what
            `Dataset.map` gives under no format, receives the column in place as Arrow data, and nothing remains to
            be returned but `{}`.

        Raises:
            TypeError: The column or one of its values is not a string; the message names column and row.
            ValueError: There is no such column, or a text is not valid Unicode; the message names column and row.
        """
        if isinstance(batch, pa.Table):
            return self.extend(batch, n_cores())[0]
        if isinstance(batch, LazyBatch):
            batch[self.output_column] = self._embed_column(batch.pa_table, n_cores())[0]
            return {}
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"A batch must be a pa.Table or a dictionary of columns, got {type(batch).__name__}. Set the format "
                "'arrow' on the dataset, and give map() `batched=True`."
            )
        check_column(batch, self.column)
        texts = batch[self.column]
        if isinstance(texts, str):
            raise TypeError(f"Column {self.column!r} holds one text, not a batch; give map() `batched=True`.")
        vectors, starts = self._embed_named(list(texts), n_cores())[:2]
        if starts is None:
            return {self.output_column: vectors}
        return {self.output_column: np.split(vectors, starts[1:-1]) if len(texts) else []}

    def __reduce__(self) -> tuple[Any, ...]:
        # Only a whole pickle has all of a model with an adapter.
        source = share(self.model, self.weights_digest) if can_share(self.model) else self.model
        return _load, (source, self.tokenizer, self.options)

    def extend(self, table: pa.Table, n_threads: int = 1, first_row: int | None = None) -> tuple[pa.Table, Counts]:
        """Return a table with the vectors as one more column, and what was in the texts.

        Args:
            table: A batch.
            n_threads: Number of threads that share in it.
            first_row: Which row of the dataset the batch begins with, for errors.
        """
        column, counts = self._embed_column(table, n_threads, first_row)
        if self.output_column in table.column_names:
            table = table.drop_columns(self.output_column)
        return table.append_column(self.output_column, column), counts

    def warnings(self, counts: Counts) -> list[str]:
        """Return sentences on texts that got no vector of their own, or one of their beginning alone.

        Args:
            counts: What was in the texts that it embedded.
        """
        zero = "they have no vectors" if self.pooling == "none" else "their vectors are zero"
        framed = bool(find_special_tokens(self.tokenizer))
        none = [f"{counts.nulls:,} missing (null)"] * (counts.nulls > 0)
        none += [f"{counts.blank:,} blank"] * (counts.blank > 0 and not framed)
        said = [f"{' and '.join(none)}: {zero}."] if none else []
        if counts.blank and framed:
            said.append(f"{counts.blank:,} blank: they have the vectors of the tokenizer's own tokens.")
        if counts.truncated:
            limit = f"{self.model.config.n_positions:,} tokens"
            said.append(f"{counts.truncated:,} cut at {limit}; overflow 'windows' takes all of a text.")
        return [f"Of {counts.documents:,} texts {sentence}" for sentence in said]

    def _embed_column(self, table: pa.Table, n_threads: int, first_row: int | None = None) -> tuple[pa.Array, Counts]:
        texts = take_column(table, self.column)
        vectors, starts, counts = self._embed_named(texts, n_threads, first_row)
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.width)
        if starts is not None:
            values = pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), values)
        text_bytes = int(pc.sum(pc.binary_length(texts)).as_py() or 0)
        return values, counts._replace(text_bytes=text_bytes)

    def _embed_named(
        self, texts: Texts, n_threads: int, first_row: int | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None, Counts]:
        """Do as `_embed_texts`, with errors that name column and row."""
        try:
            return self._embed_texts(texts, n_threads)
        except (TypeError, ValueError) as error:
            row = getattr(error, "index", None)
            where = f"Column {self.column!r}"
            if row is not None:
                where += f", row {row} of the batch" if first_row is None else f", row {first_row + row}"
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{where}: {error}") from error

    def _embed_texts(
        self, texts: Texts, n_threads: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None, Counts]:
        """Return vectors, with `pooling="none"` also where each text begins among them, and what was in the texts."""
        texts, missing = fill_missing(texts)
        input_ids, offsets, counts = self._encode(texts, missing)
        return *self._vectors(input_ids, offsets, n_threads), counts

    def _encode(
        self, texts: Texts, missing: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], Counts]:
        """Return flat ids and offsets, with what the tokenizer puts around a text, and what was in the texts."""
        input_ids, offsets = encode_flat(texts, self.tokenizer, add_special_tokens=False)
        special, lengths, n_positions = (
            find_special_tokens(self.tokenizer),
            np.diff(offsets),
            self.model.config.n_positions,
        )
        nulls = 0 if missing is None else int(missing.sum())
        counts = Counts(
            documents=len(lengths),
            tokens=len(input_ids),
            nulls=nulls,
            blank=int((lengths == 0).sum()) - nulls,
            truncated=int((lengths + len(special) > n_positions).sum()) if self.overflow == "truncate" else 0,
        )
        limit = n_positions if special and self.overflow == "truncate" else None
        return *special.add_to(input_ids, offsets, max_length=limit, bare=missing), counts

    def _vectors(
        self, input_ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], n_threads: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None]:
        if self.pooling in ("mean", "weighted"):
            return self._means(input_ids, offsets, n_threads), None
        with torch.inference_mode(), torch_threads(1 if was_forked() else None):
            vectors, starts = self._token_vectors(input_ids, offsets)
            return self._finish(vectors), starts

    def _means(
        self, input_ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], n_threads: int
    ) -> npt.NDArray[Any]:
        """Return means, the documents shared out among threads of our own with about as many tokens each.

        torch's own threads would share out each small step; they wait for each other busily, which costs more than
        the sums themselves as soon as another process runs.
        """
        n_threads = 1 if was_forked() else min(n_threads, 1 + len(input_ids) // MIN_THREAD_TOKENS)
        cuts = np.searchsorted(offsets, np.linspace(0, len(input_ids), n_threads + 1)[1:-1]).tolist()
        bounds = list(pairwise([0, *cuts, len(offsets) - 1]))

        pooling: Literal["mean", "weighted"] = "weighted" if self.pooling == "weighted" else "mean"

        def run(bound: tuple[int, int]) -> npt.NDArray[Any]:
            with torch.inference_mode():  # for this thread
                own = offsets[bound[0] : bound[1] + 1]
                return self._finish(self.model.embed_bags(input_ids, own, self.overflow, pooling, packed))

        with torch_threads(1):
            packed = self._quantized_table()  # by whoever comes first, and seen by `run`
            if n_threads == 1:
                return run(bounds[0])
            return np.concatenate(list(thread_pool().map(run, bounds)))

    def _finish(self, vectors: torch.Tensor) -> npt.NDArray[Any]:
        vectors = vectors[:, : self.dim]
        if self.normalize:
            vectors = F.normalize(vectors.float(), dim=-1)
        if self.dtype == "binary":
            return to_binary(vectors.float().cpu().numpy())
        if self.dtype == "int8":
            if self.ranges is None:
                raise ValueError(
                    "int8 needs the range of each dimension: call `calibrate(texts)` on some thousands of your texts, "
                    "or give `ranges`."
                )
            return to_int8(vectors.float().cpu().numpy(), self.ranges)
        return vectors.to("cpu", getattr(torch, self.dtype)).contiguous().numpy()

    def _token_vectors(
        self, input_ids: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]
    ) -> tuple[torch.Tensor, npt.NDArray[np.int64] | None]:
        """Return the last token's vector of each text, or every token's and where each text begins among them."""
        n_positions = self.model.config.n_positions
        starts, lengths = offsets[:-1], np.diff(offsets)
        kept = np.minimum(lengths, n_positions) if self.overflow == "truncate" else lengths
        if self.pooling == "last":
            some = kept > 0
            positions = kept[some] - 1
            index = starts[some] + positions
        else:
            ends = np.concatenate([[0], np.cumsum(kept)])
            positions = np.arange(ends[-1]) - np.repeat(ends[:-1], kept)
            index = positions + np.repeat(starts, kept)
        vectors = self.model.embed_flat(input_ids[index], positions % n_positions)
        if self.pooling == "none":
            return vectors, ends
        result = vectors.new_zeros(len(lengths), vectors.shape[1])
        result[torch.from_numpy(some).to(vectors.device)] = vectors
        return result, None

    def _quantized_table(self) -> QuantizedTable | None:
        """Return what token rows are summed from in place of `wte`, made anew when the table has changed."""
        table = self.model.wte.weight
        seen = _seen(table)
        if self._packed is None or self._packed[0] != seen or seen[1] is None:
            packed = pack_once(table, self.weights, seen) if can_share(self.model) else None
            self._packed = (seen, packed)
        return self._packed[1]


def _seen(tensor: torch.Tensor) -> tuple[int, int | None]:
    """Return what changes with a tensor's values, as far as torch counts; None for one of inference mode."""
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version


# Pickles ---------------------------------------------------------------------------------------------------------


def _load(
    source: SharedWeights | GPTEmbeddingsModel, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]
) -> Embedder:
    model = source if isinstance(source, GPTEmbeddingsModel) else open_shared(source)
    return Embedder(model, tokenizer, **options)


def _register_hash() -> None:
    """Let `datasets` hash an embedder by its digest, instead of by a pickle that names a temporary file."""
    try:
        from datasets.utils._dill import Pickler, pklregister
    except ImportError:  # the hash then differs from process to process: work is repeated, never skipped
        return

    @pklregister(Embedder)
    def _save(pickler: Pickler, embedder: Embedder) -> None:
        pickler.save_reduce(Embedder, (embedder.digest,), obj=embedder)


_register_hash()
