"""The command line as a user runs it: `gpt-embeddings embed`, in this process where nothing else is needed."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import STORY, refuse, run
from datasets import load_from_disk
from tiny import new_model

from gpt_embeddings import encode_flat
from modeling_gpt_embeddings import GPTEmbeddingsModel


pytestmark = pytest.mark.slow  # each starts a command


TEXTS = ["The tide clerk", "", "wrote down what the sea did.", "Olá, maré! 🌊", "<|endoftext|> is text here"]


@pytest.fixture
def model(saved) -> Path:
    return saved / "before"


def test_csv(model, gpt2_tokenizer, tmp_path):
    """The other formats: tests/text/test_sources.py."""
    pa.table({"text": TEXTS}).to_pandas().to_csv(tmp_path / "corpus.csv", index=False)
    output = tmp_path / "new" / "vectors.parquet"
    result = run("embed", tmp_path / "corpus.csv", "--output", output, "--model", model)
    assert str(output) in result.output.replace("\n", "")
    table = pq.read_table(output)
    assert [text or "" for text in table["text"].to_pylist()] == TEXTS  # CSV has no empty string but null
    column = table["embedding"].combine_chunks()
    assert column.type == pa.list_(pa.float32(), 16)
    vectors = column.flatten().to_numpy().reshape(-1, 16)
    expected = GPTEmbeddingsModel.from_pretrained(model).embed_bags(*encode_flat(TEXTS, gpt2_tokenizer))
    np.testing.assert_array_equal(vectors, expected.detach())
    assert not vectors[1].any()


def test_columns_that_cannot_be_kept_are_left_out_on_request(model, tmp_path):
    table = pa.table([pa.array(TEXTS), pa.array([[("a", 1)]] * 5, pa.map_(pa.string(), pa.int64()))], ["text", "tags"])
    pq.write_table(table, tmp_path / "map.parquet")
    arguments = ("embed", tmp_path / "map.parquet", "--output", tmp_path / "out", "--model", model)
    said = refuse("map.parquet", *arguments)
    assert "'tags'" in said and "--texts-only" in said
    run(*arguments, "--texts-only")
    assert load_from_disk(str(tmp_path / "out")).column_names == ["text", "embedding"]


def test_overwrite(tmp_path):
    arguments = ("embed", STORY, "--output", tmp_path / "out")
    assert "from gpt-embeddings-english" in run(*arguments).stdout  # the default
    refuse("exists; choose another, delete it, or give --overwrite", *arguments)
    run(*arguments, "--overwrite")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}  # nothing is left behind


def test_overwrite_spares_inputs_and_other_folders(model, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "in.txt").write_text("a tide\n")
    (folder / "in").write_text("a tide\n")
    for source, output, message in (
        (folder / "in.txt", folder, "holds, the input"),
        (STORY, folder, "is not what `embed` writes"),
        (STORY, folder / "in", "is not what `embed` writes"),
    ):
        refuse(message, "embed", source, "--output", output, "--model", model, "--overwrite")
    assert sorted(path.name for path in folder.iterdir()) == ["in", "in.txt"]


def test_messages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ok.csv").write_text("text\nx\n")
    new_model(vocab_size=100).save_pretrained("tiny")
    for name, content, options, message in (
        ("empty.txt", b"", (), "is empty"),
        ("latin.txt", b"caf\xe9\n", (), "latin.txt could not be read: line 1 is not valid UTF-8"),
        ("lines.txt", b"x\n", ("--column", "body"), "lines.txt: There is no column 'body'; the columns are text"),
        ("ok.txt", b"x\n", ("--output", " "), "has a blank name"),
        ("ok.txt", b"x\n", ("ok.csv",), "mix the formats .csv, .txt"),
        ("ok.txt", b"x\n", ("--model", "tiny"), "has 50257 entries, more than the model's `vocab_size` 100"),
        ("ok.txt", b"x\n", ("--tokenizer", "no/such-tokenizer"), "No tokenizer at 'no/such-tokenizer'"),
        ("ok.txt", b"x\n", ("--streaming", "--num-proc", "2"), "`num_proc` does not work on a stream"),
    ):
        (tmp_path / name).write_bytes(content)
        refuse(message, "embed", tmp_path / name, "--output", tmp_path / "out", *options)
        assert not (tmp_path / "out").exists()


def test_every_option_reaches_the_vectors(model, tmp_path):
    for name, options in (
        ("plain", ()),
        ("stream", ("--streaming",)),
        ("normal", ("--normalize", "--overflow", "windows", "--dtype", "float16", "--output-column", "v")),
        ("tokens", ("--pooling", "none")),
    ):
        arguments = ("--sample-by", "paragraph", "--model", model, "--output", tmp_path / name)
        result = run("embed", STORY, *arguments, *options)
        assert "30 rows x 16 numbers" in result.stdout
        assert "2,032 tokens and 8.8 kB of text in " in result.stdout and "tokens/s" not in result.stdout
    plain, stream, normal, tokens = (
        load_from_disk(tmp_path / name) for name in ("plain", "stream", "normal", "tokens")
    )
    assert plain["embedding"][:] == stream["embedding"][:]
    assert np.allclose(np.linalg.norm(np.array(normal["v"][:], dtype=np.float32), axis=1), 1, atol=1e-3)
    first = np.array(tokens["embedding"][0], dtype=np.float32)
    assert first.shape[1] == 16 and np.allclose(first.mean(0), plain["embedding"][0], atol=1e-6)


def test_what_is_missing_blank_or_cut_is_told(model, tmp_path):
    rows = [{"text": text} for text in ("A bell.", None, "", "tide " * 70, None)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = run("embed", source, "--model", model, "--output", tmp_path / "out")
    assert "\nOf 5 texts 2 missing (null) and 1 blank: the vectors of missing and empty" in result.stdout
    assert "\nOf 5 texts 1 truncated at 64 tokens; overflow 'windows' keeps all tokens.\n" in result.stdout
    assert f"5 rows x 16 numbers, from {model}." in result.stdout


def test_what_cannot_be_published_is_refused_before_the_work(model, tmp_path, monkeypatch):
    for name, token, message in (
        ("a/b/c", "hf_abc", "Repo id must be in the form"),
        ("me/vectors", "", "There is no access token."),
        ("me/vectors", "hf_abc", "offline mode is enabled"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        refuse(message, "embed", STORY, "--model", model, "--output", tmp_path / "out", "--push-to-hub", name)
        assert not list(tmp_path.iterdir())


def test_as_a_program():
    """The console script; the rest of the program: tests/cli/test_front_door.py."""
    program = Path(sys.executable).parent / "gpt-embeddings"
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, version("gpt-embeddings")), done.stderr
