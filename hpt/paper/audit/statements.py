"""Sentences that the paper's own numbers or equations confirm or contradict; which ones is data, ``paper.json``."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hpt.config.settings import GateSettings
from hpt.evaluation.scores import round_half_up
from hpt.methods.gate import switch
from hpt.paper.audit.checks import Check, Consistency, PrintedRow, agrees, printed_rows, table_title


def statements(data: Mapping[str, Any]) -> list[Check]:
    """Return the checks of every sentence in ``data["statements"]``."""
    checks = []
    for statement in data["statements"]:
        section = statement["section"]
        place = f"Section {section}" if section[0].isdigit() else section.capitalize()
        group = f"{place}: “{statement['sentence']}”"
        checks += [Check(group, *found) for found in STATEMENTS[statement["check"]](data, **statement["parameters"])]
    return checks


#: What, printed, follows, difference, unit, verdict, note: a `Check` without its group.
Found = tuple[str, str, str, float | None, str, Consistency, str]


def gain_over_strongest(
    data: Mapping[str, Any], *, table: str, method: str, column: str, printed: float
) -> list[Found]:
    """Return a quoted gain under both readings of "our strongest baseline": by the average, or in the column itself."""
    rows = list(printed_rows(data, table))
    ours = next(row for row in rows if row.method == method)
    # Section 3.1 counts the zero-RL models, whose numbers are copied, among the baselines
    named = [row for row in rows if row is not ours and not row.is_base and (row.method or row.starred)]
    by_average = max((row for row in named if not row.starred), key=lambda row: row.cells["Avg"])
    in_column = max(named, key=lambda row: row.cells[column])
    found = []
    for what, other in (("highest average of those trained", by_average), (f"highest {column} of all", in_column)):
        gain = round_half_up(ours.cells[column] - other.cells[column])
        note = f"{ours.label} {ours.cells[column]:.1f}, {other.label} {other.cells[column]:.1f}"
        found.append((f"the baseline with the {what}", f"{printed:+g}", f"{gain:+.1f}", round_half_up(printed - gain),
                      "points", agrees(round_half_up(gain, 0) == printed), note))  # fmt: skip
    return found


def gains_quoted(
    data: Mapping[str, Any], *, table: str, method: str, column: str, printed: Mapping[str, float]
) -> list[Found]:
    """Return gains quoted in the text against the differences of the table's cells."""
    rows = {row.method: row for row in printed_rows(data, table) if row.method}
    found = []
    for other, quoted in printed.items():
        gain = round_half_up(rows[method].cells[column] - rows[other].cells[column])
        label = f"{rows[method].label} over {rows[other].label}, {column}"
        difference = round_half_up(quoted - gain)
        found.append((label, f"{quoted:+.1f}", f"{gain:+.1f}", difference, "points", agrees(difference == 0), ""))
    return found


def values_quoted(data: Mapping[str, Any], *, table: str, column: str, printed: Mapping[str, float]) -> list[Found]:
    """Return numbers quoted in the text against the table, with whether the first of them is its highest."""
    cells = {row.label: row.cells[column] for row in printed_rows(data, table)}
    found: list[Found] = [
        (f"{label}, {column}", f"{quoted:.1f}", f"{cells[label]:.1f}", round_half_up(quoted - cells[label]), "points",
         agrees(quoted == cells[label]), "")
        for label, quoted in printed.items()
    ]  # fmt: skip
    first, best = next(iter(printed)), max(cells, key=lambda label: cells[label])
    found.append((f"best {column} of {table_title(table)}", first, best, None, "", agrees(first == best), ""))
    return found


def surpasses_everywhere(data: Mapping[str, Any], *, method: str, tables: Mapping[str, Sequence[str]]) -> list[Found]:
    """Return, per table and base, the cells in which another method is not below; copied rows apart."""
    found = []
    for table, policies in tables.items():
        for policy in policies:
            rows = [row for row in printed_rows(data, table) if row.policy == policy]
            ours = next(row for row in rows if row.method == method)
            others = [row for row in rows if row is not ours and not row.is_base]
            # on a base where every other row is copied these are all there is
            for what, those in (("rows of the authors' own", False), ("rows copied from other papers", True)):
                chosen = [row for row in others if row.starred is those]
                if chosen:
                    found.append(_surpasses(data, f"{table_title(table)}, {policy} base, {what}", ours, chosen))
    return found


def _surpasses(data: Mapping[str, Any], label: str, ours: PrintedRow, others: Sequence[PrintedRow]) -> Found:
    sets = [name for name in data["benchmarks"] if name in ours.cells]
    above = [(row, name) for row in others for name in sets if row.cells[name] >= ours.cells[name]]
    total = len(others) * len(sets)
    exceptions = "; ".join(
        f"{row.label} on {name}: {row.cells[name]:.1f}, {ours.label} {ours.cells[name]:.1f}" for row, name in above
    )
    follows = f"above in {total - len(above)} of {total} cells"
    return label, f"above in all {total}", follows, float(len(above)), "cells", agrees(not above), exceptions


def increase_with_level(data: Mapping[str, Any], *, table: str, rows: Sequence[str]) -> list[Found]:
    """Return, per row, whether it rises from every level to the next."""
    columns = data["tables"][table]["columns"][:-1]
    printed = {row.label: [row.cells[column] for column in columns] for row in printed_rows(data, table)}
    found = []
    for label in rows:
        values = printed[label]
        flat = [f"{a:g} to {b:g} at {columns[i + 1]}" for i, (a, b) in enumerate(pairwise(values)) if b <= a]
        follows = f"{len(values) - 1 - len(flat)} of {len(values) - 1} steps rise"
        shown = ", ".join(f"{value:g}" for value in values)
        note = f"not: {'; '.join(flat)}" if flat else ""
        found.append((label, shown, follows, float(len(flat)), "steps", agrees(not flat), note))
    return found


def gate_in_words(data: Mapping[str, Any], *, count: int, rollouts: int, rl_from_correct: int) -> list[Found]:
    """Return the gate as a sentence describes it against Eq. 10, for every number of correct rollouts.

    Args:
        data: the published numbers.
        count: gamma as a count of ``rollouts``.
        rollouts: n of Eq. 8.
        rl_from_correct: the smallest number of correct rollouts with which, by the sentence, RL goes on.
    """
    correct = np.arange(rollouts + 1)
    alpha, _ = switch(GateSettings(count=count), correct, rollouts)
    differ = correct[(alpha > 0) != (correct >= rl_from_correct)]
    by_equation = int(correct[alpha > 0].min())
    note = ""
    if len(differ):
        at, other = ", ".join(map(str, differ)), f"{rl_from_correct - 1}/{rollouts}"
        note = f"they differ at {at} of {rollouts} correct; the sentence describes what Eq. 10 does with gate {other}"
    found = (f"RL from {rl_from_correct} correct", f"RL from {by_equation} correct (Eq. 10)", float(len(differ)))
    return [(f"gate {count}/{rollouts}", *found, "counts of correct", agrees(not len(differ)), note)]


STATEMENTS: dict[str, Callable[..., list[Found]]] = {
    check.__name__: check
    for check in (gain_over_strongest, gains_quoted, values_quoted, surpasses_everywhere, increase_with_level,
                  gate_in_words)
}  # fmt: skip
