"""Arguments and options that several commands have, word for word the same in each."""

from pathlib import Path
from typing import Annotated

import typer


_SOURCE = "Files of one format (.txt .md .jsonl .json .csv .tsv .parquet), or one Hub dataset name."

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help=_SOURCE, show_default=False)]
Data = Annotated[list[str], typer.Argument(metavar="DATA...", help=_SOURCE, show_default=False)]
Column = Annotated[str, typer.Option(help="The column of texts.")]
Split = Annotated[str, typer.Option(help="Split of a Hub dataset.")]
SampleBy = Annotated[str, typer.Option(help="What is a text in a text file: line, paragraph or document (the file).")]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="Folder or Hub name; by default the model's own if it has one, else GPT-2's.", show_default=False
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
TrainingOutput = Annotated[
    Path, typer.Option(help="Folder to make; it appears when the run is complete.", show_default=False)
]


def check_sample_by(sample_by: str) -> None:
    """Refuse what `load_source` would not understand, in the words of the command line."""
    if sample_by not in ("line", "paragraph", "document"):
        raise ValueError(f"`--sample-by` must be line, paragraph or document, got {sample_by!r}.")


__all__ = [
    "Column",
    "Data",
    "Inputs",
    "Overwrite",
    "SampleBy",
    "Split",
    "Tokenizer",
    "TrainingOutput",
    "check_sample_by",
]
