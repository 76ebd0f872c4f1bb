"""ZeRO-3 with two real processes: a sampler each, or one that both share; a rank that fails; going on with one rank."""

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpt.config.run_config import RunConfig
from hpt.runs.folder import RunFolder
from hpt.runs.job import Job, write_job
from hpt.runs.pool import run_jobs
from hpt.runs.resolve import pretraining_config
from hpt.support.errors import HptError
from hpt.support.process import environment
from hpt.training.ranks import OPTIONS
from tests.digits import digits_config, write_digits
from tests.invariance.failing import FAIL
from tests.jobs import assert_same_first_step, metrics_of, only_run, run_to_end
from tests.processes import exit_code, killed_at_the_end, start_ranks

pytestmark = [pytest.mark.ci_slow, pytest.mark.timeout(1100)]

STEPS, FAILS_AT = 4, 3
EVALUATION = "contest-a"


@dataclass
class Failure:
    """How a job of two ranks ended of which one failed: exit code and log of each, seconds until both had ended."""

    codes: dict[int, int]
    logs: dict[int, str]
    seconds: float


@dataclass
class Runs:
    """The same run with one rank; with two and a sampler each; with two that share one, failing, then with one."""

    one: RunFolder
    two: RunFolder
    resumed: RunFolder
    failure: Failure
    samplers: list[float]
    left_by_two: list[str]
    left_state: dict[str, object]


def config_for(world: Path, tensor_parallel: int) -> RunConfig:
    return digits_config(
        "hpt", world, schedule__steps=STEPS, engine__zero_stage=3, rollout__tensor_parallel=tensor_parallel,
        gate__kind="tests.invariance.failing:gate", rollout__old_logprobs="trainer", validation__every=2,
        diagnostics__gradient_cosine_every=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("zero3"), heads=2, tied=True)


def fail(config: RunConfig, folder: Path, rank: int, at_call: int, way: str) -> Failure:
    """Start two ranks, with no launcher that would end the others, of which ``rank`` fails at the gate's n-th call."""
    folder.mkdir()
    spec = write_job(Job(config, folder / "runs"), RunFolder(folder), {})
    with environment({FAIL: f"{rank}:{at_call}:{way}:{folder / 'failed'}"}):
        started = start_ranks(2, folder, "tests.invariance.failing", str(spec), str(folder))
    with killed_at_the_end(started) as processes:
        codes = {own: exit_code(processes[own], 500) for own in (rank, 1 - rank)}
        seconds = time.time() - float((folder / "failed").read_text())
    return Failure(codes, {own: (folder / f"log-{own}.txt").read_text() for own in (0, 1)}, seconds)


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    shared = config_for(world, 2)
    # rank 1 fails in step 3, after the checkpoint of step 2
    failure = fail(shared, folder / "shared", rank=1, at_call=FAILS_AT, way="error")
    samplers = [json.loads((folder / "shared" / f"sampler-{rank}.json").read_text()) for rank in (0, 1)]
    stopped = only_run(folder / "shared" / "runs")
    left = sorted(str(path.relative_to(stopped.path)) for path in stopped.path.glob("checkpoints/*/deepspeed/*"))
    told = json.loads((stopped.path / "checkpoints" / "step-000002" / "state.json").read_text())
    resumed = run_to_end(shared, folder / "shared" / "runs", [EVALUATION])
    one = run_to_end(config_for(world, 1), folder / "one", [EVALUATION])
    with environment({OPTIONS: "--num_accelerators 2"}):
        run_jobs([Job(config_for(world, 1), folder / "two", (EVALUATION,))])
    return Runs(one, only_run(folder / "two"), resumed, failure, samplers, left, told)


def assert_near(folder: RunFolder, one: RunFolder) -> None:
    """What is counted is equal and the first step agrees to rounding; later ones as near as in `test_ranks`."""
    assert_same_first_step(folder, one, rtol=1e-4, atol=1e-7)
    found, expected = metrics_of(folder), metrics_of(one)
    assert list(found["step"]) == list(range(STEPS))
    losses = [table["trained/demonstration_nll"].to_numpy() for table in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=0.05)
    assert losses[1][-1] < 0.8 * losses[1][0], "a run that learns nothing would agree with anything"
    assert found["check/logprob_gap"].max() < 1e-3, "the samplers' weights are not the trainer's"


def test_two_ranks_with_a_sampler_each(runs: Runs) -> None:
    assert_near(runs.two, runs.one)


def test_two_ranks_sharing_a_sampler_and_then_one_rank(runs: Runs) -> None:
    assert runs.samplers == [0.5, 0.5], "each has a half of the sampler's weights"
    shards = [f"checkpoints/step-000002/deepspeed/shard-00{rank}-of-002.safetensors" for rank in (0, 1)]
    assert (runs.left_by_two, runs.left_state["step"]) == (shards, 2)
    assert runs.resumed.status["state"] == "finished"
    assert_near(runs.resumed, runs.one)


def test_the_other_rank_ends_within_a_minute_with_the_error_of_the_one_that_failed(runs: Runs) -> None:
    assert runs.failure.seconds < 60
    assert runs.failure.codes == {0: 1, 1: 1}
    # not always the last lines: PyTorch's own threads go on complaining about the connection
    assert "\nerror: the disk of this rank is full\n" in runs.failure.logs[1]
    assert "\nerror: rank 1: the disk of this rank is full\n" in runs.failure.logs[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_stops_the_other_within_a_minute_by_name(rank: int, world: Path, tmp_path: Path) -> None:
    failure = fail(config_for(world, 1), tmp_path / "killed", rank, at_call=2, way="killed")
    assert failure.codes == {rank: -signal.SIGKILL, 1 - rank: 1}
    assert failure.seconds < 60
    assert f"\nerror: rank {rank} was lost" in failure.logs[1 - rank]


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("bug", ("error: rank 1: ValueError: the disk of this rank is full", "failing.py")),  # in a user's gate
        ("killed", ("error: rank 1 was lost",)),
    ],
    ids=["bug", "killed"],
)
def test_who_started_the_job_is_told_which_rank_failed(
    way: str, said: tuple[str, ...], world: Path, tmp_path: Path
) -> None:
    """Under the launcher, which ends the others at once."""
    with (
        environment({OPTIONS: "--num_accelerators 2"}),
        environment({FAIL: f"1:2:{way}:{tmp_path / 'failed'}"}),
        pytest.raises(HptError, match="ended with exit code") as caught,
    ):
        run_jobs([Job(config_for(world, 1), tmp_path)])
    assert time.time() - float((tmp_path / "failed").read_text()) < 60
    text = str(caught.value)
    assert all(part in text for part in said), text


@pytest.mark.parametrize("which", ["two", "resumed"])
def test_evaluations_and_curves_spread_over_ranks_hold_every_answer(which: str, runs: Runs) -> None:
    keys, answers, curves = ["step", "benchmark", "problem_id", "samples"], [], []
    for folder in (runs.one, getattr(runs, which)):
        (path,) = folder.path.glob(f"evaluations/{EVALUATION}-*.parquet")
        answers.append(pd.read_parquet(path)[["benchmark", "problem_id", "level", "sample"]])
        curves.append(folder.table("validation")[keys].sort_values(keys, ignore_index=True))
    pd.testing.assert_frame_equal(answers[1], answers[0])  # in order
    pd.testing.assert_frame_equal(curves[1], curves[0])
    assert len(answers[0]) > 0


def test_a_base_is_trained_by_two_ranks_as_by_one(tmp_path: Path) -> None:
    """From a folder that is empty: one rank writes the untrained model that both read."""
    config = pretraining_config("tiny", "weak", "lookups-tiny")
    config = config.model_copy(update={"schedule": config.schedule.model_copy(update={"steps": 6})})
    one = run_to_end(config, tmp_path / "one")
    with environment({OPTIONS: "--num_accelerators 2"}):
        run_jobs([Job(config, tmp_path / "two")])
    found, expected = metrics_of(only_run(tmp_path / "two")), metrics_of(one)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-6)
    nll = expected["trained/demonstration_nll"]
    assert nll.iloc[-1] < nll.iloc[0], "a run that learns nothing would agree with anything"
