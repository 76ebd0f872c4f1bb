"""Imports run one way: a room imports only rooms that stand above it in `ROOMS`, and no modules import in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hpt"
ROOMS = (
    "support upge rewards config data methods training evaluation runs laboratory paper reports api examples cli"
).split()


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports() -> dict[str, set[str]]:
    """Module -> the package's modules it imports, inside functions and for type checking, too."""
    there = modules()
    found: dict[str, set[str]] = {}
    for name, path in there.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if isinstance(node, ast.ImportFrom):
                named += [f"{node.module}.{own.name}" for own in node.names]
            elif isinstance(node, ast.Import):
                named += [own.name for own in node.names]
            modules_named = [own for own in named if own in there]
            # `from hpt.upge import estimator` needs the estimator, not the folder
            found[name] |= {own for own in modules_named if not any(o.startswith(f"{own}.") for o in modules_named)}
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_imports_only_rooms_above_it() -> None:
    backwards = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if module != "hpt" and other != "hpt" and ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not backwards


def test_no_modules_import_in_a_circle() -> None:
    graph = {module: others - {"hpt", module} for module, others in imports().items() if module != "hpt"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
