"""`gpt-embeddings train OBJECTIVE`: text in, a folder with a trained model out."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils.logging import disable_progress_bar

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.cli.common import check_output, errors_as_messages, open_tokenizer
from gpt_embeddings.sources import load_source
from gpt_embeddings.training import ClmOptions, train_clm
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM


app = typer.Typer(no_args_is_help=True)

FRESH_N_EMBD = 256  # of a model for which neither --model nor --config is given

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="Files of one format (.txt .md .jsonl .json .csv .tsv .parquet), or one Hub dataset name.",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option(help="Folder to make; it appears when the run is complete.", show_default=False)]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="Folder or Hub name; by default the model's own if it has one, else GPT-2's.", show_default=False
    ),
]
Column = Annotated[str, typer.Option(help="The column of texts.")]
Split = Annotated[str, typer.Option(help="Split of a Hub dataset.")]


@app.callback()
def main() -> None:
    """Train tables: on next tokens (clm)."""


@app.command()
def clm(
    data: Inputs,
    output: Output,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub name of a saved model to start from.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="config.json of a fresh model; without it 256 dimensions, untied, without dropout.",
            show_default=False,
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to evaluate on, of the format of DATA; may be given several times. By default the last "
            "hundredth of DATA, which is then not trained on.",
            show_default=False,
        ),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens of a window.", min=1)] = 128,
    batch_size: Annotated[int, typer.Option(help="Windows of a step.", min=1)] = 32,
    epochs: Annotated[float, typer.Option(help="How often DATA is gone through.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="At the first step; it falls to 0.")] = 0.01,
    save_steps: Annotated[int, typer.Option(help="Steps from checkpoint to checkpoint.", min=1)] = 500,
    seed: Annotated[int, typer.Option(help="Seed of fresh tables, of the order of windows, of dropout.", min=0)] = 0,
    column: Column = "text",
    split: Split = "train",
    sample_by: Annotated[
        str, typer.Option(help="What is a document in a text file: line, paragraph or document (the file).")
    ] = "document",
) -> None:
    """Train a zero-layer GPT on the next token of DATA.

    The loss is shown beside its bound: the conditional entropy of the bigrams of DATA, below which no model without
    layers can come. The same command goes on after an interruption, from the last checkpoint.

    Example: gpt-embeddings train clm corpus.parquet --output zero-layer --epochs 3
    """
    with errors_as_messages():
        check_output(output, overwrite=False)
        disable_progress_bar()  # transformers' own, for each file that it saves
        if sample_by not in ("line", "paragraph", "document"):
            raise ValueError(f"`--sample-by` must be line, paragraph or document, got {sample_by!r}.")
        options = ClmOptions(
            max_length=max_length,
            batch_size=batch_size,
            epochs=epochs,
            learning_rate=learning_rate,
            save_steps=save_steps,
            seed=seed,
        )
        tokens = open_tokenizer(tokenizer, model, max_length)
        network = _open_head(model, config, len(tokens), max_length, seed)
        tokens.model_max_length = network.config.n_positions
        source = load_source(data, column=column, split=split, sample_by=sample_by, streaming=True)
        other = None
        if held_out:
            other = load_source(held_out, column=column, split=split, sample_by=sample_by, streaming=True)
        try:
            facts = train_clm(
                network,
                tokens,
                source,
                output,
                options,
                held_out=other,
                column=column,
                data_name=", ".join(Path(name).name for name in data),
            )
        except KeyboardInterrupt:
            typer.echo("Interrupted; the same command goes on from the last checkpoint.", err=True)
            raise typer.Exit(130) from None
        for name, value in facts.items():
            typer.echo(f"{name}: {value}")
        typer.echo(f"Result: {output.absolute()}")


def _open_head(
    name: str | None, config: Path | None, vocab_size: int, max_length: int, seed: int
) -> GPTEmbeddingsForCausalLM:
    if name is not None and config is not None:
        raise ValueError("Give `--model` for a saved model or `--config` for a fresh one, not both.")
    if name is not None:
        try:
            return GPTEmbeddingsForCausalLM.from_pretrained(name)
        except OSError as error:
            raise OSError(f"No model at {name!r}: {error}") from error
    sizes = (
        GPTEmbeddingsConfig(
            vocab_size=vocab_size,
            n_positions=max_length,
            n_embd=FRESH_N_EMBD,
            embd_pdrop=0.0,
            tie_word_embeddings=False,
        )
        if config is None
        else GPTEmbeddingsConfig.from_json_file(config)
    )
    torch.manual_seed(seed)
    return GPTEmbeddingsForCausalLM(sizes)


__all__ = ["app"]
