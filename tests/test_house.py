"""The plan of the house, read from the imports: rooms in the order of the data, arrows that run one way."""

import ast

import pytest
from command import ROOT


COMPONENT = ["configuration_gpt_embeddings", "modeling_gpt_embeddings"]
# A room imports from itself and from those to its left.
MODULES = ["exceptions", "arguments", "outputs", "threads", "progress", "bundled"]
ROOMS = [*MODULES, *"text checkpoints analysis windows hub embedding training explore".split()]
ORDER = [*COMPONENT, *ROOMS, "gpt_embeddings", "gpt_embeddings_cli"]
FILES = sorted(
    path.relative_to(ROOT)
    for name in ("", "gpt_embeddings/**/", "gpt_embeddings_cli/")
    for path in ROOT.glob(f"{name}*.py")
)


def room_of(module: str) -> str:
    """`gpt_embeddings.text.sources` is in the room `text`."""
    names = module.split(".")
    return names[1] if names[0] == "gpt_embeddings" and len(names) > 1 else names[0]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_arrows_run_one_way(path):
    room = room_of(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
    assert room in ORDER, f"where in the order is {room}?"
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for alias in node.names:
            module, name = (node.module or "", alias.name) if isinstance(node, ast.ImportFrom) else (alias.name, "")
            if room_of(module) not in ORDER:
                continue
            if name in ROOMS:  # `from gpt_embeddings.explore import figures` is of its own room
                module = f"{module}.{name}"
            assert ORDER.index(room_of(module)) <= ORDER.index(room), f"{path} imports {module}"
            assert not name.startswith("_"), f"{path} imports {name}, which {module} keeps to itself"
