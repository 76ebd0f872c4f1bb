"""The gate as an estimator: which weights alpha(c), beta(c) of the two gradients have the least error, c of n right.

A gate of Eq. 9 sees the number c of right rollouts and weighs the online gradient g_on with alpha(c), the SFT gradient
g_off with beta(c). Over questions with their own success rates, the expected error of the sum is a quadratic form in
the 2 (n + 1) weights, one 2 x 2 block per count:

    E|alpha g_on + beta g_off - t|^2 = sum_c [ x_c' M_c x_c - 2 x_c' v_c ] + E|t|^2,     x_c = (alpha(c), beta(c))

So the best gate is x_c = M_c^-1 v_c, and any other is compared with it after its two coefficients are tuned.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from hpt.config.settings import GateSettings
from hpt.laboratory.experiment import Draws, Experiment, row_gradients
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import Component

#: x_c of a gate, (alpha [n + 1], beta [n + 1]).
Weights = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class GateMoments:
    """What the error of every gate follows from, added over questions.

    Attributes:
        second: [n + 1, 2, 2], M_c.
        cross: [n + 1, 2], v_c.
        size: E|t|^2.
        share: [n + 1], how often c of n were right.
    """

    second: np.ndarray
    cross: np.ndarray
    size: float
    share: np.ndarray

    def __add__(self, other: GateMoments) -> GateMoments:
        return GateMoments(
            self.second + other.second, self.cross + other.cross, self.size + other.size, self.share + other.share
        )

    @property
    def rollouts(self) -> int:
        """n."""
        return len(self.share) - 1


def gate_moments(
    experiment: Experiment,
    draws: Draws,
    online: Component | str = "dr_grpo",
    offline: Component | str = "sft",
    log_success: bool = False,
) -> GateMoments:
    """Return the moments of one question.

    Both gradients are sums over tokens (the normalisation ``per_prompt`` without its constants): a row's own token mean
    would weigh a demonstration by its length.

    Args:
        experiment: the question.
        draws: of it.
        online, offline: rows that act on rollouts and on the demonstration.
        log_success: take the gradient of log E[r] instead of E[r] as the reward's part of t, so that a question that is
            hardly ever solved counts as much as one that is half solved.
    """
    space = experiment.policy.space
    target = experiment.true_gradient
    if log_success:
        reward_part = replace(experiment, mu=0.0).true_gradient
        target = target + (1 / experiment.success - 1) * reward_part
    on, off = (row_gradients(row, experiment, draws, aggregation="constant_length")[0] * space.length
               for row in (online, offline))  # fmt: skip
    correct = experiment.question.reward[draws.rollouts].sum(1).long().numpy()
    return moments_of(on, off, correct, draws.weights, target, experiment.rollouts)


def moments_of(
    on: torch.Tensor, off: torch.Tensor, correct: np.ndarray, weights: torch.Tensor, target: torch.Tensor, n: int
) -> GateMoments:
    """Return the moments from gradients [S, D] of both kinds, the counts [S], weights [S] and t [D]."""
    products = torch.stack([(on * on).sum(1), (on * off).sum(1), (off * off).sum(1), on @ target, off @ target], 1)
    weighted = (products * weights[:, None]).numpy()
    sums = np.zeros((n + 1, 5))
    np.add.at(sums, correct, weighted)
    share = np.bincount(correct, weights=weights.numpy(), minlength=n + 1)
    second = sums[:, [[0, 1], [1, 2]]]
    return GateMoments(second, sums[:, 3:], float(target @ target), share)


def gate_error(moments: GateMoments, weights: Weights, tuned: bool = True) -> float:
    """Return E|alpha g_on + beta g_off - t|^2 / E|t|^2 of a gate.

    Args:
        moments: of the questions.
        weights: the gate at every count.
        tuned: multiply alpha and beta each by its best constant (the coefficients and learning rate that training
            tunes); False takes the weights as they are.
    """
    x = np.stack(weights, 1)
    second = np.einsum("ci,cij,cj->ij", x, moments.second, x)
    cross = np.einsum("ci,ci->i", x, moments.cross)
    scale = _nonnegative_solution(second, cross) if tuned else np.ones(2)
    return float((scale @ second @ scale - 2 * scale @ cross + moments.size) / moments.size)


def best_gate(moments: GateMoments) -> Weights:
    """Return the gate of least error, (alpha [n + 1], beta [n + 1]), both at least 0.

    alpha is 0 where the online gradient is nothing whatever its weight (all right, all wrong).
    """
    solved = [_nonnegative_solution(second, cross) for second, cross in zip(moments.second, moments.cross, strict=True)]
    return np.array([weights[0] for weights in solved]), np.array([weights[1] for weights in solved])


def _nonnegative_solution(second: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Return x >= 0 that minimises x' M x - 2 x' v for a 2 x 2 M: the inside, or the better edge."""
    candidates = [np.zeros(2)]
    for kept in ([0, 1], [0], [1]):
        block, values = second[np.ix_(kept, kept)], cross[kept]
        if np.linalg.matrix_rank(block, tol=1e-14 * max(1e-300, float(np.abs(second).max()))) == len(kept):
            solution = np.zeros(2)
            solution[kept] = np.linalg.solve(block, values)
            if (solution >= 0).all():
                candidates.append(solution)
    return min(candidates, key=lambda x: x @ second @ x - 2 * x @ cross)


def gate_weights(settings: GateSettings, n: int) -> Weights:
    """Return (alpha, beta) of one of the package's gates, or of your own, at every count 0..n."""
    return feedback_coefficients(settings, np.arange(n + 1), n)


def smooth_gates(n: int, slopes: Iterable[float] = (5.0, 20.0)) -> dict[str, Weights]:
    """Return named gates to compare: Eq. 10 at every threshold, smooth ones, and none at all."""
    gates = {f"switch at {count}/{n}": gate_weights(GateSettings(kind="switch", count=count), n) for count in range(n)}
    gates["linear"] = gate_weights(GateSettings(kind="linear"), n)
    for slope in slopes:
        for count in (0, n // 4):
            settings = GateSettings(kind="sigmoid", count=count, slope=slope)
            gates[f"sigmoid at {count}/{n}, slope {slope:g}"] = gate_weights(settings, n)
    gates["no gate: both always"] = gate_weights(GateSettings(kind="constant", alpha=1.0, beta=1.0), n)
    gates["RL alone"] = gate_weights(GateSettings(kind="constant", alpha=1.0, beta=0.0), n)
    gates["SFT alone"] = gate_weights(GateSettings(kind="constant", alpha=0.0, beta=1.0), n)
    return gates


def total(moments: Iterable[GateMoments]) -> GateMoments:
    """Return the sum over questions: one learning rate and one gate for all of them."""
    first, *others = list(moments)
    return sum(others, first)
