"""Exact expectations: the Common Objective, its gradient by autograd, and the paper's formulas for it, as sums.

A law is a tensor [K] of trajectory probabilities. Every function here is one expression of Section 2 or Appendix B with
the expectation written out; `tests/equations/test_derivation.py` sets them against each other. ``s`` below is a
sampling law, the paper's pi_ref where it is a density.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hpt.laboratory.exact import ExactPolicy, TrajectorySpace, token_scores, trajectory_logprobs


@dataclass(frozen=True, eq=False)
class Question:
    """One question whose answers are all known.

    Attributes:
        space: its trajectories.
        reward: r(tau | q), [K] float64.
        demonstrator: pi_beta, [K], summing to 1.
    """

    space: TrajectorySpace
    reward: Tensor
    demonstrator: Tensor


def law(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return pi_theta of every trajectory, [K]; carries the gradient."""
    return trajectory_logprobs(policy, parameters).exp()


@dataclass(frozen=True, eq=False)
class Situation:
    """A policy at two points (now, and when it sampled), a question, and what follows from them.

    Attributes:
        policy: maps parameters to a law.
        parameters: theta, at which gradients are taken, [D].
        old_parameters: theta_old, which drew the rollouts, [D].
        question: rewards and demonstrator.
    """

    policy: ExactPolicy
    parameters: Tensor
    old_parameters: Tensor
    question: Question

    @cached_property
    def pi(self) -> Tensor:
        """Law of the current policy, [K]."""
        return law(self.policy, self.parameters).detach()

    @cached_property
    def pi_old(self) -> Tensor:
        """Law of the policy that sampled, [K]."""
        return law(self.policy, self.old_parameters).detach()

    @cached_property
    def token_scores(self) -> Tensor:
        """grad log pi of every (prefix, token) pair, [MV, D]."""
        return token_scores(self.policy, self.parameters)


def objective(
    policy: ExactPolicy,
    parameters: Tensor,
    question: Question,
    mu: float,
    trust: float = 0.0,
    reference: Tensor | None = None,
) -> Tensor:
    """Return the Common Objective J_mu of Eq. 1; with ``trust`` > 0 the one of Appendix B.2.

    J = E_pi[r] - mu KL(pi_beta || pi) - lambda KL(pi || pi_ref), nats.

    Args:
        policy, parameters: pi_theta; the result carries its gradient.
        question: rewards and demonstrator.
        mu: weight of data adherence, at least 0.
        trust: lambda of Appendix B.2.
        reference: pi_ref of the trust region, [K], positive; needed where ``trust`` is not 0.
    """
    logprobs = trajectory_logprobs(policy, parameters)
    demonstrated = question.demonstrator > 0
    weights = question.demonstrator[demonstrated]
    adherence = (weights * (weights.log() - logprobs[demonstrated])).sum()
    value = (logprobs.exp() * question.reward).sum() - mu * adherence
    if trust:
        assert reference is not None, "a trust region needs the policy it is around"
        value = value - trust * (logprobs.exp() * (logprobs - reference.log())).sum()
    return value


def gradient(function: Callable[[Tensor], Tensor], parameters: Tensor) -> Tensor:
    """Return the gradient [D] of a scalar function of the parameters, by autograd."""
    leaf = parameters.detach().clone().requires_grad_()
    (result,) = torch.autograd.grad(function(leaf), leaf)
    return result


def objective_gradient(policy: ExactPolicy, parameters: Tensor, question: Question, mu: float) -> Tensor:
    """Return grad J_mu, [D], by autograd through Eq. 1: what every estimator of the laboratory is measured against."""
    return gradient(lambda leaf: objective(policy, leaf, question, mu), parameters)


def trajectory_scores(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return grad log pi(tau) of every trajectory, [K, D]."""
    return policy.space.incidence @ token_scores(policy, parameters)


def score_expectation(weights: Tensor, scores: Tensor, sampled_from: Tensor) -> Tensor:
    """Return E_s[f grad log pi], [D]: Lemmas A1 to A3 are statements about this.

    Args:
        weights: f of every trajectory, [K].
        scores: grad log pi, [K, D].
        sampled_from: s, [K].

    Example:
        >>> from hpt.laboratory.exact import TabularPolicy, TrajectorySpace, random_parameters
        >>> policy = TabularPolicy(TrajectorySpace.of(3, 2))
        >>> parameters = random_parameters(policy, seed=0)
        >>> scores, pi = trajectory_scores(policy, parameters), law(policy, parameters)
        >>> bool(score_expectation(torch.ones(7), scores, pi).abs().max() < 1e-15)  # E[grad log pi] = 0, Lemma A1
        True
    """
    return (sampled_from * weights) @ scores


def two_term_gradient(pi: Tensor, scores: Tensor, question: Question, mu: float) -> Tensor:
    """Return the right side of Eq. 2: E_pi[r grad log pi] + mu E_beta[grad log pi], [D]."""
    ones = torch.ones_like(pi)
    return score_expectation(question.reward, scores, pi) + mu * score_expectation(ones, scores, question.demonstrator)


def unified_advantage(
    pi: Tensor, question: Question, mu: float, trust: float = 0.0, reference: Tensor | None = None
) -> Tensor:
    """Return A_uni of Eq. 4, r + mu pi_beta / pi, [K]; with ``trust`` the one of Appendix B.2."""
    value = question.reward + mu * question.demonstrator / pi
    if trust:
        assert reference is not None, "a trust region needs the policy it is around"
        value = value - trust * (pi / reference).log()
    return value


def unified_gradient(pi: Tensor, scores: Tensor, advantage: Tensor, sampled_from: Tensor) -> Tensor:
    """Return the right side of Eq. 3, E_s[(1/s) A grad pi] with s as the denominator, [D].

    The expectation runs over what s can draw: where s is 0, nothing is ever drawn, and the identity with Eq. 2 loses
    those trajectories.
    """
    drawn = sampled_from > 0
    ratio = torch.where(drawn, pi / sampled_from.where(drawn, torch.ones_like(pi)), torch.zeros_like(pi))
    return score_expectation(ratio * advantage, scores, sampled_from)


def lost_by_coverage(pi: Tensor, scores: Tensor, advantage: Tensor, sampled_from: Tensor) -> Tensor:
    """Return what Eq. 3 misses where s does not cover: the sum of A grad pi over trajectories s never draws, [D]."""
    return (pi * advantage * (sampled_from == 0)) @ scores


def ppo_surrogate(pi: Tensor, pi_old: Tensor, advantage: Tensor, eps_low: float, eps_high: float) -> Tensor:
    """Return the surrogate of Appendix B.3, E_old[min(r A, clip(r) A)] over whole trajectories, a scalar."""
    ratio = pi / pi_old
    return (pi_old * torch.minimum(ratio * advantage, ratio.clamp(1 - eps_low, 1 + eps_high) * advantage)).sum()


def masked_gradient(
    pi: Tensor, pi_old: Tensor, scores: Tensor, advantage: Tensor, eps_low: float, eps_high: float
) -> Tensor:
    """Return the right side of Eq. 21, E_old[1_stable (1/pi_old) A grad pi], [D]."""
    ratio = pi / pi_old
    harmful = ((advantage > 0) & (ratio > 1 + eps_high)) | ((advantage < 0) & (ratio < 1 - eps_low))
    return score_expectation((~harmful) * ratio * advantage, scores, pi_old)
