"""A full disk, a read-only folder, files cut off or with a flipped bit: named, counted, nothing finished is lost."""

import errno
import random
import resource
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpt.data.models import save_model_folder
from hpt.runs.evaluations import evaluation_key, missing_evaluations
from hpt.runs.folder import (
    CHECKSUMS,
    RunFolder,
    add_checksum,
    check,
    damaged_count,
    damaged_files,
    set_aside,
    write_checksums,
)
from hpt.runs.make import PlannedRun, planned_runs
from hpt.runs.records import export_run, load_records
from hpt.support.errors import HptError, RecordFault
from hpt.support.files import check_manifest, read_json, write_json, write_text
from hpt.training.checkpoint import TrainingState, checkpoints, load_newest, save_checkpoint
from tests.damage import cut_off, flip_a_bit
from tests.fabricated import fabricate
from tests.jobs import Fault, Undisturbed, only_run
from tests.scripted import config_for, make_trainer, tokenizer

ARTEFACT = "figure7"

pytestmark = pytest.mark.timeout(900)


# --- nothing can be written -------------------------------------------------------------------------------------------


@contextmanager
def no_file_over(size: int) -> Generator[None]:
    """Have every write beyond so many bytes fail, in C and Rust as in Python (which ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stage", [0, 1])
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(stage: int, tmp_path: Path) -> None:
    """Weights are written by PyTorch's C++ and by safetensors' Rust, each with errors of its own."""
    trainer = make_trainer(config_for("hpt", engine__zero_stage=stage))
    trainer.train(1)
    tables = trainer.tables()
    save_checkpoint(tmp_path, trainer.engine, TrainingState(step=1), tables, keep=2)
    with no_file_over(3_000), pytest.raises(HptError, match=r"cannot write .*step-000002.*same command again"):
        save_checkpoint(tmp_path, trainer.engine, TrainingState(step=2), tables, keep=2)
    assert load_newest(tmp_path)[1].step == 1
    save_checkpoint(tmp_path, trainer.engine, TrainingState(step=2), tables, keep=2)
    path, state, _ = load_newest(tmp_path)
    check_manifest(path)
    assert (state.step, state.damaged_checkpoints) == (2, 0)
    with no_file_over(3_000), pytest.raises(HptError, match=r"cannot write .*model.*same command again"):
        save_model_folder(trainer.engine, tokenizer(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    save_model_folder(trainer.engine, tokenizer(), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_file_that_does_not_fit_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "own.csv", "before")
    with no_file_over(1_000), pytest.raises(HptError, match=r"cannot write .*own\.csv: File too large; free space"):
        write_text(tmp_path / "own.csv", "x" * 100_000)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"own.csv": "before"}


def fail_to_write(own: Undisturbed, root: Path, fault: Fault) -> None:
    job = own.start(root, fault)
    assert job.wait() == 1, job.said()
    said = job.said()
    assert "error: cannot write " in said
    assert "the same command again" in said
    assert "Traceback" not in said


FAULTS = [(errno.ENOSPC, ".step-000004"), (errno.EROFS, "PolicyEngine.save_model"), (errno.EACCES, "evaluations")]


@pytest.mark.ci_slow
def test_a_run_whose_disk_is_full_says_so_and_goes_on_later(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """In the middle of a checkpoint, of the final model, and of an evaluation; each time from where it stood."""
    for number, part in FAULTS:
        fail_to_write(undisturbed, tmp_path, Fault(part, number))
        for path in checkpoints(only_run(tmp_path).path / "checkpoints"):
            check_manifest(path)
    undisturbed.finish(tmp_path)
    assert read_json(only_run(tmp_path).path / "provenance.json")["damaged_checkpoints"] == 0


@pytest.mark.ci_slow
@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_is_full_at_any_write_says_so_and_goes_on_later(
    seed: int, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """At a random one of all moments that write; a lock's are left out, a full disk costs them the holder's name."""
    moments = undisturbed.moments
    draw = random.Random(seed)
    files = ("open", "os.mkdir", "os.rename")
    writes = [i for i, name in enumerate(moments) if name.startswith(files)]
    at = draw.choice([i for i in writes if i > 1 and not moments[i].endswith(".lock")])
    print(f"nothing can be written from {moments[at]} on")
    fail_to_write(undisturbed, tmp_path, Fault("", draw.choice((errno.ENOSPC, errno.EROFS)), at))
    undisturbed.finish(tmp_path)


# --- what was written is not what is there ----------------------------------------------------------------------------


DAMAGES: list[Callable[[Path], None]] = [flip_a_bit, cut_off, Path.unlink]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> list[PlannedRun]:
    return fabricate(tmp_path_factory.mktemp("runs"), [ARTEFACT])


@pytest.fixture
def run(plan: list[PlannedRun], tmp_path: Path) -> RunFolder:
    """A finished run in a folder of its own, with its checksums."""
    source = next(own.folder for own in plan if own.method == "hpt")
    folder = RunFolder(Path(shutil.copytree(source.path, tmp_path / source.path.name)))
    (folder.model / "model.safetensors").write_bytes(bytes(1_000))
    write_checksums(folder)
    return folder


FILES = ["config.json", "metrics.parquet", "rollouts.parquet", "validation.parquet", "provenance.json"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_record_is_never_read(name: str, damage: Callable[[Path], None], run: RunFolder) -> None:
    load_records(run.path)
    damage(run.path / name)
    assert damaged_files(run) == [name]
    with pytest.raises(RecordFault, match=rf"{name} is missing or damaged: .* goes on from the newest good checkpoint"):
        load_records(run.path)
    with pytest.raises(RecordFault, match=name):
        export_run(run, run.path.parent / "records")
    assert set_aside(run) == [name]
    assert (damaged_count(run), run.status["state"]) == (1, "stopped")
    assert not (run.path / name).exists()


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off])
def test_a_damaged_evaluation_is_sampled_again_and_the_run_stays_finished(
    damage: Callable[[Path], None], run: RunFolder
) -> None:
    file = run.evaluation_path("contest-a", "0123456789abcdef")
    write_text(file, "answers")
    add_checksum(run, file)
    assert damaged_files(run) == []
    damage(file)
    with pytest.raises(RecordFault, match=file.name):
        load_records(run.path)
    assert set_aside(run) == [f"evaluations/{file.name}"]
    assert run.finished
    assert not file.exists()
    assert damaged_files(run) == []
    assert [path.name for path in (run.path / "damaged").iterdir()] == [f"1-{file.name}"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_model_is_never_used(name: str, run: RunFolder) -> None:
    flip_a_bit(run.model / name)
    with pytest.raises(RecordFault, match="missing or damaged"):
        check(run)
    set_aside(run)
    assert not run.model.exists()
    assert run.status["state"] == "stopped"


@pytest.mark.parametrize("damage", [cut_off, Path.unlink])
def test_checksums_that_are_missing_vouch_for_nothing(damage: Callable[[Path], None], run: RunFolder) -> None:
    damage(run.path / CHECKSUMS)
    assert damaged_files(run) == [CHECKSUMS]
    with pytest.raises(RecordFault, match=CHECKSUMS):
        load_records(run.path)
    assert CHECKSUMS in set_aside(run)
    assert run.status["state"] == "stopped"


def test_an_evaluation_whose_process_was_killed_before_its_checksum_is_made_again(run: RunFolder) -> None:
    """Nothing would tell later damage of it."""
    name = "contest-a"
    key = evaluation_key(run.config, name)[2]
    write_text(run.evaluation_path(name, key), "answers")
    add_checksum(run, run.evaluation_path(name, key))
    assert missing_evaluations(run, run.config, [name]) == []
    known = read_json(run.path / CHECKSUMS)
    del known[f"evaluations/{run.evaluation_path(name, key).name}"]
    write_json(run.path / CHECKSUMS, known)
    assert damaged_files(run) == []
    assert missing_evaluations(run, run.config, [name]) == [name]


def test_a_plan_names_what_is_damaged_and_a_damaged_base_is_no_other_base(plan: list[PlannedRun]) -> None:
    """Its weights would otherwise give all that starts from it another fingerprint: made again, in silence."""
    folders = {own.method: own.folder for own in plan if own.folder is not None}
    root = folders["hpt"].path.parent.parent
    for folder in folders.values():
        write_checksums(folder)

    def reasons() -> dict[str, str]:
        return {own.method: own.reason for own in planned_runs("tiny", [ARTEFACT], [0], root)}

    assert set(reasons().values()) == {""}
    flip_a_bit(folders["hpt"].path / "metrics.parquet")
    assert {name: why for name, why in reasons().items() if why} == {"hpt": "damaged: metrics.parquet"}
    flip_a_bit(folders["hpt"].path / "metrics.parquet")
    weights = folders["pretrain"].model / "model.safetensors"  # made-up bases have none
    weights.write_bytes(bytes(1_000))
    found = reasons()
    assert found.pop("pretrain") == "damaged: model/*.safetensors"
    assert all("is not trained" in why for why in found.values())
    weights.unlink()
    assert set(reasons().values()) == {""}


def test_a_status_that_cannot_be_read_is_no_reason_to_start_anew(run: RunFolder) -> None:
    cut_off(run.path / "status.json")
    assert run.status == {"state": "damaged", "step": 0}
    assert not run.finished


def test_damaged_weights_of_a_run_that_others_start_from_are_named_and_made_again(tmp_path: Path) -> None:
    """SFT's, from which GRPO starts in Figure 3: looked at like a base's, and no dead end for what comes after."""
    plan = fabricate(tmp_path, ["figure3"])
    sft = next(own.folder for own in plan if own.method == "sft")
    write_checksums(sft)
    (sft.model / "model.safetensors").write_bytes(bytes(1_000))
    found = {own.method: own.reason for own in planned_runs("tiny", ["figure3"], [0], tmp_path) if own.reason}
    assert found == {"sft": "damaged: model/*.safetensors", "grpo": "sft is not trained"}


def test_a_kill_while_damage_is_set_aside_leaves_it_to_be_found(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of the writes came last, the run is not taken for one that is finished and whole."""
    flip_a_bit(run.path / "metrics.parquet")

    def killed(path: Path, content: object) -> None:
        if Path(path).name == CHECKSUMS:
            raise KeyboardInterrupt
        write_json(path, content)

    monkeypatch.setattr("hpt.runs.folder.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        set_aside(run)
    assert not run.finished


def test_a_finished_run_with_damaged_files_is_made_whole_from_its_checkpoint(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Metrics, weights, an evaluation and the configuration at once: all as before, each counted."""
    shutil.copytree(undisturbed.root, tmp_path, dirs_exist_ok=True)
    folder = only_run(tmp_path)
    before = read_json(folder.path / "provenance.json")
    (evaluation,) = (folder.path / "evaluations").iterdir()
    for path in (folder.path / "metrics.parquet", folder.model / "model.safetensors", evaluation):
        flip_a_bit(path)
    cut_off(folder.path / "config.json")
    job = undisturbed.finish(tmp_path)
    assert folder.config == undisturbed.folder.config
    after = read_json(folder.path / "provenance.json")
    assert after == before | {"damaged_files": 4, "damaged_checkpoints": 0}
    assert job.said().count("damaged, set aside and made again") == 4
    assert damaged_files(folder) == []
