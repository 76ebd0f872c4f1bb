"""Filling a folder of records: nothing recorded is made again, and what others start from is."""

from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import pytest

from hpt.runs.folder import RunFolder
from hpt.runs.job import Job
from hpt.runs.make import PlannedRun, planned_runs
from hpt.runs.records import RecordStore, export_run, fill, lacking_runs, load_records, record_folders
from hpt.support.errors import HptError
from tests.fabricated import fabricate


def made(root: Path, *artefacts: str) -> list[tuple[PlannedRun, RunFolder]]:
    """Fabricated runs and their folders."""
    return [(run, run.folder) for run in fabricate(root, artefacts) if run.folder is not None]


def lacking_of(artefacts: Sequence[str], runs: Path, records: Path) -> list[PlannedRun]:
    return lacking_runs(planned_runs("tiny", artefacts, [0], runs), RecordStore(records), runs)


def test_what_is_recorded_is_not_made_again_but_what_others_start_from_is(tmp_path: Path) -> None:
    runs, records = tmp_path / "runs", tmp_path / "records"

    def lacking(*artefacts: str) -> list[str]:
        return [run.method for run in lacking_of(artefacts, runs, records)]

    assert sorted(lacking("table5")) == ["hpt", "mix_on", "off_on", "pretrain"]
    for run, folder in made(tmp_path / "elsewhere", "table3", "figure3"):
        if run.arms != ("grpo_after_sft-weak",):
            export_run(folder, records)
    assert lacking("table3") == []
    # a second stage starts from SFT's weights, which a record does not hold, and SFT from the base's
    assert lacking("table3", "figure3") == ["pretrain", "sft", "grpo"]


def test_an_evaluation_that_the_record_lacks_is_made_and_exported(tmp_path: Path) -> None:
    """Figure 6 needs no final evaluation, Table 6 does."""
    root, records = tmp_path / "runs", tmp_path / "records"
    early = next(folder for run, folder in made(root, "figure6") if run.arms[0] == "hpt-weak")
    export_run(early, records)
    found = lacking_of(["table6"], tmp_path / "elsewhere", records)
    assert "hpt-weak" in [arm for run in found for arm in run.arms]
    made(root, "table6")  # the same run, evaluated
    assert early.path.name in fill("tiny", ["table6"], [0], root, records)
    again = load_records(records / early.path.name)
    assert set(again.evaluations["benchmark"]) == set(load_records(early.path).evaluations["benchmark"])
    assert fill("tiny", ["table6"], [0], root, records) == []


def test_finished_runs_are_exported_first_and_each_other_as_it_ends(tmp_path: Path) -> None:
    folders = [folder for _, folder in made(tmp_path / "runs", "table5")]
    names = [folder.path.name for folder in folders]
    assert sorted(fill("tiny", ["table5"], [0], tmp_path / "runs", tmp_path / "records")) == sorted(names)
    assert fill("tiny", ["table5"], [0], tmp_path / "runs", tmp_path / "records") == []
    assert sorted(path.name for path in record_folders(tmp_path / "records")) == sorted(names)
    seen: list[int] = []

    def two_then_fault(jobs: list[Job], parallel: int | None, on_finish: Callable[[RunFolder], None]) -> None:
        for folder in folders[:2]:
            on_finish(folder)
            seen.append(len(record_folders(tmp_path / "others")))
        raise HptError("the third failed")

    with mock.patch("hpt.runs.pool.run_jobs", two_then_fault), pytest.raises(HptError, match="third"):
        fill("tiny", ["table5"], [0], tmp_path / "nothing", tmp_path / "others")
    assert seen == [1, 2]
