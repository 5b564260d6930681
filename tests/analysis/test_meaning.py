"""Rank correlation and pairs against scipy and numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from gpt_embeddings.analysis.evaluation import similar_pairs, spearman


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30, unique=True), st.randoms())
def test_rank_correlation_is_scipys(values, random):
    others = random.sample(values, len(values))
    expected = spearmanr(values, others)[0]
    assert spearman(np.array(values, float), np.array(others, float)) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=30).filter(lambda values: len(set(values)) > 1), st.randoms())
def test_equal_values_share_a_rank(values, random):
    others = random.sample(values, len(values))
    expected = spearmanr(values, others)[0]
    assert spearman(np.array(values, float), np.array(others, float)) == pytest.approx(expected, abs=1e-12)


def test_pairs_are_never_of_a_text_with_itself():
    vectors = np.random.default_rng(0).normal(size=(600, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second, cosines = similar_pairs(vectors, seed=1)
    assert (first == np.arange(600)).all() and (first != second).all()
    np.testing.assert_allclose(cosines, (vectors[first] * vectors[second]).sum(1), atol=1e-6)
    ranks = ((vectors @ vectors.T)[first] > cosines[:, None] + 1e-6).sum(
        1
    )  # texts nearer than the partner, and itself
    assert set(ranks) == {1, 2, 4, 10, 30, 100, 500}
    again = similar_pairs(vectors, seed=1)
    assert (again[1] == second).all()


def test_too_few_texts():
    with pytest.raises(ValueError, match="at least 3 texts, got 2"):
        similar_pairs(np.eye(2))
