"""Each recipe of docs/recipes.md, by itself, after the lines that all begin with, where its library is installed."""

import ast
import re
from pathlib import Path

import pytest


PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
START, *RECIPES = re.split(r"^## ", PAGE, flags=re.MULTILINE)
BLOCK = re.compile(r"^```(?:python|py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What belongs to the libraries, which warn of each other's age.
THEIRS = ["ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::PendingDeprecationWarning"]


def imported(code: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return set(names)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.split("\n")[0])
def test_a_recipe(recipe, tmp_path, monkeypatch, request):
    (code,) = BLOCK.findall(recipe)
    for warning in THEIRS:
        request.node.add_marker(pytest.mark.filterwarnings(warning))
    for name in sorted(imported(code)):
        pytest.importorskip(name, exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "recipe"}
    for block in (*BLOCK.findall(START), code):
        exec(compile(block, "docs/recipes.md", "exec"), namespace)


@pytest.mark.slow
def test_the_notebook_in_a_kernel():
    """As in Jupyter, with bars and figures as its page gets them; the kernel and its widgets are no part of `test`."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    for name in ("ipykernel", "ipywidgets"):
        pytest.importorskip(name)
    (recipe,) = (recipe for recipe in RECIPES if recipe.startswith("In a notebook"))
    cells = [*BLOCK.findall(START), *BLOCK.findall(recipe)[0].split("\n\n")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook).execute()  # raises the error of a cell
    shown = ["".join(output.get("data", {})) for cell in notebook.cells for output in cell.outputs]
    for kind in ("widget-view", "text/html", "plotly"):
        assert any(kind in one for one in shown), shown
