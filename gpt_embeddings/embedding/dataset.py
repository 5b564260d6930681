"""Whole datasets turned into vectors in one call: in memory, on disk, lazily, by threads or by processes.

`Embedder` does the work on each batch; this module cuts a dataset into batches, keeps all cores busy with them, and
hands the results on in order.

Left out: where finished shards go (`shards`), and more than one machine (`cluster`).
"""

import hashlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.embedding.embedder import Embedder
from gpt_embeddings.embedding.provenance import provenance_of
from gpt_embeddings.embedding.shards import PARQUET, SHARD_BYTES, WRITTEN, Format, Shards, open_output, shard_bounds
from gpt_embeddings.outputs import AtomicOutput, check_output, write_json
from gpt_embeddings.progress import Counts, Progress
from gpt_embeddings.text.columns import check_column, check_texts
from gpt_embeddings.text.encoding import as_texts, prepare
from gpt_embeddings.text.sources import read_blocks
from gpt_embeddings.threads import n_cores, torch_threads
from modeling_gpt_embeddings import GPTEmbeddingsModel


logger = logging.getLogger(__name__)

KIND = "embed"  # of job, for `outputs`

AnyDataset: TypeAlias = "Dataset | DatasetDict | IterableDataset | IterableDatasetDict"

# A batch holds at most about this much of text and of vectors, so that memory stays flat whatever the length of the
# documents. Tokenizer and table push each other out of the processor's cache, so that on short texts batches of an
# eighth of this take twice the time.
TEXT_BYTES = 2**21
VECTOR_BYTES = 2**23
MAX_BATCH_ROWS = 8192
TEXT_BYTES_PER_TOKEN = 4  # of English with GPT-2's vocabulary


def embed_dataset(
    data: Any,
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
        data: A `Dataset`, a `DatasetDict`, or a streaming one; a table of pandas or polars; or a list of strings. A
            stream is begun once. It is continued by skipping the rows that are done, so it has to give the same rows
            again.
        model: The model.
        tokenizer: The tokenizer that belongs to it.
        output: A folder to make, or for Parquet a file that ends in `.parquet` or `.pq`. None keeps a dataset's new
            column in memory, and leaves a streaming dataset lazy.
        format: `"arrow"` (for `datasets.load_from_disk`, the default) or `"parquet"`.
        num_proc: Worker processes, each on one thread and on shards of its own. By default one process uses all cores
            by threads, which is as fast on a few cores. Streaming datasets take no workers.
        resume: Whether to continue what an earlier run has left; False throws that away.
        overwrite: Whether to replace an output that exists, when the new one is whole.
        progress: Counts and shows the progress; by default a bar, and a warning of texts that are missing, blank or
            cut.
        model_name: Folder or Hub name of the model, for what the output says of itself (`read_provenance`).
        options: The options of [`Embedder`]: `column`, `output_column`, `pooling`, `normalize`, `overflow`,
            `dtype`, `truncate_dim`, `ranges`, `weights`.

    Returns:
        The dataset with the new column: memory-mapped from an Arrow output, a stream over a Parquet output.

    Raises:
        FileExistsError: The output exists.
        TypeError: The column holds no strings, or the data are nothing that holds rows.
        ValueError: There is no such column, the output column exists, an option is unknown, the output is named as a
            file of another format, there are shards of another job, or rows were lost.
    """
    embedder = Embedder(model, tokenizer, **options)
    if num_proc is not None and num_proc < 1:
        raise ValueError(f"`num_proc` must be at least 1, got {num_proc}.")
    target = None if output is None else Path(output).resolve()
    if output is not None:
        check_output(output, KIND, overwrite=overwrite, overwritable=WRITTEN, suffixes=PARQUET)
    dataset = _as_dataset(data, embedder.column)
    job = _Job(embedder, _find_format(format, target), num_proc, model_name, resume, overwrite)
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return _embed_splits(dataset, target, job, progress)
    if isinstance(dataset, IterableDataset) and num_proc is not None:
        raise ValueError("`num_proc` does not work on a streaming dataset; leave it out.")
    _check_columns(dataset, embedder)
    if target is not None:
        return _embed_to(target, _begin(dataset, embedder), job, progress)
    if isinstance(dataset, IterableDataset):
        return _embed_lazily(dataset, embedder)
    with _counted(progress, embedder, len(dataset)) as bar:
        return _embed_in_memory(dataset, embedder, bar, model_name)


@dataclass(frozen=True)
class _Job:
    """What is the same for all splits."""

    embedder: Embedder
    format: Format
    num_proc: int | None
    model_name: str | None
    resume: bool = True
    overwrite: bool = False

    def open(self, target: Path, settings: dict[str, Any]) -> AtomicOutput:
        """Open an output for rows that the settings tell from others."""
        options = {**self.embedder.options, "format": self.format, **settings}
        options["digest of model, tokenizer and options"] = self.embedder.digest
        return AtomicOutput(
            target, KIND, options, resume=self.resume, overwrite=self.overwrite, overwritable=WRITTEN, suffixes=PARQUET
        )


def _as_dataset(data: Any, column: str) -> AnyDataset:
    """Return a dataset of whatever holds rows; texts by themselves become its column."""
    if isinstance(data, (Dataset, DatasetDict, IterableDataset, IterableDatasetDict)):
        return data
    if hasattr(data, "to_arrow") and hasattr(data, "columns"):  # polars
        return Dataset(data.to_arrow())
    if hasattr(data, "isna") and hasattr(data, "columns"):  # pandas
        return Dataset.from_pandas(data, preserve_index=False)
    if isinstance(data, (str, bytes, Path, Mapping)) or not hasattr(data, "__len__"):
        raise TypeError(
            f"`data` must be a dataset, a table of pandas or polars, or a list of strings, got {type(data).__name__}. "
            "`load_source` opens files; `IterableDataset.from_generator` takes what gives rows one by one."
        )
    texts = as_texts(data)
    if isinstance(texts, list) and (wrong := next((t for t in texts if not isinstance(t, (str, type(None)))), None)):
        raise TypeError(f"`data` must hold strings, it holds {type(wrong).__name__}: {wrong!r:.80}.")
    return Dataset(pa.table({column: pa.array(texts, pa.string()) if isinstance(texts, list) else texts}))


def _find_format(format: Format | None, target: Path | None) -> Format:
    suffix = "" if target is None else target.suffix
    one_file = suffix.lower() in PARQUET
    if format is None:
        return "parquet" if one_file else "arrow"
    if format not in get_args(Format):
        raise ValueError(f"`format` must be 'arrow' or 'parquet', got {format!r}.")
    if one_file and format != "parquet":
        raise ValueError(f"`format` is {format!r}, but the output is named as a {suffix} file.")
    return format


@contextmanager
def _counted(progress: Progress | None, embedder: Embedder, total: int | None) -> Iterator[Progress]:
    """Give the caller's progress, or one of our own, which says in the end what there was to remark."""
    bar = progress or Progress(total)
    try:
        yield bar
    finally:
        bar.close()
    if progress is None:
        for warning in embedder.warnings(bar.counts):
            logger.warning(warning)


def _embed_to(
    target: Path, source: "Dataset | _Stream", job: _Job, progress: Progress | None
) -> Dataset | IterableDataset:
    """Write the rows of a dataset with their vectors, and open what was written."""
    embedder, total = job.embedder, len(source) if isinstance(source, Dataset) else None
    features = Features({**source.features, embedder.output_column: embedder.feature})
    mark = _mark(source)
    workers = isinstance(source, Dataset) and job.num_proc is not None
    settings = {**mark, **({"cut for worker processes (--num-proc)": True} if workers else {})}
    with _counted(progress, embedder, total) as bar, job.open(target, settings) as out:
        shards = Shards(out.result, features, provenance_of(embedder, job.model_name), format=job.format)
        one_file = target.suffix.lower() in PARQUET
        if isinstance(source, Dataset):
            if one_file:
                shards.foresee_room(_row_bytes(source, embedder) * len(source))
            _write_dataset(source, embedder, shards, job.num_proc or 0, bar)
        else:
            _write_stream(source, embedder, shards, bar)
        told = [{**mark, "format": job.format}, embedder.digest]
        fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
        n_rows = len(source) if isinstance(source, Dataset) else source.n_read
        out.finish(shards.finish(fingerprint, source.split, n_rows=n_rows, one_file=one_file))
    return open_output(target)


def _embed_splits(
    datasets: DatasetDict | IterableDatasetDict, target: Path | None, job: _Job, progress: Progress | None
) -> AnyDataset:
    for dataset in datasets.values():
        _check_columns(dataset, job.embedder)
    opened: dict[str, Any] = {}
    if target is None:
        for name, dataset in datasets.items():
            if isinstance(dataset, IterableDataset):
                opened[name] = _embed_lazily(dataset, job.embedder)
            else:
                with _counted(progress, job.embedder, len(dataset)) as bar:
                    opened[name] = _embed_in_memory(dataset, job.embedder, bar, job.model_name)
    else:
        if target.suffix.lower() in PARQUET:
            raise ValueError(f"{len(datasets)} splits do not go into one file; give a folder as `output`.")
        sources = {name: _begin(dataset, job.embedder) for name, dataset in datasets.items()}
        with job.open(target, {"splits": {name: _mark(source) for name, source in sources.items()}}) as out:
            for name, source in sources.items():
                if not (out.result / name).exists():
                    _embed_to(out.result / name, source, replace(job, resume=True, overwrite=False), progress)
            if job.format == "arrow":
                write_json({"splits": list(datasets)}, out.result / "dataset_dict.json")
            out.finish()
        opened = {name: open_output(target / name) for name in datasets}
    lazy = any(isinstance(split, IterableDataset) for split in opened.values())
    return (IterableDatasetDict if lazy else DatasetDict)(opened)


class _Stream:
    """A stream that is begun once: its first rows are looked at and put back.

    Args:
        dataset: The stream.
        embedder: What its rows are for.
    """

    def __init__(self, dataset: IterableDataset, embedder: Embedder) -> None:
        self.dataset, self.split, self.column = dataset, dataset.split, embedder.column
        self.n_read = 0
        self._batches = read_blocks(dataset.with_format("arrow"), _batch_rows(embedder))
        self._first: pa.Table | None = next(self._batches, None)
        features = dataset.features
        if features is None:
            if self._first is None:
                raise ValueError(
                    "The stream gives no rows, and its columns are unknown. Was it over an iterator that has been "
                    "read already? Make it anew, or give it `features`."
                )
            features = Features.from_arrow_schema(self._first.schema)
            _check_names(self._first.column_names, embedder)
            if pa.types.is_null(self._first.schema.field(self.column).type):
                features[self.column] = Value("string")  # there are only missing texts as yet
        self.features = features

    @property
    def first_row(self) -> Any:
        """The first row, or None."""
        return None if self._first is None else self._first.slice(0, 1).to_pylist()[0]

    def tables(self, done: int, last_text: str | None) -> Iterator[pa.Table]:
        """Give the rows after those that an earlier run has written, of which the last text is known."""
        table = self._first
        while table is not None:
            skipped = min(table.num_rows, max(0, done - self.n_read))
            if skipped and self.n_read + skipped == done:
                self._check(table[self.column][skipped - 1].as_py() == last_text, done)
            self.n_read += table.num_rows
            if skipped < table.num_rows:
                yield table.slice(skipped)
            table = next(self._batches, None)
        self._check(self.n_read >= done, done)

    def _check(self, same: bool, done: int) -> None:
        if not same:
            raise ValueError(
                f"The stream does not give the {done} rows again that an earlier run has embedded, so that it cannot "
                "be continued. Give `resume=False` (--no-resume) to begin anew."
            )


def _begin(dataset: Dataset | IterableDataset, embedder: Embedder) -> Dataset | _Stream:
    return dataset if isinstance(dataset, Dataset) else _Stream(dataset, embedder)


def _mark(source: Dataset | _Stream) -> dict[str, str]:
    """Return what tells one dataset from another, by its name: a fingerprint; of a stream files and first row."""
    if isinstance(source, Dataset):
        return {"dataset": str(source._fingerprint)}
    origin: Any = getattr(source.dataset, "_ex_iterable", None)
    while hasattr(origin, "ex_iterable"):
        origin = origin.ex_iterable
    arguments = getattr(origin, "kwargs", None) or {}
    lists = [value for value in arguments.values() if isinstance(value, list)]
    files = [name for names in lists for name in names if isinstance(name, str)]
    told = repr((source.dataset.num_shards, files, source.first_row)).encode(errors="replace")
    name = "dataset, by its files and first row (a stream over an iterator has to be made anew)"
    return {name: hashlib.sha256(told).hexdigest()}


def _check_columns(dataset: Dataset | IterableDataset, embedder: Embedder) -> None:
    if dataset.features is not None:  # else the first rows will tell
        check_texts(dataset, embedder.column)
        _check_names(dataset.features, embedder)


def _check_names(names: Iterable[str], embedder: Embedder) -> None:
    names = list(names)
    check_column(names, embedder.column)
    if embedder.output_column in names:
        raise ValueError(f"The dataset already has a column {embedder.output_column!r}; remove it or name another.")


def _embed_lazily(dataset: IterableDataset, embedder: Embedder) -> IterableDataset:
    features, rows = dataset.features, _batch_rows(embedder)
    if features is not None:
        features = Features({**features, embedder.output_column: embedder.feature})
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
    provenance = provenance_of(embedder, model_name).to_json()
    fingerprint = hashlib.sha256(f"{dataset._fingerprint} {provenance}".encode()).hexdigest()[:16]
    embedded = dataset.add_column(
        embedder.output_column, column, new_fingerprint=fingerprint, feature=embedder.feature
    )
    embedded.info.description = provenance
    return embedded


def _write_dataset(dataset: Dataset, embedder: Embedder, shards: Shards, num_proc: int, progress: Progress) -> None:
    todo = []
    bounds = shard_bounds(len(dataset), _row_bytes(dataset, embedder), for_workers=num_proc > 0)
    for i, (start, stop) in enumerate(bounds):
        if shards.rows(i) == stop - start:
            progress.skip(stop - start)
        else:
            todo.append((i, start, stop))
    if num_proc and todo:
        _write_in_processes(dataset, embedder, shards, todo, num_proc, progress)
        return
    for i, start, stop in todo:
        shards.write(i, _embed_tables(embedder, _slices(dataset, embedder, start, stop), progress, start))


def _write_stream(source: _Stream, embedder: Embedder, shards: Shards, progress: Progress) -> None:
    index = done = 0
    while (rows := shards.rows(index)) is not None:
        done, index = done + rows, index + 1
    shards.drop_from(index)
    progress.skip(done)
    last_text = shards.last(index - 1, embedder.column) if done else None
    batches = source.tables(done, last_text)
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
    # A fork has everything at once, the tokenizer's engine too, which the parent makes here; others begin anew.
    forks = "fork" in multiprocessing.get_all_start_methods() and sys.platform == "linux"
    context: Any = multiprocessing.get_context("fork" if forks else None)
    prepare(embedder.tokenizer)
    embedder.extend(pa.table({embedder.column: ["."]}))
    workers, ends = [], []
    for rank in range(min(num_proc, len(todo))):
        end, other = context.Pipe(duplex=False)
        arguments = (dataset, embedder, shards, todo[rank::num_proc], other, os.getpid())
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
                progress.add(message)
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


def _work(
    dataset: Dataset, embedder: Embedder, shards: Shards, todo: list[tuple[int, int, int]], end: Any, parent: int
) -> None:
    """Embed shards in a worker process, and report each batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C, which all of them get, the parent speaks
    try:
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
            extended, counts = embedder.extend(table, first_row=first_row)
            self._end.send(counts)
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
    pending: deque[Future[tuple[pa.Table, Counts]]] = deque()
    with torch_threads(1), ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            while True:
                while len(pending) <= n_threads and (table := next(tables, None)) is not None:
                    pending.append(pool.submit(embedder.extend, table, first_row=first_row))
                    first_row += table.num_rows
                if not pending:
                    return
                extended, counts = pending.popleft().result()
                yield extended
                progress.add(counts)
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
