"""`Embedder`: a model and its tokenizer as one object that turns texts into vectors.

Texts become flat ids, ids an array of vectors, which is returned as it is (`encode`) or as an Arrow column over the
same memory (`map`). There is no padding, no vector per token and no Python float on the way.
"""

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields, replace
from importlib.metadata import version
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

from gpt_embeddings.analysis.similarity import unit_rows
from gpt_embeddings.arguments import check_choice, check_integer
from gpt_embeddings.bundled import NAMES
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.checkpoints.saving import save_model_and_tokenizer
from gpt_embeddings.embedding.quantization import Dtype, find_ranges, to_binary, to_float32, to_int8
from gpt_embeddings.embedding.shards import Provenance
from gpt_embeddings.embedding.weights import (
    TableDtype,
    check_in_memory,
    find_changes,
    find_quantized,
    hash_weights,
    open_shared,
    share,
)
from gpt_embeddings.exceptions import BadTextError
from gpt_embeddings.outputs import check_folder_name
from gpt_embeddings.progress import Bar, Counts
from gpt_embeddings.text.columns import check_column, find_blank, take_column
from gpt_embeddings.text.encoding import Texts, as_texts, encode_flat, fill_missing
from gpt_embeddings.text.tokenizer import check_vocabulary, find_special_tokens, take_spans, tokenizer_digest
from gpt_embeddings.threads import n_cores, thread_pool, torch_threads, was_forked
from modeling_gpt_embeddings import GPTEmbeddingsModel


Pooling: TypeAlias = Literal["mean", "weighted", "last", "none"]
Overflow: TypeAlias = Literal["truncate", "windows"]
Ids: TypeAlias = npt.NDArray[np.int32]
Offsets: TypeAlias = npt.NDArray[np.int64]

MIN_THREAD_TOKENS = 2**15  # fewer are not worth a thread
LONG_LIST = 50_000  # texts from which on `encode` shows a bar
BLOCK_TEXTS = 8192  # of a long list, embedded at a time


@dataclass(eq=False, repr=False)
class Embedder:
    """Turn texts into vectors: a list, a column in `map(..., batched=True)`, a step in scikit-learn's `Pipeline`.

    >>> from gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
    >>> embedder = Embedder(GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=16)), load_tokenizer())
    >>> embedder.encode(["The tide came in.", "It went out."]).shape, embedder.encode("One text.").shape
    ((2, 16), (16,))

    `map` takes it on `Dataset`, `DatasetDict` and `IterableDataset`, with `num_proc`, and with the format None,
    `"arrow"`, `"numpy"` or `"torch"` set on the dataset. Its hash depends on its content (weights, tokenizer and
    options), so the cache of `datasets` hits in another process and misses after training. Its pickle refers to the
    weights instead of holding them, and can be loaded as long as the process that made it lives.

    A missing (null) or empty text has a zero vector; with `pooling="none"` an empty list.

    Args:
        model: The model. Dropout is never applied.
        tokenizer: A fast tokenizer with as many entries as the model; the table may be padded by up to 1,023 rows.
        column: The column of texts.
        output_column: The column to add.
        pooling: `"mean"` of a text's token vectors, their mean `"weighted"` by the model's `token_weights`, the
            `"last"` one, or `"none"`: all of them, as a list. None means the model's own, `config.pooling`.
        normalize: Whether to scale vectors to length 1, so that their inner product is the cosine. Zero vectors stay
            zero.
        overflow: What to do with tokens past `n_positions`: `"truncate"` drops them, `"windows"` keeps all and starts
            again at position 0 every `n_positions` tokens.
        dtype: How vectors are stored: `"float32"`, `"float16"`, `"int8"` or `"binary"` (8 dimensions in a byte), as in
            `sentence_transformers.quantize_embeddings`. Sums are always in float32.
        truncate_dim: How many dimensions to keep, from the first; cut before vectors are normalized.
        ranges: For int8, the smallest and the largest value of each dimension, `(2, dim)`; `calibrate` finds them.
        weights: The dtype in which the token table is summed for `"mean"` and `"weighted"`. None sums it as it is
            stored: int8 rows in int8, others in their own dtype. `"float16"` and `"int8"` quantize any table, which
            is faster and less exact (`weights_error`). `"float32"` quantizes none.

    Raises:
        TypeError: The model is not a `GPTEmbeddingsModel`, or the tokenizer is not a fast one.
        ValueError: An option is unknown, the model has no token weights to pool by, its weights are not in memory, or
            the tokenizer is not the model's.
    """

    model: GPTEmbeddingsModel
    tokenizer: PreTrainedTokenizerBase
    _: KW_ONLY
    column: str = "text"
    output_column: str = "embedding"
    pooling: Pooling | None = None
    normalize: bool = False
    overflow: Overflow = "truncate"
    dtype: Dtype = "float32"
    truncate_dim: int | None = None
    ranges: Any = None
    weights: TableDtype | None = None

    def __post_init__(self) -> None:
        model = self.model
        if not isinstance(model, GPTEmbeddingsModel):
            raise TypeError(f"`model` must be a GPTEmbeddingsModel, got {type(model).__name__}.")
        check_in_memory(model, or_offloaded=True)  # offloaded, `encode` works; what needs all weights at once says so
        self.pooling = model.config.pooling if self.pooling is None else self.pooling
        check_choice("pooling", self.pooling, get_args(Pooling))
        check_choice("overflow", self.overflow, get_args(Overflow))
        check_choice("dtype", self.dtype, get_args(Dtype))
        check_choice("weights", self.weights, (None, *get_args(TableDtype)))
        n_embd = model.config.n_embd
        if self.truncate_dim is not None:
            advice = "The model has no more dimensions."
            self.truncate_dim = check_integer("truncate_dim", self.truncate_dim, 1, n_embd, advice)
        check_vocabulary(self.tokenizer, model.config.vocab_size)
        if self.pooling == "weighted" and model.token_weights is None:
            raise ValueError(
                "`pooling` is 'weighted', but the model has no token weights; `fit_token_weights` makes them."
            )
        if self.column == self.output_column:
            raise ValueError(f"`column` and `output_column` are both {self.column!r}; name another output column.")
        self.normalize = bool(self.normalize)
        self.dim = self.truncate_dim or n_embd  # dimensions of a vector
        self.width = -(-self.dim // 8) if self.dtype == "binary" else self.dim  # how many numbers store it
        self.storage = "int8" if self.dtype == "binary" else self.dtype  # their dtype
        self.vector_bytes = self.width * np.dtype(self.storage).itemsize
        if self.ranges is not None:
            ranges = self.ranges = np.asarray(self.ranges, np.float32)
            if ranges.shape != (2, self.dim) or not np.isfinite(ranges).all() or not (ranges[0] < ranges[1]).all():
                raise ValueError(
                    f"`ranges` must be the smallest and the largest value of each dimension, finite, of shape "
                    f"(2, {self.dim}); got an array of shape {ranges.shape}."
                )

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str] | None = None, *, tokenizer: str | None = None, **options: Any
    ) -> Self:
        """Load a saved model with its tokenizer.

        Args:
            name: Folder or Hub name: a GPTEmbeddings model, any GPT checkpoint with absolute positions, or a static
                model of model2vec or sentence-transformers. None means the bundled English table.
            tokenizer: Folder or Hub name. None means the model's own or, if it has none, GPT-2's.
            options: The options of [`Embedder`].

        Raises:
            OSError: There is no such model or tokenizer.
            ValueError: One of them is broken, or an option is unknown.
        """
        return cls(*load_model_and_tokenizer(None if name is None else os.fspath(name), tokenizer), **options)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save model and tokenizer for this and every other loader; the options are not saved."""
        check_folder_name(folder)
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model_and_tokenizer(Path(folder), self.model, self.tokenizer)

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Publish model and tokenizer as [`push_to_hub`] does, with its options."""
        from gpt_embeddings.hub.push import push_to_hub  # of a later folder, and not needed for embedding

        return push_to_hub(self.model, repo_id, tokenizer=self.tokenizer, **options)

    @property
    def feature(self) -> List:
        """The feature of the output column: a list of `width` numbers, with `pooling="none"` a list of those."""
        vector = List(Value(self.storage), length=self.width)
        return List(vector) if self.pooling == "none" else vector

    @property
    def options(self) -> dict[str, Any]:
        """The options, JSON-serializable; `Embedder(model, tokenizer, **options)` makes an equal embedder."""
        ranges = None if self.ranges is None else self.ranges.tolist()
        return {field.name: getattr(self, field.name) for field in fields(self)[2:]} | {"ranges": ranges}

    def with_options(self, **options: Any) -> "Embedder":
        """Return an embedder of the same model and tokenizer with some options changed."""
        return replace(self, **options)

    def provenance(self, model_name: str | None = None) -> Provenance:
        """Return what decides the vectors; `model_name` is by default that by which the model was loaded."""
        name = model_name or self.model.name_or_path or None
        return Provenance(
            model=NAMES.get(name or "", name),
            weights=hash_weights(self.model),
            tokenizer=tokenizer_digest(self.tokenizer),
            n_embd=self.model.config.n_embd,
            options=self.options,
            version=version("gpt-embeddings"),
        )

    @property
    def digest(self) -> str:
        """A digest of everything that decides the result: weights, tokenizer and options."""
        return self.provenance().digest

    @property
    def weights_error(self) -> float:
        """The largest error of an entry of the table that is summed, as a share of the largest entry of its row."""
        with torch_threads():
            table = find_quantized(self.model, self.weights)
        return 0.0 if table is None else table.error

    def encode(self, texts: Any, *, show_progress_bar: bool | None = None) -> npt.NDArray[Any]:
        """Embed a text or a list of texts.

        Args:
            texts: A string, a sequence of strings, or a column of Arrow, numpy, pandas or polars. A missing text has
                a zero vector.
            show_progress_bar: Whether to show one; None shows it for long lists.

        Returns:
            Vectors of shape `(len(texts), width)`, for one string `(width,)`; `width` is `dim` except for binary ones.
            With `pooling="none"` of shape `(n_tokens, width)`, one text after the other.

        Raises:
            TypeError: A text is not a string; the message has its index.
            ValueError: A text is not valid Unicode.
        """
        if isinstance(texts, str):
            vectors = self._embed([texts])[0]
            return vectors if self.pooling == "none" else vectors[0]
        column = as_texts(texts)
        hidden = len(column) < LONG_LIST if show_progress_bar is None else not show_progress_bar
        starts = range(0, max(1, len(column)), BLOCK_TEXTS)
        bar = Bar(starts, desc="Embedding", unit=f" x {BLOCK_TEXTS} texts", disable=hidden)
        parts = [self._embed(column[i : i + BLOCK_TEXTS], first=i)[0] for i in bar]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def similarity(self, a: Any, b: Any) -> Any:
        """Return cosine similarities in float32: a number for two texts, `(n, m)` for two lists.

        Args:
            a: A text, texts, or vectors that `encode` of this embedder has returned, as an array, a tensor or lists.
                int8 vectors are compared by the values of their steps, binary ones by their signs.
            b: The same.

        Raises:
            ValueError: Vectors have another width or dtype than those of this embedder.
        """
        widths = {"float": self.dim} | ({"int8": self.width} if self.dtype in ("int8", "binary") else {})
        found: list[npt.NDArray[Any]] = []
        for given in (a, b):
            vectors = given
            if isinstance(given, torch.Tensor):
                vectors = given.detach().cpu()
                vectors = (vectors.float() if vectors.dtype == torch.bfloat16 else vectors).numpy()
            elif isinstance(given, (list, tuple)) and given and not {str, type(None)} & set(map(type, given)):
                vectors = np.array(given)
            if not isinstance(vectors, np.ndarray) or vectors.dtype.kind not in "biufc":
                found.append(self.with_options(dtype="float32").encode(given))
                continue
            # Integers of any length, as lists and `datasets` give them, if they fit into int8.
            is_int8 = vectors.dtype.kind == "i" and bool((vectors.astype(np.int8) == vectors).all())
            kind = "float" if vectors.dtype.kind == "f" else "int8" if is_int8 else ""
            if vectors.ndim not in (1, 2) or vectors.shape[-1] != widths.get(kind):
                expected = " or ".join(f"{name} of width {width}" for name, width in widths.items())
                raise ValueError(
                    f"`similarity` got vectors of {vectors.dtype}, of shape {vectors.shape}. The dtype of this "
                    f"Embedder is {self.dtype!r}: give texts, or one vector `(width,)` or several `(n, width)` of "
                    f"{expected}."
                )
            found.append(to_float32(vectors, "float32" if kind == "float" else self.dtype, self.dim, self.ranges))
        one, two = found
        cosines = unit_rows(np.atleast_2d(one)) @ unit_rows(np.atleast_2d(two)).T
        cosines = cosines.reshape(one.shape[:-1] + two.shape[:-1])
        return float(cosines) if cosines.ndim == 0 else cosines

    def calibrate(self, texts: Any) -> Self:
        """Find the `ranges` of int8 from some thousands of texts like those to be embedded; return self."""
        vectors = self.with_options(dtype="float32").encode(texts)
        if len(vectors) < 2:
            raise ValueError(f"`calibrate` needs at least 2 texts, got {len(vectors)}.")
        self.ranges = find_ranges(vectors)
        return self

    # A step of scikit-learn's pipelines: there is nothing to fit, so a clone is the object itself.

    def fit(self, texts: Any, y: Any = None) -> Self:
        """Return self."""
        return self

    def transform(self, texts: Any) -> npt.NDArray[Any]:
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

    def __call__(self, batch: Any) -> Any:
        """Add the vectors to a batch from `map(..., batched=True)`.

        Args:
            batch: What `datasets` passes: a `pa.Table` under the format `"arrow"`, otherwise a dictionary of columns.

        Returns:
            A table with one more column; or the new column as `{output_column: vectors}`. A lazy batch, which
            `Dataset.map` passes if no format is set, gets the column as Arrow data in place, and `{}` is returned.
        """
        if isinstance(batch, pa.Table):
            return self.extend(batch)[0]
        if isinstance(batch, LazyBatch):
            batch[self.output_column] = self.extend(batch.pa_table)[0][self.output_column].combine_chunks()
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
        vectors, starts, _ = self._embed(as_texts(texts), f"Column {self.column!r}, batch row", every_call=False)
        if starts is None:
            return {self.output_column: vectors}
        return {self.output_column: np.split(vectors, starts[1:-1]) if len(texts) else []}

    def __reduce__(self) -> tuple[Any, ...]:
        # A model with an adapter or a hook is pickled whole: its state does not say all about it.
        source = self.model if find_changes(self.model) else share(self.model)
        return _load, (source, self.tokenizer, self.options)

    def extend(
        self, table: pa.Table, n_threads: int | None = None, first_row: int | None = None
    ) -> tuple[pa.Table, Counts]:
        """Return a table with the vectors as one more column, and the counts of its texts; by default on all cores."""
        texts = take_column(table, self.column)
        # Errors name rows of the batch; of the dataset if the batch begins at its `first_row`.
        label = f"Column {self.column!r}, {'batch ' if first_row is None else ''}row"
        vectors, starts, counts = self._embed(texts, label, first_row or 0, n_threads, every_call=False)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.width)
        if starts is not None:
            column = pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), column)
        if self.output_column in table.column_names:
            table = table.drop_columns(self.output_column)
        counts = counts._replace(text_bytes=int(pc.sum(pc.binary_length(texts)).as_py() or 0))
        return table.append_column(self.output_column, column), counts

    # Tokenize, pool, convert ------------------------------------------------------------------------------------

    def _embed(
        self,
        texts: Texts,
        label: str = "Text",
        first: int = 0,
        n_threads: int | None = None,
        *,
        every_call: bool = True,
    ) -> tuple[npt.NDArray[Any], Offsets | None, Counts]:
        """Return vectors, for `pooling="none"` also the offset of each text among them, and the counts of the texts.

        An error calls a text by the label and its index, counted from `first`; `every_call` is that of
        `find_quantized`.
        """
        # Tokenize: flat ids and offsets, with the special tokens of the tokenizer.
        texts, missing = fill_missing(texts)
        try:
            input_ids, offsets = encode_flat(texts, self.tokenizer, add_special_tokens=False)
        except BadTextError as error:
            message = str(error).removeprefix(f"Text {error.index} ")
            raise BadTextError(error.index, f"{label} {first + error.index} {message}") from error
        special, lengths = find_special_tokens(self.tokenizer), np.diff(offsets)
        limit = self.model.config.n_positions if self.overflow == "truncate" else None
        nulls = 0 if missing is None else int(missing.sum())
        counts = Counts(
            documents=len(lengths),
            tokens=len(input_ids),
            nulls=nulls,
            blank=int((find_blank(texts) | (lengths == 0)).sum()) - nulls,
            truncated=0 if limit is None else int((lengths + len(special) > limit).sum()),
        )
        if special:
            input_ids, offsets = special.add_to(input_ids, offsets, max_length=limit, bare=missing)
        # Pool: `(n_texts, width)`, or the vectors of all tokens.
        model, pooling = self.model, self.pooling
        if model.wte.weight.is_meta:
            check_in_memory(model, or_offloaded=True)
            n_threads = 1  # accelerate's hooks move one copy of the weights
        if pooling == "last" or pooling == "none":
            n_positions = model.config.n_positions
            starts, lengths = offsets[:-1], np.diff(offsets)
            kept = np.minimum(lengths, n_positions) if self.overflow == "truncate" else lengths
            some, ends = kept > 0, None
            if pooling == "last":
                positions = kept[some] - 1
                input_ids = input_ids[starts[some] + positions]
            else:
                input_ids, ends = take_spans(input_ids, starts, kept)
                positions = np.arange(ends[-1]) - np.repeat(ends[:-1], kept)
            with torch.inference_mode(), torch_threads():
                vectors = model.embed_flat(input_ids, positions % n_positions)
                if pooling == "last":  # a text without tokens has a zero vector
                    found = vectors
                    vectors = found.new_zeros(len(lengths), found.shape[1])
                    vectors[torch.from_numpy(some).to(found.device)] = found
                return self._store(vectors), ends, counts

        def mean(bounds: tuple[int, int]) -> npt.NDArray[Any]:
            with torch.inference_mode():  # in each thread
                part = offsets[bounds[0] : bounds[1] + 1]
                return self._store(model.embed_bags(input_ids, part, self.overflow, pooling, table))

        # By threads of our own, each on documents of about as many tokens. torch's would share each small step, and
        # waiting for each other costs them more than the sums as soon as another process runs.
        n_threads = 1 if was_forked() else min(n_threads or n_cores(), 1 + len(input_ids) // MIN_THREAD_TOKENS)
        targets = [i * len(input_ids) // n_threads for i in range(1, n_threads)]
        cuts = np.searchsorted(offsets, targets).tolist()
        bounds = list(pairwise([0, *cuts, len(offsets) - 1]))
        with torch_threads(1):
            quantized = find_quantized(model, self.weights, input_ids, every_call=every_call)
            table = None if quantized is None else quantized.rows
            if n_threads == 1:
                return mean(bounds[0]), None, counts
            return np.concatenate(list(thread_pool(os.getpid()).map(mean, bounds))), None, counts

    def _store(self, vectors: torch.Tensor) -> npt.NDArray[Any]:
        """Truncate, normalize and convert vectors to their dtype."""
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


def _load(source: Any, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> Embedder:
    model = source if isinstance(source, GPTEmbeddingsModel) else open_shared(*source)
    return Embedder(model, tokenizer, **options)


try:
    from datasets.utils._dill import Pickler, pklregister
except ImportError:  # the hash then differs from process to process: work is repeated, never skipped
    pass
else:

    @pklregister(Embedder)
    def _save(pickler: Pickler, embedder: Embedder) -> None:
        """Let `datasets` hash an embedder by its digest, instead of by a pickle that names a temporary file."""
        pickler.save_reduce(Embedder, (embedder.digest,), obj=embedder)
