"""Tables 2 to 6 and Figure 8: rows, bases, columns, the paper's values, and exclusive solves counted by hand."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hpt.artefacts import BUILDERS, TableArtefact
from hpt.artefacts.exclusive import exclusive_table
from scipy.stats import binomtest

from hpt.catalogue import ARTEFACTS, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION
from hpt.export import RunRecords, load_records
from hpt.paper import paper_table, paper_value
from hpt.scores import average_of_cells
from tests.fabricated import fabricate

SEEDS = (0, 1, 2)
TABLES = ("table2", "table3", "table4", "table5", "table6")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    plan = fabricate(tmp_path_factory.mktemp("runs"), (*TABLES, "figure6", "figure8"), seeds=SEEDS)
    return [replace(load_records(run.folder.path), arms=run.arms) for run in plan if run.folder is not None]


def of_seeds(records: Sequence[RunRecords], *seeds: int) -> list[RunRecords]:
    return [own for own in records if own.seed in seeds]


@pytest.fixture(scope="module")
def tables(records: list[RunRecords]) -> dict[str, TableArtefact]:
    """Every table of three seeds."""
    return {name: table(name, records) for name in TABLES}


def table(name: str, records: Sequence[RunRecords]) -> TableArtefact:
    made = BUILDERS[name](records)
    assert isinstance(made, TableArtefact)
    return made


def labels(made: TableArtefact) -> list[str]:
    return [label if cells else f"[{label}]" for label, cells in made.rows]


def printed(made: TableArtefact, label: str) -> list[str]:
    """The paper's values of the last row of this label."""
    return [cell.paper for cell in [cells for own, cells in made.rows if own == label][-1]]


def test_table2_has_both_averages_and_the_rows_that_only_the_paper_has(tables: dict[str, TableArtefact]) -> None:
    made = tables["table2"]
    assert [column.head for column in made.columns] == [
        *IN_DISTRIBUTION, "Avg", *OUT_OF_DISTRIBUTION, "Avg (OOD)",
    ]  # fmt: skip
    assert [column.note for column in made.columns][7:9] == ["stands for ARC-c", "stands for GPQA"]
    others = ["Qwen2.5-Math-7B-Ins.", "PRIME-Zero", "SimpleRL-Zero", "OpenReasoner-Zero", "Oat-Zero"]
    assert labels(made) == [
        "base", "SFT", "GRPO", "SFT → GRPO", "LUFFY", "SRFT", "HPT", "[published numbers only]", *others,
    ]  # fmt: skip
    frame = paper_table("table2").set_index("row")
    for label, cells in made.rows:
        row = "Qwen2.5-Math-7B" if label == "base" else label
        if cells:
            star = "*" if frame.loc[row, "starred"] else ""
            assert [cell.paper for cell in cells] == [f"{value:.1f}{star}" for value in frame.loc[row].iloc[3:]]
    assert all(cell.value == cell.interval == "" for label, cells in made.rows for cell in cells if label in others)
    assert all(cell.value for label, cells in made.rows for cell in cells if label not in others)
    lines = made.markdown().splitlines()
    assert sum(line.startswith("| Oat-Zero") for line in lines) == 1  # no empty row of ours above the paper's
    scores = made.data[made.data["method"] == "srft"].set_index("column")["score"]
    assert scores["Avg (OOD)"] == average_of_cells(scores[list(OUT_OF_DISTRIBUTION)])
    assert set(made.data[made.data["seeds"] == 0]["method"]) == set(others)


def test_table3_keeps_its_bases_apart(records: list[RunRecords], tables: dict[str, TableArtefact]) -> None:
    made = tables["table3"]
    methods = ["base", "SFT", "GRPO", "LUFFY", "HPT"]
    heads = ["[Llama base (stands for LLaMA3.1-8B), HPT with gate 2/8]",
             "[Weak base (stands for Qwen2.5-Math-1.5B), HPT with gate 0]"]  # fmt: skip
    assert labels(made) == [heads[0], *methods, heads[1], *methods]
    for policy in ("llama", "weak"):
        (run,) = [own for own in of_seeds(records, 1) if own.arms == (f"grpo-{policy}",)]
        counts = run.evaluations[run.evaluations["benchmark"] == "applied"]
        cell = made.data.query(f"policy == '{policy}' and method == 'grpo' and column == 'applied'").iloc[0]
        assert cell["seed_1"] == pytest.approx(100 * (counts["correct"] / counts["samples"]).mean())
        assert cell["paper"] == paper_value("table3", "grpo", "Minerva", policy)
    assert printed(made, "HPT")[-1] == "41.9"
    assert made.rows[3][1][-1].paper == "9.6*"  # GRPO on Llama: copied from another paper
    assert "copied by the paper's authors" in made.caption
    body = str(made.html()).split("<tbody>")[1:]
    assert [part.count("<tr") for part in body] == [0, 6, 6]  # sorting keeps rows below their heading


def test_captions_say_how_many_seeds_and_what_the_brackets_are(
    records: list[RunRecords], tables: dict[str, TableArtefact]
) -> None:
    assert "one seed; in brackets the 95 % interval over the problems" in table("table3", of_seeds(records, 0)).caption
    assert "mean over 2 seeds" in table("table3", of_seeds(records, 0, 1)).caption
    three = tables["table3"].caption
    assert "mean over 3 seeds; in brackets the 95 % interval over seeds (Student's t); the base has one run" in three
    assert "the base" not in tables["table6"].caption
    unequal = [own for own in records if own.seed == 0 or own.method != "luffy"]
    caption = table("table3", unequal).caption
    assert "the seeds there are of a method (1 to 3)" in caption
    assert "the base and a method of one seed" in caption


def test_table5_says_the_weights_of_its_mixture(tables: dict[str, TableArtefact]) -> None:
    made = tables["table5"]
    assert labels(made) == ["OFF/ON", "Mix/ON", "SFT/ON (HPT)"]
    assert [printed(made, label)[-1] for label in labels(made)] == ["38.1", "40.3", "41.9"]
    assert re.search(r"Mix/ON rate [^;]*, off-policy RL x 1, SFT x 0\.1;", made.caption)


def test_table6_takes_each_gate_from_its_own_runs(tables: dict[str, TableArtefact]) -> None:
    made = tables["table6"]
    assert labels(made) == ["HPT, gate 2/8", "HPT, gate 1/8", "HPT, gate 0"]
    assert [printed(made, label)[-1] for label in labels(made)] == ["39.0", "38.7", "41.9"]
    for count, arm in ((2, "hpt_gate2"), (1, "hpt_gate1"), (0, "hpt")):
        runs = [own for own in made.sources if own.config.gate.count == count]
        assert {own.seed for own in runs} == set(SEEDS)
        by_hand = {own.seed: own.evaluations.query("benchmark == 'applied'") for own in runs}
        cell = made.data.query(f"method == '{arm}' and column == 'applied'").iloc[0]
        for seed, counts in by_hand.items():
            assert cell[f"seed_{seed}"] == pytest.approx(100 * (counts["correct"] / counts["samples"]).mean())


@pytest.mark.parametrize("name", TABLES)
def test_no_column_of_ours_bears_a_benchmarks_name(tables: dict[str, TableArtefact], name: str) -> None:
    made = tables[name]
    real = set(paper_table("table2").columns[4:]) - {"Avg", "Avg (OOD)"}
    assert not real & {column.head for column in made.columns}
    assert "stands for" in made.caption


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_no_runs_is_empty(name: str) -> None:
    made = table(name, [])
    assert not made.sources
    assert not [label for label, cells in made.rows if cells]


def test_figure8_draws_each_gate_and_figure6_both_bases(records: list[RunRecords]) -> None:
    made = BUILDERS["figure8"](records)
    assert set(made.data["method"]) == {"hpt", "hpt_gate1", "hpt_gate2"}
    gate1 = next(own for own in of_seeds(records, 2) if "hpt_gate1-weak" in own.arms)
    drawn = made.data.query("method == 'hpt_gate1' and metric == 'rollout/reward'")["seed_2"]
    assert drawn.tolist() == pytest.approx(gate1.metrics["rollout/reward"].tolist())
    looks = [line_style(name) for name in ("hpt", "hpt_gate1", "hpt_gate2")]
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == 3
    assert [look.label for look in looks[1:]] == ["HPT, gate 1/8", "HPT, gate 2/8"]
    assert set(BUILDERS["figure6"](records).data["policy"]) == {"weak", "strong"}


def solved(records: Sequence[RunRecords], method: str, seed: int, name: str) -> pd.DataFrame:
    (run,) = [own for own in records if own.arms and f"{method}-strong" in own.arms and own.seed == seed]
    return run.evaluations[run.evaluations["benchmark"] == name].set_index("problem_id")


def test_table4_counts_what_only_one_of_two_solves(records: list[RunRecords]) -> None:
    frame = exclusive_table(records, "hpt", "grpo", "strong")
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
    frame = exclusive_table(records, "hpt", "luffy", "strong").query("answers == 'all answers'")
    overall = frame[frame["level"] == "Overall"].iloc[0]
    assert overall["answers_per_problem"] == 24
    assert overall["method_only"] == pytest.approx((shares[0] * (1 - shares[1])).sum())
    assert overall["baseline_only"] == pytest.approx((shares[1] * (1 - shares[0])).sum())
    ahead, behind = (shares[0] > shares[1]).sum(), (shares[0] < shares[1]).sum()
    assert overall["p_value"] == pytest.approx(binomtest(ahead, ahead + behind).pvalue)


def test_table4_prints_the_papers_pairs_beside_ours(
    records: list[RunRecords], tables: dict[str, TableArtefact]
) -> None:
    made = table("table4", of_seeds(records, 0))
    rows = [label for label, _ in made.rows]
    half = ["problems", "percent of the level", "p, exact McNemar", "problems, all answers", "percent, all answers",
            "p, sign test, all answers"]  # fmt: skip
    assert rows == ["HPT against GRPO", *half, "HPT against LUFFY", *half]
    assert [cell.paper for cell in made.rows[1][1]][-2:] == ["+27 / -8", "+58 / -15"]
    assert [cell.paper for cell in made.rows[9][1]][:2] == ["+2.3% / -0.0%", "+5.6% / -1.1%"]
    assert all("." not in cell.value for cell in made.rows[1][1])  # one seed: counts are whole
    assert "8 of each per problem" in made.caption
    assert "a p-value per seed" not in made.caption
    three = tables["table4"]
    tests = [label for label, _ in three.rows if label.startswith("p, exact McNemar")]
    assert tests == [f"p, exact McNemar, seed {seed}" for seed in SEEDS] * 2
    assert "mean over 3 seeds" in three.caption


def test_table4_leaves_out_seeds_of_one_side(records: list[RunRecords]) -> None:
    fewer = [own for own in records if (own.method, own.seed) != ("grpo", 2)]
    frame = exclusive_table(fewer, "hpt", "grpo", "strong")
    assert set(frame["seed"].dropna()) == {0, 1}
    assert np.isnan(frame.query("answers == 'all answers'")["seed"]).all()


def test_every_number_of_a_table_is_in_its_csv(tables: dict[str, TableArtefact], tmp_path: Path) -> None:
    for made in tables.values():
        (file,) = [path for path in made.write(tmp_path) if path.suffix == ".csv"]
        again = pd.read_csv(file)
        assert len(again) == len(made.data)
        assert list(again.columns) == list(made.data.columns)
