"""The page of `explore` in a real browser: headless Chromium, driven by Playwright."""

import gc
import re
import socket
import urllib.request
from urllib.error import HTTPError

import pytest


pytest.importorskip("gradio", reason="the extra `explore` is not installed")
pytest.importorskip("playwright", reason="playwright, of the extra `test`, is not installed")

from browser import find_chromium, open_browser
from command import ROOT

from gpt_embeddings.explore.export import write_report
from gpt_embeddings.explore.page import launch_page
from gpt_embeddings.explore.translation import translate
from gpt_embeddings.explore.views import SHOW, VIEWS, LazyModel


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Gradio leaves sockets and event loops open
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium here: `apt-get install chromium`"),
]

MARKUP = "<img src=x onerror='window.ran=1'><script>window.ran=1</script><b>bold</b> {{constructor}} ${7*7}"


@pytest.fixture(scope="module")
def urls(saved):
    """Addresses of a page that compares, of one model, of a model that is missing, and of one model in Portuguese."""
    before, after, none = (LazyModel.from_pretrained(str(saved / name)) for name in ("before", "after", "none"))
    models = {"compared": [before, after], "single": [before], "missing": [none], "portuguese": [before]}
    pages = {name: serve(some, "pt" if name == "portuguese" else None) for name, some in models.items()}
    yield {name: page.local_url for name, page in pages.items()}
    while pages:
        pages.popitem()[1].close()
    gc.collect()


def serve(models, language):
    with socket.socket() as free:  # workers of one run must not look for the first free port together
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return launch_page(models, port=port, language=language)


@pytest.fixture(scope="module")
def new_page():
    with open_browser() as new_page:
        yield new_page


@pytest.fixture(scope="module")
def single(new_page, urls):
    """The page of one model; tests go on where the one before left it."""
    watched = new_page()
    watched.open(urls["single"])
    yield watched
    watched.page.close()


@pytest.fixture
def page(single):
    """The page on its first tab; whatever the test does, nothing may go wrong in it."""
    single.page.get_by_role("tab", name="Text", exact=True).click()
    yield single.page
    assert single.faults == []


def show_text(page, text):
    """Put a text into the field, ask for it, and return the notes that come."""
    page.evaluate("document.querySelectorAll('.note, .failed').forEach(note => note.remove())")
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Show").locator("visible=true").click()
    notes = page.locator(".note:visible, .failed:visible")
    notes.first.wait_for()
    return notes.first.inner_text()


def test_texts(page):
    assert page.title() == "gpt-embeddings explore"
    facts = page.locator(".facts").inner_text()
    assert "50,257 tokens x 16 dimensions, 64 positions (learned); most of its token rows look untrained" in facts
    assert page.locator("tbody tr").count() == 17
    texts = {
        "😀 é\n": ("4 tokens.", "⟨F0 9F 98⟩"),
        "tide " * 20_000: ("cut to the first 64: the model has no more positions (`n_positions`)", "␣tide"),
    }
    for text, (note, token) in texts.items():
        assert note in show_text(page, text)
        assert any(token in cell for cell in page.locator("tbody:visible td").all_inner_texts()), text[:40]
    assert "The text is empty; type a few words." in show_text(page, "")
    assert page.get_by_role("alert").locator("visible=true").count() == 1
    assert page.locator(".js-plotly-plot:visible").count() == 0


def test_markup_is_shown_and_not_run(page, single):
    assert "40 tokens." in show_text(page, MARKUP)
    single.choose("Map", 1)
    page.get_by_label("Words separated by commas").fill(f"cat, {MARKUP}, <a href='javascript:window.ran=1'>x</a>")
    page.get_by_role("button", name="Show").locator("visible=true").click()
    label = page.locator(".annotation-text:visible").filter(has_text="onerror")
    label.first.wait_for()
    assert label.first.text_content() == MARKUP.split(",")[0].strip()
    assert page.evaluate("window.ran") is None
    assert page.locator("img[src=x], .js-plotly-plot a:not(.modebar-btn), .js-plotly-plot b").count() == 0
    page.get_by_role("tab", name="Text", exact=True).click()
    show_text(page, "<b>gato")
    single.wait_for_figures(1)
    box = page.locator(".js-plotly-plot:visible .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 4)
    page.mouse.move(box["x"] + 8, box["y"] + 8)
    hover = page.locator(".hoverlayer .hovertext")
    hover.wait_for()
    assert re.fullmatch(r"position 0token <id 27cos\(sum, token\): -?0\.\d{3}", hover.text_content())


def test_every_tab_draws_and_says_what_is_missing(page, single):
    for view in VIEWS[1:]:
        single.choose(view.name, view.n_figures)
        assert page.get_by_role("alert").locator("visible=true").count() == 0, view.name
    page.get_by_label("n_embd").fill("0")
    page.get_by_role("button", name="Show").locator("visible=true").click()
    page.locator(".failed:visible").filter(has_text="n_embd").wait_for()
    page.get_by_label("n_embd").fill("12288")
    page.get_by_role("button", name="Show").locator("visible=true").click()
    page.locator("td:visible").filter(has_text="617,558,016").first.wait_for()
    single.choose("Neighbours", 1)
    page.get_by_label("Word (a)").fill("king")
    page.get_by_label("minus (b)").fill("man")
    page.get_by_role("button", name="Show").locator("visible=true").click()
    page.locator(".failed:visible").filter(has_text="Fill both or neither").wait_for()
    page.get_by_label("plus (c)").fill("woman")
    page.get_by_label("plus (c)").press("Enter")
    page.locator(".note:visible").filter(has_text="Asked for: ␣king, ␣man, ␣woman.").wait_for()
    assert page.locator("tbody:visible tr").count() == 10


def test_the_keyboard_reaches_everything(page, single):
    page.get_by_role("tab", name="Text", exact=True).focus()
    page.keyboard.press("Tab")
    reached = []
    for _ in range(40):
        reached.append(
            page.evaluate(
                """() => {const e = document.activeElement;
                return e.getAttribute('role') === 'tab' ? 'tab ' + e.innerText : e.className.includes('prose-table')
                ? 'table' : e.tagName}"""
            )
        )
        page.keyboard.press("Tab")
    assert {"tab Costs", "TEXTAREA", "BUTTON", "table"} <= set(reached), reached
    page.get_by_role("tab", name="Costs", exact=True).focus()
    page.keyboard.press("Enter")
    single.wait_for_figures(1)
    page.get_by_label("n_embd").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("1600")
    page.keyboard.press("Enter")
    page.locator("tbody:visible tr").first.filter(has_text="80,411,200").wait_for()


CONTRAST = """selector => {
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = element => {
        for (let e = element; e; e = e.parentElement) {
            const colour = parse(getComputedStyle(e).backgroundColor);
            if (colour.length === 3 || colour[3] > 0.9) return colour;
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll(selector)].filter(e => e.getClientRects().length && e.textContent.trim())
        .map(e => {
            const style = getComputedStyle(e);
            const ink = e instanceof SVGElement ? style.fill : style.color;
            const [a, b] = [luminance(parse(ink)), luminance(ground(e))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 40)];
        }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize(("dark", "n_views"), [(False, 3), (True, 2)], ids=["light", "dark"])
def test_a_narrow_page_can_be_read(new_page, urls, dark, n_views):
    watched = new_page(width=400, height=800, dark=dark)
    watched.open(urls["single"])
    page = watched.page
    texts = (
        "h1, .facts, .note, th, td, label > span, .js-plotly-plot .infolayer text, .js-plotly-plot [class*=tick] text"
    )
    for view, figures in (("Text", 1), ("Neighbours", 1), ("Positions", 5))[:n_views]:
        if page.get_by_role("tab", name=view, exact=True).locator("visible=true").count() == 0:
            page.locator(".overflow-menu button").first.click()
            page.locator(".overflow-dropdown").get_by_text(view, exact=True).click()
            watched.wait_for_figures(figures)
        elif view != "Text":
            watched.choose(view, figures)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, view
        widths = page.locator(".js-plotly-plot:visible").evaluate_all("plots => plots.map(p => p.clientWidth)")
        assert all(250 < width <= 400 for width in widths), widths
        assert page.evaluate(CONTRAST, texts) == [], view
    assert watched.faults == []
    page.close()


def test_the_page_in_portuguese(new_page, urls):
    """The browser asks for Portuguese, of whatever country."""
    watched = new_page(locale="pt-PT")
    watched.open(urls["single"])
    page = watched.page
    assert page.get_by_role("heading", name="A entrada de um GPT").is_visible()
    assert "50.257 tokens x 16 dimensões, 64 posições (learned)" in page.locator(".facts").inner_text()
    for view in VIEWS:
        watched.choose(translate(view.name, "pt"), view.n_figures)
        shown = page.locator("body").inner_text()
        labels = [field.label for field in view.fields.values()] + [c for f in view.fields.values() for c in f.choices]
        assert "common." not in shown  # a text that Gradio lacks
        for text in (view.about, *labels, *([SHOW] if labels else [])):
            assert translate(text, "pt") in shown, text
            assert translate(text, "pt") == text or not re.search(rf"\b{re.escape(text)}\b", shown), text
    assert watched.faults == []
    page.close()


def test_a_picture_follows_its_fields(new_page, urls):
    """On the page of `--lang pt`, in a browser that prefers English."""
    watched = new_page()
    watched.open(urls["portuguese"])
    page = watched.page
    assert page.get_by_role("heading", name="A entrada de um GPT").is_visible()
    watched.choose("Mapa", 1)
    field = page.get_by_label("Palavras separadas por vírgulas")
    assert field.input_value().startswith("gato, cachorro, ")
    labels = page.locator(".annotation-text:visible")
    for key in ("", "Enter"):  # typing is enough
        field.press_sequentially(", avião" if not key else ", navio")
        if key:
            field.press(key)
        labels.filter(has_text="navio" if key else "avião").wait_for()
    assert labels.all_text_contents() == field.input_value().split(", ")
    watched.choose("Vizinhos", 1)
    page.get_by_label("Palavra (a)").fill("")
    page.locator(".failed:visible").filter(has_text="Falta uma palavra; digite uma.").wait_for()
    assert page.locator(".js-plotly-plot:visible").count() == 0
    page.get_by_role("radio", name="tokens", exact=True).check()
    page.get_by_label("Palavra (a)").fill("tide")
    page.locator("th:visible").filter(has_text="token").wait_for()
    page.get_by_role("radio", name="palavras", exact=True).check()
    page.locator(".note:visible").filter(has_text="Este modelo não tem lista de palavras").wait_for()
    assert watched.faults == []
    page.close()


def test_two_models_are_compared_side_by_side(new_page, urls):
    watched = new_page(width=1400)
    watched.open(urls["compared"], 2)
    page = watched.page
    facts = page.locator(".facts").all_inner_texts()
    assert len(facts) == 2 and "look untrained" in facts[0] and "look untrained" not in facts[1]
    left, right = (page.locator(".js-plotly-plot:visible").nth(i).bounding_box() for i in (0, 1))
    assert abs(left["y"] - right["y"]) < 80 and right["x"] >= left["x"] + left["width"] - 1
    watched.choose("Costs", 1)  # the same for all models
    watched.choose("Neighbours", 2)
    notes = " ".join(page.locator(".note:visible").all_inner_texts())
    assert notes.count("This table looks untrained") == 1
    assert watched.faults == []
    page.close()


def test_a_model_that_does_not_load_is_a_message(new_page, urls, saved):
    watched = new_page()
    page = watched.page
    page.goto(urls["missing"])
    page.get_by_role("alert").nth(1).wait_for()
    said = page.get_by_role("alert").all_inner_texts()
    assert "could not be loaded" in said[0] and all(str(saved / "none") in text for text in said)
    page.get_by_role("tab", name="Costs", exact=True).click()
    watched.wait_for_figures(1)  # it needs no model
    assert "Traceback" not in page.content() and watched.faults == []
    page.close()


def test_no_path_of_a_visitor_is_read(urls, saved, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (secret, saved / "before" / "config.json", ROOT / "README.md", "/etc/hostname"):
        for form in ("gradio_api/file=", "file=", "gradio_api/file=/../", "static/../../../../../../../"):
            with pytest.raises(HTTPError) as refused:
                urllib.request.urlopen(f"{urls['single']}{form}{path}")
            assert refused.value.code in (403, 404), (form, path)
            refused.value.close()


def test_a_report_works_from_a_file_alone(new_page, saved, tmp_path):
    write_report(tmp_path / "report.html", [LazyModel.from_pretrained(str(saved / "before"))])
    watched = new_page(width=700)
    watched.open((tmp_path / "report.html").as_uri(), sum(view.n_figures for view in VIEWS))
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 700
    assert watched.faults == []
    watched.page.close()
