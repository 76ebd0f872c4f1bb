"""Policies small enough to list every trajectory, and what both sides of the paper's formulas need of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hpt.laboratory import truth
from hpt.laboratory.exact import (
    ExactPolicy,
    TabularPolicy,
    TrajectorySpace,
    TransformerPolicy,
    random_parameters,
    token_entropies,
    token_logprobs,
)
from hpt.laboratory.truth import Question, Situation
from hpt.upge.estimator import TokenStreams

#: name -> policy, vocabulary, longest, whether a token ends, seed, spread of the parameters.
CASES: dict[str, tuple[type[ExactPolicy], int, int, bool, int, float]] = {
    "tabular-3-3": (TabularPolicy, 3, 3, True, 0, 1.0),
    "tabular-5-4": (TabularPolicy, 5, 4, False, 1, 1.0),
    "tabular-5-4-ends": (TabularPolicy, 5, 4, True, 2, 1.0),
    "transformer-3-4": (TransformerPolicy, 3, 4, True, 3, 0.3),
    "transformer-4-3": (TransformerPolicy, 4, 3, False, 4, 0.3),
}

#: Where a trajectory is a token, so that Eq. 6 with the package's weights is Eq. 3.
ONE_TOKEN = (TabularPolicy, 5, 1, False, 7, 1.0)


@dataclass(frozen=True, eq=False)
class Case(Situation):
    """A situation, and what the identities below need of it."""

    @cached_property
    def scores(self) -> Tensor:
        """grad log pi of every trajectory, [K, D]."""
        return self.policy.space.incidence @ self.token_scores

    @cached_property
    def centred(self) -> Tensor:
        """The reward minus its expectation under pi_old, [K]: an advantage of both signs."""
        return self.question.reward - (self.pi_old * self.question.reward).sum()

    def gradient(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient [D] of a function of the parameters, by autograd."""
        return truth.gradient(function, self.parameters)


def make_case(name: str) -> Case:
    """Return one of `CASES`, seeded.

    Example:
        >>> len(make_case("tabular-5-4").pi)
        625
    """
    return random_case(*CASES[name])


def random_case(kind: type[ExactPolicy], vocabulary: int, length: int, ends: bool, seed: int, spread: float) -> Case:
    """Return a case of a policy, with rewards of 0 and 1 and a demonstrator that never writes half of the answers."""
    space = TrajectorySpace.of(vocabulary, length, ends)
    policy = kind(space)  # type: ignore[call-arg]
    reward = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, len(space)).astype(np.float64))
    parameters = random_parameters(policy, seed, spread)
    old = parameters + random_parameters(policy, seed + 1, spread=0.4 * spread)
    return Case(policy, parameters, old, Question(space, reward, some_law(space, seed, zeros=len(space) // 2)))


def some_law(space: TrajectorySpace, seed: int, zeros: int = 0) -> Tensor:
    """Return a random law [K]; the first ``zeros`` trajectories of a shuffle have probability 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(len(space), generator=generator, dtype=torch.float64)
    weights[torch.randperm(len(space), generator=generator)[:zeros]] = 0
    return weights / weights.sum()


def some_values(case: Case) -> Tensor:
    """Return a random function of trajectories, [K]."""
    return torch.from_numpy(np.random.default_rng(11).normal(size=len(case.pi)))


def references(case: Case) -> dict[str, Tensor]:
    """Return reference policies that cover the policy, [K] each."""
    space = case.policy.space
    return {
        "pi": case.pi,
        "pi_old": case.pi_old,
        "uniform": torch.full((len(space),), 1 / len(space), dtype=torch.float64),
        "mixture of pi_old and pi_beta": 0.5 * case.pi_old + 0.5 * case.question.demonstrator,
    }


def without_demonstrations(case: Case) -> Tensor:
    """Return pi_old without the likelier half of the demonstrations, [K]: it cannot carry Eq. 4's SFT term."""
    partial = torch.where(case.question.demonstrator > case.question.demonstrator.median(), 0.0, case.pi_old)
    return partial / partial.sum()


def every_trajectory(case: Case, per_trajectory: Tensor) -> tuple[TokenStreams, Tensor]:
    """Return all K trajectories as one micro-batch, and a number per trajectory spread over its tokens."""
    space = case.policy.space
    on = space.mask.bool()
    now, before = (token_logprobs(case.policy, theta).detach() for theta in (case.parameters, case.old_parameters))
    owner = torch.arange(len(space))[:, None].expand_as(space.pair)[on]
    entropies = token_entropies(case.policy, case.parameters).detach()[space.state[on]]
    streams = TokenStreams(now[space.pair[on]], entropies, before[space.pair[on]], owner, len(space))
    return streams, per_trajectory[owner]


def token_weighted(case: Case, weights: Tensor, sampled_from: Tensor) -> Tensor:
    """Return E_s of sum_t weight_t grad log pi_t, [D]; weights of all tokens as `every_trajectory` orders them."""
    space = case.policy.space
    on = space.mask.bool()
    owner = torch.arange(len(space))[:, None].expand_as(space.pair)[on]
    per_pair = torch.zeros(len(space.prefixes) * space.vocabulary, dtype=torch.float64)
    per_pair.index_add_(0, space.pair[on], weights * sampled_from[owner])
    return per_pair @ case.token_scores


def token_surrogate(case: Case, advantage: Tensor, eps: float | None) -> Tensor:
    """Return grad E_old[sum_t min(r_t A, clip(r_t) A)], [D], by autograd; without ``eps`` of r_t A alone."""
    space = case.policy.space
    before = token_logprobs(case.policy, case.old_parameters).detach()

    def surrogate(leaf: Tensor) -> Tensor:
        ratio = (token_logprobs(case.policy, leaf) - before).exp()[space.pair]
        value = ratio * advantage[:, None]
        if eps is not None:
            value = torch.minimum(value, ratio.clamp(1 - eps, 1 + eps) * advantage[:, None])
        return (case.pi_old[:, None] * space.mask * value).sum()

    return case.gradient(surrogate)
