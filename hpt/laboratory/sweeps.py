"""The measurements of Section 2.3: every row's bias, variance and error as one dial is turned at a time.

Each function returns a table in long form, one line per row and setting of the dial, pooled over questions whose
success rates are spread over 0.1 to 0.9 unless success is the dial. Everything is seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hpt.config.run_config import RunConfig
from hpt.laboratory.errors import measure, pooled
from hpt.laboratory.experiment import USES, Experiment, sample_draws
from hpt.laboratory.questions import made_stale, make_experiment
from hpt.methods.methods import Component
from hpt.support.errors import ConfigError

#: KL(pi_old || pi) of a trajectory that counts as stale where staleness is not the dial, nats.
STALE = 0.02
#: mu of the Common Objective where it is not the dial and demonstrations are meant to count.
ADHERENCE = 0.3
Rows = Mapping[str, Component | str | RunConfig]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    questions: int
    draws: int


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

    Returns:
        A line per (dial, value, row) with the columns of `hpt.laboratory.errors.pooled`.
    """
    if dial not in DIALS:
        raise ConfigError("dial", dial, "one of " + ", ".join(DIALS), "correct the name")
    turned, lines = DIALS[dial], []
    for value in turned.values:
        experiments = [
            turned.experiment(seed + index, float(success), value)
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
            measure(rows, experiment, sample_draws(experiment, draws, seed + 1000 + index)).assign(question=index)
            for index, experiment in enumerate(experiments)
        ],
        ignore_index=True,
    )


#: The three situations of the bias-variance plane: name -> (mu, staleness).
SITUATIONS = {
    "fresh rollouts, expected reward": (0.0, 0.0),
    "stale rollouts, expected reward": (0.0, STALE),
    "fresh rollouts, Common Objective": (ADHERENCE, 0.0),
}


def plane_sums(size: Size, rows: Rows | None = None, seed: int = 0) -> pd.DataFrame:
    """Return `measure_all` in each of `SITUATIONS`, a line per row and question with a column ``situation``."""
    lines = []
    for situation, (mu, divergence) in SITUATIONS.items():
        experiments = [
            made_stale(make_experiment(seed + index, success=float(success), mu=mu, distance=0.5), divergence, seed)
            for index, success in enumerate(spread_success(size.questions))
        ]
        lines.append(measure_all(experiments, size.draws, rows, seed).assign(situation=situation))
    return pd.concat(lines, ignore_index=True)


def plane(sums: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return bias, variance and error of every row in each situation, pooled over the questions of `plane_sums`."""
    parts = sums.groupby("situation", sort=False)
    return pd.concat([pooled(part, seed=seed).assign(situation=name) for name, part in parts], ignore_index=True)


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
                    experiment = make_experiment(seed + question, success=success, distance=distance, slips=slips)
                    reward = experiment.true_gradient
                    scores = experiment.policy.space.incidence @ experiment.token_scores
                    demonstration = experiment.question.demonstrator @ scores
                    cosine = float(reward @ demonstration / (reward.norm() * demonstration.norm()))
                    lines.append((success, distance, slips, question, cosine))
    return pd.DataFrame(lines, columns=["success", "distance", "slips", "question", "cosine"])
