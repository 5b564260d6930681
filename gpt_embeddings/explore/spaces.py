"""A Space that shows the page of `explore`: a folder to push to the Hub as it is.

Left out: pushing it, which `hf upload --repo-type space` does.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jinja2

from gpt_embeddings.explore.export import is_local
from gpt_embeddings.explore.shown_models import Subject


APP = """\"\"\"The input stage of a GPT, to look at.\"\"\"

from gpt_embeddings.explore.page import main

main({names})
"""


def write_space(folder: Path, subjects: Sequence[Subject], names: Sequence[str | None]) -> None:
    """Write `app.py`, `requirements.txt`, the card, and copies of models that are folders here.

    Args:
        folder: Where to; it exists.
        subjects: What the page shows.
        names: Their names: a folder is copied, a Hub name stays one, None stands for fresh tables.

    Raises:
        Exception: What opening a model raised.
    """
    named = []
    for i, (subject, name) in enumerate(zip(subjects, names, strict=True)):
        opened = subject.open()  # what cannot be opened here would fail there
        if name is not None and is_local(name):
            name = "model" if len(names) == 1 else f"model-{i + 1}"
            opened.model.save_pretrained(folder / name)
            opened.tokenizer.save_pretrained(folder / name)
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
            subject.name if name is None or "/" in name else Path(subject.name).name
            for subject, name in zip(subjects, named, strict=True)
        ],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


__all__ = ["write_space"]
