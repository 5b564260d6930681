"""`gpt-embeddings windows`."""

import json

import pytest
from command import refuse, run
from datasets import load_from_disk
from windows_reference import reference, words


pytestmark = pytest.mark.slow  # each starts a command


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
    options = ["--output", output, "--max-length", 16, "--stride", 8, "--packing", "document"]
    wanted = reference(documents, 16, 8, "document")
    assert f"{len(wanted)} windows of 16." in run("windows", *paths, *options).output
    stored = load_from_disk(str(output))
    assert list(zip(stored["input_ids"], stored["target_ids"], strict=True)) == wanted


def test_dry_run_counts(files, tmp_path):
    documents, paths = files
    n_documents, n_windows = sum(map(bool, documents)), len(reference(documents, 16, 16))
    said = run("windows", *paths, "--dry-run", "--max-length", 16).output
    assert f"{n_documents} documents, " in said and f", {n_windows} windows of 16." in said
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    said = run("windows", *paths, "--dry-run", "--max-length", 2048, "--n-positions", 2048).output  # for longer models
    assert "windows of 2048" in said


def test_a_mixture(files, tmp_path):
    documents, paths = files
    weights = ["--weight", 0.75, "--weight", 0.25]
    run("windows", *paths, "--output", tmp_path / "windows", "--max-length", 16, *weights)
    stored = load_from_disk(str(tmp_path / "windows"))
    first = [row for row in stored if row["source_ids"] == 0]
    assert abs(len(first) - 0.75 * len(stored)) <= 1
    wanted = reference(documents[:50], 16, 16)
    assert [(row["input_ids"], row["target_ids"]) for row in first] == wanted[: len(first)]


def test_errors_are_one_message(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for message, *arguments in (
        ("`--weight` is given 2 times for 1 inputs", "a.jsonl", "--dry-run", "--weight", 1, "--weight", 2),
        ("Use `--output FOLDER` to write windows, or `--dry-run` to count them.", "a.jsonl"),
        ("`max_length` is 2000, above the 1024 positions", "a.jsonl", "--output", "x", "--max-length", 2000),
        ("The input 'missing.jsonl' does not exist.", "missing.jsonl", "--output", "x"),
    ):
        refuse(message, "windows", *arguments)
        assert not (tmp_path / "x").exists()
