"""`gpt-embeddings windows`."""

import json

import pytest
from datasets import load_from_disk
from typer.testing import CliRunner
from windows_reference import reference, words

from gpt_embeddings_cli import app


pytestmark = pytest.mark.slow  # each starts a command


def run(*arguments):
    result = CliRunner().invoke(app, ["windows", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def files(tmp_path):
    documents = words(120)
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, part in zip(paths, (documents[:50], documents[50:]), strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    return documents, paths


def test_stores_windows(files, tmp_path):
    documents, paths = files
    output = tmp_path / "windows"
    code, text = run(*paths, "--output", output, "--max-length", 16, "--stride", 8, "--packing", "document")
    wanted = reference(documents, 16, 8, "document")
    assert code == 0 and f"{len(wanted)} windows of 16." in text
    stored = load_from_disk(str(output))
    assert list(zip(stored["input_ids"], stored["target_ids"], strict=True)) == wanted


def test_dry_run_counts(files, tmp_path):
    documents, paths = files
    code, text = run(*paths, "--dry-run", "--max-length", 16)
    n_documents = sum(bool(text) for text in documents)
    n_windows = len(reference(documents, 16, 16))
    assert code == 0 and f"{n_documents} documents, " in text and f", {n_windows} windows of 16." in text
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    code, text = run(*paths, "--dry-run", "--max-length", 2048, "--n-positions", 2048)  # for longer models
    assert code == 0 and "windows of 2048" in text


def test_a_mixture(files, tmp_path):
    documents, paths = files
    code, _ = run(*paths, "--output", tmp_path / "windows", "--max-length", 16, "--weight", 0.75, "--weight", 0.25)
    stored = load_from_disk(str(tmp_path / "windows"))
    first = [row for row in stored if row["source_ids"] == 0]
    assert code == 0 and abs(len(first) - 0.75 * len(stored)) <= 1
    wanted = reference(documents[:50], 16, 16)
    assert [(row["input_ids"], row["target_ids"]) for row in first] == wanted[: len(first)]


def test_errors_are_one_message(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["a.jsonl", "--dry-run", "--weight", "1", "--weight", "2"], "`--weight` is given 2 times for 1 inputs"),
        (["a.jsonl"], "Use `--output FOLDER` to write windows, or `--dry-run` to count them."),
        (["a.jsonl", "--output", "x", "--max-length", "2000"], "`max_length` is 2000, above the 1024 positions"),
        (["missing.jsonl", "--output", "x"], "The input 'missing.jsonl' does not exist."),
    ):
        code, text = run(*arguments)
        assert code == 1 and message in text and "Traceback" not in text
        assert not (tmp_path / "x").exists()
