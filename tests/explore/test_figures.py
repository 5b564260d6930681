"""Figures hold the numbers they claim to, and texts as they are."""

import json
import re

import numpy as np
import pytest
import torch
from tiny import new_model
from transformers import GPT2Config, GPT2Model


pytest.importorskip("plotly")
pytest.importorskip("sklearn")

from gpt_embeddings.analysis.decomposition import position_vectors
from gpt_embeddings.analysis.encodings import compare_encodings
from gpt_embeddings.analysis.neighbours import Neighbours
from gpt_embeddings.explore import figures, maps, tables
from gpt_embeddings.explore.tables import escape_text
from modeling_gpt_embeddings import sinusoidal_table


MARKUP = "<b>bold</b> <script>alert(1)</script> $x^2$ &amp; <a href='javascript:alert(1)'>x</a>"


@pytest.fixture(scope="module")
def model():
    return new_model(n_embd=16, n_positions=300)


@pytest.fixture(scope="module")
def index(model, gpt2_tokenizer):
    return Neighbours(model, gpt2_tokenizer)


def test_the_heat_map_of_a_text_holds_cosines_and_norms(model, gpt2_tokenizer):
    text = "O gato sentou"
    figure = figures.text_figure(model, gpt2_tokenizer, text)
    ids = gpt2_tokenizer(text).input_ids
    token = model.wte.weight.detach()[ids].double().numpy()
    position = model.wpe.weight.detach()[: len(ids)].double().numpy()
    total = token + position
    cosines, norms = figure.data
    assert list(cosines.y) == ["cos(token, position)", "cos(sum, position)", "cos(sum, token)"]  # drawn upwards
    expected = (total * token).sum(1) / np.linalg.norm(total, axis=1) / np.linalg.norm(token, axis=1)
    np.testing.assert_allclose(cosines.z[2], expected, rtol=1e-4)
    assert list(norms.y) == ["‖sum‖", "‖position‖", "‖token‖"]
    np.testing.assert_allclose(norms.z[1], np.linalg.norm(position, axis=1), rtol=1e-4)
    assert cosines.customdata[0][1] == f"position 1<br>token ␣g<br>id {ids[1]}"
    assert list(figure.layout.xaxis2.labelalias.values()) == ["O", "␣g", "ato", "␣sent", "ou"]


def test_the_table_of_a_text_says_what_was_cut(model, gpt2_tokenizer):
    table = tables.text_table(model, gpt2_tokenizer, "tide")
    assert table.caption == "2 tokens." and [row[:3] for row in table.rows] == [(0, "t", 83), (1, "ide", 485)]
    long = tables.text_table(model, gpt2_tokenizer, "a " * 1000)
    assert re.fullmatch(
        r"1,001 tokens, cut to the first 300: the model has no more positions \(`n_positions`\); "
        r"the first 256 are shown\.",
        long.caption,
    )
    assert len(long.rows) == 256
    assert figures.text_figure(model, gpt2_tokenizer, "a " * 1000).data[0].z.shape == (3, 256)


def test_the_table_of_a_text_says_what_each_piece_is_to_its_word(model, gpt2_tokenizer):
    table = tables.text_table(model, gpt2_tokenizer, "a rainha.")
    assert [row[1] for row in table.rows] == ["a", "␣rain", "ha", "."]
    first, second = (model.wte.weight[row[2]].double().detach().numpy() for row in table.rows[1:3])
    word = (first + second) / 2
    columns = [table.columns.index(name) for name in ("cos(word, token)", "share of word")]
    for row, piece in zip(table.rows[1:3], (first, second), strict=True):
        cosine = piece @ word / np.linalg.norm(piece) / np.linalg.norm(word)
        assert [row[i] for i in columns] == pytest.approx([cosine, piece @ word / (word @ word) / 2], abs=1e-5)
    assert [[row[i] for i in columns] for row in table.rows[::3]] == [pytest.approx([1, 1])] * 2
    # A special token is plain text: a, and the seven pieces of four words.
    shares = [row[columns[1]] for row in tables.text_table(model, gpt2_tokenizer, "a<|endoftext|>").rows]
    assert len(shares) == 8 and shares[0] == pytest.approx(1) and sum(shares) == pytest.approx(4, abs=1e-4)


def test_tables_escape_markup(model, gpt2_tokenizer):
    html = tables.text_table(model, gpt2_tokenizer, MARKUP).to_html()
    assert set(re.findall(r"<(\w+)", html)) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert "&#60;/" in html and "$" not in html
    assert tables.Table(("<i>",), [("<b>",)], "<u>").to_html().count("&#60;") == 3


def test_no_figure_holds_markup_of_a_text(model, index, gpt2_tokenizer):
    words = ["<b>", "<a href='javascript:alert(1)'>x</a>", "$x$"]
    drawn = [
        figures.text_figure(model, gpt2_tokenizer, MARKUP),
        maps.text_map(model, gpt2_tokenizer, MARKUP),
        maps.words_map(index, words),
        maps.neighbourhood_map(index, "<b>"),
        figures.neighbours_figure(index, index.of_word("<", 20)[1]),
    ]
    for figure in drawn:
        text = json.dumps(json.loads(figure.to_json()))  # in which `<` is written out
        assert set(re.findall(r"<[^>]*>?", text)) <= {"<br>", "<extra>", "</extra>"}
        assert "$" not in text


def test_maps_hold_words_neighbours_and_tokens_in_order(model, index, gpt2_tokenizer):
    figure = maps.words_map(index, ["cat", "dog", "gato"])
    assert [(trace.name, len(trace.x)) for trace in figure.data] == [("one token", 2), ("mean of several tokens", 1)]
    assert figure.data[1].customdata[0].startswith("␣g·ato<br>ids ")
    assert [mark.text for mark in figure.layout.scene.annotations] == ["cat", "dog", "gato"]
    assert "%" in figure.layout.scene.xaxis.title.text
    figure = maps.neighbourhood_map(index, "cat", 12)
    _, found = index.of_word("cat", 12)
    assert [len(trace.x) for trace in figure.data] == [1, 12]
    assert [mark.text for mark in figure.layout.scene.annotations][1:] == [escape_text(n.text) for n in found]
    whole, alone = maps.text_map(model, gpt2_tokenizer, "O gato sentou").data
    assert (whole.mode, alone.mode) == ("lines+markers", "markers") and len(whole.x) == len(alone.x) == 5


def test_bars_of_neighbours_hold_scores_and_chance(index):
    _, found = index.of_word("cat", 5)
    figure = figures.neighbours_figure(index, found)
    np.testing.assert_allclose(figure.data[0].x, [near.score for near in found])
    assert figure.layout.shapes[0].x0 == index.chance
    table = tables.neighbours_table(index, [index.find("gato"), index.find("cat")], found)
    asked = "Asked for: ␣g·ato, ␣cat. Split into several tokens, searched by the mean of their rows: gato."
    assert table.caption == asked
    assert table.rows[0] == (1, found[0].text, found[0].input_ids[0], found[0].score)


def test_positions_equal_numpy_and_the_paper(model):
    own, fixed = position_vectors(model), sinusoidal_table(300, 16)
    table = own.double().numpy()
    drawn = figures.position_similarity_figure(own, "Cosines").data[0]
    rows = np.array(drawn.x)
    assert len(rows) == 128 and rows[0] == 0 and rows[-1] == 299
    units = table[rows] / np.linalg.norm(table[rows], axis=1, keepdims=True)
    np.testing.assert_allclose(drawn.z, units @ units.T, atol=1e-5)
    distance = rows[5] - rows[3]  # the cosine of two sinusoids depends only on their distance
    expected = np.mean([np.cos(distance / 10000 ** (2 * i / 16)) for i in range(8)])
    assert figures.position_similarity_figure(fixed).data[0].z[5][3] == pytest.approx(expected, abs=1e-5)
    norms = figures.position_norms_figure({"own": own, "fixed": fixed}).data
    np.testing.assert_allclose(norms[0].y, np.linalg.norm(table[norms[0].x], axis=1), rtol=1e-4)
    np.testing.assert_allclose(norms[1].y, np.sqrt(8), rtol=1e-4)
    assert len(figures.position_curve_figure(own).data[0].x) == 256
    with pytest.raises(ValueError, match="position table has no rows"):
        figures.position_norms_figure({"none": own[:0]})


def test_a_model_without_positions_has_the_share_of_its_tokens(gpt2_tokenizer):
    model = new_model(position_embedding_type="none")
    table = tables.text_table(model, gpt2_tokenizer, "tide")
    shares = [table.columns.index(f"share of {part}") for part in ("token", "position")]
    assert [[row[i] for i in shares] for row in table.rows] == [pytest.approx([1, 0])] * 2


def test_a_map_of_vectors_of_ones_own():
    figure = maps.vectors_map(["dog", "<b>ant"], [[4, 30, 0], [6, 0.01, 1]])
    assert list(figure.data[0].customdata) == ["dog<br>4, 30, 0", "&#60;b&#62;ant<br>6, 0.01, 1"]
    assert float(np.ptp(figure.data[0].x)) == pytest.approx(np.linalg.norm([2, 29.99, 1]), rel=1e-5)
    with pytest.raises(ValueError, match=r"2 names need as many vectors, got the shape \(1, 3\)"):
        maps.vectors_map(["a", "b"], [[1, 2, 3]])


def test_encodings_are_drawn_side_by_side(model, gpt2_tokenizer):
    encodings = compare_encodings(model, gpt2_tokenizer, ["O gato sentou no tapete", "O tapete sentou no gato"])
    figure = figures.encodings_figure(encodings)
    for trace, encoding in zip(figure.data, encodings, strict=True):
        np.testing.assert_array_equal(trace.z, encoding.similarity)
    rows = tables.encodings_table(encodings).rows
    assert [row[-1] for row in rows] == ["yes", "no", "no", "no", "yes"]
    assert rows[0][2] == "99.998 %"


def test_costs_of_the_published_and_the_chosen():
    table = tables.costs_table(1000, 64, 32)
    assert table.rows[0] == ("chosen", 1000, 64, 32, 32_000, 2_048, 34_048, "133.0 KiB", "66.5 KiB")
    parameters = {row[0]: row[4:7] for row in table.rows[1:]}
    assert parameters["GPT-1"] == (31_087_104, 393_216, 31_480_320)
    assert parameters["GPT-2 XL"] == (80_411_200, 1_638_400, 82_049_600)
    with torch.device("meta"):
        gpt = GPT2Model(GPT2Config(n_layer=1))
    assert parameters["GPT-2"] == (gpt.wte.weight.numel(), gpt.wpe.weight.numel(), 39_383_808)
    assert table.rows[-1][6:] == (642_723_840, "2.4 GiB", "1.2 GiB")
    line, published, star = figures.costs_figure(1000, 64, 32).data
    assert list(published.text) == list(parameters)
    assert published.y[1] == 39_383_808 and star.y[0] == 34_048
    np.testing.assert_allclose(np.array(line.y) / np.array(line.x), 1064)
    with pytest.raises(ValueError, match="`n_embd` must be an integer from 1"):
        tables.costs_table(50257, 1024, 0)
