"""A whole training run on one and on two ranks: the same samples at equal weights, the same first step, near after it.

Every rank has a sampler and a share of the questions; rank 0 keeps the records.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpt.config.run_config import RunConfig
from hpt.runs.folder import RunFolder
from hpt.runs.job import Job, write_job
from hpt.support.process import environment
from hpt.training.ranks import RUN_NODES, free_port
from tests.clusters import two_machines
from tests.digits import digits_config, write_digits
from tests.jobs import assert_same_first_step, assert_same_results, only_run
from tests.processes import run_ranks

pytestmark = [pytest.mark.ci_slow, pytest.mark.timeout(1100)]

STEPS = 8


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return digits_config("hpt", write_digits(tmp_path_factory.mktemp("digits")), schedule__steps=STEPS)


@pytest.fixture(scope="module")
def runs(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of ranks -> folder with ``samples-<rank>.json`` and ``runs/``."""
    folders = {}
    for ranks in (1, 2):
        folder = folders[ranks] = tmp_path_factory.mktemp(f"ranks-{ranks}")
        spec = write_job(Job(config, folder / "runs"), RunFolder(folder), {})
        run_ranks(ranks, folder, "tests.invariance.rank", str(spec), str(folder), timeout_s=500)
    return folders


def test_two_torchruns_are_two_ranks(config: RunConfig, runs: dict[int, Path], tmp_path: Path) -> None:
    """One on each of two machines, as under Slurm."""
    spec, port = write_job(Job(config, tmp_path / "runs"), RunFolder(tmp_path), {}), free_port()
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=run",
               "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "-m", "hpt.runs.job", str(spec)]  # fmt: skip
    agents = []
    for number in (0, 1):
        with open(tmp_path / f"log-{number}.txt", "wb") as log:
            agents.append(subprocess.Popen(command, stdout=log, stderr=log))
    try:
        for number, agent in enumerate(agents):
            assert agent.wait(timeout=500) == 0, (tmp_path / f"log-{number}.txt").read_text()[-4000:]
    finally:
        for agent in agents:
            agent.terminate()  # not killed: it ends its rank
    assert_same_results(only_run(tmp_path / "runs"), only_run(runs[2] / "runs"))


def test_a_placement_group_over_two_machines_is_two_ranks(
    config: RunConfig, runs: dict[int, Path], tmp_path: Path
) -> None:
    with environment({RUN_NODES: "2"}), two_machines() as cluster:
        cluster.run(tmp_path / "runs", [config], tmp_path / "log.txt")
    assert_same_results(only_run(tmp_path / "runs"), only_run(runs[2] / "runs"))


def samples(folder: Path, rank: int) -> list[Any]:
    return json.loads((folder / f"samples-{rank}.json").read_text())


def test_equal_weights_draw_identical_samples(runs: dict[int, Path]) -> None:
    one, two = samples(runs[1], 0), samples(runs[2], 0)
    assert len(one) == STEPS
    assert len(one[0]) == 8 * 4
    assert two[0] == one[0]
    assert one[1] != one[0], "the same answers at every step would agree for the wrong reason"
    assert samples(runs[2], 1) == two, "a rank trains on its own rollouts alone"


def test_first_step_agrees_to_rounding(runs: dict[int, Path]) -> None:
    """1e-5: sums of 32-bit numbers in another order; what is counted is equal."""
    one, two = (only_run(runs[ranks] / "runs") for ranks in (1, 2))
    assert_same_first_step(two, one, rtol=1e-5)


def test_later_steps_stay_near(runs: dict[int, Path]) -> None:
    """Rounding may turn a sample one day; here a share of a tenth of all rollouts would be noticed."""
    one, two = (samples(runs[ranks], 0) for ranks in (1, 2))
    pairs = [(left, right) for step in range(STEPS) for left, right in zip(one[step], two[step], strict=True)]
    assert sum(left != right for left, right in pairs) <= 0.1 * len(pairs)
    tables = [only_run(runs[ranks] / "runs").table("metrics") for ranks in (1, 2)]
    losses = [own["trained/demonstration_nll"].to_numpy() for own in tables]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[0][-1] < 0.5 * losses[0][0], "a run that learns nothing would agree with anything"


def test_the_run_of_two_ranks_is_finished_and_whole(runs: dict[int, Path]) -> None:
    for name in ("metrics", "rollouts", "validation"):
        one, two = (only_run(runs[ranks] / "runs").table(name) for ranks in (1, 2))
        assert list(two.columns) == list(one.columns)
        assert len(two) == len(one) > 0
