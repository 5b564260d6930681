"""The page of `gpt-embeddings explore`: every view of one model, or of two side by side, in a browser.

It works offline, with the fonts of the system and Gradio's own copy of plotly.js, and asks nothing of any other
server. Models are those that the caller names; the user of the page can name neither file nor model.

Needs the extra `explore`. Left out: what is shown (`views`) and how it is drawn (`figures`, `maps`, `tables`).
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gpt_embeddings.explore.lazy_model import LazyModel
from gpt_embeddings.explore.markup import facts_to_html, notes_to_html, style_sheet, table_to_html, text_to_html
from gpt_embeddings.explore.views import VIEWS, Field, View


if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

# The names that the shared rules use, in the words of Gradio's theme.
COLOURS_OF_THEME = """
.gradio-container {
  --ink: var(--body-text-color); --line: var(--border-color-primary); --paper: var(--background-fill-primary);
  --wash: var(--background-fill-secondary);
}
"""


def build_page(models: Sequence[LazyModel]) -> "gr.Blocks":
    """Build the page; no model is loaded yet.

    Args:
        models: One model, or several that are compared.

    Raises:
        ImportError: The extra `explore` is not installed.
    """
    gr = import_gradio()
    with gr.Blocks(title="gpt-embeddings explore", analytics_enabled=False) as page:
        gr.Markdown("# The input stage of a GPT")
        facts = _make_html(gr, elem_id="facts")
        with gr.Tabs():
            draws = [_add_view(gr, view, models) for view in VIEWS]
        # One after the other: the first view waits for the model anyway.
        page.load(lambda: "".join(map(facts_to_html, models)), outputs=facts, api_visibility="private")
        draws[0](page.load)
    page.queue(default_concurrency_limit=4, api_open=False)
    return page


def launch_page(
    models: Sequence[LazyModel],
    *,
    host: str | None = LOOPBACK,
    port: int | None = None,
    open_browser: bool = False,
    block: bool = True,
) -> "gr.Blocks":
    """Build a page, serve it, and load its models while the browser opens it.

    Args:
        models: One model, or several that are compared.
        host: Address to listen at; None leaves it to Gradio's environment variables, as a Space sets them.
        port: Port; None takes the first free one from 7860.
        open_browser: Whether to open the page in the browser of this machine.
        block: Whether to serve until interrupted; otherwise the page is served until the process ends.

    Returns:
        The page, whose `local_url` is its address.

    Raises:
        ImportError: The extra `explore` is not installed.
        OSError: The port is taken.
    """
    gr = import_gradio()
    page = build_page(models)
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
        css=style_sheet() + COLOURS_OF_THEME,
    )
    for model in models:
        threading.Thread(target=_load, args=(model,), daemon=True).start()
    if block:
        page.block_thread()
    return page


def main(*names: str | None) -> None:
    """Serve the page as a Space does: host and port from Gradio's environment variables.

    Args:
        names: Models, as `LazyModel.from_pretrained` takes them; none is the one that comes with the package.
    """
    launch_page([LazyModel.from_pretrained(name) for name in names or (None,)], host=None)


def import_gradio() -> Any:
    """Import Gradio with its analytics off.

    Raises:
        ImportError: The extra `explore` is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported, and at every launch
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The page needs the extra `explore`: `pip install 'gpt-embeddings[explore]'`.") from error
    return gradio


def _load(model: LazyModel) -> None:
    try:
        model.load()
    except Exception as error:  # the page shows the same message
        logger.warning("%s could not be loaded: %s", model.name, error)


def _add_view(gr: Any, view: View, models: Sequence[LazyModel]) -> Callable[[Any], None]:
    """Add a tab, and return a function that has an event draw it."""
    shown: Sequence[LazyModel | None] = models if view.needs_model else [None]
    with gr.Tab(view.name) as tab:
        gr.Markdown(view.about)
        widgets = {}
        button = None
        if view.fields:
            with gr.Row():
                for name, field in view.fields.items():
                    widgets[name] = _make_widget(gr, field)
            with gr.Row():
                button = gr.Button("Show", variant="primary", scale=0, min_width=140)
        outputs: list[Any] = []
        with gr.Row():
            for model in shown:
                with gr.Column(min_width=320):
                    outputs += _add_panel(gr, view, model, len(shown) > 1)

    def draw(*values: Any) -> list[Any]:
        updates: list[Any] = []
        for model in shown:
            result = view.render(model, *values)
            plots = [gr.Plot(value=figure, visible=True) for figure in result.figures]
            plots += [gr.Plot(value=None, visible=False)] * (view.n_figures - len(plots))
            updates += [notes_to_html(result), *plots, table_to_html(result.table, f"{view.name}, as a table")]
        return updates

    def listen(event: Any) -> None:
        event(draw, list(widgets.values()), outputs, show_progress="minimal", api_visibility="private")

    if view is not VIEWS[0]:
        listen(tab.select)
    if button is not None:
        listen(button.click)
    for name, widget in widgets.items():
        if not (view.examples and name == "what"):
            listen(widget.submit if isinstance(widget, (gr.Textbox, gr.Number)) else widget.input)
    if view.examples:  # a text that fits what is asked for comes first
        widgets["what"].input(
            view.examples.get, widgets["what"], widgets["text"], show_progress="hidden", api_visibility="private"
        ).then(draw, list(widgets.values()), outputs, show_progress="minimal", api_visibility="private")
    return listen


def _add_panel(gr: Any, view: View, model: LazyModel | None, with_name: bool) -> list[Any]:
    """Add what a view shows of one model: notes, figures in pairs, a table."""
    if with_name and model is not None:
        _make_html(gr, f"<h2>{text_to_html(model.name)}</h2>")
    outputs = [_make_html(gr)]
    for i in range(0, view.n_figures, 2):
        with gr.Row():
            pair = range(i, min(i + 2, view.n_figures))
            outputs += [gr.Plot(show_label=False, visible=False, min_width=300) for _ in pair]
    return [*outputs, _make_html(gr)]


def _make_html(gr: Any, value: str = "", **options: Any) -> Any:
    """Make a place for HTML of ours, without the styles and scripts that Gradio adds to it."""
    return gr.HTML(value, apply_default_css=False, js_on_load=None, **options)


def _make_widget(gr: Any, field: Field) -> Any:
    if field.choices:
        return gr.Radio(list(field.choices), value=field.value, label=field.label, min_width=280)
    if isinstance(field.value, bool):
        return gr.Checkbox(field.value, label=field.label, min_width=180)
    if isinstance(field.value, int):
        return gr.Number(field.value, label=field.label, min_width=120)
    return gr.Textbox(field.value, lines=field.lines, label=field.label, min_width=160, scale=2)
