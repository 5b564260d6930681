"""Every Python example of the README and of the docs runs, one namespace a page, and prints what stands below it."""

import code
import importlib.util
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO

import pytest
from command import ROOT


PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md"))]
# What a block imports that the package does not bring, and the extra that does.
EXTRAS = {
    r"sentence_transformers|accelerate|transformers import .*\bTrainer": "train",
    r"gpt_embeddings\.explore|plotly|sklearn": "explore",
    "faiss": "search",
    "ray": "ray",
    "onnx": "onnx",
}
# A block of Python, and what it prints where that is shown right below. What ```py opens needs a library that no extra
# brings, and runs where that is installed.
BLOCK = re.compile(r"^```(python|py)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^(?:from|import) (\w+)", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")  # Trainer's default, on a machine without GPU
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    shared: dict[str, object] = {"__name__": "__main__"}
    for i, block in enumerate(BLOCK.finditer(text)):
        # Each recipe stands by itself, after the block with which all of them begin.
        namespace = {**shared} if i and page.stem == "recipes" else shared
        if block[1] == "py" and not all(map(importlib.util.find_spec, IMPORT.findall(block[2]))):
            continue
        line = text[: block.start(2)].count("\n")
        with redirect_stdout(StringIO()) as printed:
            exec(compile("\n" * line + block[2], str(page), "exec"), namespace)
        if block[3] is not None:
            assert printed.getvalue() == block[3]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_followed(page):
    """Extras are named before they are used, blocks can be pasted at the prompt, and local links lead somewhere."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        for libraries, extra in EXTRAS.items():
            if page.stem != "recipes" and re.search(rf"^ *(from|import) ({libraries})\b", block[2], re.MULTILINE):
                assert re.search(rf"gpt-embeddings\[[a-z,]*\b{extra}\b", text[: block.start()]), block[2]
        # Python before 3.13 takes a paste line by line, and what follows an indented part needs an empty line before.
        typed: list[str] = []
        for line in block[2].split("\n") if block[1] == "python" else ():
            typed.append(line)
            if code.compile_command("\n".join(typed)) is not None:
                typed = []
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (page.parent / target).exists(), target
