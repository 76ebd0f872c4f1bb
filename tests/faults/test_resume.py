"""A run killed outright at any moment and started again ends with the bits of one that was never disturbed."""

import random
from itertools import pairwise
from pathlib import Path

import pytest

from hpt.runs.folder import RunFolder
from hpt.runs.resolve import pretraining_config
from hpt.support.files import read_json
from hpt.training.checkpoint import checkpoints
from tests.damage import flip_a_bit
from tests.jobs import Kill, Undisturbed, assert_same_results, only_run

#: Delays after a numbered moment, seconds: at it, and in the middle of what it begins.
DELAYS = (0.0, 0.0, 0.002, 0.02)

pytestmark = pytest.mark.timeout(900)


def killed_again_and_again(own: Undisturbed, root: Path, kills: list[Kill]) -> None:
    """Start, kill, start again ...; the last start is left alone, and ends as the undisturbed run did."""
    for kill in kills:
        job = own.start(root, kill)
        code = job.wait()
        assert code < 0, f"ended with {code} instead of being killed:\n{job.said()}"
        assert job.left_behind() == [], "the killed job left processes behind"
    own.finish(root)


def random_kills(moments: int, count: int, seed: int) -> list[Kill]:
    """Moments such that together they are fewer than a run has, so that no start can reach its end before its kill.

    They are the gaps between random places of a run; drawing each from an equal share lets the first few reach the end.
    """
    draw = random.Random(seed)
    places = [0, *sorted(draw.randrange(moments) for _ in range(count))]
    return [Kill(after - before, draw.choice(DELAYS)) for before, after in pairwise(places)]


def moment(moments: list[str], part: str, number: int = 0) -> int:
    """The ``number``-th moment whose name holds ``part``."""
    return [i for i, name in enumerate(moments) if part in name][number]


@pytest.mark.parametrize("method", ["hpt", pytest.param("sft_then_grpo", marks=pytest.mark.ci_slow)])
def test_killed_while_writing_a_checkpoint_in_backward_and_while_evaluating(
    method: str, digits_runs: dict[str, Undisturbed], tmp_path: Path
) -> None:
    own = digits_runs[method]
    kills = [
        Kill(moment(own.moments, ".step-000004/")),  # the second checkpoint, half-written: the first is used
        Kill(moment(own.moments, "PolicyEngine.backward", 5), 0.005),
        Kill(moment(own.moments, "rename", 1)),
    ]
    killed_again_and_again(own, tmp_path, kills)


def test_interrupted_in_a_step_or_a_checkpoint_it_says_how_to_continue_and_does(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    for part in ("PolicyEngine.backward", ".step-000004/", "Sampler.sample"):
        job = undisturbed.start(tmp_path, Kill(2, interrupt=True, part=part))
        assert job.wait() == 130, job.said()
        assert job.left_behind() == []
        assert "interrupted; the same command continues from the last checkpoint" in job.said()
        job.log.unlink()
        assert only_run(tmp_path).status["state"] == "stopped"
    undisturbed.finish(tmp_path)


@pytest.mark.ci_slow
def test_a_base_killed_between_two_checkpoints_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Its optimiser is another than that of all other runs (Muon and AdamW)."""
    config = pretraining_config("tiny", "weak", "lookups-tiny")
    shorter = {"schedule": {"steps": 16}, "checkpoint": {"every": 5}}
    config = config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in shorter.items()}
    )
    own = Undisturbed(config, tmp_path / "left alone", ("contest-a",)).wait()
    assert own.folder.table("metrics")["step"].tolist() == list(range(16))
    second = moment(own.moments, ".step-000010/")
    kills = [
        Kill(moment(own.moments[second:], "PolicyEngine.backward", 2) + second),  # in update 12, from checkpoint 10
        Kill(moment(own.moments, "rename", 1)),
    ]
    killed_again_and_again(own, tmp_path / "killed", kills)


@pytest.mark.ci_slow
@pytest.mark.parametrize("method", ["hpt", "sft_then_grpo"])
def test_killed_at_five_random_moments(method: str, tiny_runs: dict[str, RunFolder], tmp_path: Path) -> None:
    """At the tiny scale, against a run made by the pool of processes a reproduction uses."""
    genuine = tiny_runs[method]
    again = Undisturbed(genuine.config, tmp_path / "again", ("contest-a",)).wait()
    assert_same_results(again.folder, genuine)  # two runs of one configuration
    killed_again_and_again(again, tmp_path / "killed", random_kills(len(again.moments), 5, seed=5))


def test_a_damaged_checkpoint_is_counted_and_the_one_before_is_used(undisturbed: Undisturbed, tmp_path: Path) -> None:
    assert undisturbed.start(tmp_path, Kill(moment(undisturbed.moments, ".step-000006"))).wait() < 0
    folder = only_run(tmp_path)
    newest, before = checkpoints(folder.path / "checkpoints")
    assert (newest.name, before.name) == ("step-000004", "step-000002")
    (weights,) = newest.glob("deepspeed/*model_states.pt")
    flip_a_bit(weights)
    assert "damaged" in undisturbed.finish(tmp_path).said()
    assert read_json(folder.path / "provenance.json")["damaged_checkpoints"] == 1
    assert read_json(undisturbed.folder.path / "provenance.json")["damaged_checkpoints"] == 0
