"""What `docs/reliability.md` promises is tested by tests that exist, and every promise names one."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promises() -> list[str]:
    """The rows of its tables of promises, heads left out."""
    rows, inside = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        inside = line.startswith("| promise |") or (inside and line.startswith("|"))
        if inside and not line.startswith(("| promise |", "| ---")):
            rows.append(line)
    return rows


def test_every_promise_names_a_test_that_exists() -> None:
    rows = promises()
    assert len(rows) >= 10
    missing = [row for row in rows if not TEST.search(row)]
    for row in rows:
        for file, name in TEST.findall(row):
            path = ROOT / file
            if not path.is_file() or not re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
                missing.append(f"{file}::{name}")
    assert not missing


def test_every_row_has_its_columns() -> None:
    assert [row for row in promises() if len(re.findall(r"(?<!\\)\|", row)) != 3] == []
