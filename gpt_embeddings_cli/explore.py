"""`gpt-embeddings explore`: show a model on a page in the browser, or write the page as one file or as a Space."""

import os
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from gpt_embeddings_cli import Overwrite, Tokenizer, check_names


serving_option = partial(typer.Option, rich_help_panel="Serving")


def explore(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Folder or Hub name of a saved model or any GPT checkpoint; by default a bundled table.",
        ),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A second model, shown beside the first: before and after.")
    ] = None,
    tokenizer: Tokenizer = None,
    lang: Annotated[
        Literal["en", "pt"] | None,
        typer.Option(
            help="Language of the page, by default that of the browser, and of a report, by default English. Without "
            "MODEL, `--lang pt` shows the bundled Portuguese table.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, serving_option(help="Address to listen at; others than the loopback can be reached from outside.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, serving_option(help="Port; by default the first free one from 7860.", min=1, max=65535)
    ] = None,
    browser: Annotated[bool, serving_option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    export: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a Space with this page instead of serving it.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write all views to one file instead of serving them.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show a model in the browser: the vectors of a text, words in 3-D, neighbours, positions, costs.

    The page is served on this machine only and works without a network. Ctrl-C ends it.

    Example: gpt-embeddings explore openai-community/gpt2
    """
    check_names([], model, compare, tokenizer)
    if model is None and lang == "pt":
        model = "gpt-embeddings-portuguese"
    names = [model] if compare is None else [model, compare]
    if export is None and report is None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port or 0), family=family).close()  # fails before the imports take seconds
        typer.echo("Loading PyTorch, transformers and Gradio ...", err=True)

    from gpt_embeddings.explore.export import write_report, write_space
    from gpt_embeddings.explore.views import LazyModel
    from gpt_embeddings.outputs import AtomicOutput

    models = [LazyModel.from_pretrained(name, tokenizer) for name in names]
    if export is None and report is None:
        from gpt_embeddings.explore.page import launch_page

        page = launch_page(models, host=host, port=port, open_browser=browser, language=lang)
        with suppress(KeyboardInterrupt):
            typer.echo(f"Page: {page.local_url} (Ctrl-C ends it)")
            page.block_thread()
        sys.stdout.flush()
        os._exit(0)  # a thread may still be loading tables, and torch crashes if the interpreter ends meanwhile
    if export is not None:
        with AtomicOutput(export, "explore --export", overwrite=overwrite, overwritable=("app.py",)) as space:
            space.result.mkdir()
            write_space(space.result, models, lang)
            space.finish()
        typer.echo(f"Space: {space.path}")
    if report is not None:
        suffixes = (".html", ".htm")
        with AtomicOutput(report, "explore --report", overwrite=overwrite, suffixes=suffixes) as file:
            write_report(file.result, models, lang or "en")
            file.finish()
        typer.echo(f"Report: {file.path}")
