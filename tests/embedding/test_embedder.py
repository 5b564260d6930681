"""`Embedder`: its vectors against the model's forward, in every kind of `map()`, process and pickle."""

import functools
import gc
import multiprocessing
import os
import pickle
import shutil
import threading

import accelerate
import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset, Value
from transformers import GPT2Model

from gpt_embeddings import Embedder, GPTEmbeddingsConfig, GPTEmbeddingsModel, load_tokenizer
from gpt_embeddings.embedding import shared_weights
from gpt_embeddings.threads import n_cores


TEXTS = ["The tide clerk counts.", "", None, "Lamp oil", "a<|endoftext|>b", " ".join(["wave"] * 40), "é\0漢字"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def new_model(seed=0, **fields):
    torch.manual_seed(seed)
    return GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=16, n_positions=32, **fields)).eval()


@pytest.fixture(scope="module")
def model():
    return new_model()


@functools.cache
def plain_backend(tokenizer):
    """The tokenizer of `tokenizers`, to which special tokens that are spelled out are plain text."""
    backend = pickle.loads(pickle.dumps(tokenizer.backend_tokenizer))
    backend.encode_special_tokens = True
    return backend


@functools.cache
def gpt2_of(model):
    config = model.config
    gpt2 = GPT2Model(
        GPT2Model.config_class(vocab_size=config.vocab_size, n_positions=32, n_embd=16, n_layer=1, n_head=1)
    )
    gpt2.wte.weight, gpt2.wpe.weight = model.wte.weight, model.wpe.weight
    return gpt2.eval()


def token_vectors(model, tokenizer, text, overflow="truncate"):
    """One text by GPT-2's own code: its embedding sum, window by window."""
    gpt2, backend = gpt2_of(model), plain_backend(tokenizer)
    ids = backend.encode(text or "", add_special_tokens=False).ids
    windows = [ids[:32]] if overflow == "truncate" else [ids[i : i + 32] for i in range(0, len(ids), 32)]
    with torch.no_grad():
        rows = [
            gpt2(torch.tensor([window]), output_hidden_states=True).hidden_states[0][0] for window in windows if window
        ]
    return torch.cat(rows).numpy() if rows else np.zeros((0, 16), dtype=np.float32)


def expected(model, tokenizer, pooling="mean", normalize=False, overflow="truncate"):
    result = []
    for text in TEXTS:
        rows = token_vectors(model, tokenizer, text, overflow)
        if pooling == "mean":
            rows = rows.mean(0) if len(rows) else np.zeros(16, dtype=np.float32)
        elif pooling == "last":
            rows = rows[-1] if len(rows) else np.zeros(16, dtype=np.float32)
        if normalize:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        result.append(rows)
    return result


@pytest.mark.parametrize("overflow", ["truncate", "windows"])
@pytest.mark.parametrize("normalize", [False, True], ids=["as-is", "normalized"])
@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
def test_vectors_are_those_of_gpt2(model, tokenizer, pooling, normalize, overflow):
    embedder = Embedder(model, tokenizer, pooling=pooling, normalize=normalize, overflow=overflow)
    mapped = Dataset.from_dict({"text": TEXTS}).map(embedder, batched=True, batch_size=3)
    wanted = expected(model, tokenizer, pooling, normalize, overflow)
    assert mapped.features["embedding"] == embedder.feature
    for found, vectors in zip(mapped["embedding"], wanted, strict=True):
        assert np.allclose(np.array(found, dtype=np.float32).reshape(vectors.shape), vectors, atol=1e-6)
    flat = embedder.encode([text or "" for text in TEXTS])
    assert np.allclose(flat, np.concatenate([np.atleast_2d(vectors) for vectors in wanted]), atol=1e-6)


def test_the_batch_does_not_matter(model, tokenizer):
    texts = [" ".join(["tide"] * (i % 50)) for i in range(100)]
    embedder = Embedder(model, tokenizer)
    assert np.array_equal(embedder.encode(texts), np.concatenate([embedder.encode([text]) for text in texts]))


# Kinds of datasets -----------------------------------------------------------------------------------------------


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
    model = new_model(**fields)
    model.set_token_weights(torch.rand(model.config.vocab_size))
    model.train()  # dropout has no part in it
    embed = Embedder(model, tokenizer, pooling=pooling).encode
    got = embed(["The tide clerk counts.", "Lamp oil"])
    model.eval()
    start = 0
    for i, text in enumerate(["The tide clerk counts.", "Lamp oil"]):
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            output = model(ids)
        vectors = output.last_hidden_state[0]
        wanted = {"weighted": output.pooler_output[0], "last": vectors[-1], "none": vectors}
        mine = got[start : start + len(vectors)] if pooling == "none" else got[i]
        torch.testing.assert_close(torch.from_numpy(mine), wanted[pooling], rtol=1e-5, atol=1e-6)
        start += len(vectors)


def test_the_digest_follows_every_change(tokenizer):
    """Also those that torch does not count: through `.data` and numpy; and that of any field or option."""
    model = GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=4)).eval()
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


class Louder(GPTEmbeddingsModel):
    """What a caller may make of the model."""

    def embed_bags(self, *arguments, **options):
        return 2 * super().embed_bags(*arguments, **options)


def twice(module, arguments, output):
    return 2 * output


def test_the_digest_follows_what_is_no_weight(tokenizer):
    """A subclass, a hook, a `forward` of its own: with the plain digest `datasets` would find its vectors."""
    model = new_model()
    plain = Embedder(model, tokenizer).digest
    louder = Louder(model.config).eval()
    louder.load_state_dict(model.state_dict())
    digests = [Embedder(louder, tokenizer).digest]
    for part in (model.wte, model.wpe):
        hook = part.register_forward_hook(twice)
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
def test_map(model, tokenizer, kind, format):
    embedder = Embedder(model, tokenizer)
    dataset = Dataset.from_dict({"id": range(7), "text": TEXTS}).with_format(format)
    if kind == "shuffled":
        dataset = dataset.shuffle(seed=0).select(range(1, 6))
    elif kind == "splits":
        dataset = DatasetDict({"train": dataset, "test": dataset})
    elif kind == "stream":
        dataset = dataset.to_iterable_dataset(num_shards=2).with_format(format)
    # Under the formats numpy and torch `datasets` guesses the type unless it is told.
    features = datasets.Features({"id": Value("int64"), "text": Value("string"), "embedding": embedder.feature})
    options = {"features": features} if format in ("numpy", "torch") and kind in ("dataset", "shuffled") else {}
    mapped = dataset.map(embedder, batched=True, batch_size=3, **options)
    assert isinstance(mapped, IterableDataset) == (kind == "stream")
    wanted = expected(model, tokenizer)
    for split in mapped.values() if kind == "splits" else [mapped]:
        if kind in ("dataset", "shuffled"):
            assert split.features == features
        rows = list(split.with_format(None))
        assert len(rows) == (5 if kind == "shuffled" else 7)
        for row in rows:
            assert row["text"] == TEXTS[row["id"]]
            assert np.allclose(row["embedding"], wanted[row["id"]], atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_a_plain_dictionary(model, tokenizer, pooling):
    batch = {"text": TEXTS}
    result = Embedder(model, tokenizer, pooling=pooling)(batch)
    assert list(result) == ["embedding"] and list(batch) == ["text"]
    for found, vectors in zip(result["embedding"], expected(model, tokenizer, pooling), strict=True):
        assert np.allclose(found, vectors, atol=1e-6)


@pytest.mark.parametrize("texts", [pa.array(TEXTS, pa.string_view()), pa.nulls(7)], ids=["view", "null"])
def test_kinds_of_strings(model, tokenizer, texts):
    table = Embedder(model, tokenizer)(pa.table({"text": texts}))
    found = table["embedding"].combine_chunks().values.to_numpy().reshape(7, 16)
    wanted = np.zeros((7, 16)) if texts.null_count == 7 else expected(model, tokenizer)
    assert np.allclose(found, wanted, atol=1e-6)


# Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "`pooling` must be one of 'mean', 'weighted', 'last', 'none', got 'max'"),
        ({"truncate_dim": True}, "`truncate_dim` must be an integer from 1 to 16"),
        ({"dtype": "bfloat16"}, "`dtype` must be one of 'float32', 'float16', 'int8', 'binary', got 'bfloat16'"),
        ({"output_column": "text"}, "`column` and `output_column` are both 'text'"),
    ],
)
def test_unknown_options(model, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        Embedder(model, tokenizer, **options)


def test_weights_that_are_not_in_memory(tokenizer):
    model = new_model()
    embedder = Embedder(model, tokenizer)
    accelerate.cpu_offload(model)
    for use in (lambda: embedder.digest, lambda: Embedder(model, tokenizer)):
        with pytest.raises(ValueError, match=r"`w[tp]e.weight` is on the device 'meta'.* Load it with"):
            use()


def test_what_does_not_fit(model, tokenizer):
    with pytest.raises(TypeError, match="`model` must be a GPTEmbeddingsModel, got Linear"):
        Embedder(torch.nn.Linear(2, 2), tokenizer)
    with pytest.raises(TypeError, match="`tokenizer` must be a fast tokenizer"):
        Embedder(model, object())
    with pytest.raises(ValueError, match="50257 entries, more than the model's `vocab_size` 100"):
        Embedder(new_model(vocab_size=100), tokenizer)


@pytest.mark.parametrize("format", [None, "arrow"])
def test_columns_that_are_not_there_or_not_text(model, tokenizer, format):
    dataset = Dataset.from_dict({"n": [1, 2]}).with_format(format)
    with pytest.raises(ValueError, match="There is no column 'text'; the columns are n"):
        dataset.map(Embedder(model, tokenizer), batched=True)
    with pytest.raises(TypeError, match=r"Column 'n'.* must (hold strings|be a string)"):
        dataset.map(Embedder(model, tokenizer, column="n"), batched=True)


def test_bad_values_are_named_by_row_and_column(model, tokenizer):
    embedder = Embedder(model, tokenizer, column="review")
    with pytest.raises(TypeError, match=r"Column 'review', batch row 1 must be a string, got int: 3"):
        embedder({"review": ["a", 3]})
    with pytest.raises(ValueError, match=r"Column 'review', batch row 2 holds the lone surrogate '\\udc80'"):
        embedder({"review": ["a", "b", "c\udc80"]})
    with pytest.raises(ValueError, match=r"Column 'review', batch row 1 is not valid UTF-8"):
        embedder(pa.table({"review": pa.array([b"a", b"\xff"]).view(pa.string())}))
    with pytest.raises(TypeError, match="`batched=True`"):
        embedder({"review": "one text"})
    with pytest.raises(TypeError, match="`batched=True`"):
        embedder(["a"])


# Processes, pickles and hashes -----------------------------------------------------------------------------------


def multi_threaded_forward(model):
    torch.set_num_threads(max(2, torch.get_num_threads()))
    model(torch.randint(0, 50257, (256, 32)))
    torch.rand(1000, 1000) @ torch.rand(1000, 1000)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # what the test is about
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_map_forks_after_a_multi_threaded_forward(model, tokenizer):
    multi_threaded_forward(model)
    texts = TEXTS * 500  # large enough for torch and gigatoken to want threads
    embedder = Embedder(model, tokenizer)
    embedder({"text": texts})
    mapped = Dataset.from_dict({"text": texts}).map(embedder, batched=True, num_proc=2, load_from_cache_file=False)
    vectors = np.stack(mapped.with_format("numpy")["embedding"][:])
    assert np.array_equal(vectors, embedder.encode([text or "" for text in texts]))


def map_once(folder):
    """Runs here and in another process."""
    datasets.load_from_disk(folder).map(Embedder(new_model(), load_tokenizer()), batched=True)


def embed_elsewhere(pickled, folder):
    embedder = pickle.loads(pickled)
    map_once(folder)
    return embedder.encode(["Hello world"] * 3000), embedder.digest


@pytest.mark.slow
def test_a_pickle_is_small_and_works_elsewhere(tokenizer, tmp_path):
    """And the cache of `datasets` knows what `map` has done in another process."""
    Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path)
    model = new_model(position_embedding_type="sinusoidal")
    embedder = Embedder(model, tokenizer, normalize=True)
    without_tokenizer = len(pickle.dumps(embedder)) - len(pickle.dumps(tokenizer))
    assert without_tokenizer < 10_000 < model.wte.weight.nbytes
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        vectors, digest = pool.apply_async(embed_elsewhere, (pickle.dumps(embedder), tmp_path)).get()
    assert np.array_equal(vectors, embedder.encode(["Hello world"] * 3000))
    assert digest == embedder.digest
    (cached,) = tmp_path.glob("cache-*.arrow")
    map_once(tmp_path)
    assert list(tmp_path.glob("cache-*.arrow")) == [cached]


def test_a_pickle_in_the_same_process_shares_the_model(model, tokenizer):
    assert pickle.loads(pickle.dumps(Embedder(model, tokenizer))).model is model


def test_a_pickle_whose_weights_are_gone_says_so(tokenizer, monkeypatch):
    monkeypatch.setattr(shared_weights, "_folder", None)
    pickled = pickle.dumps(Embedder(new_model(seed=9), tokenizer))
    shutil.rmtree(shared_weights._folder)
    gc.collect()
    with pytest.raises(pickle.UnpicklingError, match="the process that pickled it has ended"):
        pickle.loads(pickled)
