"""What a check is, and reading the published tables."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

BASE = "base"


class Consistency(StrEnum):
    """What a check finds."""

    consistent = "consistent"
    inconsistent = "inconsistent"
    unknown = "cannot be told"


@dataclass(frozen=True)
class Check:
    """One check of a printed number or sentence.

    Attributes:
        group: heading of the checks of its kind.
        what: is checked.
        printed: in the paper.
        follows: from the paper's other numbers.
        difference: printed minus follows, in ``unit``; None where there is no such number.
        unit: of the difference.
        verdict: of `Consistency`.
        note: why, and under which assumption.
        smallest_error, answers_error, largest_error: of a difference, points (`hpt.paper.audit.spreads`); None
        elsewhere.
    """

    group: str
    what: str
    printed: str
    follows: str
    difference: float | None
    unit: str
    verdict: Consistency
    note: str = ""
    smallest_error: float | None = None
    answers_error: float | None = None
    largest_error: float | None = None


@dataclass(frozen=True)
class PrintedRow:
    """A row of a published table: its label, the method here (or None), base, star, and its cells by column."""

    table: str
    label: str
    method: str | None
    policy: str
    starred: bool
    cells: Mapping[str, float]

    @property
    def is_base(self) -> bool:
        """Whether it is an untrained model."""
        return self.method == BASE


def printed_rows(data: Mapping[str, Any], *tables: str) -> Iterator[PrintedRow]:
    """Yield the rows of published tables, in order."""
    for table in tables:
        printed = data["tables"][table]
        for row in printed["rows"]:
            cells = dict(zip(printed["columns"], row["values"], strict=True))
            yield PrintedRow(table, row["row"], row["method"], row["policy"], row["starred"], cells)


def table_title(table: str) -> str:
    """Return what the paper calls a table.

    Example:
        >>> table_title("table2")
        'Table 2'
    """
    return f"Table {table.removeprefix('table')}"


def accuracy_tables(data: Mapping[str, Any]) -> list[str]:
    """Return the tables whose columns are benchmarks."""
    return [name for name, table in data["tables"].items() if set(table["columns"]) & set(data["benchmarks"])]


def benchmarks_of(data: Mapping[str, Any], distribution: str) -> list[str]:
    """Return the benchmarks in ("in") or out of ("out") the training distribution."""
    return [name for name, about in data["benchmarks"].items() if about["distribution"] == distribution]


def agrees(right: bool) -> Consistency:
    """Return consistent or inconsistent."""
    return Consistency.consistent if right else Consistency.inconsistent
