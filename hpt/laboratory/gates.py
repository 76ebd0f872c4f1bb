"""The gate as an estimator: which weights alpha(c), beta(c) of the two gradients have the least error, c of n right.

A gate of Eq. 9 sees the number c of right rollouts and weighs the online gradient g_on with alpha(c), the SFT gradient
g_off with beta(c). Over questions with their success rates, the expected error of the sum is a quadratic form in the
2 (n + 1) weights, one 2 x 2 block per count:

    E|alpha g_on + beta g_off - t|^2 = sum_c [ x_c' M_c x_c - 2 x_c' v_c ] + E|t|^2,     x_c = (alpha(c), beta(c))

So the best gate is x_c = M_c^-1 v_c, and any other is compared with it after its two coefficients are tuned.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from hpt.config.settings import GateSettings
from hpt.laboratory.errors import ADHERENCE, Size
from hpt.laboratory.exact import Experiment
from hpt.laboratory.experiment import Draws, make_experiment, row_gradients, sample_draws
from hpt.methods.gate import feedback_coefficients
from hpt.upge.estimator import ROWS

#: x_c of a gate, (alpha [n + 1], beta [n + 1]).
Weights = tuple[np.ndarray, np.ndarray]
#: The objectives a gate can serve: name -> (mu, whether the reward's part is log E[r]).
OBJECTIVES = {
    "expected reward": (0.0, False),
    "log of expected reward": (0.0, True),
    "Common Objective": (ADHERENCE, False),
}
#: The best gate there is, and the gates that are compared pair by pair.
LEAST = "least error"
COMPARED = ("switch at 0/{n}", "no gate: both always", "RL alone", "SFT alone", LEAST)
RESAMPLES = 200


class GateMoments(NamedTuple):
    """What the error of every gate follows from: M_c [n + 1, 2, 2], v_c [n + 1, 2], E|t|^2, and shares of c [n + 1]."""

    second: np.ndarray
    cross: np.ndarray
    size: float
    share: np.ndarray


def total(moments: Iterable[GateMoments]) -> GateMoments:
    """Return the sum over questions: one learning rate and one gate for all of them."""
    second, cross, size, share = zip(*moments, strict=True)
    return GateMoments(np.sum(second, 0), np.sum(cross, 0), sum(size), np.sum(share, 0))


def gate_moments(experiment: Experiment, draws: Draws, log_success: bool = False) -> GateMoments:
    """Return the moments of one question, with Dr. GRPO as the online row and SFT as the offline one.

    Both gradients are sums over tokens (the normalisation ``per_prompt`` without its constants): a row's token mean
    would weigh a demonstration by its length. With ``log_success`` the reward's part of t is the gradient of log E[r]
    instead of E[r], so that a question that is hardly ever solved counts as much as one that is half solved.
    """
    target, n = experiment.true_gradient, experiment.rollouts
    if log_success:
        target = target + (1 / experiment.success - 1) * replace(experiment, mu=0.0).true_gradient
    summed = [replace(ROWS[name], aggregation="constant_length") for name in ("dr_grpo", "sft")]
    on, off = (row_gradients(row.name, experiment, draws, row)[0] * experiment.policy.space.length for row in summed)
    correct = experiment.reward[draws.rollouts].sum(1).long().numpy()
    products = torch.stack([(on * on).sum(1), (on * off).sum(1), (off * off).sum(1), on @ target, off @ target], 1)
    sums = np.zeros((n + 1, 5))
    np.add.at(sums, correct, (products * draws.weights[:, None]).numpy())
    share = np.bincount(correct, weights=draws.weights.numpy(), minlength=n + 1)
    return GateMoments(sums[:, [[0, 1], [1, 2]]], sums[:, 3:], float(target @ target), share)


def gate_error(moments: GateMoments, weights: Weights, tuned: bool = True) -> float:
    """Return E|alpha g_on + beta g_off - t|^2 / E|t|^2 of a gate, given at every count.

    ``tuned`` multiplies alpha and beta each by its best constant (the coefficients and learning rate that training
    tunes); False takes the weights as they are.
    """
    x = np.stack(weights, 1)
    second = np.einsum("ci,cij,cj->ij", x, moments.second, x)
    cross = np.einsum("ci,ci->i", x, moments.cross)
    scale = _nonnegative_solution(second, cross) if tuned else np.ones(2)
    return float((scale @ second @ scale - 2 * scale @ cross + moments.size) / moments.size)


def best_gate(moments: GateMoments) -> Weights:
    """Return the gate of least error, both weights at least 0.

    alpha is 0 where the online gradient is nothing whatever its weight (all right, all wrong).
    """
    solved = np.array([_nonnegative_solution(*block) for block in zip(moments.second, moments.cross, strict=True)])
    return solved[:, 0], solved[:, 1]


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
    """Return (alpha, beta) of one of the package's gates, or of a user's, at every count 0..n."""
    return feedback_coefficients(settings, np.arange(n + 1), n)


def smooth_gates(n: int) -> dict[str, Weights]:
    """Return named gates to compare: Eq. 10 at every threshold, smooth ones, and none at all."""
    settings = {f"switch at {count}/{n}": GateSettings(kind="switch", count=count) for count in range(n)}
    settings["linear"] = GateSettings(kind="linear")
    for slope, count in itertools.product((5.0, 20.0), (0, n // 4)):
        settings[f"sigmoid at {count}/{n}, slope {slope:g}"] = GateSettings(kind="sigmoid", count=count, slope=slope)
    for name, alpha, beta in (("no gate: both always", 1.0, 1.0), ("RL alone", 1.0, 0.0), ("SFT alone", 0.0, 1.0)):
        settings[name] = GateSettings(kind="constant", alpha=alpha, beta=beta)
    return {name: gate_weights(gate, n) for name, gate in settings.items()}


def gate_table(
    size: Size, n: int = 8, seed: int = 0, more: Mapping[str, Weights] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the error of every gate, the gate of least error, and gates against each other, for each of `OBJECTIVES`.

    Over ``2 size.questions`` success rates, even over 0.02 to 0.98, with n rollouts each; ``more`` are further gates.

    Returns:
        errors: objective, gate, error with ``low`` and ``high`` (95 %, resampling questions), the best gate among them.
        weights: objective, correct (count), alpha, beta (of the best gate), share (how often the count occurs).
        differences: objective, gate, against, difference (error of ``against`` minus that of ``gate``) with ``low`` and
            ``high``, of every pair of `COMPARED`, on the same resamples.
    """
    errors, weights, differences = [], [], []
    gates = {**smooth_gates(n), **(more or {})}
    for objective, (mu, log_success) in OBJECTIVES.items():
        parts = []
        for index, rate in enumerate(np.linspace(0.02, 0.98, 2 * size.questions)):
            experiment = make_experiment(seed + index, success=float(rate), mu=mu, distance=0.5, rollouts=n)
            parts.append(
                gate_moments(experiment, sample_draws(experiment, size.draws, seed + 2000 + index), log_success)
            )
        # all questions, then every resample of them; each gate is tuned anew on each
        generator = np.random.default_rng(seed)
        chosen = [generator.integers(0, len(parts), len(parts)) for _ in range(RESAMPLES)]
        sums = [total(parts), *(total(parts[i] for i in places) for places in chosen)]
        found = {name: np.array([gate_error(one, gate) for one in sums]) for name, gate in gates.items()}
        found[LEAST] = np.array([gate_error(one, best_gate(one), tuned=False) for one in sums])
        for gate, values in found.items():
            errors.append({"objective": objective, "gate": gate, **_with_interval("error", values)})
        for gate, against in itertools.permutations((name.format(n=n) for name in COMPARED), 2):
            line = _with_interval("difference", found[against] - found[gate])
            differences.append({"objective": objective, "gate": gate, "against": against, **line})
        (alpha, beta), share = best_gate(sums[0]), sums[0].share / sums[0].share.sum()
        best = {"objective": objective, "correct": np.arange(n + 1), "alpha": alpha, "beta": beta, "share": share}
        weights.append(pd.DataFrame(best))
    return pd.DataFrame(errors), pd.concat(weights, ignore_index=True), pd.DataFrame(differences)


def _with_interval(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {name: float(values[0]), "low": float(low), "high": float(high)}
