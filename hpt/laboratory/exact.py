"""Policies small enough to list every trajectory, and the formulas of Section 2 and Appendix B as sums over them.

Letters: V vocabulary, L longest trajectory, K trajectories, M prefixes (states), D parameters. A policy is a table of
logits [M, V] computed from one flat parameter vector, so a gradient is a vector [D] and a per-token quantity is a
number per (prefix, token) pair, [MV]. A law is a tensor [K] of trajectory probabilities; ``sampled_from`` below is one,
the paper's pi_ref where it is a density. Everything is float64.

`tests/equations/test_derivation.py` sets the formulas against each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor, nn

END_TOKEN = 0


@dataclass(frozen=True, eq=False)
class TrajectorySpace:
    """All trajectories of at most ``length`` tokens; with ``ends``, token 0 ends one early, else all have L tokens.

    ``tokens`` [K, L] int64 are zeros behind the end, ``mask`` [K, L] float64 is 1 on tokens, ``state`` [K, L] int64 the
    index of the prefix that precedes each token, ``prefixes`` the M prefixes, shortest first.

    Example:
        >>> space = TrajectorySpace.of(vocabulary=3, length=2)
        >>> len(space.tokens), len(space.prefixes)
        (7, 3)
    """

    vocabulary: int
    length: int
    ends: bool
    tokens: Tensor
    mask: Tensor
    state: Tensor
    prefixes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, vocabulary: int, length: int, ends: bool = True) -> TrajectorySpace:
        """Enumerate; see the class."""
        inner = range(1, vocabulary) if ends else range(vocabulary)
        prefixes = tuple(prefix for size in range(length) for prefix in itertools.product(inner, repeat=size))
        index = {prefix: position for position, prefix in enumerate(prefixes)}
        trajectories = [(*prefix, END_TOKEN) for prefix in prefixes] if ends else []
        trajectories += list(itertools.product(inner, repeat=length))
        tokens = torch.zeros(len(trajectories), length, dtype=torch.int64)
        mask = torch.zeros(len(trajectories), length, dtype=torch.float64)
        state = torch.zeros_like(tokens)
        for row, trajectory in enumerate(trajectories):
            tokens[row, : len(trajectory)] = torch.tensor(trajectory)
            mask[row, : len(trajectory)] = 1.0
            state[row, : len(trajectory)] = torch.tensor([index[trajectory[:t]] for t in range(len(trajectory))])
        return cls(vocabulary, length, ends, tokens, mask, state, prefixes)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each trajectory, [K] int64."""
        return self.mask.sum(1).long()

    @cached_property
    def pair(self) -> Tensor:
        """Index of each token's (prefix, token) pair, [K, L] int64 in 0..MV-1; 0 behind the end, where mask is 0."""
        return (self.state * self.vocabulary + self.tokens) * self.mask.long()

    @cached_property
    def incidence(self) -> Tensor:
        """How often each trajectory goes through each (prefix, token) pair, [K, MV] of 0 and 1."""
        counts = torch.zeros(len(self), len(self.prefixes) * self.vocabulary, dtype=torch.float64)
        return counts.scatter_add_(1, self.pair, self.mask)

    def reached(self, probabilities: Tensor) -> Tensor:
        """Return how much of a law [K] goes through each token at each prefix, [M, V]."""
        return (probabilities @ self.incidence).view(len(self.prefixes), self.vocabulary)


@dataclass(frozen=True, eq=False)
class TabularPolicy:
    """Softmax with a logit for every prefix and token: any law on trajectories can be represented."""

    space: TrajectorySpace

    @property
    def size(self) -> int:
        """D = M V."""
        return len(self.space.prefixes) * self.space.vocabulary

    def logits(self, parameters: Tensor) -> Tensor:
        """Return the parameters as a table [M, V]."""
        return parameters.view(len(self.space.prefixes), self.space.vocabulary)

    def parameters_of(self, probabilities: Tensor) -> Tensor:
        """Return parameters [D] whose policy has exactly these trajectory probabilities [K], all positive."""
        table = self.space.reached(probabilities)
        return (table / table.sum(1, keepdim=True)).log().flatten()


class TransformerPolicy(nn.Module):
    """A small causal transformer over the same prefixes; it shares parameters between them, as language models do."""

    def __init__(self, space: TrajectorySpace) -> None:
        super().__init__()
        self.space, width = space, 8
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.tokens = nn.Embedding(space.vocabulary + 1, width)  # the last one begins every prefix
        self.positions = nn.Embedding(space.length, width)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, space.vocabulary)
        self.double()
        self.inputs = torch.full((len(space.prefixes), space.length), space.vocabulary, dtype=torch.int64)
        for row, prefix in enumerate(space.prefixes):
            self.inputs[row, 1 : 1 + len(prefix)] = torch.tensor(prefix, dtype=torch.int64)

    @property
    def size(self) -> int:
        """D."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self) -> Tensor:
        """Return [M, V]; causal attention, so what stands behind a prefix does not matter."""
        causal = nn.Transformer.generate_square_subsequent_mask(self.space.length, dtype=torch.float64)
        hidden = self.body(self.tokens(self.inputs) + self.positions.weight, mask=causal, is_causal=True)
        last = torch.tensor([len(prefix) for prefix in self.space.prefixes])
        return self.head(hidden[torch.arange(len(hidden)), last])

    def logits(self, parameters: Tensor) -> Tensor:
        """Return the network's output [M, V] with these parameters, one after the other, in place of its own."""
        own = dict(self.named_parameters())
        values = parameters.split([value.numel() for value in own.values()])
        given = {name: value.view(own[name].shape) for name, value in zip(own, values, strict=True)}
        return torch.func.functional_call(self, given, ())


#: A policy on a `TrajectorySpace`: a differentiable map from D parameters, one flat vector, to logits.
ExactPolicy = TabularPolicy | TransformerPolicy


def token_logprobs(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return log pi(token | prefix) of every (prefix, token) pair, [MV]; carries the gradient."""
    return torch.log_softmax(policy.logits(parameters), -1).flatten()


def token_entropies(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return the exact entropy of the next token at every prefix, [M], nats."""
    logprobs = torch.log_softmax(policy.logits(parameters), -1)
    return -(logprobs.exp() * logprobs).sum(-1)


def trajectory_logprobs(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return log pi(trajectory) of all trajectories, [K]; carries the gradient."""
    return policy.space.incidence @ token_logprobs(policy, parameters)


def law(policy: ExactPolicy, parameters: Tensor) -> Tensor:
    """Return pi_theta of every trajectory, [K]; carries the gradient."""
    return trajectory_logprobs(policy, parameters).exp()


def random_parameters(policy: ExactPolicy, seed: int, spread: float = 1.0) -> Tensor:
    """Return parameters [D] drawn from a normal law with standard deviation ``spread``."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(policy.size, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Experiment:
    """A question whose answers are all known, a policy now and when it sampled, and what follows from them.

    ``parameters`` are theta, at which gradients are taken, ``old_parameters`` theta_old, which drew the rollouts, [D].
    ``reward`` is r(tau | q) [K], ``demonstrator`` the law pi_beta [K], ``mu`` that of the Common Objective (Eq. 1),
    ``rollouts`` n, ``baseline`` b of REINFORCE: what the policy earns on all questions, not on this one.
    """

    policy: ExactPolicy
    parameters: Tensor
    old_parameters: Tensor
    reward: Tensor
    demonstrator: Tensor
    mu: float = 0.0
    rollouts: int = 8
    baseline: float = 0.5

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
        """grad log pi of every (prefix, token) pair, [MV, D]; every estimator's gradient is weights times this."""
        function = partial(token_logprobs, self.policy)
        return cast(Tensor, torch.autograd.functional.jacobian(function, self.parameters, vectorize=True))

    @cached_property
    def scores(self) -> Tensor:
        """grad log pi of every trajectory, [K, D]."""
        return self.policy.space.incidence @ self.token_scores

    @cached_property
    def true_gradient(self) -> Tensor:
        """grad J_mu, [D], by Eq. 2."""
        weights = self.pi * self.reward + self.mu * self.demonstrator
        return (weights @ self.policy.space.incidence) @ self.token_scores

    @cached_property
    def success(self) -> float:
        """P of the policy that sampled, exactly."""
        return float(self.pi_old @ self.reward)

    @cached_property
    def values(self) -> Tensor:
        """The critic a perfect PPO would have: expected reward after every prefix under pi_old, [M]."""
        space = self.policy.space
        return space.reached(self.pi_old * self.reward).sum(1) / space.reached(self.pi_old).sum(1)

    def gradient(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient [D] of a scalar function of the parameters, by autograd."""
        leaf = self.parameters.detach().clone().requires_grad_()
        (result,) = torch.autograd.grad(function(leaf), leaf)
        return result


# Formulas of the paper; gradients are [D], at the experiment's parameters


def objective(case: Experiment, parameters: Tensor, mu: float, trust: float = 0.0) -> Tensor:
    """Return the Common Objective J_mu of Eq. 1; with ``trust`` > 0 the one of Appendix B.2; carries the gradient.

    J = E_pi[r] - mu KL(pi_beta || pi) - lambda KL(pi || pi_old), nats; lambda is ``trust``.
    """
    logprobs = trajectory_logprobs(case.policy, parameters)
    demonstrated = case.demonstrator > 0
    weights = case.demonstrator[demonstrated]
    adherence = (weights * (weights.log() - logprobs[demonstrated])).sum()
    moved = (logprobs.exp() * (logprobs - case.pi_old.log())).sum()
    return (logprobs.exp() * case.reward).sum() - mu * adherence - trust * moved


def score_expectation(case: Experiment, weights: Tensor, sampled_from: Tensor) -> Tensor:
    """Return E_s[f grad log pi] of weights f [K]: Lemmas A1 to A3 are about this."""
    return (sampled_from * weights) @ case.scores


def two_term_gradient(case: Experiment, mu: float) -> Tensor:
    """Return the right side of Eq. 2: E_pi[r grad log pi] + mu E_beta[grad log pi]."""
    ones = torch.ones_like(case.pi)
    return score_expectation(case, case.reward, case.pi) + mu * score_expectation(case, ones, case.demonstrator)


def unified_advantage(case: Experiment, mu: float, trust: float = 0.0) -> Tensor:
    """Return A_uni of Eq. 4, r + mu pi_beta / pi, [K]; with ``trust`` the one of Appendix B.2."""
    return case.reward + mu * case.demonstrator / case.pi - trust * (case.pi / case.pi_old).log()


def unified_gradient(case: Experiment, advantage: Tensor, sampled_from: Tensor) -> Tensor:
    """Return the right side of Eq. 3, E_s[(1/s) A grad pi] with s as the denominator.

    The expectation runs over what s can draw: where s is 0, nothing is ever drawn, and the identity with Eq. 2 loses
    those trajectories (`lost_by_coverage`).
    """
    ratio = torch.where(sampled_from > 0, case.pi / sampled_from, 0.0)
    return score_expectation(case, ratio * advantage, sampled_from)


def lost_by_coverage(case: Experiment, advantage: Tensor, sampled_from: Tensor) -> Tensor:
    """Return what Eq. 3 misses where s does not cover: the sum of A grad pi over trajectories s never draws."""
    return (case.pi * advantage * (sampled_from == 0)) @ case.scores


def masked_gradient(case: Experiment, advantage: Tensor, eps: float) -> Tensor:
    """Return the right side of Eq. 21, E_old[1_stable (1/pi_old) A grad pi]."""
    ratio = case.pi / case.pi_old
    harmful = ((advantage > 0) & (ratio > 1 + eps)) | ((advantage < 0) & (ratio < 1 - eps))
    return score_expectation(case, (~harmful) * ratio * advantage, case.pi_old)
