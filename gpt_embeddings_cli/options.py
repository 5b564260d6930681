"""Options that several commands share, other than those for reading texts (`reading`).

Options without a panel come first in `--help`, the others in one of the panels below.
"""

import functools
import inspect
import runpy
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer


MODEL = "Model"
TRAINING = "Training"
RUN = "Running"

Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="Folder or Hub name; by default the model's own if it has one, else GPT-2's.", rich_help_panel=MODEL
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
TrainingOutput = Annotated[Path, typer.Option(help="Folder to make; it appears when the run is complete.")]
StartModel = Annotated[str | None, typer.Option(help="Folder or Hub name of a saved model to start from.")]


def takes_options(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameter `options` of a command by the fields of a dataclass of `gpt_embeddings.training.options`.

    The command receives them as a dictionary.
    """
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                field.type,
                typer.Option(help=field.metadata["help"], min=field.metadata["least"], rich_help_panel=TRAINING),
            ],
        )
        for field in fields(run_file("training/options.py")[name])
    ]
    return lambda command: replace_parameter(command, "options", parameters, dict)


@functools.cache
def run_file(name: str) -> dict[str, Any]:
    """Return the names in a file of `gpt_embeddings`, run by its path: importing the package would import PyTorch."""
    return runpy.run_path(str(Path(__file__).parents[1] / "gpt_embeddings" / name))


def replace_parameter(
    command: Callable[..., None], name: str, parameters: Iterable[inspect.Parameter], make: Callable[..., Any]
) -> Callable[..., None]:
    """Replace one parameter of a command by several, from whose values `make` makes its argument.

    typer reads the signature and the annotations of the command that this returns.
    """
    parameters = list(parameters)

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        made = make(**{parameter.name: arguments.pop(parameter.name) for parameter in parameters})
        command(**arguments, **{name: made})

    replaced: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        replaced += parameters if parameter.name == name else [parameter]
    replaced = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in replaced]
    wrapped.__signature__ = inspect.Signature(replaced)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in replaced}
    return wrapped
