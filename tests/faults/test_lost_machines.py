"""Runs on two machines of a Ray cluster: one of them is lost, or the command itself."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hpt.config.run_config import RunConfig
from hpt.runs.folder import RunFolder, run_folders
from hpt.runs.job import Job
from hpt.runs.pool import run_jobs
from hpt.support.files import holder
from hpt.support.process import environment
from hpt.training.ranks import EXECUTOR
from tests.clusters import Machines, number_there, two_machines
from tests.digits import digits_config, write_digits
from tests.jobs import assert_same_results
from tests.processes import until

pytestmark = [pytest.mark.ci_slow, pytest.mark.timeout(1100)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    with two_machines() as found:
        yield found


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[RunConfig]:
    world = write_digits(tmp_path_factory.mktemp("digits"))
    return [digits_config("hpt", world, schedule__steps=40, validation__every=0, seed=seed) for seed in range(4)]


def test_nothing_is_left_of_a_killed_command(cluster: Machines, configs: list[RunConfig], tmp_path: Path) -> None:
    command = cluster.start(tmp_path, configs[:1], tmp_path / "log.txt")
    try:
        assert until(
            lambda: command.poll() is not None or any(one.status["step"] > 0 for one in run_folders(tmp_path)), 400
        )
        assert command.poll() is None, (tmp_path / "log.txt").read_text()
        left = [*cluster.agents(0), *cluster.agents(1)]
        (folder,) = run_folders(tmp_path)
        assert holder(folder.path).pid in map(number_there, left)
    finally:
        command.kill()
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive
    assert not folder.finished


def test_the_runs_of_a_lost_machine_go_on_elsewhere(
    cluster: Machines, configs: list[RunConfig], tmp_path: Path
) -> None:
    """Four runs on two machines of which one is lost leave what four undisturbed runs do, bit for bit."""
    command = cluster.start(tmp_path / "disturbed", configs, tmp_path / "log.txt")

    def at_work() -> RunFolder | None:
        there = [number_there(process) for process in cluster.agents(1)]
        for folder in run_folders(tmp_path / "disturbed"):
            held = holder(folder.path)
            if held is not None and held.pid in there and 4 <= folder.status["step"] < 30:
                return folder
        assert command.poll() is None
        return None

    name = until(at_work, 400).path.name
    cluster.raylets[1].kill()
    command.wait()
    said = (tmp_path / "log.txt").read_text()
    assert f"{name} lost its machine" in said
    assert f"started {name} again" in said
    with environment({EXECUTOR: "local"}):
        run_jobs([Job(config, tmp_path / "undisturbed") for config in configs])
    pairs = list(zip(run_folders(tmp_path / "disturbed"), run_folders(tmp_path / "undisturbed"), strict=True))
    assert len(pairs) == 4
    for disturbed, undisturbed in pairs:
        assert_same_results(disturbed, undisturbed)
