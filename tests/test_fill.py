"""Filling a folder of records: nothing recorded is made again, and what others start from is."""

from pathlib import Path
from unittest import mock

import pytest

from hpt.runs.job import Job
from hpt.runs.make import PlannedRun, planned_runs
from hpt.runs.records import RecordStore, export_run, fill, lacking_runs, load_records, record_folders
from hpt.support.errors import HptError
from tests.fabricated import fabricate


def lacking(scale: str, artefacts: list[str], seeds: list[int], root: Path, records: Path) -> list[PlannedRun]:
    return lacking_runs(planned_runs(scale, artefacts, seeds, root), RecordStore(records), root)


def test_everything_lacks_where_nothing_is(tmp_path: Path) -> None:
    found = lacking("tiny", ["table5"], [0], tmp_path / "runs", tmp_path / "records")
    assert sorted({run.method for run in found}) == ["hpt", "mix_on", "off_on", "pretrain"]


def test_what_is_recorded_is_not_made_again_but_what_others_start_from_is(tmp_path: Path) -> None:
    elsewhere, records = tmp_path / "elsewhere", tmp_path / "records"
    for run in fabricate(elsewhere, ["table3", "figure3"]):
        if run.folder is not None and run.arms != ("grpo_after_sft-weak",):
            export_run(run.folder, records)
    runs = tmp_path / "runs"
    assert lacking("tiny", ["table3"], [0], runs, records) == []
    # a second stage starts from SFT's weights, which a record does not hold, and SFT from the base's
    found = lacking("tiny", ["table3", "figure3"], [0], runs, records)
    assert [(run.method, run.policy) for run in found] == [("pretrain", "weak"), ("sft", "weak"), ("grpo", "weak")]


def test_an_evaluation_that_the_record_lacks_is_made(tmp_path: Path) -> None:
    hpt = next(run for run in fabricate(tmp_path / "elsewhere", ["figure6"]) if run.arms[0] == "hpt-weak")
    assert hpt.folder is not None
    export_run(hpt.folder, tmp_path / "records")
    found = lacking("tiny", ["table6"], [0], tmp_path / "runs", tmp_path / "records")
    assert "hpt-weak" in [arm for run in found for arm in run.arms]  # Figure 6 needs no final evaluation, Table 6 does


def test_each_run_is_exported_as_it_ends(tmp_path: Path) -> None:
    planned = fabricate(tmp_path / "made", ["table5"])
    folders = {run.config.fingerprint(): run.folder for run in planned if run.folder is not None}
    seen: list[int] = []

    def two_then_fault(jobs: list[Job], parallel: int | None, on_finish: object) -> None:
        for folder in list(folders.values())[:2]:
            on_finish(folder)  # type: ignore[operator]
            seen.append(len(record_folders(tmp_path / "records")))
        raise HptError("the third failed")

    with mock.patch("hpt.runs.pool.run_jobs", two_then_fault), pytest.raises(HptError, match="third"):
        fill("tiny", ["table5"], [0], tmp_path / "runs", tmp_path / "records")
    assert seen == [1, 2]


def test_finished_runs_are_exported_first(tmp_path: Path) -> None:
    planned = fabricate(tmp_path / "runs", ["table5"])
    names = fill("tiny", ["table5"], [0], tmp_path / "runs", tmp_path / "records")
    assert sorted(names) == sorted(run.folder.path.name for run in planned if run.folder is not None)
    assert fill("tiny", ["table5"], [0], tmp_path / "runs", tmp_path / "records") == []
    assert sorted(path.name for path in record_folders(tmp_path / "records")) == sorted(names)


def test_a_record_that_lacks_an_evaluation_the_run_has_by_now_is_exported_again(tmp_path: Path) -> None:
    root, records = tmp_path / "runs", tmp_path / "records"
    early = next(run for run in fabricate(root, ["figure6"]) if run.arms[0] == "hpt-weak")
    assert early.folder is not None
    export_run(early.folder, records)
    fabricate(root, ["table6"])  # the same run, evaluated
    assert early.folder.path.name in fill("tiny", ["table6"], [0], root, records)
    again = load_records(records / early.folder.path.name)
    assert set(again.evaluations["benchmark"]) == set(load_records(early.folder.path).evaluations["benchmark"])
    assert fill("tiny", ["table6"], [0], root, records) == []
