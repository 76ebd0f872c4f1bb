"""Tables and figures: right numbers, both intervals, the paper's beside ours, sources inside, bytes that repeat."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from hpt.artefacts import BUILDERS, FigureArtefact, TableArtefact
from hpt.artefacts.curves import metric_curve, over_seeds, smoothing_window
from hpt.stats import average_interval
from hpt.artefacts.output import Cell, Column
from hpt.reports.frames import evaluation_counts
from hpt.catalogue import ARTEFACTS
from hpt.errors import RecordFault
from hpt.experiments import PlannedRun
from hpt.export import RunRecords, export_run, load_records
from hpt.paper import paper_data
from hpt.runs import RunFolder
from tests.fabricated import COMMIT, fabricate

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    plan = fabricate(tmp_path_factory.mktemp("runs"), ("figure5",), seeds=SEEDS)
    scored = fabricate(tmp_path_factory.mktemp("scored"), ("table3",), seeds=SEEDS)
    assert [run.arms for run in plan] == [run.arms for run in scored if run.policy == "weak"]
    return [run.folder for run in scored if run.folder is not None and run.policy == "weak"]


@pytest.fixture(scope="module")
def records(folders: list[RunFolder]) -> list[RunRecords]:
    return [load_records(folder.path) for folder in folders]


def of_seed(records: list[RunRecords], seed: int) -> list[RunRecords]:
    return [own for own in records if own.seed == seed]


def cells(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    return frame[frame["method"] == method].set_index("column")


def answered(folders: list[RunFolder], method: str, seed: int, benchmark: str) -> float:
    """Accuracy in percent straight from the answers on disk."""
    (folder,) = [own for own in folders if own.config.method == method and own.config.seed == seed]
    (file,) = (folder.path / "evaluations").glob(f"{benchmark}-*.parquet")
    return 100 * float((pd.read_parquet(file)["verdict"] == "correct").mean())


def test_scores_are_the_mean_over_seeds_of_the_answers(folders: list[RunFolder], records: list[RunRecords]) -> None:
    data = BUILDERS["table3"](records).data
    by_hand = [answered(folders, "hpt", seed, "graded-500") for seed in SEEDS]
    cell = cells(data, "hpt").loc["graded-500"]
    assert [cell[f"seed_{seed}"] for seed in SEEDS] == pytest.approx(by_hand)
    assert len(set(by_hand)) > 1
    assert cell["score"] == pytest.approx(np.mean(by_hand), abs=0.0500001)
    half = stats.t.ppf(0.975, 2) * np.std(by_hand, ddof=1) / np.sqrt(3)
    expected = np.mean(by_hand) - half, min(100.0, np.mean(by_hand) + half)  # no accuracy is above 100
    assert (cell["seeds_low"], cell["seeds_high"]) == pytest.approx(expected)


def test_one_seed_has_an_interval_over_problems_alone(records: list[RunRecords]) -> None:
    table = BUILDERS["table3"](of_seed(records, 0))
    cell = cells(table.data, "hpt").loc["olympiad-like"]
    assert np.isnan(cell["seeds_low"])
    correct, problems = round(cell["score"] * cell["problems"] / 100), int(cell["problems"])
    wilson = stats.binomtest(correct, problems).proportion_ci(method="wilson")
    assert [cell["problems_low"], cell["problems_high"]] == pytest.approx([100 * wilson.low, 100 * wilson.high])
    assert "fixed weights" in cell["problems_interval"]
    assert "for fixed weights" in table.caption
    assert isinstance(table, TableArtefact)
    shown = dict(table.rows)["HPT"][5].interval
    assert shown == f"[{100 * wilson.low:.1f}, {100 * wilson.high:.1f}]"


def test_averages_are_taken_from_the_printed_cells(records: list[RunRecords]) -> None:
    data = BUILDERS["table3"](records).data
    for method in ("pretrain", "sft", "grpo", "luffy", "hpt"):
        scores = cells(data, method)["score"]
        assert scores["Avg"] == pytest.approx(scores.drop("Avg").mean(), abs=0.0500001)
        assert scores["Avg"] == round(scores["Avg"], 1)


def test_rows_columns_and_the_papers_values(records: list[RunRecords]) -> None:
    table = BUILDERS["table3"](records)
    assert isinstance(table, TableArtefact)
    assert [label for label, cells in table.rows if cells] == ["base", "SFT", "GRPO", "LUFFY", "HPT"]
    assert [cell.paper for cell in dict(table.rows)["HPT"]] == ["16.6", "17.8", "51.0", "81.0", "37.5", "47.3", "41.9"]
    assert [cell.paper for cell in dict(table.rows)["base"]] == ["2.8", "6.1", "24.5", "32.8", "11.0", "16.4", "15.6"]
    heads, notes = [column.head for column in table.columns], [column.note for column in table.columns]
    # ours is never printed under the real benchmark's bare name
    assert not set(heads) & set(paper_data()["benchmarks"])
    assert notes[:6] == [f"stands for {name}" for name in list(paper_data()["benchmarks"])[:6]]


@pytest.fixture(scope="module")
def loaded(every_run: list[PlannedRun]) -> list[RunRecords]:
    return [replace(load_records(run.folder.path), arms=run.arms) for run in every_run if run.folder is not None]


@pytest.fixture(scope="module")
def exported(every_run: list[PlannedRun], tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    target = tmp_path_factory.mktemp("records")
    return [replace(load_records(export_run(run.folder, target)), arms=run.arms)
            for run in reversed(every_run) if run.folder is not None]  # fmt: skip


@pytest.mark.parametrize("name", BUILDERS)
def test_the_same_records_give_the_same_bytes(
    exported: list[RunRecords], loaded: list[RunRecords], tmp_path: Path, name: str
) -> None:
    first, second = (BUILDERS[name](own).write(tmp_path / place) for place, own in (("a", loaded), ("b", exported)))
    assert [path.name for path in first] == [path.name for path in second]
    kinds = {path.suffix for path in first} - {".csv", ".json"}
    assert kinds == ({".svg", ".png"} if isinstance(BUILDERS[name](loaded), FigureArtefact) else {".md", ".tex"})
    for left, right in zip(first, second, strict=True):
        assert left.read_bytes() == right.read_bytes(), left.name
        assert left.stat().st_size < 250_000


@pytest.mark.parametrize("name", [name for name in BUILDERS if ARTEFACTS[name].arms])
def test_every_file_says_where_its_numbers_come_from(loaded: list[RunRecords], tmp_path: Path, name: str) -> None:
    made = BUILDERS[name](loaded)
    run = made.sources[-1]
    assert len(run.fingerprint) == 16
    for path in made.write(tmp_path):
        if path.suffix == ".png":
            with Image.open(path) as image:
                text = json.dumps(image.info)
        else:
            text = path.read_text()
        if path.suffix == ".csv":  # its companion says it
            continue
        assert run.name.replace("_", r"\_" if path.suffix == ".md" else "_") in text, path.name
        assert COMMIT[:12] in text, path.name
    sources = json.loads((tmp_path / "tables" / f"{name}.provenance.json").read_text())["runs"]
    assert {row["run"] for row in sources} == {own.name for own in made.sources}
    assert all(row["fingerprint"] == row["run"][-16:] and row["commit"] == COMMIT for row in sources)


def test_figure7_has_no_line_for_a_method_that_samples_nothing(records: list[RunRecords]) -> None:
    assert set(BUILDERS["figure7"](records).data["method"]) == {"grpo", "luffy", "hpt"}
    assert metric_curve([own for own in records if own.method == "sft"], "rollout/entropy").empty


def test_figures_draw_the_recorded_values(records: list[RunRecords]) -> None:
    data = BUILDERS["figure6"](records).data
    hpt = next(own for own in records if own.method == "hpt" and own.seed == 1)
    for ratio in ("gate/offline_ratio_prompts", "gate/offline_ratio_rows"):
        drawn = data[data["metric"] == ratio]
        assert drawn["seed_1"].tolist() == pytest.approx(hpt.metrics[ratio].tolist())
    curves = BUILDERS["figure5"](records).data
    point = curves[(curves["panel"] == "applied") & (curves["method"] == "hpt")].iloc[-1]
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
    run = next(own for own in records if own.method == "hpt")
    line = replace(run, metrics=pd.DataFrame({"step": range(9), "rollout/reward": np.arange(9.0)}))
    smooth = metric_curve([line], "rollout/reward", window=3)["mean"].tolist()
    assert smooth == pytest.approx([0.5, 1, 2, 3, 4, 5, 6, 7, 7.5])
    assert all(smoothing_window(steps) % 2 for steps in range(1, 700))


def test_the_average_weighs_sets_alike_whatever_their_size() -> None:
    generator = np.random.default_rng(5)
    sets = [(generator.random(size) < share).astype(float) for size, share in ((30, 0.4), (900, 0.8))]
    interval = average_interval(sets)
    error = np.sqrt(sum(own.var() / len(own) for own in sets)) / 2
    mean = np.mean([own.mean() for own in sets])
    assert interval.low == pytest.approx(mean - 1.96 * error, abs=0.25 * error)
    assert interval.high == pytest.approx(mean + 1.96 * error, abs=0.25 * error)


def test_a_missing_evaluation_is_refused(records: list[RunRecords]) -> None:
    run = next(own for own in records if own.method == "hpt")
    without = replace(run, evaluations=run.evaluations[run.evaluations["benchmark"] != "applied"])
    with pytest.raises(RecordFault, match=r"not evaluated on applied .*not at all"):
        evaluation_counts(without, "applied")


def test_an_evaluation_under_another_law_is_not_mixed_in(records: list[RunRecords]) -> None:
    run = next(own for own in records if own.method == "hpt")
    other = run.evaluations.assign(key="0" * 16, correct=0)
    both = replace(run, evaluations=pd.concat([other, run.evaluations], ignore_index=True))
    pd.testing.assert_frame_equal(evaluation_counts(both, "applied"), evaluation_counts(run, "applied"))
    with pytest.raises(RecordFault, match="only as 0000"):
        evaluation_counts(replace(run, evaluations=other), "applied")


def test_two_runs_of_one_seed_are_refused(records: list[RunRecords]) -> None:
    twin = replace(next(own for own in records if own.method == "hpt"), name="hpt-weak-s0-ffffffffffffffff")
    with pytest.raises(RecordFault, match="two runs of one seed"):
        BUILDERS["figure6"]([*records, twin])


def test_text_is_escaped_everywhere(records: list[RunRecords]) -> None:
    evil = "<script>alert(1)</script>|_$&"
    source = (replace(records[0], name=evil),)
    cell = Cell(evil, evil, evil)
    table = TableArtefact(
        "t", evil, pd.DataFrame({"a": [evil]}), (Column(evil, evil),), ((evil, (cell,)),), evil, source
    )
    for text in (str(table.html()), table.markdown()):
        assert "<script" not in text
        assert "&lt;script&gt;" in text
    assert r"\|" in table.markdown()
    body = [line for line in table.tex().splitlines() if not line.startswith("%")]
    assert not any(character in line.replace(rf"\{character}", "") for line in body[3:-2] for character in "_$")
