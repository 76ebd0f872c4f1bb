"""docs/equations.md against the repository: every equation once, every function importable, every test there."""

import ast
import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EVERY = [*(f"Eq. {number}" for number in range(1, 22)), "Algorithm 1", "Lemma A1", "Lemma A2", "Lemma A3"]


def rows() -> list[tuple[str, str, str, str]]:
    text = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    cells = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line[:2] == "| "
    ]
    return [own for own in cells if own[0] != "paper" and not set(own[0]) <= {"-"}]


def test_every_equation_is_listed_once_and_in_order() -> None:
    assert [own[0] for own in rows() if own[0] in EVERY] == EVERY
    assert len({own[0] for own in rows()}) == len(rows())


def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("own", rows(), ids=lambda own: own[0])
def test_code_and_test_exist(own: tuple[str, str, str, str]) -> None:
    _, states, code, test = own
    assert len(states) > 10
    module, _, name = code.strip("`").partition(":")
    assert callable(reduce(getattr, name.split("."), importlib.import_module(module)))
    file, _, function = test.strip("`").partition("::")
    assert function in functions_of(file)


def test_tests_named_in_the_text_exist() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))
    assert named
    assert set(named) <= functions_of("tests/equations/test_derivation.py")


def test_the_textbook_does_not_know_the_estimator() -> None:
    """What the rows are compared with must not be made of them."""
    source = (ROOT / "hpt" / "laboratory" / "textbook.py").read_text(encoding="utf-8")
    imported = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.name for node in imported for name in node.names} | {getattr(node, "module", "") for node in imported}
    assert not [name for name in names if name and name.startswith("hpt")]
