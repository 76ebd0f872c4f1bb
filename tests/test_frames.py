"""Frames of tables and figures: right numbers and intervals, the paper's values, exclusive solves by hand, and text."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.text import Text
from scipy import stats

from hpt.evaluation.intervals import average_interval
from hpt.paper.paper import paper_data, paper_table, paper_value
from hpt.reports import begin
from hpt.reports.frames import (
    BASE,
    curves,
    effects,
    exclusive,
    interval_note,
    metric_curve,
    over_seeds,
    printed_gain,
    scores,
    smoothing_window,
    validation,
    with_interval,
)
from hpt.reports.style import label_lines, legend_below, look
from hpt.runs.catalogue import ARTEFACTS, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION
from hpt.runs.make import PlannedRun
from hpt.runs.records import RunRecords, load_runs
from hpt.support.errors import RecordFault
from tests.fabricated import fabricate

SEEDS = (0, 1, 2)
TABLES = ("table2", "table3", "table4", "table5", "table6")
STRONG = (BASE, "sft", "grpo", "sft_then_grpo", "luffy", "srft", "hpt")
WEAK = (BASE, "sft", "grpo", "luffy", "hpt")
GATES = ("hpt_gate2", "hpt_gate1", "hpt")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> list[PlannedRun]:
    return fabricate(tmp_path_factory.mktemp("runs"), (*TABLES, "figure6", "figure8", "grpo_gains"), seeds=SEEDS)


@pytest.fixture(scope="module")
def records(plan: list[PlannedRun]) -> list[RunRecords]:
    return load_runs(plan)


def of_seeds(records: Sequence[RunRecords], *seeds: int) -> list[RunRecords]:
    return [own for own in records if own.seed in seeds]


def hpt_run(records: Sequence[RunRecords]) -> RunRecords:
    return next(own for own in records if "hpt-weak" in own.arms and own.seed == 1)


def table3(records: Sequence[RunRecords], methods: Sequence[str] = WEAK) -> pd.DataFrame:
    return scores(records, {"weak": methods}, "table3")


def accuracy(run: RunRecords, name: str) -> float:
    """Percent of the answers to a set that are right."""
    counts = run.evaluations[run.evaluations["benchmark"] == name]
    return 100 * float((counts["correct"] / counts["samples"]).mean())


def cells(frame: pd.DataFrame, method: str) -> Any:
    return frame[frame["method"] == method].set_index("column")


# Scores


def test_scores_are_the_mean_over_seeds_of_the_answers(plan: list[PlannedRun], records: list[RunRecords]) -> None:
    by_hand = []
    for seed in SEEDS:
        folder = next(run.folder for run in plan if "hpt-weak" in run.arms and run.seed == seed)
        assert folder is not None
        (file,) = folder.path.glob("evaluations/olympiad-like-*.parquet")
        by_hand.append(100 * float((pd.read_parquet(file)["verdict"] == "correct").mean()))
    cell = cells(table3(records), "hpt").loc["olympiad-like"]
    assert [cell[f"seed_{seed}"] for seed in SEEDS] == pytest.approx(by_hand)
    assert len(set(by_hand)) > 1
    assert cell["score"] == pytest.approx(np.mean(by_hand), abs=0.0500001)
    half = stats.t.ppf(0.975, 2) * np.std(by_hand, ddof=1) / np.sqrt(3)
    expected = np.mean(by_hand) - half, min(100.0, np.mean(by_hand) + half)  # no accuracy is above 100
    assert (cell["seeds_low"], cell["seeds_high"]) == pytest.approx(expected)


def test_one_seed_has_an_interval_over_problems_alone(records: list[RunRecords]) -> None:
    frame = table3(of_seeds(records, 0))
    cell = cells(frame, "hpt").loc["olympiad-like"]
    assert np.isnan(cell["seeds_low"])
    correct, problems = round(cell["score"] * cell["problems"] / 100), int(cell["problems"])
    wilson = stats.binomtest(correct, problems).proportion_ci(method="wilson")
    assert [cell["problems_low"], cell["problems_high"]] == pytest.approx([100 * wilson.low, 100 * wilson.high])
    assert "fixed weights" in cell["problems_interval"]
    shown = with_interval(frame)[(frame["method"] == "hpt") & (frame["column"] == "olympiad-like")].item()
    assert shown.partition(" ")[2] == f"[{100 * wilson.low:.1f}, {100 * wilson.high:.1f}]"


def test_the_range_of_seeds_stands_where_an_interval_over_them_says_less() -> None:
    rows = [(50.0, 40.0, 60.0, 49.0, 51.0), (5.0, 0.0, 60.0, 0.0, 10.0), (0.0, 0.0, 0.0, 0.0, 0.0)]
    frame = pd.DataFrame(rows, columns=["score", "seeds_low", "seeds_high", "seed_0", "seed_1"])
    frame = frame.assign(seeds=2, problems_low=1.0, problems_high=2.0)
    assert with_interval(frame).tolist() == ["50.0 [40.0, 60.0]", "5.0 (0.0 to 10.0)", "all seeds 0.0"]
    assert with_interval(frame, sign="+").iloc[1] == "+5.0 [0.0, 60.0]"  # a difference may well reach 0


def test_averages_are_taken_from_the_printed_cells(records: list[RunRecords]) -> None:
    data = table3(records)
    for method in WEAK:
        scores = cells(data, method)["score"]
        assert scores["Avg"] == pytest.approx(scores.drop("Avg").mean(), abs=0.0500001)
        assert scores["Avg"] == round(scores["Avg"], 1)
    # ours is never printed under the real benchmark's bare name
    assert not set(data["column"]) & set(paper_data()["benchmarks"])


def test_the_average_weighs_sets_alike_whatever_their_size() -> None:
    generator = np.random.default_rng(5)
    sets = [(generator.random(size) < share).astype(float) for size, share in ((30, 0.4), (900, 0.8))]
    interval = average_interval(sets)
    error = np.sqrt(sum(own.var() / len(own) for own in sets)) / 2
    mean = np.mean([own.mean() for own in sets])
    assert interval.low == pytest.approx(mean - 1.96 * error, abs=0.25 * error)
    assert interval.high == pytest.approx(mean + 1.96 * error, abs=0.25 * error)


def test_a_missing_evaluation_and_one_under_another_law_or_twin_runs_are_not_mixed_in(
    records: list[RunRecords],
) -> None:
    run = hpt_run(records)
    without = replace(run, evaluations=run.evaluations[run.evaluations["benchmark"] != "applied"])
    with pytest.raises(RecordFault, match=r"not evaluated on applied .*not at all"):
        without.counts("applied")
    other = run.evaluations.assign(key="0" * 16, correct=0)
    both = replace(run, evaluations=pd.concat([other, run.evaluations], ignore_index=True))
    pd.testing.assert_frame_equal(both.counts("applied"), run.counts("applied"))
    with pytest.raises(RecordFault, match="only as 0000"):
        replace(run, evaluations=other).counts("applied")
    with pytest.raises(RecordFault, match="two runs of one seed"):
        curves([*records, replace(run, name="twin")], ["rollout/reward"], ["hpt"])


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
    assert values["Avg (OOD)"] == pytest.approx(values[list(OUT_OF_DISTRIBUTION)].mean(), abs=0.0500001)


def test_table3_keeps_its_bases_apart(records: list[RunRecords]) -> None:
    frame = scores(records, {"llama": WEAK, "weak": WEAK}, "table3")
    assert list(dict.fromkeys(zip(frame["policy"], frame["method"], strict=True))) == [
        (policy, method) for policy in ("llama", "weak") for method in WEAK
    ]
    for policy in ("llama", "weak"):
        (run,) = [own for own in of_seeds(records, 1) if own.arms == (f"grpo-{policy}",)]
        cell = frame.query(f"policy == '{policy}' and method == 'grpo' and column == 'applied'").iloc[0]
        assert cell["seed_1"] == pytest.approx(accuracy(run, "applied"))
        assert cell["paper"] == paper_value("table3", "grpo", "Minerva", policy)
        assert cell["paper_copied"] == (policy == "llama")  # GRPO on Llama: copied from another paper


def test_captions_say_how_many_seeds_and_what_the_brackets_are(records: list[RunRecords]) -> None:
    def note(runs: Sequence[RunRecords], methods: Sequence[str] = WEAK) -> str:
        return interval_note(table3(runs, methods))

    one = note(of_seeds(records, 0))
    assert [part in one for part in ("one seed", "over the problems", "over seeds")] == [True, True, False]
    assert "2 seeds" in note(of_seeds(records, 0, 1))
    assert "2 to 3 seeds" in note([own for own in records if own.seed < 2 or own.method != "luffy"])
    parts = ("3 seeds", "over seeds (Student's t)", "the range", "a base that all seeds share", "bold")
    gates, of_one_base = note(records, GATES), table3([own for own in records if own.method != BASE or own.seed == 0])
    of_one_base.loc[of_one_base["method"] == "hpt", [f"seed_{seed}" for seed in SEEDS]] = 99.0, 98.0, 99.0
    assert [part in gates for part in parts] == [True, True, True, False, False]
    assert [part in interval_note(of_one_base) for part in parts] == [True] * 5


def test_tables_5_and_6_take_the_papers_rows(records: list[RunRecords]) -> None:
    for table, methods, averages in (("table5", ("off_on", "mix_on", "hpt"), [38.1, 40.3, 41.9]),
                                     ("table6", GATES, [39.0, 38.7, 41.9])):  # fmt: skip
        frame = scores(records, {"weak": methods}, table)
        assert frame[frame["column"] == "Avg"]["paper"].tolist() == averages
    for count, arm in ((2, "hpt_gate2"), (1, "hpt_gate1"), (0, "hpt")):
        runs = {own.seed: own for own in records if own.config.gate.count == count and f"{arm}-weak" in own.arms}
        cell = frame.query(f"method == '{arm}' and column == 'applied'").iloc[0]
        for seed in SEEDS:
            assert cell[f"seed_{seed}"] == pytest.approx(accuracy(runs[seed], "applied"))


# Curves


def test_figures_draw_the_recorded_values(records: list[RunRecords]) -> None:
    ratios = ("gate/offline_ratio_prompts", "gate/offline_ratio_rows")
    data = curves(records, ratios, ["hpt"])
    hpt = hpt_run(records)
    for ratio in ratios:
        drawn = data[data["metric"] == ratio]
        assert drawn["seed_1"].tolist() == pytest.approx(hpt.metrics[ratio].tolist())
    found = curves(records, ["rollout/entropy"], ["sft", "grpo", "luffy", "hpt"])
    assert set(found["method"]) == {"grpo", "luffy", "hpt"}  # no line for one that samples nothing
    assert metric_curve([own for own in records if "sft-weak" in own.arms], "rollout/entropy").empty
    accuracy = validation(records, ["sft", "hpt"])
    point = accuracy[(accuracy["panel"] == "applied") & (accuracy["method"] == "hpt")].iloc[-1]
    last = hpt.validation[(hpt.validation["benchmark"] == "applied") & (hpt.validation["step"] == point["step"])]
    assert point["seed_1"] == pytest.approx(100 * last["correct"].sum() / last["samples"].sum())


def test_a_band_needs_three_seeds() -> None:
    values = {seed: pd.Series([float(value)], index=[0]) for seed, value in enumerate((1, 2, 6))}
    three = over_seeds(values).iloc[0]
    half = stats.t.ppf(0.975, 2) * np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    assert [three["mean"], three["low"], three["high"]] == pytest.approx([3, 3 - half, 3 + half])
    two = over_seeds({seed: values[seed] for seed in (0, 1)}).iloc[0]
    assert two["mean"] == 1.5
    assert np.isnan(two["low"])


def test_smoothing_keeps_a_straight_line_in_the_middle(records: list[RunRecords]) -> None:
    line = replace(hpt_run(records), metrics=pd.DataFrame({"step": range(9), "rollout/reward": np.arange(9.0)}))
    smooth = metric_curve([line], "rollout/reward", window=3)["mean"].tolist()
    assert smooth == pytest.approx([0.5, 1, 2, 3, 4, 5, 6, 7, 7.5])
    assert smoothing_window([line]) == 1
    schedule = line.config.schedule
    for steps, window in ((600, 15), (240, 7), (80, 1), (6, 1)):
        longer = line.config.model_copy(update={"schedule": schedule.model_copy(update={"steps": steps})})
        assert smoothing_window([replace(line, config=longer)]) == window


def test_each_gate_has_a_line_and_a_look(records: list[RunRecords]) -> None:
    assert set(curves(records, ["rollout/reward"], GATES)["method"]) == set(GATES)
    assert curves([], ["rollout/reward"], WEAK).empty
    assert table3([]).empty
    looks = [look(name) for name in GATES]
    assert len({own["color"] for own in looks}) == len({own["marker"] for own in looks}) == 3
    assert [own["label"] for own in looks] == ["HPT, gate 2/8", "HPT, gate 1/8", "HPT"]


# Table 4: exclusive solves


def table4(records: Sequence[RunRecords], baseline: str) -> pd.DataFrame:
    return exclusive(records, "hpt", [baseline], "strong", *ARTEFACTS["table4"].evaluations)


def solved(records: Sequence[RunRecords], method: str, seed: int, name: str) -> pd.DataFrame:
    (run,) = [own for own in records if own.arms and f"{method}-strong" in own.arms and own.seed == seed]
    return run.evaluations[run.evaluations["benchmark"] == name].set_index("problem_id")


def test_table4_counts_what_only_one_of_two_solves(records: list[RunRecords]) -> None:
    frame = table4(records, "grpo")
    one = frame[frame["answers"] == "one answer"]
    for seed in SEEDS:
        hpt, grpo = (solved(records, method, seed, "graded-500")["correct"] for method in ("hpt", "grpo"))
        gained, lost = int((hpt > grpo).sum()), int((hpt < grpo).sum())
        overall = one[(one["seed"] == seed) & (one["level"] == "Overall")].iloc[0]
        assert (overall["method_only"], overall["baseline_only"]) == (gained, lost)
        assert overall["p_value"] == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
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
    assert overall["p_value"] == pytest.approx(stats.binomtest(ahead, ahead + behind).pvalue)


def test_table4_leaves_out_seeds_of_one_side(records: list[RunRecords]) -> None:
    fewer = [own for own in records if (own.method, own.seed) != ("grpo", 2)]
    frame = table4(fewer, "grpo")
    assert set(frame["seed"].dropna()) == {0, 1}
    assert np.isnan(frame.query("answers == 'all answers'")["seed"]).all()


# What RL alone gains on each base

BASES = ("strong", "weak", "llama")


def gains(records: list[RunRecords]) -> pd.DataFrame:
    return pd.concat([effects(records, ["grpo"], "pretrain", base) for base in BASES], ignore_index=True)


def averages(records: list[RunRecords], arm: str) -> dict[int, float]:
    own = [run for run in records if arm in run.arms]
    return {run.seed: float(np.mean([accuracy(run, name) for name in IN_DISTRIBUTION])) for run in own}


def test_a_gain_is_grpos_average_less_its_bases(records: list[RunRecords]) -> None:
    data = gains(records).set_index("policy")
    assert list(data.index) == list(BASES)
    for base, line in data.iterrows():
        before, after = (averages(records, f"{method}-{base}") for method in ("pretrain", "grpo"))
        means = [sum(own.values()) / 3 for own in (before, after)]
        assert [line["other_average"], line["average"]] == pytest.approx(means)
        assert line["effect"] == pytest.approx(means[1] - means[0])
        assert {seed: line[f"seed_{seed}"] + before[seed] for seed in after} == pytest.approx(after)
    fewer = gains([run for run in records if "grpo-weak" not in run.arms])
    assert fewer["policy"].tolist() == ["strong", "llama"]  # a base without a run is left out
    assert [printed_gain(base) for base in BASES] == pytest.approx([23.8, 18.4, 5.0])
    assert pd.isna(printed_gain("mine"))


# Figures and text


def test_the_legend_lists_what_is_drawn() -> None:
    figure, (left, right) = pyplot.subplots(1, 2)
    for axes, values in ((left, [1.0, 2.0]), (right, [np.nan, np.nan])):
        axes.plot([0, 1], [3.0, 4.0], label="HPT")
        axes.plot([0, 1], values, label="GRPO" if axes is left else "SFT")
        axes.bar([0], [1.0], label="equal")
    legend_below(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["HPT", "GRPO", "equal"]
    pyplot.close(figure)


def test_labels_stand_apart_beside_the_ends_of_lines() -> None:
    figure, axes = pyplot.subplots()
    for number, name in enumerate(["low", "near", "nearer"]):
        axes.plot([0, 1], [0, 0.5 + number / 1000], label=name)
    axes.plot([0, 1], [0, 1])  # without a label
    label_lines(axes)
    figure.canvas.draw()
    boxes = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}  # without its line
    assert sorted(boxes, key=lambda name: boxes[name].y0) == ["low", "near", "nearer"]
    assert all(upper.y0 >= lower.y1 for lower, upper in pairwise(boxes[name] for name in ("low", "near", "nearer")))
    pyplot.close(figure)


@pytest.mark.parametrize("styled", [False, True])
def test_text_is_escaped_everywhere(tmp_path: Path, styled: bool) -> None:
    evil = "<script>alert(1)</script>|_$&"
    own = begin("audit", given={"output_dir": str(tmp_path)})
    table = pd.DataFrame({(evil, "a"): [evil]}, index=pd.Index([evil], name=evil))
    shown = own.table("evil", table.style if styled else table, table, evil)
    for text in (str(shown.html), (tmp_path / "tables" / "evil.md").read_text()):
        assert "<script" not in text
        assert text.count("&lt;script&gt;") >= 4
    assert r"\|" in (tmp_path / "tables" / "evil.md").read_text()
    body = (tmp_path / "tables" / "evil.tex").read_text().partition(r"\toprule")[2]
    assert not any(character in body.replace(rf"\{character}", "") for character in "_$")
