"""Arguments and options that several commands have, word for word the same in each, and what can be refused early.

An option without a panel is a common one and comes first in `--help`; the others stand in one of the panels below.
"""

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer


MODEL = "Model"
TEXT = "Reading text"
TRAINING = "Training"
RUN = "Running"

# What `load_source` reads; a test holds the two together, as asking the library would cost the seconds of its imports.
SUFFIXES = (".txt", ".md", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq", ".arrow")
_SOURCE = (
    f"Files of one format ({' '.join(SUFFIXES)}; also .gz .bz2 .xz .zst), folders or patterns of them, addresses; - "
    "for standard input; saved datasets; or one Hub dataset name."
)

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help=_SOURCE, show_default=False)]
Data = Annotated[list[str], typer.Argument(metavar="DATA", help=_SOURCE, show_default=False)]
Column = Annotated[str, typer.Option(help="The column of texts.", rich_help_panel=TEXT)]
Split = Annotated[str, typer.Option(help="Split of a Hub dataset.", rich_help_panel=TEXT)]
Subset = Annotated[str | None, typer.Option(help="Subset of a Hub dataset.", show_default=False, rich_help_panel=TEXT)]
Encoding = Annotated[str, typer.Option(help="Of text, CSV and JSON files, such as cp1252.", rich_help_panel=TEXT)]
SampleUnit = Literal["line", "paragraph", "document", "endoftext"]
# One default for all commands, so that they speak of the same texts; it is what most files of many texts have.
SampleBy = Annotated[
    SampleUnit,
    typer.Option(
        help="What is a text in a text file; the document is the file, endoftext what stands between the marks "
        "<|endoftext|>. Prose whose lines are broken is best read by paragraph.",
        rich_help_panel=TEXT,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="Folder or Hub name; by default the model's own if it has one, else GPT-2's.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
TrainingOutput = Annotated[
    Path, typer.Option(help="Folder to make; it appears when the run is complete.", show_default=False)
]
StartModel = Annotated[
    str | None, typer.Option(help="Folder or Hub name of a saved model to start from.", show_default=False)
]
Epochs = Annotated[int, typer.Option(help="How often the texts are gone through.", min=1, rich_help_panel=TRAINING)]
LearningRate = Annotated[float, typer.Option(help="At the first step; it falls to 0.", rich_help_panel=TRAINING)]
SaveSteps = Annotated[int, typer.Option(help="Steps from checkpoint to checkpoint.", min=1, rich_help_panel=TRAINING)]


def check_inputs(names: Iterable[str]) -> None:
    """Refuse files that are not there, before anything is imported.

    What exists is a file, whatever its name. Of the rest, a pattern must match something, and what cannot be the name
    of a dataset on the Hub is a file that is missing.

    Raises:
        FileNotFoundError: There is no such file, or none that a pattern matches.
    """
    names = list(names)
    for name in names:
        if name == "-" or "://" in name or Path(name).exists():
            continue
        if glob.has_magic(name):
            if next(glob.iglob(name, recursive=True), None) is None:
                raise FileNotFoundError(f"No file matches the input {name!r}.")
        elif len(names) > 1 or _is_path(name) or any(suffix.lower() in SUFFIXES for suffix in Path(name).suffixes):
            raise FileNotFoundError(f"Input {name!r} is not a file.")


def check_names(*names: str | None) -> None:
    """Refuse models and tokenizers that are folders by their name and not there, before anything is imported.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    for name in names:
        if name is not None and _is_path(name) and not Path(name).exists():
            raise FileNotFoundError(f"There is no folder {name!r}.")


def _is_path(name: str) -> bool:
    """Return whether a name can be none on the Hub, where it is `name` or `user/name`."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name
