"""A missing extra is told in a sentence of ours, before any work."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpt_embeddings_cli import app


pytestmark = pytest.mark.slow  # each starts a command


STORY = str(Path(__file__).parents[2] / "data" / "the_tide_clerk.txt")


@pytest.mark.parametrize(
    ("extra", "module", "command"),
    [
        ("train", "sentence_transformers", ["train", "distil", STORY, "--teacher", "any", "--output"]),
        ("ray", "ray", ["embed", STORY, "--ray", "auto", "--output"]),
        ("onnx", "onnxscript", ["export", "gpt-embeddings-english", "--format", "onnx", "--output"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_commands(extra, module, command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    result = CliRunner().invoke(app, [*command, str(tmp_path / "out")])
    assert result.exit_code == 1, result.output
    assert f"pip install 'gpt-embeddings[{extra}]'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_figures(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gpt_embeddings.explore")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ImportError, match=r"missing: plotly\): `pip install 'gpt-embeddings\[explore\]'"):
        from gpt_embeddings.explore import figures  # noqa: F401
