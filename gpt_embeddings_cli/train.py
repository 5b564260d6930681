"""`gpt-embeddings train OBJECTIVE`: text in, a folder with a trained model out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gpt_embeddings_cli.common import check_one_model, errors_as_messages, load_libraries, open_model_and_tokenizer
from gpt_embeddings_cli.options import (
    MODEL,
    TRAINING,
    Epochs,
    LearningRate,
    SaveSteps,
    StartModel,
    Tokenizer,
    TrainingOutput,
)
from gpt_embeddings_cli.reading import Data, ReadingOptions, check_inputs, check_names, reads_texts


if TYPE_CHECKING:
    from datasets import IterableDataset
    from transformers import PreTrainedTokenizerBase

    from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM

app = typer.Typer(no_args_is_help=True)

GPT2 = "openai-community/gpt2"
FRESH_N_EMBD = 256  # of a model for which neither --model nor --config is given


@app.callback()
def main() -> None:
    """Train tables: on next tokens (clm), on a teacher's vectors (distil), on pairs (contrastive); count (weights)."""


@app.command()
@reads_texts
def clm(
    *,
    data: Data,
    output: TrainingOutput,
    model: StartModel = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="config.json of a fresh model; without it 256 dimensions, untied, without dropout.",
            show_default=False,
            rich_help_panel=MODEL,
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
    max_length: Annotated[int, typer.Option(help="Tokens of a window.", min=1, rich_help_panel=TRAINING)] = 128,
    batch_size: Annotated[int, typer.Option(help="Windows of a step.", min=1, rich_help_panel=TRAINING)] = 32,
    epochs: Annotated[float, typer.Option(help="How often DATA is gone through.", rich_help_panel=TRAINING)] = 1.0,
    learning_rate: LearningRate = 0.01,
    save_steps: SaveSteps = 500,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of fresh tables, of the order of windows, of dropout.", min=0, rich_help_panel=TRAINING
        ),
    ] = 0,
    reading: ReadingOptions,
) -> None:
    """Train a zero-layer GPT on the next token of DATA.

    The loss is shown beside its bound: the conditional entropy of the bigrams of DATA, below which no model without
    layers can come. The same command goes on after an interruption, from the last checkpoint.

    Example: gpt-embeddings train clm corpus.parquet --output zero-layer --epochs 3
    """
    with errors_as_messages():
        check_one_model(model, config)
        _prepare(output, "train clm", [*data, *(held_out or ())], model, tokenizer)

        from gpt_embeddings.training.clm import ClmOptions, train_clm

        options = ClmOptions(
            max_length=max_length,
            batch_size=batch_size,
            epochs=epochs,
            learning_rate=learning_rate,
            save_steps=save_steps,
            seed=seed,
        )
        network, tokens = _open_head(model, tokenizer, config, max_length, seed)
        source = _load_texts(data, reading)
        other = _load_texts(held_out, reading) if held_out else None
        with _interruptible():
            metadata = train_clm(
                network, tokens, source, output, options, held_out=other, column=reading.column, data_name=_names(data)
            )
        _report(metadata, output)


@app.command()
@reads_texts
def distil(
    *,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA]",
            help="Text, as for the other objectives; without it the table stays at its start, which needs none.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str,
        typer.Option(
            help="Folder or Hub name of a sentence-transformers model, or package.module:function, a function that "
            "takes a list of texts and returns vectors.",
            show_default=False,
        ),
    ],
    output: TrainingOutput,
    tokenizer: Annotated[
        str, typer.Option(help="Folder or Hub name; its ids are the rows.", rich_help_panel=MODEL)
    ] = GPT2,
    n_embd: Annotated[int, typer.Option(help="Dimensions, at most the teacher's.", min=1)] = 256,
    sentences: Annotated[
        int,
        typer.Option(
            help="Sentences of DATA to learn from: a random choice where there are more.",
            min=1,
            rich_help_panel=TRAINING,
        ),
    ] = 250_000,
    phrases: Annotated[
        int, typer.Option(help="Phrases of random words, for words that DATA lacks.", min=0, rich_help_panel=TRAINING)
    ] = 150_000,
    positions: Annotated[
        Literal["none", "learned"],
        typer.Option(help="Rows of positions are learned too, or left out.", rich_help_panel=MODEL),
    ] = "none",
    batch_size: Annotated[int, typer.Option(help="Texts of a step.", min=1, rich_help_panel=TRAINING)] = 1024,
    epochs: Epochs = 4,
    learning_rate: LearningRate = 0.003,
    save_steps: SaveSteps = 1000,
    seed: Annotated[
        int, typer.Option(help="Seed of what is chosen, and of its order.", min=0, rich_help_panel=TRAINING)
    ] = 0,
    reading: ReadingOptions,
) -> None:
    """Distil a teacher: means of token vectors that agree with its vectors of texts.

    Every token begins at the teacher's vector of its text. Then the means of sentences of DATA, and of phrases of
    random words, are brought to the teacher's vectors of these, so that the first dimensions serve alone. Nearly all
    the time is the teacher's: how long it will take here is told when it has read the first texts (with one of 22
    million parameters, the default numbers and 2 cores about half an hour; without DATA some two minutes). The same
    command goes on after an interruption.

    Example: gpt-embeddings train distil notes.txt --teacher sentence-transformers/all-MiniLM-L6-v2 --output meaning
    """
    with errors_as_messages():
        _prepare(output, "train distil", data or [], teacher, tokenizer)

        from gpt_embeddings.text.tokenizer import load_tokenizer
        from gpt_embeddings.training.distillation import DistilOptions
        from gpt_embeddings.training.distillation import distil as train_distil

        options = DistilOptions(
            n_embd=n_embd,
            positions=positions,
            sentences=sentences,
            phrases=phrases,
            batch_size=batch_size,
            epochs=epochs,
            learning_rate=learning_rate,
            save_steps=save_steps,
            seed=seed,
        )
        source = _load_texts(data, reading) if data else None
        with _interruptible():
            metadata = train_distil(
                teacher,
                load_tokenizer(tokenizer),
                source,
                output,
                options,
                column=reading.column,
                data_name=_names(data or []),
            )
        _report(metadata, output)


@app.command()
@reads_texts
def contrastive(
    *,
    data: Data,
    output: TrainingOutput,
    model: StartModel = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="config.json of a fresh model; without it 256 dimensions, no positions.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    columns: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="The two columns of pairs; without them sentences of --column that follow each other are pairs.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Pairs of a step; the others are the negatives.", min=2, rich_help_panel=TRAINING)
    ] = 512,
    epochs: Epochs = 3,
    learning_rate: LearningRate = 0.001,
    save_steps: SaveSteps = 1000,
    seed: Annotated[
        int, typer.Option(help="Seed of a fresh table, and of the order of pairs.", min=0, rich_help_panel=TRAINING)
    ] = 0,
    reading: ReadingOptions,
) -> None:
    """Train on pairs of texts that belong together: each is to find its own among those of a batch.

    Pairs are two columns of DATA, or sentences that follow each other. A model of `train distil` is a good start. The
    same command goes on after an interruption.

    Example: gpt-embeddings train contrastive faq.csv --columns question answer --model meaning --output answers
    """
    with errors_as_messages():
        check_one_model(model, config)
        _prepare(output, "train contrastive", data, model, tokenizer)

        import torch

        from configuration_gpt_embeddings import GPTEmbeddingsConfig
        from gpt_embeddings.checkpoints.loading import DEFAULT_TOKENIZER
        from gpt_embeddings.text.tokenizer import load_tokenizer, vocabulary_rows
        from gpt_embeddings.training.contrastive import ContrastiveOptions, train_contrastive
        from modeling_gpt_embeddings import GPTEmbeddingsModel

        options = ContrastiveOptions(
            batch_size=batch_size, epochs=epochs, learning_rate=learning_rate, save_steps=save_steps, seed=seed
        )
        if model is None and config is None:
            tokens = load_tokenizer(tokenizer or DEFAULT_TOKENIZER, model_max_length=1024)
            torch.manual_seed(seed)
            network = GPTEmbeddingsModel(
                GPTEmbeddingsConfig(
                    vocab_size=vocabulary_rows(tokens),
                    n_embd=FRESH_N_EMBD,
                    embd_pdrop=0.0,
                    position_embedding_type="none",
                )
            )
        else:
            network, tokens, _ = open_model_and_tokenizer(model, tokenizer, False, config, seed)
        source = _load_texts(data, reading, columns)
        with _interruptible():
            metadata = train_contrastive(
                network,
                tokens,
                source,
                output,
                options,
                columns=columns,
                column=reading.column,
                data_name=_names(data),
            )
        _report(metadata, output)


@app.command()
@reads_texts
def weights(
    *,
    model: Annotated[str, typer.Argument(help="Folder or Hub name of a saved model.", show_default=False)],
    data: Data,
    output: TrainingOutput,
    tokenizer: Tokenizer = None,
    a: Annotated[float, typer.Option(help="Share of all tokens at which a token weighs half.")] = 1e-3,
    reading: ReadingOptions,
) -> None:
    """Count the tokens of DATA, and have MODEL pool by a / (a + share of the token).

    The tables stay as they are. Frequent tokens, which say little of a text, count less from then on (smooth inverse
    frequency).

    Example: gpt-embeddings train weights wte-of-gpt2 corpus.parquet --output weighted
    """
    with errors_as_messages():
        _prepare(output, "train weights", data, model, tokenizer)

        from gpt_embeddings.training.token_weights import train_token_weights

        network, tokens, name = open_model_and_tokenizer(model, tokenizer, False, None, 0)
        source = _load_texts(data, reading)
        with _interruptible():
            metadata = train_token_weights(
                network,
                tokens,
                source,
                output,
                a=a,
                column=reading.column,
                model_name=Path(name).name,
                data_name=_names(data),
            )
        _report(metadata, output)


def _prepare(output: Path, kind: str, data: list[str], *names: str | None) -> None:
    """Refuse what is not there before anything is imported; then have transformers be quiet."""
    check_inputs(data)
    check_names(*names)
    load_libraries()

    from transformers.utils.logging import disable_progress_bar

    from gpt_embeddings.outputs import check_output

    check_output(output, kind)
    disable_progress_bar()  # one for each file that it saves


def _load_texts(data: list[str], reading: ReadingOptions, columns: tuple[str, str] | None = None) -> "IterableDataset":
    """Load what is trained on: the columns of texts alone, so that nothing else in the files can fail."""
    return reading.load(data, column=columns or reading.column, texts_only=True, streaming=True)


def _names(data: list[str]) -> str:
    return ", ".join(Path(name).name for name in data)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Interrupted; the same command goes on from where it was saved last.", err=True)
        raise typer.Exit(130) from None


def _report(metadata: Mapping[str, Any], output: Path) -> None:
    for name, value in metadata.items():
        typer.echo(f"{name}: {value}")
    typer.echo(f"Result: {output.absolute()}")


def _open_head(
    name: str | None, tokenizer: str | None, config: Path | None, max_length: int, seed: int
) -> "tuple[GPTEmbeddingsForCausalLM, PreTrainedTokenizerBase]":
    import torch

    from configuration_gpt_embeddings import GPTEmbeddingsConfig
    from gpt_embeddings.checkpoints.loading import DEFAULT_TOKENIZER, load_model_and_tokenizer
    from gpt_embeddings.text.tokenizer import load_tokenizer, vocabulary_rows
    from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM

    if name is not None:
        return load_model_and_tokenizer(name, tokenizer, GPTEmbeddingsForCausalLM)
    tokens = load_tokenizer(tokenizer or DEFAULT_TOKENIZER)
    sizes = (
        GPTEmbeddingsConfig(
            vocab_size=vocabulary_rows(tokens),
            n_positions=max_length,
            n_embd=FRESH_N_EMBD,
            embd_pdrop=0.0,
            tie_word_embeddings=False,
        )
        if config is None
        else GPTEmbeddingsConfig.from_json_file(config)
    )
    tokens.model_max_length = sizes.n_positions
    torch.manual_seed(seed)
    return GPTEmbeddingsForCausalLM(sizes), tokens
