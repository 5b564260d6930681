"""The HTML around the figures of page and report."""

from pathlib import Path

from gpt_embeddings.explore.lazy_model import LazyModel
from gpt_embeddings.explore.style import escape_text
from gpt_embeddings.explore.tables import Table
from gpt_embeddings.explore.translation import Language, translate
from gpt_embeddings.explore.views import ViewResult, describe, explain


def style_sheet() -> str:
    """Return the CSS of page and report."""
    return (Path(__file__).parent / "templates" / "explore.css").read_text(encoding="utf-8")


def notes_to_html(result: ViewResult) -> str:
    """Return the notes as paragraphs; screen readers announce errors."""
    kind = 'class="failed" role="alert"' if result.failed else 'class="note"'
    return "".join(f"<p {kind}>{escape_text(note)}</p>" for note in result.notes)


def table_to_html(table: Table | None, name: str, language: Language) -> str:
    """Return the table of a view in a region that scrolls, also by keyboard."""
    if table is None:
        return ""
    label = escape_text(f"{translate(name, language)}, {translate('as a table', language)}")
    return f'<div class="prose-table" tabindex="0" role="region" aria-label="{label}">{table.to_html()}</div>'


def sizes_to_html(model: LazyModel, language: Language) -> str:
    """Return a model's name and sizes, or why it could not be loaded."""
    name = f"<strong>{escape_text(model.name)}</strong>"
    try:
        return f'<p class="facts">{name}: {escape_text(translate(describe(model.load()), language))}</p>'
    except Exception as error:  # libraries of tokenizers and checkpoints raise many classes
        failed = translate("could not be loaded.", language)
        return f'<p class="failed" role="alert">{name} {failed} {escape_text(explain(error))}</p>'
