"""`gpt-embeddings embed`: a text corpus in, a dataset of vectors out."""

import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gpt_embeddings_cli.common import (
    check_one_model,
    errors_as_messages,
    load_libraries,
    open_model_and_tokenizer,
)
from gpt_embeddings_cli.options import MODEL, RUN, Overwrite, Tokenizer
from gpt_embeddings_cli.reading import TEXT, Inputs, ReadingOptions, check_inputs, check_names, reads_texts


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modeling_gpt_embeddings import GPTEmbeddingsModel

VECTORS = "Vectors"


@reads_texts
def embed(
    *,
    inputs: Inputs,
    output: Annotated[
        Path,
        typer.Option(
            help="Where the result goes: a folder for datasets.load_from_disk, or a file ending in .parquet or .pq."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub name of a saved model; by default the English one that comes with the package."
        ),
    ] = None,
    reading: ReadingOptions,
    texts_only: Annotated[
        bool, typer.Option("--texts-only", help="Read only --column and drop the other columns.", rich_help_panel=TEXT)
    ] = False,
    streaming: Annotated[
        bool,
        typer.Option(
            "--streaming", help="Read the input as it is needed, without a copy in the cache.", rich_help_panel=TEXT
        ),
    ] = False,
    pooling: Annotated[
        Literal["mean", "weighted", "last", "none"] | None,
        typer.Option(
            help="Vectors of a text: their mean, weighted by token_weights, the last, or none (keep all); by default "
            "as the model's configuration says.",
            rich_help_panel=VECTORS,
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale to length 1: inner product is cosine.", rich_help_panel=VECTORS)
    ] = False,
    overflow: Annotated[
        Literal["truncate", "windows"],
        typer.Option(help="Tokens past n_positions: truncate, or restart positions at 0.", rich_help_panel=VECTORS),
    ] = "truncate",
    dtype: Annotated[
        Literal["float32", "float16", "int8", "binary"],
        typer.Option(
            help="Type of the stored vectors; int8 finds its ranges on a sample, binary packs 8 dimensions a byte.",
            rich_help_panel=VECTORS,
        ),
    ] = "float32",
    truncate_dim: Annotated[
        int | None, typer.Option(help="How many dimensions to keep.", min=1, rich_help_panel=VECTORS)
    ] = None,
    output_column: Annotated[str, typer.Option(help="The column to add.", rich_help_panel=VECTORS)] = "embedding",
    drop_empty: Annotated[
        bool,
        typer.Option(
            "--drop-empty", help="Drop rows whose text is missing or blank; they are counted.", rich_help_panel=VECTORS
        ),
    ] = False,
    tokenizer: Tokenizer = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Use randomly initialized tables.", rich_help_panel=MODEL)
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="config.json of a fresh model; by default the sizes of GPT-2 small.", rich_help_panel=MODEL),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of a fresh model's tables.", min=0, rich_help_panel=MODEL)] = 0,
    num_proc: Annotated[
        int | None,
        typer.Option(help="Worker processes; by default threads use all cores.", min=1, rich_help_panel=RUN),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Continue a run that was stopped, or delete its shards.", rich_help_panel=RUN
        ),
    ] = True,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Embed on the Ray cluster there (auto: the one of this machine), by --model; best from Parquet.",
            rich_help_panel=RUN,
        ),
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="NAME", help="Upload the result as a dataset of that name, too.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Embed each text of INPUT: one pooled vector per row.

    The rows keep their columns and get one more, `embedding`, a fixed-size list of float32. A run that was stopped
    is continued when the same command is given again.

    Example: gpt-embeddings embed reviews.jsonl --column review --output reviews.parquet
    """
    with errors_as_messages():
        check_one_model(model, config, fresh)
        if ray is not None and find_spec("ray") is None:
            raise ImportError("Ray is not installed: pip install 'gpt-embeddings[ray]'.")
        if ray is not None and (fresh or config is not None):
            raise ValueError("`--ray` needs a model that every node can read; save the fresh one and give `--model`.")
        check_inputs(inputs)
        check_names(model, tokenizer)
        load_libraries()
        _check_place(output, inputs)
        _check_output(output, overwrite, ray is not None, push_to_hub)
        run: dict[str, Any]
        options: dict[str, Any] = {
            "column": reading.column,
            "output_column": output_column,
            "pooling": pooling,
            "normalize": normalize,
            "overflow": overflow,
            "dtype": dtype,
            "truncate_dim": truncate_dim,
        }
        if ray is not None:
            run = {"address": ray, "overwrite": overwrite, "drop_empty": drop_empty}
            _embed_on_ray(inputs, reading, texts_only, output, model, tokenizer, run, options)
        else:
            network, tokens, name = open_model_and_tokenizer(model, tokenizer, fresh, config, seed)
            run = {"num_proc": num_proc, "resume": resume, "overwrite": overwrite, "drop_empty": drop_empty}
            run["model_name"] = None if fresh or config is not None else name
            dataset = reading.load(inputs, texts_only=texts_only, streaming=streaming)
            _embed_here(dataset, output, (network, tokens, name), run, options)
        if push_to_hub is not None:
            _push(output, push_to_hub, model, output_column)
        typer.echo(f"Result: {output.resolve()}")


def _check_place(output: Path, inputs: list[str]) -> None:
    """Refuse to replace what holds an input."""
    place = output.resolve()
    for name in inputs:
        if Path(name).exists() and place in (Path(name).resolve(), *Path(name).resolve().parents):
            raise ValueError(f"The output {str(output)!r} is, or holds, the input {name!r}; choose another output.")


def _check_output(output: Path, overwrite: bool, on_cluster: bool, push_to_hub: str | None) -> None:
    """Refuse before any work an output that could not be written, or published."""
    from gpt_embeddings.embedding.shards import PARQUET, WRITTEN
    from gpt_embeddings.outputs import check_output

    kind, suffixes = ("embed --ray", ()) if on_cluster else ("embed", PARQUET)
    check_output(output, kind, overwrite=overwrite, overwritable=WRITTEN, suffixes=suffixes)
    if push_to_hub is not None:
        from gpt_embeddings.hub.push import check_push

        check_push(push_to_hub)


def _embed_here(
    dataset: Any,
    output: Path,
    model: "tuple[GPTEmbeddingsModel, PreTrainedTokenizerBase, str]",
    run: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Embed on this machine, and say what came of it."""
    from datasets import IterableDataset

    from gpt_embeddings.embedding.dataset import embed_dataset
    from gpt_embeddings.progress import Progress

    network, tokens, name = model
    progress = Progress(None if isinstance(dataset, IterableDataset) else len(dataset))
    try:
        embedded = embed_dataset(dataset, network, tokens, output=output, progress=progress, **run, **options)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Finished shards are kept: give the same command again to continue.", err=True)
        sys.exit(130)
    _show(embedded, options["column"], options["output_column"])
    counts = progress.counts
    rows = counts.documents + progress.resumed
    again = f" ({progress.resumed} of them by an earlier run)" if progress.resumed else ""
    typer.echo(f"{rows} rows x {options['truncate_dim'] or network.config.n_embd} dimensions{again}, from {name}.")
    typer.echo(progress.summary())
    for warning in progress.warnings:
        typer.echo(warning)


def _embed_on_ray(
    inputs: list[str],
    reading: ReadingOptions,
    texts_only: bool,
    output: Path,
    model: str | None,
    tokenizer: str | None,
    run: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Embed on a cluster, and say what came of it."""
    from datasets import DatasetDict

    from gpt_embeddings.checkpoints.bundled import ENGLISH
    from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
    from gpt_embeddings.embedding.cluster import embed_on_cluster
    from gpt_embeddings.embedding.embedder import Embedder
    from gpt_embeddings.progress import Progress
    from gpt_embeddings.text.sources import find_parquet

    files = None if texts_only else find_parquet(inputs)
    source: Any = reading.load(inputs, texts_only=texts_only) if files is None else files
    if isinstance(source, DatasetDict):
        raise ValueError(f"`--ray` embeds one split at a time; choose with `--split` from {', '.join(source)}.")
    name, progress = model or ENGLISH, Progress(hidden=True)
    rows = embed_on_cluster(source, output, name, tokenizer, progress=progress, **run, **options)
    typer.echo(f"{rows} rows, from {name}.")
    for warning in Embedder(*load_model_and_tokenizer(name, tokenizer), **options).warnings(progress.counts):
        typer.echo(warning)


def _push(output: Path, name: str, model: str | None, output_column: str) -> None:
    from datasets import DatasetDict, load_from_disk

    from gpt_embeddings.checkpoints.bundled import BUNDLED
    from gpt_embeddings.embedding.shards import parquet_files
    from gpt_embeddings.hub.push import push_to_hub
    from gpt_embeddings.text.files import ReadOptions
    from gpt_embeddings.text.sources import open_files

    dataset: Any
    if files := parquet_files(output):
        dataset = open_files([str(path) for path in files], ReadOptions(format="parquet"))
    else:
        dataset = load_from_disk(str(output))
    if model is None or model in BUNDLED or Path(model).exists() or isinstance(dataset, DatasetDict):
        dataset.push_to_hub(name)
    else:
        push_to_hub(dataset, name, model_id=model, column=output_column)


def _show(dataset: Any, column: str, output_column: str, rows: int = 3) -> None:
    for row in islice(dataset, rows):
        text = " ".join((row[column] or "").split())
        vector = row[output_column]
        while vector and isinstance(vector[0], list):  # --pooling none: the first token
            vector = vector[0]
        numbers = ", ".join(f"{value:+.4f}" for value in vector[:4])
        typer.echo(f"  {text[:60]:60}  [{numbers}, ...]")
