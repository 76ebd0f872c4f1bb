"""What makes a notebook be executed again, and what does not; the report while runs are still being made."""

import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hpt.early_report import EarlyReport
from hpt.experiments import EARLY, PlannedRun, artefacts_named, planned_runs
from hpt.export import export_run
from hpt.files import read_json, write_json
from hpt.freshness import inputs_digest, is_fresh, note_execution
from hpt.recorded import RecordStore
from hpt.report import build_report
from hpt.report_tasks import NotebookTask, possible_tasks
from tests.fabricated import fabricate


@pytest.fixture
def runs(tmp_path: Path) -> list[PlannedRun]:
    return fabricate(tmp_path / "runs", ["table5"])


def digest(folder: Path, store: RecordStore | None = None, seeds: tuple[int, ...] = (0,)) -> str | None:
    source = folder / "n.ipynb"
    if not source.exists():
        source.write_text("{}")
    given = {"scale": "tiny", "seeds": list(seeds)}
    return inputs_digest(source, given, ["table5"], folder / "runs", store)


def test_dates_do_not_matter(runs: list[PlannedRun], tmp_path: Path) -> None:
    before = digest(tmp_path)
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    assert before is not None
    assert digest(tmp_path) == before


@pytest.mark.parametrize("pattern", ["provenance.json", "metrics.parquet", "evaluations/*.parquet", "config.json"])
def test_every_file_a_report_reads_of_a_run_matters(runs: list[PlannedRun], tmp_path: Path, pattern: str) -> None:
    before = digest(tmp_path)
    assert runs[-1].folder is not None
    file = next(runs[-1].folder.path.glob(pattern))
    file.write_bytes(file.read_bytes() + b" ")
    assert digest(tmp_path) != before


def test_source_parameters_package_and_records_matter(
    runs: list[PlannedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in runs:
        assert run.folder is not None
        export_run(run.folder, tmp_path / "records")
    seen = [digest(tmp_path), digest(tmp_path, RecordStore(tmp_path / "records"))]
    manifest = next((tmp_path / "records").glob("hpt-*/manifest.json"))
    write_json(manifest, read_json(manifest) | {"metrics.parquet": "0"})
    seen.append(digest(tmp_path, RecordStore(tmp_path / "records")))
    (tmp_path / "n.ipynb").write_text("{ }")
    seen.append(digest(tmp_path))
    monkeypatch.setattr("hpt.freshness.package_digest", lambda: "another")
    seen.append(digest(tmp_path))
    assert None not in seen
    assert len(set(seen)) == 5
    assert digest(tmp_path, seeds=(0, 1)) is None  # the runs of seed 1 are not there


def test_what_was_written_must_be_there_unchanged(tmp_path: Path) -> None:
    status = {"notebook": "n", "artefacts": [{"name": "table5", "kind": "table"}, {"name": "f", "more": ["f_more"]}]}
    names = ("notebooks/n.json", "notebooks/n.html", "tables/table5.csv", "tables/f_more.csv", "figures/f.svg")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    note = tmp_path / "note.json"
    assert not is_fresh(note, "same", tmp_path)
    note_execution(note, "same", tmp_path, status)
    assert is_fresh(note, "same", tmp_path)
    assert not is_fresh(note, "other", tmp_path)
    assert not is_fresh(note, None, tmp_path)
    for name in names:
        (tmp_path / name).write_text("y")
        assert not is_fresh(note, "same", tmp_path), name
        (tmp_path / name).write_text("x")
    (tmp_path / names[2]).unlink()
    assert not is_fresh(note, "same", tmp_path)


def test_the_early_artefacts_come_first() -> None:
    planned = planned_runs("mini", [], [0], Path("nowhere"))
    early = {arm.key for artefact in artefacts_named(EARLY) for arm in artefact.arms}
    first = [bool(early & set(run.arms)) for run in planned if run.method != "pretrain"]
    assert first == sorted(first, reverse=True)
    assert first.count(True) == len(early) == 5  # the four of the weak base (Table 3's half), and HPT on the strong one
    assert [run.policy for run in planned if run.method == "pretrain"] == ["weak", "strong", "llama"]
    names = [run.arms[0] for run in planned]
    assert names.index("pretrain-llama") > names.index("hpt-strong")


def test_half_of_table_3_is_a_report_so_far_and_then_the_whole(tmp_path: Path) -> None:
    runs, aside = tmp_path / "runs", tmp_path / "aside"
    llama = next(run.folder for run in fabricate(runs, ["table3"]) if run.arms == ("hpt-llama",))
    assert llama is not None
    shutil.move(llama.path, aside)
    possible, missing = possible_tasks("tiny", ["table3"], [0], runs)
    assert possible == [NotebookTask("table3_main_results", ("table3",), (0,), ("weak",))]
    assert [row["missing"] for row in missing] == [("HPT on the llama base, seed 0",)]
    page = build_report("tiny", [0], runs, tmp_path / "reports", only=["table3"], so_far=True)
    text = page.read_text()
    assert "made of its weak half alone" in text
    assert "Weak base" in text
    assert "Llama-architecture base, HPT" not in text
    assert not llama.path.exists()
    with mock.patch("hpt.report.execute", side_effect=AssertionError("nothing changed")):
        build_report("tiny", [0], runs, tmp_path / "reports", only=["table3"], so_far=True)
    (page.parent / "tables" / "table3.csv").rename(tmp_path / "table3.csv")
    with mock.patch("hpt.report.execute", side_effect=KeyError), pytest.raises(KeyError):
        build_report("tiny", [0], runs, tmp_path / "reports", only=["table3"], so_far=True)
    (tmp_path / "table3.csv").rename(page.parent / "tables" / "table3.csv")
    shutil.move(aside, llama.path)
    with mock.patch("hpt.report.execute", side_effect=KeyError) as execute, pytest.raises(KeyError):
        build_report("tiny", [0], runs, tmp_path / "reports", only=["table3"])
    assert "bases" not in execute.call_args.args[2]


def test_a_report_starts_when_the_early_artefacts_are_there_and_again_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []

    def start(command: list[str], **options: Any) -> mock.Mock:
        started.append(command)
        process = mock.Mock()
        process.poll.return_value, process.returncode = (None, 0) if len(started) == 1 else (1, 1)
        process.communicate.return_value = (b"", b"error: out of paper")
        return process

    monkeypatch.setattr("hpt.early_report.subprocess.Popen", start)
    runs = tmp_path / "runs"
    early = EarlyReport("tiny", [], [0], runs, tmp_path / "reports")
    last = [run.folder for run in fabricate(runs, ["figure5", "figure6"]) if run.folder is not None][-1]
    shutil.move(last.path, tmp_path / "aside")
    early(last)
    assert not started  # one run of the early artefacts is missing
    shutil.move(tmp_path / "aside", last.path)
    early(last)
    assert [command[3] for command in started] == ["report"]
    fabricate(runs, ["table5"])
    early(last)
    assert len(started) == 1  # the first is still at work
    early._working.poll.return_value = 0  # type: ignore[union-attr]
    early(last)
    assert len(started) == 2
    early.wait()
    said = capsys.readouterr().err
    assert "report so far, after" in said
    assert "(figure5, figure6, figure7" in said
    assert "no report so far: error: out of paper" in said
