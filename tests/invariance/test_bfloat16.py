"""bfloat16 under DeepSpeed: gradients of many micro-batches add up in float32, and checkpoints lose no bit."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from hpt.config.settings import EngineSettings, OptimizerSettings
from hpt.training.engine import PolicyEngine, Updater
from tests.invariance import world

STAGES = (1, 2, 3)
RATE = 1e-3
#: A micro-batch's gradient is rounded once to bfloat16, by at most 2^-9 of each of its numbers; two splits differ by
#: the roundings of both.
ROUNDING = 2.0**-8


class SeenGradient(torch.optim.SGD):
    """Keeps the gradient that DeepSpeed hands its optimiser, and does not step."""

    seen: torch.Tensor
    may_step: Any

    def step(self, closure: Any = None) -> None:
        assert self.may_step()
        gradients = [own.grad.flatten() for group in self.param_groups for own in group["params"]]
        assert all(own.dtype == torch.float32 for own in gradients)
        self.seen = torch.cat(gradients).clone()


def engine_at(stage: int, make_optimizer: Any = None) -> PolicyEngine:
    optimizer = OptimizerSettings(gradient_clip=0.0, skip_above_norm=0.0, weight_decay=0.0)
    settings = EngineSettings(zero_stage=stage)
    return PolicyEngine(world.tiny_model().bfloat16(), settings, optimizer, "bfloat16", make_optimizer)


@cache
def step() -> Any:
    return world.weighted(world.make_questions(), world.config_for("per_prompt"))


def gradient(engine: PolicyEngine, split: int | None, copies: int = 1) -> torch.Tensor:
    """Of the mixed step in so many micro-batches, or of each trajectory alone; ``copies`` of the step at once."""
    items, rows = step()
    budget = world.token_budget(items, split, 1, "shared")
    engine.settings = engine.settings.model_copy(update={"micro_batch_tokens": budget})
    Updater(engine, rows).update(items * copies, RATE)
    return engine._inner.seen


@pytest.fixture(scope="module", params=STAGES)
def engine(request: pytest.FixtureRequest) -> PolicyEngine:
    return engine_at(request.param, lambda module: SeenGradient(module.parameters(), lr=1.0))


def test_many_micro_batches_add_up_without_an_error_of_their_own(engine: PolicyEngine) -> None:
    """The same trajectories four times over, each alone: 60 micro-batches. Summed in bfloat16 they are 1 % off."""
    once, often = gradient(engine, None), gradient(engine, None, copies=4)
    assert float((often / 4 - once).norm() / once.norm()) < 1e-6


def test_the_split_moves_the_gradient_by_rounding_alone(engine: PolicyEngine) -> None:
    norms = world.literal_gradient(world.make_questions(), world.config_for("per_prompt"))[1]
    found = [gradient(engine, split) for split in (1, 2, 5, None)]
    assert norms > found[0].norm() > 0
    for other in found[1:]:
        assert float((other - found[0]).norm()) < ROUNDING * norms


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_from_its_checkpoint_bit_by_bit(stage: int, tmp_path: Path) -> None:
    """Its 32-bit weights too: at this rate an update is a fraction of a bfloat16's last bit."""
    items, rows = step()
    engine = engine_at(stage)
    for _ in range(3):
        Updater(engine, rows).update(items, RATE / 100)
    engine.save_state(tmp_path)
    again = engine_at(stage)
    again.load_state(tmp_path)
    for _ in range(20):
        for own in (engine, again):
            Updater(own, rows).update(items, RATE / 100)
    weights = [world.flat(own.named_weights()) for own in (engine, again)]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], world.flat(engine_at(stage).named_weights()))
