"""The page of `gpt-embeddings explore`: every view of one model, or of two side by side, in a browser.

It works offline, with the system's fonts and Gradio's copy of plotly.js. A visitor can name neither files nor models.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from gpt_embeddings.explore.tables import escape_text
from gpt_embeddings.explore.translation import EXAMPLES, PORTUGUESE, Language, translate
from gpt_embeddings.explore.views import (
    SHOW,
    TEMPLATES,
    TITLE,
    VIEWS,
    Field,
    LazyModel,
    View,
    notes_to_html,
    sizes_to_html,
    table_to_html,
)


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported, and at every launch
import gradio as gr


KEY = "text of the page: {}"
make_html = partial(gr.HTML, apply_default_css=False, js_on_load=None)  # without the styles and scripts of Gradio


def launch_page(
    models: Sequence[LazyModel],
    *,
    host: str | None = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    language: Language | None = None,
) -> gr.Blocks:
    """Build a page, serve it until the process ends, and load its models meanwhile; `local_url` is its address.

    Without a host, Gradio's environment variables name it, as in a Space; without a port it is the first free one from
    7860; without a language the page follows the browser.
    """
    # The texts that the browser translates, under keys that are no texts of fields, as Gradio translates those too.
    # Other languages fall back to English. Gradio says "Complete" to screen readers, and has no text for it.
    english, portuguese = {"common.complete": "Complete"}, {"common.complete": "Pronto"}
    for text, translated in PORTUGUESE.items():
        english[KEY.format(text)], portuguese[KEY.format(text)] = text, translated
    i18n = gr.I18n(en=english, **dict.fromkeys(("pt", "pt-BR", "pt-PT"), portuguese))
    examples = EXAMPLES if (models[0].words_language or language) == "pt" else {}

    def say(text: str) -> Any:
        """Translate a fixed text now, or leave it to the browser."""
        if language is None and text in PORTUGUESE:
            return i18n(KEY.format(text))
        return translate(text, language or "en")

    def language_of(request: gr.Request) -> Language:
        preferred = (request.headers.get("accept-language") or "").strip().lower()
        return language or ("pt" if preferred.startswith("pt") else "en")

    def show_sizes(request: gr.Request) -> str:
        return "".join(sizes_to_html(model, language_of(request)) for model in models)

    with gr.Blocks(title="gpt-embeddings explore", analytics_enabled=False) as page:
        gr.Markdown(f"# {say(TITLE)}")
        sizes = make_html()
        with gr.Tabs():
            for i, view in enumerate(VIEWS):
                _add_view(view, models, say, examples, language_of, page.load if i == 0 else None)
        page.load(show_sizes, outputs=sizes, api_visibility="private")
    page.queue(default_concurrency_limit=4, api_open=False)
    page.launch(
        server_name=f"[{host}]" if host is not None and ":" in host else host,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        pwa=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=1,  # nothing is uploaded
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=(TEMPLATES / "explore.css").read_text(encoding="utf-8"),
        i18n=i18n,
    )

    def load() -> None:
        for model in models:
            with suppress(Exception):  # the page shows it
                model.load().search()

    threading.Thread(target=load, daemon=True).start()
    return page


def main(*names: str | None, language: Language | None = None) -> None:
    """Serve a page with some models, or the bundled English table, as a Space does."""
    models = [LazyModel.from_pretrained(name) for name in names or (None,)]
    launch_page(models, host=None, language=language).block_thread()


def _add_view(
    view: View,
    models: Sequence[LazyModel],
    say: Callable[[str], Any],
    examples: Mapping[Any, str],
    language_of: Callable[[gr.Request], Language],
    opened: Any,
) -> None:
    """Add a tab that is drawn when it is opened, by the event `opened` or its selection, and when a field changes."""
    shown = models if view.needs_model else models[:1]
    with gr.Tab(say(view.name)) as tab:
        gr.Markdown(say(view.about))
        with gr.Row():
            widgets = {}
            for name, field in view.fields.items():
                widgets[name] = _make_widget(field, examples.get(field.value, field.value), say)
        with gr.Row():
            button = gr.Button(say(SHOW), variant="primary", scale=0, min_width=140, visible=bool(widgets))
        outputs: list[Any] = []
        with gr.Row():
            for model in shown:
                with gr.Column(min_width=320):  # notes, figures in pairs, a table
                    if len(shown) > 1:
                        make_html(f"<h2>{escape_text(model.name)}</h2>")
                    outputs.append(make_html())
                    for i in range(0, view.n_figures, 2):
                        with gr.Row():
                            for _ in range(min(2, view.n_figures - i)):
                                outputs.append(gr.Plot(show_label=False, visible=False, min_width=300))
                    outputs.append(make_html())
    inputs = list(widgets.values())

    def draw(request: gr.Request, *values: Any) -> list[Any]:
        language = language_of(request)
        updates: list[Any] = []
        for model in shown:
            result = view.render(model, *values, language=language)
            plots = [gr.Plot(value=figure, visible=True) for figure in result.figures]
            plots += [gr.Plot(value=None, visible=False)] * (view.n_figures - len(plots))
            updates += [notes_to_html(result), *plots, table_to_html(result.table, view.name, language)]
        return updates

    # The events of a view are answered one after the other, and typing ends with the last state of the field, so that
    # no figure stays that belongs to other inputs.
    options: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private", "trigger_mode": "always_last"}
    options |= {"concurrency_limit": 1, "concurrency_id": view.name}
    events = [opened or tab.select, button.click]
    for name, widget in widgets.items():
        if not (view.examples and name == "what"):
            events.append(widget.change)  # `input` stays silent when a field is emptied
        if isinstance(widget, (gr.Textbox, gr.Number)):
            events.append(widget.submit)
    gr.on(events, draw, inputs, outputs, **options)
    if view.examples:  # first put an example of what was chosen into the text field
        widgets["what"].input(
            lambda what: examples.get(view.examples[what], view.examples[what]),
            widgets["what"],
            widgets["text"],
            show_progress="hidden",
            api_visibility="private",
        ).then(draw, inputs, outputs, **options)


def _make_widget(field: Field, value: Any, say: Callable[[str], Any]) -> Any:
    label = say(field.label)
    if field.choices:
        choices = [(say(choice), choice) for choice in field.choices]
        return gr.Radio(choices, value=value, label=label, min_width=140 * len(choices))
    if isinstance(value, bool):
        return gr.Checkbox(value, label=label, min_width=180)
    if isinstance(value, int):
        return gr.Number(value, label=label, precision=0, min_width=120)
    # With one line to begin with, Enter submits; the field grows with its text, to far more than any model reads.
    size: dict[str, Any] = {"lines": value.count("\n") + 1, "max_lines": 8, "max_length": 1_000_000}
    return gr.Textbox(value, label=label, min_width=160, scale=2, **size)
