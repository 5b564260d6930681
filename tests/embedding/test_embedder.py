"""`Embedder`: its vectors against the model's forward, in every kind of `map()`, process and pickle; as one object."""

import functools
import gc
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time

import accelerate
import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiny
import torch
from datasets import Dataset, DatasetDict, IterableDataset, Value
from sentence_transformers import quantize_embeddings
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted
from transformers import AutoModel, GPT2Config, GPT2Model

from gpt_embeddings import Embedder, GPTEmbeddingsModel, embed_dataset, load_tokenizer
from gpt_embeddings.checkpoints.saving import save_int8
from gpt_embeddings.embedding import embedder as embedder_module
from gpt_embeddings.embedding import weights as weights_module
from gpt_embeddings.embedding.weights import CHECK_SECONDS, quantize_table
from gpt_embeddings.threads import n_cores


new_model = functools.partial(tiny.new_model, n_embd=16, n_positions=32)
TEXTS = ["The tide clerk counts.", "", None, "Lamp oil", "a<|endoftext|>b", " ".join(["wave"] * 40), "é\0漢字"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture(scope="module")
def embedder(model, tokenizer):
    return Embedder(model, tokenizer)


@functools.cache
def references(model, tokenizer):
    """GPT-2 with the model's tables, and `tokenizers` with special tokens that are spelled out as plain text."""
    config = GPT2Config(vocab_size=model.config.vocab_size, n_positions=32, n_embd=16, n_layer=1, n_head=1)
    gpt2 = GPT2Model(config).eval()
    gpt2.wte.weight, gpt2.wpe.weight = model.wte.weight, model.wpe.weight
    backend = pickle.loads(pickle.dumps(tokenizer.backend_tokenizer))
    backend.encode_special_tokens = True
    return gpt2, backend


def expected(embedder, texts=TEXTS, pooling="mean", normalize=False, overflow="truncate"):
    """By GPT-2's own code: its embedding sums, text by text and window by window."""
    gpt2, backend = references(embedder.model, embedder.tokenizer)
    result = []
    for text in texts:
        ids = backend.encode(text or "", add_special_tokens=False).ids
        windows = [ids[i : i + 32] for i in range(0, len(ids), 32)][: 1 if overflow == "truncate" else None]
        with torch.no_grad():
            states = [gpt2(torch.tensor([ids]), output_hidden_states=True).hidden_states[0][0] for ids in windows]
        rows = torch.cat([torch.zeros(0, 16), *states]).numpy()
        if pooling != "none":
            rows = rows if len(rows) else np.zeros((1, 16), dtype=np.float32)
            rows = rows.mean(0) if pooling == "mean" else rows[-1]
        if normalize:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        result.append(rows)
    return result


@pytest.mark.parametrize("overflow", ["truncate", "windows"])
@pytest.mark.parametrize("normalize", [False, True], ids=["as-is", "normalized"])
@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
def test_vectors_are_those_of_gpt2(embedder, pooling, normalize, overflow):
    options = {"pooling": pooling, "normalize": normalize, "overflow": overflow}
    wanted, embedder = expected(embedder, **options), embedder.with_options(**options)
    mapped = Dataset.from_dict({"text": TEXTS}).map(embedder, batched=True, batch_size=3)
    assert mapped.features["embedding"] == embedder.feature
    for found, vectors in zip(mapped["embedding"], wanted, strict=True):
        assert np.allclose(np.array(found, dtype=np.float32).reshape(vectors.shape), vectors, atol=1e-6)
    flat = embedder.encode([text or "" for text in TEXTS])
    assert np.allclose(flat, np.concatenate([np.atleast_2d(vectors) for vectors in wanted]), atol=1e-6)


def test_the_batch_does_not_matter(embedder):
    texts = [" ".join(["tide"] * (i % 50)) for i in range(100)]
    assert np.array_equal(embedder.encode(texts), np.concatenate([embedder.encode([text]) for text in texts]))


@pytest.mark.parametrize(
    "fields",
    [
        {"token_scale": 3.0},
        {"position_offset": 2},
        {"word_embed_proj_dim": 8},
        {"position_embedding_type": "none"},
        {"position_embedding_type": "sinusoidal", "sinusoid_type": "ctrl"},
    ],
    ids=str,
)
@pytest.mark.parametrize("pooling", ["weighted", "last", "none"])
def test_fields_of_other_families(tokenizer, fields, pooling):
    model, texts = new_model(**fields), ["The tide clerk counts.", "Lamp oil"]
    model.set_token_weights(torch.rand(model.config.vocab_size))
    model.train()  # dropout has no part in it
    found = torch.from_numpy(Embedder(model, tokenizer, pooling=pooling).encode(texts))
    model.eval()
    with torch.no_grad():
        outputs = [model(torch.tensor([tokenizer(text).input_ids])) for text in texts]
    states = [output.last_hidden_state[0] for output in outputs]
    wanted = {
        "weighted": [output.pooler_output for output in outputs],
        "last": [rows[-1:] for rows in states],
        "none": states,
    }
    torch.testing.assert_close(found, torch.cat(wanted[pooling]), rtol=1e-5, atol=1e-6)


def test_the_digest_follows_every_change(tokenizer):
    """Also those that torch does not count: through `.data` and numpy; and that of any field or option."""
    model = new_model(n_embd=4)
    embedder = Embedder(model, tokenizer)
    first = embedder.digest
    assert datasets.fingerprint.Hasher.hash(embedder) == datasets.fingerprint.Hasher.hash(Embedder(model, tokenizer))
    rows = model.wpe.weight.detach().numpy()
    before, table = rows[3].copy(), model.wte.weight.detach().clone()
    digests = [first]
    for change in (
        lambda: model.wte.weight.data[7].add_(1),
        lambda: rows[3].__iadd__(1),
        lambda: setattr(model.config, "token_scale", 2.0),
    ):
        change()
        digests.append(embedder.digest)
    digests += [Embedder(model, tokenizer, **option).digest for option in ({"normalize": True}, {"column": "other"})]
    digests.append(Embedder(GPTEmbeddingsModel(model.config), tokenizer).digest)
    assert len(set(digests)) == len(digests)
    model.config.token_scale = 1.0
    rows[3] = before
    model.wte.weight.data.copy_(table)
    assert embedder.digest == first


def test_the_digest_follows_what_is_no_weight(tokenizer):
    """A subclass, a hook, a `forward` of its own: with the plain digest `datasets` would find its vectors."""

    class Louder(GPTEmbeddingsModel):
        def embed_bags(self, *arguments, **options):
            return 2 * super().embed_bags(*arguments, **options)

    model = new_model()
    plain = Embedder(model, tokenizer).digest
    digests = [Embedder(new_model(Louder), tokenizer).digest]
    for part in (model.wte, model.wpe):
        hook = part.register_forward_hook(lambda module, arguments, output: 2 * output)
        digests.append(Embedder(model, tokenizer).digest)
        assert Embedder(model, tokenizer).digest == digests[-1]
        hook.remove()
        assert Embedder(model, tokenizer).digest == plain
    assert len({plain, *digests}) == 4


def test_threads_that_share_in_batches_are_those_of_the_cores(tokenizer):
    embedder = Embedder(new_model(), tokenizer)
    texts, threads = pa.table({"text": ["tide " * 1000] * 100}), torch.get_num_threads()
    expected = embedder.extend(texts)[0]
    for n in (2, 3, 7):
        assert embedder.extend(texts, n)[0].equals(expected)
    assert sum(thread.name.startswith("gpt-embeddings") for thread in threading.enumerate()) <= n_cores()
    assert torch.get_num_threads() == threads


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # of `datasets`, about its own code
@pytest.mark.parametrize("format", [None, "arrow", "torch"])
@pytest.mark.parametrize("kind", ["dataset", "shuffled", "splits", "stream"])
def test_map(embedder, kind, format):
    dataset = Dataset.from_dict({"id": range(7), "text": TEXTS}).with_format(format)
    if kind == "shuffled":
        dataset = dataset.shuffle(seed=0).select(range(1, 6))
    elif kind == "splits":
        dataset = DatasetDict({"train": dataset, "test": dataset})
    elif kind == "stream":
        dataset = dataset.to_iterable_dataset(num_shards=2).with_format(format)
    # Under the format torch `datasets` guesses the type unless it is told.
    features = datasets.Features({"id": Value("int64"), "text": Value("string"), "embedding": embedder.feature})
    options = {"features": features} if format == "torch" and kind in ("dataset", "shuffled") else {}
    mapped = dataset.map(embedder, batched=True, batch_size=3, **options)
    assert isinstance(mapped, IterableDataset) == (kind == "stream")
    wanted = expected(embedder)
    for split in mapped.values() if kind == "splits" else [mapped]:
        if kind in ("dataset", "shuffled"):
            assert split.features == features
        rows = list(split.with_format(None))
        assert len(rows) == (5 if kind == "shuffled" else 7)
        for row in rows:
            assert row["text"] == TEXTS[row["id"]]
            assert np.allclose(row["embedding"], wanted[row["id"]], atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_a_plain_dictionary_and_arrow_tables(embedder, pooling):
    wanted, batch = expected(embedder, pooling=pooling), {"text": TEXTS}
    embedder = embedder.with_options(pooling=pooling)
    result = embedder(batch)
    assert list(result) == ["embedding"] and list(batch) == ["text"]
    views = embedder(pa.table({"text": pa.array(TEXTS, pa.string_view())}))["embedding"].to_pylist()
    for found, view, vectors in zip(result["embedding"], views, wanted, strict=True):
        assert np.allclose(found, vectors, atol=1e-6)
        assert np.allclose(np.reshape(view, vectors.shape), vectors, atol=1e-6)
    nulls = embedder(pa.table({"text": pa.nulls(7)}))["embedding"].to_pylist()
    assert nulls == [[] if pooling == "none" else [0] * 16] * 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "`pooling` must be one of 'mean', 'weighted', 'last', 'none', got 'max'"),
        ({"truncate_dim": True}, "`truncate_dim` must be an integer from 1 to 16"),
        ({"dtype": "bfloat16"}, "`dtype` must be one of 'float32', 'float16', 'int8', 'binary', got 'bfloat16'"),
        ({"weights": "int4"}, "`weights` must be one of None, 'float32', 'float16', 'int8', got 'int4'"),
        ({"output_column": "text"}, "`column` and `output_column` are both 'text'"),
        ({"dtype": "int8", "ranges": np.ones((2, 3))}, r"`ranges` must be .* of shape \(2, 16\)"),
        ({"dtype": "int8", "ranges": [[0] * 16, [np.nan] * 16]}, r"`ranges` must be .* of shape \(2, 16\)"),
        ({"dtype": "int8", "ranges": np.zeros((2, 16))}, r"`ranges` must be .* of shape \(2, 16\)"),
        ({"model": torch.nn.Linear(2, 2)}, "`model` must be a GPTEmbeddingsModel, got Linear"),
        ({"tokenizer": object()}, "`tokenizer` must be a fast tokenizer"),
        ({"model": new_model(vocab_size=100)}, "50257 entries, more than the model's `vocab_size` 100"),
    ],
)
def test_what_does_not_fit(model, tokenizer, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Embedder(**{"model": model, "tokenizer": tokenizer, **options})


@pytest.mark.parametrize(("where", "pooling"), [("cpu", "mean"), ("disk", "none")])
def test_weights_that_are_not_in_memory(tokenizer, where, pooling, tmp_path):
    """accelerate brings them into memory for the time of a call; what needs a hash of them refuses."""
    model, texts = new_model(), ["tide", "the sea came in"]
    expected = Embedder(model, tokenizer, pooling=pooling).encode(texts)
    if where == "cpu":
        accelerate.cpu_offload(model)
    else:
        accelerate.disk_offload(model, str(tmp_path))
    embedder = Embedder(model, tokenizer, pooling=pooling)
    np.testing.assert_allclose(embedder.encode(texts), expected, rtol=0, atol=1e-6)
    message = r"`w[tp]e.weight` is on the device 'meta'.* Load it with"
    with pytest.raises(ValueError, match=message):
        _ = embedder.digest
    model = new_model()
    embedder = Embedder(model, tokenizer)
    model.to("meta")  # without accelerate
    for use in (lambda: embedder.encode("tide"), lambda: embedder.digest, lambda: Embedder(model, tokenizer)):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"n": [1, 2]}, "There is no column 'review'; the columns are n"),
        (pa.table({"n": [1, 2]}), "There is no column 'review'; the columns are n"),
        (pa.table({"review": [1, 2]}), "Column 'review' must hold strings"),
        ({"review": ["a", 3]}, "Column 'review', batch row 1 must be a string, got int: 3"),
        ({"review": ["a", "b", "c\udc80"]}, r"Column 'review', batch row 2 holds the lone surrogate '\\udc80'"),
        (
            pa.table({"review": pa.array([b"a", b"\xff"]).view(pa.string())}),
            "Column 'review', batch row 1 is not valid UTF-8",
        ),
        ({"review": "one text"}, "`batched=True`"),
        (["a"], "`batched=True`"),
    ],
)
def test_bad_batches_are_named_by_row_and_column(model, tokenizer, batch, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Embedder(model, tokenizer, column="review")(batch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # what the test is about
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_map_forks_after_a_multi_threaded_forward(embedder):
    torch.set_num_threads(max(2, torch.get_num_threads()))
    embedder.model(torch.randint(0, 50257, (256, 32)))
    texts = TEXTS * 500  # large enough for torch and gigatoken to want threads
    embedder({"text": texts})
    mapped = Dataset.from_dict({"text": texts}).map(embedder, batched=True, num_proc=2, load_from_cache_file=False)
    vectors = np.stack(mapped.with_format("numpy")["embedding"][:])
    assert np.array_equal(vectors, embedder.encode([text or "" for text in texts]))


ELSEWHERE = """
import pickle, sys, datasets
embedder, folder = pickle.load(sys.stdin.buffer)
datasets.load_from_disk(folder).map(embedder, batched=True)
pickle.dump((embedder.encode(["Hello world"] * 300), embedder.digest), sys.stdout.buffer)
"""


@pytest.mark.slow
def test_a_pickle_is_small_and_works_elsewhere(tokenizer, tmp_path):
    """And the cache of `datasets` knows what `map` has done in another process."""
    Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path)
    model = new_model(position_embedding_type="sinusoidal")
    embedder = Embedder(model, tokenizer, normalize=True)
    without_tokenizer = len(pickle.dumps(embedder)) - len(pickle.dumps(tokenizer))
    assert without_tokenizer < 10_000 < model.wte.weight.nbytes
    given = pickle.dumps((embedder, str(tmp_path)))
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], input=given, stdout=subprocess.PIPE, check=True)
    vectors, digest = pickle.loads(done.stdout)
    assert np.array_equal(vectors, embedder.encode(["Hello world"] * 300))
    assert digest == embedder.digest
    (cached,) = tmp_path.glob("cache-*.arrow")
    same = Embedder(new_model(position_embedding_type="sinusoidal"), load_tokenizer(), normalize=True)
    datasets.load_from_disk(tmp_path).map(same, batched=True)
    assert list(tmp_path.glob("cache-*.arrow")) == [cached]


def test_a_pickle_shares_the_model_of_its_process_and_says_if_the_weights_are_gone(tokenizer, monkeypatch):
    monkeypatch.setattr(weights_module, "_folder", None)
    model = new_model(seed=9)
    pickled = pickle.dumps(Embedder(model, tokenizer))
    assert pickle.loads(pickled).model is model
    del model
    shutil.rmtree(weights_module._folder)
    gc.collect()
    with pytest.raises(pickle.UnpicklingError, match="the process that pickled it has ended"):
        pickle.loads(pickled)


PLAIN = ["The tide clerk counts.", "Lamp oil", "The lamp went out.", "é漢字", " ".join(["wave"] * 40)]

EDITS = {  # of a table, by ways that torch does not count, for the most part
    "mul_": lambda table: table.data.mul_(2),
    "two signs": lambda table: table.data[:, 1:4:2].neg_(),  # which changes the highest bits alone
    "numpy": lambda table: table.detach().numpy().__setitem__(slice(None), 0),
    "one entry": lambda table: table.data[464, 3].add_(0.5),  # "The"
    "no_grad": lambda table: torch.no_grad()(table.mul_)(3),
}


@pytest.fixture(scope="module")
def pooled(embedder):
    return np.stack(expected(embedder, PLAIN))


def close(found, pooled):
    np.testing.assert_allclose(found, pooled, rtol=0, atol=1e-7)


class TestEncode:
    def test_texts_of_every_kind(self, embedder, pooled):
        for make in (list, tuple, np.array, iter):
            close(embedder.encode(make(PLAIN)), pooled)
        assert embedder.encode(PLAIN[0]).shape == (16,)
        close(embedder.encode(PLAIN[0]), pooled[0])
        assert embedder.encode([]).shape == (0, 16)
        for make in (list, pa.array, pd.Series, lambda texts: pd.Series(texts).replace({None: np.nan})):
            found = embedder.encode(make([PLAIN[0], None, PLAIN[1]]))
            close(found, [pooled[0], np.zeros(16), pooled[1]])
        for given in (3, b"text", {"text": ["a"]}):
            with pytest.raises(TypeError, match="`texts` must be a string, a list of strings or one column"):
                embedder.encode(given)

    def test_long_lists_have_a_bar(self, embedder, pooled, monkeypatch, capfd):
        monkeypatch.setattr(embedder_module, "BLOCK_TEXTS", 2)
        monkeypatch.setattr("gpt_embeddings.progress.LINE_SECONDS", 0)  # there is no terminal here
        close(embedder.encode(PLAIN), pooled)
        assert "Embedding" not in capfd.readouterr().err
        close(embedder.encode(PLAIN, show_progress_bar=True), pooled)
        assert "3/3" in capfd.readouterr().err
        monkeypatch.setattr(embedder_module, "LONG_LIST", 5)
        close(embedder.encode(PLAIN), pooled)
        assert "3/3" in capfd.readouterr().err
        with pytest.raises(TypeError, match=r"Text 5 must be a string, got int"):
            embedder.encode([*PLAIN, 7])


class TestVectors:
    def test_fewer_dimensions(self, embedder, pooled):
        short = embedder.with_options(truncate_dim=5)
        close(short.encode(PLAIN), pooled[:, :5])
        unit = pooled[:, :5] / np.linalg.norm(pooled[:, :5], axis=1, keepdims=True)
        np.testing.assert_allclose(short.with_options(normalize=True).encode(PLAIN), unit, rtol=1e-6)
        embedded = Dataset.from_dict({"text": PLAIN}).map(short, batched=True)
        assert embedded.features["embedding"].length == 5
        close(np.stack(embedded.with_format("numpy")["embedding"]), pooled[:, :5])
        assert short.digest != embedder.digest
        assert embedder.with_options(truncate_dim=np.int64(5)).options == short.options

    @pytest.mark.parametrize("dtype", ["int8", "binary"])
    def test_as_sentence_transformers_quantizes(self, embedder, pooled, tokenizer, dtype, tmp_path):
        ranges = np.stack([pooled.min(0), pooled.max(0)])
        theirs = quantize_embeddings(embedder.encode(PLAIN), precision=dtype, ranges=ranges)
        ours = Embedder(embedder.model, tokenizer, dtype=dtype, ranges=ranges)
        found = ours.encode(PLAIN)
        assert found.dtype == theirs.dtype == np.int8 and found.shape == theirs.shape == (5, ours.width)
        np.testing.assert_allclose(found.astype(int), theirs, atol=dtype == "int8")  # rounding of float32 ranges
        dataset = Dataset.from_dict({"text": [*PLAIN, None]})
        options = {"dtype": dtype, "ranges": ranges}
        for embedded in (
            dataset.map(ours, batched=True),
            embed_dataset(dataset, embedder.model, tokenizer, output=tmp_path / "out", **options),
        ):
            assert embedded.features["embedding"] == ours.feature
            np.testing.assert_array_equal(np.stack(embedded.with_format("numpy")["embedding"])[:5], found)

    def test_ranges_are_found_on_texts(self, embedder, pooled, tokenizer):
        ours = Embedder(embedder.model, tokenizer, dtype="int8")
        with pytest.raises(ValueError, match="calibrate"):
            ours.encode(PLAIN)
        before = ours.digest
        assert ours.calibrate(PLAIN) is ours and ours.digest != before
        close(ours.ranges, [pooled.min(0), pooled.max(0)])
        found = ours.encode([*PLAIN, "far outside of all that"])
        assert found[:5].min() == -128 and found[:5].max() in (126, 127)

    def test_similarity(self, embedder, pooled):
        unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        agreeing = (pooled[:, None] > 0) == (pooled > 0)  # 1 - 2 * Hamming distance / dimensions
        for ours, wanted, tolerance in (
            (embedder.with_options(dtype="int8").calibrate(PLAIN), unit @ unit.T, 0.03),
            (embedder.with_options(dtype="binary"), 2 * agreeing.mean(-1) - 1, 1e-6),
            (embedder, unit @ unit.T, 1e-6),
        ):
            given = ours.encode(PLAIN)
            cosines = ours.similarity(given, given)
            np.testing.assert_allclose(cosines, wanted, atol=tolerance)
            for same in (torch.tensor(given), given.tolist(), tuple(given), list(torch.tensor(given))):
                np.testing.assert_array_equal(ours.similarity(same, given), cosines)
            one = ours.similarity(given[0].tolist(), given[1])
            assert type(one) is float and one == pytest.approx(cosines[0, 1], abs=1e-6)
        half = torch.tensor(pooled).bfloat16()
        for texts, tolerance in ((PLAIN, 1e-6), (np.array(PLAIN, object), 1e-6), (pooled, 1e-6), (half, 0.01)):
            found = embedder.similarity(texts, [None, *PLAIN[1:]])
            np.testing.assert_allclose(found[:, 1:], unit @ unit[1:].T, atol=tolerance)
        assert embedder.similarity(PLAIN[0], PLAIN[1]) == pytest.approx(unit[0] @ unit[1], abs=1e-6)
        assert embedder.similarity("", PLAIN[0]) == 0
        with pytest.raises(TypeError, match="Text 0 must be a string, got list"):
            embedder.similarity([PLAIN], PLAIN)

    @pytest.mark.parametrize(
        ("dtype", "vectors", "message"),
        [
            ("float32", torch.zeros(5, 3), r"float32, of shape \(5, 3\).* 'float32': .* of float of width 16\."),
            ("float32", np.zeros((5, 16), np.int8), r"int8, of shape \(5, 16\).* of float of width 16\."),
            ("int8", [1000] * 16, r"int64, of shape \(16,\).* of float of width 16 or int8 of width 16\."),
            ("int8", np.array(0.5), r"float64, of shape \(\)"),
            ("binary", np.zeros((5, 2), np.uint8), r"uint8, of shape \(5, 2\).* 'binary': .* or int8 of width 2\."),
            ("binary", np.zeros((5, 3), np.int8), r"int8, of shape \(5, 3\)"),
        ],
    )
    def test_similarity_of_other_vectors(self, embedder, dtype, vectors, message):
        ours = embedder.with_options(dtype=dtype, ranges=[[-1.0] * 16, [1.0] * 16])
        with pytest.raises(ValueError, match=f"vectors of {message}"):
            ours.similarity(PLAIN, vectors)


class TestTables:
    @pytest.fixture
    def stored(self, tmp_path):
        save_int8(new_model(), tmp_path)
        return AutoModel.from_pretrained(tmp_path)

    @pytest.mark.parametrize("pooling", ["mean", "weighted"])
    @pytest.mark.parametrize("overflow", ["truncate", "windows"])
    def test_int8_rows_are_summed_as_they_are_stored(self, stored, tokenizer, pooling, overflow):
        stored.token_weights = torch.rand(50257, generator=torch.Generator().manual_seed(0))
        options = {"pooling": pooling, "overflow": overflow}
        embedder = Embedder(stored, tokenizer, **options)
        found = embedder.encode([*PLAIN, ""])
        assert embedder.weights_error < 1e-6
        plain = Embedder(stored, tokenizer, weights="float32", **options)
        np.testing.assert_allclose(found, plain.encode([*PLAIN, ""]), rtol=0, atol=2e-7)
        assert plain.weights_error == 0
        with torch.no_grad():
            stored.wte.weight[:] += 0.001 * torch.randn(50257, 16)  # training goes on, in floats
        assert embedder.weights_error == 0
        np.testing.assert_array_equal(embedder.encode(PLAIN), plain.encode(PLAIN))

    @pytest.mark.parametrize(
        ("edit", "weights", "many"),
        [*((edit, None, edit in ("numpy", "one entry")) for edit in EDITS), ("one entry", "float16", False)],
    )
    def test_every_change_of_the_table_is_seen(self, stored, tokenizer, edit, weights, many):
        """Also changes that torch does not count; every embedder of the model sees them."""
        texts = PLAIN * 20 if many else PLAIN
        embedder = Embedder(stored, tokenizer, weights=weights)
        before = embedder.encode(texts)
        EDITS[edit](stored.wte.weight)
        fresh = new_model()
        fresh.load_state_dict(stored.state_dict())
        pooled = Embedder(fresh, tokenizer, weights=weights).encode(texts)
        np.testing.assert_array_equal(embedder.encode(texts), pooled)
        assert np.abs(before - pooled).max() > 1e-4
        for again in (embedder, Embedder(stored, tokenizer, weights=weights)):
            time.sleep(CHECK_SECONDS)  # batches that follow each other faster compare a sample
            column = again(pa.table({"text": texts}))["embedding"].combine_chunks().flatten()
            np.testing.assert_array_equal(column.to_numpy().reshape(-1, 16), pooled)

    def test_a_batch_sees_a_change_right_after_an_encoding(self, stored, tokenizer, monkeypatch):
        monkeypatch.setattr("gpt_embeddings.embedding.weights.CHECK_SECONDS", 10)
        text = tokenizer.decode(range(1000, 3000))
        embedder = Embedder(stored, tokenizer, overflow="windows")
        before = [embedder.encode([text]) for _ in range(2)]
        ids = tokenizer(text).input_ids
        stored.wte.weight.data[(set(ids) - set(ids[:: len(ids) // 512 + 1])).pop()] += 1  # not of the sample
        assert np.abs(embedder({"text": [text]})["embedding"] - before[0]).max() > 1e-4

    @pytest.mark.parametrize("dtype, least, most", [("float16", 1e-4, 1e-3), ("int8", 1e-3, 0.0040)])
    def test_on_request_and_with_the_error_stated(self, embedder, pooled, tokenizer, dtype, least, most):
        assert embedder.weights_error == 0  # never silently
        other = Embedder(embedder.model, tokenizer, weights=dtype)
        assert least < other.weights_error < most
        largest = embedder.model.wte.weight.abs().max().item()
        assert 0 < np.abs(other.encode(PLAIN) - pooled).max() <= 2 * other.weights_error * largest
        assert other.digest != embedder.digest

    def test_tables_that_cannot_be_quantized(self):
        with pytest.raises(ValueError, match="needs a model on the CPU, but its table is on meta"):
            quantize_table(torch.empty(3, 4, device="meta"), "int8")
        with pytest.raises(ValueError, match="values that float16 cannot hold"):
            quantize_table(torch.full((3, 4), 1e6), "float16")
        for table in (torch.zeros(3, 4), torch.full((3, 4), torch.nan), torch.randn(3, 4)):
            assert quantize_table(table, None) is None

    def test_half_precision_is_summed_as_stored(self, pooled, tokenizer):
        np.testing.assert_allclose(Embedder(new_model().half(), tokenizer).encode(PLAIN), pooled, atol=1e-4)


def test_a_step_of_a_pipeline(embedder):
    labels = [0, 1, 1, 0, 0]
    steps = make_pipeline(embedder, LogisticRegression(C=1e6))
    found = steps.fit(PLAIN, labels)
    assert list(found.predict(PLAIN)) == labels
    assert clone(steps).fit(pd.Series(PLAIN), labels).score(PLAIN, labels) == 1
    assert clone(embedder).model is embedder.model
    check_is_fitted(make_pipeline(embedder))  # as libraries do that take any transformer


def test_saved_and_loaded_with_the_models_own_pooling(tokenizer, tmp_path):
    model = new_model()
    model.set_token_weights(torch.rand(50257))
    embedder = Embedder(model, tokenizer)
    pooled = embedder.with_options(pooling="weighted").encode(PLAIN)
    np.testing.assert_array_equal(embedder.encode(PLAIN), pooled)
    embedder.save_pretrained(tmp_path / "new" / "folder")
    again = Embedder.from_pretrained(tmp_path / "new" / "folder", normalize=True, truncate_dim=4)
    close(Embedder(again.model, again.tokenizer).encode(PLAIN), pooled)
    assert again.normalize and again.encode("tide").shape == (4,)
    with pytest.raises(OSError, match="No model at"):
        Embedder.from_pretrained(tmp_path / "none")
