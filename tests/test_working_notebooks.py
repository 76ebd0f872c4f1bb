"""What a reader of a notebook sees: progress bars, answers, one step, scores beside the paper's."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from nbformat import v4

from hpt.reports.frames import algorithm_step, beside_the_papers, scores, transcripts
from hpt.reports.pages import notebook_page
from hpt.runs.records import RunRecords
from tests.fabricated import fabricated_records

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    return fabricated_records(tmp_path_factory.mktemp("runs"), "table3", seeds=(0, 1, 2))


def test_a_page_shows_no_progress_bar() -> None:
    bar = v4.new_output("display_data", {WIDGET: {"model_id": "1"}, "text/plain": "all: 0%"})
    code = v4.new_code_cell("1", outputs=[bar, v4.new_output("display_data", {"text/plain": "gate = 2"})])
    status = {"notebook": "audit", "scale": "tiny", "when": "", "commit": "0" * 40, "dirty": False,
              "verdicts": [], "artefacts": [], "seeds": [0]}  # fmt: skip
    page = notebook_page(v4.new_notebook(cells=[v4.new_markdown_cell("# Audit"), code]), status)
    assert "gate = 2" in page
    assert "all: 0%" not in page
    assert "widget" not in page


def test_bars_are_drawn_in_a_notebook_whose_kernel_has_no_terminal() -> None:
    code = (
        "import sys\nif sys.argv[1] == 'kernel': import IPython, ipykernel.zmqshell\n"
        "from hpt.runs.pool import UNSEEN; print(UNSEEN)"
    )
    said = [subprocess.run([sys.executable, "-c", code, where], capture_output=True, text=True, check=True).stdout
            for where in ("kernel", "file")]  # fmt: skip
    assert said == ["False\n", "None\n"]


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


def test_a_step_of_algorithm_1_gives_every_question_its_weights(records: list[RunRecords]) -> None:
    run = next(run for run in records if run.method == "hpt" and run.policy == "weak")
    rollouts = run.rollouts.assign(correct=np.arange(len(run.rollouts)) % 9)
    rollouts["alpha"], rollouts["beta"] = (rollouts["correct"] > 0) * 1.0, (rollouts["correct"] == 0) * 1.0
    changed: Any = run.__class__(run.name, run.config, run.metrics, rollouts, run.validation, run.evaluations)
    step = algorithm_step(changed, 0)
    assert len(step) == run.config.schedule.prompts_per_step
    assert step["question"].notna().all()
    assert (step["P"] == step["correct"] / 8).all()
    learns = step[step["alpha"] > 0]
    n, c, right, wrong = (learns[name] for name in ("rollouts", "correct", "weight_right", "weight_wrong"))
    assert (c * right + (n - c) * wrong.fillna(0)).abs().max() < 1e-12, "advantages of a group add up to 0"
    if run.config.estimator.advantage_std == "none":
        np.testing.assert_allclose(right, run.config.estimator.rl_coefficient * (1 - learns["P"]))
    np.testing.assert_allclose(step["weight_demonstration"], run.config.estimator.sft_coefficient * step["beta"])


def test_ours_and_the_papers_values_stand_side_by_side(records: list[RunRecords]) -> None:
    data = scores(records, {"weak": ["pretrain", "sft", "hpt"]}, paper="table3")
    table = beside_the_papers(data, {"hpt": "HPT, ours"})
    assert [name[2] for name in table.columns] == ["ours", "paper"] * data["column"].nunique()
    assert list(table.columns.unique(0)) == ["Avg", *data["column"].unique()[:-1]]
    assert table.index.unique("method").tolist() == ["base", "SFT", "HPT, ours"]
    assert table.loc[(slice(None), "HPT, ours"), ("Avg", "Avg", "paper")].item() == "41.9"
    assert list(beside_the_papers(data.assign(paper=np.nan, paper_copied=False)).columns.unique(2)) == ["ours"]
