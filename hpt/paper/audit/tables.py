"""Tables against themselves: averages, percentages, sums over levels, and one run's row in several tables."""

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any

from hpt.evaluation.scores import average_of_cells, round_half_up
from hpt.paper.audit.checks import (
    Check,
    PrintedRow,
    accuracy_tables,
    agrees,
    benchmarks_of,
    printed_rows,
    table_title,
)


def averages(data: Mapping[str, Any]) -> list[Check]:
    """Return a check per printed average, the unweighted mean of the printed cells rounded half up, and one of ties.

    A mean that lies exactly between two printed values shows how it was made: of printed cells it is always rounded
    up; of the scores before rounding, up in about half of the cases.
    """
    group, checks, ties = "Averages", [], []
    for row in printed_rows(data, *accuracy_tables(data)):
        for name, distribution in data["averages"].items():
            if name not in row.cells:
                continue
            cells = [row.cells[benchmark] for benchmark in benchmarks_of(data, distribution)]
            mean, printed = average_of_cells(cells), row.cells[name]
            difference = round_half_up(printed - mean)
            label = f"{table_title(row.table)}, {row.label}, {name}" + _base_text(data, row.table, row.policy)
            text = "unweighted mean of the printed cells, rounded half up"
            checks.append(Check(group, label, f"{printed:.1f}", f"{mean:.1f}", difference, "points",
                                agrees(difference == 0), text))  # fmt: skip
            exact = sum(map(Fraction, map(str, cells)), Fraction()) / len(cells)
            if (10 * exact) % 1 == Fraction(1, 2):
                ties.append(Fraction(str(printed)) > exact)
    note = f"of scores before rounding, all of {len(ties)} ties would go up in 1 of {2 ** len(ties)} cases"
    tie_check = Check(
        "Averages", "ties are rounded up", f"{sum(ties)} of {len(ties)}", f"{len(ties)} of {len(ties)}",
        float(sum(ties) - len(ties)), "averages", agrees(all(ties)), note,
    )  # fmt: skip
    return [*checks, tie_check] if ties else checks


def exclusive_solves_add_up(data: Mapping[str, Any]) -> list[Check]:
    """Return checks of Table 4: percentages of the level sizes, and levels that add up to the last column."""
    table4 = data["tables"]["table4"]
    rows = {row.label: row for row in printed_rows(data, "table4")}
    sizes = dict(zip(table4["columns"], table4["sizes"], strict=True))
    *levels, overall = table4["columns"]
    checks = [_sum_check("sizes of the levels", sizes, levels, overall)]
    for label, row in rows.items():
        if label.endswith(" %"):
            counts = rows[label.removesuffix(" %")].cells
            for column, size in sizes.items():
                follows = round_half_up(100 * counts[column] / size)
                difference = round_half_up(row.cells[column] - follows)
                checks.append(Check("Table 4 within itself", f"{label}, {column}", f"{row.cells[column]:.1f} %",
                                    f"{follows:.1f} %", difference, "points", agrees(difference == 0),
                                    f"{counts[column]:g} of {size}"))  # fmt: skip
        else:
            checks.append(_sum_check(label, row.cells, levels, overall))
    return checks


def one_run_in_several_tables(data: Mapping[str, Any]) -> list[Check]:
    """Return a check per pair of tables that print the same method on the same base: their cells must be the same."""
    placed: dict[tuple[str, str], list[PrintedRow]] = {}
    for row in printed_rows(data, *accuracy_tables(data)):
        if row.method is not None:
            placed.setdefault((row.method, row.policy), []).append(row)
    checks = []
    for rows in placed.values():
        for first, second in pairwise(rows):
            shared = [name for name in first.cells if name in second.cells]
            furthest = max(shared, key=lambda name: abs(second.cells[name] - first.cells[name]))
            difference = round_half_up(second.cells[furthest] - first.cells[furthest])
            names = [f"{table_title(row.table)} ({row.label})" for row in (first, second)]
            there, before = (", ".join(f"{row.cells[name]:.1f}" for name in shared) for row in (second, first))
            checks.append(Check("One run in several tables", " and ".join(names), there, before, difference, "points",
                                agrees(difference == 0), "difference: of the cell that differs most"))  # fmt: skip
    return checks


def _sum_check(label: str, cells: Mapping[str, float], levels: list[str], overall: str) -> Check:
    follows = sum(cells[level] for level in levels)
    difference = cells[overall] - follows
    return Check("Table 4 within itself", f"{label}, {overall}", f"{cells[overall]:g}", f"{follows:g}", difference,
                 "problems", agrees(difference == 0), "sum over the levels")  # fmt: skip


def _base_text(data: Mapping[str, Any], table: str, policy: str) -> str:
    """Return which base a row is on, where its table has several."""
    several = len({row.policy for row in printed_rows(data, table)}) > 1
    name = next((row.label for row in printed_rows(data, table) if row.is_base and row.policy == policy), policy)
    return f" ({name})" if several else ""
