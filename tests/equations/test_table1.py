"""Each row of Table 1 against the gradient of its own paper's loss, and the proof that each ingredient matters."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpt.laboratory import random_batch as world
from hpt.laboratory import textbook
from hpt.laboratory.table1 import symmetric_indicator
from hpt.laboratory.textbook import Textbook
from hpt.upge import advantage, aggregation, reference, stabilization
from hpt.upge import aggregation as coefficient
from hpt.upge.estimator import ROWS, Row

TOLERANCE = 1e-10
#: Worlds in which every clipped row has ratios beyond both bounds with advantages of both signs (asserted below).
SEEDS = (1, 2, 4)
Loss = Callable[[Textbook], Tensor]


def case(name: str, loss: Callable[..., Tensor], settings: dict[str, Any] | None = None, **arguments: Any) -> Any:
    row = ROWS[name].with_parameters(**(settings or {}))
    identifier = "-".join([name, *(f"{key}={value}" for key, value in (settings or {}).items())])
    return pytest.param(row, lambda t: loss(t, **arguments), id=identifier)


WIDE = {"clip_eps_low": 0.1, "clip_eps_high": 0.15}
UNBOUNDED = {"clip_eps_low": None, "clip_eps_high": None}
PPO = {"gae_gamma": 0.97, "gae_lambda": 0.8, "kl_coefficient": 0.05}
#: Many tokens are candidates of Clip-Cov and a fifth of all tokens is dropped, so that it shows.
COV = {"clip_cov_share": 0.2, "clip_cov_low": 0.01, "clip_cov_high": 3.0}
CASES = [
    *(case(name, getattr(textbook, name)) for name in ROWS if name != "clip_cov"),
    case("clip_cov", textbook.clip_cov, COV),
    case("ppo", textbook.ppo, PPO, gamma=0.97, lam=0.8, beta=0.05),
    case("grpo", textbook.grpo, {"std": "none"}, std="none"),
    case("grpo", textbook.grpo, {"std": "population"}, std="population"),
    case("grpo", textbook.grpo, UNBOUNDED, eps=1e9),
    case("gspo", textbook.gspo, WIDE, eps_low=0.1, eps_high=0.15),
    case("cispo", textbook.cispo, WIDE, eps_low=0.1, eps_high=0.15),
    case("luffy_offline", textbook.luffy_offline, {"shaping_gamma": 0.5}, gamma=0.5),
    case("reinforce_baseline", textbook.reinforce_baseline, {"kl_coefficient": 0.05}, beta=0.05),
    case("rloo", textbook.rloo, {"kl_coefficient": 0.05}, beta=0.05),
    case("reinforce_plus_plus", textbook.reinforce_plus_plus, {"kl_coefficient": 0.05}, beta=0.05),
]


def textbook_gradient(w: world.World, row: Row, loss: Loss) -> Tensor:
    return world.flat_gradient(loss(world.textbook_of(w, row)), w.policy)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("row", "loss"), CASES)
def test_gradient_is_that_of_the_papers_loss(row: Row, loss: Loss, seed: int) -> None:
    w = world.make_world(seed)
    expected = textbook_gradient(w, row, loss)
    assert expected.abs().max() > 1e-4, "the textbook gradient vanishes: nothing would be compared"
    assert world.relative_difference(world.upge_gradient(w, [row]), expected) < TOLERANCE


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["ppo", "grpo", "dr_grpo", "dapo", "reinforce_plus_plus", "gspo", "clip_cov", "cispo"])
def test_masks_and_bounds_are_at_work_on_both_sides(name: str, seed: int) -> None:
    """The comparison above would be empty on a batch on which no ratio leaves the trust region."""
    w = world.make_world(seed)
    streams, component = world.streams_of(w), world.component_of(w, ROWS[name])
    log_ratio = streams.logprobs.detach() - streams.old_logprobs
    ratio = (reference.sequence_log_ratio(streams) if name == "gspo" else log_ratio).exp()
    ratio, signal = ratio[component.scales != 0], component.advantages[component.scales != 0]
    low = 1 - (component.row.parameters["clip_eps_low"] or 0.2)  # CISPO has no lower bound
    high = 1 + component.row.number("clip_eps_high")
    for harmful_or_harmless in (signal > 0, signal < 0):
        assert ((ratio > high) & harmful_or_harmless).any()
        assert ((ratio < low) & harmful_or_harmless).any()
    assert ((ratio > low) & (ratio < high) & (signal != 0)).any() or name == "gspo"


@pytest.mark.parametrize(("row", "loss"), CASES)
def test_gradient_is_literally_equation_6(row: Row, loss: Loss) -> None:
    """mask * advantage / pi_ref * grad pi, differentiating the probability itself as Table 1 prints it."""
    w = world.make_world(SEEDS[1])
    streams, component = world.streams_of(w), world.component_of(w, row)
    mask = stabilization.MASKS[row.mask](row, streams, component.advantages)
    mask = mask if component.keep is None else mask * component.keep
    denominator = reference.DENOMINATORS[row.denominator](row, streams, component.advantages).exp()
    factor = coefficient.COEFFICIENTS[row.trajectory_coefficient](streams, component.rewards)
    constants = (component.scales * factor * mask * component.advantages / denominator).detach()
    expected = world.flat_gradient(-(constants * streams.logprobs.exp()).sum(), w.policy)
    assert world.relative_difference(world.upge_gradient(w, [row]), expected) < TOLERANCE


STOP_GRADIENT = {"cispo", "srft_sft", "srft_rollout", "dft", "clip_cov"}
WITHOUT_STOP_GRADIENT = [c for c in CASES if c.values[0].name not in STOP_GRADIENT]


@pytest.mark.parametrize(("row", "loss"), WITHOUT_STOP_GRADIENT)
def test_gradient_is_the_slope_of_the_papers_loss(row: Row, loss: Loss) -> None:
    """Central differences, so that no autograd stands on either side of the textbook."""
    w = world.make_world(1)
    direction = {name: torch.randn(value.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
                 for name, value in w.policy.items()}  # fmt: skip
    step = 1e-6

    def loss_at(sign: int) -> float:
        moved = {name: value.detach() + sign * step * direction[name] for name, value in w.policy.items()}
        return float(loss(world.textbook_of(w, policy=moved)))

    slope = (loss_at(1) - loss_at(-1)) / (2 * step)
    gradient = world.upge_gradient(w, [row])
    along = float(gradient @ torch.cat([direction[name].flatten() for name in w.policy]))
    assert abs(slope - along) < 1e-7 * max(1.0, float(gradient.norm()))


# --- each ingredient broken once: the comparison has to notice; Eq. 6 itself is broken in tests/test_checker.py ------


def other_side(row: Row, streams: Any, advantages: Tensor) -> Tensor:
    return stabilization.clip(row, streams, -advantages)


def one_bound_only(row: Row, streams: Any, advantages: Tensor) -> Tensor:
    return stabilization.clip(row.with_parameters(clip_eps_low=None), streams, advantages)


def sum_not_mean(row: Row, streams: Any, advantages: Tensor) -> Tensor:
    counts = torch.bincount(streams.trajectory)[streams.trajectory]
    return streams.logprobs.detach() - reference.sequence_log_ratio(streams) * counts


def unclipped(row: Row, streams: Any, advantages: Tensor) -> Tensor:
    return streams.old_logprobs


def shape_not_its_slope(row: Row, streams: Any, advantages: Tensor) -> Tensor:
    return (streams.logprobs.detach().exp() + row.number("shaping_gamma")).log()


def other_std(row: Row, groups: Any) -> list[np.ndarray]:
    swap = {"sample": "population", "population": "sample", "none": "sample"}
    return advantage.group(row.with_parameters(std=swap[str(row.parameters["std"])]), groups)


def without_values(row: Row, groups: Any) -> list[np.ndarray]:
    return advantage.gae(row, replace(groups, values=[np.zeros_like(values) for values in groups.values]))


def each_group_apart(row: Row, groups: Any) -> list[np.ndarray]:
    return advantage.group(row, groups)


def forgotten_baseline(row: Row, groups: Any) -> list[np.ndarray]:
    return advantage.running_baseline(row, replace(groups, baseline=0.0))


def all_of_them(row: Row, groups: Any) -> list[np.ndarray]:
    return advantage.group(Row("", "", "", "", "", {"std": "none"}), groups)


def halved(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments) * 0.5


#: Part of a row -> the registry of its entries, and by entry what takes its place: each must be noticed.
BREAKS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "mask": (stabilization.MASKS, {
        "clip": [stabilization.none, symmetric_indicator, other_side, one_bound_only],
        "sequence_clip": [stabilization.none, stabilization.clip],
        "clip_cov": [stabilization.none],
    }),
    "denominator": (reference.DENOMINATORS, {
        "current": [reference.unit],
        "old": [reference.current],
        "unit": [reference.current],
        "unit_shaped": [reference.unit, shape_not_its_slope],
        "clipped_ratio": [unclipped, reference.current],
        "sequence_ratio": [reference.old, sum_not_mean],
    }),
    "advantage": (advantage.ADVANTAGES, {
        **{name: [advantage.own_reward] for name in ("one", "signed")},
        "group": [advantage.own_reward, other_std],
        "running_baseline": [forgotten_baseline],
        "leave_one_out": [all_of_them],
        "batch_normalised": [each_group_apart],
        "gae": [without_values],
    }),
    "aggregation": (aggregation.AGGREGATIONS, {
        **{name: [aggregation.token_mean] for name in ("sequence_mean", "pooled_token_mean")},
        "token_mean": [aggregation.sequence_mean],
        "sequence_sum": [aggregation.constant_length],
        "constant_length": [aggregation.sequence_sum],
    }),
    "trajectory_coefficient": (coefficient.COEFFICIENTS, {
        **{name: [coefficient.one] for name in ("half_exp_minus_entropy", "tenth_exp_entropy_if_correct")},
        "one": [halved(coefficient.one)],
    }),
}  # fmt: skip
MUTANTS = [
    pytest.param(c.values[0], c.values[1], registry, key, broken, id=f"{c.id}|{key}->{broken.__name__}")
    for choice, (registry, entries) in BREAKS.items()
    for key, instead in entries.items()
    for broken in instead
    for c in CASES
    # without bounds there is no side to break
    if getattr(c.values[0], choice) == key and not (choice == "mask" and c.values[0].parameters["clip_eps_low"] is None)
]


@pytest.mark.parametrize(("row", "loss", "registry", "key", "broken"), MUTANTS)
def test_a_broken_ingredient_is_noticed(
    row: Row, loss: Loss, registry: dict[str, Any], key: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world.make_world(SEEDS[0])
    expected = textbook_gradient(w, row, loss)
    monkeypatch.setitem(registry, key, broken)
    assert world.relative_difference(world.upge_gradient(w, [row]), expected) > 1e-4


def test_every_entry_of_the_registries_is_broken_at_least_once() -> None:
    """An entry that no row uses, or that no break above touches, is not covered by the mutation test."""
    broken = {(choice, key) for choice, (_, entries) in BREAKS.items() for key in entries}
    used = {(choice, getattr(row, choice)) for row in ROWS.values() for choice in BREAKS}
    assert used - {("mask", "none")} <= broken
