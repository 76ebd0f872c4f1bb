"""The audit of the paper's printed numbers as a table: every check in the CSV, what stands out in the rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields

import pandas as pd

from hpt.artefacts.output import Cell, Column, Row, TableArtefact
from hpt.audit import Check, Consistency
from hpt.audit import audit as checks_of
from hpt.audit.counts import CRITICAL, SET_SIZES
from hpt.audit.spreads import AVERAGES
from hpt.catalogue import ARTEFACTS
from hpt.export import RunRecords
from hpt.paper import paper_data

TITLE = ARTEFACTS["audit"].title
#: Groups of more checks than this are summed up in one row, and only what stands out has a row of its own.
_FEW = 4
_MANY_EXCEPTIONS = 9


def audit(records: Sequence[RunRecords] = ()) -> TableArtefact:
    """Return the audit of the published numbers; it needs no run, and takes records only to be called like the others.

    Returns:
        A table whose data has one row per check, with the columns of `hpt.audit.Check`.
    """
    del records
    checks = checks_of(paper_data())
    data = pd.DataFrame([asdict(check) for check in checks], columns=[own.name for own in fields(Check)])
    columns = (
        Column("printed"), Column("follows", "from the paper's other numbers"), Column("difference"), Column("verdict"),
    )  # fmt: skip
    rows: list[Row] = []
    heading = ""
    for group in dict.fromkeys(check.group for check in checks):
        own = [check for check in checks if check.group == group]
        above, _, below = group.partition(": ") if group.startswith(SET_SIZES) else (group, "", "")
        if above != heading:
            rows.append((above, ()))
            heading = above
        rows += _rows(below, own)
    return TableArtefact("audit", TITLE, data, columns, tuple(rows), _caption(checks))


def _rows(label: str, checks: Sequence[Check]) -> list[Row]:
    if len(checks) <= _FEW:
        return [_row(check) for check in checks]
    exceptions = [check for check in checks if _stands_out(check)]
    listed = exceptions if len(exceptions) <= _MANY_EXCEPTIONS else []
    counts = Counter(check.verdict.value for check in checks)
    verdict = next(iter(counts)) if len(counts) == 1 else ", ".join(f"{count} {name}" for name, count in counts.items())
    differ = sum(check.difference != 0 for check in checks if check.smallest_error is None)
    shown = "" if checks[0].smallest_error is not None else f"{differ} differ"
    summary = (Cell(f"{len(checks)} numbers"), Cell("", _below_answers(checks)), Cell(shown), Cell(verdict))
    return [(label or "all", summary), *map(_row, listed)]


def _row(check: Check) -> Row:
    difference = "" if check.difference is None else f"{check.difference:+g} {check.unit}".replace("+0 ", "0 ")
    follows = Cell(check.follows, f"({check.note})" if check.note else "")
    return check.what, (Cell(check.printed), follows, Cell(difference), Cell(check.verdict.value))


def _stands_out(check: Check) -> bool:
    """Whether a check of a large group has a row of its own."""
    if check.smallest_error is None:
        return check.verdict is Consistency.inconsistent
    undecided = check.verdict is not Consistency.consistent
    assert check.difference is not None
    return undecided and (check.group == AVERAGES or abs(check.difference) <= CRITICAL * check.smallest_error)


def _below_answers(checks: Sequence[Check]) -> str:
    """Return how many differences lie below which standard error; empty for other checks."""
    bounded = [
        (abs(own.difference), own) for own in checks if own.smallest_error is not None and own.difference is not None
    ]
    if not bounded:
        return ""
    within = sum(size <= CRITICAL * (own.smallest_error or 0) for size, own in bounded)
    answers = sum(size < (own.answers_error or 0) for size, own in bounded)
    largest = sum(size < (own.largest_error or 0) for size, own in bounded)
    return (
        f"{within} within {CRITICAL:.2f} smallest standard errors; {answers} below one of the answers alone; "
        f"{largest} below one largest"
    )


def _caption(checks: Sequence[Check]) -> str:
    counts = Counter(check.verdict for check in checks)
    total = ", ".join(f"{counts[own]} {own.value}" for own in Consistency)
    return (
        f"{len(checks)} checks of what the paper prints: {total}. No run is needed for any of them. Every check is a "
        "row of the CSV; here a group of many is one row, followed by those that stand out. Consistent says that two "
        "printed numbers agree, not that either is right. Set sizes are those of the public benchmarks; where every "
        "value to one decimal is a possible fraction, nothing can be told. A lead is called consistent where it is "
        f"more than {CRITICAL:.2f} of the largest standard errors that the two accuracies and the size of the set "
        "allow (problems always or never solved, two methods that have nothing to do with each other), and it cannot "
        "be told where it is less: intervals, answers and the number of training runs are not printed. The smallest "
        "standard error holds whatever the problems and however alike the methods; the one of the answers alone takes "
        "all problems as equally hard. All take the problems as a sample of their kind and say nothing about the next "
        "training run."
    )
