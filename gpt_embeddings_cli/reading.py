"""How texts are read: one argument and five options that every command on texts has, declared once."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gpt_embeddings_cli.options import replace_parameter, run_file


TEXT = "Reading text"

DISCOVERY = run_file("text/discovery.py")
SOURCE = (
    f"Files of one format ({' '.join(DISCOVERY['FORMATS'])}; also .gz .bz2 .xz .zst), folders, glob patterns or URLs; "
    "- for standard input; saved datasets; or the name of one dataset on the Hub."
)

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help=SOURCE)]
Data = Annotated[list[str], typer.Argument(metavar="DATA", help=SOURCE)]


@dataclass(frozen=True)
class ReadingOptions:
    """The options for reading texts, with one default for all commands, so that they see the same texts."""

    column: Annotated[str, typer.Option(help="The column of texts.", rich_help_panel=TEXT)] = "text"
    split: Annotated[str, typer.Option(help="Split of a Hub dataset.", rich_help_panel=TEXT)] = "train"
    subset: Annotated[str | None, typer.Option(help="Subset of a Hub dataset.", rich_help_panel=TEXT)] = None
    sample_by: Annotated[
        Literal["line", "paragraph", "document", "endoftext"],
        typer.Option(
            help="What counts as one text in a text file: a line, a paragraph (for prose with broken lines), the "
            "whole file (document), or the text between <|endoftext|> marks.",
            rich_help_panel=TEXT,
        ),
    ] = "line"
    encoding: Annotated[
        str, typer.Option(help="Encoding of text, CSV and JSON files, such as cp1252.", rich_help_panel=TEXT)
    ] = "utf-8"

    def load(self, inputs: list[str], **more: Any) -> Any:
        """Load the inputs with `load_source`; `more` are further arguments of it, or others in place of these."""
        from gpt_embeddings.text.sources import load_source

        return load_source(inputs, **{**asdict(self), **more})


def reads_texts(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `reading` of a command by the options of [`ReadingOptions`].

    The command receives them as one `ReadingOptions`.
    """
    return replace_parameter(command, "reading", inspect.signature(ReadingOptions).parameters.values(), ReadingOptions)


def check_inputs(names: Sequence[str]) -> None:
    """Refuse missing files before anything is imported; folders are looked into later."""
    if len(names) != 1 or not DISCOVERY["may_be_on_hub"](names[0]):
        DISCOVERY["find_files"](
            name for name in names if name != "-" and "://" not in name and not Path(name).is_dir()
        )


def check_names(*names: str | None) -> None:
    """Refuse models and tokenizers whose name is a path that does not exist, before anything is imported."""
    for name in names:
        if name is not None and DISCOVERY["is_path"](name) and not Path(name).exists():
            raise FileNotFoundError(f"The folder {name!r} does not exist.")
