"""Nearest rows and projections against numpy and against tables made by hand."""

import copy
import math
import unicodedata

import numpy as np
import pytest
import torch
from tiny import new_model
from tokenizers import normalizers, pre_tokenizers

from gpt_embeddings.analysis.neighbours import Neighbours, describe_chance, spelling_variants
from gpt_embeddings.analysis.projections import has_umap, project


@pytest.fixture(scope="module")
def index(gpt2_tokenizer):
    return Neighbours(new_model(n_embd=32), gpt2_tokenizer)


def make_royal(tokenizer, **more):
    """A table in which royalty and sex are directions of their own."""
    model = new_model(n_embd=4, initializer_range=0.0)
    rows = {"Ġking": (1, 1, 0, 0), "Ġqueen": (1, 0, 1, 0), "Ġman": (0, 1, 0, 0), "Ġwoman": (0, 0, 1, 0)}
    for token, row in {**rows, "Ġtide": (0, 0, 0, 1), **more}.items():
        model.wte.weight.data[tokenizer.convert_tokens_to_ids(token)] = torch.tensor(row).float()
    return Neighbours(model, tokenizer)


@pytest.fixture(scope="module")
def royal(gpt2_tokenizer):
    return make_royal(gpt2_tokenizer)


@pytest.mark.parametrize("word", ["tide", "gato"])
@pytest.mark.parametrize("exclude_inputs", [True, False])
def test_neighbours_equal_numpy(index, gpt2_tokenizer, word, exclude_inputs):
    table = index.table.double().numpy()
    ids = gpt2_tokenizer(f" {word}").input_ids
    query = table[ids].mean(0)
    cosines = table @ query / np.linalg.norm(table, axis=1) / np.linalg.norm(query)
    if exclude_inputs:
        cosines[ids] = -2
    expected = np.argsort(-cosines)[:10]
    asked, found = index.of_word(word, exclude_inputs=exclude_inputs)
    assert asked.input_ids == tuple(ids) and asked.label == {"tide": "␣tide", "gato": "␣g·ato"}[word]
    assert torch.equal(asked.vector, index.table[ids].mean(0))
    assert [near.input_ids[0] for near in found] == expected.tolist()
    np.testing.assert_allclose([near.score for near in found], cosines[expected], rtol=1e-4)


@pytest.mark.parametrize("exclude_inputs", [True, False])
def test_analogies_equal_numpy(index, gpt2_tokenizer, exclude_inputs):
    table = index.table.double().numpy()
    units = table / np.linalg.norm(table, axis=1, keepdims=True)
    ids = gpt2_tokenizer.convert_tokens_to_ids(["Ġking", "Ġman", "Ġwoman"])
    a, b, c = units[ids]
    ranking = np.maximum(units @ a, 0) * np.maximum(units @ c, 0) / (np.maximum(units @ b, 0) + 0.2)
    if exclude_inputs:
        ranking[ids] = 0
    expected = np.argsort(-ranking)[:10]
    words, found = index.analogy("king", "man", "woman", exclude_inputs=exclude_inputs)
    assert [word.label for word in words] == ["␣king", "␣man", "␣woman"]
    assert [near.input_ids[0] for near in found] == expected.tolist()
    cosines = units[expected] @ (a - b + c) / np.linalg.norm(a - b + c)
    np.testing.assert_allclose([near.score for near in found], cosines, rtol=1e-4)


def test_case_space_and_plural_make_no_other_word(gpt2_tokenizer):
    near = {"ĠKing": 0.9, "King": 0.8, "ĠQueen": 0.7, "Queen": 0.6}
    royal = make_royal(gpt2_tokenizer, **{token: (1, value, 1 - value, 0) for token, value in near.items()})
    _, found = royal.of_word("king", count=2)
    assert [near.text for near in found] == ["␣Queen", "␣man"]  # of cosines 0.93 and 0.71; ` queen` has 0.5
    _, found = royal.of_word("king", count=2, exclude_inputs=False)
    assert [near.text for near in found] == ["␣king", "␣Queen"]
    royal = make_royal(gpt2_tokenizer, Ġkings=(1, 1, 0, 0), Ġqueens=(1, 0, 1, 0))
    for word, other in (("king", "␣kings"), ("kings", "␣king")):
        assert other not in {near.text for near in royal.of_word(word, 9)[1]}
        assert other in {near.text for near in royal.of_word(word, 9, exclude_inputs=False)[1]}
    assert royal.analogy("kings", "man", "woman", 1)[1][0].text in ("␣queen", "␣queens")


WORD_LIST = ["queen", "cats", "catatonic", "Lions", "leões", "gato", "gatos", "Tide"]


@pytest.mark.parametrize("pooling", ["mean", "weighted"])
def test_words_are_searched_by_the_vectors_that_the_model_gives_them(gpt2_tokenizer, pooling):
    model = new_model(position_embedding_type="none", pooling=pooling)
    if pooling == "weighted":
        model.token_weights.copy_(torch.rand(50_257) + 0.1)
    index = Neighbours(model, gpt2_tokenizer, words=[*WORD_LIST, "TIDE", " gato"])
    for word, row in zip(index.words, index.vectors, strict=True):
        ids = torch.tensor([gpt2_tokenizer(f" {word}").input_ids])
        torch.testing.assert_close(row, model(ids).pooler_output[0])
        assert torch.equal(row, index.find(word).vector)
    cosines = torch.cosine_similarity(index.vectors, torch.ones(1, 8))
    found = index.nearest(np.ones(8), 99)
    expected = {word: float(cosine) for word, cosine in zip(index.words, cosines, strict=True)}
    best = "Tide" if expected["Tide"] > expected["TIDE"] else "TIDE"  # one word, shown by its best spelling
    assert {near.text: near.score for near in found} == pytest.approx(
        {word: expected[word] for word in {*WORD_LIST} - {"Tide"} | {best}}
    )
    assert [near.score for near in found] == sorted((near.score for near in found), reverse=True)
    with pytest.raises(ValueError, match=r"`candidates` .* or `words`, not both"):
        Neighbours(model, gpt2_tokenizer, [1], words=["a"])


def test_spelling_variants_are_no_answers(index, gpt2_tokenizer):
    index = Neighbours(index.model, gpt2_tokenizer, words=WORD_LIST)
    for query, left_out in {
        "Queens": {"queen"},
        "cat": {"cats", "catatonic"},  # ␣cat·at·onic has the token of the query
        "lion": {"Lions"},
        " Leão": {"leões"},
        "GATO": {"gato", "gatos"},
    }.items():
        assert {near.text for near in index.of_word(query, 99)[1]} == set(WORD_LIST) - left_out
        assert {near.text for near in index.of_word(query, 99, exclude_inputs=False)[1]} == set(WORD_LIST)


def test_singular_and_plural_are_variants_of_each_other():
    for pair in (
        "cat cats,city cities,wolf wolves,knife knives,Woman women,bus buses,avião aviões,pão pães,mão mãos,"
        "flor flores,homem homens,animal animais,papel papéis,barril barris,fácil fáceis,azul azuis,avó AVÔS"
    ).split(","):
        singular, plural = map(spelling_variants, pair.split())
        first, second = unicodedata.normalize("NFKD", pair.lower()).encode("ascii", "ignore").decode().split()
        assert {first, second} <= singular & plural, pair


def test_zero_rows_are_never_neighbours(royal):
    _, found = royal.of_word("tide", count=9)
    assert {near.text for near in found} == {"␣king", "␣queen", "␣man", "␣woman"}
    assert [near.score for near in found] == [0, 0, 0, 0]
    assert len(royal.analogy("king", "man", "woman", exclude_inputs=False)[1]) == 1  # no other row is similar to both


def test_a_vector_is_searched_by(index, royal):
    """A centroid in numpy, a list, a tensor that needs a gradient, and squares beyond float32."""
    centroid = np.mean([royal.find(word).vector.numpy() for word in ("king", "queen")], axis=0)
    needs_gradient, huge = torch.tensor(centroid, requires_grad=True), centroid * np.float32(1e30)
    for vector in (centroid, centroid.tolist(), needs_gradient, huge):
        assert [near.text for near in royal.nearest(vector, 2)] == ["␣king", "␣queen"]
    centroid.flags.writeable = False
    assert royal.nearest(centroid.astype(np.float16), 1)[0].score == pytest.approx(math.sqrt(3) / 2, abs=1e-3)
    assert 30_000 < len(index.nearest(np.ones(32), 10**6)) < 50_257  # all words


def test_vectors_that_cannot_be_searched_by(royal):
    for vector, message in (
        (np.zeros(4), "Cannot search with a zero vector"),
        (np.array([1, np.nan, 0, 0]), "not finite"),
        (np.ones((1, 4)), r"must have the shape \(4,\), got \(1, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            royal.nearest(vector)
    with pytest.raises(ValueError, match="zero vector"):
        royal.of_word("gato")


def test_rows_that_no_text_can_reach_are_never_neighbours(gpt2_tokenizer):
    """With a tokenizer that makes text lower case and puts a space before it, `Mug` and `MUG` are never produced."""
    tokenizer = copy.deepcopy(gpt2_tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    model = new_model(n_embd=4)
    ids = {word: gpt2_tokenizer(f" {word}").input_ids[0] for word in ("king", "King", "Queen", "é", "É")}
    model.wte.weight.data[list(ids.values())] = torch.ones(4)
    cased, uncased = Neighbours(model, gpt2_tokenizer), Neighbours(model, tokenizer)
    assert {near.text.lower() for near in cased.nearest(np.ones(4), 3)} == {"␣king", "␣queen", "␣é"}
    assert not {near.text for near in uncased.nearest(np.ones(4), 10**6)} & {"␣King", "␣Queen", "␣É"}
    assert {ids["king"], ids["é"]} <= set(uncased.rows.tolist())
    results = [uncased.of_word(word) for word in ("Mug", "mug", " mug", "MUG")]
    assert all(found == results[0][1] and word.input_ids == results[0][0].input_ids for word, found in results)
    named = Neighbours(model, gpt2_tokenizer, [ids["King"], ids["Queen"]])
    assert {near.input_ids[0] for near in named.nearest(np.ones(4))} == {ids["King"], ids["Queen"]}


def test_chance_is_what_random_tables_give(index):
    generator = torch.Generator().manual_seed(1)
    units = index.table / index.table.norm(dim=1, keepdim=True)
    best = []
    for _ in range(40):
        query = torch.randn(32, generator=generator)
        best.append(float((units @ (query / query.norm())).max()))
    assert np.median(best) == pytest.approx(index.chance, abs=0.01)


def test_an_untrained_table_is_called_so_and_a_trained_one_is_not(index, royal, gpt2_tokenizer):
    assert index.looks_random
    assert "its neighbours are near by chance" in describe_chance(index, index.chance)
    assert "is higher than that" in describe_chance(index, 0.9)
    assert not royal.looks_random
    trained, partly = new_model(n_embd=32), new_model(n_embd=32)
    trained.wte.weight.data += 0.01  # a common direction, as trained tables have
    partly.wte.weight.data[:2000] *= 2  # few rows have been trained, which pairs of rows hardly show
    trained, partly = (Neighbours(model, gpt2_tokenizer) for model in (trained, partly))
    assert not trained.looks_random and not partly.looks_random
    assert "no score here is higher" in describe_chance(trained, 0.1)
    assert describe_chance(trained, 0.99).endswith(f"about {trained.chance:.2f}.")


def test_broken_tables_are_refused(gpt2_tokenizer):
    model = new_model()
    model.wte.weight.data[7, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        Neighbours(model, gpt2_tokenizer)
    with pytest.raises(ValueError, match="more than the model's `vocab_size` 50"):
        Neighbours(new_model(vocab_size=50), gpt2_tokenizer)


def test_an_axis_has_one_direction():
    """The axis is (-1, 2) / sqrt(5): its largest weight is positive. Dimensions that are not filled are zeros."""
    found = project(torch.tensor([[0.0, 0.0], [1.0, -2.0], [2.0, -4.0]]), 3)
    np.testing.assert_allclose(found.points, np.outer([math.sqrt(5), 0, -math.sqrt(5)], [1, 0, 0]), atol=1e-6)
    assert found.shares == pytest.approx((1, 0, 0))


def test_what_cannot_be_projected_is_refused():
    for vectors, method, message in (
        (torch.zeros(0, 3), "pca", "nothing to project"),
        (torch.tensor([[math.inf, 1.0]]), "pca", "not finite"),
        (torch.zeros(2, 3), "tsne", "'pca' or 'umap', got 'tsne'"),
    ):
        with pytest.raises(ValueError, match=message):
            project(vectors, method=method)


@pytest.mark.skipif(has_umap(), reason="umap-learn is installed")
def test_umap_that_is_missing_is_named():
    with pytest.raises(ImportError, match="pip install umap-learn"):
        project(torch.zeros(9, 3), method="umap")
