"""`gpt-embeddings evaluate`: measure a model on your own pairs of texts."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpt_embeddings_cli.options import Tokenizer, check_inputs, check_names, text_option


if TYPE_CHECKING:
    from datasets import Dataset

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
    check_inputs(data)
    check_names(model, tokenizer)

    from gpt_embeddings.analysis.evaluation import evaluate_retrieval, evaluate_scores
    from gpt_embeddings.embedding.embedder import Embedder

    pairs, columns = _open(data, columns, split)
    if score is None and SCORE in pairs.column_names:
        score = SCORE
    if score is not None and score not in pairs.column_names:
        raise ValueError(f"There is no column {score!r} of scores; the columns are {', '.join(pairs.column_names)}.")
    first, second, scores, n_skipped = _take(pairs, columns, score)
    encode = Embedder.from_pretrained(model, tokenizer=tokenizer).encode
    metadata: dict[str, Any] = {
        "pairs": len(first),
        "skipped": n_skipped,
        "columns": [*columns, *([score] if score else [])],
    }
    if score is None:
        metadata["dimensions"] = evaluate_retrieval(encode, first, second)
    else:
        metadata["dimensions"] = {
            dim: {"spearman": value} for dim, value in evaluate_scores(encode, first, second, scores).items()
        }
    _report(metadata, as_json)


def _open(data: list[str], columns: tuple[str, str] | None, split: str) -> "tuple[Dataset, tuple[str, str]]":
    """Return the table and the names of its two columns of texts."""
    from gpt_embeddings.exceptions import ColumnError
    from gpt_embeddings.text.sources import load_source

    for pair in [columns] if columns else PAIRS:
        try:
            return load_source(data, column=pair, split=split), pair
        except ColumnError as error:
            message = str(error).partition(" Choose one with `--column`")[0]
    message += " Name the two columns of texts with --columns."
    if columns is None:
        message += f" Without it, they must be {'; '.join(' and '.join(pair) for pair in PAIRS)}."
    raise ValueError(message)


def _take(
    pairs: "Dataset", columns: tuple[str, str], score: str | None
) -> tuple[list[str], list[str], list[float], int]:
    """Return the complete pairs, their scores, and the number of incomplete ones; a blank text counts as missing."""
    complete = [
        row
        for row in zip(pairs[columns[0]], pairs[columns[1]], pairs[score] if score else [0] * len(pairs), strict=True)
        if all(text and not text.isspace() for text in row[:2]) and row[2] is not None
    ]
    if not complete:
        raise ValueError(f"No row of {len(pairs)} has {' and '.join(columns)}{' and ' + score if score else ''}.")
    first, second, scores = map(list, zip(*complete, strict=True))
    return first, second, scores, len(pairs) - len(complete)


def _report(metadata: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(metadata, ensure_ascii=False))
        return
    skipped = f"; skipped {metadata['skipped']:,} without a text or a score" if metadata["skipped"] else ""
    typer.echo(f"{metadata['pairs']:,} pairs ({', '.join(metadata['columns'])}){skipped}")
    names = list(next(iter(metadata["dimensions"].values())))
    titles = ["dimensions", *(name.replace("spearman", "Spearman") for name in names)]
    typer.echo("  ".join(f"{title:>10}" for title in titles))
    for dim, values in metadata["dimensions"].items():
        typer.echo("  ".join([f"{dim:>10}", *(f"{values[name]:>10.3f}" for name in names)]))
