"""Bias, variance and mean squared error of every row, against the known gradient t = grad J_mu of the Common Objective.

    bias        E[g] against t: the angle between them, and how long one is beside the other
    variance    E|g - E g|^2
    error       min_k E|k g - t|^2 / |t|^2: what no learning rate can mend, 0 = exact, 1 = useless

Rows have scales of their own (1/n, 1/length, 1/std), which a learning rate absorbs; so bias and noise are also given
*per unit of progress*, with g scaled to E[g] . t = |t|^2: ``bias_across`` is what remains of E[g] across t, ``noise``
the standard deviation, both in units of |t|. Then error = 1 - 1 / (1 + bias_across^2 + noise^2).

Several questions with parameters of their own are one problem with a longer gradient: sums over questions, one learning
rate for all. A row that weighs questions wrongly (dividing by std, say) is biased there and not on any one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from hpt.config.run_config import RunConfig
from hpt.laboratory.experiment import Draws, Experiment, row_gradients
from hpt.laboratory.own import method_gradients
from hpt.methods.methods import Component

#: What `derived` needs, added over questions: E[g] . t, |E g|^2, E|g|^2, |t|^2.
SUMS = ("along", "mean_square", "square", "size")
RESAMPLES = 2000
#: A difference of sums of size 1 is known to 1e-16, its root to 1e-8. Below this it is rounding, which differs between
#: processors, and counts as 0.
ROUNDING = 1e-12


def sums_of(gradients: Tensor, draws: Draws, target: Tensor) -> dict[str, float]:
    """Return E[g] . t, |E g|^2, E|g|^2 and |t|^2 of one question.

    Of sampled draws, |mean g|^2 is freed of the share of noise it holds.

    Args:
        gradients: g of every draw, [S, D].
        draws: with their weights.
        target: t, [D].
    """
    mean, squares = draws.weights @ gradients, (gradients**2).sum(1)
    plain, count = float(mean @ mean), len(gradients)
    if not draws.listed and count > 1:
        plain = (count * plain - float(squares.sum()) / count) / (count - 1)
    return dict(
        zip(SUMS, (float(mean @ target), plain, float(draws.weights @ squares), float(target @ target)), strict=True)
    )


def derived(along: Any, mean_square: Any, square: Any, size: Any) -> dict[str, Any]:
    """Return bias, variance and error from the four sums; numbers, or arrays of any one shape.

    Returns:
        cosine (of E[g] and t), angle (degrees), length (|E g| / |t|), bias (|E g - t| / |t|), variance (E|g - E g|^2 /
        |t|^2), mse (E|g - t|^2 / |t|^2), bias_across, noise, error. bias_across and noise are infinite where E[g] makes
        no progress; all are NaN without a signal (size 0).

    Example:
        >>> exact = derived(along=4.0, mean_square=4.0, square=5.0, size=4.0)
        >>> float(exact["cosine"]), float(exact["noise"]), float(exact["error"])
        (1.0, 0.5, 0.2)
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


def measure(rows: Mapping[str, Component | str | RunConfig], experiment: Experiment, draws: Draws) -> pd.DataFrame:
    """Return one line per row: its name, `SUMS`, and the tokens it saw and dropped.

    Args:
        rows: label -> how the row is used (`hpt.laboratory.experiment.USES`), or the settings of a whole method.
        experiment: the question.
        draws: the same for all rows, so that differences between rows are not luck.

    Example:
        >>> from hpt.laboratory.questions import make_experiment
        >>> from hpt.laboratory.experiment import list_draws
        >>> own = make_experiment(seed=0, vocabulary=3, length=2, correct_share=0.3, rollouts=2)
        >>> found = pooled(measure({"RLOO": "rloo"}, own, list_draws(own, with_demonstrations=False)))
        >>> float(found["cosine"].iloc[0])  # unbiased on its own policy's rollouts
        1.0
    """
    lines = []
    for label, component in rows.items():
        gradients, sums = (
            method_gradients(component, experiment, draws)
            if isinstance(component, RunConfig)
            else row_gradients(component, experiment, draws)
        )
        found = sums_of(gradients, draws, experiment.true_gradient)
        lines.append({"row": label, **found, "tokens": sums["tokens"], "masked_tokens": sums["masked_tokens"]})
    return pd.DataFrame(lines)


def pooled(measured: pd.DataFrame, by: Sequence[str] = ("row",), seed: int = 0) -> pd.DataFrame:
    """Return `derived` of sums over questions, with 95 % intervals that resample the questions.

    Args:
        measured: lines of `measure`; with several questions, a column ``question``.
        by: columns that tell apart what is pooled.
        seed: of the bootstrap.

    Returns:
        One line per combination of ``by``, in order of appearance: `derived`, ``masked`` (share of tokens dropped) and
        ``<name>_low``, ``<name>_high`` where there are at least three questions.
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
                line[f"{name}_low"], line[f"{name}_high"] = _interval(values)
        lines.append(line)
    return pd.DataFrame(lines)


def _interval(values: np.ndarray) -> np.ndarray:
    # no interpolation: between a number and infinity there is none; a resample of questions without any signal (t = 0,
    # or so little that an estimate of |t|^2 is negative) says nothing
    return np.nanquantile(values, [0.025, 0.975], method="inverted_cdf")
