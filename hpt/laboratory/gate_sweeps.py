"""Gates as estimators (Eq. 9): the error of each, the one of least error, and where learning from rollouts takes over.

The tables are like those of `hpt.laboratory.sweeps`: seeded, pooled over questions, a scale says how many.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hpt.laboratory.errors import pooled
from hpt.laboratory.experiment import sample_draws
from hpt.laboratory.gates import GateMoments, Weights, best_gate, gate_error, gate_moments, smooth_gates, total
from hpt.laboratory.questions import make_experiment
from hpt.laboratory.sweeps import ADHERENCE, DIALS, Size, measure_all

#: The objectives a gate can serve: name -> (mu, whether the reward's part is log E[r]).
OBJECTIVES = {
    "expected reward": (0.0, False),
    "log of expected reward": (0.0, True),
    "Common Objective": (ADHERENCE, False),
}


#: The best gate there is, and the gates that are compared pair by pair.
LEAST = "least error"
COMPARED = ("switch at 0/{n}", "no gate: both always", "RL alone", "SFT alone", LEAST)


def gate_table(
    size: Size,
    n: int = 8,
    seed: int = 0,
    success: Sequence[float] | None = None,
    more: Mapping[str, Weights] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the error of every gate, the gate of least error, and gates against each other, for each of `OBJECTIVES`.

    Args:
        size: how much is measured; ``2 questions`` success rates are used.
        n: rollouts per question.
        seed: of questions and draws.
        success: rates of the questions; None = even over 0.02 to 0.98. Records of a run give a law of its own.
        more: further gates by name, (alpha [n + 1], beta [n + 1]).

    Returns:
        errors: objective, gate, error with ``low`` and ``high`` (95 %, resampling questions), the best gate among them.
        weights: objective, correct (count), alpha, beta (of the best gate), share (how often the count occurs).
        differences: objective, gate, against, difference (error of ``against`` minus that of ``gate``) with ``low`` and
            ``high``, of every pair of `COMPARED`, on the same resamples.
    """
    rates = np.linspace(0.02, 0.98, 2 * size.questions) if success is None else np.asarray(success, float)
    errors, weights, differences = [], [], []
    for objective, (mu, log_success) in OBJECTIVES.items():
        parts = [
            gate_moments(experiment, sample_draws(experiment, size.draws, seed + 2000 + index), log_success=log_success)
            for index, experiment in enumerate(
                make_experiment(seed + index, success=float(rate), mu=mu, distance=0.5, rollouts=n)
                for index, rate in enumerate(rates)
            )
        ]
        found = gate_errors(parts, seed, more=more)
        errors += [{"objective": objective, "gate": gate, **_with_interval(error)} for gate, error in found.items()]
        for gate, against in itertools.permutations((name.format(n=n) for name in COMPARED), 2):
            line = _with_interval(found[against] - found[gate])
            differences.append({"objective": objective, "gate": gate, "against": against,
                                "difference": line["error"], "low": line["low"], "high": line["high"]})  # fmt: skip
        whole = total(parts)
        alpha, beta = best_gate(whole)
        share = whole.share / whole.share.sum()
        best = {"objective": objective, "correct": np.arange(n + 1), "alpha": alpha, "beta": beta, "share": share}
        weights.append(pd.DataFrame(best))
    return pd.DataFrame(errors), pd.concat(weights, ignore_index=True), pd.DataFrame(differences)


def gate_errors(
    parts: Sequence[GateMoments], seed: int = 0, resamples: int = 200, more: Mapping[str, Weights] | None = None
) -> dict[str, np.ndarray]:
    """Return the error of every gate on all questions, then on every resample of them, each time tuned anew.

    Returns:
        gate -> [1 + resamples]; the gate of least error among them.
    """
    generator = np.random.default_rng(seed)
    chosen = [generator.integers(0, len(parts), len(parts)) for _ in range(resamples)]
    sums = [total(parts), *(total(parts[i] for i in places) for places in chosen)]
    found = {
        name: np.array([gate_error(moments, weights) for moments in sums])
        for name, weights in {**smooth_gates(parts[0].rollouts), **(more or {})}.items()
    }
    return found | {LEAST: np.array([gate_error(moments, best_gate(moments), tuned=False) for moments in sums])}


def _with_interval(values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"error": float(values[0]), "low": float(low), "high": float(high)}


def threshold(size: Size, seed: int = 0, online: str = "dr_grpo", offline: str = "sft") -> pd.DataFrame:
    """Return where RL becomes better than SFT as P rises: the success rate at which their errors cross.

    Returns:
        A line per (rollouts, distance): ``success`` where the pooled errors cross (0 = RL is better throughout, 1 =
        SFT is), ``count`` = success x rollouts, and the bounds between which it lies on the grid.
    """
    grid, lines = DIALS["success"].values, []
    for n in (4, 8, 16):
        for distance in (0.0, 0.5, 1.0):
            differences = []
            for value in grid:
                experiments = [
                    make_experiment(seed + index, success=value, distance=distance, rollouts=n)
                    for index in range(size.questions)
                ]
                measured = measure_all(experiments, size.draws, {"on": online, "off": offline}, seed)
                frame = pooled(measured).set_index("row")
                differences.append(float(frame["error"]["off"] - frame["error"]["on"]))
            lines.append({"rollouts": n, "distance": distance, **_crossing(grid, differences, n)})
    return pd.DataFrame(lines)


def _crossing(grid: Sequence[float], differences: Sequence[float], n: int) -> dict[str, float]:
    """Return the success rate at which ``differences`` (SFT's error minus RL's) first become positive."""
    better = [position for position, difference in enumerate(differences) if difference > 0]
    if not better:
        return {"success": 1.0, "count": float(n)}
    if (after := better[0]) == 0:
        return {"success": 0.0, "count": 0.0}
    success = float(np.interp(0.0, differences[after - 1 : after + 1], grid[after - 1 : after + 1]))
    return {"success": success, "count": success * n}
