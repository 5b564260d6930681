"""`gpt-embeddings extract`: a GPT checkpoint in, a folder with its input stage and its tokenizer out."""

from pathlib import Path
from typing import Annotated

import typer

from gpt_embeddings_cli.common import check_output, errors_as_messages, whole_folder
from gpt_embeddings_cli.options import Overwrite, check_names


TABLES = "Which tables"


def extract(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Folder or Hub name of a GPT checkpoint.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="The folder to make.", show_default=False)],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hub name.", show_default=False)
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="Dtype of the tables, such as bfloat16; auto is the checkpoint's own.", rich_help_panel=TABLES
        ),
    ] = "auto",
    position_embedding_type: Annotated[
        str | None,
        typer.Option(
            help="none gives the token table alone, as for families with rotary positions.",
            show_default=False,
            rich_help_panel=TABLES,
        ),
    ] = None,
    wte_key: Annotated[
        str | None,
        typer.Option(
            help="Name of the token table, for an architecture that is not known.",
            show_default=False,
            rich_help_panel=TABLES,
        ),
    ] = None,
    wpe_key: Annotated[
        str | None, typer.Option(help="Name of its position table.", show_default=False, rich_help_panel=TABLES)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Save the input stage of the GPT at NAME: token and position tables, and its tokenizer.

    Nothing else of the checkpoint is read. Its vectors are the GPT's own hidden_states[0]. A gated or private
    repository needs `hf auth login`, or the token in the variable HF_TOKEN.

    Example: gpt-embeddings extract openai-community/gpt2 --output gpt2-embeddings
    """
    with errors_as_messages():
        check_names(name)
        check_output(output, overwrite)

        from gpt_embeddings.checkpoints.conversion import from_gpt
        from gpt_embeddings.checkpoints.files import open_folder
        from gpt_embeddings.checkpoints.loading import copy_tokenizer

        source = Path(name).resolve()
        if source.is_dir() and (source == output.resolve() or output.resolve() in source.parents):
            raise ValueError(f"The output {str(output)!r} holds the checkpoint at {name!r}; choose another folder.")
        model = from_gpt(
            name,
            revision=revision,
            dtype=dtype,
            position_embedding_type=position_embedding_type,
            wte_key=wte_key,
            wpe_key=wpe_key,
        )
        with whole_folder(output) as partial:
            model.save_pretrained(partial)
            said = copy_tokenizer(open_folder(name, revision=revision), partial, model.config.n_positions)
        for key, table in model.state_dict().items():
            typer.echo(f"  {key.removesuffix('.weight'):10} {' x '.join(map(str, table.shape)):>16}  {table.dtype}")
        typer.echo(said)
        typer.echo(f"Result: {output.resolve()}")


__all__ = ["extract"]
