"""The tests that decide claims: pure functions from the records of several seeds to a finding.

Two kinds of rule, and the reason for each:

* A *comparison of methods* is decided by the paired difference per seed with Student's t over at least three seeds.
* The *shape of one curve* is decided seed by seed against thresholds: it holds when every seed satisfies all of them,
  and fails when no seed does. Student's t is no help there: shares near zero are far from normal.

One seed decides nothing. Thresholds are arguments; their values stand in ``paper.json`` beside each claim.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hpt.metrics import METRICS
from hpt.stats import MIN_SEEDS, Decision, SeedDifference, seed_mean

MIN_STEPS = 20  # two steps in each tenth of training; windows of one step are noise


@dataclass(frozen=True, eq=False)
class RunFrames:
    """Records of one run.

    Attributes:
        metrics: one row per step, with ``step`` and the columns of `hpt.metrics`.
        rollouts: one row per question and step.
        scores: one row per benchmark: benchmark, distribution ("in", "out"), score (percent).
    """

    metrics: pd.DataFrame
    rollouts: pd.DataFrame = field(default_factory=pd.DataFrame)
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True, eq=False)
class ClaimRecords:
    """All records of one base at one scale.

    Attributes:
        scale: name of the scale.
        seeds: seed -> method -> its run.
        ceiling_tokens: largest response length sampling allows, in tokens; None = unknown.
    """

    scale: str
    seeds: Mapping[int, Mapping[str, RunFrames]]
    ceiling_tokens: int | None = None

    def with_methods(self, *methods: str) -> dict[int, Mapping[str, RunFrames]]:
        """Return the seeds that have runs of all these methods, in order."""
        return {seed: self.seeds[seed] for seed in sorted(self.seeds) if set(methods) <= set(self.seeds[seed])}


@dataclass(frozen=True)
class Finding:
    """What a test found: an effect per seed, its unit, the decision, and the numbers behind it in words."""

    per_seed: dict[int, float]
    unit: str
    decision: Decision
    explanation: str


class NotTestable(Exception):
    """The records lack what a test needs; the message says what."""


@dataclass(frozen=True)
class Condition:
    """One threshold a seed has to meet: a quantity with its value and bounds."""

    quantity: str
    value: float
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def met(self) -> bool:
        """Whether the value lies within the bounds, ends included."""
        return self.at_least <= self.value <= self.at_most

    def __str__(self) -> str:
        bounds = [(self.at_least, "at least"), (self.at_most, "at most")]
        asked = " and ".join(f"{word} {bound:g}" for bound, word in bounds if math.isfinite(bound))
        return f"{self.quantity} {self.value:.3g} ({asked}{'' if self.met else ': not met'})"


def average_above(
    records: ClaimRecords, *, method: str, baseline: str, distribution: str, threshold_points: float
) -> Finding:
    """Test that a method's average score is above a baseline's (Tables 2, 3): unweighted mean over benchmarks.

    The means are of unrounded scores; rounding belongs to printing.

    Raises:
        NotTestable: a run has no scores of this distribution, or the two were evaluated on different benchmarks.
    """
    per_seed = {}
    for seed, runs in records.seeds.items():
        own, other = (_benchmarks(runs[name], distribution, f"{name}, seed {seed}") for name in (method, baseline))
        if set(own.index) != set(other.index):
            raise NotTestable(f"{method} and {baseline} of seed {seed} were evaluated on different benchmarks")
        per_seed[seed] = float(own.mean() - other.mean())
    difference = seed_mean(list(per_seed.values()))
    explanation = f"{method} minus {baseline}: {_spread(difference, 'points', 1)}."
    return Finding(per_seed, "points", difference.decide(threshold_points), explanation)


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

    Raises:
        NotTestable: too few steps, no such column, or curves over different steps.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        own, other = (_curve(runs[name], column, f"{name}, seed {seed}") for name in (method, baseline))
        if not own.index.equals(other.index):
            raise NotTestable(f"{method} and {baseline} of seed {seed} were trained for different steps")
        differences = _window_means(own - other, windows)[windows_left_out:]
        per_seed[seed] = float(differences.mean())
        above = int((differences > threshold).sum())
        conditions[seed] = [Condition(f"windows of {len(differences)} above", above, at_least=windows_above_at_least)]
    difference = seed_mean(list(per_seed.values()))
    everywhere, met = _every_seed(conditions)
    on_average = difference.decide(threshold)
    decisions = {on_average, everywhere}
    if Decision.below in decisions:
        decision = Decision.below
    else:
        decision = on_average if len(decisions) == 1 else Decision.undecided
    unit = METRICS[column].unit if column in METRICS else ""
    return Finding(per_seed, unit, decision, f"{method} minus {baseline}: {_spread(difference, unit, 3)}; {met}")


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

    Raises:
        NotTestable: too few steps, or no such column.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        curve = _curve(runs[method], column, f"{method}, seed {seed}")
        early, late = _mean_between(curve, 0.0, early_share), _mean_between(curve, 1 - late_share, 1.0)
        middle = 1 - late_share / 2
        change = abs(_mean_between(curve, middle, 1.0) - _mean_between(curve, 1 - late_share, middle))
        per_seed[seed] = late - early
        conditions[seed] = [
            Condition("early mean", early, at_least=early_at_least),
            Condition("late mean", late, at_least=late_at_least, at_most=late_at_most),
            Condition("late change", change, at_most=late_change_at_most),
        ]
    decision, met = _every_seed(conditions)
    return Finding(per_seed, METRICS[column].unit if column in METRICS else "", decision, met)


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

    Raises:
        NotTestable: too few steps, no such column, or the ceiling is unknown.
    """
    if records.ceiling_tokens is None:
        raise NotTestable("the largest response length is not known")
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        curve = _curve(runs[method], column, f"{method}, seed {seed}")
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
    decision, met = _every_seed(conditions)
    return Finding(per_seed, METRICS[column].unit if column in METRICS else "", decision, met)


def _every_seed(conditions: Mapping[int, list[Condition]]) -> tuple[Decision, str]:
    """Decide by unanimity: above when every seed meets all its conditions, below when none does."""
    met = {seed: all(condition.met for condition in own) for seed, own in conditions.items()}
    if len(met) == 1:
        decision = Decision.one_seed
    elif len(met) < MIN_SEEDS or len(set(met.values())) > 1:
        decision = Decision.undecided
    else:
        decision = Decision.above if all(met.values()) else Decision.below
    numbers = "; ".join(f"seed {seed}: {', '.join(map(str, own))}" for seed, own in conditions.items())
    return decision, f"all conditions met in {sum(met.values())} of {len(met)} seeds. {numbers}."


def _benchmarks(run: RunFrames, distribution: str, whose: str) -> pd.Series:
    """Return the scores in percent of one distribution, by benchmark."""
    if not {"benchmark", "distribution", "score"} <= set(run.scores.columns):
        raise NotTestable(f"no scores of {whose}")
    own = run.scores[run.scores["distribution"] == distribution].set_index("benchmark")["score"]
    if own.empty or own.isna().any():
        raise NotTestable(f"no complete {distribution}-distribution scores of {whose}")
    return own


def _curve(run: RunFrames, column: str, whose: str) -> pd.Series:
    """Return a column by step, without the steps that have no value."""
    if not {"step", column} <= set(run.metrics.columns):
        raise NotTestable(f"no {column} of {whose}")
    curve = run.metrics.set_index("step")[column].sort_index().dropna()
    if len(curve) < MIN_STEPS:
        raise NotTestable(f"{column} of {whose} has {len(curve)} steps, fewer than {MIN_STEPS}")
    return curve


def _window_means(curve: pd.Series, windows: int) -> np.ndarray:
    return np.array([part.mean() for part in np.array_split(curve.to_numpy(dtype=np.float64), windows)])


def _mean_between(curve: pd.Series, start: float, end: float) -> float:
    """Return the mean over a range of shares of training, at least one step."""
    first, last = round(start * len(curve)), round(end * len(curve))
    return float(curve.iloc[min(first, len(curve) - 1) : max(last, first + 1)].mean())


def _spread(difference: SeedDifference, unit: str, digits: int) -> str:
    text = f"{difference.mean:+.{digits}f} {unit} ({len(difference.differences)} seeds"
    interval = difference.interval
    if not interval.known:
        return text.replace("1 seeds", "1 seed") + ")"
    text += f", {interval.level:.0%} interval {interval.low:+.{digits}f} to {interval.high:+.{digits}f}"
    return f"{text}; {difference.smallest_detectable:.{digits}f} would have been seen 4 times in 5)"


TESTS: dict[str, Callable[..., Finding]] = {
    test.__name__: test for test in (average_above, series_above, falls_and_settles, rises_and_stays)
}
