"""A whole dataset embedded in one call, in batches on all cores: in memory, on disk or lazily."""

import hashlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.arguments import check_choice, check_integer
from gpt_embeddings.embedding.embedder import Embedder
from gpt_embeddings.embedding.shards import PARQUET, WRITTEN, Format, Provenance, Shards, open_output
from gpt_embeddings.outputs import AtomicOutput, check_output, write_json
from gpt_embeddings.progress import Counts, Progress
from gpt_embeddings.text.columns import check_column, check_texts, find_blank, take_column
from gpt_embeddings.text.encoding import as_texts, bad_text, fill_missing, prepare
from gpt_embeddings.text.sources import read_blocks
from gpt_embeddings.threads import n_cores, torch_threads
from modeling_gpt_embeddings import GPTEmbeddingsModel


logger = logging.getLogger(__name__)

# A batch holds at most about this much text and this many vectors, so that memory stays flat whatever the length of
# the documents. Tokenizer and table compete for the processor's cache: on short texts, batches of an eighth of this
# take twice the time.
TEXT_BYTES = 2**21
VECTOR_BYTES = 2**23
MAX_BATCH_ROWS = 8192
CALIBRATION_ROWS = 10_000
COMPARED_ROWS = 1024
PART_ROWS, MAX_PARTS = 4096, 256  # for worker processes: at least so many rows, and at most so many parts

_of_worker: dict[str, Any] = {}  # of a worker process: its dataset, job and shards


def embed_dataset(
    data: Any,
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    output: str | os.PathLike[str] | None = None,
    format: Format | None = None,
    num_proc: int | None = None,
    drop_empty: bool = False,
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    model_name: str | None = None,
    **options: Any,
) -> Dataset | DatasetDict | IterableDataset | IterableDatasetDict:
    """Embed a column of a dataset, in Arrow from end to end, with the steps overlapping on all cores.

    With an output, rows are written to disk in shards of about 256 MiB, and memory stays flat however large the
    dataset is. A killed run continues after its last complete shard when it is started again, and the result is that
    of an uninterrupted run.

    Args:
        data: A `Dataset`, a `DatasetDict`, or a streaming one; a table of pandas or polars; or a list of strings. A
            stream is begun once. A killed run on a stream reads the finished rows again, so the stream has to repeat
            them.
        model: The model.
        tokenizer: The tokenizer that belongs to it.
        output: A folder to make, or for Parquet a file that ends in `.parquet` or `.pq`. None keeps a dataset's new
            column in memory, and leaves a streaming dataset lazy.
        format: `"arrow"` (for `datasets.load_from_disk`, the default) or `"parquet"`.
        num_proc: Worker processes, each with one thread and shards of its own. By default one process uses all cores
            by threads, which is as fast on a few cores. Streaming datasets take no workers.
        drop_empty: Whether to drop the rows whose text is missing or blank, instead of giving them zero vectors.
        resume: Whether to continue what an earlier run has left; False deletes it.
        overwrite: Whether to replace an existing output when the new one is complete.
        progress: Counts and shows the progress, and receives the warnings about missing, blank and truncated texts.
            By default there is a bar, and the warnings are logged.
        model_name: Folder or Hub name of the model, which is stored with the output (`read_provenance`); None is where
            it was loaded from, if it was.
        options: The options of [`Embedder`]: `column`, `output_column`, `pooling`, `normalize`, `overflow`, `dtype`,
            `truncate_dim`, `ranges`, `weights`.

    Returns:
        The dataset with the new column: memory-mapped from an Arrow output, a stream over a Parquet output.

    Raises:
        FileExistsError: The output exists.
        TypeError: The column does not hold strings, or the data hold no rows.
        ValueError: There is no such column, the output column exists, an option is unknown, the dataset has a
            transform, the output has the name of another format, there are shards of another job, or rows were lost.
    """
    embedder = Embedder(model, tokenizer, **options)
    if num_proc is not None:
        num_proc = check_integer("num_proc", num_proc, 1)
    target = None if output is None else Path(output).resolve()
    suffix = "" if target is None else target.suffix
    one_file = suffix.lower() in PARQUET
    if format is None:
        format = "parquet" if one_file else "arrow"
    check_choice("format", format, get_args(Format))
    if one_file and format != "parquet":
        raise ValueError(f"`format` is {format!r}, but the output is named as a {suffix} file.")
    if output is not None:
        check_output(output, "embed", overwrite=overwrite, overwritable=WRITTEN, suffixes=PARQUET)
    splits, column = _as_splits(data, embedder, num_proc), embedder.column
    if one_file and "" not in splits:
        raise ValueError(f"{len(splits)} splits do not fit into one file; give a folder as `output`.")
    streams = isinstance(data, (IterableDataset, IterableDatasetDict))
    embedded: dict[str, Any]
    if streams and target is None:
        if drop_empty:
            raise ValueError(
                "`drop_empty` needs an `output` for a stream, or the dropped rows could not be counted. "
                f"Or drop them yourself: `stream.filter(lambda row: (row[{column!r}] or '').strip())`."
            )
        embedded = {name: _embed_lazily(split, embedder) for name, split in splits.items()}
    else:
        if embedder.dtype == "int8" and embedder.ranges is None:
            if streams:
                raise ValueError("int8 on a streaming dataset needs `ranges`, which `Embedder.calibrate` finds.")
            first = next(iter(splits.values()))  # a sample of it that is the same in every run
            rows = np.linspace(0, len(first) - 1, min(len(first), CALIBRATION_ROWS), dtype=np.int64)
            texts = take_column(first.select_columns([column]).with_format("arrow").select(rows)[:], column)
            embedder.calibrate(texts.filter(pa.array(~find_blank(texts))))
        counting = progress or Progress(None if streams else sum(map(len, splits.values())))
        try:
            job = _Job(embedder, embedder.provenance(model_name), counting, format, num_proc or 0, drop_empty)
            if drop_empty and not streams:  # which drop them while they are read
                for name, split in splits.items():
                    batches = split.select_columns([column]).with_format("arrow").iter(batch_size=MAX_BATCH_ROWS)
                    found = [find_blank(take_column(batch, column)) for batch in batches]
                    blank = np.concatenate([np.zeros(0, bool), *found])
                    counting.add(Counts(dropped=int(blank.sum())))
                    splits[name] = split.select(np.flatnonzero(~blank)) if blank.any() else split
            if target is None:
                embedded = {name: _embed_in_memory(split, job) for name, split in splits.items()}
            else:
                embedded = _embed_to(target, splits, job, resume, overwrite)
        finally:
            counting.close()
        counting.warnings = counting.counts.warnings(model.config.n_positions, embedder.pooling)
        for warning in counting.warnings if progress is None else ():
            logger.warning(warning)
    if "" in embedded:
        return embedded[""]
    lazy = any(isinstance(split, IterableDataset) for split in embedded.values())
    return (IterableDatasetDict if lazy else DatasetDict)(embedded)


def _as_splits(data: Any, embedder: Embedder, num_proc: int | None) -> dict[str, Any]:
    """Return anything that holds rows, or texts, as datasets by the names of splits, else by "", and check them."""
    column = embedder.column
    if isinstance(data, (Dataset, DatasetDict, IterableDataset, IterableDatasetDict)):
        dataset = data
    elif hasattr(data, "to_arrow") and hasattr(data, "columns"):  # polars
        dataset = Dataset(data.to_arrow())
    elif hasattr(data, "isna") and hasattr(data, "columns"):  # pandas
        table = pa.Table.from_pandas(data, preserve_index=False)
        index = table.schema.get_field_index(column)
        if index >= 0 and table[index].null_count == len(table):  # pandas keeps missing values alone as floats
            table = table.set_column(index, column, pa.nulls(len(table), pa.string()))
        dataset = Dataset(table)
    elif isinstance(data, (str, bytes, Path, Mapping)) or not hasattr(data, "__len__"):
        raise TypeError(
            f"`data` must be a dataset, a table of pandas or polars, or a list of strings, got {type(data).__name__}. "
            "`load_source` opens files; `IterableDataset.from_generator` takes a function that yields rows."
        )
    else:
        texts = as_texts(data)
        try:
            dataset = Dataset(pa.table({column: pa.array(texts, pa.string()) if isinstance(texts, list) else texts}))
        except (TypeError, ValueError):  # Arrow does not say which text it is
            raise bad_text(fill_missing(texts)[0], "`data`, item {}".format) from None
    splits = dict(dataset) if isinstance(dataset, dict) else {"": dataset}
    for split in splits.values():
        if isinstance(split, IterableDataset) and num_proc is not None:
            raise ValueError("`num_proc` does not work on a streaming dataset; leave it out.")
        if isinstance(split, Dataset) and split.format["type"] == "custom":
            raise ValueError(
                "The dataset has a transform (`set_transform`, `with_transform`), so the texts it shows differ from "
                "the stored ones. Store them with `dataset.map(transform, batched=True)`, or embed the stored texts "
                "after `dataset.reset_format()`."
            )
        if split.features is not None:  # otherwise the first rows will tell
            check_texts(split, column)
            _check_names(split.features, embedder)
    return splits


def _check_names(names: Iterable[str], embedder: Embedder) -> None:
    names = list(names)
    check_column(names, embedder.column)
    if embedder.output_column in names:
        raise ValueError(f"The dataset already has a column {embedder.output_column!r}; remove it or name another.")


def _embed_lazily(dataset: IterableDataset, embedder: Embedder) -> IterableDataset:
    rows, _ = _batch_limits(embedder)
    if dataset.features is None:  # as dictionaries: in Arrow each batch would get types of its own, null among them
        return dataset.map(partial(_embed_lists, embedder), batched=True, batch_size=rows)
    features = Features({**dataset.features, embedder.output_column: embedder.feature})
    arrow = dataset.with_format("arrow")
    return arrow.map(embedder, batched=True, batch_size=rows, features=features).with_format(None)


def _embed_lists(embedder: Embedder, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [vectors.tolist() for vectors in column] for name, column in embedder(batch).items()}


@dataclass
class _Job:
    """What is the same for all splits, and how rows are embedded: in batches, on threads, in order."""

    embedder: Embedder
    provenance: Provenance
    progress: Progress
    format: Format
    num_proc: int  # worker processes; 0 means threads
    drop_empty: bool
    n_threads: int = field(default_factory=n_cores)

    def write(self, source: "Dataset | _Stream", shards: Shards, part: int = 0, rows: range | None = None) -> None:
        """Write a part of a dataset, or a stream, in shards after those that an earlier run has written."""
        index = done = 0
        tables: Any = None if isinstance(source, Dataset) else source.tables()
        for written in shards.finished(part, [] if tables is None else list(source.features)):
            if tables is not None:
                tables = _skip_same(tables, written, done)
            index, done = index + 1, done + written.num_rows
        self.progress.skip(done)
        first_row = done
        if isinstance(source, Dataset):
            rows = rows or range(len(source))
            first_row += rows.start
            tables = self.slices(source, first_row, rows.stop)
        embedded = self.embed(tables, first_row)
        for table in embedded:  # the first of each shard
            shards.write(part, index, chain([table], embedded))
            index += 1
        if not index:
            shards.write(part, 0, ())

    def slices(self, dataset: Dataset, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield rows of a dataset in batches."""
        size, limit = _batch_limits(self.embedder)
        text_bytes = dataset.data.column(self.embedder.column).nbytes / max(1, len(dataset.data))  # on average
        size = min(size, max(1, int(limit / max(1.0, text_bytes))))
        arrow = dataset.with_format("arrow")
        return (arrow[i : min(i + size, stop)] for i in range(start, stop, size))

    def embed(self, tables: Iterator[pa.Table], first_row: int = 0) -> Iterator[pa.Table]:
        """Embed tables on threads, in order; errors count rows from `first_row` on.

        While one thread holds the tokenizer, which uses all cores itself, others sum vectors (one core each) and the
        caller writes. The number of tables in progress is bounded.
        """
        pending: deque[Future[tuple[pa.Table, Counts]]] = deque()
        threads = ThreadPoolExecutor(self.n_threads, initializer=torch.set_num_threads, initargs=(1,))
        # The halves, or halves of these, of a table with more text than a batch may have.
        parts: deque[pa.Table] = deque()
        column, limit = self.embedder.column, 2 * _batch_limits(self.embedder)[1]
        with torch_threads(1), threads:
            try:
                while True:
                    while len(pending) <= self.n_threads:
                        table = parts.popleft() if parts else next(tables, None)
                        if table is None:
                            break
                        half = table.num_rows // 2
                        if half and column in table.column_names and table[column].nbytes > limit:
                            parts.extendleft([table.slice(half), table.slice(0, half)])
                            continue
                        pending.append(threads.submit(self.embedder.extend, table, 1, first_row))
                        first_row += table.num_rows
                    if not pending:
                        return
                    extended, counts = pending.popleft().result()
                    yield extended
                    self.progress.add(counts)
            finally:
                threads.shutdown(cancel_futures=True)


def _batch_limits(embedder: Embedder) -> tuple[int, int]:
    """Return how many rows a batch may have, and how many bytes of text."""
    n_vectors = max(1, VECTOR_BYTES // embedder.vector_bytes)
    if embedder.pooling == "none":  # a token of English has four bytes
        return min(MAX_BATCH_ROWS, n_vectors), min(TEXT_BYTES, 4 * n_vectors)
    return min(MAX_BATCH_ROWS, n_vectors), TEXT_BYTES


def _embed_in_memory(dataset: Dataset, job: _Job) -> Dataset:
    embedder, provenance = job.embedder, job.provenance.to_json()
    only = dataset.select_columns([embedder.column])
    embedded = job.embed(job.slices(only, 0, len(only)))
    columns = [table[embedder.output_column].combine_chunks() for table in embedded]
    result = dataset.add_column(
        embedder.output_column,
        pa.chunked_array(columns, type=Features({"x": embedder.feature}).arrow_schema.field("x").type),
        new_fingerprint=Hasher.hash([dataset._fingerprint, provenance]),
        feature=embedder.feature,
    )
    result.info.description = provenance
    return result


# To disk ---------------------------------------------------------------------------------------------------------


def _embed_to(
    target: Path, splits: Mapping[str, Any], job: _Job, resume: bool, overwrite: bool
) -> dict[str, Dataset | IterableDataset]:
    """Write the rows of all splits with their vectors, and open what was written."""
    embedder, one_file = job.embedder, target.suffix.lower() in PARQUET
    sources, identities = {}, {}
    for name, split in splits.items():
        if isinstance(split, IterableDataset):
            sources[name] = stream = _Stream(split, job)
            first = repr((split.num_shards, stream.first_row)).encode(errors="replace")
            what = "dataset, by its first row (a stream over an iterator has to be made again)"
            identities[name] = {what: hashlib.sha256(first).hexdigest()}
        else:
            sources[name], identities[name] = split, {"dataset": str(split._fingerprint)}
    settings = {
        **job.provenance.options,
        "format": job.format,
        "digest of model, tokenizer and options": job.provenance.digest,
        "parts for worker processes (--num-proc)": job.num_proc > 0,
        "drop_empty": job.drop_empty,
        **identities.get("", {"splits": identities}),
    }
    with AtomicOutput(
        target, "embed", settings, resume=resume, overwrite=overwrite, overwritable=WRITTEN, suffixes=PARQUET
    ) as out:
        for name, source in sources.items():
            features = Features({**source.features, embedder.output_column: embedder.feature})
            shards = Shards(out.result / name, features, job.provenance, format=job.format)
            if one_file and isinstance(source, Dataset):
                shards.check_room(len(source) * embedder.vector_bytes + source.data.nbytes)
            if job.num_proc:
                _write_in_processes(source, shards, job)
            else:
                job.write(source, shards)
            n_rows = len(source) if isinstance(source, Dataset) else source.n_read
            fingerprint = Hasher.hash([identities[name], job.format, job.provenance.digest])
            result = shards.finish(fingerprint, source.split, n_rows=n_rows, one_file=one_file)
        if "" in sources:
            out.finish(result)
        else:
            if job.format == "arrow":
                write_json({"splits": list(sources)}, out.result / "dataset_dict.json")
            out.finish()
    return {name: open_output(target / name) for name in sources}


class _Stream:
    """A stream that is begun once: its first rows are looked at and put back."""

    def __init__(self, dataset: IterableDataset, job: _Job) -> None:
        self.split, self.features, self.n_read, self._job = dataset.split, dataset.features, 0, job
        blocks = read_blocks(dataset.with_format("arrow"), _batch_limits(job.embedder)[0])
        first = next(blocks, None)
        self.first_row = None if first is None else first.slice(0, 1).to_pylist()[0]
        self._blocks = blocks if first is None else chain([first], blocks)
        if self.features is None:
            if first is None:
                raise ValueError(
                    "The stream has no rows, and its columns are unknown. Was it over an iterator that has already "
                    "been read? Make it again, or give it `features`."
                )
            column = job.embedder.column
            self.features = Features.from_arrow_schema(first.schema)
            _check_names(first.column_names, job.embedder)
            if pa.types.is_null(first.schema.field(column).type):
                self.features[column] = Value("string")  # all texts so far are missing

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows, without those whose text is missing or blank if these are dropped."""
        for table in self._blocks:
            if self._job.drop_empty:
                blank = find_blank(take_column(table, self._job.embedder.column))
                self._job.progress.add(Counts(dropped=int(blank.sum())))
                table = table.filter(pa.array(~blank))
            self.n_read += table.num_rows
            yield table


def _skip_same(tables: Iterator[pa.Table], written: pa.Table, done: int) -> Iterator[pa.Table]:
    """Return the tables after those that an earlier run has written, if these are still the same."""
    n, schema, taken, rest = written.num_rows, written.schema, [], []
    while n > 0 and (table := next(tables, None)) is not None:
        if table.num_rows > n:
            rest.append(table.slice(n))
        taken.append(table.slice(0, n))
        n -= taken[-1].num_rows
    try:
        rows = pa.concat_tables([table.select(schema.names).cast(schema) for table in taken] or [schema.empty_table()])
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError):  # other columns: not what was written
        rows = schema.empty_table()
    same = rows.num_rows == written.num_rows
    for i in range(0, rows.num_rows if same else 0, COMPARED_ROWS):
        one, other = rows.slice(i, COMPARED_ROWS), written.slice(i, COMPARED_ROWS)
        # `pa.Table.equals` finds NaN different from NaN, so where it finds a difference the values are printed.
        same = same and (one.equals(other) or repr(one.to_pylist()) == repr(other.to_pylist()))
    if not same:
        raise ValueError(
            f"The stream does not repeat the rows that an earlier run has embedded: rows {done:,} to "
            f"{done + written.num_rows - 1:,} have changed. Give `resume=False` (--no-resume) to start anew."
        )
    return chain(rest, tables)


def _write_in_processes(dataset: Dataset, shards: Shards, job: _Job) -> None:
    """Write a dataset in parts, whose number does not depend on that of the processes."""
    # A forked child has everything at once, also the tokenizer's backend, which the parent makes here.
    forks = "fork" in multiprocessing.get_all_start_methods() and sys.platform == "linux"
    context = multiprocessing.get_context("fork" if forks else None)
    prepare(job.embedder.tokenizer)
    job.embedder.extend(pa.table({job.embedder.column: ["."]}))
    size = max(PART_ROWS, -(-len(dataset) // MAX_PARTS))
    parts = [range(i, min(i + size, len(dataset))) for i in range(0, len(dataset), size)] or [range(0)]
    arguments = (dataset, shards, replace(job, progress=Progress(hidden=True), n_threads=1), os.getpid())
    pool = ProcessPoolExecutor(min(job.num_proc, len(parts)), context, _start_worker, arguments)
    try:
        for future in as_completed([pool.submit(_write_part, part, rows) for part, rows in enumerate(parts)]):
            counts, resumed = future.result()
            job.progress.skip(resumed)
            job.progress.add(counts)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "A worker process has ended (out of memory, or killed). Finished shards are kept: start again to continue."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(dataset: Dataset, shards: Shards, job: _Job, parent: int) -> None:
    """Keep what all tasks of a worker process need, and end it when its parent is killed, as a pool does not."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all processes get Ctrl-C; the parent reports it
    torch.set_num_threads(1)
    threading.Thread(target=watch, daemon=True).start()
    _of_worker.update(source=dataset, shards=shards, job=job)


def _write_part(part: int, rows: range) -> tuple[Counts, int]:
    """Write a part in a worker process; return the counts of its texts, and how many an earlier run has written."""
    job = _of_worker["job"]
    job.progress = Progress(hidden=True)
    job.write(_of_worker["source"], _of_worker["shards"], part, rows)
    return job.progress.counts, job.progress.resumed
