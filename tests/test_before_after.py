"""Changing a setting in a notebook: which runs it makes again, what is shown beside it, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpt.artefacts.output import Cell, Column, TableArtefact
from hpt.before_after import differences
from hpt.errors import ConfigError
from hpt.experiments import planned_runs
from hpt.export import export_run
from hpt.kernel_bar import KernelBar, in_kernel
from hpt.notebook import Study, plan
from tests.fabricated import fabricate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of Tables 3 and 6, with the default settings and those of Table 6 with another gate."""
    folder = tmp_path_factory.mktemp("runs")
    fabricate(folder, ["table3", "table6"])
    fabricate(folder, ["table6"], gate__count=4)
    return folder


def study(root: Path, settings: dict[str, Any], artefact: str = "table6", **more: Any) -> Study:
    given = {"scale": "tiny", "seeds": [0], "settings": settings, "runs_dir": str(root), "from_records": "",
             "output_dir": ""}  # fmt: skip
    return plan("notebook", [artefact], given | more)


def changed(root: Path, settings: dict[str, Any], artefact: str = "table3") -> list[str]:
    return [arm for run in study(root, settings, artefact).planned if not run.done for arm in run.arms]


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
        ({"hpt": {"gate.cuont": 3}}, "table6", r"gate\.cuont = 3: .*did you mean count"),
    ],
)
def test_settings_that_reach_nothing_are_refused(
    tmp_path: Path, settings: dict[str, Any], artefact: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        study(tmp_path, settings, artefact)


def test_old_stands_beside_new(root: Path) -> None:
    own = study(root, {"gate.count": 4})
    shown = str(own.show("table6", own.records()).html)
    assert "Changed settings: gate.count = 4." in shown
    assert shown.index("HPT, gate 0") < shown.index("Before, with the default settings")
    assert "default settings</th>" in shown
    plain = study(root, {})
    assert "Before, with" not in str(plain.show("table6", plain.records()).html)


def test_without_the_default_runs_it_says_so(tmp_path: Path) -> None:
    fabricate(tmp_path, ["table6"], gate__count=4)
    own = study(tmp_path, {"gate.count": 4})
    shown = str(own.show("table6", own.records()).html)
    assert "1 runs are not there (hpt on the weak base, seed 0). Run this notebook once with settings = {}." in shown
    assert not any(run.done for run in planned_runs("tiny", ["table6"], [0], tmp_path) if run.arms == ("hpt-weak",))


def test_old_and_new_come_from_records_too(root: Path, tmp_path: Path) -> None:
    for gate in ({}, {"gate.count": 4}):
        for run in planned_runs("tiny", ["table6"], [0], root, gate):
            assert run.folder is not None
            export_run(run.folder, tmp_path / "records")
    own = study(tmp_path / "none", {"gate.count": 4}, from_records=str(tmp_path / "records"))
    assert "Before, with the default settings" in str(own.show("table6", own.records()).html)


def test_differences_are_those_of_the_printed_cells() -> None:
    frame = study(Path("none"), {}).artefacts  # any data: it is not looked at
    old = TableArtefact("t", "T", frame, (Column("a"), Column("b")), (("x", (Cell("1.0"), Cell("2.0"))), ("y", ())), "")  # type: ignore[arg-type]
    new = replace(old, rows=(("x", (Cell("1.0"), Cell("2.5"))), ("y", ()), ("z", (Cell("3.0"), Cell("")))))
    assert differences(old, new) == [("x", "b", "2.0", "2.5", "+0.5"), ("z", "a", "", "3.0", "")]


def test_the_bar_is_one_display_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, html: Any) -> None:
            shown.append(f"again {html.data}")

    def display(html: Any, display_id: bool) -> Handle:
        shown.append(html.data)
        return Handle()

    assert not in_kernel()
    bar = KernelBar(2)
    bar.draw(0, [], last=True)
    assert shown == []  # no kernel, no bar
    monkeypatch.setattr("hpt.kernel_bar.in_kernel", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    bar.draw(0, [("<b>run</b>", 3, 6, "reward 0.25")])
    bar.draw(0, [("<b>run</b>", 4, 6, "")])  # too soon
    bar.draw(2, [], last=True)
    assert len(shown) == 2
    assert "&lt;b&gt;run&lt;/b&gt;: step 3 of 6, reward 0.25" in shown[0]
    assert shown[1].startswith("again <div><progress value='2' max='2'>")
