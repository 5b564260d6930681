"""The commands, put together."""

from typing import Annotated

import typer

from gpt_embeddings_cli.embed import embed
from gpt_embeddings_cli.evaluate import evaluate
from gpt_embeddings_cli.explore import explore
from gpt_embeddings_cli.export import export
from gpt_embeddings_cli.extract import extract
from gpt_embeddings_cli.push import push
from gpt_embeddings_cli.search import search
from gpt_embeddings_cli.train import app as train
from gpt_embeddings_cli.windows import windows


app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """The input stage of GPT: text to tokens to token + position embeddings."""
    if version:
        from importlib.metadata import version as installed_version

        typer.echo(installed_version("gpt-embeddings"))
        raise typer.Exit


app.command()(embed)
app.command()(evaluate)
app.command()(explore)
app.command()(export)
app.command()(extract)
app.command()(push)
app.command()(search)
app.command()(windows)
app.add_typer(train, name="train")
