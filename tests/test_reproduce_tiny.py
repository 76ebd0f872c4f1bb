"""The command of the README at the smallest scale, from nothing: bases, runs, evaluations, notebooks, page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpt.runs.catalogue import artefacts_named
from hpt.runs.make import planned_runs

pytestmark = [pytest.mark.ci_slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).resolve().parent.parent


def hpt(folder: Path, *arguments: str) -> str:
    """Return what a command says in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hpt.cli", *arguments, "--scale", "tiny"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_everything_of_the_paper_from_nothing_and_then_nothing_is_left_to_do(tmp_path: Path) -> None:
    said = hpt(tmp_path, "reproduce")
    assert "started pretrain-weak-s0" in said
    report = tmp_path / "reports" / "tiny"
    page = "".join(path.read_text() for path in report.glob("*.html"))
    for artefact in artefacts_named([]):
        assert f'<section id="{artefact.name}">' in page, artefact.name
    states = {path.stem: json.loads(path.read_text())["state"] for path in (report / "notebooks").glob("*.json")}
    assert set(states.values()) == {"ok"}, states
    assert "Not there yet" not in page
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert all(run.done for run in planned_runs("tiny", [], [0], tmp_path / "runs"))
    assert "started" not in hpt(tmp_path, "reproduce", "--only", "table6")  # again, without all notebooks
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after.get(path)} <= {
        path for path in before if path.name.startswith(".lock")
    }
