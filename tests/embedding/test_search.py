"""Search: the rows that one matrix product over everything finds, by the model that made them and by no other."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from command import refuse, run
from datasets import Dataset, DatasetDict
from tiny import new_model

from gpt_embeddings import Embedder, embed_dataset, save_folder
from gpt_embeddings.embedding import search as module
from gpt_embeddings.embedding.search import Hit, open_embedder, search


TEXTS = [f"row {i % 97} of {i * 31 % 400} tides and {i * 7 % 53} ships" for i in range(500)] + ["", None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, gpt2_tokenizer):
    """A saved model."""
    place = tmp_path_factory.mktemp("models") / "tides"
    save_folder(place, new_model(n_embd=24, n_positions=64), gpt2_tokenizer)
    return place


@pytest.fixture(scope="module")
def embedder(folder):
    return Embedder.from_pretrained(folder)


@pytest.fixture(scope="module")
def embed_to(folder, embedder):
    """Embed some rows to a place."""
    dataset = Dataset.from_dict({"text": TEXTS, "id": list(range(len(TEXTS)))})

    def embed(place, start=None, stop=None, **options):
        rows = dataset.select(range(len(TEXTS))[start:stop])
        options |= {"output": place, "model_name": str(folder)}
        embed_dataset(rows, embedder.model, embedder.tokenizer, **options)
        return place

    return embed


@pytest.fixture(scope="module")
def place(tmp_path_factory, embed_to):
    return embed_to(tmp_path_factory.mktemp("embedded") / "folder")


def expected(embedder, query, k, dim=24):
    """The scores of all rows, and the rows with the k largest."""
    vectors, wanted = embedder.encode(TEXTS)[:, :dim], embedder.encode(query)[:dim]
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted)
    scores = np.divide(vectors @ wanted, lengths, out=np.full(len(vectors), -np.inf, np.float32), where=lengths > 0)
    return scores, np.argsort(-scores, kind="stable")[:k]


@pytest.mark.parametrize("name", ["folder", "file.parquet", "several"])
def test_the_nearest_rows(place, tmp_path, name, embed_to, embedder, monkeypatch):
    if name == "file.parquet":
        place = embed_to(tmp_path / name)
        monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    elif name == "several":  # new rows in a file beside the old ones
        embed_to(tmp_path / "2026-11-29.parquet", stop=300)
        embed_to(tmp_path / "2026-11-30.parquet", start=300)
        place = tmp_path
    queries = ["where are the ships?", "tides of row 12"]
    given = None if name == "several" else embedder
    for query, hits in zip(queries, search(place, queries, embedder=given, k=20), strict=True):
        scores, rows = expected(embedder, query, 20)
        np.testing.assert_allclose([hit.score for hit in hits], scores[rows], atol=1e-5)
        assert [hit.row for hit in hits] == rows.tolist()
        assert all(hit.values == {"text": TEXTS[hit.row], "id": hit.row} for hit in hits)


def test_a_dataset_and_its_embedder(embedder):
    dataset = embed_dataset(Dataset.from_dict({"text": ["sea", "land"]}), embedder.model, embedder.tokenizer)
    (hits,) = search(dataset, ["land"], embedder=embedder, k=1)
    assert isinstance(hits[0], Hit) and hits[0].row == 1
    with pytest.raises(ValueError, match="needs an `embedder`"):
        search(dataset, ["land"])


class TestStorage:
    @pytest.mark.parametrize(
        ("dtype", "dim", "tolerance"), [("float16", 16, 2e-3), ("int8", None, 0.02), ("binary", None, 1e-5)]
    )
    def test_every_dtype_that_is_written_can_be_searched(self, tmp_path, embedder, embed_to, dtype, dim, tolerance):
        embed_to(tmp_path / "out.parquet", dtype=dtype, truncate_dim=dim)
        scores, _ = expected(embedder, "tides of row 12", 0, dim)
        if dtype == "binary":
            wanted = embedder.encode("tides of row 12")
            scores = np.where(embedder.encode(TEXTS) > 0, 1, -1) @ wanted / np.linalg.norm(wanted) / 24**0.5
        for given in (None, embedder):
            hits = search(tmp_path / "out.parquet", ["tides of row 12"], embedder=given, k=10_000)[0]
            assert len(hits) == 500, "rows without a token have no direction"
            np.testing.assert_allclose([hit.score for hit in hits], scores[[hit.row for hit in hits]], atol=tolerance)

    def test_blank_texts_are_never_found(self, embedder):
        texts = [" ", "\n\n", "  \t", " the", "", None]
        for dtype in ("float32", "binary"):
            own = embedder.with_options(dtype=dtype)
            embedded = embed_dataset(texts, own.model, own.tokenizer, dtype=dtype)
            hits = search(embedded, ["the"], embedder=own, k=1)[0]
            assert [hit.row for hit in hits] == [3]
            assert len(search(embedded, ["the"], embedder=own, k=9)[0]) == 1

    def test_files_that_another_program_has_written(self, tmp_path, embedder, folder, caplog):
        vectors = embedder.encode(TEXTS[:50])
        frame = pd.DataFrame({"text": TEXTS[:50], "embedding": list(vectors)})
        frame.to_parquet(tmp_path / "frame.parquet")
        with pytest.raises(ValueError, match=r"does not say which model its vectors are from.*`--model`"):
            search(tmp_path / "frame.parquet", ["tides"])
        hits = search(tmp_path / "frame.parquet", [TEXTS[7]], embedder=open_embedder(tmp_path, str(folder)), k=1)
        assert hits[0][0].row == 7 and len(caplog.messages) == 1
        assert "does not say which model its vectors are from. The given one is used" in caplog.messages[0]
        assert TEXTS[7] in run("search", tmp_path / "frame.parquet", TEXTS[7], "--model", folder, "-k", 1).stdout
        for vector, given, message in (
            (np.zeros(30), embedder, r"1 to 24 numbers .* widths of 30"),
            (np.zeros(2, np.int8), embedder.with_options(dtype="binary"), "a vector of 3 to 3 numbers .* widths of 2"),
            (np.zeros(24, np.int8), embedder, "of the dtype 'float32' stores"),
        ):
            frame["embedding"] = [vector] * 50
            frame.to_parquet(tmp_path / "other.parquet")
            with pytest.raises(ValueError, match=message):
                search(tmp_path / "other.parquet", ["tides"], embedder=given)

    def test_files_of_different_models_or_options(self, tmp_path, embedder):
        other = new_model(seed=1, n_embd=24, n_positions=64)
        for name, model, options in (
            ("models/a.parquet", embedder.model, {}),
            ("models/b.parquet", other, {}),
            ("options/a.parquet", embedder.model, {}),
            ("options/b.parquet", embedder.model, {"truncate_dim": 8}),
        ):
            embed_dataset(["sea"], model, embedder.tokenizer, output=tmp_path / name, **options)
        with pytest.raises(ValueError, match=r"a\.parquet' is from the model .* but .*b\.parquet' has the weights"):
            search(tmp_path / "models", ["sea"], embedder=embedder)
        with pytest.raises(ValueError, match=r"a\.parquet' and .*b\.parquet' were embedded with different options"):
            search(tmp_path / "options", ["sea"], embedder=embedder)


class TestBadInput:
    def test_another_model_or_one_that_is_gone(self, place, tmp_path, embedder):
        other = new_model(seed=1, n_embd=24, n_positions=64)
        with pytest.raises(ValueError, match=r"from the model '.*tides' with the weights \w{12}, but the embedder"):
            search(place, ["tides"], embedder=Embedder(other, embedder.tokenizer))
        embed_dataset(["sea"], other, embedder.tokenizer, output=tmp_path / "e", model_name="/nowhere/tides")
        with pytest.raises(OSError, match="No model at '/nowhere/tides'"):
            search(tmp_path / "e", ["sea"])
        embed_dataset(["sea"], other, embedder.tokenizer, output=tmp_path / "f")
        with pytest.raises(ValueError, match="a model that was not saved"):
            search(tmp_path / "f", ["sea"])

    def test_splits(self, tmp_path, embedder, folder):
        splits = DatasetDict({name: Dataset.from_dict({"text": ["sea"]}) for name in ("train", "test")})
        out = tmp_path / "splits"
        embed_dataset(splits, embedder.model, embedder.tokenizer, output=out, model_name=str(folder))
        with pytest.raises(ValueError, match="has the splits train, test; name one"):
            search(out, ["sea"])

    def test_questions(self, place, embedder):
        with pytest.raises(TypeError, match="must be a list of texts"):
            search(place, "tides", embedder=embedder)
        with pytest.raises(ValueError, match="zero vector: the query '' has no token"):
            search(place, [""], embedder=embedder)
        with pytest.raises(ValueError, match="`k` must be at least 1"):
            search(place, ["tides"], embedder=embedder, k=0)


@pytest.mark.slow
def test_the_command_shows_text_and_json(place, embedder):
    result = run("search", place, "where are the ships?", "-k", 2)
    scores, rows = expected(embedder, "where are the ships?", 2)
    assert re.search(rf"{scores[rows[0]]:.2f}\d* ", result.stdout) and TEXTS[rows[0]] in result.stdout
    result = run("search", place, "-", "--json", stdin="tides\n\nships\n")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["query"] for line in found] == ["tides", "ships"]
    assert len(found[0]["hits"]) == 5 and set(found[0]["hits"][0]) == {"row", "score", "text", "id"}
    refuse("Standard input holds no question", "search", place, "-")


@pytest.mark.slow
def test_the_commands_embed_and_search_with_the_bundled_table(tmp_path):
    (tmp_path / "notes.txt").write_text("Bread is baked at dawn.\nThe harbour was flooded by the storm.\n")
    run("embed", tmp_path / "notes.txt", "--output", tmp_path / "out")
    result = run("search", tmp_path / "out", "What did the bad weather do to the port?", "-k", 1)
    assert "The harbour was flooded" in result.stdout and "Bread" not in result.stdout
    refuse("There is no dataset", "search", tmp_path / "none", "tides")
