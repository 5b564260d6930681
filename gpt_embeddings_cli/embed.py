"""`gpt-embeddings embed`: a text corpus in, a dataset of vectors out."""

import sys
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gpt_embeddings_cli import (
    Inputs,
    Overwrite,
    ReadingOptions,
    Tokenizer,
    load_libraries,
    reads_texts,
    run_option,
    text_option,
)


SHOWN_ROWS = 3
vector_option = partial(typer.Option, rich_help_panel="Vectors")


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
        bool, text_option("--texts-only", help="Read only --column and drop the other columns.")
    ] = False,
    streaming: Annotated[
        bool, text_option("--streaming", help="Read the input as it is needed, without a copy in the cache.")
    ] = False,
    pooling: Annotated[
        Literal["mean", "weighted", "last", "none"] | None,
        vector_option(
            help="Vectors of a text: their mean, weighted by token_weights, the last, or none (keep all); by default "
            "as the model's configuration says."
        ),
    ] = None,
    normalize: Annotated[
        bool, vector_option("--normalize", help="Scale to length 1: inner product is cosine.")
    ] = False,
    overflow: Annotated[
        Literal["truncate", "windows"],
        vector_option(help="Tokens past n_positions: truncate, or restart positions at 0."),
    ] = "truncate",
    dtype: Annotated[
        Literal["float32", "float16", "int8", "binary"],
        vector_option(
            help="Type of the stored vectors; int8 finds its ranges on a sample, binary packs 8 dimensions a byte."
        ),
    ] = "float32",
    truncate_dim: Annotated[int | None, vector_option(help="How many dimensions to keep.", min=1)] = None,
    output_column: Annotated[str, vector_option(help="The column to add.")] = "embedding",
    drop_empty: Annotated[
        bool, vector_option("--drop-empty", help="Drop rows whose text is missing or blank; they are counted.")
    ] = False,
    tokenizer: Tokenizer = None,
    num_proc: Annotated[
        int | None, run_option(help="Worker processes; by default threads use all cores.", min=1)
    ] = None,
    resume: Annotated[
        bool, run_option("--resume/--no-resume", help="Continue a run that was stopped, or delete its shards.")
    ] = True,
    ray: Annotated[
        str | None,
        run_option(
            metavar="ADDRESS",
            help="Embed on the Ray cluster there (auto: the one of this machine), by --model; best from Parquet.",
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
    if ray is not None and find_spec("ray") is None:
        raise ImportError("Ray is not installed: pip install 'gpt-embeddings[ray]'.")
    load_libraries(inputs, model, tokenizer)

    from datasets import Dataset

    from gpt_embeddings.bundled import BUNDLED, ENGLISH
    from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
    from gpt_embeddings.embedding.dataset import embed_dataset
    from gpt_embeddings.embedding.shards import PARQUET, WRITTEN, open_output
    from gpt_embeddings.outputs import check_output
    from gpt_embeddings.progress import Progress

    # An output that could not be written or published, or that holds an input, is refused before any work.
    for name in inputs:
        if Path(name).exists() and output.resolve() in (Path(name).resolve(), *Path(name).resolve().parents):
            raise ValueError(f"The output {str(output)!r} is, or holds, the input {name!r}; choose another output.")
    kind, suffixes = ("embed", PARQUET) if ray is None else ("embed --ray", ())
    check_output(output, kind, overwrite=overwrite, overwritable=WRITTEN, suffixes=suffixes)
    if push_to_hub is not None:
        from gpt_embeddings.hub.push import check_push
        from gpt_embeddings.hub.push import push_to_hub as push

        check_push(push_to_hub)
    model_name = model or ENGLISH
    options: dict[str, Any] = {
        "overwrite": overwrite,
        "column": reading.column,
        "output_column": output_column,
        "pooling": pooling,
        "normalize": normalize,
        "overflow": overflow,
        "dtype": dtype,
        "truncate_dim": truncate_dim,
        "drop_empty": drop_empty,
    }
    load = partial(reading.load, inputs, texts_only=texts_only, streaming=streaming and ray is None)
    embedded: Any
    if ray is None:
        loaded, dataset = load_model_and_tokenizer(model_name, tokenizer), load()
        progress = Progress(len(dataset) if isinstance(dataset, Dataset) else None)
        options |= {"output": output, "progress": progress, "model_name": model_name}
        try:
            embedded = embed_dataset(dataset, *loaded, num_proc=num_proc, resume=resume, **options)
        except KeyboardInterrupt:
            typer.echo("Interrupted. Finished shards are kept: give the same command again to continue.", err=True)
            sys.exit(130)
    else:
        from gpt_embeddings.embedding.cluster import embed_on_cluster
        from gpt_embeddings.text.sources import find_parquet

        progress = Progress(hidden=True)
        source = (None if texts_only else find_parquet(inputs)) or load()  # the nodes read Parquet files themselves
        embed_on_cluster(source, output, model_name, tokenizer, address=ray, progress=progress, **options)
        embedded = open_output(output)

    for row in islice(embedded, SHOWN_ROWS):
        text = " ".join((row[reading.column] or "").split())
        vector = row[output_column]
        while vector and isinstance(vector[0], list):  # --pooling none: the first token
            vector = vector[0]
        numbers = ", ".join(f"{value:+.4f}" for value in vector[:4])
        typer.echo(f"  {text[:60]:60}  [{numbers}, ...]")
    rows = progress.counts.documents + progress.resumed
    again = f" ({progress.resumed} of them by an earlier run)" if progress.resumed else ""
    vectors = embedded.features[output_column]
    width = vectors.length if vectors.length > 0 else vectors.feature.length  # --pooling none has lists of vectors
    typer.echo(f"{rows} rows x {width} numbers{again}, from {model_name}.")
    for line in (progress.summary(), *progress.warnings):
        typer.echo(line)
    if push_to_hub is not None:
        stored: Any = open_output(output, streaming=False)
        if model is None or model in BUNDLED or Path(model).exists():
            stored.push_to_hub(push_to_hub)
        else:
            push(stored, push_to_hub, model_id=model, column=output_column)
    typer.echo(f"Result: {output.resolve()}")
