"""Sparse and dense encodings against formulas, numpy and the model."""

import numpy as np
import pytest
import torch
from tiny import new_model
from torch.nn.functional import normalize

from gpt_embeddings.analysis.encodings import compare_encodings


CAT = "O gato sentou no tapete"
CARPET = "O tapete sentou no gato"
TEXTS = [CAT, CARPET, "It rained"]


@pytest.fixture(scope="module")
def encodings(gpt2_tokenizer):
    return compare_encodings(new_model(), gpt2_tokenizer, TEXTS)


def test_only_rows_a_token_see_that_cat_and_carpet_changed_places(encodings):
    assert {e.name: e.sees_order for e in encodings} == {
        "one-hot, a row per token": True,
        "bag of words (tokens)": False,
        "TF-IDF": False,
        "pooled embeddings (mean)": False,
        "embeddings, a row per token": True,
    }
    for encoding in encodings:
        assert (encoding.similarity[0, 1] > 1 - 1e-6) == (not encoding.sees_order), encoding.name
        np.testing.assert_allclose(np.diag(encoding.similarity), 1)


def test_sparse_ones_equal_the_formulas(encodings, gpt2_tokenizer):
    """Sizes and zeros by hand; of TF-IDF, counts times ln((1 + n) / (1 + df)) + 1, as scikit-learn has it."""
    ids = [gpt2_tokenizer(text).input_ids for text in TEXTS]
    one_hot, bag, tfidf, pooled, rows = encodings
    assert len(ids[0]) == len(ids[1]) == 8
    assert one_hot.size == 8 * 50257 and one_hot.zeros == 1 - 1 / 50257
    same_places = (np.array(ids[0]) == np.array(ids[1])).mean()
    assert one_hot.similarity[0, 1] == pytest.approx(same_places) and 0 < same_places < 1
    counts = np.stack([np.bincount(row, minlength=50257) for row in ids]).astype(float)
    assert bag.size == tfidf.size == 50257
    assert bag.zeros == tfidf.zeros == pytest.approx((counts == 0).mean(), abs=1e-12)
    weights = counts * (np.log(4 / (1 + (counts > 0).sum(0))) + 1)
    for encoding, vectors in ((bag, counts), (tfidf, weights)):
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(encoding.similarity, units @ units.T, atol=1e-9)
    assert (pooled.size, rows.size) == (8, 8 * 8) and pooled.zeros == rows.zeros == 0


def test_dense_ones_equal_the_model(encodings, gpt2_tokenizer):
    model = new_model()
    outputs = [model(torch.tensor([gpt2_tokenizer(text).input_ids])) for text in TEXTS]
    pooled = normalize(torch.cat([output.pooler_output for output in outputs]).double(), dim=1)
    np.testing.assert_allclose(encodings[3].similarity, (pooled @ pooled.T).detach(), atol=1e-5)
    rows, other = (normalize(output.last_hidden_state.flatten().double(), dim=0) for output in outputs[:2])
    assert encodings[4].similarity[0, 1] == pytest.approx(float((rows @ other).detach()), abs=1e-5)


def test_bad_sentences_are_refused_and_long_ones_cut(gpt2_tokenizer):
    model = new_model()
    for sentences, message in (([CAT], "At least two sentences are needed, got 1"), ([CAT, ""], "'' has no tokens")):
        with pytest.raises(ValueError, match=message):
            compare_encodings(model, gpt2_tokenizer, sentences)
    assert compare_encodings(model, gpt2_tokenizer, [CAT, "tide " * 100])[4].size == 16 * 8
