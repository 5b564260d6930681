"""Every Python example of the README and of the docs runs, one namespace a page, and prints what stands below it."""

import code
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md"))]
# What a block imports that the package does not bring, and the extra that does.
EXTRAS = {
    r"sentence_transformers|accelerate|transformers import .*\bTrainer": "train",
    r"gpt_embeddings\.explore|plotly|sklearn": "explore",
    "faiss": "search",
    "ray": "ray",
    "onnx": "onnx",
}
# A block of Python, and what it prints where that is shown right below.
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")  # Trainer's default, on a machine without GPU
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")
        with redirect_stdout(StringIO()) as printed:
            exec(compile("\n" * line + block[1], str(page), "exec"), namespace)
        if block[2] is not None:
            assert printed.getvalue() == block[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_extras_are_named_before_they_are_used(page):
    text = page.read_text(encoding="utf-8")
    if page.stem == "recipes":
        return  # each of them begins with its library
    for block in BLOCK.finditer(text):
        for libraries, extra in EXTRAS.items():
            if re.search(rf"^ *(from|import) ({libraries})\b", block[1], re.MULTILINE):
                assert re.search(rf"gpt-embeddings\[[a-z,]*\b{extra}\b", text[: block.start()]), block[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_can_be_pasted_at_the_prompt(page):
    """Python before 3.13 takes a paste line by line, and what follows an indented part needs an empty line before."""
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        typed: list[str] = []
        for line in block[1].split("\n"):
            typed.append(line)
            if code.compile_command("\n".join(typed)) is not None:
                typed = []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target
