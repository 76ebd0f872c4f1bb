"""Curves over training: one value per seed and step, their mean and its band."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from hpt.export import RunRecords
from hpt.stats import MIN_SEEDS

LEVEL = 0.95


def metric_curve(runs: Sequence[RunRecords], metric: str, window: int = 1) -> pd.DataFrame:
    """Return the curve of a metric: step, mean, low, high, and a column per seed.

    Args:
        runs: of one method on one base, one per seed.
        metric: column of ``metrics``; NaN where a run does not have it.
        window: steps averaged around each (shorter at both ends), so that batches of a few questions show a trend.

    Returns:
        One row per step that any seed has.
    """
    values = {
        run.seed: run.metrics.set_index("step")[metric].astype(float)
        for run in runs
        if metric in run.metrics and run.metrics[metric].notna().any()
    }
    smooth = {seed: own.rolling(window, center=True, min_periods=1).mean() for seed, own in values.items()}
    return over_seeds(smooth)


def validation_curve(runs: Sequence[RunRecords], benchmark: str) -> pd.DataFrame:
    """Return the validation accuracy of a set in percent: step, mean, low, high, and a column per seed."""
    values = {}
    for run in runs:
        own = run.validation[run.validation["benchmark"] == benchmark]
        shares = 100 * own["correct"].astype(float) / own["samples"].astype(float)
        if len(own):
            values[run.seed] = shares.groupby(own["step"].astype(int)).mean()
    return over_seeds(values)


def mean_validation_curve(runs: Sequence[RunRecords], benchmarks: Sequence[str]) -> pd.DataFrame:
    """Return the unweighted mean of the validation accuracy of several sets, percent; columns as `validation_curve`."""
    values: dict[int, pd.Series] = {}
    for run in runs:
        own = run.validation[run.validation["benchmark"].isin(list(benchmarks))]
        if len(own):
            shares = 100 * own["correct"].astype(float) / own["samples"].astype(float)
            per_set = shares.groupby([own["step"].astype(int), own["benchmark"]]).mean()
            values[run.seed] = per_set.groupby(level=0).mean()
    return over_seeds(values)


def over_seeds(values: Mapping[int, pd.Series]) -> pd.DataFrame:
    """Return mean and band over seeds, step by step.

    The band is Student's t at 95 % over at least three seeds; with two its factor is 12.7 and it would hide the curve,
    so ``low`` and ``high`` are NaN and each seed is drawn as its own line.

    Args:
        values: seed to a series indexed by step.

    Example:
        >>> over_seeds({0: pd.Series([1.0], index=[5]), 1: pd.Series([3.0], index=[5])}).iloc[0].to_list()
        [5.0, 2.0, nan, nan, 1.0, 3.0]
    """
    if not values:
        return pd.DataFrame(columns=["step", "mean", "low", "high"])
    frame = pd.DataFrame({f"seed_{seed}": values[seed] for seed in sorted(values)}).sort_index()
    seeds = frame.notna().sum(axis=1).to_numpy()
    mean = frame.mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = stats.t.ppf((1 + LEVEL) / 2, np.maximum(seeds - 1, 1))
        half = np.where(seeds >= MIN_SEEDS, factor * frame.std(axis=1, ddof=1).to_numpy() / np.sqrt(seeds), np.nan)
    band = pd.DataFrame({"step": frame.index, "mean": mean, "low": mean - half, "high": mean + half}, index=frame.index)
    return pd.concat([band, frame], axis=1).reset_index(drop=True)


def smoothing_window(steps: int) -> int:
    """Return the steps averaged in curves of per-step metrics: a fortieth of training, odd, at least 1.

    Example:
        >>> smoothing_window(600), smoothing_window(6)
        (15, 1)
    """
    window = max(1, steps // 40)
    return window if window % 2 else window + 1 if window > 2 else 1
