"""The command line: `gpt-embeddings COMMAND`. Each command is one call of the library, with files as input and output.

This package imports typer alone; a command imports the library when it runs. So `--help`, `--version`, a wrong option
or a missing file is answered in a fraction of a second instead of the seconds that importing PyTorch takes.

Read `reading`, `options`, `common`, then the commands; `streams` is about standard output.
"""

from gpt_embeddings_cli.commands import app
from gpt_embeddings_cli.streams import prepare_streams


def main() -> None:
    """Run the program."""
    prepare_streams()
    app()
