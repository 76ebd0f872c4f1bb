"""What pages of documentation promise is tested by tests that exist, and every row of theirs names one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
#: Page -> how the tables whose rows name tests begin, their columns, and the fewest rows.
PAGES = {"reliability.md": ("| promise |", 2, 10), "symptoms.md": ("| symptom |", 4, 15)}


def rows_of(page: str) -> list[str]:
    """The rows of its tables of promises, heads left out."""
    head, rows, inside = PAGES[page][0], [], False
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        inside = line.startswith(head) or (inside and line.startswith("|"))
        if inside and not line.startswith((head, "| ---")):
            rows.append(line)
    return rows


@pytest.mark.parametrize("page", PAGES)
def test_every_row_has_its_columns_and_names_a_test_that_exists(page: str) -> None:
    rows = rows_of(page)
    assert len(rows) >= PAGES[page][2]
    assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != PAGES[page][1] + 1] == []
    missing = [row for row in rows if not TEST.search(row)]
    for row in rows:
        for file, name in TEST.findall(row):
            path = ROOT / file
            if not path.is_file() or not re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
                missing.append(f"{file}::{name}")
    assert not missing
