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
