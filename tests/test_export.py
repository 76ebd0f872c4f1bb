"""Records must travel whole: the same tables on both sides, few answers, and nothing damaged is ever read.

Where a folder of them is filled, nothing recorded is made again, and what others start from is.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

import hpt
from hpt.evaluation.evaluate import KEPT_ANSWERS, EvaluationSettings, answer_hash, kept_answers, sample_answers
from hpt.runs.folder import RunFolder, add_checksum, write_checksums
from hpt.runs.job import Job
from hpt.runs.make import PlannedRun, planned_runs
from hpt.runs.records import (
    RECORD_FILES,
    RecordStore,
    export_run,
    fill,
    import_runs,
    lacking_runs,
    load_records,
    record_folders,
    recorded_config,
)
from hpt.runs.resolve import given_base_config
from hpt.support.errors import HptError, RecordFault
from hpt.support.files import LOCK, MANIFEST, read_json, read_parquet, write_json, write_manifest, write_parquet
from tests import scripted
from tests.damage import cut_off
from tests.digits import write_digits
from tests.fabricated import fabricate


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> list[PlannedRun]:
    return fabricate(tmp_path_factory.mktemp("runs"), ["table3"], seeds=[0])


def folder_of(plan: list[PlannedRun], method: str) -> RunFolder:
    folder = next(run.folder for run in plan if run.method == method)
    assert folder is not None
    return folder


@pytest.fixture
def own(plan: list[PlannedRun], tmp_path: Path) -> RunFolder:
    """The run of HPT, in a folder of its own that a test may change."""
    source = folder_of(plan, "hpt").path
    return RunFolder(Path(shutil.copytree(source, tmp_path / "runs" / source.name)))


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("method", ["pretrain", "sft", "hpt"])
def test_an_exported_run_reads_as_the_run_itself(plan: list[PlannedRun], tmp_path: Path, method: str) -> None:
    original = load_records(folder_of(plan, method).path)
    exported = load_records(export_run(folder_of(plan, method), tmp_path))
    assert (exported.name, exported.provenance) == (original.name, original.provenance)
    assert exported.config.policy.path is None  # a place on one machine does not travel
    policy = exported.config.policy.model_copy(update={"path": original.config.policy.path})
    assert exported.config.model_copy(update={"policy": policy}) == original.config
    assert len(original.metrics)
    assert len(original.evaluations)
    for name in ("metrics", "rollouts", "validation", "evaluations", "answers"):
        own, same = getattr(original, name), getattr(exported, name)
        own = own.drop(columns="entropy", errors="ignore")  # of a question and step
        # metrics keep 16 bits, and integers whole
        pd.testing.assert_frame_equal(same, own, check_dtype=False, rtol=2**-16 if name == "metrics" else 0, atol=0)
    tokens = "trained/forwarded_tokens"
    assert (exported.metrics[tokens] == original.metrics[tokens]).all()


def test_a_run_of_the_search_is_exported_without_its_rollouts(own: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(own.path.rename(own.path.with_name("hpt-weak-s1000-0123456789abcdef")))
    write_json(folder.path / "config.json", read_json(folder.path / "config.json") | {"seed": 1000})
    write_checksums(folder)
    original, exported = load_records(folder.path), load_records(export_run(folder, tmp_path / "records"))
    assert len(original.rollouts)
    assert len(exported.rollouts) == len(exported.answers) == 0
    assert len(exported.metrics) == len(original.metrics) > 0
    assert set(exported.metrics) < set(original.metrics)
    assert len(exported.evaluations) == len(original.evaluations) > 0


def test_an_exported_run_is_read_without_making_the_problems_again(
    own: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, exported = load_records(own.path), load_records(export_run(own, tmp_path))
    expected = {
        name: original.counts(name) for name in original.sets if (original.evaluations["benchmark"] == name).any()
    }
    assert len(expected) == 6

    def made(world: object) -> None:
        raise AssertionError("the problems were made again")

    monkeypatch.setattr("hpt.data.world.lookup._evaluated", made)
    for name, counts in expected.items():
        pd.testing.assert_frame_equal(exported.counts(name), counts, check_dtype=False)
    with pytest.raises(RecordFault, match="was not evaluated on choice under key"):
        exported.counts("choice")


def test_an_export_holds_counts_and_the_answers_chosen_by_hash(own: RunFolder, tmp_path: Path) -> None:
    folder = export_run(own, tmp_path / "records")
    assert sorted(path.name for path in folder.iterdir()) == sorted((*RECORD_FILES, "answers.parquet", MANIFEST))
    answers = pd.concat(map(pd.read_parquet, (own.path / "evaluations").iterdir()))
    evaluations, kept = load_records(folder).evaluations, load_records(folder).answers
    assert "answer" not in evaluations
    assert evaluations["correct"].sum() == (answers["verdict"] == "correct").sum() > 0
    assert evaluations["no_answer"].sum() == (answers["verdict"] == "no_answer").sum() > 0
    assert evaluations["samples"].sum() == len(answers)
    all_hashes = [answer_hash(*row) for row in answers[["benchmark", "problem_id", "sample"]].itertuples(index=False)]
    for evaluation, hashes in answers.assign(hash=all_hashes).groupby("benchmark")["hash"]:
        of_set = kept[kept["benchmark"] == evaluation]
        assert sorted(of_set["hash"]) == sorted(hashes)[:KEPT_ANSWERS]
        assert (of_set["text"] == "<b>" + of_set["problem_id"]).all()
    shown = kept.drop(columns="key")
    pd.testing.assert_frame_equal(hpt.load_answers(folder.parent)[list(shown)], shown)


def test_a_chosen_answer_is_kept_as_it_was_sampled_and_a_long_one_by_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpt.evaluation.evaluate.KEPT_CHARACTERS", 4)
    asked, law = scripted.problems(20), EvaluationSettings(samples_per_problem=3)
    keep = kept_answers("contest-a", asked, 3)
    assert len(keep) == KEPT_ANSWERS < 20 * 3
    sampler: Any = scripted.ScriptedSampler(scripted.small_model(), scripted.wrong)
    verifier: Any = scripted.ScriptedVerifier()
    answers = sample_answers(sampler, verifier, scripted.tokenizer(), {"contest-a": asked}, law, keep)
    for row in answers.itertuples():
        chosen = (row.problem_id, row.sample) in keep
        assert (row.text if pd.notna(row.text) else None) == (f"{row.sample}\\bo [...] {{99}}" if chosen else None)


def test_runs_made_before_answers_were_kept_still_travel(own: RunFolder, tmp_path: Path) -> None:
    for file in (own.path / "evaluations").iterdir():
        write_parquet(file, read_parquet(file).drop(columns="text"))
        add_checksum(own, file)
    record = export_run(own, tmp_path / "records")
    assert sorted(path.name for path in record.iterdir()) == sorted((*RECORD_FILES, MANIFEST))
    assert len(hpt.load_answers(tmp_path / "records")) == len(load_records(record).answers) == 0
    assert import_runs(record, tmp_path / "taken")


@pytest.mark.parametrize("at", [0, 1])
def test_a_kill_while_a_record_is_replaced_loses_nothing(
    plan: list[PlannedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Before its predecessor has stepped aside, and between that and its own renaming."""
    before = bytes_below(export_run(folder_of(plan, "hpt"), tmp_path))
    renames: list[str] = []
    genuine = Path.rename

    def killed(self: Path, target: Path) -> Path:
        renames.append(self.name)
        if len(renames) > at:
            os._exit(9)
        return genuine(self, target)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "rename", killed)
        export_run(folder_of(plan, "hpt"), tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    hidden = sorted(path.name for path in tmp_path.glob(".*/"))
    assert len(hidden) == 1 + at, "the half-written one, and the one that stepped aside"
    assert len(record_folders(tmp_path)) == 1 - at, "a hidden folder is no record"
    sft = export_run(folder_of(plan, "sft"), tmp_path)
    (own,) = (path for path in record_folders(tmp_path) if path != sft)
    assert bytes_below(own) == before
    assert list(tmp_path.glob(".*/")) == []


def test_only_finished_runs_are_exported(own: RunFolder, tmp_path: Path) -> None:
    own.set_status("running", 3)
    with pytest.raises(HptError, match=f"{own.path.name} is running.*run its command again"):
        export_run(own, tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_exporting_again_changes_no_byte_and_keeps_evaluations_exported_before(own: RunFolder, tmp_path: Path) -> None:
    """A run made again for its weights alone has no evaluations at first."""
    records = tmp_path / "records"
    whole = bytes_below(export_run(own, records))
    assert bytes_below(export_run(own, records)) == whole
    assert [path.name for path in records.glob(".*")] == [LOCK]
    assert bytes_below(export_run(own, tmp_path / "elsewhere")) == whole
    first, *others = sorted((own.path / "evaluations").iterdir())
    for files in (others, [first]):
        for file in files:
            file.unlink()
        assert bytes_below(export_run(own, records)) == whole


@pytest.mark.parametrize("name", [*RECORD_FILES, "answers.parquet"])
@pytest.mark.parametrize("damage", [cut_off, Path.unlink])
def test_a_damaged_record_folder_is_refused(
    own: RunFolder, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    file = export_run(own, tmp_path / "records") / name
    damage(file)
    with pytest.raises(RecordFault, match=name.partition(".")[0]):
        load_records(file.parent)


def test_a_table_without_a_needed_column_is_refused(own: RunFolder) -> None:
    own.write_tables({"rollouts": own.table("rollouts").drop(columns="branch")})
    write_checksums(own)
    with pytest.raises(RecordFault, match="lacks the columns branch"):
        load_records(own.path)


def test_a_manifest_that_names_other_files_is_refused(own: RunFolder, tmp_path: Path) -> None:
    """Otherwise an import would read, and copy, whatever a stranger's manifest points at."""
    folder = export_run(own, tmp_path)
    (tmp_path / "secret").write_text("x")
    write_json(folder / MANIFEST, read_json(folder / MANIFEST) | {"../secret": "0" * 64})
    with pytest.raises(RecordFault, match=r"must list config\.json"):
        import_runs(folder, tmp_path / "taken")
    assert not (tmp_path / "taken").exists()


def test_import_takes_what_was_exported_and_refuses_another_content_of_the_same_name(
    plan: list[PlannedRun], tmp_path: Path
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    with pytest.raises(RecordFault, match="holds no records"):
        import_runs(there, here)
    for run in plan:
        assert run.folder is not None
        export_run(run.folder, there)
    taken = import_runs(there, here)
    assert taken == record_folders(here)
    assert bytes_below(here) == bytes_below(there)
    assert import_runs(there / taken[0].name, here) == [taken[0]], "again, and one alone"
    before = bytes_below(taken[0])
    write_json(there / taken[0].name / "provenance.json", {"commit": "another"})
    write_manifest(there / taken[0].name)
    with pytest.raises(RecordFault, match="another content"):
        import_runs(there, here)
    assert bytes_below(taken[0]) == before


def test_a_base_that_nobody_trained_here_has_records_of_its_evaluations(tmp_path: Path) -> None:
    """Fetched or the user's own: a folder without a table of steps, which the tables of the paper's models read."""
    model = write_digits(tmp_path) / "model"
    given = {"data.template": "plain", "data.evaluation": "graded", "data.folder": "data"}
    config = given_base_config("tiny", model, given)
    folder = RunFolder.of(config, tmp_path / "runs")
    assert folder.path.name.startswith("model-model-s0-"), "nothing was trained before"
    folder.create(config)
    write_json(folder.path / "provenance.json", {})
    folder.set_status("finished", 0)
    answers = {"benchmark": "contest-a", "problem_id": ["p0", "p1"], "level": 1, "sample": 0, "verdict": "correct",
               "response_tokens": 3}  # fmt: skip
    write_parquet(folder.evaluation_path("contest-a", "0" * 16), pd.DataFrame(answers))
    write_checksums(folder)
    records = load_records(folder.path)
    assert len(records.metrics) == len(records.rollouts) == len(records.validation) == 0
    assert list(records.evaluations["correct"]) == [1, 1]
    again = load_records(export_run(folder, tmp_path / "records"))
    pd.testing.assert_frame_equal(again.evaluations, records.evaluations)


@pytest.mark.parametrize("rows", [0, 1, 200])
def test_a_table_comes_back_as_it_was_written_and_takes_little_room(rows: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    columns: dict[str, object] = {f"loss/{i}": draw.normal(size=rows) for i in range(40)}
    columns |= {
        "share": np.where(draw.random(rows) < 0.5, np.nan, 0.1).astype(np.float32),
        "count": np.arange(rows),
        "truncated": draw.random(rows) < 0.5,
        "verdict": [("correct", None, "größer\n")[i % 3] for i in range(rows)],
        "nothing": [None] * rows,
    }
    frame = pd.DataFrame(columns)
    usual = tmp_path / "usual.parquet"
    frame.to_parquet(usual, index=False, compression="zstd")
    write_parquet(tmp_path / "small.parquet", frame)
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "small.parquet"), pd.read_parquet(usual), check_exact=True)
    assert (tmp_path / "small.parquet").stat().st_size < 0.8 * usual.stat().st_size


def test_a_record_with_a_setting_of_another_version_is_refused(own: RunFolder, tmp_path: Path) -> None:
    path = export_run(own, tmp_path)
    settings = read_json(path / "config.json")
    settings["gate"]["skip_visits"] = 1
    write_json(path / "config.json", settings)
    with pytest.raises(RecordFault, match=r"not a configuration of this version: gate\.skip_visits = 1"):
        recorded_config(path)


# --- filling a folder of records --------------------------------------------------------------------------------------


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

    with mock.patch("hpt.runs.records.run_jobs", two_then_fault), pytest.raises(HptError, match="third"):
        fill("tiny", ["table5"], [0], tmp_path / "nothing", tmp_path / "others")
    assert seen == [1, 2]
