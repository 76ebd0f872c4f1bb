"""Section 2.2, Appendix B and Eq. 9 to 13 as numbers: both sides of every statement on policies small enough to list.

A `Statement` is about one policy. Either it is an identity, and then its two sides differ by rounding; or it says where
an identity ends (a reference that does not cover, a ratio per token, a denominator that is no density), and then the
difference is the price.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hpt.config.run_config import RunConfig
from hpt.laboratory import exact
from hpt.laboratory.exact import (
    ExactPolicy,
    Experiment,
    TabularPolicy,
    TrajectorySpace,
    TransformerPolicy,
    law,
    objective,
    random_parameters,
    score_expectation,
    token_logprobs,
    trajectory_logprobs,
    unified_gradient,
)
from hpt.laboratory.experiment import Draws, method_gradients, token_streams
from hpt.methods.gate import feedback_coefficients
from hpt.runs.resolve import build_config
from hpt.upge.estimator import ROWS, Row, weights_mask_ratio

#: Relative; float64 sums over at most 625 terms lose 1e-13, a wrong term is worth more than 1e-4.
TOLERANCE = 1e-10
#: mu of the Common Objective, lambda of B.2 and the clip bound, where they are not what is varied.
ADHERENCE, TRUST, EPS = 0.3, 0.2, 0.2
#: Dr. GRPO with and without its mask: token ratios over pi_old and nothing else.
CLIPPED = ROWS["dr_grpo"].with_parameters(clip_eps_low=EPS, clip_eps_high=EPS)
UNMASKED = ROWS["dr_grpo"].with_parameters(clip_eps_low=None, clip_eps_high=None)

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

#: Gates of Eq. 9: name -> settings.
FEEDBACK: dict[str, dict[str, Any]] = {
    "switch below": {"kind": "switch", "count": 4},
    "switch above": {"kind": "switch", "count": 0},
    "linear": {"kind": "linear"},
    "sigmoid": {"kind": "sigmoid", "count": 1, "slope": 3.0},
    "constant": {"kind": "constant", "alpha": 0.7, "beta": 1.9},
}
ROLLOUTS = 4


def derivation_frame() -> pd.DataFrame:
    """Return every statement on every case: a line each with paper, states, identity, case, difference."""
    found = {name: statements(make_case(*CASES[name])) for name in CASES}
    found["tabular-5-1"] = one_token_statements(make_case(*ONE_TOKEN))
    lines = [
        (one.paper, one.states, one.identity, name, one.difference) for name, those in found.items() for one in those
    ]
    return pd.DataFrame(lines, columns=["paper", "states", "identity", "case", "difference"])


class Statement(NamedTuple):
    """One statement of the paper (equation, lemma or appendix) on one policy.

    ``identity``: both sides should be the same, else the statement says where that ends. ``difference`` is the largest
    entry of left minus right, relative to the length of the left side.
    """

    paper: str
    states: str
    identity: bool
    difference: float


def _same(paper: str, states: str, left: Tensor, right: Tensor) -> Statement:
    return Statement(paper, states, True, float((left - right).abs().max() / left.norm()))


def _ends(paper: str, states: str, left: Tensor, right: Tensor) -> Statement:
    return _same(paper, states, left, right)._replace(identity=False)


# Cases, and what both sides of the formulas need of them


def make_case(
    kind: type[ExactPolicy], vocabulary: int, length: int, ends: bool, seed: int, spread: float
) -> Experiment:
    """Return a policy with rewards of 0 and 1 and a demonstrator that never writes half of the answers."""
    space = TrajectorySpace.of(vocabulary, length, ends)
    policy = kind(space)
    reward = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, len(space)).astype(np.float64))
    parameters = random_parameters(policy, seed, spread)
    old = parameters + random_parameters(policy, seed + 1, spread=0.4 * spread)
    demonstrator = random_law(space, seed, zeros=len(space) // 2)
    return Experiment(policy, parameters, old, reward, demonstrator, rollouts=ROLLOUTS)


def random_law(space: TrajectorySpace, seed: int, zeros: int = 0) -> Tensor:
    """Return a random law [K]; the first ``zeros`` trajectories of a shuffle have probability 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(len(space), generator=generator, dtype=torch.float64)
    weights[torch.randperm(len(space), generator=generator)[:zeros]] = 0
    return weights / weights.sum()


def random_values(case: Experiment) -> Tensor:
    """Return a random function of trajectories, [K]."""
    return torch.from_numpy(np.random.default_rng(11).normal(size=len(case.pi)))


def centred_reward(case: Experiment) -> Tensor:
    """Return the reward minus its expectation under pi_old, [K]: an advantage of both signs."""
    return case.reward - (case.pi_old * case.reward).sum()


def references(case: Experiment) -> dict[str, Tensor]:
    """Return reference policies that cover the policy, [K] each."""
    return {
        "pi": case.pi,
        "pi_old": case.pi_old,
        "uniform": torch.full_like(case.pi, 1 / len(case.pi)),
        "mixture of pi_old and pi_beta": 0.5 * case.pi_old + 0.5 * case.demonstrator,
    }


def package_weighted(case: Experiment, row: Row, advantage: Tensor) -> Tensor:
    """Return E_old of sum_t weight_t grad log pi_t, [D], with the package's weights (Eq. 6) and an advantage [K]."""
    streams, pairs = token_streams(case, torch.arange(len(case.pi)))
    weights = weights_mask_ratio(row, streams, advantage[streams.trajectory])[0]
    per_pair = torch.zeros(len(case.token_scores), dtype=torch.float64)
    per_pair.index_add_(0, pairs, weights * case.pi_old[streams.trajectory])
    return per_pair @ case.token_scores


def token_surrogate(case: Experiment, advantage: Tensor, eps: float | None) -> Tensor:
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


# Section 2.2 and Appendix B


def statements(case: Experiment) -> Iterator[Statement]:
    """Yield every statement of Section 2.2, Appendix B and Eq. 9 to 13 on one case."""
    yield from _lemmas(case)
    yield from _unified(case)
    yield from _masks(case)
    yield from _mixed(case)


def _lemmas(case: Experiment) -> Iterator[Statement]:
    values, sampler, ones = random_values(case), random_law(case.policy.space, 21), torch.ones_like(case.pi)
    left = case.gradient(lambda leaf: (law(case.policy, leaf) * values).sum())
    score = score_expectation(case, values, case.pi)
    yield _same("Lemma A1", "grad E[f] = E[f grad log pi]", left, score)
    nothing = score_expectation(case, ones, case.pi)
    yield Statement("Lemma A1", "E[grad log pi] = 0", True, float(nothing.abs().max()))

    def integrand(leaf: Tensor) -> Tensor:
        return trajectory_logprobs(case.policy, leaf) ** 2 + values

    left = case.gradient(lambda leaf: (law(case.policy, leaf) * integrand(leaf)).sum())
    moving = case.gradient(lambda leaf: (case.pi * integrand(leaf)).sum())
    fixed = score_expectation(case, integrand(case.parameters).detach(), case.pi)
    yield _same("Lemma A2", "f depends on the parameters: + E[grad f]", left, fixed + moving)
    yield _ends("Lemma A2", "without that term", left, fixed)
    changed = score_expectation(case, case.pi / sampler * values, sampler)
    yield _same("Lemma A3", "E_pi[f grad log pi] = E_s[(pi / s) f grad log pi]", score, changed)
    partial = random_law(case.policy.space, 22, zeros=5)
    right = unified_gradient(case, values, partial)
    yield _ends("Lemma A3", "with s = 0 on five trajectories", score, right)
    lost = exact.lost_by_coverage(case, values, partial)
    yield _same("Lemma A3", "... plus what s never draws", score, right + lost)


def _unified(case: Experiment) -> Iterator[Statement]:
    demonstrator, pi = case.demonstrator, case.pi
    for mu in (0.0, ADHERENCE, 2.0):
        left = case.gradient(lambda leaf, mu=mu: objective(case, leaf, mu))
        right = exact.two_term_gradient(case, mu)
        yield _same("Eq. 1, 2", f"grad J_mu is the sum of the two terms, mu = {mu:g}", left, right)
    left = case.gradient(lambda leaf: objective(case, leaf, ADHERENCE))
    advantage = exact.unified_advantage(case, ADHERENCE)
    for name, reference in references(case).items():
        right = unified_gradient(case, advantage, reference)
        yield _same("Eq. 3, 4", f"under the reference {name}", left, right)
    right = unified_gradient(case, advantage, demonstrator)
    yield _ends("Eq. 3, 4", "under the demonstrator, which never writes half of the answers", left, right)
    lost = exact.lost_by_coverage(case, advantage, demonstrator)
    yield _same("Eq. 3, 4", "... plus what it never writes", left, right + lost)
    sft = ADHERENCE * demonstrator / pi
    whole = ADHERENCE * score_expectation(case, torch.ones_like(pi), demonstrator)
    right = unified_gradient(case, sft, demonstrator)
    yield _same("Eq. 3, 4", "the SFT term alone under the demonstrator", whole, right)
    # pi_old without the likelier half of the demonstrations: it cannot carry Eq. 4's SFT term
    partial = torch.where(demonstrator > demonstrator.median(), 0.0, case.pi_old)
    right = unified_gradient(case, sft, partial / partial.sum())
    yield _ends("Eq. 3, 4", "the SFT term under a reference that lacks demonstrations", whole, right)
    for trust in (TRUST, 1.5):
        left = case.gradient(lambda leaf, trust=trust: objective(case, leaf, ADHERENCE, trust))
        advantage = exact.unified_advantage(case, ADHERENCE, trust)
        for name, reference in references(case).items():
            right = unified_gradient(case, advantage, reference)
            yield _same("Appendix B.2", f"trust region {trust:g}, under {name}", left, right)
    weighted = score_expectation(case, pi * case.reward, case.pi_old)
    left = case.gradient(lambda leaf: (case.pi_old * case.reward * law(case.policy, leaf)).sum())
    yield _same("Eq. 20", "pi_ref = 1 is the gradient of E_old[A pi]", left, weighted)
    true = exact.two_term_gradient(case, 0.0)
    # its length is that of a probability: compared in direction
    scaled = weighted * (weighted @ true) / (weighted @ weighted)
    yield _ends("Eq. 20", "... against that of E_pi[A], best rescaled", true, scaled)


def _masks(case: Experiment) -> Iterator[Statement]:
    paper, advantage, ratio = "Appendix B.3, Eq. 21", centred_reward(case), case.pi / case.pi_old

    def surrogate(leaf: Tensor) -> Tensor:
        moved = law(case.policy, leaf) / case.pi_old
        return (case.pi_old * torch.minimum(moved * advantage, moved.clamp(1 - EPS, 1 + EPS) * advantage)).sum()

    left = case.gradient(surrogate)
    masked = exact.masked_gradient(case, advantage, EPS)
    yield _same(paper, "the mask is the derivative of the surrogate, trajectories", left, masked)
    symmetric = ((ratio > 1 - EPS) & (ratio < 1 + EPS)) * ratio * advantage
    right = score_expectation(case, symmetric, case.pi_old)
    yield _ends(paper, "with the mask 1[|r - 1| <= eps]", left, right)
    found = package_weighted(case, CLIPPED, advantage)
    yield _same(paper, "the same token by token, the package's mask", token_surrogate(case, advantage, EPS), found)
    found = package_weighted(case, UNMASKED, case.reward)
    yield _same("Eq. 18", "ratios of single tokens, unmasked", token_surrogate(case, case.reward, None), found)
    true = exact.two_term_gradient(case, 0.0)
    yield _ends("Eq. 18", "... against the true gradient", true, found)
    whole = unified_gradient(case, case.reward, case.pi_old)
    yield _same("Eq. 18", "... with ratios of whole answers instead, against the true gradient", true, whole)


def one_token_statements(case: Experiment) -> Iterator[Statement]:
    """Yield Eq. 6 with the package's weights on a case of one token per trajectory."""
    advantage = exact.unified_advantage(case, ADHERENCE)
    left = case.gradient(lambda leaf: objective(case, leaf, ADHERENCE))
    found = package_weighted(case, UNMASKED, advantage)
    yield _same("Eq. 6", "the package's weights, one token per answer", left, found)
    masked = package_weighted(case, CLIPPED, advantage)
    yield _same("Eq. 6", "... and with the mask", exact.masked_gradient(case, advantage, EPS), masked)
    yield _ends("Eq. 6", "the mask against the true gradient", left, masked)


# Eq. 8 to 13: the package's mixed loss against the printed one, with real alpha and beta


def one_draw(case: Experiment) -> Draws:
    """Return four rollouts, half of them right (P = 1/2, Eq. 8), and a demonstration."""
    right, wrong = (torch.nonzero(case.reward == reward).flatten() for reward in (1, 0))
    rollouts = torch.stack([right[0], wrong[1], right[2], wrong[-1]])
    return Draws(rollouts[None], right[1:2], torch.ones(1, dtype=torch.float64))


def with_gate(**gate: Any) -> RunConfig:
    """Return HPT's configuration in the recipe ``paper`` with a gate."""
    settings = {f"gate.{key}": value for key, value in gate.items()} | {"rollout.rollouts_per_prompt": ROLLOUTS}
    return build_config("hpt", scale="tiny", recipe="paper", settings=settings)


def printed_gradient(case: Experiment, draw: Draws, alpha: float, beta: float) -> Tensor:
    """Return the gradient [D] of Eq. 11 to 13 as they stand, alpha and beta as numbers."""
    space, rollouts = case.policy.space, draw.rollouts[0]
    before = token_logprobs(case.policy, case.old_parameters).detach()
    rewards = case.reward[rollouts]
    normalised = (rewards - rewards.mean()) / (rewards.std() + 1e-6)

    def loss(leaf: Tensor) -> Tensor:
        now, loss_rl = token_logprobs(case.policy, leaf), torch.zeros((), dtype=torch.float64)
        for trajectory, advantage in zip(rollouts, normalised, strict=True):
            pairs = space.pair[trajectory, : space.lengths[trajectory]]
            ratio = (now[pairs] - before[pairs]).exp()
            clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            loss_rl = loss_rl - clipped.sum() / ROLLOUTS
        demonstration = draw.demonstrations[0]
        loss_sft = -now[space.pair[demonstration, : space.lengths[demonstration]]].mean()
        return alpha * loss_rl + beta * loss_sft

    return case.gradient(loss)


def _mixed(case: Experiment) -> Iterator[Statement]:
    """Yield Eq. 13 under every gate of `FEEDBACK`, and what a gate of another pair would be off by."""
    draw, paper = one_draw(case), "Eq. 9 to 13"
    for name, gate in FEEDBACK.items():
        config = with_gate(**gate)
        (alpha,), (beta,) = feedback_coefficients(config.gate, np.array([ROLLOUTS // 2]), ROLLOUTS)
        printed = printed_gradient(case, draw, alpha, beta)
        states = f"the mixed loss, {name}: alpha = {alpha:.3g}, beta = {beta:.3g}"
        yield _same(paper, states, printed, -method_gradients(config, case, draw)[0][0])
    printed = printed_gradient(case, draw, 0.5, 0.5)
    other = -method_gradients(with_gate(kind="constant", alpha=1.0, beta=0.0), case, draw)[0][0]
    yield _ends(paper, "linear gate, alpha and beta rounded to 1 and 0", printed, other)
