"""A custom algorithm among the others: in the plane, among the gates, in Table 3 and Figures 5 to 7."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hpt.laboratory.errors import Size, plane, plane_sums
from hpt.laboratory.experiment import make_experiment, method_gradients, row_gradients, sample_draws
from hpt.laboratory.gates import gate_table, gate_weights
from hpt.reports.build import notebook_tasks
from hpt.reports.frames import curves, label, scores, validation
from hpt.runs.make import planned_runs
from hpt.runs.records import RunRecords, load_runs
from hpt.runs.resolve import build_config
from hpt.support.errors import ConfigError
from hpt.upge.estimator import ROWS
from tests.fabricated import fabricate

OWN = "hpt.examples.smooth_gate:METHOD"
SHOWN = ("table3", "figure5", "figure6", "figure7")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up runs of the examples, Table 3 and Figures 5 to 7, one seed."""
    root = tmp_path_factory.mktemp("own")
    fabricate(root, ("own_algorithms", *SHOWN), seeds=(0,))
    return root


def records(root: Path, *names: str, own: tuple[str, ...] = ()) -> list[RunRecords]:
    planned = planned_runs("tiny", names, [0], root, own=own)
    assert all(run.done for run in planned)
    return load_runs(planned)


def test_a_method_on_a_question_is_its_rows_under_its_gate() -> None:
    experiment = make_experiment(seed=3, success=0.3)
    draws = sample_draws(experiment, 40, seed=1)
    config = build_config("hpt")
    gradients, sums = method_gradients(config, experiment, draws)
    on, off = (row_gradients(row, experiment, draws, replace(ROWS[row], aggregation=rule))[0]
               for row, rule in (("dr_grpo", "per_prompt_rollouts"), ("sft", "per_prompt_demonstration")))  # fmt: skip
    solved = experiment.reward[draws.rollouts].sum(1) > 0
    assert 0 < int(solved.sum()) < len(solved)
    expected = torch.where(solved[:, None], on, config.estimator.sft_coefficient * off)
    torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-15)
    assert sums["tokens"] > 0
    with pytest.raises(ConfigError, match="a method of one stage"):
        method_gradients(build_config("sft_then_grpo"), experiment, draws)


def test_a_demonstration_takes_the_place_of_a_rollout() -> None:
    """LUFFY compares n - 1 rollouts with the demonstration: all rollouts wrong, and the group still has a signal."""
    experiment = make_experiment(seed=3, success=0.0001)
    draws = sample_draws(experiment, 10, seed=1)
    assert not experiment.reward[draws.rollouts].any()
    gradients, sums = method_gradients(build_config("luffy"), experiment, draws)
    assert (gradients.norm(dim=1) > 0).all()
    lengths = experiment.policy.space.lengths
    assert sums["tokens"] == float(lengths[draws.rollouts[:, 1:]].sum() + lengths[draws.demonstrations].sum())


def test_methods_lie_in_the_plane_beside_rows() -> None:
    """GRPO as a method, with its row's normalisation, clip and std, is the row; HPT is another point."""
    grpo = build_config("grpo", settings={"estimator.normalization": "row"})
    found = plane(plane_sums(Size(3, 30), {"HPT": build_config("hpt"), "method": grpo, "grpo": "grpo"}))
    for situation, own in found.groupby("situation", sort=False):
        lines = own.drop(columns="situation").set_index("row")
        assert list(lines.index) == ["HPT", "method", "grpo"], situation
        np.testing.assert_allclose(lines.loc["method"], lines.loc["grpo"], rtol=1e-9)
        assert not np.allclose(lines.loc["HPT"], lines.loc["grpo"], rtol=0.01)


def test_a_custom_gate_stands_among_the_gates() -> None:
    weights = gate_weights(build_config("hpt.examples.least_error_gate:METHOD").gate, 8)
    errors, _, _ = gate_table(Size(3, 30), more={"mine": weights})
    found = errors[errors["objective"] == "log of expected reward"].set_index("gate")["error"]
    assert found["least error"] <= found["mine"] < found["SFT alone"]


def test_a_custom_method_is_one_more_row_and_line(runs: Path) -> None:
    plain, more = records(runs, *SHOWN), records(runs, *SHOWN, own=(OWN,))
    names = ["sft", "grpo", "hpt"]
    for make in (
        lambda found, methods: scores(found, {"weak": methods}, "table3"),
        validation,
        lambda found, methods: curves(found, ["rollout/entropy"], methods),
    ):
        without, with_own = make(plain, [*names, OWN]), make(more, [*names, OWN])
        gained = with_own[with_own["method"] == OWN]
        assert len(gained) > 0
        left = with_own[with_own["method"] != OWN].reset_index(drop=True)
        assert left[list(without)].equals(without)
    assert label(OWN) == "HPT, smooth gate"


@pytest.mark.parametrize(
    ("artefacts", "own", "message"),
    [
        (["table2"], OWN, r"extra_methods = .*none with these artefacts; ask for table3, figure5, figure6"),
        (["table3"], "srft", r"extra_methods = 'srft': allowed is a custom module:METHOD"),
        (["table3"], "hpt.examples.smooth_gate:NONE", r"method = .*smooth_gate has .*correct the attribute"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_compute(
    artefacts: list[str], own: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        planned_runs("tiny", artefacts, [0], tmp_path, own=(own,))


def test_the_report_hands_it_to_the_notebooks_that_take_it(runs: Path) -> None:
    tasks, _ = notebook_tasks("tiny", ["table3", "table1"], [0], runs, None, custom=(OWN,))
    assert {task.notebook: task.custom for task in tasks} == {"table3_main_results": (OWN,), "table1_estimator": ()}
