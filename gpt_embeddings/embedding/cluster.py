"""The same embedding on a cluster: Ray Data reads Parquet or takes a dataset, actors embed it, Parquet is written.

Each actor loads the model once, by its name, and embeds a block at a time with `Embedder`, so that a row gets the same
vector as on one machine. What an actor had not finished when it or its node was lost, Ray gives to another.

Left out: starting a cluster (`ray start`), and outputs other than Parquet.
"""

import os
from collections.abc import Sequence
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from gpt_embeddings.checkpoints.loading import load_pair
from gpt_embeddings.embedding.embedder import Embedder
from gpt_embeddings.embedding.shards import WRITTEN
from gpt_embeddings.outputs import Output, check_output
from gpt_embeddings.progress import Counts, Progress
from gpt_embeddings.threads import n_cores


BATCH_ROWS = 1000
KIND = "embed --ray"  # of job, for `outputs`


class EmbedderActor:
    """An `Embedder` that loads its model where it is started.

    Args:
        model: Folder or Hub name of a saved model; every node has to be able to read it.
        tokenizer: Folder or Hub name of its tokenizer.
        options: The options of `Embedder`.
        tally: Handle of a `Tally`, to count in.
    """

    def __init__(self, model: str, tokenizer: str, options: dict[str, Any], tally: Any = None) -> None:
        self._embedder = Embedder(*load_pair(model, tokenizer), **options)
        self._tally, self._task, self._batches = tally, "", 0

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the batch with its vectors."""
        extended, counts = self._embedder.extend(batch, n_cores())
        if self._tally is not None:
            import ray

            task = ray.get_runtime_context().get_task_id() or ""
            self._batches = self._batches + 1 if task == self._task else 0
            self._task = task
            ray.get(self._tally.add.remote((task, self._batches), counts))  # so that none is missing in the end
        return extended


class Tally:
    """What was in the texts of all actors; a task that is given to another actor counts once."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], Counts] = {}

    def add(self, batch: tuple[str, int], counts: Counts) -> None:
        """Count a batch of a task."""
        self._counts[batch] = counts

    def sum(self) -> Counts:
        """Return the counts of all batches."""
        return reduce(Counts.plus, self._counts.values(), Counts())


def embed_on_cluster(
    inputs: Sequence[str | os.PathLike[str]] | Dataset,
    output: str | os.PathLike[str],
    model: str,
    tokenizer: str,
    *,
    address: str | None = None,
    n_actors: int | None = None,
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
        tokenizer: Folder or Hub name of its tokenizer.
        address: The cluster's address, such as `"auto"` or `"ray://head:10001"`; None joins the cluster of this
            process, or starts one on this machine.
        n_actors: Number of actors, each on one CPU; by default one for each CPU of the cluster but one, which reads
            and writes.
        overwrite: Whether to replace an output that exists, when the new one is whole.
        progress: Receives what was in the texts, when all are embedded.
        options: The options of [`Embedder`].

    Returns:
        The number of rows.

    Raises:
        FileExistsError: The output exists.
        ImportError: The extra `ray` is not installed.
        ValueError: The cluster has fewer than two CPUs, no input was given, or rows were lost.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("Ray is not installed: pip install 'gpt-embeddings[ray]'.") from error
    if not len(inputs):
        raise ValueError("No input was given: name at least one Parquet file, or give a dataset with rows.")
    check_output(output, KIND, overwrite=overwrite, ours=WRITTEN)
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    n_cpus = int(ray.cluster_resources().get("CPU", 0))
    if n_cpus < 2:  # with its CPUs all taken by actors, Ray Data would wait for ever to read
        raise ValueError(f"The cluster has {n_cpus} CPUs; one actor and one reader need at least 2.")
    actors = min(n_actors or n_cpus - 1, n_cpus - 1)
    context = ray.data.DataContext.get_current()
    context.use_datasource_v2 = False  # the new reader feeds one actor only
    context.execution_options.preserve_order = False
    n_blocks = 4 * actors
    if isinstance(inputs, Dataset):
        rows = ray.data.from_huggingface(inputs.with_format(None), override_num_blocks=n_blocks)
    else:
        rows = ray.data.read_parquet([os.fspath(name) for name in inputs], override_num_blocks=n_blocks)
    tally: Any = ray.remote(num_cpus=0)(Tally)
    tally = tally.remote()
    embedded = rows.map_batches(
        EmbedderActor,
        fn_constructor_args=(model, tokenizer, options, tally),
        batch_format="pyarrow",
        batch_size=BATCH_ROWS,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    with Output(output, KIND, overwrite=overwrite, ours=WRITTEN) as out:
        embedded.write_parquet(str(out.result))
        n_rows = sum(int(pq.read_metadata(path).num_rows) for path in out.result.glob("*.parquet"))
        n_read = rows.count()
        if n_rows != n_read:
            raise ValueError(f"{n_read} rows were read and {n_rows} written; nothing was published. Start again.")
        out.finish()
    if progress is not None:
        progress.add(Counts(*ray.get(tally.sum.remote())))
    return n_rows


__all__ = ["EmbedderActor", "embed_on_cluster"]
