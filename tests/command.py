"""`gpt-embeddings` in this process, and a text to give it."""

from pathlib import Path

from typer.testing import CliRunner

from gpt_embeddings_cli import app


ROOT = Path(__file__).parents[1]
STORY = ROOT / "data" / "the_tide_clerk.txt"


def run(*arguments, stdin=None):
    """Run a command that succeeds."""
    result = CliRunner().invoke(app, [*map(str, arguments)], input=stdin)
    assert result.exit_code == 0, result.output
    return result


def refuse(message, *arguments):
    """Run a command that ends with this in its message, and return what it said."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    said = result.stderr.replace("\n", " ")
    assert result.exit_code == 1 and message in said, result.output
    assert "Error: " in said and "Traceback" not in said
    return said
