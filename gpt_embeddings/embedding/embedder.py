"""The function that `map()` is given: a batch of texts in, the same batch with a column of vectors out.

Texts become flat ids, ids become vectors (`GPTEmbeddingsModel.embed_bags`), and vectors become an Arrow column over
the same memory: no padding, no vector per token, no Python float. An embedder travels to other processes as a
reference to its weights, and is hashed by what it holds.

Left out: running over a dataset, which is `map()`'s business or that of `gpt_embeddings.embedding.dataset`.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from datasets import List, Value
from datasets.formatting.formatting import LazyBatch
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.embedding.shared_weights import SharedWeights, can_share, hash_weights, open_shared, share
from gpt_embeddings.text.encoding import Texts, encode_flat
from gpt_embeddings.text.frame import find_frame
from gpt_embeddings.text.sources import check_column, take_column
from gpt_embeddings.text.tokenizer import check_fast, check_vocabulary, tokenizer_digest
from gpt_embeddings.threads import n_cores, torch_threads, was_forked
from modeling_gpt_embeddings import GPTEmbeddingsModel


Pooling: TypeAlias = Literal["mean", "weighted", "last", "none"]
Overflow: TypeAlias = Literal["truncate", "windows"]
Dtype: TypeAlias = Literal["float32", "float16"]

MIN_THREAD_TOKENS = 2**15  # less is not worth a thread
OPTIONS = ("column", "output_column", "pooling", "normalize", "overflow", "dtype")


class Embedder:
    """A function for `map(..., batched=True)` that adds a column with the vectors of a column of texts.

    It works on `Dataset`, `DatasetDict` and `IterableDataset`, with `num_proc`, and with the format None, `"arrow"`,
    `"numpy"` or `"torch"` set on the dataset. It hashes by content (weights, tokenizer and options), so that the
    cache of `datasets` hits in another process and misses after training, and its pickle refers to the weights
    instead of holding them: it can be loaded for as long as the process that made it lives.

    A missing (null) or empty text gives a zero vector, with `pooling="none"` an empty list.

    Args:
        model: The model; dropout is not applied, in training mode neither.
        tokenizer: A fast tokenizer whose ids the model's vocabulary holds.
        column: The column of texts.
        output_column: The column to add.
        pooling: `"mean"` of all token vectors of a text, their mean `"weighted"` by the model's `token_weights`, the
            `"last"` of them, or `"none"`: all of them, as a list.
        normalize: Whether vectors are scaled to length 1, so that their inner product is the cosine. Zero vectors
            stay as they are.
        overflow: What happens to tokens past `n_positions`: `"truncate"` leaves them out, `"windows"` keeps all and
            begins again at position 0 every `n_positions` tokens.
        dtype: `"float32"` or `"float16"` for the column; sums are float32 in either case.

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
        pooling: Pooling = "mean",
        normalize: bool = False,
        overflow: Overflow = "truncate",
        dtype: Dtype = "float32",
    ) -> None:
        if not isinstance(model, GPTEmbeddingsModel):
            raise TypeError(f"`model` must be a GPTEmbeddingsModel, got {type(model).__name__}.")
        check_fast(tokenizer)
        for name, value, known in (
            ("pooling", pooling, get_args(Pooling)),
            ("overflow", overflow, get_args(Overflow)),
            ("dtype", dtype, get_args(Dtype)),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}, got {value!r}.")
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
        self._digest: tuple[Any, str] | None = None

    @property
    def feature(self) -> List:
        """The feature of the output column: a list of `n_embd` numbers, with `pooling="none"` a list of those."""
        vector = List(Value(self.dtype), length=self.model.config.n_embd)
        return List(vector) if self.pooling == "none" else vector

    @property
    def digest(self) -> str:
        """A name for all that decides the result: weights, tokenizer and options.

        It is computed once and again only when a weight has changed, as far as torch counts changes (those made
        through `.data` or numpy are not counted).
        """
        options = {name: getattr(self, name) for name in OPTIONS}
        key = json.dumps([self.weights_digest, tokenizer_digest(self.tokenizer), options])
        return hashlib.sha256(key.encode()).hexdigest()

    @property
    def weights_digest(self) -> str:
        """A name for the model's configuration and weights; computed when it is asked for, as `digest` is."""
        state = self.model.state_dict()
        seen = [(name, t.data_ptr(), None if t.is_inference() else t._version) for name, t in state.items()]
        if self._digest is None or self._digest[0] != seen or any(version is None for _, _, version in seen):
            self._digest = (seen, hash_weights(self.model, state))
        return self._digest[1]

    def embed(self, texts: Texts) -> npt.NDArray[np.floating[Any]]:
        """Embed texts outside of any dataset, for example a query.

        Args:
            texts: Texts, a sequence of strings or an Arrow array.

        Returns:
            Vectors of shape `(len(texts), n_embd)`; with `pooling="none"` of shape `(n_tokens, n_embd)`, the texts
            one after the other.
        """
        return self._vectors(*self._encode(texts)[:2], n_cores())[0]

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
        missing = np.array([text is None for text in texts], dtype=bool)
        texts = ["" if text is None else text for text in texts]
        vectors, starts = self._embed_texts(texts, n_cores(), missing=missing)[:2]
        if starts is None:
            return {self.output_column: vectors}
        return {self.output_column: np.split(vectors, starts[1:-1]) if len(texts) else []}

    def __reduce__(self) -> tuple[Any, ...]:
        # Only a whole pickle has all of a model with an adapter.
        source = share(self.model, self.weights_digest) if can_share(self.model) else self.model
        return _load, (source, self.tokenizer, {name: getattr(self, name) for name in OPTIONS})

    def extend(self, table: pa.Table, n_threads: int = 1, first_row: int | None = None) -> tuple[pa.Table, int]:
        """Return a table with the vectors as one more column, and the number of tokens.

        Args:
            table: A batch.
            n_threads: Number of threads that share in it.
            first_row: Which row of the dataset the batch begins with, for errors.
        """
        column, n_tokens = self._embed_column(table, n_threads, first_row)
        if self.output_column in table.column_names:
            table = table.drop_columns(self.output_column)
        return table.append_column(self.output_column, column), n_tokens

    def _embed_column(self, table: pa.Table, n_threads: int, first_row: int | None = None) -> tuple[pa.Array, int]:
        texts = take_column(table, self.column)
        missing = np.asarray(texts.is_null()) if texts.null_count else None
        if texts.null_count:
            texts = texts.fill_null("")
        vectors, starts, n_tokens = self._embed_texts(texts, n_threads, first_row, missing)
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.model.config.n_embd)
        if starts is not None:
            values = pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), values)
        return values, n_tokens

    def _embed_texts(
        self,
        texts: Texts,
        n_threads: int,
        first_row: int | None = None,
        missing: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None, int]:
        """Return vectors, with `pooling="none"` also where each text begins among them, and the number of tokens."""
        try:
            input_ids, offsets, n_tokens = self._encode(texts, missing)
        except (TypeError, ValueError) as error:
            row = getattr(error, "index", None)
            where = f"Column {self.column!r}"
            if row is not None:
                where += f", row {row} of the batch" if first_row is None else f", row {first_row + row}"
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{where}: {error}") from error
        return *self._vectors(input_ids, offsets, n_threads), n_tokens

    def _encode(
        self, texts: Texts, missing: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], int]:
        """Return flat ids and offsets, with what the tokenizer puts around a text, and the tokens of the texts."""
        input_ids, offsets = encode_flat(texts, self.tokenizer, add_special_tokens=False)
        frame = find_frame(self.tokenizer)
        limit = self.model.config.n_positions if frame.width and self.overflow == "truncate" else None
        return *frame.put_around(input_ids, offsets, max_length=limit, bare=missing), len(input_ids)

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
                return self._finish(self.model.embed_bags(input_ids, own, self.overflow, pooling))

        with torch_threads(1):
            if n_threads == 1:
                return run(bounds[0])
            with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                return np.concatenate(list(pool.map(run, bounds)))

    def _finish(self, vectors: torch.Tensor) -> npt.NDArray[Any]:
        if self.normalize:
            vectors = F.normalize(vectors.float(), dim=-1)
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


__all__ = ["OPTIONS", "Dtype", "Embedder", "Overflow", "Pooling"]
