"""Exported models in the libraries that they are for, against the model's own vectors."""

import json
import re

import numpy as np
import pytest
import torch
from command import refuse, run
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from tiny import new_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gpt_embeddings import Embedder, export_model, from_static, load_tokenizer, save_folder
from gpt_embeddings.bundled import ENGLISH, PORTUGUESE
from gpt_embeddings.checkpoints.export import SAMPLES


TEXTS = ["The tide came in.", "<|endoftext|> it went out <|endoftext|>", "", "Olá, maré!"]
TEXTS += ["Mug", " mug", "a b c d e f g h i j k l m n"]
ROWS = 500
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}Warning") for kind in ("Deprecation", "Future", "User")]


def in_sentence_transformers(folder, texts=TEXTS):
    return SentenceTransformer(str(folder), device="cpu").encode(texts)


def in_model2vec(folder, texts=TEXTS):
    return StaticModel.from_pretrained(folder, force_download=False).encode(texts)


def make_model(**fields):
    model = new_model(**{"vocab_size": ROWS, "n_positions": 12, "position_embedding_type": "none", **fields})
    if model.config.pooling == "weighted":
        model.set_token_weights(torch.rand(model.config.vocab_size))
    return model


def words(**post_processor):
    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate("[UNK] [CLS] The tide came a b".split())}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor:
        backend.post_processor = processors.TemplateProcessing(**post_processor)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[UNK]")


@pytest.fixture(scope="module")
def canonical_tokenizer():
    """The small tokenizer after lower case and a leading space."""
    return load_tokenizer(canonical=True).train_new_from_iterator([*TEXTS, *SAMPLES], ROWS)


@pytest.mark.parametrize(("format", "pooling"), [("static", "weighted"), ("model2vec", "mean")])
def test_static_tables_give_the_model_s_vectors(format, pooling, gpt2_tokenizer, tmp_path):
    model = make_model(vocab_size=50257, pooling=pooling, token_scale=3.0)
    comparison = export_model(model, gpt2_tokenizer, tmp_path, format)
    assert ("scaled to length 1" in comparison) == (pooling == "weighted")
    expected = Embedder(model, gpt2_tokenizer, pooling=pooling, normalize=pooling == "weighted").encode(TEXTS)
    for library in (in_sentence_transformers, in_model2vec):
        np.testing.assert_allclose(library(tmp_path), expected, rtol=0, atol=1e-6)
    again, tokenizer = from_static(tmp_path)
    if pooling == "mean":
        torch.testing.assert_close(again.wte.weight, 3 * model.wte.weight)
    found = Embedder(again, tokenizer, normalize=pooling == "weighted").encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_normalizer_is_exported_and_a_position_table_of_zeros_is_not(canonical_tokenizer, tmp_path):
    # model2vec first cuts a text at `n_positions` times the median length of a token, which is one character here.
    model = make_model(position_embedding_type="learned", n_positions=64)
    torch.nn.init.zeros_(model.wpe.weight)
    save_folder(tmp_path / "saved", model, canonical_tokenizer)
    embedder = Embedder.from_pretrained(tmp_path / "saved")
    expected = embedder.encode(TEXTS)
    np.testing.assert_array_equal(expected[4], expected[5])
    assert export_model(embedder.model, embedder.tokenizer, tmp_path, "static") == "Its vectors are the model's own."
    for library in (in_sentence_transformers, in_model2vec):
        np.testing.assert_allclose(library(tmp_path), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(Embedder(*from_static(tmp_path)).encode(TEXTS), expected, rtol=0, atol=1e-6)
    plain = [i for i, text in enumerate(TEXTS) if "<|" not in text]  # a saved model takes it for a special token there
    found = in_sentence_transformers(tmp_path / "saved", [TEXTS[i] for i in plain])
    np.testing.assert_allclose(found, expected[plain], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "library"), [(ENGLISH, in_sentence_transformers), (PORTUGUESE, in_model2vec)], ids=[ENGLISH, PORTUGUESE]
)
def test_other_libraries_read_the_bundled_tables_without_loss(name, library, tmp_path):
    embedder = Embedder.from_pretrained(name)
    assert export_model(embedder.model, embedder.tokenizer, tmp_path, "static") == "Its vectors are the model's own."
    expected = embedder.with_options(weights="float32").encode(TEXTS)
    np.testing.assert_allclose(library(tmp_path), expected, rtol=0, atol=1e-6)


def test_positions_that_are_dropped(small_tokenizer, tmp_path):
    """The message tells how far vectors move, which the library confirms."""
    model = make_model(position_embedding_type="learned", n_positions=256, pooling="weighted")
    with pytest.raises(ValueError, match=r"adds positions \(`position_embedding_type` 'learned'\).*--drop-positions"):
        export_model(model, small_tokenizer, tmp_path, "static")
    with pytest.raises(ValueError, match="an ONNX export keeps the positions"):
        export_model(model, small_tokenizer, tmp_path, "onnx", drop_positions=True)
    assert not list(tmp_path.iterdir())
    comparison = export_model(model, small_tokenizer, tmp_path, "static", drop_positions=True)
    mean, least = map(float, re.fullmatch(r".* is (0\.\d+) on average and at least (-?0\.\d+)\.", comparison).groups())
    ours, theirs = Embedder(model, small_tokenizer).encode(list(SAMPLES)), in_sentence_transformers(tmp_path, SAMPLES)
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert (mean, least) == pytest.approx((cosines.mean(), cosines.min()), abs=6e-4) and least < mean < 0.99


def test_unknown_tokens(tmp_path):
    """model2vec leaves them out, sentence-transformers does not; an export does what the model does or is refused."""
    texts = ["The tide zzz came", "zzz", "The"]
    model = make_model(vocab_size=7)
    export_model(model, words(), tmp_path / "static", "static")
    found = in_sentence_transformers(tmp_path / "static", texts)
    np.testing.assert_allclose(found, Embedder(model, words()).encode(texts), rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="leaves unknown tokens out of the mean, and this model counts them"):
        export_model(model, words(), tmp_path / "model2vec", "model2vec")
    theirs = StaticModel(model.wte.weight.detach().numpy(), words().backend_tokenizer, {"model_type": "model2vec"})
    theirs.save_pretrained(tmp_path / "model2vec")
    assert "model's own." in export_model(*from_static(tmp_path / "model2vec"), tmp_path / "back", "model2vec")
    np.testing.assert_allclose(in_model2vec(tmp_path / "back", texts), theirs.encode(texts), atol=1e-7)


@pytest.mark.slow
def test_onnx_gives_the_model_s_vectors(canonical_tokenizer, tmp_path):
    import onnxruntime

    model = make_model(pooling="weighted", position_embedding_type="learned")
    export_model(model, canonical_tokenizer, tmp_path, "onnx")
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model.onnx"]
    assert not list(tmp_path.glob("*.py")) and "auto_map" not in (tmp_path / "config.json").read_text()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in TEXTS if "<|" not in text]  # which `tokenizer(text)` takes for special tokens
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden, pooled = session.run(["last_hidden_state", "pooler_output"], inputs)
    np.testing.assert_allclose(pooled, Embedder(model, canonical_tokenizer).encode(texts), atol=1e-6)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(ids) for name, ids in inputs.items()}
        np.testing.assert_allclose(hidden, model(**tensors).last_hidden_state, atol=1e-7)


def test_what_cannot_be_exported(small_tokenizer, tmp_path):
    special = words(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    for model, tokenizer, format, message in (
        (make_model(vocab_size=7), special, "model2vec", "adds special tokens to each text"),
        (make_model(), small_tokenizer, "gguf", "`format` must be one of 'static', 'model2vec', 'onnx', got 'gguf'"),
        (make_model(vocab_size=9), small_tokenizer, "static", "500 entries, more than the model's `vocab_size` 9"),
    ):
        with pytest.raises(ValueError, match=message):
            export_model(model, tokenizer, tmp_path, format)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_command(small_tokenizer, tmp_path):
    model, out = make_model(position_embedding_type="learned"), tmp_path / "out"
    save_folder(tmp_path / "model", model, small_tokenizer)
    arguments = ["export", tmp_path / "model", "--format", "static", "--output", out]
    refuse("--drop-positions", *arguments)
    assert not out.exists()
    done = run(*arguments, "--drop-positions")
    assert "Its vectors lack the positions: on 6 sample texts" in done.stdout and f"Result: {out}" in done.stdout
    # Libraries load it without this package: the folder has no code, and no class of ours is named.
    assert not list(out.rglob("*.py")) and not any("auto_map" in path.read_text() for path in out.glob("*.json"))
    classes = [module["type"] for module in json.loads((out / "modules.json").read_text())]
    assert classes and all(name.startswith("sentence_transformers.") for name in classes)
    refuse("exists", *arguments, "--drop-positions")
    run(*arguments, "--drop-positions", "--overwrite")
