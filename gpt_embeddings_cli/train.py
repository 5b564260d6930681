"""`gpt-embeddings train OBJECTIVE`: text in, a folder with a trained model out."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt_embeddings_cli import LIBRARY, Data, ReadingOptions, Tokenizer, load_libraries, model_option, reads_texts


commands = typer.Typer(name="train", no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
OPTIONS = runpy.run_path(str(LIBRARY / "training" / "options.py"))

TEXTS = {"texts_only": True, "streaming": True}  # so that nothing else in the files can fail

TrainingOutput = Annotated[Path, typer.Option(help="Folder to make; it appears when the run is complete.")]
StartModel = Annotated[str | None, typer.Option(help="Folder or Hub name of a saved model to start from.")]

FreshConfig = Annotated[
    Path | None,
    model_option(
        help="config.json of a fresh model; by default 256 dimensions, without dropout, for clm untied, for "
        "contrastive without positions."
    ),
]


@commands.callback()
def train() -> None:
    """Train on next tokens (clm), a teacher's vectors (distil), pairs (contrastive), labels (classes); fit weights."""


@commands.command()
@reads_texts(options=OPTIONS["ClmOptions"])
def clm(
    *,
    data: Data,
    output: TrainingOutput,
    model: StartModel = None,
    config: FreshConfig = None,
    tokenizer: Tokenizer = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Text to evaluate on, in the format of DATA; may be repeated. By default the last hundredth of "
            "DATA, which is then not trained on."
        ),
    ] = None,
    options: Any,
    reading: ReadingOptions,
) -> None:
    """Train a zero-layer GPT on the next token of DATA.

    The loss is shown beside its lower bound: the conditional entropy of the bigrams of DATA, which no model without
    layers can go below. After an interruption the same command resumes from the last checkpoint.

    Example: gpt-embeddings train clm corpus.parquet --output zero-layer --epochs 3
    """
    _check(output, "train clm", [*data, *(held_out or ())], model, tokenizer, config)
    from gpt_embeddings.training.clm import train_clm

    fresh = {"n_positions": options.max_length, "tie_word_embeddings": False}
    network, tokens = _open("GPTEmbeddingsForCausalLM", model, tokenizer, config, options.seed, fresh)
    source = reading.load(data, **TEXTS)
    other = reading.load(held_out, **TEXTS) if held_out else None
    _run(train_clm, network, tokens, source, output, options, held_out=other, data=data, reading=reading)


@commands.command()
@reads_texts(options=OPTIONS["DistilOptions"])
def distil(
    *,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA]",
            help="Text, as for the other objectives; without it the table is not trained beyond its start.",
        ),
    ] = None,
    teacher: Annotated[
        str,
        typer.Option(
            help="Folder or Hub name of a sentence-transformers model, or package.module:function, a function that "
            "takes a list of texts and returns vectors."
        ),
    ],
    output: TrainingOutput,
    tokenizer: Annotated[
        str, model_option(help="Folder or Hub name; its ids are the rows of the table.")
    ] = "openai-community/gpt2",
    options: Any,
    reading: ReadingOptions,
) -> None:
    """Distil a teacher: a table whose mean of token rows agrees with the teacher's vectors of texts.

    Every token starts at the teacher's vector of its text. Then means of rows are trained towards the teacher's
    vectors of sentences of DATA and of phrases of random words; the first dimensions alone are trained to be useful,
    too. Nearly all the time is the teacher's, whose bar says how long it will take (with 22 million parameters, the
    default options and 2 cores about half an hour; without DATA two minutes). After an interruption the same command
    resumes.

    Example: gpt-embeddings train distil notes.txt --teacher sentence-transformers/all-MiniLM-L6-v2 --output meaning
    """
    _check(output, "train distil", data or [], teacher, tokenizer)
    from gpt_embeddings.text.tokenizer import load_tokenizer
    from gpt_embeddings.training.distillation import distil as train_distil

    source = reading.load(data, **TEXTS) if data else None
    tokens = load_tokenizer(tokenizer)
    _run(train_distil, teacher, tokens, source, output, options, data=data or [], reading=reading)


@commands.command()
@reads_texts(options=OPTIONS["ContrastiveOptions"])
def contrastive(
    *,
    data: Data,
    output: TrainingOutput,
    model: StartModel = None,
    config: FreshConfig = None,
    tokenizer: Tokenizer = None,
    columns: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="The two columns of pairs; by default each sentence of --column is paired with the next one."
        ),
    ] = None,
    options: Any,
    reading: ReadingOptions,
) -> None:
    """Train on pairs of texts that belong together: each has to find its partner among those of a batch.

    Pairs are two columns of DATA, or neighbouring sentences. A model of `train distil` is a good start. After an
    interruption the same command resumes.

    Example: gpt-embeddings train contrastive faq.csv --columns question answer --model meaning --output answers
    """
    _check(output, "train contrastive", data, model, tokenizer, config)
    from gpt_embeddings.training.contrastive import train_contrastive

    fresh = {"position_embedding_type": "none"}
    network, tokens = _open("GPTEmbeddingsModel", model, tokenizer, config, options.seed, fresh)
    source = reading.load(data, column=columns or reading.column, **TEXTS)
    _run(train_contrastive, network, tokens, source, output, options, columns=columns, data=data, reading=reading)


@commands.command()
@reads_texts(options=OPTIONS["ClassesOptions"])
def classes(
    *,
    data: Data,
    label_column: Annotated[str, typer.Option(help="The column of labels: strings, integers or booleans.")],
    output: TrainingOutput,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub name of a saved model to start from; by default the bundled English table."),
    ] = None,
    tokenizer: Tokenizer = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            help="Rows to evaluate on, in the format of DATA; may be repeated. By default one row in ten of each "
            "class is held out, which is then not trained on."
        ),
    ] = None,
    options: Any,
    reading: ReadingOptions,
) -> None:
    """Train a text classifier on the labels of DATA, and report its accuracy on held-out rows.

    A linear layer on the vector of a text, and the table. The result is a `text-classification` model of
    transformers. After an interruption the same command resumes.

    Example: gpt-embeddings train classes reviews.csv --label-column stars --output reviews
    """
    _check(output, "train classes", [*data, *(validation or ())], model, tokenizer)
    from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
    from gpt_embeddings.training.classification import train_classes

    network, tokens = load_model_and_tokenizer(model, tokenizer)
    source, other = reading.load(data), reading.load(validation) if validation else None
    more: dict[str, Any] = {"label_column": label_column, "validation": other}
    _run(train_classes, network, tokens, source, output, options, data=data, reading=reading, **more)


@commands.command()
@reads_texts
def weights(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or Hub name of a saved model.")],
    data: Data,
    output: TrainingOutput,
    tokenizer: Tokenizer = None,
    a: Annotated[float, typer.Option(help="The share of all tokens at which a token has weight 1/2.")] = 1e-3,
    reading: ReadingOptions,
) -> None:
    """Count the tokens of DATA, and pool with MODEL by a / (a + share of the token) from then on.

    The tables stay as they are. Frequent tokens, which say little about a text, get less weight (smooth inverse
    frequency).

    Example: gpt-embeddings train weights wte-of-gpt2 corpus.parquet --output weighted
    """
    _check(output, "train weights", data, model, tokenizer)
    from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
    from gpt_embeddings.training.token_weights import train_token_weights

    network, tokens = load_model_and_tokenizer(model, tokenizer)
    source, name = reading.load(data, **TEXTS), Path(model).name
    _run(train_token_weights, network, tokens, source, output, a=a, model_name=name, data=data, reading=reading)


def _check(
    output: Path, kind: str, data: list[str], model: str | None, tokenizer: str | None, config: Path | None = None
) -> None:
    """Refuse missing files before anything is imported, and an output that exists."""
    if model is not None and config is not None:
        raise ValueError("Give `--model` for a saved model, or `--config` for a random one, not both.")
    load_libraries(data, model, tokenizer)

    from transformers.utils.logging import disable_progress_bar

    from gpt_embeddings.outputs import check_output

    check_output(output, kind)
    disable_progress_bar()  # transformers shows one per saved file


def _open(
    kind: str, name: str | None, tokenizer: str | None, config: Path | None, seed: int, fresh: dict[str, Any]
) -> tuple[Any, Any]:
    """Return a saved model, or a fresh one by config.json or by default sizes and `fresh`; and its tokenizer."""
    import torch

    import modeling_gpt_embeddings
    from configuration_gpt_embeddings import GPTEmbeddingsConfig
    from gpt_embeddings.checkpoints.loading import DEFAULT_TOKENIZER, load_model_and_tokenizer
    from gpt_embeddings.text.tokenizer import load_tokenizer, vocabulary_rows

    model_class = getattr(modeling_gpt_embeddings, kind)
    if name is not None:
        return load_model_and_tokenizer(name, tokenizer, model_class)
    tokens = load_tokenizer(tokenizer or DEFAULT_TOKENIZER)
    if config is None:
        sizes = GPTEmbeddingsConfig(vocab_size=vocabulary_rows(tokens), n_embd=256, embd_pdrop=0.0, **fresh)
    else:
        sizes = GPTEmbeddingsConfig.from_json_file(config)
    tokens.model_max_length = sizes.n_positions
    torch.manual_seed(seed)
    return model_class(sizes), tokens


def _run(
    objective: Callable[..., dict[str, Any]], *arguments: Any, data: list[str], reading: ReadingOptions, **more: Any
) -> None:
    """Train, and print the metadata."""
    names = ", ".join(Path(name).name for name in data)
    try:
        metadata = objective(*arguments, column=reading.column, data_name=names, **more)
    except KeyboardInterrupt:
        typer.echo("Interrupted; the same command resumes from the last checkpoint.", err=True)
        raise typer.Exit(130) from None
    for name, value in metadata.items():
        typer.echo(f"{name}: {value}")
    typer.echo(f"Result: {arguments[3].absolute()}")
