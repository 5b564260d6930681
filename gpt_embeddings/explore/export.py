"""The page of `explore` as one HTML file without a server, or as a Space for the Hub.

The file has every view, with figures that turn and zoom, and a copy of plotly.js, so it needs no network.
"""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from gpt_embeddings.explore.lazy_model import LazyModel
from gpt_embeddings.explore.markup import notes_to_html, sizes_to_html, style_sheet, table_to_html
from gpt_embeddings.explore.translation import Language, translate, translate_example
from gpt_embeddings.explore.views import TITLE, VIEWS, View


APP = """\"\"\"The page of gpt-embeddings explore.\"\"\"

from gpt_embeddings.explore.page import main

main({arguments})
"""


def write_report(path: str | os.PathLike[str], models: Sequence[LazyModel], language: Language = "en") -> None:
    """Write all views with the values that the page begins with.

    Args:
        path: The file.
        models: One model, or several side by side. Nothing is written if one of them cannot be loaded.
        language: Language of the report.
    """
    for model in models:
        model.load()
    Path(path).write_text(_render(models, language), encoding="utf-8")


def write_space(folder: Path, models: Sequence[LazyModel], language: Language | None = None) -> None:
    """Write `app.py`, `requirements.txt`, the card, and copies of models that are local folders.

    Args:
        folder: An existing folder.
        models: What the page shows.
        language: Language of the page; None follows the browser.
    """
    named, titles = [], []
    for i, model in enumerate(models):
        model.load()  # a model that cannot be loaded here would fail there too
        name, source = model.name, Path(model.name)
        titles.append(source.name if source.is_dir() else name)
        if source.is_dir():
            name = "model" if len(models) == 1 else f"model-{i + 1}"
            model.model.save_pretrained(folder / name)
            model.tokenizer.save_pretrained(folder / name)
            for path in source.glob("words.*.txt"):
                shutil.copyfile(path, folder / name / path.name)
        named.append(name)
    arguments = ", ".join([*map(repr, named), *([f"language={language!r}"] if language else [])])
    (folder / "app.py").write_text(APP.format(arguments=arguments), encoding="utf-8")
    requirement = f"gpt-embeddings[explore,offline]=={version('gpt-embeddings')}\n"
    (folder / "requirements.txt").write_text(requirement, encoding="utf-8")
    card = _template("space_card.md").render(
        sdk_version=version("gradio"),
        hub_names=[name for name in named if "/" in name],
        titles=titles,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _render(models: Sequence[LazyModel], language: Language) -> str:
    say = partial(translate, language=language)
    examples = partial(translate_example, language=models[0].words_language or language)
    views = []
    for view in VIEWS:
        values = [examples(field.value) for field in view.fields.values()]
        panels = [
            _render_panel(view, model, values, language) for model in (models if view.needs_model else models[:1])
        ]
        views.append((view, list(zip(view.fields.values(), values, strict=True)), panels))
    return _template("report.html", autoescape=True).render(
        language=language,
        say=say,
        title=TITLE,
        style=style_sheet(),
        plotly=get_plotlyjs(),
        sizes="".join(sizes_to_html(model, language) for model in models),
        views=views,
    )


def _render_panel(
    view: View, model: LazyModel, values: Sequence[Any], language: Language
) -> tuple[str, str, list[str], str]:
    """Return a model's name and what a view shows of it, as HTML: notes, figures and a table."""
    result = view.render(model, *values, language=language)
    config = {"responsive": True, "displaylogo": False}
    drawn = [figure.to_html(full_html=False, include_plotlyjs=False, config=config) for figure in result.figures]
    return model.name, notes_to_html(result), drawn, table_to_html(result.table, view.name, language)


def _template(name: str, *, autoescape: bool = False) -> jinja2.Template:
    text = (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
    return jinja2.Template(text, autoescape=autoescape, keep_trailing_newline=True)
