"""The package's own path to a gradient in float64, without DeepSpeed: only rounding is left, so 1e-12 is asked for.

Each way of getting the normalisation wrong that other code bases show is built here once, and has to be noticed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpt.config.run_config import RunConfig
from hpt.config.settings import EngineSettings
from hpt.laboratory.experiment import OFFLINE
from hpt.methods.methods import METHODS, Method, resolved_row
from hpt.methods.mixture import Part, QuestionBatch, Trajectory, WeightedTrajectory, assemble
from hpt.runs.resolve import build_config
from hpt.training import engine as update
from hpt.training.engine import StepOutcome, Updater
from hpt.training.policy import MicroBatch, PolicyModule, collate, zero_weight_filler
from hpt.upge.estimator import ROWS, Row
from tests.invariance import world


class PlainEngine:
    """What `Updater` needs of an engine, as plain autograd in float64; the sum over ranks is taken by `gradient`."""

    def __init__(self, settings: EngineSettings, layout: str, rank: int, ranks: int) -> None:
        self.layout = layout
        self.policy = PolicyModule(world.in_float64(world.tiny_model()))
        self.settings, self.rank, self.ranks, self.device = settings, rank, ranks, torch.device("cpu")
        self.micro_batches = 0

    def __call__(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        return self.policy(*inputs)

    def backward(self, loss: Tensor) -> None:
        self.micro_batches += 1
        (loss * self.ranks).backward()  # as `PolicyEngine` does; DeepSpeed then divides

    def step(self, learning_rate: float) -> StepOutcome:
        gradient = torch.cat([
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten() / self.ranks for p in self.policy.parameters()
        ])  # fmt: skip
        self.policy.zero_grad()
        self.gradient = gradient
        return StepOutcome(float(gradient.norm()), True)


def gradient(
    items: Sequence[WeightedTrajectory],
    rows: Sequence[Row],
    split: int | None = 1,
    layout: str = "padded",
    ranks: int = 1,
    reference: Any = None,
) -> Tensor:
    budget = world.token_budget(items, split, ranks, layout)
    settings = EngineSettings(micro_batch_tokens=budget)
    parts = []
    for rank in range(ranks):
        engine = PlainEngine(settings, layout, rank, ranks)
        updater = Updater(engine, rows, reference=reference)
        updater.dtype = torch.float64
        updater.update(items, 1.0)
        if ranks == 1 and split:
            assert engine.micro_batches == split
        parts.append(engine.gradient)
    return sum(parts)


@cache
def expected(normalization: str, questions: str = "mixed", **settings: Any) -> tuple[Tensor, float]:
    return world.literal_gradient(world.make_questions(questions), config_of(normalization, **settings))


def config_of(normalization: str, **settings: Any) -> RunConfig:
    return world.config_for(normalization, **{name.replace("__", "."): value for name, value in settings.items()})


LAYOUTS = ("padded", "packed", "shared")


@pytest.mark.parametrize("questions", ["mixed", "lonely"])
@pytest.mark.parametrize("normalization", world.NORMALIZATIONS)
def test_gradient_is_that_of_the_whole_batch(normalization: str, questions: str) -> None:
    items, rows = world.weighted(world.make_questions(questions), config_of(normalization))
    for split in (1, 2, 5, None):
        for layout in LAYOUTS:
            for ranks in (1, 2) if questions == "mixed" or split is None else (1,):
                found = gradient(items, rows, split, layout, ranks)
                case = f"split {split}, {layout}, {ranks} ranks"
                assert world.measure(found, expected(normalization, questions)) <= world.FLOAT64_BOUND, case


@pytest.mark.parametrize("normalization", world.NORMALIZATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_running_weightless_trajectories_changes_nothing(normalization: str, layout: str) -> None:
    questions = world.make_questions()
    items, rows = world.weighted(questions, config_of(normalization))
    found = gradient(world.with_weightless(items, questions), rows, 5, layout)
    assert world.measure(found, expected(normalization)) <= world.FLOAT64_BOUND


def test_entropy_over_all_tokens_counts_the_weightless_ones() -> None:
    settings = {"estimator__entropy_scope": "all"}
    items, rows = world.weighted(world.make_questions(), config_of("per_prompt", **settings))
    reference = expected("per_prompt", **settings)
    assert world.measure(gradient(items, rows, 5), reference) <= world.FLOAT64_BOUND
    assert world.measure(gradient(items, rows, 5), expected("per_prompt")) > 1e-4


@pytest.mark.parametrize("normalization", world.NORMALIZATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kl_term(normalization: str, layout: str) -> None:
    config = config_of(normalization, estimator__kl_coefficient=0.3)
    questions = world.make_questions()
    items, rows = world.weighted(questions, config)
    frozen = world.in_float64(world.tiny_model())
    with torch.no_grad():
        for parameter in frozen.parameters():
            parameter.mul_(0.9)
    reference = world.literal_gradient(questions, config, frozen)
    assert world.measure(reference[0], expected(normalization)) > 1e-3, "the KL term weighs nothing here"
    found = gradient(items, rows, 5, layout, reference=PolicyModule(world.in_float64(frozen)))
    assert world.measure(found, reference) <= world.FLOAT64_BOUND


WHOLE_STEP = {"rollout.rollouts_per_prompt": world.ROLLOUTS, "schedule.updates_per_step": 1}


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.stages])
def test_no_method_depends_on_the_layout(name: str, recipe: str) -> None:
    """Also those whose factors look at a whole trajectory (SRFT) or whose denominators pool all tokens (LUFFY)."""
    _assert_layouts_agree(METHODS[name], build_config(name, scale="tiny", recipe=recipe, settings=WHOLE_STEP))


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.advantage != "gae"])  # no critic is trained
def test_no_row_depends_on_the_layout(name: str) -> None:
    place = "offline_row" if name in OFFLINE else "online_row"
    clip = {"estimator.clip_eps_low": "row", "estimator.clip_eps_high": "row", "estimator.advantage_std": "row"}
    pooled = name in OFFLINE and ROWS[name].advantage == "group"  # compared with the rollouts, as in LUFFY
    method = METHODS["luffy" if pooled else "hpt"]
    config = build_config(method.name, scale="tiny", settings={**WHOLE_STEP, **clip, f"estimator.{place}": name})
    assert name in [resolved_row(component, config).name for component in method.components]
    _assert_layouts_agree(method, config)


def _assert_layouts_agree(method: Method, config: RunConfig) -> None:
    questions = [replace(question, alpha=1.0, beta=1.0) for question in world.make_questions()]
    (items,) = assemble(questions, method, config, step=0).updates
    rows = [resolved_row(component, config) for component in method.components]
    alone = [gradient([item], rows) for item in items]
    whole, norms = torch.stack(alone).sum(0), float(sum(part.norm() for part in alone))
    assert norms > 0
    for split, layout, ranks in ((1, "padded", 1), (1, "packed", 1), (None, "packed", 2), (2, "shared", 2)):
        found = gradient(items, rows, split, layout, ranks)
        assert world.measure(found, (whole, norms)) <= world.FLOAT64_BOUND


# --- each mistake once ------------------------------------------------------------------------------------------------

#: The step's questions and settings, and a way to break the package.
Mistake = Callable[[list[QuestionBatch], RunConfig, pytest.MonkeyPatch], Tensor]


def step(questions: list[QuestionBatch], config: RunConfig, **more: Any) -> Tensor:
    return gradient(*world.weighted(questions, config), **more)


def token_mean_of_each_micro_batch(questions: list[QuestionBatch], config: RunConfig, patch: Any) -> Tensor:
    """What most frameworks do: every micro-batch its own mean, then a mean of the means."""
    items, rows = world.weighted(questions, config)
    total, genuine = sum(item.trajectory.length for item in items), update.micro_batch_loss

    def own_mean(batch: MicroBatch, *arguments: Any) -> Any:
        loss, sums = genuine(batch, *arguments)
        return loss * total / (5 * len(batch.targets)), sums

    patch.setattr(update, "micro_batch_loss", own_mean)
    return gradient(items, rows, split=5)


def counted_after_skipping(questions: list[QuestionBatch], config: RunConfig, _: Any) -> Tensor:
    """Dynamic sampling done carelessly: the all-zero group no longer counts as a prompt."""
    return step([question for question in questions if question.problem_id != "q2"], config)


def counted_on_each_rank(questions: list[QuestionBatch], config: RunConfig, _: Any) -> Tensor:
    (first, rows), (second, _) = (world.weighted(half, config) for half in (questions[:3], questions[3:]))
    return gradient(first + second, rows)


def neighbours_seen_in_packed_rows(questions: list[QuestionBatch], config: RunConfig, patch: Any) -> Tensor:
    def without_restarts(module: Any, batch: MicroBatch, layout: str, temperature: float) -> Any:
        return module(batch.input_ids, None, batch.predictor, batch.targets, temperature)

    patch.setattr(update, "forward_micro_batch", without_restarts)
    return step(questions, config, layout="packed")


def anothers_prompt_in_shared_rows(questions: list[QuestionBatch], config: RunConfig, patch: Any) -> Tensor:
    def of_neighbours(*positional: Any) -> MicroBatch:
        batch = collate(*positional)
        batch.sequences[:, 0] = batch.sequences[:, 0].roll(1)
        return batch

    patch.setattr(update, "collate", of_neighbours)
    return step(questions, config, layout="shared")


def no_clip(questions: list[QuestionBatch], config: RunConfig, _: Any) -> Tensor:
    items, rows = world.weighted(questions, config)
    return gradient(items, [replace(row, mask="none") for row in rows])


def entropy_added_to_the_loss(questions: list[QuestionBatch], config: RunConfig, patch: Any) -> Tensor:
    genuine = update.entropy_bonus
    patch.setattr(update, "entropy_bonus", lambda entropies, scales: -genuine(entropies, scales))
    return step(questions, config)


def fillers_that_weigh(_: list[QuestionBatch], config: RunConfig, patch: Any) -> Tensor:
    lonely = world.make_questions("lonely")  # the ranks have unequally much to do
    right = step(lonely, config, split=None, ranks=2)
    heavy = replace(zero_weight_filler(), parts=(Part(1, np.ones(1), 0.01),))
    patch.setattr(update, "zero_weight_filler", lambda: heavy)
    return expected("per_prompt")[0] + step(lonely, config, split=None, ranks=2) - right


def stale_old_logprobs(questions: list[QuestionBatch], config: RunConfig, _: Any) -> Tensor:
    def shifted(rollout: Trajectory) -> Trajectory:
        return replace(rollout, old_logprobs=rollout.old_logprobs + 1e-3)

    return step([replace(q, rollouts=tuple(map(shifted, q.rollouts))) for q in questions], config)


#: Means over micro-batches or ranks are noticed in the real engine (`test_processes`).
MISTAKES: list[Mistake] = [
    token_mean_of_each_micro_batch, counted_after_skipping, counted_on_each_rank, neighbours_seen_in_packed_rows,
    anothers_prompt_in_shared_rows, no_clip, entropy_added_to_the_loss, fillers_that_weigh, stale_old_logprobs,
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_noticed(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    found = mistake(world.make_questions(), config_of("per_prompt"), monkeypatch)
    assert world.measure(found, expected("per_prompt")) > 100 * world.FLOAT32_BOUND


def test_the_batch_holds_what_it_claims() -> None:
    questions = world.make_questions()
    items, _ = world.weighted(questions, config_of("per_prompt"))
    model = world.in_float64(world.tiny_model())
    sides = set()
    for item in items:
        if item.trajectory.is_demonstration:
            continue
        current = world.response_logprobs(model, item.trajectory)[0].detach().numpy()
        advantage, ratio = item.parts[0].advantages[0] > 0, current - item.trajectory.old_logprobs
        for value in ratio:
            sides.add((bool(advantage), "high" if value > 0.19 else "low" if value < -0.23 else "inside"))
    assert sides == {(sign, side) for sign in (True, False) for side in ("high", "low", "inside")}
    near = next(question.rollouts for question in questions if question.problem_id == "q1")
    assert all((rollout.response_tokens[:-1] == near[0].response_tokens[:-1]).all() for rollout in near)
    assert len({item.trajectory.length for item in items}) > 5
    assert sum(item.trajectory.is_demonstration for item in items) == 3
