"""Static models of other libraries against the libraries themselves."""

import numpy as np
import pytest
import torch
from model2vec import StaticModel
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from gpt_embeddings import Embedder, from_static
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer


TEXTS = ["the tide came in", "The tide, unheard-of!", "zzz", "a", "", "in the the [CLS] tide"]
WORDS = "[PAD] [UNK] [CLS] [SEP] the tide came in a ##s , un ##heard - of !".split()
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The accelerated tokenizer:UserWarning"
)


def word_piece():
    """A tokenizer in the manner of BERT's, which has `[CLS]` and `[SEP]` around a text, and unknown words."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def unigram():
    words = [("<unk>", 0.0), ("▁the", -1.0), ("▁tide", -2.0), ("▁in", -3.0), ("a", -4.0), ("▁", -5.0), ("t", -6.0)]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def table(rows, width=8, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(rows, width)).astype(dtype)


def vectors(name, **options):
    model, tokenizer = from_static(name)
    return Embedder(model, tokenizer, pooling=model.config.pooling, **options).encode(TEXTS)


def save_model2vec(folder, rows, tokenizer, **parts):
    """Save a model2vec model and return what the library encodes with it."""
    named = {name: parts[name] for name in ("max_length", "normalize") if name in parts}
    config = {"model_type": "model2vec", **named}
    StaticModel(rows, tokenizer, config, **parts).save_pretrained(folder)
    return lambda texts: StaticModel.from_pretrained(folder, force_download=False).encode(texts)


@pytest.mark.parametrize(
    ("make", "dtype", "parts"),
    [
        (word_piece, np.float32, {}),
        (word_piece, np.float16, {"normalize": True}),
        (unigram, np.float32, {"normalize": True}),
        (word_piece, np.float32, {"weights": np.linspace(0.1, 2, 16), "token_mapping": np.arange(16) % 5}),
    ],
)
def test_model2vec(make, dtype, parts, tmp_path):
    encode = save_model2vec(tmp_path, table(make().get_vocab_size(), dtype=dtype), make(), **parts)
    tolerance = 1e-6 if dtype == np.float32 else 2e-3
    found = vectors(tmp_path, normalize=parts.get("normalize", False))
    np.testing.assert_allclose(found, encode(TEXTS), rtol=0, atol=tolerance)


def test_model2vec_cuts_long_texts(tmp_path):
    encode, long = save_model2vec(tmp_path, table(len(WORDS)), word_piece(), max_length=3), ["a in a a in in in"]
    model, tokenizer = from_static(tmp_path)
    assert model.config.n_positions == 3
    np.testing.assert_allclose(Embedder(model, tokenizer).encode(long), encode(long), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [word_piece, unigram])
def test_static_embedding(make, tmp_path):
    tokenizer = make()
    module = StaticEmbedding(tokenizer, embedding_weights=table(tokenizer.get_vocab_size()))
    SentenceTransformer(modules=[module, Normalize()], device="cpu").save(str(tmp_path))
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors(tmp_path, normalize=True)[:5], expected[:5], rtol=0, atol=1e-6)
    ours = from_static(tmp_path)[1]  # to which a special token that is spelled out is plain text, as everywhere
    assert make is unigram or "[CLS]" not in ours.convert_ids_to_tokens(ours("the [cls]").input_ids)


def test_every_way_in_gives_the_vector(tmp_path):
    """The pair that comes back agrees with itself, saved or not, and commands load it by its name."""
    save_model2vec(tmp_path, table(len(WORDS)), word_piece())
    _, tokenizer = load_model_and_tokenizer(str(tmp_path), str(tmp_path))  # as the actors of a cluster are given them
    assert tokenizer("the").input_ids == [4]
    model, tokenizer = load_model_and_tokenizer(str(tmp_path))
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**batch).pooler_output
    np.testing.assert_allclose(found, vectors(tmp_path), rtol=0, atol=1e-6)


def test_what_is_none(tmp_path):
    with pytest.raises(ValueError, match="is neither a model2vec model nor a `StaticEmbedding`"):
        from_static(tmp_path)
    path = tmp_path / "model.safetensors"
    save_model2vec(tmp_path, table(len(WORDS)), word_piece())
    rows = load_file(path)["embeddings"]
    save_file({"embeddings": (rows * 9).astype(np.int8)}, path)
    with pytest.raises(ValueError, match="has no float table named"):
        from_static(tmp_path)
    save_file({"embeddings": rows[:9]}, path)
    with pytest.raises(ValueError, match="16 entries, more than the model's `vocab_size` 9"):
        from_static(tmp_path)
    save_file({"embeddings": rows}, path)
    for file, content, message in (
        ("tokenizer.json", "{}", "is not a tokenizer"),
        ("model.safetensors", "12345678", "is broken"),
        ("modules.json", "{}", "holds dict, not a list"),
    ):
        (tmp_path / file).write_text(content)
        with pytest.raises(ValueError, match=message):
            from_static(tmp_path)
