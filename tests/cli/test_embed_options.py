"""The options of `gpt-embeddings embed` that `embed_dataset` brought."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from typer.testing import CliRunner

from gpt_embeddings.outputs import AtomicOutput
from gpt_embeddings_cli import app
from modeling_gpt_embeddings import GPTEmbeddingsConfig


pytestmark = pytest.mark.slow  # each starts a command


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
        assert "30 rows x 16 dimensions" in result.stdout
        assert "2,032 tokens and 8.8 kB of text in " in result.stdout and "tokens/s" not in result.stdout
    found = {name: load_from_disk(tmp_path / name) for name in ("plain", "stream", "workers", "normal", "tokens")}
    assert found["plain"]["embedding"][:] == found["stream"]["embedding"][:] == found["workers"]["embedding"][:]
    assert np.allclose(np.linalg.norm(np.array(found["normal"]["v"][:], dtype=np.float32), axis=1), 1, atol=1e-3)
    first = np.array(found["tokens"]["embedding"][0], dtype=np.float32)
    assert first.shape[1] == 16 and np.allclose(first.mean(0), found["plain"]["embedding"][0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output-column", "text"), "`column` and `output_column` are both 'text'"),
        (
            ("--output", "x.jsonl"),
            "is named as a .jsonl file, which `embed` does not write.",
        ),
        (("--ray", "auto"), "`--ray` needs a model that every node can read; save the fresh one and give `--model`"),
    ],
)
def test_messages(run, tmp_path, options, message):
    result = run(*(() if "--output" in options else ("--output", tmp_path / "out")), *options)
    assert result.exit_code == 1 and message in result.stderr


@pytest.mark.parametrize("options", [(), ("--streaming",), ("--num-proc", 2)], ids=["threads", "stream", "processes"])
def test_what_is_missing_blank_or_cut_is_told(run, tmp_path, options):
    rows = [{"text": text} for text in ("A bell.", None, "", "tide " * 70, None)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["embed", source, "--config", tmp_path / "small.json", "--output", tmp_path / "out", *options]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    assert "\nOf 5 texts 2 missing (null) and 1 blank: their vectors are zero.\n" in result.stdout
    assert "\nOf 5 texts 1 cut at 64 tokens; overflow 'windows' takes all of a text.\n" in result.stdout
    assert "The tables are random: their vectors mean nothing before training." in result.stderr
    assert "from random, untrained tables (seed 0)." in result.stdout


def test_blank_lines_of_a_text_file_are_told(run, tmp_path):
    source = tmp_path / "lines.txt"
    source.write_text("A bell.\n\nThe tide.\n\n\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["embed", str(source), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "\nOf 5 texts 3 blank: their vectors are zero.\n" in result.stdout
    assert "random" not in result.output


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("a/b/c", "hf_abc", "Repo id must be in the form"),
        ("me/vectors", "", "There is no access token."),
        ("me/vectors", "hf_abc", "Unset HF_HUB_OFFLINE to publish."),
    ],
    ids=["name", "token", "reach"],
)
def test_what_cannot_be_published_is_refused_before_the_work(run, tmp_path, monkeypatch, name, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    result = run("--output", tmp_path / "out", "--push-to-hub", name)
    assert result.exit_code == 1 and message in result.stderr, result.output
    assert "random" not in result.stderr and {path.name for path in tmp_path.iterdir()} == {"small.json"}


def test_shards_of_another_job_are_not_mixed_in(run, tmp_path):
    with AtomicOutput(tmp_path / "out", "embed", {"dtype": "float16"}) as out:
        out.result.mkdir()
        (out.result / "data-00000.arrow").write_bytes(b"")
    result = run("--output", tmp_path / "out")
    assert result.exit_code == 1 and "`dtype` is 'float32' and was 'float16'" in result.stderr
    assert run("--output", tmp_path / "out", "--no-resume").exit_code == 0
