"""The HTML around the figures of page and report; every text is escaped here, once."""

from html import escape
from pathlib import Path

from gpt_embeddings.explore.lazy_model import LazyModel
from gpt_embeddings.explore.tables import Table
from gpt_embeddings.explore.translation import Language, translate
from gpt_embeddings.explore.views import ViewResult, describe, explain


def style_sheet() -> str:
    """Return the CSS of page and report."""
    return (Path(__file__).parent / "templates" / "explore.css").read_text(encoding="utf-8")


def text_to_html(text: str) -> str:
    """Escape a text for HTML and for Gradio's templates in HTML."""
    for char in "{}$`":
        text = text.replace(char, f"\0{ord(char)};")
    return escape(text).replace("\0", "&#")


def notes_to_html(result: ViewResult) -> str:
    """Return the notes as paragraphs; screen readers announce errors."""
    if result.failed:
        return "".join(f'<p class="failed" role="alert">{text_to_html(note)}</p>' for note in result.notes)
    return "".join(f'<p class="note">{text_to_html(note)}</p>' for note in result.notes)


def table_to_html(table: Table | None, name: str, language: Language) -> str:
    """Return the table of a view in a region that scrolls, also by keyboard."""
    if table is None:
        return ""
    label = text_to_html(f"{translate(name, language)}, {translate('as a table', language)}")
    return (
        f'<div class="prose-table" tabindex="0" role="region" aria-label="{label}">{table.to_html(text_to_html)}</div>'
    )


def sizes_to_html(model: LazyModel, language: Language) -> str:
    """Return a model's name and sizes, or why it could not be loaded."""
    name = f"<strong>{text_to_html(model.name)}</strong>"
    try:
        return f'<p class="facts">{name}: {text_to_html(translate(describe(model.load()), language))}</p>'
    except Exception as error:  # libraries of tokenizers and checkpoints raise many classes
        failed = translate("could not be loaded.", language)
        return f'<p class="failed" role="alert">{name} {failed} {text_to_html(explain(error))}</p>'
