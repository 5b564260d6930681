"""Options that several commands share, other than those for reading texts (`reading`).

Options without a panel come first in `--help`, the others in one of the panels below.
"""

from pathlib import Path
from typing import Annotated

import typer


MODEL = "Model"
TRAINING = "Training"
RUN = "Running"

Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="Folder or Hub name; by default the model's own if it has one, else GPT-2's.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
TrainingOutput = Annotated[
    Path, typer.Option(help="Folder to make; it appears when the run is complete.", show_default=False)
]
StartModel = Annotated[
    str | None, typer.Option(help="Folder or Hub name of a saved model to start from.", show_default=False)
]
Epochs = Annotated[int, typer.Option(help="How often the texts are gone through.", min=1, rich_help_panel=TRAINING)]
LearningRate = Annotated[float, typer.Option(help="At the first step; it falls to 0.", rich_help_panel=TRAINING)]
SaveSteps = Annotated[int, typer.Option(help="Steps from checkpoint to checkpoint.", min=1, rich_help_panel=TRAINING)]
