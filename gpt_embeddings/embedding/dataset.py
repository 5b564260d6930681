"""Whole datasets turned into vectors in one call: in memory, on disk, lazily, by threads or by processes.

`Embedder` does the work on each batch; this module cuts a dataset into batches, keeps all cores busy with them, and
hands the results on in order.

Left out: where finished shards go (`shards`), and more than one machine (`cluster`).
"""

import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
from datasets.utils import tqdm
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.embedding.embedder import Embedder
from gpt_embeddings.embedding.provenance import provenance_of
from gpt_embeddings.embedding.shards import SHARD_BYTES, WRITTEN, Format, Shards, open_output, shard_bounds
from gpt_embeddings.outputs import Output, write_json
from gpt_embeddings.text.sources import check_texts
from gpt_embeddings.threads import n_cores, torch_threads
from modeling_gpt_embeddings import GPTEmbeddingsModel


KIND = "embed"  # of job, for `outputs`

AnyDataset: TypeAlias = "Dataset | DatasetDict | IterableDataset | IterableDatasetDict"

# A batch holds at most about this much of text and of vectors, so that memory stays flat whatever the length of the
# documents. Tokenizer and table push each other out of the processor's cache, so that on short texts batches of an
# eighth of this take twice the time.
TEXT_BYTES = 2**21
VECTOR_BYTES = 2**23
MAX_BATCH_ROWS = 8192
TEXT_BYTES_PER_TOKEN = 4  # of English with GPT-2's vocabulary


class Progress:
    """A bar that counts documents, with tokens and MB of text a second; afterwards the totals.

    Args:
        total: Number of documents, where it is known.
        hidden: Whether to count without a bar.
    """

    def __init__(self, total: int | None = None, *, hidden: bool = False) -> None:
        self.documents = self.tokens = self.text_bytes = self.resumed = 0
        self.seconds = 0.0
        self._began = time.perf_counter()
        self._bar = tqdm(total=total, desc="Embedding", unit=" documents", disable=hidden or None)

    def add(self, documents: int, tokens: int, text_bytes: int) -> None:
        """Count a finished batch."""
        self.documents += documents
        self.tokens += tokens
        self.text_bytes += text_bytes
        self.seconds = time.perf_counter() - self._began
        rate = f"{self.tokens / self.seconds:,.0f} tokens/s, {self.text_bytes / self.seconds / 1e6:.1f} MB/s"
        self._bar.set_postfix_str(rate, refresh=False)
        self._bar.update(documents)

    def skip(self, documents: int) -> None:
        """Count documents that an earlier run has finished."""
        self.resumed += documents
        self._bar.update(documents)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.seconds = time.perf_counter() - self._began
        self._bar.close()


def embed_dataset(
    dataset: AnyDataset,
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    output: str | os.PathLike[str] | None = None,
    format: Format | None = None,
    num_proc: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    model_name: str | None = None,
    **options: Any,
) -> AnyDataset:
    """Embed a column of a dataset, in Arrow from end to end, with the steps overlapping on all cores.

    With an output, rows go to disk in shards of about 256 MiB and memory stays flat however large the dataset. A run
    that was killed continues after its last whole shard when it is started again, and the result is that of a run
    without interruption.

    Args:
        dataset: A `Dataset`, a `DatasetDict`, or a streaming one. A stream is continued by skipping the rows that
            are done, so it has to give the same rows again.
        model: The model.
        tokenizer: The tokenizer that belongs to it.
        output: A folder to make, or for Parquet a file that ends in `.parquet`. None keeps a dataset's new column in
            memory, and leaves a streaming dataset lazy.
        format: `"arrow"` (for `datasets.load_from_disk`, the default) or `"parquet"`.
        num_proc: Worker processes, each on one thread and on shards of its own. By default one process uses all cores
            by threads, which is as fast on a few cores. Streaming datasets take no workers.
        resume: Whether to continue what an earlier run has left; False throws that away.
        overwrite: Whether to replace an output that exists, when the new one is whole.
        progress: Counts and shows the progress; by default a bar.
        model_name: Folder or Hub name of the model, for what the output says of itself (`read_provenance`).
        options: The options of [`Embedder`]: `column`, `output_column`, `pooling`, `normalize`, `overflow`,
            `dtype`, `truncate_dim`, `ranges`, `weights`.

    Returns:
        The dataset with the new column: memory-mapped from an Arrow output, a stream over a Parquet output.

    Raises:
        FileExistsError: The output exists.
        TypeError: The column holds no strings.
        ValueError: There is no such column, the output column exists, an option is unknown, or there are shards of
            another job.
    """
    embedder = Embedder(model, tokenizer, **options)
    if num_proc is not None and num_proc < 1:
        raise ValueError(f"`num_proc` must be at least 1, got {num_proc}.")
    target = None if output is None else Path(output).resolve()
    if format is None:
        format = "parquet" if target is not None and target.suffix == ".parquet" else "arrow"
    if format not in get_args(Format):
        raise ValueError(f"`format` must be 'arrow' or 'parquet', got {format!r}.")
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return _embed_splits(dataset, embedder, target, format, num_proc, resume, overwrite, progress, model_name)
    _check_dataset(dataset, embedder)
    if isinstance(dataset, IterableDataset) and num_proc is not None:
        raise ValueError("`num_proc` does not work on a streaming dataset; leave it out.")
    if target is None and isinstance(dataset, IterableDataset):
        return _embed_lazily(dataset, embedder)
    bar = progress or Progress(None if isinstance(dataset, IterableDataset) else len(dataset))
    try:
        if target is None:
            return _embed_in_memory(dataset, embedder, bar, model_name)
        job = {"dataset": _mark(dataset), "format": format}
        features = _output_features(dataset, embedder)
        with _new_output(target, embedder, job, resume=resume, overwrite=overwrite) as out:
            shards = Shards(out.result, features, provenance_of(embedder, model_name), format=format)
            if isinstance(dataset, IterableDataset):
                _write_stream(dataset, embedder, shards, bar)
            else:
                _write_dataset(dataset, embedder, shards, num_proc or 0, bar)
            fingerprint = hashlib.sha256(json.dumps([job, embedder.digest]).encode()).hexdigest()[:16]
            out.finish(shards.finish(fingerprint, dataset.split, one_file=target.suffix == ".parquet"))
    finally:
        bar.close()
    return open_output(target)


def _new_output(target: Path, embedder: Embedder, job: dict[str, Any], *, resume: bool, overwrite: bool) -> Output:
    settings = {**embedder.options, **job, "digest of model, tokenizer and options": embedder.digest}
    return Output(target, KIND, settings, resume=resume, overwrite=overwrite, ours=WRITTEN)


def _embed_splits(
    datasets: DatasetDict | IterableDatasetDict,
    embedder: Embedder,
    target: Path | None,
    format: Format,
    num_proc: int | None,
    resume: bool,
    overwrite: bool,
    progress: Progress | None,
    model_name: str | None,
) -> AnyDataset:
    def embed(split: Dataset | IterableDataset, output: Path | None) -> Any:
        workers = None if isinstance(split, IterableDataset) else num_proc
        return embed_dataset(
            split,
            embedder.model,
            embedder.tokenizer,
            output=output,
            format=format,
            num_proc=workers,
            progress=progress,
            model_name=model_name,
            **embedder.options,
        )

    if target is None:
        opened = {name: embed(split, None) for name, split in datasets.items()}
    else:
        if target.suffix == ".parquet":
            raise ValueError(f"{len(datasets)} splits do not go into one file; give a folder as `output`.")
        job = {"format": format, "splits": {n: _mark(d) for n, d in datasets.items()}}
        with _new_output(target, embedder, job, resume=resume, overwrite=overwrite) as out:
            for name, split in datasets.items():
                if not (out.result / name).exists():
                    embed(split, out.result / name)
            if format == "arrow":
                write_json({"splits": list(datasets)}, out.result / "dataset_dict.json")
            out.finish()
        opened = {name: open_output(target / name) for name in datasets}
    lazy = any(isinstance(split, IterableDataset) for split in opened.values())
    return (IterableDatasetDict if lazy else DatasetDict)(opened)


def _mark(dataset: Dataset | IterableDataset) -> str:
    """Return what tells one dataset from another: a fingerprint; for a stream its files and its first row."""
    if isinstance(dataset, Dataset):
        return str(dataset._fingerprint)
    source: Any = getattr(dataset, "_ex_iterable", None)
    while hasattr(source, "ex_iterable"):
        source = source.ex_iterable
    arguments = getattr(source, "kwargs", None) or {}
    lists = [value for value in arguments.values() if isinstance(value, list)]
    files = [name for names in lists for name in names if isinstance(name, str)]
    first = next(iter(dataset.with_format(None)), None)
    return hashlib.sha256(repr((dataset.num_shards, files, first)).encode(errors="replace")).hexdigest()


def _check_dataset(dataset: Dataset | IterableDataset, embedder: Embedder) -> None:
    features = dataset.features
    if features is None:
        return  # a stream of unknown columns: the first batch will tell
    check_texts(dataset, embedder.column)
    if embedder.output_column in features:
        raise ValueError(f"The dataset already has a column {embedder.output_column!r}; remove it or name another.")


def _output_features(dataset: Dataset | IterableDataset, embedder: Embedder) -> Features:
    features = dataset.features
    if features is None:
        first = next(iter(dataset.with_format("arrow").iter(batch_size=100)), None)
        if first is None:
            raise ValueError("The dataset is empty and its columns are unknown.")
        features = Features.from_arrow_schema(first.schema)
    return Features({**features, embedder.output_column: embedder.feature})


def _embed_lazily(dataset: IterableDataset, embedder: Embedder) -> IterableDataset:
    features = _output_features(dataset, embedder) if dataset.features is not None else None
    rows = _batch_rows(embedder)
    return (
        dataset.with_format("arrow").map(embedder, batched=True, batch_size=rows, features=features).with_format(None)
    )


def _embed_in_memory(dataset: Dataset, embedder: Embedder, progress: Progress, model_name: str | None) -> Dataset:
    only = dataset.select_columns([embedder.column])
    columns = [
        table[embedder.output_column].combine_chunks()
        for table in _embed_tables(embedder, _slices(only, embedder, 0, len(only)), progress, 0)
    ]
    arrow_type = Features({"x": embedder.feature}).arrow_schema.field("x").type
    column = pa.chunked_array(columns, type=arrow_type)
    fingerprint = hashlib.sha256(f"{dataset._fingerprint} {embedder.digest}".encode()).hexdigest()[:16]
    embedded = dataset.add_column(
        embedder.output_column, column, new_fingerprint=fingerprint, feature=embedder.feature
    )
    embedded.info.description = provenance_of(embedder, model_name).to_json()
    return embedded


def _write_dataset(dataset: Dataset, embedder: Embedder, shards: Shards, num_proc: int, progress: Progress) -> None:
    todo = []
    for i, (start, stop) in enumerate(shard_bounds(len(dataset), _row_bytes(dataset, embedder))):
        if shards.rows(i) == stop - start:
            progress.skip(stop - start)
        else:
            todo.append((i, start, stop))
    if num_proc and todo:
        _write_in_processes(dataset, embedder, shards, todo, num_proc, progress)
        return
    for i, start, stop in todo:
        shards.write(i, _embed_tables(embedder, _slices(dataset, embedder, start, stop), progress, start))


def _write_stream(dataset: IterableDataset, embedder: Embedder, shards: Shards, progress: Progress) -> None:
    index = done = 0
    while (rows := shards.rows(index)) is not None:
        done, index = done + rows, index + 1
    progress.skip(done)
    source = dataset.skip(done) if done else dataset
    batches = source.with_format("arrow").iter(batch_size=_batch_rows(embedder))
    tables = _embed_tables(embedder, _split_large(batches, embedder), progress, done)

    def next_shard(first: pa.Table) -> Iterator[pa.Table]:
        size, table = 0, first
        while table is not None:
            yield table
            size += table.nbytes
            table = next(tables, None) if size < SHARD_BYTES else None

    while (first := next(tables, None)) is not None or not index:
        shards.write(index, next_shard(first))
        index += 1


def _write_in_processes(
    dataset: Dataset,
    embedder: Embedder,
    shards: Shards,
    todo: list[tuple[int, int, int]],
    num_proc: int,
    progress: Progress,
) -> None:
    context = multiprocessing.get_context()
    workers, ends = [], []
    for rank in range(min(num_proc, len(todo))):
        end, other = context.Pipe(duplex=False)
        task = pickle.dumps((dataset, embedder, shards, todo[rank::num_proc]))
        arguments = (task, other, os.getpid())
        workers.append(context.Process(target=_work, args=arguments, daemon=True))
        ends.append(end)
        workers[-1].start()
        other.close()
    try:
        while ends:
            for end in [end for end in ends if end in multiprocessing.connection.wait(ends)]:
                try:
                    message = end.recv()
                except EOFError:
                    ends.remove(end)
                    continue
                if isinstance(message, Exception):
                    raise message
                progress.add(*message)
        for worker in workers:
            worker.join()
            if worker.exitcode:
                raise ChildProcessError(
                    f"A worker process ended with exit code {worker.exitcode} (out of memory, or killed). Finished "
                    "shards are kept: start again to continue."
                )
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _work(task: bytes, end: Any, parent: int) -> None:
    """Embed shards in a worker process, and report each batch."""
    try:
        dataset, embedder, shards, todo = pickle.loads(task)
        progress = _Reports(end, parent)
        with torch_threads(1):
            for i, start, stop in todo:
                shards.write(i, progress.embed(embedder, _slices(dataset, embedder, start, stop), start))
    except Exception as error:
        end.send(error)
    finally:
        end.close()


class _Reports:
    """Sends the counts of a worker to its parent; ends the worker when the parent is gone."""

    def __init__(self, end: Any, parent: int) -> None:
        self._end, self._parent = end, parent

    def embed(self, embedder: Embedder, tables: Iterator[pa.Table], first_row: int) -> Iterator[pa.Table]:
        for table in tables:
            if os.getppid() != self._parent:
                raise SystemExit(1)
            extended, n_tokens = embedder.extend(table, first_row=first_row)
            self._end.send((table.num_rows, n_tokens, _text_bytes(table[embedder.column])))
            first_row += table.num_rows
            yield extended


def _embed_tables(
    embedder: Embedder, tables: Iterator[pa.Table], progress: Progress, first_row: int
) -> Iterator[pa.Table]:
    """Embed tables on threads, in order; errors count rows from `first_row` on.

    While one thread holds the tokenizer, which uses all cores by itself, others sum vectors (one core each) and the
    caller writes. A bounded number of tables is on the way.
    """
    n_threads = n_cores()
    pending: deque[tuple[pa.Table, Future[tuple[pa.Table, int]]]] = deque()
    with torch_threads(1), ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            while True:
                while len(pending) <= n_threads and (table := next(tables, None)) is not None:
                    pending.append((table, pool.submit(embedder.extend, table, first_row=first_row)))
                    first_row += table.num_rows
                if not pending:
                    return
                table, future = pending.popleft()
                extended, n_tokens = future.result()
                yield extended
                progress.add(table.num_rows, n_tokens, _text_bytes(table[embedder.column]))
        finally:
            pool.shutdown(cancel_futures=True)


def _slices(dataset: Dataset, embedder: Embedder, start: int, stop: int) -> Iterator[pa.Table]:
    text_rows = int(_batch_text_bytes(embedder) / max(1.0, _text_bytes_per_row(dataset, embedder)))
    rows = min(_batch_rows(embedder), max(1, text_rows))
    arrow = dataset.with_format("arrow")
    return _split_large((arrow[i : min(i + rows, stop)] for i in range(start, stop, rows)), embedder)


def _split_large(tables: Iterable[pa.Table], embedder: Embedder) -> Iterator[pa.Table]:
    """Halve tables until their texts are about as large as a batch may be, or one row is left."""
    column, limit = embedder.column, 2 * _batch_text_bytes(embedder)
    stack: list[pa.Table] = []
    for whole in tables:
        stack.append(whole)
        while stack:
            table = stack.pop()
            if table.num_rows <= 1 or column not in table.column_names or table[column].nbytes <= limit:
                yield table
            else:
                half = table.num_rows // 2
                stack += [table.slice(half), table.slice(0, half)]


def _batch_rows(embedder: Embedder) -> int:
    return max(1, min(MAX_BATCH_ROWS, VECTOR_BYTES // _vector_bytes(embedder)))


def _batch_text_bytes(embedder: Embedder) -> int:
    if embedder.pooling != "none":
        return TEXT_BYTES
    return min(TEXT_BYTES, max(1, VECTOR_BYTES // _vector_bytes(embedder) * TEXT_BYTES_PER_TOKEN))


def _vector_bytes(embedder: Embedder) -> int:
    return int(embedder.width * np.dtype(embedder.storage).itemsize)


def _row_bytes(dataset: Dataset, embedder: Embedder) -> float:
    """Estimate what a row will take on disk, the same in every run over the same dataset."""
    if not len(dataset.data):
        return 1.0
    vectors = 1.0
    if embedder.pooling == "none":
        vectors = max(1.0, _text_bytes_per_row(dataset, embedder) / TEXT_BYTES_PER_TOKEN)
    return float(dataset.data.nbytes / len(dataset.data) + _vector_bytes(embedder) * vectors)


def _text_bytes_per_row(dataset: Dataset, embedder: Embedder) -> float:
    column = dataset.data.column(embedder.column)
    return float(column.nbytes / len(column)) if len(column) else 1.0


def _text_bytes(texts: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.binary_length(texts)).as_py() or 0) if not pa.types.is_null(texts.type) else 0


__all__ = ["Embedder", "Progress", "embed_dataset"]
