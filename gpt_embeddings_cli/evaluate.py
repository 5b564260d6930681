"""`gpt-embeddings evaluate`: measure a model on your own pairs of texts."""

import json
from typing import Annotated, Any

import typer

from gpt_embeddings_cli import Tokenizer, load_libraries, text_option


SCORE = "score"
# Column names of the datasets of sentence-transformers.
PAIRS = [("sentence1", "sentence2"), ("question", "answer"), ("query", "answer"), ("anchor", "positive")]


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder or Hub name; gpt-embeddings-english and gpt-embeddings-portuguese are bundled.",
        ),
    ],
    data: Annotated[
        list[str],
        typer.Argument(metavar="PAIRS", help="A table with two columns of texts: files, or one Hub dataset name."),
    ],
    columns: Annotated[
        tuple[str, str] | None,
        text_option(
            help="The two columns of texts; by default the first that exist of "
            + ", ".join(" and ".join(pair) for pair in PAIRS)
            + "."
        ),
    ] = None,
    score: Annotated[
        str | None, text_option(help=f"The column of scores; by default '{SCORE}' if there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    tokenizer: Tokenizer = None,
    split: Annotated[str, text_option(help="Split of a Hub dataset.")] = "test",
) -> None:
    """Evaluate MODEL on PAIRS, with all dimensions and with the first half, quarter, ... of them.

    With a column of scores: the Spearman correlation of cosines with the scores. Without: recall@1, recall@10 and
    MRR@10 of finding the second text (answer) of each first text (question) among all second texts.

    Example: gpt-embeddings evaluate gpt-embeddings-english pairs.csv
    """
    load_libraries(data, model, tokenizer)

    from gpt_embeddings.analysis.evaluation import evaluate_retrieval, evaluate_scores
    from gpt_embeddings.embedding.embedder import Embedder
    from gpt_embeddings.exceptions import ColumnError
    from gpt_embeddings.text.sources import load_source

    table: Any = None
    for pair in [columns] if columns else PAIRS:
        try:
            table, names = load_source(data, column=pair, split=split), pair
            break
        except ColumnError as error:
            message = str(error).partition(" Choose one with `--column`")[0]
    if table is None:
        message += " Name the two columns of texts with --columns."
        if columns is None:
            message += f" Without it, they must be {'; '.join(' and '.join(pair) for pair in PAIRS)}."
        raise ValueError(message)
    if score is None and SCORE in table.column_names:
        score = SCORE
    if score is not None and score not in table.column_names:
        raise ValueError(f"There is no column {score!r} of scores; the columns are {', '.join(table.column_names)}.")
    # Complete pairs alone; a blank text counts as missing.
    scored = table[score] if score else [0] * len(table)
    complete = [
        row
        for row in zip(table[names[0]], table[names[1]], scored, strict=True)
        if all(text and not text.isspace() for text in row[:2]) and row[2] is not None
    ]
    if not complete:
        raise ValueError(f"No row of {len(table)} has {' and '.join(names)}{' and ' + score if score else ''}.")
    first, second, scores = map(list, zip(*complete, strict=True))
    encode = Embedder.from_pretrained(model, tokenizer=tokenizer).encode
    dimensions: dict[int, Any]
    if score is None:
        dimensions = evaluate_retrieval(encode, first, second)
    else:
        values = evaluate_scores(encode, first, second, scores)
        dimensions = {dim: {"spearman": value} for dim, value in values.items()}
    used, n_skipped = [*names, *([score] if score else [])], len(table) - len(complete)
    if as_json:
        metadata = {"pairs": len(first), "skipped": n_skipped, "columns": used, "dimensions": dimensions}
        typer.echo(json.dumps(metadata, ensure_ascii=False))
        return
    skipped = f"; skipped {n_skipped:,} without a text or a score" if n_skipped else ""
    typer.echo(f"{len(first):,} pairs ({', '.join(used)}){skipped}")
    measures = list(next(iter(dimensions.values())))
    titles = ["dimensions", *(name.replace("spearman", "Spearman") for name in measures)]
    typer.echo("  ".join(f"{title:>10}" for title in titles))
    for dim, found in dimensions.items():
        typer.echo("  ".join([f"{dim:>10}", *(f"{found[name]:>10.3f}" for name in measures)]))
