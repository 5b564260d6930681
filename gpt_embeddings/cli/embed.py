"""`gpt-embeddings embed`: a text corpus in, a dataset of vectors out."""

from pathlib import Path
from typing import Annotated

import typer
from datasets import Dataset

from gpt_embeddings.cli.common import check_output, errors_as_messages, open_model, open_tokenizer, write_dataset
from gpt_embeddings.embed import embed_dataset
from gpt_embeddings.sources import load_source


def embed(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files of one format (.txt .md .jsonl .json .csv .tsv .parquet), or one Hub dataset name.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Where the result goes: a folder for datasets.load_from_disk, or a file that ends in .parquet.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub name of a saved model; without it the tables are fresh.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="config.json of a fresh model; without it the sizes of GPT-2 small.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of a fresh model's tables.", min=0)] = 0,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub name; by default the model's own if it has one, else GPT-2's.", show_default=False
        ),
    ] = None,
    column: Annotated[str, typer.Option(help="The column of texts.")] = "text",
    split: Annotated[str, typer.Option(help="Split of a Hub dataset.")] = "train",
    sample_by: Annotated[
        str, typer.Option(help="What makes a row of a text file: line, paragraph or document.")
    ] = "line",
    batch_size: Annotated[int, typer.Option(help="Texts at a time.", min=1)] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Embed every text of INPUT as the mean of its token + position embeddings.

    The rows keep their columns and get one more, `embedding`, a fixed-size list of float32.

    Example: gpt-embeddings embed reviews.jsonl --column review --output reviews.parquet
    """
    with errors_as_messages():
        check_output(output, overwrite)
        if sample_by not in ("line", "paragraph", "document"):
            raise ValueError(f"`--sample-by` must be line, paragraph or document, got {sample_by!r}.")

        network, name = open_model(model, config, seed)
        tokens = open_tokenizer(tokenizer, model, network.config.n_positions)
        dataset = load_source(inputs, column=column, split=split, sample_by=sample_by)
        embedded = embed_dataset(
            dataset,
            network,
            tokens,
            column=column,
            batch_size=batch_size,
            desc="Embedding",
            load_from_cache_file=False,
        )
        write_dataset(embedded, output)
        _show(embedded, column)
        typer.echo(f"{embedded.num_rows} rows x {network.config.n_embd} dimensions, from {name}.")
        typer.echo(f"Result: {output.resolve()}")


def _show(dataset: Dataset, column: str, rows: int = 3) -> None:
    for row in dataset.select(range(min(rows, dataset.num_rows))):
        text = " ".join((row[column] or "").split())
        vector = ", ".join(f"{value:+.4f}" for value in row["embedding"][:4])
        typer.echo(f"  {text[:60]:60}  [{vector}, ...]")


__all__ = ["embed"]
