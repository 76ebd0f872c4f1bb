"""Changing a setting in a notebook: which runs it makes again, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from hpt.reports import begin
from hpt.reports.notebooks import Study
from hpt.runs.make import planned_runs
from hpt.support.errors import ConfigError
from tests.fabricated import fabricate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of Tables 3 and 6, with the default settings and those of Table 6 with another gate."""
    folder = tmp_path_factory.mktemp("runs")
    fabricate(folder, ["table3", "table6"])
    fabricate(folder, ["table6"], gate__count=4)
    return folder


def study(root: Path, settings: dict[str, Any], artefact: str = "table6", **more: Any) -> Study:
    given = {"scale": "tiny", "settings": settings, "runs_dir": str(root)}
    return begin("notebook", [artefact], given | more)


def changed(root: Path, settings: dict[str, Any], artefact: str = "table3") -> list[str]:
    return [arm for run in study(root, settings, artefact).planned() if not run.done for arm in run.arms]


def test_a_setting_makes_only_the_runs_that_it_changes(root: Path) -> None:
    assert changed(root, {}) == []
    assert changed(root, {"gate.count": 3}) == ["hpt-weak"]  # neither the baselines, nor Llama's HPT with its gate 2/8
    assert sorted(changed(root, {"luffy": {"optimizer.learning_rate": 0.002}})) == ["luffy-llama", "luffy-weak"]
    assert changed(root, {"grpo-weak": {"rollout.rollouts_per_prompt": 4}}) == ["grpo-weak"]
    assert len(changed(root, {"optimizer.learning_rate": 0.002})) == 8
    assert sorted(changed(root, {"gate.kind": "linear"}))[:2] == ["grpo-llama", "grpo-weak"]  # now it matters to all
    assert sorted(changed(root, {"gate.alpha": 0.5}))[:2] == ["grpo-llama", "grpo-weak"]  # a constant gate reads it


def test_no_run_of_before_is_asked_for_otherwise(tmp_path: Path) -> None:
    """The default settings and an empty dict for one method are the same runs."""
    names = [[run.config.fingerprint() for run in planned_runs("mini", [], [0], tmp_path, settings)]
             for settings in ({}, {"hpt": {}})]  # fmt: skip
    assert names[0] == names[1]


def test_the_plan_says_what_a_setting_does_not_move(root: Path) -> None:
    said = study(root, {"gate.count": 4}).to_run().text
    assert "Nothing is left to compute." in said
    assert "HPT, gate 2/8 on the weak base (gate.count = 2), HPT, gate 1/8 on the weak base (gate.count = 1)" in said
    assert "Not moved" not in study(root, {"optimizer.learning_rate": 0.002}).to_run().text


@pytest.mark.parametrize(
    ("settings", "artefact", "message"),
    [
        ({"hpx": {"gate.count": 2}}, "table3", r"settings = 'hpx': allowed is a setting, or one of sft, sft-llama"),
        ({"hpt_gate2": {"gate.count": 3}}, "table6", r"settings\['hpt_gate2'\]\['gate.count'\] = 3: .*not defined by"),
        ({"schedule.steps": 3}, "figure3", r"settings\['schedule.steps'\] = 3: .*\(schedule.steps = 8\); leave it out"),
        ({"gate.cuont": 3}, "table2", r"gate\.cuont = 3: .*did you mean count"),
        ({"sft": {"gate.cuont": 3}}, "table2", r"gate\.cuont = 3: .*did you mean count"),
    ],
)
def test_settings_that_reach_nothing_are_refused(
    tmp_path: Path, settings: dict[str, Any], artefact: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        study(tmp_path, settings, artefact)


def test_changed_settings_change_the_result_and_are_named_with_it(root: Path) -> None:
    gates = {count: {run.config.gate.count for run in study(root, {"gate.count": count} if count else {}).runs()
                     if run.arms == ("hpt-weak",)} for count in (0, 4)}  # fmt: skip
    assert gates == {0: {0}, 4: {4}}
    assert "Changed settings: gate.count = 4." in study(root, {"gate.count": 4}).finish().text
