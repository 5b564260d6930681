"""`gpt-embeddings extract`: a GPT checkpoint in, a folder with its input stage and its tokenizer out."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gpt_embeddings_cli import Overwrite, load_libraries


table_option = partial(typer.Option, rich_help_panel="Which tables")


def extract(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Folder or Hub name of a GPT checkpoint or a static model, or a file of tensors."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The folder to make.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub name.")] = None,
    dtype: Annotated[
        str, table_option(help="Dtype of the tables, such as bfloat16; auto is the checkpoint's own.")
    ] = "auto",
    position_embedding_type: Annotated[
        str | None, table_option(help="none gives the token table alone, as for families with rotary positions.")
    ] = None,
    wte_key: Annotated[str | None, table_option(help="Name of the token table, for an unknown architecture.")] = None,
    wpe_key: Annotated[str | None, table_option(help="Name of its position table.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Save the input stage of the GPT at NAME: token and position tables, and its tokenizer.

    Nothing else of the checkpoint is read. Its vectors are the GPT's own hidden_states[0]. A static model of
    model2vec, or a StaticEmbedding of sentence-transformers, can be extracted, too. A gated or private repository
    needs `hf auth login`, or the token in the variable HF_TOKEN.

    Example: gpt-embeddings extract openai-community/gpt2 --output gpt2-embeddings
    """
    source = Path(name).resolve()
    if source.is_dir() and (source == output.resolve() or output.resolve() in source.parents):
        raise ValueError(f"The output {str(output)!r} holds the checkpoint at {name!r}; choose another folder.")

    load_libraries([], name)
    from gpt_embeddings.checkpoints.conversion import from_gpt
    from gpt_embeddings.checkpoints.files import Folder, find_static
    from gpt_embeddings.checkpoints.loading import save_with_tokenizer
    from gpt_embeddings.checkpoints.saving import save_model_and_tokenizer
    from gpt_embeddings.checkpoints.static import from_static
    from gpt_embeddings.outputs import AtomicOutput

    with AtomicOutput(output, "extract", overwrite=overwrite, overwritable=("config.json",)) as out:
        folder = Folder(source.parent if source.is_file() else name, revision=revision)
        out.result.mkdir()
        if wte_key is None and find_static(folder) is not None:
            if dtype != "auto":
                raise ValueError(f"`--dtype` is {dtype}, but the tables of a static model are taken as they are.")
            model, tokenizer = from_static(name, revision=revision)
            save_model_and_tokenizer(out.result, model, tokenizer)
            said = f"  tokenizer  {len(tokenizer)} entries, without special tokens around a text"
        else:
            model = from_gpt(
                name,
                revision=revision,
                dtype=dtype,
                position_embedding_type=position_embedding_type,
                wte_key=wte_key,
                wpe_key=wpe_key,
            )
            said = save_with_tokenizer(model, folder, out.result)
        out.finish()
    for key, table in model.state_dict().items():
        typer.echo(f"  {key.removesuffix('.weight'):10} {' x '.join(map(str, table.shape)):>16}  {table.dtype}")
    typer.echo(said)
    typer.echo(f"Result: {output.resolve()}")
