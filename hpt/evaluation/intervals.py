"""How sure a number is: intervals over problems for fixed weights, and differences between methods over seeds.

Two kinds of uncertainty, never mixed. An interval *over problems* (Wilson, BCa) says how much a score would move with
other problems of the same kind, for the weights at hand ("fixed weights"). A difference *over seeds* (Student's t) says
whether one training method beats another; only it can carry a claim about methods.
"""

# scipy takes a second to import, and a refused setting should not wait for it
import math
import warnings
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Of the bootstraps, which are seeded: the same records give the same interval.
RESAMPLES = 9_999
MIN_SEEDS = 3  # below this Student's t says nothing a reader should act on: with two seeds its factor is 12.7


@dataclass(frozen=True)
class Interval:
    """An interval with its coverage; ``kind`` names the method and what it treats as random."""

    low: float
    high: float
    level: float
    kind: str

    @property
    def known(self) -> bool:
        """Whether there is an interval at all (one seed or one problem gives none)."""
        return not (math.isnan(self.low) or math.isnan(self.high))


class Decision(StrEnum):
    """Where an interval lies relative to a threshold."""

    above = "above"
    below = "below"
    undecided = "undecided"
    one_seed = "undecided (one seed)"


@dataclass(frozen=True)
class SeedDifference:
    """A difference between two methods over seeds: Student's t interval and two-sided p, unknown for one seed."""

    differences: tuple[float, ...]
    mean: float
    interval: Interval
    p_value: float

    @property
    def sd(self) -> float:
        """Standard deviation of the differences over seeds; NaN for one."""
        return float(np.std(self.differences, ddof=1)) if len(self.differences) > 1 else math.nan

    def decide(self, threshold: float = 0.0, inclusive: bool = False) -> Decision:
        """Say on which side of a threshold the difference is; never with fewer than three seeds.

        ``inclusive``: an interval that begins at the threshold is above it, as "at least" asks.
        """
        if len(self.differences) == 1:
            return Decision.one_seed
        if len(self.differences) < MIN_SEEDS:
            return Decision.undecided
        if self.interval.low > threshold or (inclusive and self.interval.low == threshold):
            return Decision.above
        return Decision.below if self.interval.high < threshold else Decision.undecided


def wilson_interval(correct: int, problems: int, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of an accuracy (Wilson 1927), for avg@1: one answer per problem."""
    from scipy import stats

    low, high = stats.binomtest(int(correct), int(problems)).proportion_ci(level, method="wilson")
    return Interval(float(low), float(high), level, "Wilson over problems, fixed weights")


def bca_interval(
    values: ArrayLike, level: float = 0.95, *, generator: np.random.Generator | int, resamples: int = RESAMPLES
) -> Interval:
    """Return the BCa bootstrap interval of a mean of shares [problems] (Efron 1987), for avg@k and pass@k.

    Problems are resampled, not answers: the answers to one problem are not independent of each other. Where all values
    are equal the bootstrap sees no spread; for all 0 or all 1 the Wilson interval takes its place, otherwise the point
    is returned and ``kind`` says so.
    """
    from scipy import stats

    shares = np.asarray(values, dtype=np.float64)
    if shares.ndim != 1 or not shares.size:
        raise ValueError(f"values must be [problems] and not empty, got shape {shares.shape}")
    if np.ptp(shares) == 0:
        share = float(shares[0])
        if share in (0.0, 1.0):
            return wilson_interval(int(share) * len(shares), len(shares), level)
        if len(shares) == 1:
            return Interval(math.nan, math.nan, level, "unknown: one problem")
        return Interval(share, share, level, "a point: all problems equal, fixed weights")
    for method, kind in (("BCa", "BCa"), ("percentile", "percentile bootstrap")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns where BCa is degenerate; the next method is tried then
            result = stats.bootstrap(
                (shares,), np.mean, n_resamples=resamples, confidence_level=level, method=method, rng=generator
            )
        low, high = map(float, result.confidence_interval)
        if math.isfinite(low) and math.isfinite(high):
            return Interval(low, high, level, f"{kind} over problems, fixed weights")
    raise AssertionError("the percentile bootstrap of finite values is finite")


def problem_interval(shares: NDArray[np.float64], one_answer: bool) -> Interval:
    """Return the interval of a set's score over its shares [problems]: Wilson for one answer each, else BCa."""
    if one_answer:
        return wilson_interval(round(float(shares.sum())), len(shares))
    return bca_interval(shares, generator=0)


def average_interval(shares: Sequence[NDArray[np.float64]]) -> Interval:
    """Return the interval of the unweighted mean of several sets' scores; each set is resampled alone.

    Pooling the problems instead would weigh a set by its size, which the paper's average does not.
    """
    from scipy import stats

    if all(np.ptp(one) == 0 for one in shares):
        return Interval(math.nan, math.nan, 0.95, "unknown: no spread over problems")

    def average(*sets: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.mean([one.mean(axis=axis) for one in sets], axis=0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of the constant sets among them, which are no harm here
        # a set of one problem (scale tiny) has no spread; scipy wants two values to see that
        samples = tuple(np.repeat(one, 2) if len(one) == 1 else one for one in shares)
        result = stats.bootstrap(
            samples, average, n_resamples=RESAMPLES, confidence_level=0.95, method="BCa",
            rng=np.random.default_rng(0), batch=1_000,
        )  # fmt: skip
    low, high = map(float, result.confidence_interval)
    return Interval(low, high, 0.95, "BCa over problems of each set, fixed weights")


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> SeedDifference:
    """Compare two methods by their difference per seed, each [seeds] in the same order, with Student's t.

    Paired, because runs of one seed share their data order; unpaired seeds would add that spread to both sides.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"a and b must be [seeds] alike, got shapes {first.shape} and {second.shape}")
    return seed_mean(first - second, level)


def seed_mean(values: ArrayLike, level: float = 0.95) -> SeedDifference:
    """Return mean and Student's t interval of one value per seed.

    Where all seeds are equal the interval is that point and ``kind`` says so.
    """
    differences = np.asarray(values, dtype=np.float64)
    if differences.ndim != 1 or not differences.size or not np.isfinite(differences).all():
        raise ValueError(f"values must be [seeds], finite and not empty, got {values!r}")
    seeds, mean = len(differences), float(differences.mean())
    if seeds == 1:
        return SeedDifference((mean,), mean, Interval(math.nan, math.nan, level, "unknown: one seed"), math.nan)
    if float(differences.std(ddof=1)) <= 1e-12 * max(1.0, abs(mean)) * math.sqrt(seeds):  # rounding is not a spread
        mean = 0.0 if abs(mean) <= 1e-12 else mean  # nor a difference
        low, high, p_value, kind = mean, mean, float(mean == 0), f"a point: all {seeds} seeds equal"
    else:
        from scipy import stats

        test: Any = stats.ttest_1samp(differences, 0.0)
        (low, high), p_value = map(float, test.confidence_interval(level)), float(test.pvalue)
        kind = f"Student's t over {seeds} seeds"
    return SeedDifference(tuple(map(float, differences)), mean, Interval(low, high, level, kind), p_value)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values corrected for their number (Holm 1979): below alpha, all of them err together with alpha at most.

    NaN, a test that could not be made, counts as 1.
    """
    values = np.nan_to_num(np.asarray(p_values, np.float64), nan=1.0)
    order, corrected = np.argsort(values), np.empty_like(values)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return corrected


def sign_flip_p(differences: ArrayLike) -> float:
    """Return the two-sided p of the exact sign-flip test: the share of all 2^n signs with as large a mean.

    It assumes that differences are symmetric about 0, not that they are normal.
    """
    from scipy import stats

    values = np.asarray(differences, np.float64)
    result = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=2 ** len(values))
    return float(result.pvalue)


def exact_share(count: int, total: int) -> Interval:
    """Return the exact interval of a share (Clopper and Pearson 1934), for counts of few runs."""
    from scipy import stats

    low, high = stats.binomtest(int(count), int(total)).proportion_ci(method="exact")
    return Interval(float(low), float(high), 0.95, "Clopper-Pearson over runs")


def detectable(seeds: int, level: float = 0.95) -> float:
    """Return the smallest true difference that so many seeds show, in standard deviations of the paired difference.

    Shown four times in five by the two-sided t test of this level (of one of thirteen, 1 - 0.05 / 13).
    """
    from scipy import optimize, stats

    critical = float(stats.t.ppf((1 + level) / 2, seeds - 1))

    def shortfall(true_errors: float) -> float:
        # The far tail, a significant difference of the wrong sign, is no finding; scipy also returns NaN there.
        return float(stats.nct.sf(critical, seeds - 1, true_errors)) - 0.8

    return optimize.brentq(shortfall, 0.0, 4.0 * critical) / math.sqrt(seeds)  # type: ignore[operator]


def seeds_needed(difference: float, sd: float, level: float = 0.95) -> float:
    """Return how many seeds show a true difference of this size; infinite beyond 10,000. See `detectable`."""
    most = 10_000
    needed = bisect_left(range(most), True, MIN_SEEDS, key=lambda n: sd * detectable(n, level) <= difference)
    return needed if needed < most else math.inf
