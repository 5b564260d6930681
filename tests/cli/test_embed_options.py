"""The options of `gpt-embeddings embed` that `embed_dataset` brought."""

from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from typer.testing import CliRunner

from gpt_embeddings.outputs import Output
from gpt_embeddings_cli import app
from modeling_gpt_embeddings import GPTEmbeddingsConfig


STORY = Path(__file__).parents[2] / "data" / "the_tide_clerk.txt"


@pytest.fixture
def run(tmp_path):
    GPTEmbeddingsConfig(n_embd=16, n_positions=64).to_json_file(tmp_path / "small.json")
    common = [STORY, "--sample-by", "paragraph", "--config", tmp_path / "small.json"]
    return lambda *arguments: CliRunner().invoke(app, ["embed", *map(str, [*common, *arguments])])


def test_every_option_reaches_the_vectors(run, tmp_path):
    for name, options in (
        ("plain", ()),
        ("stream", ("--streaming",)),
        ("workers", ("--num-proc", 2)),
        ("normal", ("--normalize", "--overflow", "windows", "--dtype", "float16", "--output-column", "v")),
        ("tokens", ("--pooling", "none")),
    ):
        result = run("--output", tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        assert "30 rows x 16 dimensions" in result.stdout and "tokens/s" in result.stdout
    found = {name: load_from_disk(tmp_path / name) for name in ("plain", "stream", "workers", "normal", "tokens")}
    assert found["plain"]["embedding"][:] == found["stream"]["embedding"][:] == found["workers"]["embedding"][:]
    assert np.allclose(np.linalg.norm(np.array(found["normal"]["v"][:], dtype=np.float32), axis=1), 1, atol=1e-3)
    first = np.array(found["tokens"]["embedding"][0], dtype=np.float32)
    assert first.shape[1] == 16 and np.allclose(first.mean(0), found["plain"]["embedding"][0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output-column", "text"), "`column` and `output_column` are both 'text'"),
        (("--ray", "auto"), "`--ray` needs a model that every node can read; save the fresh one and give `--model`"),
    ],
)
def test_messages(run, tmp_path, options, message):
    result = run("--output", tmp_path / "out", *options)
    assert result.exit_code == 1 and message in result.stderr


def test_shards_of_another_job_are_not_mixed_in(run, tmp_path):
    with Output(tmp_path / "out", "embed", {"dtype": "float16"}) as out:
        out.result.mkdir()
        (out.result / "data-00000.arrow").write_bytes(b"")
    result = run("--output", tmp_path / "out")
    assert result.exit_code == 1 and "`dtype` is 'float32' and was 'float16'" in result.stderr
    assert run("--output", tmp_path / "out", "--no-resume").exit_code == 0
