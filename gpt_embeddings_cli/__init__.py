"""The command line: `gpt-embeddings COMMAND`. Each command is one call of the library, with files as input and output.

This package imports typer alone; a command imports the library when it runs. So `--help`, `--version`, a wrong option
or a missing file is answered in a fraction of a second instead of the seconds that importing PyTorch takes.

Read `common`, then the commands.
"""

from typing import Annotated

import typer

from gpt_embeddings_cli.common import Commands, prepare_streams
from gpt_embeddings_cli.embed import embed
from gpt_embeddings_cli.evaluate import evaluate
from gpt_embeddings_cli.explore import explore
from gpt_embeddings_cli.export import export
from gpt_embeddings_cli.extract import extract
from gpt_embeddings_cli.push import push
from gpt_embeddings_cli.search import search
from gpt_embeddings_cli.train import app as train
from gpt_embeddings_cli.windows import windows


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


for command in (embed, evaluate, explore, export, extract, push, search, windows):
    app.command()(command)
app.add_typer(train, name="train")


def main() -> None:
    """Run the program."""
    prepare_streams()
    app()
