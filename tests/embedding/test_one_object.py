"""`Embedder` as one object: encode, compare, quantize, save, load, publish, a step of a pipeline."""

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from sentence_transformers import quantize_embeddings
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted
from transformers import AutoModel

from gpt_embeddings import Embedder, GPTEmbeddingsConfig, GPTEmbeddingsModel, embed_dataset
from gpt_embeddings.checkpoints.int8_rows import save_int8
from gpt_embeddings.embedding import embedder as embedder_module
from gpt_embeddings.embedding.embedder import CHECK_SECONDS
from gpt_embeddings.embedding.quantized_table import quantize_table


TEXTS = ["The tide clerk counts.", "Lamp oil", "The lamp went out.", "é漢字", " ".join(["wave"] * 40)]


EDITS = {  # of a table, by ways that torch does not count, for the most part
    "mul_": lambda table: table.data.mul_(2),
    "two signs": lambda table: table.data[:, 1:4:2].neg_(),  # which changes the highest bits alone
    "numpy": lambda table: table.detach().numpy().__setitem__(slice(None), 0),
    "one entry": lambda table: table.data[464, 3].add_(0.5),  # "The"
    "no_grad": lambda table: torch.no_grad()(table.mul_)(3),
}


def new_model(seed=0, **fields):
    torch.manual_seed(seed)
    return GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=16, n_positions=32, **fields)).eval()


@pytest.fixture(scope="module")
def embedder(gpt2_tokenizer):
    return Embedder(new_model(), gpt2_tokenizer)


@pytest.fixture(scope="module")
def expected(embedder, gpt2_tokenizer):
    """By the model's forward, a text at a time."""
    with torch.no_grad():
        ids = [torch.tensor([gpt2_tokenizer(text).input_ids[:32]]) for text in TEXTS]
        return np.concatenate([embedder.model(row).pooler_output.numpy() for row in ids])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


class TestEncode:
    def test_a_list_and_a_text(self, embedder, expected):
        close(embedder.encode(TEXTS), expected)
        assert embedder.encode(TEXTS[0]).shape == (16,)
        close(embedder.encode(TEXTS[0]), expected[0])
        assert embedder.encode([]).shape == (0, 16)

    @pytest.mark.parametrize(
        "make", [tuple, np.array, pd.Series, lambda texts: pa.chunked_array([texts[:2], texts[2:]]), iter]
    )
    def test_columns(self, embedder, expected, make):
        close(embedder.encode(make(TEXTS)), expected)

    @pytest.mark.parametrize("make", [list, pa.array, lambda texts: pd.Series(texts).replace({None: np.nan})])
    def test_a_missing_text_is_a_zero_vector(self, embedder, expected, make):
        found = embedder.encode(make([TEXTS[0], None, TEXTS[1]]))
        close(found, [expected[0], np.zeros(16), expected[1]])

    @pytest.mark.parametrize("given", [3, b"text", {"text": ["a"]}])
    def test_other_things_are_refused(self, embedder, given):
        with pytest.raises(TypeError, match="`texts` must be a string or a list of strings, got"):
            embedder.encode(given)

    def test_long_lists_have_a_bar(self, embedder, expected, monkeypatch, capfd):
        monkeypatch.setattr(embedder_module, "BLOCK_TEXTS", 2)
        monkeypatch.setattr("gpt_embeddings.progress.LINE_SECONDS", 0)  # there is no terminal here
        close(embedder.encode(TEXTS), expected)
        assert "Embedding" not in capfd.readouterr().err
        close(embedder.encode(TEXTS, show_progress_bar=True), expected)
        assert "3/3" in capfd.readouterr().err
        monkeypatch.setattr(embedder_module, "LONG_LIST", 5)
        close(embedder.encode(TEXTS), expected)
        assert "3/3" in capfd.readouterr().err
        with pytest.raises(TypeError, match=r"Text 5 must be a string, got int"):
            embedder.encode([*TEXTS, 7])


class TestVectors:
    def test_fewer_dimensions(self, embedder, expected, gpt2_tokenizer):
        model = embedder.model
        short = Embedder(model, gpt2_tokenizer, truncate_dim=5)
        close(short.encode(TEXTS), expected[:, :5])
        unit = Embedder(model, gpt2_tokenizer, truncate_dim=5, normalize=True).encode(TEXTS)
        np.testing.assert_allclose(
            unit, expected[:, :5] / np.linalg.norm(expected[:, :5], axis=1, keepdims=True), rtol=1e-6
        )
        embedded = Dataset.from_dict({"text": TEXTS}).map(short, batched=True)
        assert embedded.features["embedding"].length == 5
        close(np.stack(embedded.with_format("numpy")["embedding"]), expected[:, :5])
        assert short.digest != Embedder(model, gpt2_tokenizer).digest
        assert Embedder(model, gpt2_tokenizer, truncate_dim=np.int64(5)).options == short.options

    @pytest.mark.parametrize("dtype", ["int8", "binary"])
    def test_as_sentence_transformers_quantizes(self, embedder, expected, gpt2_tokenizer, dtype, tmp_path):
        ranges = np.stack([expected.min(0), expected.max(0)])
        theirs = quantize_embeddings(embedder.encode(TEXTS), precision=dtype, ranges=ranges)
        ours = Embedder(embedder.model, gpt2_tokenizer, dtype=dtype, ranges=ranges)
        found = ours.encode(TEXTS)
        assert found.dtype == theirs.dtype == np.int8 and found.shape == theirs.shape == (5, ours.width)
        np.testing.assert_allclose(found.astype(int), theirs, atol=dtype == "int8")  # rounding of float32 ranges
        dataset = Dataset.from_dict({"text": [*TEXTS, None]})
        options = {"dtype": dtype, "ranges": ranges}
        for embedded in (
            dataset.map(ours, batched=True),
            embed_dataset(dataset, embedder.model, gpt2_tokenizer, output=tmp_path / "out", **options),
        ):
            assert embedded.features["embedding"] == ours.feature
            np.testing.assert_array_equal(np.stack(embedded.with_format("numpy")["embedding"])[:5], found)

    def test_ranges_are_found_on_texts(self, embedder, expected, gpt2_tokenizer):
        ours = Embedder(embedder.model, gpt2_tokenizer, dtype="int8")
        with pytest.raises(ValueError, match="calibrate"):
            ours.encode(TEXTS)
        before = ours.digest
        assert ours.calibrate(TEXTS) is ours and ours.digest != before
        close(ours.ranges, [expected.min(0), expected.max(0)])
        found = ours.encode([*TEXTS, "far outside of all that"])
        assert found[:5].min() == -128 and found[:5].max() in (126, 127)
        for wrong in (np.zeros((2, 16)), np.ones((2, 3)), [[0] * 16, [np.nan] * 16]):
            with pytest.raises(ValueError, match=r"`ranges` must be .* of shape \(2, 16\)"):
                Embedder(embedder.model, gpt2_tokenizer, dtype="int8", ranges=wrong)

    def test_similarity(self, embedder, expected):
        unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(embedder.similarity(TEXTS, TEXTS[1:]), unit @ unit[1:].T, atol=1e-6)
        one = embedder.similarity(TEXTS[0], TEXTS[1])
        assert type(one) is float and one == pytest.approx(unit[0] @ unit[1], abs=1e-6)
        np.testing.assert_allclose(embedder.similarity(TEXTS[0], embedder.encode(TEXTS)), unit[0] @ unit.T, atol=1e-6)
        assert embedder.similarity("", TEXTS[0]) == 0

    def test_similarity_of_quantized_vectors(self, embedder, expected, gpt2_tokenizer):
        unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        int8 = Embedder(embedder.model, gpt2_tokenizer, dtype="int8").calibrate(TEXTS)
        vectors = int8.encode(TEXTS)
        np.testing.assert_allclose(int8.similarity(vectors, vectors), unit @ unit.T, atol=0.03)
        binary = Embedder(embedder.model, gpt2_tokenizer, dtype="binary")
        vectors = binary.encode(TEXTS)
        agreeing = (expected[:, None] > 0) == (expected > 0)  # 1 - 2 * Hamming distance / dimensions
        np.testing.assert_allclose(binary.similarity(vectors, vectors), 2 * agreeing.mean(-1) - 1, atol=1e-6)
        assert binary.similarity(vectors[0], vectors[0]) == pytest.approx(1)
        for ours, given in ((int8, int8.encode(TEXTS)), (binary, vectors), (embedder, expected)):
            cosines = ours.similarity(given, given)
            for same in (torch.tensor(given), given.tolist(), tuple(given), list(torch.tensor(given))):
                np.testing.assert_array_equal(ours.similarity(same, given), cosines)
            assert ours.similarity(given[0].tolist(), given[1]) == pytest.approx(cosines[0, 1], abs=1e-6)
        np.testing.assert_allclose(
            embedder.similarity(torch.tensor(expected).bfloat16(), expected).diagonal(), 1, atol=1e-4
        )
        np.testing.assert_array_equal(
            embedder.similarity(np.array(TEXTS, object), [None, *TEXTS[1:]])[:, 1:],
            embedder.similarity(TEXTS, TEXTS[1:]),
        )

    @pytest.mark.parametrize(
        "vectors, found",
        [
            (np.zeros((5, 3), np.int8), r"int8, of shape \(5, 3\)"),
            (np.array(0.5), r"float64, of shape \(\)"),
            (np.zeros((5, 2), np.uint8), r"uint8, of shape \(5, 2\)"),
            (torch.zeros(5, 3), r"float32, of shape \(5, 3\)"),
            ([1000] * 16, r"int64, of shape \(16,\)"),
        ],
    )
    def test_similarity_of_other_vectors(self, embedder, gpt2_tokenizer, vectors, found):
        ranges = np.stack([-np.ones(16), np.ones(16)])
        for dtype, expected in (
            ("float32", "float of width 16"),
            ("int8", "float of width 16 or int8 of width 16"),
            ("binary", "float of width 16 or int8 of width 2"),
        ):
            ours = Embedder(embedder.model, gpt2_tokenizer, dtype=dtype, ranges=ranges)
            with pytest.raises(
                ValueError, match=f"vectors of {found}. The dtype of .* is '{dtype}': .* of {expected}."
            ):
                ours.similarity(TEXTS, vectors)


class TestPooling:
    def test_the_models_own_is_the_default(self, gpt2_tokenizer, tmp_path):
        model = new_model()
        model.set_token_weights(torch.rand(50257))
        with torch.no_grad():
            ids = [torch.tensor([gpt2_tokenizer(text).input_ids[:32]]) for text in TEXTS]
            expected = np.concatenate([model(row).pooler_output.numpy() for row in ids])
        embedder = Embedder(model, gpt2_tokenizer)
        assert embedder.pooling == "weighted"
        close(embedder.encode(TEXTS), expected)
        embedder.save_pretrained(tmp_path)
        close(Embedder.from_pretrained(tmp_path).encode(TEXTS), expected)
        plain = Embedder(model, gpt2_tokenizer, pooling="mean").encode(TEXTS)
        assert np.abs(plain - expected).max() > 1e-3


class TestTables:
    @pytest.fixture
    def stored(self, tmp_path):
        save_int8(new_model(), tmp_path)
        return AutoModel.from_pretrained(tmp_path)

    @pytest.mark.parametrize("pooling", ["mean", "weighted"])
    @pytest.mark.parametrize("overflow", ["truncate", "windows"])
    def test_int8_rows_are_summed_as_they_are_stored(self, stored, gpt2_tokenizer, pooling, overflow):
        stored.token_weights = torch.rand(50257, generator=torch.Generator().manual_seed(0))
        options = {"pooling": pooling, "overflow": overflow}
        embedder = Embedder(stored, gpt2_tokenizer, **options)
        found = embedder.encode([*TEXTS, ""])
        assert embedder.weights_error < 1e-6
        plain = Embedder(stored, gpt2_tokenizer, weights="float32", **options)
        np.testing.assert_allclose(found, plain.encode([*TEXTS, ""]), rtol=0, atol=2e-7)
        assert plain.weights_error == 0
        with torch.no_grad():
            stored.wte.weight[:] += 0.001 * torch.randn(50257, 16)  # training goes on, in floats
        assert embedder.weights_error == 0
        np.testing.assert_array_equal(embedder.encode(TEXTS), plain.encode(TEXTS))

    @pytest.mark.parametrize(
        ("edit", "weights", "many"),
        [
            *((edit, None, many) for edit in EDITS for many in (False, True)),
            ("one entry", "float16", False),
        ],
    )
    def test_every_change_of_the_table_is_seen(self, stored, gpt2_tokenizer, edit, weights, many):
        """Also changes that torch does not count; every embedder of the model sees them."""
        texts = TEXTS * 20 if many else TEXTS
        embedder = Embedder(stored, gpt2_tokenizer, weights=weights)
        before = embedder.encode(texts)
        EDITS[edit](stored.wte.weight)
        fresh = new_model()
        fresh.load_state_dict(stored.state_dict())
        expected = Embedder(fresh, gpt2_tokenizer, weights=weights).encode(texts)
        np.testing.assert_array_equal(embedder.encode(texts), expected)
        assert np.abs(before - expected).max() > 1e-4
        for again in (embedder, Embedder(stored, gpt2_tokenizer, weights=weights)):
            time.sleep(CHECK_SECONDS)  # batches that follow each other faster compare a sample
            column = again(pa.table({"text": texts}))["embedding"].combine_chunks().flatten()
            np.testing.assert_array_equal(column.to_numpy().reshape(-1, 16), expected)

    @pytest.mark.parametrize("dtype, least, most", [("float16", 1e-4, 1e-3), ("int8", 1e-3, 0.0040)])
    def test_on_request_and_with_the_error_stated(self, embedder, expected, gpt2_tokenizer, dtype, least, most):
        assert embedder.weights_error == 0  # never silently
        other = Embedder(embedder.model, gpt2_tokenizer, weights=dtype)
        assert least < other.weights_error < most
        largest = embedder.model.wte.weight.abs().max().item()
        assert 0 < np.abs(other.encode(TEXTS) - expected).max() <= 2 * other.weights_error * largest
        assert other.digest != embedder.digest
        with pytest.raises(
            ValueError, match="`weights` must be one of None, 'float32', 'float16', 'int8', got 'int4'"
        ):
            Embedder(embedder.model, gpt2_tokenizer, weights="int4")

    def test_tables_that_cannot_be_quantized(self):
        with pytest.raises(ValueError, match="needs a model on the CPU, but its table is on meta"):
            quantize_table(torch.empty(3, 4, device="meta"), "int8")
        with pytest.raises(ValueError, match="values that float16 cannot hold"):
            quantize_table(torch.full((3, 4), 1e6), "float16")
        for table in (torch.zeros(3, 4), torch.full((3, 4), torch.nan), torch.randn(3, 4)):
            assert quantize_table(table, None) is None

    def test_half_precision_is_summed_as_stored(self, embedder, expected, gpt2_tokenizer):
        half = new_model().half()
        found = Embedder(half, gpt2_tokenizer).encode(TEXTS)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_step_of_a_pipeline(embedder):
    labels = [0, 1, 1, 0, 0]
    steps = make_pipeline(embedder, LogisticRegression(C=1e6))
    found = steps.fit(TEXTS, labels)
    assert list(found.predict(TEXTS)) == labels
    assert clone(steps).fit(pd.Series(TEXTS), labels).score(TEXTS, labels) == 1
    assert clone(embedder).model is embedder.model
    check_is_fitted(make_pipeline(embedder))  # as libraries do that take any transformer


def test_saved_and_loaded(embedder, expected, gpt2_tokenizer, tmp_path):
    embedder.save_pretrained(tmp_path / "new" / "folder")
    again = Embedder.from_pretrained(tmp_path / "new" / "folder", normalize=True, truncate_dim=4)
    close(Embedder(again.model, again.tokenizer).encode(TEXTS), expected)
    assert again.normalize and again.encode("tide").shape == (4,)
    with pytest.raises(OSError, match="No model at"):
        Embedder.from_pretrained(tmp_path / "none")
