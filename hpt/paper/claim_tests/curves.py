"""Tests on curves over training: entropy, response length, offline data ratio, validation (Figures 5 to 8)."""

import numpy as np
import pandas as pd

from hpt.evaluation.intervals import seed_mean
from hpt.paper.claim_tests.records import (
    MIN_STEPS,
    ClaimRecords,
    Condition,
    Finding,
    NotTestable,
    RunFrames,
    both,
    every_seed,
    quantity,
    spread,
    unit_of,
)


def series_above(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    column: str,
    windows: int,
    windows_left_out: int,
    threshold: float,
    windows_above_at_least: int,
) -> Finding:
    """Test that a method's curve lies above a baseline's, on average and nearly everywhere (Figure 7, left).

    Steps are cut into equal windows; the first ``windows_left_out`` do not count. It holds when the mean difference is
    above the threshold over seeds and every seed has enough windows above it; it fails when the mean difference is
    below, or no seed has enough windows.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        whose = f"{records.label(method)} and {records.label(baseline)} of seed {seed}"
        curve, other = _two_curves(runs[method], runs[baseline], column, whose)
        differences = _window_means(curve - other, windows)[windows_left_out:]
        per_seed[seed] = float(differences.mean())
        above = int((differences > threshold).sum())
        conditions[seed] = [Condition(f"windows above, of {len(differences)}:", above, at_least=windows_above_at_least)]
    difference = seed_mean(list(per_seed.values()))
    everywhere, met = every_seed(conditions)
    decision = both(difference.decide(threshold), everywhere)
    unit = unit_of(column)
    explanation = f"{records.difference(method, baseline)}: {spread(difference, unit, 3)}; {met}"
    return Finding(per_seed, unit, decision, explanation)


def falls_and_settles(
    records: ClaimRecords,
    *,
    method: str,
    column: str,
    early_share: float,
    late_share: float,
    early_at_least: float,
    late_at_most: float,
    late_at_least: float,
    late_change_at_most: float,
) -> Finding:
    """Test that a curve starts high, falls, and settles at a small but non-zero level (Figure 6).

    Shares are of the training steps; the effect is the late mean minus the early mean.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        curve = _curve(runs[method], column, records.run(method, seed))
        early, late = _mean_between(curve, 0.0, early_share), _mean_between(curve, 1 - late_share, 1.0)
        middle = 1 - late_share / 2
        change = abs(_mean_between(curve, middle, 1.0) - _mean_between(curve, 1 - late_share, middle))
        per_seed[seed] = late - early
        conditions[seed] = [
            Condition("early mean", early, at_least=early_at_least),
            Condition("late mean", late, at_least=late_at_least, at_most=late_at_most),
            Condition("late change", change, at_most=late_change_at_most),
        ]
    decision, met = every_seed(conditions)
    return Finding(per_seed, unit_of(column), decision, met)


def rises_and_stays(
    records: ClaimRecords,
    *,
    method: str,
    column: str,
    start_share: float,
    late_share: float,
    windows: int,
    rise_at_least: float,
    quick_by_share: float,
    quick_at_least: float,
    ceiling_share_at_most: float,
    kept_at_least: float,
) -> Finding:
    """Test that a curve rises early, stays below its ceiling and does not fall back (Figure 7, right).

    Shares are of the training steps; the peak is the highest window mean; the effect is the late mean minus the start.
    """
    if records.ceiling_tokens is None:
        raise NotTestable("the largest response length is not known")
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        curve = _curve(runs[method], column, records.run(method, seed))
        start, late = _mean_between(curve, 0.0, start_share), _mean_between(curve, 1 - late_share, 1.0)
        peak = float(_window_means(curve, windows).max())
        by_then = _mean_between(curve, quick_by_share - 1 / windows, quick_by_share)
        covered = (by_then - start) / (peak - start) if peak > start else 0.0
        per_seed[seed] = late - start
        conditions[seed] = [
            Condition("late mean / start", late / start if start else float("inf"), at_least=rise_at_least),
            Condition("share of the rise covered early", covered, at_least=quick_at_least),
            Condition("highest step / ceiling", curve.max() / records.ceiling_tokens, at_most=ceiling_share_at_most),
            Condition("late mean / peak", late / peak if peak else 0.0, at_least=kept_at_least),
        ]
    decision, met = every_seed(conditions)
    return Finding(per_seed, unit_of(column), decision, met)


def ends_above_start(
    records: ClaimRecords, *, method: str, column: str, early_share: float, late_share: float, threshold: float
) -> Finding:
    """Test that a curve is higher at the end of training than at its start (Figure 6: the reward), over seeds.

    Shares are of the training steps; the effect is the late mean minus the early mean.
    """
    per_seed = {}
    for seed, runs in records.seeds.items():
        curve = _curve(runs[method], column, records.run(method, seed))
        per_seed[seed] = _mean_between(curve, 1 - late_share, 1.0) - _mean_between(curve, 0.0, early_share)
    rise, unit = seed_mean(list(per_seed.values())), unit_of(column)
    what = f"{quantity(column)} of {records.label(method)}, late minus early"
    return Finding(per_seed, unit, rise.decide(threshold), f"{what}: {spread(rise, unit, 3)}.")


def mean_above(records: ClaimRecords, *, method: str, column: str, threshold: float) -> Finding:
    """Test that a quantity is above a threshold on average over all steps that have it."""
    per_seed = {}
    for seed, runs in records.seeds.items():
        if column not in runs[method].metrics.columns or runs[method].metrics[column].isna().all():
            raise NotTestable(f"no run of {records.label(method)} records {quantity(column)}")
        per_seed[seed] = float(runs[method].metrics[column].mean())
    mean = seed_mean(list(per_seed.values()))
    unit = unit_of(column)
    return Finding(
        per_seed,
        unit,
        mean.decide(threshold),
        f"{quantity(column)} of {records.label(method)}: {spread(mean, unit, 3)}.",
    )


def stays_above_longer(
    records: ClaimRecords, *, longer: str, shorter: str, column: str, level: float, threshold_steps: float
) -> Finding:
    """Test that one run's curve is above a level for more steps than another's (Figure 6: the weaker base on SFT).

    Steps are counted wherever they are, so that a curve that wavers around the level has no single crossing to find.
    The effect is the difference of the two counts.
    """
    per_seed, counts = {}, []
    for seed, runs in records.seeds.items():
        curve, other = _two_curves(
            runs[longer], runs[shorter], column, f"{records.label(longer)} and {records.label(shorter)} of seed {seed}"
        )
        above, above_other = int((curve > level).sum()), int((other > level).sum())
        per_seed[seed] = float(above - above_other)
        counts.append(f"seed {seed}: {above} and {above_other} of {len(curve)}")
    difference = seed_mean(list(per_seed.values()))
    explanation = (
        f"{records.difference(longer, shorter)}, steps with {quantity(column)} above {level:g}: "
        f"{spread(difference, 'steps', 1)}; {'; '.join(counts)}."
    )
    return Finding(per_seed, "steps", difference.decide(threshold_steps), explanation)


def validation_above(
    records: ClaimRecords, *, method: str, baseline: str, sets_at_least: int, threshold_points: float
) -> Finding:
    """Test that a method's validation curves lie above a baseline's (Figure 5), on average and on nearly every set.

    A curve counts by its mean over all points but the first, which is the base for both methods.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        curves, other = (_validation_curves(runs[name], records.run(name, seed)) for name in (method, baseline))
        if not curves.index.equals(other.index) or not curves.columns.equals(other.columns):
            whose = f"{records.label(method)} and {records.label(baseline)} of seed {seed}"
            raise NotTestable(f"{whose} were validated on different sets or steps")
        differences = (curves - other).mean()
        per_seed[seed] = float(differences.mean())
        above = int((differences > 0).sum())
        conditions[seed] = [Condition(f"sets above, of {len(differences)}:", above, at_least=sets_at_least)]
    difference = seed_mean(list(per_seed.values()))
    everywhere, met = every_seed(conditions)
    decision = both(difference.decide(threshold_points), everywhere)
    explanation = f"{records.difference(method, baseline)}: {spread(difference, 'points', 1)}; {met}"
    return Finding(per_seed, "points", decision, explanation)


def validation_improves(
    records: ClaimRecords, *, method: str, sets_at_least: int, fall_at_most_points: float
) -> Finding:
    """Test that a method's validation curves end above their start on most sets, and do not collapse in between.

    The effect is the last point of the sets' mean minus the first, which is the base.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        curves = _validation_curves(runs[method], records.run(method, seed), from_point=0)
        mean = curves.mean(axis=1)
        per_seed[seed] = float(mean.iloc[-1] - mean.iloc[0])
        ahead = int((curves.iloc[-1] > curves.iloc[0]).sum())
        fall = float((mean.cummax() - mean).max())
        conditions[seed] = [
            Condition(f"sets that end above the base, of {curves.shape[1]}:", ahead, at_least=sets_at_least),
            Condition("largest fall of their mean in points", fall, at_most=fall_at_most_points),
        ]
    decision, met = every_seed(conditions)
    return Finding(per_seed, "points", decision, met)


def _validation_curves(run: RunFrames, whose: str, from_point: int = 1) -> pd.DataFrame:
    """Return [points, sets] accuracies in percent, without the first point, which is the base, unless asked for it."""
    if run.validation.empty:
        raise NotTestable(f"no validation curves of {whose}")
    shares = run.validation.assign(share=100 * run.validation["correct"] / run.validation["samples"])
    return shares.pivot_table(index="step", columns="benchmark", values="share").sort_index().iloc[from_point:]


def _two_curves(one: RunFrames, other: RunFrames, column: str, whose: str) -> tuple[pd.Series, pd.Series]:
    first, second = (_curve(run, column, whose) for run in (one, other))
    if not first.index.equals(second.index):
        raise NotTestable(f"{whose} were trained for different steps")
    return first, second


def _curve(run: RunFrames, column: str, whose: str) -> pd.Series:
    """Return a column by step, without the steps that have no value."""
    if not {"step", column} <= set(run.metrics.columns):
        raise NotTestable(f"no {quantity(column)} of {whose}")
    curve = run.metrics.set_index("step")[column].sort_index().dropna()
    if len(curve) < MIN_STEPS:
        raise NotTestable(f"{quantity(column)} of {whose} has {len(curve)} steps, fewer than {MIN_STEPS}")
    return curve


def _window_means(curve: pd.Series, windows: int) -> np.ndarray:
    return np.array([part.mean() for part in np.array_split(curve.to_numpy(dtype=np.float64), windows)])


def _mean_between(curve: pd.Series, start: float, end: float) -> float:
    """Return the mean over a range of shares of training, at least one step."""
    first, last = round(start * len(curve)), round(end * len(curve))
    return float(curve.iloc[min(first, len(curve) - 1) : max(last, first + 1)].mean())
