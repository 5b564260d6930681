"""The page of `explore` as one HTML file without a server, or as a Space for the Hub.

The file has every view, with figures that turn and zoom, and a copy of plotly.js, so it needs no network.
Left out: pushing a Space, which `hf upload --repo-type space` does.
"""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from gpt_embeddings.explore.lazy_model import LazyModel
from gpt_embeddings.explore.markup import notes_to_html, sizes_to_html, style_sheet, table_to_html, text_to_html
from gpt_embeddings.explore.translation import Language, translate, translate_example
from gpt_embeddings.explore.views import VIEWS, View
from gpt_embeddings.outputs import atomic_file


APP = """\"\"\"The page of gpt-embeddings explore.\"\"\"

from gpt_embeddings.explore.page import main

main({arguments})
"""


def write_report(path: str | os.PathLike[str], models: Sequence[LazyModel], language: Language = "en") -> None:
    """Write all views with the values that the page begins with.

    Args:
        path: The file; it appears when it is complete.
        models: One model, or several side by side. Nothing is written if one of them cannot be loaded.
        language: Language of the report.
    """
    for model in models:
        model.load()
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as path:
        path.write_text(_render(models, language), encoding="utf-8")


def write_space(
    folder: Path, models: Sequence[LazyModel], names: Sequence[str | None], language: Language = "en"
) -> None:
    """Write `app.py`, `requirements.txt`, the card, and copies of models that are local folders.

    Args:
        folder: An existing folder.
        models: What the page shows.
        names: Their names: folders are copied, Hub names stay, None is the bundled English table.
        language: Language of the page.
    """
    named = []
    for i, (model, name) in enumerate(zip(models, names, strict=True)):
        loaded = model.load()  # a model that cannot be loaded here would fail there too
        if name is not None and Path(name).is_dir():
            word_lists = Path(name).glob("words.*.txt")
            name = "model" if len(names) == 1 else f"model-{i + 1}"
            loaded.model.save_pretrained(folder / name)
            loaded.tokenizer.save_pretrained(folder / name)
            for path in word_lists:
                shutil.copyfile(path, folder / name / path.name)
        named.append(name)
    arguments = ", ".join([*map(repr, named), f"language={language!r}"])
    (folder / "app.py").write_text(APP.format(arguments=arguments), encoding="utf-8")
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


def _render(models: Sequence[LazyModel], language: Language) -> str:
    say = partial(translate, language=language)
    template = (Path(__file__).parent / "templates" / "report.html").read_text(encoding="utf-8")
    parts = {
        "language": language,
        "title": text_to_html(say("The input stage of a GPT")),
        "navigation": text_to_html(say("Views")),
        "style": style_sheet(),
        "plotly": get_plotlyjs(),
        "sizes": "".join(sizes_to_html(model, language) for model in models),
        "links": "".join(f'<a href="#{_anchor(view)}">{text_to_html(say(view.name))}</a> ' for view in VIEWS),
        "views": "".join(_render_view(view, models, language) for view in VIEWS),
    }
    pieces = template.split("@@")  # no template engine: plotly.js contains what could be a placeholder of one
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _render_view(view: View, models: Sequence[LazyModel], language: Language) -> str:
    say = partial(translate, language=language)
    values = [translate_example(field.value, language) for field in view.fields.values()]
    shown: Sequence[LazyModel | None] = models if view.needs_model else [None]
    panels = []
    for model in shown:
        result = view.render(model, *values, language=language)
        name = f"<h3>{text_to_html(model.name)}</h3>" if model is not None and len(shown) > 1 else ""
        drawn = "".join(map(_render_figure, result.figures))
        table = table_to_html(result.table, f"{say(view.name)}, {say('as a table')}")
        panels.append(f'<div>{name}{notes_to_html(result)}<div class="figures">{drawn}</div>{table}</div>')
    fields = "".join(
        f"<dt>{text_to_html(say(field.label))}</dt><dd>{text_to_html(say(str(value)))}</dd>"
        for field, value in zip(view.fields.values(), values, strict=True)
        if value not in ("", True)
    )
    return (
        f'<section id="{_anchor(view)}"><h2>{text_to_html(say(view.name))}</h2><p>{text_to_html(say(view.about))}</p>'
        f'<dl>{fields}</dl><div class="panels">{"".join(panels)}</div></section>'
    )


def _render_figure(figure: go.Figure) -> str:
    config = {"responsive": True, "displaylogo": False}
    return f"<div>{figure.to_html(full_html=False, include_plotlyjs=False, config=config)}</div>"


def _anchor(view: View) -> str:
    return view.name.lower().replace(" ", "-")
