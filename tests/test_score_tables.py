"""Tables 2 to 6: methods, bases, columns, the paper's values, and exclusive solves counted by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from hpt.evaluation.scores import average_of_cells
from hpt.paper.paper import paper_table, paper_value
from hpt.reports.frames import BASE, curves, exclusive, interval_note, scores
from hpt.reports.style import look
from hpt.runs.catalogue import ARTEFACTS, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION
from hpt.runs.records import RunRecords, load_records
from tests.fabricated import fabricate

SEEDS = (0, 1, 2)
TABLES = ("table2", "table3", "table4", "table5", "table6")
STRONG = (BASE, "sft", "grpo", "sft_then_grpo", "luffy", "srft", "hpt")
WEAK = (BASE, "sft", "grpo", "luffy", "hpt")
GATES = ("hpt_gate2", "hpt_gate1", "hpt")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    plan = fabricate(tmp_path_factory.mktemp("runs"), (*TABLES, "figure6", "figure8"), seeds=SEEDS)
    return [replace(load_records(run.folder.path), arms=run.arms) for run in plan if run.folder is not None]


def of_seeds(records: Sequence[RunRecords], *seeds: int) -> list[RunRecords]:
    return [own for own in records if own.seed in seeds]


def test_table2_has_both_averages_and_the_rows_that_only_the_paper_has(records: list[RunRecords]) -> None:
    frame = scores(records, {"strong": STRONG}, "table2", ["in", "out"])
    columns = [*IN_DISTRIBUTION, "Avg", *OUT_OF_DISTRIBUTION, "Avg (OOD)"]
    assert list(dict.fromkeys(frame["column"])) == columns
    assert list(dict.fromkeys(frame["stands_for"]))[7:9] == ["ARC-c", "GPQA"]
    others = ["Qwen2.5-Math-7B-Ins.", "PRIME-Zero", "SimpleRL-Zero", "OpenReasoner-Zero", "Oat-Zero"]
    assert list(dict.fromkeys(frame["method"])) == [*STRONG, *others]
    printed: Any = paper_table("table2").set_index("row")
    for method, own in frame.groupby("method", sort=False):
        row = {BASE: "Qwen2.5-Math-7B", "sft_then_grpo": "SFT → GRPO"}.get(str(method), str(method))
        row = row if row in printed.index else row.upper()
        assert own["paper"].tolist() == printed.loc[row].iloc[3:].tolist(), method
        assert own["paper_copied"].unique().tolist() == [printed.loc[row, "starred"]]
        assert own["score"].isna().all() == (method in others)
    assert set(frame[frame["seeds"] == 0]["method"]) == set(others)
    values = frame[frame["method"] == "srft"].set_index("column")["score"]
    assert values["Avg (OOD)"] == average_of_cells(values[list(OUT_OF_DISTRIBUTION)])


def test_table3_keeps_its_bases_apart(records: list[RunRecords]) -> None:
    frame = scores(records, {"llama": WEAK, "weak": WEAK}, "table3")
    assert list(dict.fromkeys(zip(frame["policy"], frame["method"], strict=True))) == [
        (policy, method) for policy in ("llama", "weak") for method in WEAK
    ]
    for policy in ("llama", "weak"):
        (run,) = [own for own in of_seeds(records, 1) if own.arms == (f"grpo-{policy}",)]
        counts = run.evaluations[run.evaluations["benchmark"] == "applied"]
        cell = frame.query(f"policy == '{policy}' and method == 'grpo' and column == 'applied'").iloc[0]
        assert cell["seed_1"] == pytest.approx(100 * (counts["correct"] / counts["samples"]).mean())
        assert cell["paper"] == paper_value("table3", "grpo", "Minerva", policy)
        assert cell["paper_copied"] == (policy == "llama")  # GRPO on Llama: copied from another paper


def test_captions_say_how_many_seeds_and_what_the_brackets_are(records: list[RunRecords]) -> None:
    def note(runs: Sequence[RunRecords], methods: Sequence[str] = WEAK) -> str:
        return interval_note(scores(runs, {"weak": methods}, "table3"))

    assert note(of_seeds(records, 0)) == "one seed, in brackets the 95 % interval over the problems for fixed weights"
    assert note(of_seeds(records, 0, 1)).startswith("mean over 2 seeds")
    three = "mean over 3 seeds, in brackets the 95 % interval over seeds (Student's t)"
    cut = "; in parentheses the seeds, where it would reach beyond 0 or 100: they differ much, some took off"
    same, dots = '; "all seeds" where they are equal', "; on the page a dot per seed, from 0 to 100"
    assert note(records, GATES).replace(same, "") == three + cut + dots
    shared = [own for own in records if own.method != "pretrain" or own.seed == 0]
    of_base = "; of one run, such as a base that all seeds share, over the problems for fixed weights"
    assert note(shared).replace(same, "") == three + of_base + cut + dots + ", bold: above every other"
    assert "2 to 3 seeds" in note([own for own in records if own.seed < 2 or own.method != "luffy"])


def test_tables_5_and_6_take_the_papers_rows(records: list[RunRecords]) -> None:
    for table, methods, averages in (("table5", ("off_on", "mix_on", "hpt"), [38.1, 40.3, 41.9]),
                                     ("table6", GATES, [39.0, 38.7, 41.9])):  # fmt: skip
        frame = scores(records, {"weak": methods}, table)
        assert frame[frame["column"] == "Avg"]["paper"].tolist() == averages
    for count, arm in ((2, "hpt_gate2"), (1, "hpt_gate1"), (0, "hpt")):
        runs = {own.seed: own for own in records if own.config.gate.count == count and f"{arm}-weak" in own.arms}
        cell = frame.query(f"method == '{arm}' and column == 'applied'").iloc[0]
        for seed in SEEDS:
            counts = runs[seed].evaluations.query("benchmark == 'applied'")
            assert cell[f"seed_{seed}"] == pytest.approx(100 * (counts["correct"] / counts["samples"]).mean())


def test_a_frame_of_no_runs_is_empty() -> None:
    assert scores([], {"weak": WEAK}, "table3").empty
    assert curves([], ["rollout/reward"], WEAK).empty


def test_each_gate_has_a_line_and_a_look(records: list[RunRecords]) -> None:
    frame = curves(records, ["rollout/reward"], GATES)
    assert set(frame["method"]) == set(GATES)
    gate1 = next(own for own in of_seeds(records, 2) if "hpt_gate1-weak" in own.arms)
    drawn = frame.query("method == 'hpt_gate1'")["seed_2"]
    assert drawn.tolist() == pytest.approx(gate1.metrics["rollout/reward"].tolist())
    looks = [look(name) for name in GATES]
    assert len({own["color"] for own in looks}) == len({own["marker"] for own in looks}) == 3
    assert [own["label"] for own in looks] == ["HPT, gate 2/8", "HPT, gate 1/8", "HPT"]


def table4(records: Sequence[RunRecords], baseline: str) -> pd.DataFrame:
    return exclusive(records, "hpt", [baseline], "strong", *ARTEFACTS["table4"].evaluations)


def solved(records: Sequence[RunRecords], method: str, seed: int, name: str) -> pd.DataFrame:
    (run,) = [own for own in records if own.arms and f"{method}-strong" in own.arms and own.seed == seed]
    return run.evaluations[run.evaluations["benchmark"] == name].set_index("problem_id")


def test_table4_counts_what_only_one_of_two_solves(records: list[RunRecords]) -> None:
    frame = table4(records, "grpo")
    one = frame[frame["answers"] == "one answer"]
    for seed in SEEDS:
        pair = [solved(records, method, seed, "graded-500") for method in ("hpt", "grpo")]
        gained = lost = 0
        for problem in pair[0].index:
            a, b = (own.loc[problem, "correct"] for own in pair)
            gained, lost = gained + (a > b), lost + (b > a)
        overall = one[(one["seed"] == seed) & (one["level"] == "Overall")].iloc[0]
        assert (overall["method_only"], overall["baseline_only"]) == (gained, lost)
        assert overall["p_value"] == pytest.approx(binomtest(gained, gained + lost).pvalue if gained + lost else 1.0)
        levels = one[(one["seed"] == seed) & (one["level"] != "Overall")]
        assert levels["method_only"].sum() == gained
    mean = frame.query("answers == 'mean over seeds' and level == 'Overall'").iloc[0]
    counts = one[one["level"] == "Overall"]["method_only"]
    assert len(set(counts)) > 1
    assert mean["method_only"] == pytest.approx(counts.mean())
    assert mean["paper_method_only"] == 58


def test_table4_sets_every_answer_against_every_other(records: list[RunRecords]) -> None:
    names = ARTEFACTS["table4"].evaluations
    shares = []
    for method in ("hpt", "luffy"):
        # graded-500@8 alone: its first answers are those of graded-500, whose requests have the same seeds
        asked = [solved(records, method, seed, names[1]) for seed in SEEDS]
        shares.append(sum(own["correct"] for own in asked) / sum(own["samples"] for own in asked))
    frame = table4(records, "luffy").query("answers == 'all answers'")
    overall = frame[frame["level"] == "Overall"].iloc[0]
    assert overall["answers_per_problem"] == 24
    assert overall["method_only"] == pytest.approx((shares[0] * (1 - shares[1])).sum())
    assert overall["baseline_only"] == pytest.approx((shares[1] * (1 - shares[0])).sum())
    ahead, behind = (shares[0] > shares[1]).sum(), (shares[0] < shares[1]).sum()
    assert overall["p_value"] == pytest.approx(binomtest(ahead, ahead + behind).pvalue)


def test_table4_leaves_out_seeds_of_one_side(records: list[RunRecords]) -> None:
    fewer = [own for own in records if (own.method, own.seed) != ("grpo", 2)]
    frame = table4(fewer, "grpo")
    assert set(frame["seed"].dropna()) == {0, 1}
    assert np.isnan(frame.query("answers == 'all answers'")["seed"]).all()
