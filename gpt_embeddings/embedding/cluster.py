"""Embedding on a cluster: Ray Data reads Parquet or takes a dataset, actors embed blocks of it and write Parquet."""

import os
import platform
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from gpt_embeddings.embedding.embedder import Embedder
from gpt_embeddings.embedding.shards import WRITTEN
from gpt_embeddings.outputs import AtomicOutput, atomic_file
from gpt_embeddings.progress import Counts, Progress
from gpt_embeddings.text.columns import check_column, find_blank, take_column


BATCH_ROWS = 1000  # of a block that are embedded at once


class EmbedderActor:
    """An `Embedder` that loads its model where it is started, and writes what it embeds.

    A task that is repeated, because an actor or its node was lost, writes another file. Ray returns the result of each
    task once, which decides which files count, so no row and no count is there twice.
    """

    def __init__(
        self, model: str, tokenizer: str | None, options: dict[str, Any], folder: str, drop_empty: bool = False
    ) -> None:
        self._embedder = Embedder.from_pretrained(model, tokenizer=tokenizer, **options)
        self._provenance, self._folder = self._embedder.provenance(model), Path(folder)
        self._drop_empty = drop_empty

    def __call__(self, block: pa.Table) -> pa.Table:
        """Write a block with its vectors; return one row: the file, its rows and counts, the length of the model."""
        n_read = block.num_rows
        if self._drop_empty:
            block = block.filter(pa.array(~find_blank(take_column(block, self._embedder.column))))
        progress = Progress(hidden=True)
        progress.add(Counts(dropped=n_read - block.num_rows))
        path = self._folder / f"part-{uuid.uuid4().hex}.parquet"
        if not self._folder.is_dir():
            raise FileNotFoundError(
                f"The node {platform.node()} has no {str(self._folder)!r}, which the first machine made: the output "
                "must be on storage that all nodes share."
            )
        with atomic_file(path) as partial, ExitStack() as closing:
            writer = None
            for start in range(0, max(1, block.num_rows), BATCH_ROWS):
                extended, counts = self._embedder.extend(block.slice(start, BATCH_ROWS))
                if writer is None:
                    schema = self._provenance.add_to(extended.schema)
                    writer = closing.enter_context(pq.ParquetWriter(partial, schema))
                writer.write_table(extended.cast(schema))
                progress.add(counts)
        n_positions = self._embedder.model.config.n_positions
        return pa.Table.from_pylist(
            [{"file": path.name, "rows": n_read, "n_positions": n_positions, **progress.counts._asdict()}]
        )


def embed_on_cluster(
    inputs: Sequence[str | os.PathLike[str]] | Dataset,
    output: str | os.PathLike[str],
    model: str,
    tokenizer: str | None,
    *,
    address: str | None = None,
    n_actors: int | None = None,
    drop_empty: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> int:
    """Embed Parquet files or a dataset on a Ray cluster.

    Args:
        inputs: Parquet files or folders of them, on storage that every node can read; or a dataset of this process,
            which is sent to the nodes.
        output: A folder to make, on storage that every node can write; it receives Parquet files. Rows are in no
            particular order.
        model: Folder or Hub name of a saved model.
        tokenizer: Folder or Hub name of its tokenizer; None is the model's own.
        address: The cluster's address, such as `"auto"` or `"ray://head:10001"`; None joins the cluster of this
            process, or starts one on this machine.
        n_actors: Number of actors, each on one CPU; by default one for each CPU of the cluster but one, which reads
            and writes.
        drop_empty: Whether to drop the rows whose text is missing or blank, instead of giving them zero vectors.
        overwrite: Whether to replace an existing output when the new one is complete.
        progress: Receives the counts of the texts, and warnings about them, when all are embedded.
        options: The options of [`Embedder`].

    Returns:
        The number of rows that were written.

    Raises:
        FileExistsError: The output exists.
        ImportError: The extra `ray` is not installed.
        ValueError: The cluster has fewer than two CPUs, no input was given, there is no such column, or rows were
            lost.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("Ray is not installed: pip install 'gpt-embeddings[ray]'.") from error
    if not len(inputs):
        raise ValueError("No input was given: name at least one Parquet file, or give a dataset with rows.")
    if options.get("dtype") == "int8" and options.get("ranges") is None:
        raise ValueError(
            "int8 on a cluster needs `ranges`, which `Embedder.calibrate` finds on a sample of the texts."
        )
    with AtomicOutput(output, "embed --ray", overwrite=overwrite, overwritable=WRITTEN) as out:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        n_cpus = int(ray.cluster_resources().get("CPU", 0))
        if n_cpus < 2:  # with its CPUs all taken by actors, Ray Data would wait for ever to read
            raise ValueError(f"The cluster has {n_cpus} CPUs; one actor and one reader need at least 2.")
        context = ray.data.DataContext.get_current()
        context.use_datasource_v2 = False  # the new reader feeds one actor only
        context.execution_options.preserve_order = False
        actors = min(n_actors or n_cpus - 1, n_cpus - 1)
        n_blocks = 4 * actors
        if isinstance(inputs, Dataset):
            rows = ray.data.from_huggingface(inputs.with_format(None), override_num_blocks=n_blocks)
        else:
            rows = ray.data.read_parquet([os.fspath(name) for name in inputs], override_num_blocks=n_blocks)
        check_column(rows.columns(), options.get("column", "text"))  # not by an actor that has loaded a model first
        out.result.mkdir(parents=True, exist_ok=True)
        embedded = rows.map_batches(
            EmbedderActor,
            fn_constructor_args=(model, tokenizer, options, str(out.result), drop_empty),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
        )
        parts = embedded.take_all()
        # Out of reach of a lost actor that is still writing.
        result = out.result.rename(out.folder / "whole")
        kept = {part["file"] for part in parts}
        for path in result.iterdir():
            if path.name not in kept:  # of a task that was repeated
                path.unlink()
        n_rows, n_read = sum(part["rows"] for part in parts), rows.count()
        if n_rows != n_read:
            raise ValueError(f"{n_read} rows were read, but {n_rows} were embedded. There is no output; start again.")
        out.finish(result)
    if progress is not None:
        for part in parts:
            progress.add(Counts(**{name: part[name] for name in Counts._fields}))
        progress.close()
        if parts:
            progress.warnings = progress.counts.warnings(parts[0]["n_positions"], options.get("pooling"))
    return n_rows - sum(part["dropped"] for part in parts)
