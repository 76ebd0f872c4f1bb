"""Accuracies as counts: which fractions a set's size allows, and the counts of Table 4 against those of Table 2."""

import math
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from functools import cache
from typing import Any

from scipy.stats import norm

from hpt.paper.audit.checks import Check, Consistency, PrintedRow, accuracy_tables, agrees, printed_rows, table_title

#: Standard errors beyond which a difference is no chance, 95 %, two-sided.
CRITICAL = float(norm.ppf(0.975))
EXCLUSIVE, SET_SIZES = "Table 4 against Table 2", "Set sizes"


def set_sizes(data: Mapping[str, Any]) -> list[Check]:
    """Return a check per printed cell: is it k correct answers out of (problems x answers per problem), to 0.1?

    Both ways of rounding a tie are allowed. Where every value to 0.1 is such a fraction, nothing can be told. Sizes
    that the data also names (a file of the released code of another size) are checked as well.
    """
    checks = []
    for benchmark, about in data["benchmarks"].items():
        others = {int(size): f", {why}" for size, why in about.get("other_sizes", {}).items()}
        for problems, why in {about["problems"]: "", **others}.items():
            answers = problems * about["samples_per_problem"]
            group = f"{SET_SIZES}: {benchmark}, k of {answers}{why}"
            possible = fractions_to_one_decimal(answers)
            for row in distinct_rows(data):
                if benchmark in row.cells:
                    checks.append(_fraction_check(group, row, row.cells[benchmark], possible))
    return checks


def _fraction_check(group: str, row: PrintedRow, value: float, possible: frozenset[Decimal]) -> Check:
    printed = Decimal(str(value))
    nearest = min(possible, key=lambda value: abs(value - printed))
    verdict = agrees(nearest == printed) if len(possible) < 1001 else Consistency.unknown
    note = f"{len(possible)} of the 1001 values from 0.0 to 100.0 are such a fraction"
    label = f"{table_title(row.table)}, {row.label}, {row.policy} base"
    return Check(group, label, f"{value:.1f}", f"{nearest}", float(printed - nearest), "points", verdict, note)


@cache
def fractions_to_one_decimal(answers: int) -> frozenset[Decimal]:
    """Return every percentage, to one decimal, that k of so many answers can be printed as; ties either way.

    Example:
        >>> sorted(map(str, fractions_to_one_decimal(3)))
        ['0.0', '100.0', '33.3', '66.7']
    """
    exact = [Decimal(100 * k) / Decimal(answers) for k in range(answers + 1)]
    return frozenset(value.quantize(Decimal("0.1"), way) for value in exact for way in (ROUND_HALF_UP, ROUND_HALF_EVEN))


def table_4_against_table_2(data: Mapping[str, Any]) -> list[Check]:
    """Return, per baseline of Table 4, whether +X minus -Y is the difference of the two counts that Table 2 implies.

    If not, the two tables are not of the same answers. They could be of two generations by the same two policies: a
    second check asks whether chance could explain it. For given problems the net count of one generation has at most
    the variance E[X + Y], since p(1-p) + q(1-q) <= p(1-q) + q(1-p); that is estimated by the printed X + Y.
    """
    solves = {row.label: row.cells["Overall"] for row in printed_rows(data, "table4")}
    problems = data["benchmarks"]["MATH-500"]["problems"]
    implied = {row.label: round(row.cells["MATH-500"] * problems / 100) for row in printed_rows(data, "table2")}
    checks = []
    for baseline in dict.fromkeys(label.split(" ")[0] for label in solves):
        gained, lost = solves[f"{baseline} +X"], solves[f"{baseline} -Y"]
        net, follows = gained - lost, implied["HPT"] - implied[baseline]
        same = [name for name, count in implied.items() if implied["HPT"] - count == net and name != "HPT"]
        note = f"Table 2: {implied['HPT']} and {implied[baseline]} of {problems}; {net:+g} would be that of "
        note += " or ".join(same) if same else "no row"
        label = f"HPT against {baseline}, +X minus -Y"
        checks.append(Check(EXCLUSIVE, f"{label}, same answers", f"{net:+g}", f"{follows:+g}", net - follows,
                            "problems", agrees(net == follows), note))  # fmt: skip
        error = math.sqrt(2 * (gained + lost))
        beyond = abs(net - follows) > CRITICAL * error
        note = f"two generations differ by a standard deviation of at most about {error:.1f} problems"
        verdict = Consistency.inconsistent if beyond else Consistency.unknown
        bound = f"within {CRITICAL * error:.1f} of {follows:+g}"
        checks.append(Check(EXCLUSIVE, f"{label}, another generation", f"{net:+g}", bound, net - follows, "problems",
                            verdict, note))  # fmt: skip
    return checks


def distinct_rows(data: Mapping[str, Any]) -> Iterator[PrintedRow]:
    """Yield the rows of the tables of accuracies, a run that is printed in several tables once."""
    seen: set[tuple[str, str]] = set()
    for row in printed_rows(data, *accuracy_tables(data)):
        key = (row.method or row.label, row.policy)
        if key not in seen:
            seen.add(key)
            yield row
