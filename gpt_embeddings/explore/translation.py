"""The page in Portuguese: `templates/portuguese.json` has each text under the English one, with `{}` for what varies.

Gradio's own `gr.I18n` translates in the browser what is fixed when the page is built: headings, labels, buttons, tabs.
It does not reach what the server sends later (notes, tables, figures), which is translated here. A text without an
entry stays English, such as a rare error, and so do the buttons that plotly.js puts over a figure.
"""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import plotly.graph_objects as go

from gpt_embeddings.explore.tables import Table


Language: TypeAlias = Literal["en", "pt"]

_TABLE = json.loads((Path(__file__).parent / "templates" / "portuguese.json").read_text(encoding="utf-8"))
PORTUGUESE: dict[str, str] = _TABLE["texts"]
EXAMPLES: dict[Any, str] = _TABLE["examples"]  # the values that the fields begin with
_PATTERNS = [
    (re.compile("(.+?)".join(map(re.escape, english.split("{}"))), re.DOTALL), portuguese)
    for english, portuguese in PORTUGUESE.items()
    if "{}" in english
]


def translate(text: str, language: Language) -> str:
    """Return a text of the page in a language.

    >>> translate("There are 300 words; at most 200 are shown. Leave some out.", "pt")
    'Há 300 palavras; mostram-se no máximo 200. Tire algumas.'
    """
    if language == "en":
        return text
    if text in PORTUGUESE:
        return PORTUGUESE[text]
    for pattern, translated in _PATTERNS:
        if found := pattern.fullmatch(text):
            return translated.format(*map(_translate_number, found.groups()))
    return _translate_number(text)


def translate_table(table: Table, language: Language) -> Table:
    """Translate columns, caption and cells, other than tokens and words."""
    if language == "en":
        return table
    say = partial(translate, language=language)
    rows = [
        tuple(
            say(cell) if isinstance(cell, str) and column not in ("token", "word", "tokens") else cell
            for column, cell in zip(table.columns, row, strict=True)
        )
        for row in table.rows
    ]
    columns = tuple(map(say, table.columns))
    return replace(table, columns=columns, rows=rows, caption=say(table.caption), separators=",.")


def translate_figure(figure: go.Figure, language: Language) -> go.Figure:
    """Translate a figure in place, without the labels of words and tokens."""
    if language == "en":
        return figure
    say = partial(translate, language=language)
    figure.layout.separators = ",."
    for titled in (*figure.select_xaxes(), *figure.select_yaxes(), figure.layout):
        if titled.title.text:
            titled.title.text = ", ".join(map(say, titled.title.text.split(", ", 1)))  # "Cosines, sinusoidal"
    for annotation in figure.layout.annotations:
        annotation.text = say(annotation.text)
    for trace in figure.data:
        trace.name = say(trace.name) if trace.name else trace.name
        trace.hovertemplate = say(trace.hovertemplate)
        if trace.type == "heatmap" and isinstance(trace.y[0], str):
            trace.y = [say(name) for name in trace.y]
        if trace.customdata is not None:
            hover = np.array(trace.customdata, object)
            hover.flat[:] = [say(item) if isinstance(item, str) else item for item in hover.flat]
            trace.customdata = hover
    return figure


def _translate_number(text: str) -> str:
    """Write a number, also one with a unit, as in Portuguese: 50.257 for 50,257 and 0,25 for 0.25.

    >>> [_translate_number(text) for text in ("50,257 x 256", "99.998 %", "gpt2.5", "1.5.2, 3")]
    ['50.257 x 256', '99,998 %', 'gpt2.5', '1.5.2, 3']
    """
    number = r"-?\d{1,3}(,?\d{3})*(\.\d+)?"
    if re.fullmatch(f"{number}( x {number}| %| \\w+)?", text):
        return text.translate(str.maketrans(",.", ".,"))
    return text
