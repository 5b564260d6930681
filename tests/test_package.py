import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import gpt_embeddings


ROOT = Path(__file__).parent.parent
COMPONENT = ["configuration_gpt_embeddings.py", "modeling_gpt_embeddings.py"]


def test_exports_are_sorted_there_and_typed():
    assert gpt_embeddings.__all__ == sorted(gpt_embeddings.__all__)
    assert all(hasattr(gpt_embeddings, name) for name in gpt_embeddings.__all__)
    assert (Path(gpt_embeddings.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", COMPONENT)
def test_the_component_imports_little(name):
    """What travels to the Hub needs torch and transformers, and nothing of the package."""
    allowed = {"torch", "transformers", *(file.removesuffix(".py") for file in COMPONENT), *sys.stdlib_module_names}
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in allowed


def test_what_the_tests_ran_with_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]} <= pinned
