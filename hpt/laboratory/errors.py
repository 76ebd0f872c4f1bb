"""Bias, variance and mean squared error of every row, against the known gradient t = grad J_mu of the Common Objective.

    bias        E[g] against t: the angle between them, and how long one is beside the other
    variance    E|g - E g|^2
    error       min_k E|k g - t|^2 / |t|^2: what no learning rate can remove, 0 = exact, 1 = useless

Rows differ in scale (1/n, 1/length, 1/std), which a learning rate absorbs; so bias and noise are also given
*per unit of progress*, with g scaled to E[g] . t = |t|^2: ``bias_across`` is what remains of E[g] across t, ``noise``
the standard deviation, both in units of |t|. Then error = 1 - 1 / (1 + bias_across^2 + noise^2).

Several questions with separate parameters are one problem with a longer gradient: sums over questions, one learning
rate for all. A row that weighs questions wrongly (dividing by std, say) is biased there and not on any one of them.

The tables of Section 2.3 (`sweep`, `plane`, `conflict`) are in long form, pooled over questions whose success rates are
spread over 0.1 to 0.9 unless success is the dial. Everything is seeded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from hpt.config.run_config import RunConfig
from hpt.laboratory.exact import Experiment
from hpt.laboratory.experiment import (
    USES,
    Draws,
    made_stale,
    make_experiment,
    method_gradients,
    row_gradients,
    sample_draws,
)
from hpt.support.files import read_json

#: What `benchmarks/checkpoint_error.py` measured on a run of a real small model.
CHECKPOINTS = Path(__file__).with_name("checkpoints.json")
#: What `derived` needs, added over questions: E[g] . t, |E g|^2, E|g|^2, |t|^2.
SUMS = ("along", "mean_square", "square", "size")
RESAMPLES = 2000
#: A difference of sums of size 1 is known to 1e-16, its root to 1e-8. Below this it is rounding, which differs between
#: processors, and counts as 0.
ROUNDING = 1e-12
#: KL(pi_old || pi) of a trajectory that counts as stale where staleness is not the dial, nats.
STALE = 0.02
#: mu of the Common Objective where it is not the dial and demonstrations are meant to count.
ADHERENCE = 0.3
#: Label -> a name of `USES` or a user's ``module:ROW``, or the settings of a whole method.
Rows = Mapping[str, str | RunConfig]


def sums_of(gradients: Tensor, draws: Draws, target: Tensor) -> dict[str, float]:
    """Return E[g] . t, |E g|^2, E|g|^2 and |t|^2 of one question from g [S, D] of every draw and t [D].

    |mean g|^2 is freed of the share of noise it holds.
    """
    mean, squares, count = draws.weights @ gradients, (gradients**2).sum(1), len(gradients)
    mean_square = (count * float(mean @ mean) - float(squares.sum()) / count) / (count - 1)
    values = (float(mean @ target), mean_square, float(draws.weights @ squares), float(target @ target))
    return dict(zip(SUMS, values, strict=True))


def derived(along: Any, mean_square: Any, square: Any, size: Any) -> dict[str, Any]:
    """Return bias, variance and error from the four sums; numbers, or arrays of any one shape.

    cosine (of E[g] and t), angle (degrees), length (|E g| / |t|), bias (|E g - t| / |t|), variance (E|g - E g|^2 /
    |t|^2), mse (E|g - t|^2 / |t|^2), bias_across, noise, error. bias_across and noise are infinite where E[g] makes no
    progress; all are NaN without a signal (size 0).
    """
    along, square, size = (np.asarray(value, np.float64) for value in (along, square, size))
    with np.errstate(divide="ignore", invalid="ignore"):
        # Cauchy-Schwarz, which an unbiased estimate may miss
        least = along * along / size
        mean_square = np.where(mean_square > least * (1 + ROUNDING), mean_square, least)
        cosine = np.where(mean_square > 0, along / np.sqrt(mean_square * size), np.nan)
        progress = along / size  # in units of |t|
        across = np.maximum(0.0, (mean_square - least) / size)
        variance = np.where(square > mean_square * (1 + ROUNDING), (square - mean_square) / size, 0.0)
        found = {
            "cosine": cosine,
            # not arccos, which makes 1e-8 of the last bit of a cosine of 1
            "angle": np.where(np.isnan(cosine), np.nan, np.degrees(np.arctan2(np.sqrt(across), progress))),
            "length": np.sqrt(mean_square / size),
            "bias": np.sqrt(_beyond_rounding(across + (progress - 1) ** 2)),
            "variance": variance,
            "mse": _beyond_rounding((square - 2 * along + size) / size),
            "bias_across": np.where((along > 0) & (progress > 0), np.sqrt(across) / progress, np.inf),
            "noise": np.where((along > 0) & (progress > 0), np.sqrt(variance) / progress, np.inf),
            "error": np.where(square > 0, _beyond_rounding(1 - np.maximum(along, 0.0) ** 2 / (square * size)), 1.0),
        }
    return {name: np.where(size == 0, np.nan, values) for name, values in found.items()}


def _beyond_rounding(difference: np.ndarray) -> np.ndarray:
    """Return a difference of numbers of size 1 with 0 in place of what is rounding."""
    return np.where(np.abs(difference) <= ROUNDING, 0.0, difference)


def measure(rows: Rows, experiment: Experiment, draws: Draws) -> pd.DataFrame:
    """Return one line per row: its name, `SUMS`, and the tokens it saw and dropped.

    The draws are the same for all rows, so that differences between rows are not luck.
    """
    lines = []
    for label, use in rows.items():
        if isinstance(use, RunConfig):
            gradients, sums = method_gradients(use, experiment, draws)
        else:
            gradients, sums = row_gradients(use, experiment, draws)
        found = sums_of(gradients, draws, experiment.true_gradient)
        lines.append({"row": label, **found, "tokens": sums["tokens"], "masked_tokens": sums["masked_tokens"]})
    return pd.DataFrame(lines)


def measure_all(experiments: Sequence[Experiment], draws: int, rows: Rows | None = None, seed: int = 0) -> pd.DataFrame:
    """Return `measure` of several questions below each other, with a column ``question``."""
    rows = {name: name for name in USES} if rows is None else rows
    return pd.concat(
        [
            measure(rows, experiment, sample_draws(experiment, draws, seed + 1000 + index)).assign(question=index)
            for index, experiment in enumerate(experiments)
        ],
        ignore_index=True,
    )


def pooled(measured: pd.DataFrame, by: Sequence[str] = ("row",), seed: int = 0) -> pd.DataFrame:
    """Return `derived` of sums of `measure` over questions, with 95 % intervals that resample the questions.

    One line per combination of the columns ``by``, in order of appearance: `derived`, ``masked`` (share of tokens
    dropped) and ``<name>_low``, ``<name>_high`` where there are at least three questions.
    """
    lines: list[dict[str, Any]] = []
    for key, lines_of in measured.groupby(list(by), sort=False):
        sums = lines_of[list(SUMS)].to_numpy()
        line = dict(zip(by, key, strict=True))
        line |= {name: float(value) for name, value in derived(*sums.sum(0)).items()}
        line["masked"] = lines_of["masked_tokens"].sum() / lines_of["tokens"].sum()
        if len(sums) >= 3:
            chosen = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
            for name, values in derived(*sums[chosen].sum(1).T).items():
                # no interpolation: between a number and infinity there is none; a resample of questions without any
                # signal (t = 0, or so little that an estimate of |t|^2 is negative) says nothing
                low, high = np.nanquantile(values, [0.025, 0.975], method="inverted_cdf")
                line |= {f"{name}_low": low, f"{name}_high": high}
        lines.append(line)
    return pd.DataFrame(lines)


# The measurements of Section 2.3


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    questions: int
    draws: int


@dataclass(frozen=True)
class Dial:
    """What is varied: (seed, default success, value) -> the experiment; ``label`` is of an axis, with its unit."""

    label: str
    values: tuple[float, ...]
    experiment: Callable[[int, float, float], Experiment]
    logarithmic: bool = False


DIALS: dict[str, Dial] = {
    "staleness": Dial(
        "KL(old policy || policy), nats per response", (0.0, 0.003, 0.01, 0.03, 0.1, 0.3),
        lambda seed, success, value: made_stale(make_experiment(seed, success=success), value, seed)),
    "rollouts": Dial(
        "rollouts per question n", (2, 4, 8, 16, 32),
        lambda seed, success, value: make_experiment(seed, success=success, rollouts=int(value)), True),
    "success": Dial(
        "success rate P", (0.01, 0.03, 0.06, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.95, 0.99),
        lambda seed, success, value: make_experiment(seed, success=value, distance=0.5)),
    "distance": Dial(
        "distance of the demonstrator from the policy's own right answers", (0.0, 0.25, 0.5, 0.75, 1.0),
        lambda seed, success, value: make_experiment(seed, success=success, distance=value)),
    "mu": Dial(
        "weight mu of data adherence (Eq. 1)", (0.0, 0.1, 0.3, 1.0, 3.0),
        lambda seed, success, value: make_experiment(seed, success=success, mu=value)),
}  # fmt: skip


def _questions(count: int) -> list[tuple[int, float]]:
    """Return (index, success rate) of so many questions, even over 0.1 to 0.9."""
    return list(enumerate(np.linspace(0.1, 0.9, count).tolist()))


def sweep(dial: str, size: Size, rows: Rows | None = None, seed: int = 0) -> pd.DataFrame:
    """Return bias, variance and error of every row at every setting of a dial: `pooled`, and dial and value."""
    turned, lines = DIALS[dial], []
    for value in turned.values:
        experiments = [turned.experiment(seed + index, success, value) for index, success in _questions(size.questions)]
        frame = measure_all(experiments, size.draws, rows, seed)
        lines.append(pooled(frame, seed=seed).assign(dial=dial, value=value))
    return pd.concat(lines, ignore_index=True)


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
            made_stale(make_experiment(seed + index, success=success, mu=mu, distance=0.5), divergence, seed)
            for index, success in _questions(size.questions)
        ]
        lines.append(measure_all(experiments, size.draws, rows, seed).assign(situation=situation))
    return pd.concat(lines, ignore_index=True)


def plane(sums: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return bias, variance and error of every row in each situation, pooled over the questions of `plane_sums`."""
    parts = sums.groupby("situation", sort=False)
    return pd.concat([pooled(part, seed=seed).assign(situation=name) for name, part in parts], ignore_index=True)


def conflict(size: Size, seed: int = 0) -> pd.DataFrame:
    """Return the exact cosine between the two terms of Eq. 2, E_pi[r grad log pi] and E_beta[grad log pi].

    Nothing is sampled: a line per question with success, distance, slips (of the demonstrator), question, cosine.
    """
    lines = []
    shares, distances = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98), (0.0, 0.5, 1.0)
    for slips, distance, success in itertools.product((0.0, 0.3), distances, shares):
        for question in range(2 * size.questions):
            experiment = make_experiment(seed + question, success=success, distance=distance, slips=slips)
            reward, demonstration = experiment.true_gradient, experiment.demonstrator @ experiment.scores
            cosine = float(reward @ demonstration / (reward.norm() * demonstration.norm()))
            lines.append((success, distance, slips, question, cosine))
    return pd.DataFrame(lines, columns=["success", "distance", "slips", "question", "cosine"])


def load_checkpoints() -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the measurement at the checkpoints of a run: whose run and how much, and lines that `pooled` takes.

    A line per step, question and row.

    Example:
        >>> load_checkpoints()[1].columns[:4].tolist()
        ['step', 'question', 'success', 'row']
    """
    content = read_json(CHECKPOINTS)
    lines = pd.DataFrame(content.pop("lines"))
    return content, lines
