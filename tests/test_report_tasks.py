"""What records allow: found by settings, missing runs and evaluations named, and a report of what is there."""

import html
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from hpt.paper.paper import claims
from hpt.reports.build import Available, NotebookTask, available, build_report, notebook_tasks
from hpt.reports.pages import missing_artefacts, render
from hpt.runs.catalogue import ARTEFACTS
from hpt.runs.make import PlannedRun
from hpt.runs.records import RecordStore, export_run, record_folders
from hpt.support.errors import ConfigError, HptError, RecordFault
from hpt.support.files import read_json, read_parquet, write_json, write_manifest, write_parquet
from tests.fabricated import fabricate


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> list[PlannedRun]:
    return fabricate(tmp_path_factory.mktemp("runs"), ["figure6", "figure7"], seeds=(0, 1))


@pytest.fixture
def folder(plan: list[PlannedRun], tmp_path: Path) -> Path:
    """A report's folder with the records of everything, two seeds."""
    for run in plan:
        export_run(run.folder, tmp_path / "tiny" / "records")
    return tmp_path / "tiny"


def record(folder: Path, start: str) -> Path:
    (found,) = [path for path in record_folders(folder / "records") if path.name.startswith(start)]
    return found


def from_records(folder: Path, only: list[str], seeds: list[int]) -> tuple[list[NotebookTask], list[Available]]:
    return notebook_tasks("tiny", only, seeds, folder / "none", RecordStore(folder / "records"))


def test_a_record_is_found_by_its_settings(plan: list[PlannedRun], folder: Path) -> None:
    config = next(run.config for run in plan if run.method == "hpt" and run.policy == "weak")
    hashes = {"weights_sha256": "", "tokenizer_sha256": "f" * 64}  # a base made on another machine
    policy = config.policy.model_copy(update={**hashes, "path": None})
    elsewhere = config.model_copy(update={"policy": policy})
    store = RecordStore(folder / "records")
    assert store.find(elsewhere) == record(folder, "hpt-weak-s0")
    assert store.find(config.model_copy(update={"seed": 7})) is None
    assert store.find(config.model_copy(update={"gate": config.gate.model_copy(update={"count": 3})})) is None
    shutil.copytree(record(folder, "hpt-weak-s0"), folder / "records" / "twin")
    with pytest.raises(RecordFault, match="twin are records of the same settings"):
        RecordStore(folder / "records").find(elsewhere)


def test_a_run_is_loaded_with_its_arms(plan: list[PlannedRun], folder: Path) -> None:
    store = RecordStore(folder / "records")
    for run in plan:
        loaded = store.load(run)
        assert (loaded.method, loaded.policy, loaded.seed, loaded.arms) == (run.method, run.policy, run.seed, run.arms)
    shutil.rmtree(record(folder, "hpt-strong-s1"))
    gone = next(run for run in plan if (run.policy, run.method, run.seed) == ("strong", "hpt", 1))
    with pytest.raises(RecordFault, match="no record of HPT on the strong base, seed 1 with these settings"):
        RecordStore(folder / "records").load(gone)


def test_seeds_and_missing_runs_of_each_artefact(folder: Path) -> None:
    shutil.rmtree(record(folder, "hpt-strong-s1"))
    six, seven = available("tiny", ["figure6", "figure7"], [0, 1, 2], RecordStore(folder / "records"))
    assert (six.seeds, seven.seeds) == ((0,), (0, 1))
    assert six.missing == (
        "HPT on the strong base, seed 1", "the weak base, seed 2", "HPT on the weak base, seed 2",
        "the strong base, seed 2", "HPT on the strong base, seed 2",
    )  # fmt: skip
    assert set(seven.missing) == {
        "the weak base, seed 2", *(f"{own} on the weak base, seed 2" for own in ("GRPO", "LUFFY", "HPT"))
    }  # fmt: skip


def test_a_record_without_a_needed_evaluation_is_not_enough(folder: Path, tmp_path: Path) -> None:
    plan = fabricate(tmp_path / "runs", ["table6"])
    for run in plan:
        export_run(run.folder, folder / "records")
    (full,) = available("tiny", ["table6"], [0], RecordStore(folder / "records"))
    assert full.seeds == (0,)
    plain = next(run for run in plan if run.arms == ("hpt-weak",))
    path = RecordStore(folder / "records").find(plain.config)
    kept = read_parquet(path / "evaluations.parquet").query("benchmark != 'applied'")
    write_parquet(path / "evaluations.parquet", kept)
    write_manifest(path)
    (own,) = available("tiny", ["table6"], [0], RecordStore(folder / "records"))
    assert own.seeds == ()
    assert own.missing == ("HPT on the weak base, seed 0 (not evaluated on applied)",)
    (path / "evaluations.parquet").write_bytes(b"")
    with pytest.raises(RecordFault, match=r"evaluations\.parquet"):
        available("tiny", ["table6"], [0], RecordStore(folder / "records"))


def test_a_report_makes_what_the_records_allow_and_names_the_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what needs no records is executed by `tests/test_report.py`
    needing = {name: own for name, own in ARTEFACTS.items() if own.arms}
    monkeypatch.setattr("hpt.runs.catalogue.ARTEFACTS", needing)
    shutil.rmtree(record(folder, "hpt-strong-s1"))
    earlier = ("tables/table3.csv", "figures/figure6.svg", "notebooks/table3_main_results.json")
    for name in earlier:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("left by an earlier report")
    page = build_report("tiny", [0, 1], folder / "none", folder.parent, from_records=True)
    status = read_json(folder / "notebooks" / "training_dynamics.json")
    assert status["seeds"] == [0, 1]
    assert {made["name"] for made in status["artefacts"]} == {"figure7"}
    assert not any((folder / name).exists() for name in earlier)
    missing = {row["artefact"]: row for row in missing_artefacts(folder)}
    assert missing["figure6"]["missing"] == ["HPT on the strong base, seed 1"]
    assert "SRFT on the strong base, seed 0" in missing["table2"]["missing"]
    assert not {"figure7"} & set(missing)
    assert f"{len(missing)} are not made" in page.read_text()
    text = html.unescape((folder / "provenance.html").read_text())
    for own in (text, (folder / "README.md").read_text()):
        for said in ("Missing runs", "Figure 6: offline data ratio", "HPT on the strong base, seed 1"):
            assert said in own
    waiting = sum(claim.artefact == "table2" for claim in claims())
    assert f"not made, and {waiting} claims not judged" in text


def test_an_artefact_can_have_fewer_seeds_than_another(folder: Path) -> None:
    shutil.rmtree(record(folder, "grpo-weak-s1"))
    name = "training_dynamics"
    (task,) = [own for own in from_records(folder, [], [0, 1])[0] if own.notebook == name]
    assert task == NotebookTask(name, ("figure6", "hpt_runs", "algorithm1"), (0, 1))
    shutil.rmtree(record(folder, "hpt-strong-s1"))
    tasks, incomplete = from_records(folder, [], [0, 1])
    (task,) = [own for own in tasks if own.notebook == name]
    assert task == NotebookTask(name, ("figure6", "figure7", "hpt_runs", "algorithm1"), (0,))
    rows = {row.artefact: row.seeds for row in incomplete}
    assert (rows["figure6"], rows["figure7"], rows["table2"]) == ((0,), (0,), ())
    write_json(folder / "missing.json", [asdict(row) for row in incomplete])
    render(folder, "tiny")
    assert "made of seeds 0 alone" in (folder / "provenance.html").read_text()


def test_only_asks_for_whole_artefacts_and_nothing_possible_is_a_fault(folder: Path, tmp_path: Path) -> None:
    (task,), incomplete = from_records(folder, ["figure7"], [0, 1])
    assert (task.artefacts, incomplete) == (("figure7",), [])
    shutil.rmtree(record(folder, "luffy-weak-s1"))
    with pytest.raises(HptError, match=r"lack 1 runs for figure7: LUFFY on .*; export them .*leave --only out"):
        from_records(folder, ["figure7"], [0, 1])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(HptError, match=r"the records lack .* runs for table2: "):
        build_report("tiny", [7], folder / "none", folder.parent, from_records=True)
    with pytest.raises(ConfigError, match=r"--from-records = .*a folder that holds records"):
        build_report("tiny", [0], folder / "none", tmp_path / "empty", from_records=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_record_is_not_a_missing_one(folder: Path) -> None:
    (record(folder, "hpt-weak-s0") / "config.json").write_text("{")
    with pytest.raises(RecordFault, match=r"config\.json"):
        from_records(folder, [], [0])
