"""The page of `explore`: its views as functions, its command, and the page itself in headless Chromium."""

import gc
import os
import re
import socket
import sys
import urllib.request

import numpy as np
import pytest
import torch
from command import refuse, run
from tiny import new_model

from gpt_embeddings import GPTEmbeddingsModel


pytest.importorskip("gradio", reason="the extra `explore` is not installed")

from gpt_embeddings.bundled import ENGLISH, PORTUGUESE
from gpt_embeddings.explore.tables import escape_text
from gpt_embeddings.explore.translation import translate
from gpt_embeddings.explore.views import (
    ALL_TOKENS,
    AROUND,
    TOKENS,
    VIEWS,
    WORDS,
    LazyModel,
    ViewResult,
    notes_to_html,
    sizes_to_html,
    table_to_html,
)


TEXT, MAP, NEIGHBOURS, POSITIONS, DENSE, COSTS = VIEWS
MARKUP = "<img src=x onerror='window.ran=1'><b>bold</b> {{constructor}} ${7*7} `x` $y$"


@pytest.fixture(scope="module")
def model(saved):
    return LazyModel.from_pretrained(str(saved / "before"))


def show(view, model, *values, language="en"):
    """Return a view with values, and with those that it begins with in the other fields."""
    first = [field.value for field in view.fields.values()]
    return view.render(model, *values, *first[len(values) :], language=language)


# ---- views as functions


def test_bad_input_becomes_a_message(model):
    for view, values, message in (
        (TEXT, [""], "The text is empty; type a few words."),
        (TEXT, ["a\ud800"], r"lone surrogate '\\ud800'"),
        (MAP, [WORDS, " , "], "There are no words"),
        (MAP, [WORDS, ",".join(map(str, range(201)))], "201 words; at most 200"),
        (MAP, [TOKENS, ""], "The text is empty"),
        (NEIGHBOURS, [""], "There is no word"),
        (NEIGHBOURS, ["king", "man"], "Fill both or neither"),
        (DENSE, ["one line"], "At least two sentences are needed, got 1"),
        (DENSE, ["a\n" * 13], "13 sentences; at most 12"),
        (COSTS, [0, 1, 1], "`vocab_size` must be an integer from 1"),
        (COSTS, [10, 1.5, 1], "`n_positions` must be int, got 1.5"),
        (COSTS, [None, 1, 1], "`vocab_size` must be int, got None"),
        (COSTS, [10, 1, float("nan")], "`n_embd` must be int, got nan"),
    ):
        result = show(view, model, *values)
        assert result.failed and not result.figures
        assert re.search(message, result.notes[0])
        assert show(view, model, *values, language="pt").notes != result.notes or "surrogate" in message
        assert 'role="alert"' in notes_to_html(result)


def words_of(figure):
    """Return every title, name, note and hover text of a figure, without the labels of words and tokens."""
    axes = [*figure.select_xaxes(), *figure.select_yaxes(), figure.layout]
    texts = [axis.title.text for axis in axes] + [trace.name for trace in figure.data]
    texts += [name for trace in figure.data if trace.type == "heatmap" for name in trace.y if isinstance(name, str)]
    for trace in figure.data:
        hover = [] if trace.customdata is None else np.array(trace.customdata, object).ravel().tolist()
        texts += [trace.hovertemplate, *(text for text in hover if re.search("<br>(?!ids )", str(text)))]
    return {text for text in [*texts, *(note.text for note in figure.layout.annotations)] if text}


SAME = {"n_embd", "‖token‖", "TF-IDF", "bag of words (tokens)", "%{customdata}<br>%{y}: %{z:.3f}<extra></extra>"}
SAME |= {"%{customdata}<extra></extra>", *"123456789"}


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_every_view_shows_its_first_values_in_two_languages(view, model):
    english, result = show(view, model), show(view, model, language="pt")
    assert not english.failed and not result.failed, english.notes + result.notes
    assert len(english.figures) == len(result.figures) == view.n_figures
    labels = [field.label for field in view.fields.values()] + [c for f in view.fields.values() for c in f.choices]
    same = {"vocab_size", "n_positions", "n_embd", "PCA", "UMAP", "tokens", "17 tokens."}
    for text in {view.name, view.about, *labels, *english.notes} - same:
        assert translate(text, "pt") != text, text
    for one, other in zip(english.figures, result.figures, strict=True):
        assert not words_of(one) & words_of(other) - SAME
    if english.table:
        assert not {c for c in english.table.columns if " " in c} & set(result.table.columns)


def test_numbers_in_portuguese(model):
    table, figure = show(COSTS, model, 1000, 64, 32, language="pt").table, show(COSTS, model, language="pt").figures[0]
    assert [value in table.to_html() for value in ("<td>133,0 KiB</td>", ">32.000<")] == [True, True]
    assert figure.layout.separators == ",." and "150,2 MiB" in figure.data[1].customdata
    assert "1.001 tokens, cortados nos primeiros 64" in show(TEXT, model, "a " * 1000, language="pt").notes[0]
    assert [row[1] for row in show(TEXT, model, "1.5", language="pt").table.rows] == ["1", ".", "5"]


def test_words_of_the_visitor_are_not_translated(model):
    result = show(MAP, model, WORDS, "position, no, norm", language="pt")
    assert [mark.text for mark in result.figures[0].layout.scene.annotations] == ["position", "no", "norm"]
    result = show(TEXT, model, "position no", language="pt")
    assert [row[1] for row in result.table.rows] == ["position", "␣no"]


def test_what_nobody_foresaw_becomes_a_message_too(model, caplog):
    def fail(loaded, text):
        raise KeyError("x")

    view = type(TEXT)("Text", "", TEXT.fields, fail)
    result = view.render(model, "tide")
    assert result.failed and result.notes == ("This could not be shown (KeyError: 'x').",)
    assert "A view failed." in caplog.text and "KeyError" in caplog.text


def test_notes_say_what_was_cut(model):
    long = "tide " * 99
    assert "cut to the first 64: the model has no more positions" in show(TEXT, model, long).notes[0]
    assert "cut to the first 64" in show(MAP, model, TOKENS, long).notes[1]
    notes = show(DENSE, model, "a tide\n" + long).notes
    assert notes[2] == "Cut to the model's 64 positions (`n_positions`): sentence 2."


@pytest.mark.parametrize("kind", ["none", "zero"])
def test_a_model_without_positions_shows_those_of_others(gpt2_tokenizer, kind):
    made = new_model(n_positions=64, position_embedding_type="none" if kind == "none" else "learned")
    if kind == "zero":
        made.wpe.weight.data.zero_()
    model = LazyModel("tides", lambda: (made, gpt2_tokenizer))
    for view, fields in ((TEXT, ["a tide"]), (MAP, [TOKENS, "a tide"]), (DENSE, ["a tide\ntwo tides"])):
        result = show(view, model, *fields)
        notes = " ".join(result.notes)
        assert "+ position" not in notes and "positions are also part" not in notes
        assert view is DENSE or "The model has no positions: each vector is its token's row." in notes
    result = POSITIONS.render(model)
    assert result.notes[0] == "The model has no positions: each vector is its token's row."
    sinusoidal, learned = (np.array(figure.data[0].z) for figure in result.figures[:2])
    assert sinusoidal.shape == learned.shape == (64, 64) and len(result.figures) == POSITIONS.n_figures
    # Distance decides: exactly for sinusoids, about so for learned positions, of which near ones are similar.
    np.testing.assert_allclose(sinusoidal[0, 5:20], sinusoidal[30, 35:50], atol=1e-5)
    assert np.diagonal(learned, 1).mean() > 0.8 > np.diagonal(learned, 16).mean() > np.diagonal(learned, 32).mean()


def test_inputs_are_left_out_by_choice(model):
    own = model.load().tokens.find("king").input_ids[0]
    for leave_out in (True, False):
        rows = show(NEIGHBOURS, model, "king", "", "", ALL_TOKENS, leave_out).table.rows
        assert (own in [row[2] for row in rows]) is not leave_out
    assert rows[0][2] == own and rows[0][3] == pytest.approx(1)
    assert "Asked for: ␣king, ␣man, ␣woman." in show(NEIGHBOURS, model, "king", "man", "woman").notes[0]


def test_words_are_searched_where_a_model_has_a_list_of_them(saved, model):
    listed = LazyModel.from_pretrained(str(saved / "after"))
    result = show(NEIGHBOURS, listed, "gato")
    assert result.table.columns == ("rank", "word", "tokens", "cosine")
    assert {row[1:3] for row in result.table.rows} == {("rei", "␣re·i"), ("rainha", "␣rain·ha")}
    assert "Split into several tokens, searched by the mean of their rows: gato." in result.notes[0]
    assert set(result.figures[0].data[0].y) == {"rei", "rainha"}
    assert {row[1] for row in show(NEIGHBOURS, listed, "King").table.rows} == {"cat", "queen"}
    around = show(MAP, listed, AROUND, "gato")
    assert {mark.text for mark in around.figures[0].layout.scene.annotations} == {"gato", "rei", "rainha"}
    assert "Split into several tokens" in around.notes[0]
    assert show(NEIGHBOURS, listed, "gato", "", "", ALL_TOKENS).table.columns[1:3] == ("token", "id")
    result = show(NEIGHBOURS, model, "gato")
    assert result.table.columns[1] == "token"
    assert result.notes[-1] == "This model has no word list, so its tokens are searched."


def test_the_bundled_tables_know_words():
    for name, queries in (
        (ENGLISH, {"king - man + woman": ["queen"], "cat": ["kitten", "kitty", "kittens"]}),
        (PORTUGUESE, {"king - man + woman": ["queen"], "rei - homem + mulher": ["rainha"]}),
    ):
        model = LazyModel.from_pretrained(name)
        for query, answers in queries.items():
            result = show(NEIGHBOURS, model, *re.split(" [-+] ", query))
            assert {row[1] for row in result.table.rows[: len(answers)]} == set(answers)
            assert re.search(r"A table of \d\d,\d{3} x 256 random numbers", result.notes[-1])


def test_html_of_ours_is_text():
    html = notes_to_html(ViewResult(notes=(MARKUP,))) + escape_text(MARKUP)
    assert re.findall(r"<(\w+)", html) == ["p"]
    assert not set("{}$`'") & set(html)
    table = TEXT.render(LazyModel.from_pretrained(None), MARKUP).table
    assert "<img" not in table_to_html(table, MARKUP, "en") and "{" not in table_to_html(table, MARKUP, "en")


# ---- models


def test_a_model_is_loaded_once_and_again_after_an_error(gpt2_tokenizer):
    calls = []

    def load():
        calls.append(1)
        if len(calls) < 3:
            raise OSError("no such file")
        return new_model(), gpt2_tokenizer

    model = LazyModel("<b>", load)
    assert "&#60;b&#62;</strong> could not be loaded. no such file" in sizes_to_html(model, "en")
    with pytest.raises(OSError, match="no such file"):
        model.load()
    assert model.load() == model.load() and len(calls) == 3


def test_a_model_that_does_not_load_says_why(tmp_path):
    for make, message in (
        (lambda folder: None, "No model at"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'), "model.safetensors"),
        (lambda folder: new_model(vocab_size=9).save_pretrained(folder), "50257 entries, more than"),
    ):
        make(tmp_path)
        html = sizes_to_html(LazyModel.from_pretrained(str(tmp_path)), "en")
        assert 'role="alert"' in html and message in html and "Traceback" not in html


# ---- the command


def test_a_space_is_complete(saved, tmp_path):
    run("explore", saved / "before", "--compare", saved / "after", "--export", tmp_path / "space")
    space = tmp_path / "space"
    assert {path.name for path in space.iterdir()} == {"README.md", "app.py", "model-1", "model-2", "requirements.txt"}
    assert 'main("model-1", "model-2")' in (space / "app.py").read_text().replace("'", '"')
    card = (space / "README.md").read_text()
    assert card.startswith("---\ntitle: ") and "\nsdk: gradio\n" in card and "\napp_file: app.py\n" in card
    for path in space.rglob("*.*"):  # where the models were is nobody's business
        assert str(saved).encode() not in path.read_bytes(), path
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(card.split("---")[1])["sdk_version"]
    assert (space / "requirements.txt").read_text().startswith("gpt-embeddings[explore,offline]==")
    loaded = GPTEmbeddingsModel.from_pretrained(space / "model-1")
    assert torch.equal(loaded.wte.weight, GPTEmbeddingsModel.from_pretrained(saved / "before").wte.weight)
    assert sorted(path.parent.name for path in space.rglob("words.*.txt")) == ["model-2"] * 2


@pytest.mark.slow
def test_a_report_asks_nothing_of_a_network(saved, tmp_path):
    path = tmp_path / "report.html"
    run("explore", saved / "before", "--report", path)
    page = path.read_text(encoding="utf-8")
    ours = page.replace(re.search(r"<script>.*?</script>", page, re.DOTALL)[0], "")
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", ours) and "@import" not in ours
    assert page.count('class="plotly-graph-div"') == sum(view.n_figures for view in VIEWS)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_model_that_is_not_there_leaves_no_output(tmp_path):
    for option in ("--report", "--export"):
        refuse("does not exist", "explore", tmp_path / "none", option, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_cannot_be_listened_at_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        # A name of RFC 5737.
        for option, reason in ((("--port", port), "Address already in use"), (("--host", "192.0.2.1"), "192.0.2.1")):
            refuse(reason, "explore", "--no-browser", *option)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Gradio leaves sockets and event loops open
def test_the_command_serves_the_loopback_until_interrupted(saved, monkeypatch):
    served = []

    def interrupt(page):
        """What a visitor sees, and then Ctrl-C."""
        served.append(page)
        with urllib.request.urlopen(page.local_url) as answer:
            assert b"The input stage of a GPT" in answer.read()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", page.server_port), timeout=2)
        raise KeyboardInterrupt

    monkeypatch.setattr("gradio.Blocks.block_thread", interrupt)
    monkeypatch.setattr(os, "_exit", sys.exit)  # of the command, which does not wait for its threads
    result = run("explore", saved / "before", "--no-browser")
    assert re.fullmatch(r"Page: http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)\n", result.stdout)
    assert result.stderr == "Loading PyTorch, transformers and Gradio ...\n"
    served.pop().close()
    gc.collect()
