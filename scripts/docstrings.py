"""Real English that is at hand on every machine: docstrings of installed Python files, for the benchmarks."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path


def docstrings(files: Iterable[Path]) -> Iterator[str]:
    """Yield the docstrings of files, in their order; files that do not parse are passed over."""
    for path in files:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                if text := ast.get_docstring(node):
                    yield text
