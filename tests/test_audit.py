"""The audit of the printed numbers: what it finds in the paper, and that a changed digit changes what it finds."""

import copy
from collections import Counter
from collections.abc import Callable
from operator import setitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt.cli import console
from hpt.paper.audit import CONSISTENT, INCONSISTENT, AuditCheck, audit, standard_errors
from hpt.paper.paper import paper_data, paper_table
from hpt.reports import begin
from hpt.runs.make import planned_runs
from hpt.runs.plan import make_plan, print_plan

Data = dict[str, Any]


@pytest.fixture(scope="module")
def printed() -> list[AuditCheck]:
    return audit(paper_data())


def found(checks: list[AuditCheck], group: str, what: str) -> AuditCheck:
    (check,) = [own for own in checks if own.group.startswith(group) and own.what == what]
    return check


def row_of(data: Data, table: str, label: str, policy: str) -> list[float]:
    (row,) = [own for own in data["tables"][table]["rows"] if (own["row"], own["policy"]) == (label, policy)]
    return row["values"]


def verdicts(checks: list[AuditCheck], group: str) -> Counter[str]:
    return Counter(own.verdict for own in checks if own.group.startswith(group))


def test_what_the_paper_gets_right(printed: list[AuditCheck]) -> None:
    assert verdicts(printed, "Averages") == {"consistent": 41}  # 40 averages, and the ties among them
    ties = found(printed, "Averages", "ties are rounded up")
    assert (ties.printed, "1 of 4096 cases" in ties.note) == ("12 of 12", True)
    assert verdicts(printed, "Table 4 within itself") == {"consistent": 24 + 4 + 1}
    assert verdicts(printed, "One run in several tables") == {"consistent": 2}
    for section in ("Section 3.2", "Section 4.4", "Section 4.5: “Among"):
        assert set(verdicts(printed, section)) == {"consistent"}, section


def test_table_4_is_not_of_the_answers_of_table_2(printed: list[AuditCheck]) -> None:
    def compared(answers: str) -> list[AuditCheck]:
        return [found(printed, "Table 4 against", f"HPT against {own}, +X minus -Y, {answers}")
                for own in ("GRPO", "LUFFY")]  # fmt: skip

    grpo, luffy = compared("same answers")
    assert (grpo.printed, grpo.follows, grpo.difference, grpo.verdict) == ("+43", "+37", 6, INCONSISTENT)
    assert (luffy.printed, luffy.follows, luffy.difference, luffy.verdict) == ("+27", "+4", 23, INCONSISTENT)
    assert "would be that of SRFT" in luffy.note
    assert "446 and 442 of 500" in luffy.note
    assert [own.verdict for own in compared("another generation")] == ["cannot be told", "inconsistent"]


def test_set_sizes(printed: list[AuditCheck]) -> None:
    (misfit,) = [own for own in printed if own.group == "Set sizes: GPQA, k of 198" and own.difference]
    assert (misfit.what, misfit.printed, misfit.follows) == ("Table 2, SRFT, strong base", "36.8", "36.9")
    assert verdicts(printed, "Set sizes: OlympiadBench, k of 675") == {"consistent": 26}
    assert verdicts(printed, "Set sizes: OlympiadBench, k of 674") == {"consistent": 12, "inconsistent": 14}
    for too_fine in ("AMC, k of 2656", "AMC, k of 1280", "ARC-c"):
        assert set(verdicts(printed, f"Set sizes: {too_fine}")) == {"cannot be told"}
    assert found(printed, "Set sizes: AIME 25", "Table 3, HPT, llama base").follows == "1.2"  # 12 of 960, a tie to even


def test_sentences(printed: list[AuditCheck]) -> None:
    by_average, in_column = (own for own in printed if own.group.startswith("Section 1"))
    assert (by_average.follows, by_average.verdict) == ("+6.9", "consistent")
    assert (in_column.follows, in_column.verdict) == ("-0.4", "inconsistent")
    own, copied = (
        check for check in printed if check.group.startswith("Abstract") and check.what.startswith("Table 2")
    )
    assert "SFT on AIME 25: 22.8, HPT 21.9" in own.note
    assert "Oat-Zero on AIME 24: 33.4, HPT 33.0" in copied.note
    assert {own.verdict, copied.verdict} == {INCONSISTENT}
    gates = {check.what: check for check in printed if check.what.startswith("gate ")}
    assert [gates[f"gate {count}/8"].verdict for count in range(3)] == ["consistent", *["inconsistent"] * 2]
    assert "they differ at 1 of 8 correct; the sentence describes" in gates["gate 1/8"].note
    rising = [check.verdict for check in printed if check.group.startswith("Section 4.1")]
    assert rising == ["consistent", "inconsistent", "consistent", "inconsistent"]  # LUFFY's: 5 to 5, 5.6 to 4.8


# A changed number is seen


def cell(table: str, label: str, policy: str, place: int, value: float) -> Callable[[Data], None]:
    return lambda data: setitem(row_of(data, table, label, policy), place, value)


def change_gate(data: Data) -> None:
    (own,) = [row for row in data["statements"] if row["id"] == "gate-0-in-words"]
    own["parameters"]["rl_from_correct"] = 2


@pytest.mark.parametrize(
    ("change", "group", "what"),
    [
        (cell("table3", "GRPO", "weak", 6, 34.1), "Averages", "Table 3, GRPO, Avg (Qwen2.5-Math-1.5B)"),
        # three problems more: 44.3 on average
        (cell("table2", "SRFT", "strong", 3, 84.4), "Averages", "Table 2, SRFT, Avg"),
        # as half to even prints 49.75
        (cell("table2", "LUFFY", "strong", 6, 49.7), "Averages", "ties are rounded up"),
        (cell("table4", "GRPO +X %", "strong", 4, 20.2), "Table 4 within itself", "GRPO +X %, Level 5"),
        (cell("table4", "LUFFY -Y", "strong", 5, 17), "Table 4 within itself", "LUFFY -Y, Overall"),
        (lambda data: setitem(data["tables"]["table4"]["sizes"], 0, 42),
         "Table 4 within itself", "sizes of the levels, Overall"),
        (cell("table5", "SFT/ON", "weak", 0, 16.7), "One run in several tables", "Table 3 (HPT) and Table 5 (SFT/ON)"),
        (cell("table2", "HPT", "strong", 4, 46.1), "Set sizes: Minerva", "Table 2, HPT, strong base"),  # not k of 272
        (cell("table2", "LUFFY", "strong", 0, 26.0), "Section 3.2", "HPT over LUFFY, AIME 24"),
        (cell("table6", "gamma = 1/8", "weak", 6, 38.6), "Section 4.5: “Among", "gamma = 1/8, Avg"),
        (cell("table5", "OFF/ON", "weak", 6, 42.0), "Section 4.4", "best Avg of Table 5"),
        (cell("table2", "LUFFY", "strong", 0, 30.0),
         "Section 1", "the baseline with the highest average of those trained"),
        # a tie is not above
        (cell("table3", "SFT", "weak", 1, 17.8), "Abstract", "Table 3, weak base, rows of the authors' own"),
        (cell("table4", "GRPO +X", "strong", 2, 4), "Section 4.1", "GRPO +X"),
        (change_gate, "Section 4.5: “A value", "gate 0/8"),
    ],
)  # fmt: skip
def test_a_changed_number_fails_its_check(
    printed: list[AuditCheck], change: Callable[[Data], None], group: str, what: str
) -> None:
    assert found(printed, group, what).verdict == CONSISTENT
    data = copy.deepcopy(paper_data())
    change(data)
    assert found(audit(data), group, what).verdict == INCONSISTENT


def test_a_mended_number_passes_its_check(printed: list[AuditCheck]) -> None:
    """The other way round: what is inconsistent in print is consistent once the number is changed to what follows."""
    data = copy.deepcopy(paper_data())
    row_of(data, "table2", "SRFT", "strong")[8] = 36.9
    row_of(data, "table4", "GRPO +X", "strong")[5] = 52
    row_of(data, "table2", "SFT", "strong")[1] = 21.8
    for label in ("Oat-Zero", "SimpleRL-Zero"):
        row_of(data, "table2", label, "strong")[0] = 26.0
    for own in data["statements"]:
        if own["id"] in ("gate-1-in-words", "gate-2-in-words"):
            own["parameters"]["rl_from_correct"] += 1
    checks = audit(data)
    for group, what in (
        ("Set sizes: GPQA", "Table 2, SRFT, strong base"),
        ("Table 4 against", "HPT against GRPO, +X minus -Y, same answers"),
        ("Abstract", "Table 2, strong base, rows of the authors' own"),
        ("Section 1", "the baseline with the highest AIME 24 of all"),
        ("Section 4.5: “Similarly", "gate 1/8"),
        ("Section 4.5: “Similarly", "gate 2/8"),
    ):
        assert found(printed, group, what).verdict == INCONSISTENT, what
        assert found(checks, group, what).verdict == CONSISTENT, what


# Spreads


def error(p: np.ndarray, q: np.ndarray, problems: int, samples: int) -> float:
    """In points, of two policies' difference on problems drawn from these: Var(d) + E[p(1-p) + q(1-q)] / s of each."""
    return 100 * float(np.sqrt((np.var(p - q) + np.mean(p * (1 - p) + q * (1 - q)) / samples) / problems))


@given(st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_no_difference_has_a_smaller_error_than_the_smallest(samples: int, data: st.DataObject) -> None:
    chances = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6)
    p, q = np.array(data.draw(chances)).T
    smallest, answers, largest = standard_errors(100 * p.mean(), 100 * q.mean(), 25, samples)
    assert smallest <= error(p, q, 25, samples) + 1e-9
    assert smallest <= answers + 1e-9 <= largest + 2e-9
    if np.cov(p, q, bias=True)[0, 1] >= 0:
        assert error(p, q, 25, samples) <= largest + 1e-9


def test_the_standard_errors_are_reached() -> None:
    smallest, _, _ = standard_errors(70.0, 20.0, 30, 4)
    assert error(np.array([0.5] * 6 + [1.0] * 4), np.array([0.0] * 6 + [0.5] * 4), 30, 4) == pytest.approx(smallest)
    _, answers, largest = standard_errors(60.0, 20.0, 30, 4)
    assert error(np.array([0.6]), np.array([0.2]), 30, 4) == pytest.approx(answers)
    unrelated = np.array([(a, b) for a in (1, 1, 1, 0, 0) for b in (1, 0, 0, 0, 0)], dtype=float).T
    assert error(*unrelated, 30, 4) == pytest.approx(largest)


def test_every_lead_of_hpt_has_its_errors(printed: list[AuditCheck]) -> None:
    single = [own for own in printed if own.group == "HPT's lead on single sets"]
    assert len(single) == 10 * 8 + (3 + 3) * 6 + 2 * 6 + 2 * 6
    aime = found(single, "HPT's lead", "Table 2, HPT against LUFFY, AIME 24, strong base")
    assert [aime.smallest_error, aime.answers_error, aime.largest_error] == list(standard_errors(33.0, 26.1, 30, 32))
    assert (aime.difference, aime.verdict) == (6.9, "cannot be told")
    below = {own.what for own in single if "within chance of the problems in any case" in own.note}
    assert "Table 2, HPT against LUFFY, AIME 25, strong base" in below
    assert "Table 3, HPT against SFT, AIME 25, weak base" in below
    assert len(below) == 8
    mean = found(printed, "HPT's lead on averages", "Table 2, HPT against LUFFY, Avg, strong base")
    frame = paper_table("table2").set_index("row")
    sizes = {name: own for name, own in paper_data()["benchmarks"].items() if own["distribution"] == "in"}
    shares = frame.loc[["HPT", "LUFFY"], list(sizes)].to_numpy(float) / 100
    parts = (shares * (1 - shares)).sum(0) / [own["problems"] for own in sizes.values()]
    assert mean.largest_error == pytest.approx(100 * np.sqrt(parts.sum()) / 6)
    assert (mean.difference, mean.verdict) == (2.9, "cannot be told")  # less than its largest error


def test_a_lead_beyond_chance_and_one_behind() -> None:
    data = copy.deepcopy(paper_data())
    row_of(data, "table2", "LUFFY", "strong")[3] = 70.0
    row_of(data, "table2", "GRPO", "strong")[3] = 99.0
    group = "HPT's lead on single sets"
    checks = audit(data)
    assert found(checks, group, "Table 2, HPT against LUFFY, MATH-500, strong base").verdict == CONSISTENT
    assert found(checks, group, "Table 2, HPT against GRPO, MATH-500, strong base").verdict == INCONSISTENT


def test_it_needs_no_run_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned_runs("mini", ["audit"], [0, 1, 2], tmp_path) == []
    print_plan(make_plan("mini", [], tmp_path), tmp_path, console)
    assert "no run is needed" in capsys.readouterr().out
    study = begin("audit", given={"runs_dir": str(tmp_path)})
    assert "No run is needed" in study.to_run().text
    assert study.runs() == study.verdicts() == []
    assert "without a run" in study.finish().text
