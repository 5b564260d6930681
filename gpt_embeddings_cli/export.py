"""`gpt-embeddings export`: a saved model in, a folder that other libraries load without our code out."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from gpt_embeddings_cli import Overwrite, Tokenizer, load_libraries


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Folder or Hub name of a saved model, or the name of a bundled table."),
    ],
    output: Annotated[Path, typer.Option(help="The folder to make.")],
    format: Annotated[
        Literal["static", "model2vec", "onnx"],
        typer.Option(
            help="static: a StaticEmbedding of sentence-transformers, which model2vec loads, too; model2vec: that "
            "library's own form; onnx: model.onnx and the tokenizer."
        ),
    ] = "static",
    tokenizer: Tokenizer = None,
    drop_positions: Annotated[
        bool,
        typer.Option(
            "--drop-positions", help="Leave the positions out of a static form, and print how far vectors move."
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write MODEL for other libraries, which load it without trust_remote_code.

    The static forms are for models without positions, such as the bundled English table and those of `train distil`.
    Others need --drop-positions.

    Example: gpt-embeddings export meaning --format static --output meaning-static
    """
    load_libraries([], model, tokenizer)
    from gpt_embeddings.checkpoints.export import export_model
    from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
    from gpt_embeddings.outputs import AtomicOutput

    with AtomicOutput(output, "export", overwrite=overwrite, overwritable=("modules.json", "model.onnx")) as out:
        out.result.mkdir()
        comparison = export_model(
            *load_model_and_tokenizer(model, tokenizer), out.result, format, drop_positions=drop_positions
        )
        out.finish()
    typer.echo(comparison)
    typer.echo(f"Result: {output.resolve()}")
