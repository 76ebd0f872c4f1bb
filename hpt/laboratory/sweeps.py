"""The measurements of Section 2.3: every row's bias, variance and error as one dial is turned at a time.

Each function returns a table in long form, one line per row and setting of the dial, pooled over questions whose
success rates are spread over 0.1 to 0.9 unless success is the dial. Everything is seeded; a scale only says how many
questions and draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpt.errors import ConfigError
from hpt.laboratory.errors import measure, pooled
from hpt.laboratory.experiment import USES, Experiment, sample_draws
from hpt.laboratory.gates import GateMoments, best_gate, gate_error, gate_moments, smooth_gates, total
from hpt.laboratory.questions import made_stale, make_experiment
from hpt.methods import Component

#: KL(pi_old || pi) of a trajectory that counts as stale where staleness is not the dial, nats.
STALE = 0.02
#: mu of the Common Objective where it is not the dial and demonstrations are meant to count.
ADHERENCE = 0.3
Rows = Mapping[str, Component | str]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        questions: random questions pooled.
        draws: of each.
    """

    questions: int
    draws: int


#: By scale; everything above ``tiny`` takes the same minutes on one core.
SIZES = {"tiny": Size(3, 40), "mini": Size(12, 200)}


def size_of(scale: str) -> Size:
    """Return the size at a scale; scales above ``mini`` have ``mini``'s, a laboratory needs no GPU.

    Example:
        >>> size_of("tiny").questions
        3
    """
    return SIZES.get(scale, SIZES["mini"])


@dataclass(frozen=True)
class Dial:
    """What is varied.

    Attributes:
        name: column of the table.
        label: of an axis, with its unit.
        values: settings.
        experiment: (seed, default success, value) -> the experiment.
        logarithmic: whether an axis should be.
    """

    name: str
    label: str
    values: tuple[float, ...]
    experiment: Callable[[int, float, float], Experiment]
    logarithmic: bool = False


DIALS: dict[str, Dial] = {
    dial.name: dial
    for dial in (
        Dial("staleness", "KL(old policy || policy), nats per response", (0.0, 0.003, 0.01, 0.03, 0.1, 0.3),
             lambda seed, success, value: made_stale(make_experiment(seed, success=success), value, seed)),
        Dial("rollouts", "rollouts per question n", (2, 4, 8, 16, 32),
             lambda seed, success, value: make_experiment(seed, success=success, rollouts=int(value)), True),
        Dial("success", "success rate P", (0.01, 0.03, 0.06, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.95, 0.99),
             lambda seed, success, value: make_experiment(seed, success=value, distance=0.5)),
        Dial("distance", "distance of the demonstrator from the policy's own right answers",
             (0.0, 0.25, 0.5, 0.75, 1.0),
             lambda seed, success, value: make_experiment(seed, success=success, distance=value)),
        Dial("mu", "weight mu of data adherence (Eq. 1)", (0.0, 0.1, 0.3, 1.0, 3.0),
             lambda seed, success, value: make_experiment(seed, success=success, mu=value)),
    )
}  # fmt: skip


def spread_success(questions: int) -> np.ndarray:
    """Return success rates for so many questions, even over 0.1 to 0.9.

    Example:
        >>> spread_success(3)
        array([0.1, 0.5, 0.9])
    """
    return np.linspace(0.1, 0.9, questions)


def sweep(dial: str, size: Size, rows: Rows | None = None, seed: int = 0) -> pd.DataFrame:
    """Return bias, variance and error of every row at every setting of a dial.

    Args:
        dial: key of `DIALS`.
        size: how much is measured.
        rows: label -> use of a row; None = all of `USES`.
        seed: of the questions and draws.

    Returns:
        A line per (dial, value, row) with the columns of `hpt.laboratory.errors.pooled`.

    Raises:
        ConfigError: no such dial.
    """
    if dial not in DIALS:
        raise ConfigError("dial", dial, "one of " + ", ".join(DIALS), "correct the name")
    own, lines = DIALS[dial], []
    for value in own.values:
        experiments = [
            own.experiment(seed + index, float(success), value)
            for index, success in enumerate(spread_success(size.questions))
        ]
        frame = measure_all(experiments, size.draws, rows, seed)
        lines.append(pooled(frame, seed=seed).assign(dial=dial, value=value))
    return pd.concat(lines, ignore_index=True)


def measure_all(experiments: Sequence[Experiment], draws: int, rows: Rows | None = None, seed: int = 0) -> pd.DataFrame:
    """Return `measure` of several questions below each other, with a column ``question``; draws are common to rows."""
    rows = {name: name for name in USES} if rows is None else rows
    return pd.concat(
        [
            measure(rows, own, sample_draws(own, draws, seed + 1000 + index)).assign(question=index)
            for index, own in enumerate(experiments)
        ],
        ignore_index=True,
    )


#: The three situations of the bias-variance plane: name -> (mu, staleness).
SITUATIONS = {
    "fresh rollouts, expected reward": (0.0, 0.0),
    "stale rollouts, expected reward": (0.0, STALE),
    "fresh rollouts, Common Objective": (ADHERENCE, 0.0),
}


def plane(size: Size, rows: Rows | None = None, seed: int = 0) -> pd.DataFrame:
    """Return bias, variance and error of every row in each of `SITUATIONS`."""
    lines = []
    for situation, (mu, divergence) in SITUATIONS.items():
        experiments = [
            made_stale(make_experiment(seed + index, success=float(success), mu=mu, distance=0.5), divergence, seed)
            for index, success in enumerate(spread_success(size.questions))
        ]
        frame = measure_all(experiments, size.draws, rows, seed)
        lines.append(pooled(frame, seed=seed).assign(situation=situation))
    return pd.concat(lines, ignore_index=True)


def conflict(size: Size, seed: int = 0) -> pd.DataFrame:
    """Return the exact cosine between the two terms of Eq. 2, E_pi[r grad log pi] and E_beta[grad log pi].

    Returns:
        A line per question: success, distance, slips (of the demonstrator), question, cosine. Nothing is sampled.
    """
    lines = []
    for slips in (0.0, 0.3):
        for distance in (0.0, 0.5, 1.0):
            for success in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98):
                for question in range(2 * size.questions):
                    own = make_experiment(seed + question, success=success, distance=distance, slips=slips)
                    reward = own.true_gradient
                    scores = own.policy.space.incidence @ own.scores
                    demonstration = own.question.demonstrator @ scores
                    cosine = float(reward @ demonstration / (reward.norm() * demonstration.norm()))
                    lines.append((success, distance, slips, question, cosine))
    return pd.DataFrame(lines, columns=["success", "distance", "slips", "question", "cosine"])


#: The objectives a gate can serve: name -> (mu, whether the reward's part is log E[r]).
OBJECTIVES = {
    "expected reward": (0.0, False),
    "log of expected reward": (0.0, True),
    "Common Objective": (ADHERENCE, False),
}


def gate_table(
    size: Size, n: int = 8, seed: int = 0, success: Sequence[float] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the error of every gate, and the gate of least error, for each of `OBJECTIVES`.

    Args:
        size: how much is measured; ``2 questions`` success rates are used.
        n: rollouts per question.
        seed: of questions and draws.
        success: rates of the questions; None = even over 0.02 to 0.98. Records of a run give a law of its own.

    Returns:
        errors: objective, gate, error with ``low`` and ``high`` (95 %, resampling questions), the best gate among them.
        weights: objective, correct (count), alpha, beta (of the best gate), share (how often the count occurs).
    """
    rates = np.linspace(0.02, 0.98, 2 * size.questions) if success is None else np.asarray(success, float)
    errors, weights = [], []
    for objective, (mu, log_success) in OBJECTIVES.items():
        parts = [
            gate_moments(own, sample_draws(own, size.draws, seed + 2000 + index), log_success=log_success)
            for index, own in enumerate(
                make_experiment(seed + index, success=float(rate), mu=mu, distance=0.5, rollouts=n)
                for index, rate in enumerate(rates)
            )
        ]
        errors += [{"objective": objective, **line} for line in gate_errors(parts, seed)]
        whole = total(parts)
        alpha, beta = best_gate(whole)
        share = whole.share / whole.share.sum()
        best = {"objective": objective, "correct": np.arange(n + 1), "alpha": alpha, "beta": beta, "share": share}
        weights.append(pd.DataFrame(best))
    return pd.DataFrame(errors), pd.concat(weights, ignore_index=True)


def gate_errors(parts: Sequence[GateMoments], seed: int = 0, resamples: int = 200) -> list[dict[str, float | str]]:
    """Return the error of every gate with its interval, each gate tuned anew on every resample of the questions."""
    generator = np.random.default_rng(seed)
    chosen = [generator.integers(0, len(parts), len(parts)) for _ in range(resamples)]
    sums = [total(parts), *(total(parts[i] for i in own) for own in chosen)]
    lines: list[dict[str, float | str]] = []
    for name, weights in smooth_gates(parts[0].rollouts).items():
        lines.append({"gate": name, **_with_interval([gate_error(own, weights) for own in sums])})
    best = [gate_error(own, best_gate(own), tuned=False) for own in sums]
    lines.append({"gate": "least error", **_with_interval(best)})
    return lines


def _with_interval(values: Sequence[float]) -> dict[str, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"error": values[0], "low": float(low), "high": float(high)}


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
                own = [
                    make_experiment(seed + index, success=value, distance=distance, rollouts=n)
                    for index in range(size.questions)
                ]
                frame = pooled(measure_all(own, size.draws, {"on": online, "off": offline}, seed)).set_index("row")
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
