"""Intervals and differences: numbers from a textbook or by hand, coverage by simulation, degenerate cases."""

import math

import numpy as np
import pytest
from scipy import stats

from hpt.evaluation.intervals import (
    Decision,
    Interval,
    bca_interval,
    detectable,
    paired_difference,
    seed_mean,
    wilson_interval,
)


def test_wilson_by_hand() -> None:
    z, n, share = 1.959964, 500, 446 / 500  # HPT on MATH-500, Table 2
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    interval = wilson_interval(446, 500)
    assert ends(interval) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert interval.kind.endswith("fixed weights")
    assert ends(wilson_interval(0, 10)) == pytest.approx((0.0, 0.2775), abs=1e-4)  # no point, also here
    assert ends(wilson_interval(10, 10)) == pytest.approx((0.7225, 1.0), abs=1e-4)
    with pytest.raises(ValueError):
        wilson_interval(11, 10)


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_bca_is_seeded_contains_the_mean_and_draws_9_999_times_if_not_told() -> None:
    shares = np.random.default_rng(3).beta(0.5, 2.0, size=60)
    first, again, other = (bca_interval(shares, generator=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first == bca_interval(shares, generator=np.random.default_rng(1), resamples=9_999)
    assert first != bca_interval(shares, generator=1, resamples=10_000)
    assert first.low < shares.mean() < first.high
    assert first.kind == "BCa over problems, fixed weights"


def test_bca_widens_with_the_level_and_narrows_with_problems() -> None:
    shares = np.tile([0.0, 0.25, 0.5, 1.0], 10)
    low, usual, many = (
        bca_interval(own, level, generator=0, resamples=999)
        for own, level in ((shares, 0.5), (shares, 0.95), (np.tile(shares, 16), 0.95))
    )
    assert low.high - low.low < usual.high - usual.low
    assert many.high - many.low == pytest.approx((usual.high - usual.low) / 4, rel=0.2)


def test_an_interval_keeps_its_level_and_says_what_it_is() -> None:
    ordinary = bca_interval([0.0, 0.3, 1.0], 0.9, generator=0)
    assert (ordinary.level, ordinary.kind) == (0.9, "BCa over problems, fixed weights")
    assert bca_interval([1.0] * 5, 0.9, generator=0) == wilson_interval(5, 5, 0.9)
    assert bca_interval([0.0] * 5, 0.9, generator=0) == wilson_interval(0, 5, 0.9)
    point = Interval(0.25, 0.25, 0.9, "a point: all problems equal, fixed weights")
    assert bca_interval([0.25] * 4, 0.9, generator=0) == point
    unknown = bca_interval([0.25], 0.9, generator=0)
    assert (unknown.level, unknown.kind) == (0.9, "unknown: one problem")
    assert np.isnan(ends(unknown)).all()
    # one resample: no share of the resamples below the mean has a quantile of the normal distribution
    degenerate = bca_interval([0.0, 0.3, 1.0], 0.9, generator=0, resamples=1)
    assert degenerate.low == degenerate.high
    assert degenerate.kind == "percentile bootstrap over problems, fixed weights"
    one_unusual = bca_interval([0.0] * 29 + [1 / 32], generator=0)
    assert one_unusual.known
    assert 0 <= one_unusual.low <= 1 / 960 <= one_unusual.high


def test_single_precision_is_widened_before_anything_is_added_up() -> None:
    shares = np.random.default_rng(3).beta(0.5, 2.0, size=500).astype(np.float32)
    wide = shares.astype(np.float64)
    assert bca_interval(shares, generator=1, resamples=99) == bca_interval(wide, generator=1, resamples=99)
    assert paired_difference(shares, np.zeros_like(shares)) == paired_difference(wide, np.zeros_like(wide))
    assert paired_difference(shares, shares[::-1]) == paired_difference(wide, wide[::-1])


@pytest.mark.parametrize("values", [[], [[0.5]]])
def test_bca_needs_a_vector(values: list) -> None:
    with pytest.raises(ValueError, match="problems"):
        bca_interval(values, generator=0)


def test_paired_difference_by_hand() -> None:
    """Differences 2, 3, 4: mean 3, standard error 1 / sqrt 3, t(2, 0.975) = 4.3027."""
    difference = paired_difference([3.0, 4.0, 5.0], [1.0, 1.0, 1.0])
    half = 4.302653 / math.sqrt(3)
    assert difference.differences == (2.0, 3.0, 4.0)
    assert ends(difference.interval) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert difference.interval.kind == "Student's t over 3 seeds"


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_smallest_detectable_difference_is_found_four_times_in_five(seeds: int) -> None:
    spread = detectable(seeds)
    draws = np.random.default_rng(0).normal(spread, 1.0, size=(200_000, seeds))
    errors = draws.std(axis=1, ddof=1) / math.sqrt(seeds)
    found = draws.mean(axis=1) / errors > stats.t.ppf(0.975, seeds - 1)
    assert found.mean() == pytest.approx(0.8, abs=0.004)


@pytest.mark.parametrize(
    ("values", "decision"),
    [
        ([5.0], Decision.one_seed),
        ([5.0, 5.1], Decision.undecided),
        ([5.0, 5.1, 5.2], Decision.above),
        ([-5.0, -5.1, -5.2], Decision.below),
        ([-5.0, 5.1, 5.2], Decision.undecided),
        ([2.0, 2.0, 2.0], Decision.above),
        ([0.0, 0.0, 0.0], Decision.undecided),
    ],
)
def test_decisions(values: list[float], decision: Decision) -> None:
    assert seed_mean(values).decide() is decision


def test_decisions_are_relative_to_the_threshold() -> None:
    decisions = [seed_mean([5.0, 5.1, 5.2]).decide(threshold) for threshold in (4.0, 5.1, 6.0)]
    assert decisions == [Decision.above, Decision.undecided, Decision.below]


def test_what_one_seed_and_equal_seeds_leave_unknown_and_known() -> None:
    one = seed_mean([2.0], 0.9)
    assert (one.differences, one.mean, one.interval.level, one.interval.kind) == ((2.0,), 2.0, 0.9, "unknown: one seed")
    assert np.isnan([*ends(one.interval), one.p_value]).all()
    equal = seed_mean([0.5] * 3, 0.9)
    assert equal.interval == Interval(0.5, 0.5, 0.9, "a point: all 3 seeds equal")
    assert (equal.mean, equal.p_value, seed_mean([0.0] * 3).p_value) == (0.5, 0.0, 1.0)
    # three scores near 1e6 that differ in their last bits, and a difference that is not exactly zero in binary
    assert seed_mean([1e6, np.nextafter(1e6, 2e6), 1e6]).interval.kind == "a point: all 3 seeds equal"
    rounded = paired_difference([0.1 + 0.2] * 3, [0.3, 0.3, 0.3])
    assert ends(rounded.interval) == pytest.approx((0.0, 0.0))
    assert rounded.decide() is Decision.undecided
    assert "all 3 seeds equal" in rounded.interval.kind


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, float("nan")], [1.0, 2.0])])
def test_unusable_seeds_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="seeds"):
        paired_difference(a, b)


def test_the_level_reaches_the_interval_and_its_label() -> None:
    wide, narrow = wilson_interval(8, 10, 0.99), wilson_interval(8, 10, 0.5)
    assert wide.level == 0.99
    assert narrow.level == 0.5
    assert wide.low < narrow.low < narrow.high < wide.high
    # z of the standard normal at (1 + 0.5) / 2; Wilson's two ends solve (p - 0.8)^2 = z^2 p (1 - p) / 10
    z = stats.norm.ppf(0.75)
    for end in ends(narrow):
        assert (end - 0.8) ** 2 == pytest.approx(z**2 * end * (1 - end) / 10)
    assert paired_difference([3, 4, 5], [1, 1, 1], level=0.9).interval.level == 0.9
    assert paired_difference([3, 4, 5], [1, 1, 1]).interval.level == 0.95
