"""What a reader of a notebook moves and sees: sliders, progress bars, two runs compared, answers, one step."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from nbformat import v4

from hpt.reports import begin
from hpt.reports.frames import algorithm_step, beside_the_papers, scores, transcripts
from hpt.reports.notebooks import html_table
from hpt.reports.pages import notebook_page
from hpt.runs.records import RunRecords, export_run
from hpt.support.errors import RecordFault
from tests.fabricated import fabricate, fabricated_records

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    return fabricated_records(tmp_path_factory.mktemp("runs"), "table3", seeds=(0, 1, 2))


def test_a_slider_draws_anew_and_is_a_picture_where_nothing_moves_it() -> None:
    drawn = []

    def draw(gate: int) -> Figure:
        drawn.append(gate)
        figure, axes = pyplot.subplots(figsize=(1, 1))
        axes.set_title(str(gate))
        return figure

    shown = begin("table6_gate_threshold", given={"scale": "tiny"}).sliders(draw, gate=range(5))
    bundle = shown._repr_mimebundle_()
    assert WIDGET in bundle
    assert "gate = 2" in bundle["text/html"]
    assert "src='data:image/png;base64," in bundle["text/html"]
    slider, picture = shown.controls.children
    before = picture.value
    slider.value = 4
    assert drawn == [2, 4]
    assert picture.value != before
    assert pyplot.get_fignums() == []


def test_a_page_opens_with_its_answer_and_results_and_has_pictures_of_sliders_but_no_progress_bar() -> None:
    bar = v4.new_output("display_data", {WIDGET: {"model_id": "1"}, "text/plain": "all: 0%"})
    slider = v4.new_output("execute_result", {WIDGET: {"model_id": "2"}, "text/html": "<img alt='gate = 2'>"})
    result = v4.new_output("execute_result", {"text/html": "<p class='caption'>Table 6</p>"})
    code = v4.new_code_cell("1", outputs=[bar, slider, result])
    status = {"notebook": "audit", "scale": "tiny", "when": "", "commit": "0" * 40, "dirty": False, "verdicts": [],
              "artefacts": [{"caption": "The answer. More."}], "seeds": [0]}  # fmt: skip
    page = notebook_page(v4.new_notebook(cells=[v4.new_markdown_cell("# Audit"), code]), status)
    parts = ["<h1 id=\"Audit\">", "<p class=\"lead\">The answer.</p>", "Table 6",
             "<h2>How</h2>", "<summary>code"]  # fmt: skip
    assert sorted(parts, key=page.index) == parts
    assert page.count("Table 6") == 1
    assert "gate = 2" in page
    assert "all: 0%" not in page
    assert "widget" not in page


def test_bars_are_drawn_in_a_notebook_whose_kernel_has_no_terminal() -> None:
    code = "from hpt.runs.pool import UNSEEN; print(UNSEEN)"
    said = [subprocess.run([sys.executable, "-c", first + code], capture_output=True, text=True, check=True).stdout
            for first in ("import IPython, ipykernel.zmqshell\n", "")]  # fmt: skip
    assert said == ["False\n", "None\n"]


def test_two_runs_are_compared_in_a_cell(tmp_path: Path) -> None:
    names = [export_run(run.folder, tmp_path / "records").name for run in fabricate(tmp_path / "runs", ["table3"])
             if run.folder is not None and run.policy == "weak"]  # fmt: skip
    study = begin("table3_main_results", given={"scale": "tiny", "from_records": str(tmp_path / "records")})
    first, second = (next(name for name in names if name.startswith(method)) for method in ("sft", "hpt"))
    shown = str(study.compare(first, second).html)
    assert ">method</td><td style='text-align: left'>sft</td><td style='text-align: left'>hpt</td>" in shown
    assert "Entropy (nats/token)" in shown
    with pytest.raises(RecordFault, match="/no"):
        study.compare("no", second)


def test_answers_of_all_methods_to_one_question_stand_together(records: list[RunRecords]) -> None:
    runs = [run for run in records if run.seed == 0 and run.policy == "weak"]
    kept = transcripts(runs, ["contest-a", "applied"])
    assert set(kept["method"][: len(runs)]) == {"base", "SFT", "GRPO", "LUFFY", "HPT"}
    assert (kept.groupby("set")["question"].nunique() == 1).all()
    assert kept["answer"].str.startswith("<b>").all()
    several = transcripts(runs, ["applied"], count=2)
    assert (several.groupby("method")["question"].nunique() == 2).all()
    assert several["question"].nunique() == 2
    assert set(kept.loc[kept["set"] == "applied", "question"]) < set(several["question"])
    shown = begin("table3_main_results", given={"scale": "tiny"}).transcripts(runs, ["applied"])
    assert "<b>" not in str(shown.html), "an answer became markup"


def test_a_step_of_algorithm_1_gives_every_question_its_weights(records: list[RunRecords]) -> None:
    run = next(run for run in records if run.method == "hpt" and run.policy == "weak")
    rollouts = run.rollouts.assign(correct=np.arange(len(run.rollouts)) % 9)
    rollouts["alpha"], rollouts["beta"] = (rollouts["correct"] > 0) * 1.0, (rollouts["correct"] == 0) * 1.0
    step = algorithm_step(replace(run, rollouts=rollouts), 0)
    assert len(step) == run.config.schedule.prompts_per_step
    assert step["question"].notna().all()
    assert (step["P"] == step["correct"] / 8).all()
    learns = step[step["alpha"] > 0]
    n, c, right, wrong = (learns[name] for name in ("rollouts", "correct", "weight_right", "weight_wrong"))
    assert (c * right + (n - c) * wrong.fillna(0)).abs().max() < 1e-12, "advantages of a group add up to 0"
    if run.config.estimator.advantage_std == "none":
        np.testing.assert_allclose(right, run.config.estimator.rl_coefficient * (1 - learns["P"]))
    np.testing.assert_allclose(step["weight_demonstration"], run.config.estimator.sft_coefficient * step["beta"])


def test_ours_and_the_papers_values_stand_side_by_side_with_seeds_and_only_a_clear_best_bold(
    records: list[RunRecords],
) -> None:
    data = scores(records, {"weak": ["pretrain", "sft", "hpt"]}, paper="table3")
    table = beside_the_papers(data, {"hpt": "HPT, ours"})
    assert [name[2] for name in table.columns] == ["ours", "paper"] * data["column"].nunique()
    assert list(table.columns.unique(0)) == list(data["column"].unique())
    assert table.index.unique("method").tolist() == ["base", "SFT", "HPT, ours"]
    assert list(table["Avg", "Avg", "paper"])[-1] == "41.9"
    assert list(beside_the_papers(data.assign(paper=np.nan, paper_copied=False)).columns.unique(2)) == ["ours"]
    clear = html_table(table, "t")
    assert clear.count("Weak base (stands for Qwen2.5-Math-1.5B)") == clear.count("<caption>") == 1, "no column of it"
    seeds = data[(data["method"] == "hpt") & (data["column"] == "graded-500")][["seed_0", "seed_1", "seed_2"]]
    assert "".join(f"<i style='left:{seed:.0f}%'></i>" for seed in seeds.to_numpy()[0]) in clear
    assert ' best"' in clear
    near = data.assign(seed_2=data["seed_2"].where(data["method"] != "hpt", 0.0))
    assert ' best"' not in html_table(beside_the_papers(near), "t")
