"""`gpt-embeddings windows`: a text corpus in, a dataset of training windows out."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from gpt_embeddings_cli import Inputs, ReadingOptions, load_libraries, model_option, reads_texts


cutting_option = partial(typer.Option, rich_help_panel="Cutting")


@reads_texts
def windows(
    *,
    inputs: Inputs,
    output: Annotated[Path | None, typer.Option(help="Folder for the result, for datasets.load_from_disk.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens per window.", min=1)] = 1024,
    stride: Annotated[
        int | None, cutting_option(help="Tokens between window starts; by default --max-length.")
    ] = None,
    packing: Annotated[
        Literal["stream", "document"],
        cutting_option(help="stream: windows run across documents; document: each is cut by itself."),
    ] = "stream",
    tail: Annotated[
        Literal["pad", "drop"],
        cutting_option(help="Pad the last window if it is not full (targets -100), or drop it."),
    ] = "pad",
    weight: Annotated[
        list[float] | None,
        cutting_option(help="Share of the windows that comes from each INPUT; once for each, in their order."),
    ] = None,
    stopping_strategy: Annotated[
        Literal["first_exhausted", "all_exhausted"],
        cutting_option(
            help="With --weight: stop when one INPUT ends, or start those that end again until all have ended."
        ),
    ] = "first_exhausted",
    tokenizer: Annotated[str, model_option(help="Folder or Hub name.")] = "openai-community/gpt2",
    n_positions: Annotated[
        int | None,
        model_option(help="Positions of the model, the limit of --max-length; by default the tokenizer's.", min=1),
    ] = None,
    reading: ReadingOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count documents, tokens, windows; write nothing.")
    ] = False,
) -> None:
    """Cut the texts of INPUT into windows of token ids, with the next token of every position as target.

    The result has the columns input_ids and target_ids, fixed-size lists of --max-length. It appears when it is
    complete; until then a folder .NAME.partial beside it has the finished part, and after an interruption the same
    command resumes there.

    Example: gpt-embeddings windows corpus-*.parquet --output windows --max-length 1024
    """
    if (output is None) != dry_run:
        raise ValueError("Use `--output FOLDER` to write windows, or `--dry-run` to count them.")
    if weight and len(weight) != len(inputs):
        raise ValueError(f"`--weight` is given {len(weight)} times for {len(inputs)} inputs; give it once for each.")
    load_libraries(inputs, tokenizer)
    from gpt_embeddings.outputs import check_output
    from gpt_embeddings.text.tokenizer import load_tokenizer
    from gpt_embeddings.windows.token_windows import TokenWindows

    if output is not None:
        check_output(output, "windows")
    corpora = [[name] for name in inputs] if weight else [inputs]
    sources = [reading.load(names, texts_only=True, streaming=True) for names in corpora]
    token_windows = TokenWindows(
        sources if weight else sources[0],
        load_tokenizer(tokenizer, model_max_length=n_positions),
        max_length,
        stride,
        packing=packing,
        tail=tail,
        column=reading.column,
        weights=weight or None,
        stopping_strategy=stopping_strategy,
    )
    if output is None:
        documents, tokens, n_windows = token_windows.count()
        typer.echo(f"{documents} documents, {tokens} tokens, {n_windows} windows of {max_length}.")
        return
    stored = token_windows.to_dataset(output)
    typer.echo(f"{stored.num_rows} windows of {max_length}.")
    typer.echo(f"Result: {output.absolute()}")
