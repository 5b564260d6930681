"""One file with every view of one model, or of two side by side: a page without a server.

It holds plotly.js, so that it works offline and years from now; figures turn, zoom and answer the mouse as on the
page of `explore`. Needs the extra `explore`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from gpt_embeddings.explore.markup import facts_to_html, notes_to_html, style_sheet, table_to_html, text_to_html
from gpt_embeddings.explore.shown_models import Subject
from gpt_embeddings.explore.views import VIEWS, View


def write_report(path: str | os.PathLike[str], subjects: Sequence[Subject]) -> None:
    """Write the views with the values that the page begins with.

    Args:
        path: The file; it appears when it is complete.
        subjects: One model, or several beside each other.

    Raises:
        Exception: What opening a model raised; nothing is written.
    """
    for subject in subjects:
        subject.open()
    target = Path(path).resolve()
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_text(_render(subjects), encoding="utf-8")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def is_local(name: str) -> bool:
    """Return whether a name is that of a folder here, which takes precedence over the Hub."""
    return Path(name).is_dir()


def _render(subjects: Sequence[Subject]) -> str:
    template = (Path(__file__).parent / "templates" / "report.html").read_text(encoding="utf-8")
    parts = {
        "style": style_sheet(),
        "plotly": get_plotlyjs(),
        "facts": "".join(map(facts_to_html, subjects)),
        "links": "".join(f'<a href="#{_anchor(view)}">{text_to_html(view.name)}</a> ' for view in VIEWS),
        "views": "".join(_render_view(view, subjects) for view in VIEWS),
    }
    pieces = template.split("@@")  # plotly.js holds whatever could stand for a placeholder
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _render_view(view: View, subjects: Sequence[Subject]) -> str:
    values = [field.value for field in view.fields.values()]
    shown: Sequence[Subject | None] = subjects if view.needs_model else [None]
    panels = []
    for subject in shown:
        seen = view.look(subject, *values)
        name = f"<h3>{text_to_html(subject.name)}</h3>" if subject is not None and len(shown) > 1 else ""
        drawn = "".join(map(_render_figure, seen.figures))
        table = table_to_html(seen.table, f"{view.name}, as a table")
        panels.append(f'<div>{name}{notes_to_html(seen)}<div class="figures">{drawn}</div>{table}</div>')
    asked = "".join(
        f"<dt>{text_to_html(field.label)}</dt><dd>{text_to_html(str(value))}</dd>"
        for field, value in zip(view.fields.values(), values, strict=True)
        if value not in ("", True)
    )
    return (
        f'<section id="{_anchor(view)}"><h2>{text_to_html(view.name)}</h2><p>{text_to_html(view.about)}</p>'
        f'<dl>{asked}</dl><div class="panels">{"".join(panels)}</div></section>'
    )


def _render_figure(figure: go.Figure) -> str:
    config = {"responsive": True, "displaylogo": False}
    return f"<div>{figure.to_html(full_html=False, include_plotlyjs=False, config=config)}</div>"


def _anchor(view: View) -> str:
    return view.name.lower().replace(" ", "-")


__all__ = ["is_local", "write_report"]
