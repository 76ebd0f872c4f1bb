"""One reproduction killed outright again and again, at moments of everything it does, ends as one left alone.

The command is the one users type. After each kill the same command continues; runs, evaluations and the report must
be, bit for bit, those of an undisturbed reproduction.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpt.runs.folder import run_folders
from hpt.support.files import read_json
from tests.jobs import assert_same_results, leftovers
from tests.processes import until

#: One base and three runs of HPT on it, each evaluated on six sets, and one notebook.
ARTEFACTS = ("table6", "figure8")
WATCHED = Path(__file__).with_name("watched")
#: phase -> (how often it is interrupted, the last of its moments that each process is sure to reach).
PHASES = {
    "base": (4, 4),
    "rollouts": (5, 3),
    "backward": (5, 3),
    "checkpoint": (5, 8),
    "evaluation": (4, 2),
    "notebook": (4, 2),
    "report": (3, 7),
}
#: The same once the phase was interrupted before: with its notebooks done, a report is written within moments.
AGAIN = {"report": 2}
DELAYS = (0.0, 0.0, 0.01, 0.1)


@dataclass(frozen=True)
class KillAt:
    """See `tests/faults/watched/sitecustomize.py`."""

    phase: str
    number: int
    delay_s: float
    whom: str


def drawn(seed: int, each: int | None = None) -> list[KillAt]:
    """The kills, phase by phase in the order a reproduction comes to them; ``each``: so many of every phase."""
    draw = random.Random(seed)
    kills = []
    for phase, (count, last) in PHASES.items():
        for number in range(each or count):
            moment, delay = draw.randrange(last), draw.choice(DELAYS)
            if number and phase in AGAIN:
                moment, delay = moment % AGAIN[phase], min(delay, 0.01)
            kills.append(KillAt(phase, moment, delay, draw.choice(("main", "own", "both"))))
    return kills


def reproduce(folder: Path, kill: KillAt | None = None) -> subprocess.Popen[bytes]:
    """Type the command; what it says is added to ``log.txt``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HPT_TEST")}
    if kill is not None:
        plan = asdict(kill) | {"fired": str(folder / "fired"), "folder": str(folder / "work")}
        environment["HPT_TEST_KILL"] = json.dumps(plan)
        environment["PYTHONPATH"] = os.pathsep.join([str(WATCHED), os.environ.get("PYTHONPATH", "")])
    what = ["reproduce", "--scale", "tiny", "--jobs", "1", *(word for name in ARTEFACTS for word in ("--only", name))]
    where = ["--runs-dir", str(folder / "work" / "runs"), "--reports-dir", str(folder / "work" / "reports")]
    command = [sys.executable, "-m", "hpt.cli", *what, *where]
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def of_reproduction(folder: Path) -> list[int]:
    """A command with a kill and whatever it started: jobs, kernels and workers inherit the plan."""
    found = []
    for process in psutil.process_iter():
        try:
            its_own = str(folder / "work") in process.environ().get("HPT_TEST_KILL", "")
            if its_own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def run_to_end(folder: Path) -> None:
    assert reproduce(folder).wait() == 0, (folder / "log.txt").read_text()[-4000:]


def run_killed(folder: Path, kills: list[KillAt]) -> list[str]:
    """Start and kill, once per kill, then let it end; returns the phases that were interrupted."""
    for kill in kills:
        process = reproduce(folder, kill)
        code = process.wait()
        if kill.whom == "own" and code == 1:
            pass  # the command outlived the process it had started, and said which one failed
        else:
            assert code in (0, -signal.SIGKILL), (folder / "log.txt").read_text()[-4000:]
        assert until(lambda: not of_reproduction(folder), 120), f"left behind by {kill}"
    run_to_end(folder)
    return [line.split()[0] for line in (folder / "fired").read_text().splitlines()]


def report_files(folder: Path) -> dict[str, Any]:
    """What a report says, without when and how long it was made."""
    report = folder / "work" / "reports" / "tiny"
    kinds = {".csv", ".md", ".tex", ".svg", ".png"}
    made = (path for name in ("tables", "figures") for path in sorted((report / name).iterdir()))
    files: dict[str, Any] = {path.name: path.read_bytes() for path in made if path.suffix in kinds}
    for path in (report / "notebooks").glob("*.json"):
        status = read_json(path)
        for row in status["runs"]:
            row["finished"] = row["wall_s"] = None
        files[path.name] = {name: value for name, value in status.items() if name not in ("when", "wall_s")}
    return files


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("each", [pytest.param(1, id="each phase once"), pytest.param(None, id="thirty")])
def test_a_reproduction_killed_at_random_moments_ends_as_one_left_alone(each: int | None, tmp_path: Path) -> None:
    own, other = tmp_path / "killed", tmp_path / "undisturbed"
    for folder in (own, other):
        folder.mkdir()
    kills, started = drawn(7, each), time.monotonic()
    fired = run_killed(own, kills)
    took = time.monotonic() - started
    run_to_end(other)
    print(f"{len(fired)} of {len(kills)} kills in {took:.0f} s: {fired}")
    assert sorted(fired) == sorted(kill.phase for kill in kills), "some moments were not reached"
    for left, right in zip(run_folders(own / "work" / "runs"), run_folders(other / "work" / "runs"), strict=True):
        assert_same_results(left, right)
        assert leftovers(left) == []
    assert report_files(own) == report_files(other)
    assert list((own / "work").rglob("*.tmp")) == []
