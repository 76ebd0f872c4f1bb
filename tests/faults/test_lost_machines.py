"""Runs on two machines of a Ray cluster: one of them is lost, or the command itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpt.config.run_config import RunConfig
from hpt.runs.folder import RunFolder, run_folders
from hpt.runs.job import Job
from hpt.runs.pool import run_jobs
from hpt.support.files import holder
from hpt.support.process import environment
from hpt.training.ranks import EXECUTOR
from tests.clusters import raylet_of, two_machines
from tests.digits import digits_config, write_digits
from tests.jobs import assert_same_results

pytestmark = [pytest.mark.ci_slow, pytest.mark.timeout(900)]

_COMMAND = """
import sys
from pathlib import Path
from hpt.config.run_config import RunConfig
from hpt.runs.job import Job
from hpt.runs.pool import run_jobs

run_jobs([Job(RunConfig.model_validate_json(text), Path(sys.argv[1])) for text in sys.argv[2:]])
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_machines() as found:
        yield found


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[RunConfig]:
    world = write_digits(tmp_path_factory.mktemp("digits"))
    return [digits_config("hpt", world, schedule__steps=40, validation__every=0, seed=seed) for seed in range(4)]


def wait_for(what: Any, timeout_s: float = 400) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def below(process: psutil.Process) -> list[psutil.Process]:
    """What a node's raylet started for a command: its agents and all they started."""
    found: list[psutil.Process] = []
    for child in process.children():
        with suppress(psutil.Error):  # it has ended since
            if "ray::Agent" in " ".join(child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def test_nothing_is_left_of_a_killed_command(cluster: Any, configs: list[RunConfig], tmp_path: Path) -> None:
    texts = [config.model_dump_json() for config in configs[:1]]
    command = subprocess.Popen([sys.executable, "-c", _COMMAND, str(tmp_path), *texts])
    nodes = [raylet_of(node) for node in cluster.list_all_nodes()]
    try:
        wait_for(lambda: command.poll() is not None or any(one.status["step"] > 0 for one in run_folders(tmp_path)))
        assert command.poll() is None
        left = [process for node in nodes for process in below(node)]
        (folder,) = run_folders(tmp_path)
        held = holder(folder.path)
        assert held is not None
        assert held.pid in [process.pid for process in left]
    finally:
        command.kill()
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive
    assert not folder.finished


def test_the_runs_of_a_lost_machine_go_on_elsewhere(
    cluster: Any, configs: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four runs on two machines of which one is lost leave what four undisturbed runs do, bit for bit."""
    (node,) = cluster.worker_nodes
    raylet = raylet_of(node)
    lost: list[RunFolder] = []

    def lose() -> None:
        def at_work() -> RunFolder | None:
            there = [process.pid for process in below(raylet)]
            for folder in run_folders(tmp_path / "disturbed"):
                held = holder(folder.path)
                if held is not None and held.pid in there and 4 <= folder.status["step"] < 30:
                    return folder
            return None

        lost.append(wait_for(at_work))
        os.kill(raylet.pid, signal.SIGKILL)

    killer = threading.Thread(target=lose)
    killer.start()
    run_jobs([Job(config, tmp_path / "disturbed") for config in configs])
    killer.join()
    name = lost[0].path.name
    said = capsys.readouterr().err
    assert f"{name} lost its machine" in said
    assert f"started {name} again" in said
    with environment({EXECUTOR: "local"}):
        run_jobs([Job(config, tmp_path / "undisturbed") for config in configs])
    pairs = list(zip(run_folders(tmp_path / "disturbed"), run_folders(tmp_path / "undisturbed"), strict=True))
    assert len(pairs) == 4
    for disturbed, undisturbed in pairs:
        assert_same_results(disturbed, undisturbed)
