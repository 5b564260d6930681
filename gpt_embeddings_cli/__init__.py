"""The command line: `gpt-embeddings COMMAND`. Each command is one call of the library, with files as input and output.

This package imports typer alone; a command is imported when it is asked for, and imports the library when it runs. So
`--help`, `--version`, a wrong option or a missing file is answered in a fraction of a second instead of the seconds
that importing PyTorch takes.

Read this file, which has what the commands share, then the commands. Options without a panel come first in `--help`,
the others in one of the panels below.
"""

import functools
import importlib
import inspect
import io
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup


COMMANDS = ("embed", "evaluate", "explore", "export", "extract", "push", "search", "windows", "train")


class _Pipe(io.FileIO):
    """A file that drops what is written once nobody reads it, as the output of `cat` is dropped after `head` ends.

    click and rich exit with 1 on a broken pipe instead, and the default action of SIGPIPE would also end the process
    when a connection to the Hub breaks.
    """

    def write(self, data: Any, /) -> int:
        """Write, or pretend to."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def load_libraries(inputs: Sequence[str] = (), *models: str | None) -> None:
    """Refuse what [`check_names`] does, then import PyTorch and transformers, which takes seconds: a terminal says so.

    Ctrl-C ends the process at once, since some modules swallow a `KeyboardInterrupt` while they are imported.
    """

    def exit_at_once(*_: Any) -> None:
        os.write(2, b"Interrupted.\n")
        os._exit(130)

    check_names(inputs, *models)
    if sys.stderr.isatty():
        typer.echo("Loading PyTorch and transformers ...", err=True)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, exit_at_once) if in_main_thread else None
    try:
        import gpt_embeddings  # noqa: F401
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)


class Commands(TyperGroup):
    """The commands: an expected error is one message and exit code 1, or 130 after Ctrl-C, instead of a traceback."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "commands": dict.fromkeys(COMMANDS)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command, or return None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gpt_embeddings_cli.{cmd_name}")
        commands = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        commands.command()(getattr(module, cmd_name))
        return typer.main.get_command(getattr(module, "commands", commands))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
            sys.exit(130)
        except Exception as error:
            expected: list[type[Exception]] = [ImportError, OSError, TypeError, ValueError]
            # A request failed, or transformers refused a setting: whatever raises these has imported them already.
            if (hub := sys.modules.get("huggingface_hub.errors")) is not None:
                expected += [hub.HTTPError, hub.StrictDataclassError]
            if not isinstance(error, tuple(expected)):
                raise
            typer.echo(f"Error: {error}", err=True)
            sys.exit(1)


# Options ---------------------------------------------------------------------------------------------------------

text_option = functools.partial(typer.Option, rich_help_panel="Reading text")
model_option = functools.partial(typer.Option, rich_help_panel="Model")
training_option = functools.partial(typer.Option, rich_help_panel="Training")
run_option = functools.partial(typer.Option, rich_help_panel="Running")


# Files of the library that are run by their paths: importing the package would import PyTorch.
LIBRARY = Path(__file__).parents[1] / "gpt_embeddings"
DISCOVERY = runpy.run_path(str(LIBRARY / "text" / "discovery.py"))
SOURCE = (
    f"Files of one format ({' '.join(DISCOVERY['FORMATS'])}; also .gz .bz2 .xz .zst), folders, glob patterns or URLs; "
    "- for standard input; saved datasets; or the name of one dataset on the Hub."
)
Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help=SOURCE)]
Data = Annotated[list[str], typer.Argument(metavar="DATA", help=SOURCE)]
Tokenizer = Annotated[
    str | None, model_option(help="Folder or Hub name; by default the model's own if it has one, else GPT-2's.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]


@dataclass(frozen=True)
class ReadingOptions:
    """The options for reading texts, with one default for all commands, so that they see the same texts."""

    column: Annotated[str, text_option(help="The column of texts.")] = "text"
    split: Annotated[str, text_option(help="Split of a Hub dataset.")] = "train"
    subset: Annotated[str | None, text_option(help="Subset of a Hub dataset.")] = None
    sample_by: Annotated[
        Literal["line", "paragraph", "document", "endoftext"],
        text_option(
            help="What counts as one text in a text file: a line, a paragraph (for prose with broken lines), the "
            "whole file (document), or the text between <|endoftext|> marks."
        ),
    ] = "line"
    encoding: Annotated[str, text_option(help="Encoding of text, CSV and JSON files, such as cp1252.")] = "utf-8"

    def load(self, inputs: list[str], **more: Any) -> Any:
        """Load the inputs with `load_source`; `more` are further arguments of it, or others in place of these."""
        from gpt_embeddings.text.sources import load_source

        return load_source(inputs, **{**asdict(self), **more})


def reads_texts(command: Callable[..., None] | None = None, *, options: Any = None) -> Any:
    """Replace the parameters `reading` and `options` of a command by the fields of `ReadingOptions` and `options`."""
    if command is None:
        return functools.partial(reads_texts, options=options)
    groups: dict[str, Any] = {"reading": ReadingOptions}
    if options is not None:
        groups["options"] = options

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        for name, group in groups.items():
            arguments[name] = group(**{field.name: arguments.pop(field.name) for field in fields(group)})
        command(**arguments)

    # typer reads the signature and the annotations.
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter)
            continue
        for field in fields(groups[name]):
            kind: Any = field.type
            if name == "options":
                option = training_option(help=field.metadata["help"], min=field.metadata["least"])
                kind = Annotated[kind, option]
            parameters.append(inspect.Parameter(field.name, parameter.kind, default=field.default, annotation=kind))
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def check_names(inputs: Sequence[str], *models: str | None) -> None:
    """Refuse missing files, models and tokenizers whose name is a missing path; folders are looked into later."""
    if inputs and (len(inputs) > 1 or not DISCOVERY["may_be_on_hub"](inputs[0])):
        DISCOVERY["find_files"](
            name for name in inputs if name != "-" and "://" not in name and not Path(name).is_dir()
        )
    for name in models:
        if name is not None and DISCOVERY["is_path"](name) and not Path(name).exists():
            raise FileNotFoundError(f"The folder {name!r} does not exist.")


# The program ----------------------------------------------------------------------------------------------------

app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """The input stage of GPT: text to tokens to token + position embeddings."""
    if version:
        from importlib.metadata import version as installed_version

        typer.echo(installed_version("gpt-embeddings"))
        raise typer.Exit


def main() -> None:
    """Run the program; both streams replace what their encoding lacks, and accept a reader that leaves early.

    A Windows console or `PYTHONIOENCODING=cp1252` must not end a command whose work is done, nor must `| head -1`.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors="replace")
        if not stream.isatty():
            file = io.BufferedWriter(_Pipe(os.dup(stream.fileno()), "w"))
            setattr(sys, name, io.TextIOWrapper(file, stream.encoding, "replace", line_buffering=True))
    app()
