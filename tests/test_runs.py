"""Run folders: their names, and what is in a folder that is not the one its name says."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from hpt.runs.folder import RunFolder, damaged_count, run_folders, run_name, source_commit
from hpt.runs.make import run_with_base
from hpt.runs.resolve import base_config, build_config, resolve_run
from hpt.support.errors import ConfigError, HptError
from hpt.support.files import write_json
from tests.command_line import hpt
from tests.damage import cut_off
from tests.digits import write_digits
from tests.fabricated import write_run


def test_a_folder_is_continued_and_its_configuration_written_again_where_it_cannot_be_read(tmp_path: Path) -> None:
    config = build_config("hpt", scale="tiny")
    folder = RunFolder.of(config, tmp_path)
    folder.create(config)
    folder.create(config)
    assert (folder.config, damaged_count(folder)) == (config, 0)
    cut_off(folder.path / "config.json")
    folder.create(config)
    assert (folder.config, damaged_count(folder)) == (config, 1)


def test_a_folder_of_another_configuration_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Somebody renamed or copied a run folder."""
    wanted, held = build_config("hpt", scale="tiny"), build_config("hpt", scale="tiny", seed=1)
    other = RunFolder.of(held, tmp_path)
    other.create(held)
    folder = RunFolder.of(wanted, tmp_path)
    other.path.rename(folder.path)
    before = (folder.path / "config.json").read_bytes()
    with pytest.raises(ConfigError) as refusal:
        folder.create(wanted)
    for part in (str(folder.path), run_name(held), run_name(wanted), "hpt runs remove"):
        assert part in str(refusal.value)
    assert (folder.path / "config.json").read_bytes() == before


def test_the_commit_is_the_packages_whatever_repository_a_hook_points_git_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    expected = source_commit()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert source_commit() == expected


def test_a_run_that_never_updated_says_so(tmp_path: Path) -> None:
    """A new model solves nothing, so GRPO has no signal; the command passes on what its job said."""
    world, given = write_digits(tmp_path), ("rollout.max_response_tokens=16", "schedule.steps=2", "validation.every=0")
    arguments = ["train", "--method", "grpo", "--scale", "tiny", "--policy", world / "model", "--data",
                 world / "problems.jsonl", "--runs-dir", tmp_path / "runs"]  # fmt: skip
    result = hpt(*arguments, *(part for own in given for part in ("--set", own)))
    assert result.returncode == 0, result.stderr
    (folder,) = run_folders(tmp_path / "runs")
    assert folder.finished
    assert "no update was made" in folder.status["message"]
    assert f"warning: {folder.path.name}: no update was made" in result.stderr
    assert "no update was made" in result.stdout
    listed = hpt("runs", "list", "--runs-dir", tmp_path / "runs")
    assert f"{folder.path.name}: no update was made" in " ".join(listed.stdout.split())


@pytest.mark.parametrize(
    ("status", "pid", "machine", "silent_s", "expected"),
    [
        ("running", 0, "", 0, "running"),
        (None, 0, "", 0, "running"),
        ("running", 999999999, "", 0, "stopped"),
        (None, 999999999, "", 0, "stopped"),  # it ended before it had written a status
        ("running", 1, "elsewhere", 60, "running"),
        ("running", 1, "elsewhere", 7200, "stopped"),
        ("stopped", 999999999, "", 0, "stopped"),
        ("finished", 0, "", 0, "finished"),
    ],
)
def test_a_listed_state_is_what_can_be_proved(
    status: str | None, pid: int, machine: str, silent_s: int, expected: str, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "tiny" / "hpt-weak-s0-0123456789abcdef")
    write_json(folder.path / "config.json", {})
    if status is not None:
        folder.set_status(status, 6)
    # 0 stands for this process, whose number would be another in every worker of the tests
    held = {"pid": pid or os.getpid(), "machine": machine or os.uname().nodename}
    write_json(folder.path / ".lock", held | {"command": "python -m hpt.runs.job", "folder": "/"})
    for path in folder.path.iterdir():
        os.utime(path, (time.time() - silent_s, time.time() - silent_s))
    assert expected in hpt("runs", "list", "--runs-dir", tmp_path).stdout


def test_the_command_for_a_base_that_is_missing_makes_that_base(tmp_path: Path) -> None:
    """Of that seed and scale."""
    remedy = f"hpt train --method pretrain --scale mini --policy weak --seed 2 --runs-dir {tmp_path}`"
    with pytest.raises(HptError, match=remedy):
        resolve_run(build_config("hpt", scale="mini", seed=2), tmp_path)


def test_diagnostics_that_a_finished_run_did_not_measure_are_not_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = base_config(build_config("hpt", scale="tiny"))
    folder = RunFolder.of(config, tmp_path)
    write_run(folder, config, ())
    assert run_with_base(config, tmp_path) == folder
    assert capsys.readouterr().err == ""
    more = config.diagnostics.model_copy(update={"gradient_cosine_every": 1})
    assert run_with_base(config.model_copy(update={"diagnostics": more}), tmp_path) == folder
    assert f"{folder.path.name} had finished with other diagnostics" in capsys.readouterr().err
