"""`gpt-embeddings search`: a question in, the nearest rows of an embedded dataset out."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from gpt_embeddings_cli import load_libraries, model_option


SHOWN = 160  # characters of a text


def search(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder or Parquet file that `gpt-embeddings embed` wrote, or a folder of such files.",
        ),
    ],
    queries: Annotated[
        list[str],
        typer.Argument(metavar="QUERY", help="What to search for; - reads one query per line from standard input."),
    ],
    k: Annotated[int, typer.Option("-k", help="Results per query.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each question.")] = False,
    model: Annotated[
        str | None,
        model_option(
            help="Folder or Hub name of the model that made FOLDER, if it has moved or FOLDER does not say it."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, model_option(help="Folder or Hub name of its tokenizer, if that was given.")
    ] = None,
) -> None:
    """Find the rows of FOLDER that are most similar to each QUERY (cosine).

    The question is embedded by the model that made FOLDER, which has to be there still and unchanged.

    Example: gpt-embeddings search embeddings "Who writes down the tides?" -k 3
    """
    if not folder.exists():
        raise FileNotFoundError(f"There is no dataset {str(folder)!r}.")
    questions: list[str] = []
    for query in queries:
        questions += [line for line in sys.stdin.read().splitlines() if line.strip()] if query == "-" else [query]
    if not questions:
        raise ValueError("Standard input holds no question.")

    load_libraries([], model, tokenizer)
    from gpt_embeddings.embedding.search import open_embedder
    from gpt_embeddings.embedding.search import search as find

    embedder = open_embedder(folder, model, tokenizer)
    for question, hits in zip(questions, find(folder, questions, embedder=embedder, k=k), strict=True):
        if as_json:
            found = [{"row": hit.row, "score": hit.score, **hit.values} for hit in hits]
            typer.echo(json.dumps({"query": question, "hits": found}, ensure_ascii=False, default=str))
            continue
        if len(questions) > 1:
            typer.echo(question)
        for hit in hits:
            text = " ".join(str(hit.values.get(embedder.column) or "").split())
            text = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
            typer.echo(f"{hit.score:7.3f}  row {hit.row:<6}  {text}")
