"""Windows stored as a dataset: Arrow files and, until all are there, `progress.json`, the state after the last one."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from datasets import Dataset, DatasetInfo, Features, List, Value
from datasets.table import InMemoryTable

from gpt_embeddings.outputs import AtomicOutput, atomic_file, write_dataset_files, write_json
from gpt_embeddings.progress import Bar
from gpt_embeddings.text.tokenizer import vocabulary_rows
from gpt_embeddings.windows.corpus import Corpus
from gpt_embeddings.windows.documents import has_same_texts
from gpt_embeddings.windows.packing import IGNORED, Ids, WindowSpec


FILE_BYTES = 2**26  # of one Arrow file: what a killed run has to repeat at most
BATCH_ROWS = 256  # windows of one Arrow record batch
KIND = "windows"  # of output, for `outputs`
READ_ROWS = 256  # windows read at a time


def store_windows(corpus: Corpus, epoch: int, folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Cut a whole epoch into windows and store them, stream after stream; see `TokenWindows.to_dataset`."""
    small = vocabulary_rows(corpus.tokenizer) <= 2**16
    input_type = "uint16" if small else "int32"
    target_type = input_type if corpus.spec.tail == "drop" else "int32"
    length = corpus.spec.max_length
    columns: dict[str, Any] = {
        "input_ids": List(Value(input_type), length=length),
        "target_ids": List(Value(target_type), length=length),
    }
    if corpus.weights is not None:
        columns["source_ids"] = Value("int32")
    features = Features(columns)
    nothing = ValueError(f"The dataset gives no window: {corpus.spec.no_window()}.")
    if folder is None:
        tables = [_table(ids, corpus.spec, features) for _, _, ids in _walk(corpus, epoch)]
        if not tables:
            raise nothing
        return Dataset(InMemoryTable(pa.concat_tables(tables).combine_chunks()))
    with AtomicOutput(folder, KIND, {**corpus.settings, "epoch": epoch}) as out:
        out.result.mkdir(exist_ok=True)
        progress: dict[str, Any] = {"stream": 0, "state": None, "files": [], "windows": 0}
        progress["read"] = [[] for _ in corpus.datasets]  # logs of the texts that were read
        progress_file = out.folder / "progress.json"
        if progress_file.exists():
            progress = json.loads(progress_file.read_text(encoding="utf-8"))
            for k, log in enumerate(progress["read"]):
                for entry in log:
                    log_epoch, number = entry["key"]
                    # Fast, since nothing is tokenized, and an edit anywhere in the text is found.
                    if not has_same_texts(corpus.partition(log_epoch, k)[number], entry):
                        raise ValueError(
                            "The text has changed since an earlier run stored windows of it. Give the same documents "
                            f"in the same order, or delete the folder {str(out.folder)!r} to start anew."
                        )
        with Bar(desc="Windows", unit=" windows", initial=progress["windows"]) as bar:
            start = (progress["stream"], progress["state"], progress["read"])
            for number, state_after, ids in _walk(corpus, epoch, *start):
                path = out.result / f"data-{len(progress['files']):05d}.arrow"
                _write_arrow(_table(ids, corpus.spec, features), path)
                progress["files"].append(path.name)
                progress.update(stream=number, state=state_after, windows=progress["windows"] + len(ids))
                write_json(progress, progress_file)
                bar.update(len(ids))
        if not progress["files"]:
            raise nothing
        content = {"settings": corpus.settings, "epoch": epoch, **progress}
        fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        paths = [out.result / name for name in progress["files"]]
        write_dataset_files(out.result, paths, DatasetInfo(features=features), fingerprint)
        out.finish()
    return Dataset.load_from_disk(str(out.path))


def read_windows(
    dataset: Dataset, batch_size: int = 8, *, drop_last: bool = False
) -> Iterator[dict[str, torch.Tensor]]:
    """Read stored windows in order, a batch at a time, straight from their Arrow buffers.

    Args:
        dataset: What [`store_windows`] returned, or a part of it; `dataset.shuffle(seed)` is read in random order.
        batch_size: Windows of a batch.
        drop_last: Whether to drop the last batch if it is not full.

    Yields:
        `input_ids` and `target_ids` of shape `(batch, max_length)`, int64.
    """
    for table in dataset.with_format("arrow").iter(max(1, READ_ROWS // batch_size) * batch_size):
        ids: dict[str, npt.NDArray[Any]] = {}  # (rows, max_length)
        for name in table.column_names:
            column = table[name].combine_chunks()
            if pa.types.is_fixed_size_list(column.type):
                ids[name] = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
            else:
                ids[name] = column.to_numpy()
        for start in range(0, table.num_rows, batch_size):
            if drop_last and start + batch_size > table.num_rows:
                return
            yield {
                name: torch.from_numpy(rows[start : start + batch_size].astype(np.int64)) for name, rows in ids.items()
            }


def _walk(
    corpus: Corpus,
    epoch: int,
    first: int = 0,
    state: dict[str, Any] | None = None,
    logs: list[list[dict[str, Any]]] | None = None,
) -> Iterator[tuple[int, dict[str, Any] | None, Ids]]:
    """Give (stream, state after, windows) from a stream and its state on, a file of windows at a time."""
    rows = max(1, FILE_BYTES // (8 * corpus.spec.max_length))
    states = {number: state if number == first else None for number in range(first, corpus.num_streams)}
    for number, stream in corpus.streams(epoch, states, logs).items():
        while len(ids := stream.take(rows)):
            yield number, stream.state(), ids


def _table(ids: Ids, spec: WindowSpec, features: Features) -> pa.Table:
    columns = {}
    if "source_ids" in features:
        ids, columns["source_ids"] = ids[:, :-1], pa.array(ids[:, -1])
    inputs, targets = ids[:, :-1], ids[:, 1:]
    if (ids[:, -1] == IGNORED).any():
        inputs = np.where(inputs == IGNORED, np.int32(spec.separator), inputs)
    for name, values in (("input_ids", inputs), ("target_ids", targets)):
        flat = pa.array(values.astype(features[name].feature.dtype).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, spec.max_length)
    return pa.table(columns, schema=features.arrow_schema)


def _write_arrow(table: pa.Table, path: Path) -> None:
    with atomic_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=BATCH_ROWS)
