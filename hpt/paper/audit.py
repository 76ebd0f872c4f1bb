"""The paper's printed numbers against each other: what is printed, what follows from the rest of it, and a verdict.

Every check is a function of the published numbers (`hpt.paper.paper.paper_data`) alone, so that one changed digit can
be seen to change its verdict.

The paper prints one number per method and set: no interval, no number of training runs. How far a difference could be
chance of the problems is bounded here from the two accuracies p and q, the N problems of the set and its s answers per
problem, taking the problems as a sample of their kind and the answers to a problem as independent draws:

    smallest   sqrt(|d| (1 - |d|) / (N s)), d = p - q: a difference that is the same on every problem, of answers 0 or 1
    answers    sqrt((p (1 - p) + q (1 - q)) / (N s)): problems that are all equally hard
    largest    sqrt((p (1 - p) + q (1 - q)) / N): problems that a policy always or never solves, two unrelated policies
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import norm

from hpt.config.settings import GateSettings
from hpt.evaluation.scores import average_of_cells, round_half_up
from hpt.methods.gate import switch
from hpt.paper.paper import BASE

#: Standard errors beyond which a difference is no chance, 95 %, two-sided.
CRITICAL = float(norm.ppf(0.975))
HPT = "hpt"
CONSISTENT, INCONSISTENT, UNKNOWN = "consistent", "inconsistent", "cannot be told"
Data = Mapping[str, Any]


@dataclass(frozen=True)
class AuditCheck:
    """One check of a printed number or sentence, in the group of its kind.

    ``follows`` is what the paper's other numbers give, ``difference`` printed minus follows in ``unit`` (None where
    there is no such number), ``note`` why and under which assumption. The three standard errors are those of a
    difference between methods, in points.
    """

    group: str
    what: str
    printed: str
    follows: str
    difference: float | None
    unit: str
    verdict: str
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
    def title(self) -> str:
        """The table's name and the row's label."""
        return f"{_title(self.table)}, {self.label}"


def audit(data: Data) -> list[AuditCheck]:
    """Return every check of the published numbers, in the order of the report."""
    kinds = (averages, exclusive_solves_add_up, one_run_in_several_tables, table_4_against_table_2, set_sizes,
             statements, spreads)  # fmt: skip
    return [check for kind in kinds for check in kind(data)]


def _rows(data: Data, *tables: str) -> Iterator[PrintedRow]:
    """Yield the rows of tables; without names, of all that print accuracies."""
    accuracies = [name for name, table in data["tables"].items() if set(table["columns"]) & set(data["benchmarks"])]
    for table in tables or accuracies:
        columns = data["tables"][table]["columns"]
        for row in data["tables"][table]["rows"]:
            cells = dict(zip(columns, row["values"], strict=True))
            yield PrintedRow(table, row["row"], row["method"], row["policy"], row["starred"], cells)


def _title(table: str) -> str:
    return f"Table {table.removeprefix('table')}"


def _benchmarks(data: Data, distribution: str) -> list[str]:
    return [name for name, about in data["benchmarks"].items() if about["distribution"] == distribution]


def _agrees(right: bool) -> str:
    return CONSISTENT if right else INCONSISTENT


def _equal(
    group: str, what: str, printed: float, follows: float, shown: str = "{:.1f}", unit: str = "points", note: str = ""
) -> AuditCheck:
    """Return the check that two numbers are the same to 0.1."""
    difference = round_half_up(printed - follows)
    return AuditCheck(
        group, what, shown.format(printed), shown.format(follows), difference, unit, _agrees(difference == 0), note
    )


# Tables against themselves


def averages(data: Data) -> Iterator[AuditCheck]:
    """Yield a check per printed average, the unweighted mean of the printed cells rounded half up, and one of ties.

    A mean that lies exactly between two printed values shows how it was made: of printed cells it is always rounded
    up; of the scores before rounding, up in about half of the cases.
    """
    ties = []
    note = "unweighted mean of the printed cells, rounded half up"
    for row in _rows(data):
        for name in (average for average in data["averages"] if average in row.cells):
            cells = [row.cells[benchmark] for benchmark in _benchmarks(data, data["averages"][name])]
            label = f"{row.title}, {name}{_base_text(data, row)}"
            yield _equal("Averages", label, row.cells[name], average_of_cells(cells), note=note)
            exact = sum(map(Fraction, map(str, cells)), Fraction()) / len(cells)
            if (10 * exact) % 1 == Fraction(1, 2):
                ties.append(Fraction(str(row.cells[name])) > exact)
    if ties:
        note = f"of scores before rounding, all of {len(ties)} ties would go up in 1 of {2 ** len(ties)} cases"
        printed, follows = f"{sum(ties)} of {len(ties)}", f"{len(ties)} of {len(ties)}"
        yield AuditCheck("Averages", "ties are rounded up", printed, follows, float(sum(ties) - len(ties)), "averages",
                         _agrees(all(ties)), note)  # fmt: skip


def _base_text(data: Data, row: PrintedRow) -> str:
    """Return which base a row is on, where its table has several."""
    bases = {other.policy: other.label for other in _rows(data, row.table) if other.method == BASE}
    return f" ({bases[row.policy]})" if len(bases) > 1 else ""


def exclusive_solves_add_up(data: Data) -> Iterator[AuditCheck]:
    """Yield checks of Table 4: percentages of the level sizes, and levels that add up to the last column."""
    group, table = "Table 4 within itself", data["tables"]["table4"]
    rows = {row.label: row.cells for row in _rows(data, "table4")}
    sizes = dict(zip(table["columns"], table["sizes"], strict=True))
    *levels, overall = table["columns"]
    for label, cells in {"sizes of the levels": sizes, **rows}.items():
        if label.endswith(" %"):
            counts = rows[label.removesuffix(" %")]
            for column, size in sizes.items():
                share = round_half_up(100 * counts[column] / size)
                note = f"{counts[column]:g} of {size}"
                yield _equal(group, f"{label}, {column}", cells[column], share, "{:.1f} %", note=note)
        else:
            total = sum(cells[level] for level in levels)
            yield _equal(group, f"{label}, {overall}", cells[overall], total, "{:g}", "problems", "sum over the levels")


def one_run_in_several_tables(data: Data) -> Iterator[AuditCheck]:
    """Yield a check per pair of tables that print the same method on the same base: their cells must be the same."""
    placed: dict[tuple[str, str], list[PrintedRow]] = {}
    for row in _rows(data):
        if row.method is not None:
            placed.setdefault((row.method, row.policy), []).append(row)
    for first, second in (pair for rows in placed.values() for pair in pairwise(rows)):
        shared = [name for name in first.cells if name in second.cells]
        furthest = max((second.cells[name] - first.cells[name] for name in shared), key=abs)
        names = " and ".join(f"{_title(row.table)} ({row.label})" for row in (first, second))
        there, before = (", ".join(f"{row.cells[name]:.1f}" for name in shared) for row in (second, first))
        difference, note = round_half_up(furthest), "difference: of the cell that differs most"
        yield AuditCheck("One run in several tables", names, there, before, difference, "points",
                         _agrees(difference == 0), note)  # fmt: skip


# Counts of problems


def set_sizes(data: Data) -> Iterator[AuditCheck]:
    """Yield a check per printed cell: is it k correct answers out of (problems x answers per problem), to 0.1?

    Both ways of rounding a tie are allowed. Where every value to 0.1 is such a fraction, nothing can be told. Sizes
    that the data also names (a file of the released code of another size) are checked as well. A run that several
    tables print is checked once.
    """
    distinct: dict[tuple[str, str], PrintedRow] = {}
    for row in _rows(data):
        distinct.setdefault((row.method or row.label, row.policy), row)
    for benchmark, about in data["benchmarks"].items():
        others = {int(size): f", {why}" for size, why in about.get("other_sizes", {}).items()}
        for problems, why in {about["problems"]: "", **others}.items():
            answers = problems * about["samples_per_problem"]
            possible = fractions_to_one_decimal(answers)
            for row in distinct.values():
                if benchmark not in row.cells:
                    continue
                printed = Decimal(str(row.cells[benchmark]))
                nearest = min(possible, key=lambda value, printed=printed: abs(value - printed))
                yield AuditCheck(
                    f"Set sizes: {benchmark}, k of {answers}{why}",
                    f"{row.title}, {row.policy} base",
                    f"{printed:.1f}", f"{nearest}", float(printed - nearest), "points",
                    _agrees(nearest == printed) if len(possible) < 1001 else UNKNOWN,
                    f"{len(possible)} of the 1001 values from 0.0 to 100.0 are such a fraction",
                )  # fmt: skip


@cache
def fractions_to_one_decimal(answers: int) -> frozenset[Decimal]:
    """Return every percentage, to one decimal, that k of so many answers can be printed as; ties either way."""
    exact = [Decimal(100 * k) / Decimal(answers) for k in range(answers + 1)]
    return frozenset(value.quantize(Decimal("0.1"), way) for value in exact for way in (ROUND_HALF_UP, ROUND_HALF_EVEN))


def table_4_against_table_2(data: Data) -> Iterator[AuditCheck]:
    """Yield, per baseline of Table 4, whether +X minus -Y is the difference of the two counts that Table 2 implies.

    If not, the two tables are not of the same answers. They could be of two generations by the same two policies: a
    second check asks whether chance could explain it. For given problems the net count of one generation has at most
    the variance E[X + Y], since p(1-p) + q(1-q) <= p(1-q) + q(1-p); that is estimated by the printed X + Y.
    """
    group = "Table 4 against Table 2"
    solves = {row.label: row.cells["Overall"] for row in _rows(data, "table4")}
    problems = data["benchmarks"]["MATH-500"]["problems"]
    implied = {row.label: round(row.cells["MATH-500"] * problems / 100) for row in _rows(data, "table2")}
    for baseline in dict.fromkeys(label.split(" ")[0] for label in solves):
        gained, lost = solves[f"{baseline} +X"], solves[f"{baseline} -Y"]
        net, follows = gained - lost, implied["HPT"] - implied[baseline]
        same = [name for name, count in implied.items() if implied["HPT"] - count == net and name != "HPT"]
        note = f"Table 2: {implied['HPT']} and {implied[baseline]} of {problems}; {net:+g} would be that of "
        label = f"HPT against {baseline}, +X minus -Y"
        note += " or ".join(same) if same else "no row"
        yield _equal(group, f"{label}, same answers", net, follows, "{:+g}", "problems", note)
        error = math.sqrt(2 * (gained + lost))
        verdict = INCONSISTENT if abs(net - follows) > CRITICAL * error else UNKNOWN
        bound = f"within {CRITICAL * error:.1f} of {follows:+g}"
        note = f"two generations differ by a standard deviation of at most about {error:.1f} problems"
        yield AuditCheck(group, f"{label}, another generation", f"{net:+g}", bound, net - follows, "problems", verdict,
                         note)  # fmt: skip


# Sentences; which ones is data, ``paper.json``


def statements(data: Data) -> Iterator[AuditCheck]:
    """Yield the checks of every sentence in ``data["statements"]``."""
    for statement in data["statements"]:
        section = statement["section"]
        place = f"Section {section}" if section[0].isdigit() else section.capitalize()
        group = f"{place}: “{statement['sentence']}”"
        yield from STATEMENTS[statement["check"]](data, group, **statement["parameters"])


def gain_over_strongest(
    data: Data, group: str, *, table: str, method: str, column: str, printed: float
) -> Iterator[AuditCheck]:
    """Yield a quoted gain under both readings of "our strongest baseline": by the average, or in the column itself."""
    rows = list(_rows(data, table))
    ours = next(row for row in rows if row.method == method)
    # Section 3.1 counts the zero-RL models, whose numbers are copied, among the baselines
    named = [row for row in rows if row is not ours and row.method != BASE and (row.method or row.starred)]
    by_average = max((row for row in named if not row.starred), key=lambda row: row.cells["Avg"])
    in_column = max(named, key=lambda row: row.cells[column])
    for what, other in (("highest average of those trained", by_average), (f"highest {column} of all", in_column)):
        gain = round_half_up(ours.cells[column] - other.cells[column])
        note = f"{ours.label} {ours.cells[column]:.1f}, {other.label} {other.cells[column]:.1f}"
        yield AuditCheck(group, f"the baseline with the {what}", f"{printed:+g}", f"{gain:+.1f}",
                         round_half_up(printed - gain), "points", _agrees(round_half_up(gain, 0) == printed),
                         note)  # fmt: skip


def gains_quoted(
    data: Data, group: str, *, table: str, method: str, column: str, printed: Mapping[str, float]
) -> Iterator[AuditCheck]:
    """Yield gains quoted in the text against the differences of the table's cells."""
    rows = {row.method: row for row in _rows(data, table) if row.method}
    for other, quoted in printed.items():
        gain = round_half_up(rows[method].cells[column] - rows[other].cells[column])
        yield _equal(group, f"{rows[method].label} over {rows[other].label}, {column}", quoted, gain, "{:+.1f}")


def values_quoted(
    data: Data, group: str, *, table: str, column: str, printed: Mapping[str, float]
) -> Iterator[AuditCheck]:
    """Yield numbers quoted in the text against the table, and whether the first of them is its highest."""
    cells = {row.label: row.cells[column] for row in _rows(data, table)}
    for label, quoted in printed.items():
        yield _equal(group, f"{label}, {column}", quoted, cells[label])
    first, best = next(iter(printed)), max(cells, key=lambda label: cells[label])
    yield AuditCheck(group, f"best {column} of {_title(table)}", first, best, None, "", _agrees(first == best))


def surpasses_everywhere(
    data: Data, group: str, *, method: str, tables: Mapping[str, Sequence[str]]
) -> Iterator[AuditCheck]:
    """Yield, per table and base, the cells in which another method is not below; copied rows apart."""
    for table, policy in ((table, policy) for table, policies in tables.items() for policy in policies):
        rows = [row for row in _rows(data, table) if row.policy == policy and row.method != BASE]
        ours = next(row for row in rows if row.method == method)
        sets = [name for name in data["benchmarks"] if name in ours.cells]
        # on a base where every other row is copied these are all there is
        for what, copied in (("rows of the authors' own", False), ("rows copied from other papers", True)):
            others = [row for row in rows if row is not ours and row.starred is copied]
            if not others:
                continue
            above = [(row, name) for row in others for name in sets if row.cells[name] >= ours.cells[name]]
            total = len(others) * len(sets)
            note = "; ".join(
                f"{row.label} on {name}: {row.cells[name]:.1f}, {ours.label} {ours.cells[name]:.1f}"
                for row, name in above
            )
            yield AuditCheck(group, f"{_title(table)}, {policy} base, {what}", f"above in all {total}",
                             f"above in {total - len(above)} of {total} cells", float(len(above)), "cells",
                             _agrees(not above), note)  # fmt: skip


def increase_with_level(data: Data, group: str, *, table: str, rows: Sequence[str]) -> Iterator[AuditCheck]:
    """Yield, per row, whether it rises from every level to the next."""
    columns = data["tables"][table]["columns"][:-1]
    printed = {row.label: [row.cells[column] for column in columns] for row in _rows(data, table)}
    for label in rows:
        values = printed[label]
        flat = [f"{a:g} to {b:g} at {columns[i + 1]}" for i, (a, b) in enumerate(pairwise(values)) if b <= a]
        yield AuditCheck(group, label, ", ".join(f"{value:g}" for value in values),
                         f"{len(values) - 1 - len(flat)} of {len(values) - 1} steps rise", float(len(flat)), "steps",
                         _agrees(not flat), f"not: {'; '.join(flat)}" if flat else "")  # fmt: skip


def gate_in_words(data: Data, group: str, *, count: int, rollouts: int, rl_from_correct: int) -> Iterator[AuditCheck]:
    """Yield the gate as a sentence describes it against Eq. 10, for every number of correct rollouts.

    ``count`` is gamma as a count of ``rollouts`` (n of Eq. 8); by the sentence, RL goes on from ``rl_from_correct``.
    """
    correct = np.arange(rollouts + 1)
    alpha, _ = switch(GateSettings(count=count), correct, rollouts)
    differ = correct[(alpha > 0) != (correct >= rl_from_correct)]
    at, other = ", ".join(map(str, differ)), f"{rl_from_correct - 1}/{rollouts}"
    note = f"they differ at {at} of {rollouts} correct; the sentence describes what Eq. 10 does with gate {other}"
    yield AuditCheck(group, f"gate {count}/{rollouts}", f"RL from {rl_from_correct} correct",
                     f"RL from {int(correct[alpha > 0].min())} correct (Eq. 10)", float(len(differ)),
                     "counts of correct", _agrees(not len(differ)), note if len(differ) else "")  # fmt: skip


STATEMENTS: dict[str, Callable[..., Iterator[AuditCheck]]] = {
    check.__name__: check
    for check in (gain_over_strongest, gains_quoted, values_quoted, surpasses_everywhere, increase_with_level,
                  gate_in_words)
}  # fmt: skip


# Spreads that are not printed


def standard_errors(p: float, q: float, problems: int, samples: int) -> tuple[float, float, float]:
    """Return the smallest, the answers' own and the largest standard error of p - q, both in percent.

    Example:
        >>> [round(error, 2) for error in standard_errors(33.0, 26.1, 30, 32)]
        [0.82, 2.08, 11.75]
    """
    a, b, answers = p / 100, q / 100, problems * samples
    d, both = abs(a - b), a * (1 - a) + b * (1 - b)
    return 100 * math.sqrt(d * (1 - d) / answers), 100 * math.sqrt(both / answers), 100 * math.sqrt(both / problems)


def spreads(data: Data) -> Iterator[AuditCheck]:
    """Yield a check per printed difference between HPT and another method, on every set and every average.

    Consistent: HPT is ahead by more than 1.96 largest standard errors; inconsistent: it is behind by as much;
    otherwise it cannot be told, since the paper prints neither intervals nor the answers.
    """
    note = "one number per method and set; the number of runs behind it is not stated"
    yield AuditCheck("Spread over training runs", "intervals, or the number of training runs", "none",
                     "no error of a method's score", None, "", UNKNOWN, note)  # fmt: skip
    rows = [row for row in _rows(data) if row.method != BASE]
    same = [(ours, row) for ours in rows if ours.method == HPT for row in rows
            if row is not ours and (row.table, row.policy) == (ours.table, ours.policy)]  # fmt: skip
    for ours, other in same:
        errors = {
            name: standard_errors(ours.cells[name], other.cells[name], about["problems"], about["samples_per_problem"])
            for name, about in data["benchmarks"].items()
            if name in ours.cells
        }
        for name in errors:
            yield _lead("HPT's lead on single sets", ours, other, name, *errors[name])
        for name, distribution in data["averages"].items():
            if name in ours.cells:
                # of an unweighted mean over sets, which share no problems
                parts = [errors[of_set] for of_set in _benchmarks(data, distribution)]
                of_mean = (math.hypot(*kind) / len(parts) for kind in zip(*parts, strict=True))
                yield _lead("HPT's lead on averages", ours, other, name, *of_mean)


def _lead(
    group: str, ours: PrintedRow, other: PrintedRow, column: str, smallest: float, answers: float, largest: float
) -> AuditCheck:
    difference = round_half_up(ours.cells[column] - other.cells[column])
    if abs(difference) > CRITICAL * largest:
        verdict, note = _agrees(difference > 0), "beyond chance of the problems, however they are"
    else:
        always = abs(difference) <= CRITICAL * smallest
        verdict = UNKNOWN
        note = "within chance of the problems in any case" if always else "depends on what is not printed"
        note += "; below the standard error of the answers alone" if abs(difference) < answers else ""
    return AuditCheck(
        group, f"{ours.title} against {other.label}, {column}, {ours.policy} base", f"{difference:+.1f}",
        f"standard error {smallest:.1f} to {largest:.1f}", difference, "points", verdict, note,
        smallest, answers, largest,
    )  # fmt: skip
