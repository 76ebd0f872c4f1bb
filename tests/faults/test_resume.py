"""A run killed outright at any moment and started again ends with the bits of one that was never disturbed."""

import random
import shutil
from pathlib import Path

import pytest

from hpt.checkpoint import checkpoints
from hpt.config import RunConfig
from hpt.files import read_json
from hpt.runs import RunFolder
from tests.digits import digits_config, write_digits
from tests.jobs import Kill, StartedJob, assert_same_results, leftovers, only_run, start_job, wait_until_gone

METHODS = ("hpt", "sft_then_grpo")
EVALUATIONS = ("contest-a",)
STEPS = 10
#: Delays after a numbered moment, seconds: at it, and in the middle of what it begins.
DELAYS = (0.0, 0.0, 0.002, 0.02)

pytestmark = pytest.mark.timeout(900)


class Undisturbed:
    """A method's configuration, its undisturbed run, and the names of that run's moments."""

    def __init__(self, config: RunConfig, root: Path) -> None:
        self.config, self.root, self.job = config, root, start_job(config, root, EVALUATIONS)

    def wait(self) -> "Undisturbed":
        """Wait for its end."""
        assert self.job.wait(600) == 0, self.job.said()
        self.folder, self.moments = only_run(self.root), self.job.moments()
        return self


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undisturbed]:
    """The runs everything is compared with, one per method."""
    world = write_digits(tmp_path_factory.mktemp("digits"))
    started = {
        method: Undisturbed(digits_config(method, world, schedule__steps=STEPS), tmp_path_factory.mktemp(method))
        for method in METHODS
    }
    return {method: own.wait() for method, own in started.items()}


def run_killed(config: RunConfig, root: Path, kills: list[Kill]) -> tuple[RunFolder, int]:
    """Start, kill, start again ...; the last start is left alone. Returns the run and how many were killed."""
    killed = 0
    for kill in kills:
        job = start_job(config, root, EVALUATIONS, kill)
        code = job.wait(600)
        if code == 0:
            break
        assert code < 0, f"ended with {code} instead of being killed:\n{job.said()}"
        assert wait_until_gone(session_of(job)) == [], "the killed job left processes behind"
        killed += 1
    else:
        job = start_job(config, root, EVALUATIONS)
        assert job.wait(600) == 0, job.said()
    return only_run(root), killed


def session_of(job: StartedJob) -> int:
    assert job.process.pid is not None
    return job.process.pid


def random_kills(moments: int, count: int, seed: int) -> list[Kill]:
    """Moments drawn from the share of a run that each start would get if all got the same."""
    draw = random.Random(seed)
    return [Kill(draw.randrange(2 * moments // (count + 1)), draw.choice(DELAYS)) for _ in range(count)]


def moment(moments: list[str], part: str, number: int = 0) -> int:
    """The ``number``-th moment whose name holds ``part``."""
    return [i for i, name in enumerate(moments) if part in name][number]


def test_undisturbed_runs_pass_through_everything(undisturbed: dict[str, Undisturbed]) -> None:
    """What the other tests compare is worth comparing: both branches of the gate, several checkpoints, two stages."""
    metrics = undisturbed["hpt"].folder.table("metrics")
    assert metrics["trained/demonstrations"].sum() > 0
    assert metrics["trained/rollouts"].sum() > 0
    assert metrics["trained/demonstration_nll"].iloc[-1] < metrics["trained/demonstration_nll"].iloc[0]
    names = " ".join(undisturbed["sft_then_grpo"].moments)
    for part in ("stage", ".step-000004", "Sampler.sample", "PolicyEngine.backward", "evaluations", ".model"):
        assert part in names
    assert len(undisturbed["hpt"].moments) > 200


@pytest.mark.parametrize("method", METHODS)
def test_killed_while_writing_a_checkpoint_in_backward_and_while_evaluating(
    method: str, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    own = undisturbed[method]
    names = own.moments
    kills = [
        Kill(moment(names, ".step-000004/")),  # the second checkpoint, half-written: the first is used
        Kill(moment(names, "PolicyEngine.backward", 5), 0.005),
        Kill(moment(names, "stage/") if method == "sft_then_grpo" else moment(names, "rename", 1)),
    ]
    folder, killed = run_killed(own.config, tmp_path, kills)
    assert killed == len(kills)
    assert_same_results(folder, own.folder)
    assert leftovers(folder) == []


def kill_and_compare(own: Undisturbed, root: Path, count: int, seed: int) -> None:
    """Kill a run ``count`` times (a start that reaches the end first is the last), and compare."""
    folder, killed = run_killed(own.config, root, random_kills(len(own.moments), count, seed))
    print(f"{own.config.method}: killed {killed} times")
    assert killed > 0
    assert_same_results(folder, own.folder)
    assert leftovers(folder) == []
    shutil.rmtree(root)


@pytest.mark.ci_slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_five_random_moments(method: str, undisturbed: dict[str, Undisturbed], tmp_path: Path) -> None:
    kill_and_compare(undisturbed[method], tmp_path / "run", 5, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_many_random_moments(
    method: str, seed: int, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    kill_and_compare(undisturbed[method], tmp_path / "run", 6, seed)


def test_a_damaged_checkpoint_is_counted_and_the_one_before_is_used(
    undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    own = undisturbed["hpt"]
    after_step_4 = moment(own.moments, ".step-000006")
    job = start_job(own.config, tmp_path, EVALUATIONS, Kill(after_step_4))
    assert job.wait(600) < 0
    folder = only_run(tmp_path)
    newest, before = checkpoints(folder.path / "checkpoints")
    assert (newest.name, before.name) == ("step-000004", "step-000002")
    (weights,) = newest.glob("deepspeed/*model_states.pt")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    job = start_job(own.config, tmp_path, EVALUATIONS)
    assert job.wait(600) == 0, job.said()
    assert_same_results(folder, own.folder)
    assert "damaged" in job.said()
    assert read_json(folder.path / "provenance.json")["damaged_checkpoints"] == 1
    assert read_json(own.folder.path / "provenance.json")["damaged_checkpoints"] == 0
