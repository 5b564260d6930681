"""The page of `explore` to take away: as one file without a server, or as a Space to push to the Hub.

The file has every view of one model, or of two side by side. It holds plotly.js, so that it works offline and years
from now; figures turn, zoom and answer the mouse as on the page. Needs the extra `explore`.

Left out: pushing a Space, which `hf upload --repo-type space` does.
"""

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from gpt_embeddings.explore.lazy_model import LazyModel
from gpt_embeddings.explore.markup import facts_to_html, notes_to_html, style_sheet, table_to_html, text_to_html
from gpt_embeddings.explore.views import VIEWS, View
from gpt_embeddings.outputs import atomic_file


APP = """\"\"\"The input stage of a GPT, to look at.\"\"\"

from gpt_embeddings.explore.page import main

main({names})
"""


def write_report(path: str | os.PathLike[str], models: Sequence[LazyModel]) -> None:
    """Write the views with the values that the page begins with.

    Args:
        path: The file; it appears when it is complete.
        models: One model, or several beside each other.

    Raises:
        Exception: What opening a model raised; nothing is written.
    """
    for model in models:
        model.load()
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as partial:
        partial.write_text(_render(models), encoding="utf-8")


def write_space(folder: Path, models: Sequence[LazyModel], names: Sequence[str | None]) -> None:
    """Write `app.py`, `requirements.txt`, the card, and copies of models that are folders here.

    Args:
        folder: Where to; it exists.
        models: What the page shows.
        names: Their names: a folder is copied, a Hub name stays one, None is the one that comes with the package.

    Raises:
        Exception: What opening a model raised.
    """
    named = []
    for i, (model, name) in enumerate(zip(models, names, strict=True)):
        loaded = model.load()  # what cannot be loaded here would fail there
        if name is not None and Path(name).is_dir():
            name = "model" if len(names) == 1 else f"model-{i + 1}"
            loaded.model.save_pretrained(folder / name)
            loaded.tokenizer.save_pretrained(folder / name)
        named.append(name)
    arguments = ", ".join(map(repr, named if named != [None] else []))
    (folder / "app.py").write_text(APP.format(names=arguments), encoding="utf-8")
    requirement = f"gpt-embeddings[explore,offline]=={version('gpt-embeddings')}\n"
    (folder / "requirements.txt").write_text(requirement, encoding="utf-8")
    template = (Path(__file__).parent / "templates" / "space_card.md").read_text(encoding="utf-8")
    card = jinja2.Template(template, keep_trailing_newline=True).render(
        sdk_version=version("gradio"),
        hub_names=[name for name in named if name is not None and "/" in name],
        titles=[
            model.name if name is None or "/" in name else Path(model.name).name
            for model, name in zip(models, named, strict=True)
        ],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _render(models: Sequence[LazyModel]) -> str:
    template = (Path(__file__).parent / "templates" / "report.html").read_text(encoding="utf-8")
    parts = {
        "style": style_sheet(),
        "plotly": get_plotlyjs(),
        "facts": "".join(map(facts_to_html, models)),
        "links": "".join(f'<a href="#{_anchor(view)}">{text_to_html(view.name)}</a> ' for view in VIEWS),
        "views": "".join(_render_view(view, models) for view in VIEWS),
    }
    pieces = template.split("@@")  # plotly.js holds whatever could stand for a placeholder
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _render_view(view: View, models: Sequence[LazyModel]) -> str:
    values = [field.value for field in view.fields.values()]
    shown: Sequence[LazyModel | None] = models if view.needs_model else [None]
    panels = []
    for model in shown:
        result = view.render(model, *values)
        name = f"<h3>{text_to_html(model.name)}</h3>" if model is not None and len(shown) > 1 else ""
        drawn = "".join(map(_render_figure, result.figures))
        table = table_to_html(result.table, f"{view.name}, as a table")
        panels.append(f'<div>{name}{notes_to_html(result)}<div class="figures">{drawn}</div>{table}</div>')
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
