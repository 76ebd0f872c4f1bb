"""Two runs compared: which settings and values are listed, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hpt.runs.compare import by_step, differences, final_values
from hpt.runs.folder import run_folders
from hpt.runs.records import RunRecords, export_run, load_records
from tests.command_line import Said, hpt
from tests.fabricated import fabricate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    fabricate(folder, ["table6"])
    return folder


@pytest.fixture
def gates(root: Path) -> list[RunRecords]:
    """HPT with gate 2/8 and with gate 0."""
    runs = [load_records(path.parent) for path in sorted(root.glob("tiny/hpt-*/config.json"))]
    return sorted((own for own in runs if own.config.gate.count != 1), key=lambda own: -own.config.gate.count)


@pytest.fixture
def compare(root: Path) -> Callable[..., Said]:
    return lambda *names: hpt("runs", "compare", *names, "--runs-dir", root)


def test_the_settings_that_differ_are_listed_and_no_other(gates: list[RunRecords]) -> None:
    assert differences(*gates).to_numpy().tolist() == [["gate.count", "2", "0"]]
    assert len(differences(gates[0], replace(gates[0], name="again"))) == 0
    elsewhere = replace(gates[1], provenance=gates[1].provenance | {"commit": "f00", "packages": {"torch": "2.14.0"}})
    found = differences(gates[0], elsewhere).set_index("setting")[elsewhere.name].to_dict()
    assert found == {"gate.count": "0", "commit": "f00", "packages.torch": "2.14.0"}


def test_every_quantity_comes_by_step_with_its_unit(gates: list[RunRecords]) -> None:
    frame = by_step(gates[1])
    rewards = frame["Training reward (share)"].dropna().to_list()
    assert rewards == pytest.approx(gates[1].metrics["rollout/reward"].to_list())
    assert "Validation accuracy (%), contest-a" in frame


def test_a_quantity_that_only_one_run_has_has_no_difference(gates: list[RunRecords]) -> None:
    bare = replace(gates[1], metrics=gates[1].metrics[["step"]], validation=gates[1].validation.iloc[:0])
    values = final_values(gates[0], bare)
    assert values[gates[0].name].notna().all()
    assert values[[bare.name, "difference"]].isna().to_numpy().all()


def test_last_values_are_means_of_the_last_tenth(gates: list[RunRecords]) -> None:
    frame = pd.DataFrame({"step": range(20), "loss/total": [9.0] * 18 + [1.0, 2.0]})
    runs = [replace(run, metrics=frame + add, validation=run.validation.iloc[:0])
            for run, add in zip(gates, (0, 1), strict=True)]  # fmt: skip
    assert final_values(*runs).loc["Loss"].tolist() == [1.5, 2.5, 1.0]


def test_the_command_prints_differences_and_values_of_runs_and_records(
    compare: Callable[..., Said], root: Path, gates: list[RunRecords], tmp_path: Path
) -> None:
    names = [run.name for run in gates]
    paths = [export_run(run, tmp_path) for run in run_folders(root, "tiny") if run.path.name in names]
    for compared in (names, map(str, paths)):
        done = compare(*compared)
        assert done.returncode == 0, done.stderr
        assert "gate.count" in done.stdout
        assert "Training reward (share)" in done.stdout


def test_what_cannot_be_compared_is_refused(compare: Callable[..., Said], root: Path, gates: list[RunRecords]) -> None:
    def said(*names: str) -> str:
        done = compare(*names)
        assert done.returncode == 2
        return done.stderr

    one = gates[0].name
    assert f"allowed is another run than {one}" in said(one, one)
    assert "run = 'nothing': allowed is the beginning of one run's name" in said(one, "nothing")
    assert "run = 'hpt-weak': allowed is the beginning of one run's name (hpt-weak" in said("hpt-weak", one)
    status = next(root.glob(f"tiny/{one}/status.json"))
    before = status.read_text()
    status.write_text(before.replace("finished", "running"))
    assert "allowed is a finished run (it is running); run its command again" in said(one, gates[1].name)
    status.write_text(before)
