"""Spreads that are not printed, and what the printed numbers and set sizes alone say of them.

The paper prints one number per method and set: no interval, no number of training runs. How far a difference could be
chance of the problems is bounded here from the two accuracies p and q, the N problems of the set and its s answers per
problem, taking the problems as a sample of their kind and the answers to a problem as independent draws.

A problem's difference has the mean d = p - q and a variance of at least |d| (1 - |d|) / s: one that is always d wide
still has answers that are 0 or 1. So no difference has a standard error below sqrt(|d| (1 - |d|) / (N s)), whatever the
problems are like and however alike the two policies. With problems that are all equally hard the answers alone give
sqrt((p (1 - p) + q (1 - q)) / (N s)). With problems that a policy always or never solves, and two policies that have
nothing to do with each other, it is sqrt((p (1 - p) + q (1 - q)) / N), the largest without a negative dependence. For
one answer per problem the last two are the same.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpt.evaluation.scores import round_half_up
from hpt.paper.audit.checks import (
    Check,
    Consistency,
    PrintedRow,
    accuracy_tables,
    benchmarks_of,
    printed_rows,
    table_title,
)
from hpt.paper.audit.counts import CRITICAL

METHOD = "hpt"
TRAINING = "Spread over training runs"
SINGLE_SETS, AVERAGES = "HPT's lead on single sets", "HPT's lead on averages"

#: (smallest, of the answers alone, largest) standard error of a difference, in points.
Errors = tuple[float, float, float]


def standard_errors(p: float, q: float, problems: int, samples: int) -> Errors:
    """Return the smallest, the answers' own and the largest standard error of p - q (see the module's first lines).

    Args:
        p, q: accuracies in percent.
        problems: N.
        samples: answers per problem, s.

    Example:
        >>> [round(error, 2) for error in standard_errors(33.0, 26.1, 30, 32)]
        [0.82, 2.08, 11.75]
    """
    a, b, answers = p / 100, q / 100, problems * samples
    d, both = abs(a - b), a * (1 - a) + b * (1 - b)
    return 100 * math.sqrt(d * (1 - d) / answers), 100 * math.sqrt(both / answers), 100 * math.sqrt(both / problems)


def spreads(data: Mapping[str, Any]) -> list[Check]:
    """Return a check per printed difference between HPT and another method, on every set and every average.

    Consistent: HPT is ahead by more than 1.96 largest standard errors; inconsistent: it is behind by as much;
    otherwise it cannot be told, since the paper prints neither intervals nor the answers.
    """
    note = "one number per method and set; the number of runs behind it is not stated"
    checks = [Check(TRAINING, "intervals, or the number of training runs", "none", "no error of a method's score", None,
                    "", Consistency.unknown, note)]  # fmt: skip
    for ours, other in compared(data):
        sets = [name for name in data["benchmarks"] if name in ours.cells]
        errors = {name: _errors(data, ours, other, name) for name in sets}
        for name in sets:
            checks.append(_difference_check(SINGLE_SETS, ours, other, name, errors[name]))
        for name, distribution in data["averages"].items():
            if name in ours.cells:
                parts = [errors[of_set] for of_set in benchmarks_of(data, distribution)]
                checks.append(_difference_check(AVERAGES, ours, other, name, _of_mean(parts)))
    return checks


def compared(data: Mapping[str, Any]) -> Iterator[tuple[PrintedRow, PrintedRow]]:
    """Yield HPT's row with every other row of its table and base that is a method."""
    for table in accuracy_tables(data):
        rows = list(printed_rows(data, table))
        for ours in (row for row in rows if row.method == METHOD):
            others = (row for row in rows if row.policy == ours.policy and row is not ours and not row.is_base)
            yield from ((ours, row) for row in others)


def _errors(data: Mapping[str, Any], ours: PrintedRow, other: PrintedRow, name: str) -> Errors:
    size = data["benchmarks"][name]
    return standard_errors(ours.cells[name], other.cells[name], size["problems"], size["samples_per_problem"])


def _of_mean(parts: Sequence[Errors]) -> Errors:
    """Return the standard errors of the unweighted mean over sets, which share no problems."""
    smallest, answers, largest = (math.hypot(*ours) / len(parts) for ours in zip(*parts, strict=True))
    return smallest, answers, largest


def _difference_check(group: str, ours: PrintedRow, other: PrintedRow, column: str, errors: Errors) -> Check:
    difference = round_half_up(ours.cells[column] - other.cells[column])
    smallest, answers, largest = errors
    if abs(difference) > CRITICAL * largest:
        verdict = Consistency.consistent if difference > 0 else Consistency.inconsistent
        note = "beyond chance of the problems, however they are"
    else:
        verdict = Consistency.unknown
        always = abs(difference) <= CRITICAL * smallest
        note = "within chance of the problems in any case" if always else "depends on what is not printed"
        note += "; below the standard error of the answers alone" if abs(difference) < answers else ""
    label = f"{table_title(ours.table)}, {ours.label} against {other.label}, {column}, {ours.policy} base"
    return Check(group, label, f"{difference:+.1f}", f"standard error {smallest:.1f} to {largest:.1f}", difference,
                 "points", verdict, note, smallest, answers, largest)  # fmt: skip
