"""The page of `explore` as one HTML file, with plotly.js, so that it needs no network, or as a Space for the Hub."""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from gpt_embeddings.explore.translation import EXAMPLES, Language, translate
from gpt_embeddings.explore.views import (
    TEMPLATES,
    TITLE,
    VIEWS,
    LazyModel,
    notes_to_html,
    sizes_to_html,
    table_to_html,
)


def write_report(path: str | os.PathLike[str], models: Sequence[LazyModel], language: Language = "en") -> None:
    """Write all views, with the values that the page begins with, unless a model cannot be loaded."""
    for model in models:
        model.load()
    examples = EXAMPLES if (models[0].words_language or language) == "pt" else {}
    config = {"responsive": True, "displaylogo": False}
    views = []
    for view in VIEWS:
        values = [examples.get(field.value, field.value) for field in view.fields.values()]
        panels = []  # a model's name, notes, figures and table
        for model in models if view.needs_model else models[:1]:
            result = view.render(model, *values, language=language)
            drawn = [
                figure.to_html(full_html=False, include_plotlyjs=False, config=config) for figure in result.figures
            ]
            panels.append((model.name, notes_to_html(result), drawn, table_to_html(result.table, view.name, language)))
        views.append((view, list(zip(view.fields.values(), values, strict=True)), panels))
    report = _template("report.html", autoescape=True).render(
        language=language,
        say=partial(translate, language=language),
        title=TITLE,
        style=(TEMPLATES / "explore.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        sizes="".join(sizes_to_html(model, language) for model in models),
        views=views,
    )
    Path(path).write_text(report, encoding="utf-8")


def write_space(folder: Path, models: Sequence[LazyModel], language: Language | None = None) -> None:
    """Write a Space: `app.py`, `requirements.txt`, the card, and copies of models that are local folders."""
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
    app = f"from gpt_embeddings.explore.page import main\n\nmain({arguments})\n"
    (folder / "app.py").write_text(app, encoding="utf-8")
    requirement = f"gpt-embeddings[explore,offline]=={version('gpt-embeddings')}\n"
    (folder / "requirements.txt").write_text(requirement, encoding="utf-8")
    card = _template("space_card.md").render(
        sdk_version=version("gradio"),
        hub_names=[name for name in named if "/" in name],
        titles=titles,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _template(name: str, *, autoescape: bool = False) -> jinja2.Template:
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    return jinja2.Template(text, autoescape=autoescape, keep_trailing_newline=True)
