"""`gpt-embeddings push`: a saved model in, one complete repository on the Hub out."""

from pathlib import Path
from typing import Annotated

import typer

from gpt_embeddings_cli import load_libraries


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder that the model and its tokenizer were saved to.")
    ],
    repo_id: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository on the Hub; created if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to commit to, created if missing, or refs/pr/N.", show_default="main")
    ] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of committing to the branch.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Licence of the tables, such as mit; kept from the card if there is one.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Hub name of the checkpoint that the tables are from.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Hub name of training data; may be given several times.")
    ] = None,
) -> None:
    """Publish a saved model: weights, code, tokenizer, sentence-transformers files and card, in one commit.

    A second push sends only what changed, and replaces only its own section of the card. Other files in FOLDER, such
    as checkpoints, are not sent. The token comes from HF_TOKEN or `hf auth login`.

    Example: gpt-embeddings push my-model me/my-model --private --license mit
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {str(folder)!r} does not exist.")

    load_libraries()
    from gpt_embeddings.hub.cards import CardMetadata
    from gpt_embeddings.hub.push import push_to_hub

    metadata = CardMetadata(license=license, base_model=base_model, datasets=dataset or ())
    try:
        commit = push_to_hub(
            folder, repo_id, metadata=metadata, private=private or None, revision=revision, create_pr=create_pr
        )
    except RuntimeError as error:  # a large file whose upload failed
        raise OSError(str(error)) from error
    typer.echo(f"Published: {commit.pr_url or commit.repo_url}")
    typer.echo(f"Revision to pin: {commit.oid}")
