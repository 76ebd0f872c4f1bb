"""How often intervals hold the truth: simulated for many problems, where they must, and told for few.

A world: every problem has its own chance of being solved, drawn from a beta law, and an interval over problems is right
when it holds the law's mean. avg@k of problems drawn anew each time, as the intervals of the tables take them.
"""

import numpy as np
import pytest
from scipy import stats

from hpt.evaluation.intervals import bca_interval, seed_mean, wilson_interval

ACCURACIES = (0.05, 0.2, 0.5, 0.8, 0.95)
#: The standard error of a coverage of 95 % is then 0.5 points; the bounds are four of them away.
WORLDS = 2_000


def wilson_coverage(accuracy: float, problems: int) -> float:
    """How often the Wilson interval of avg@1 holds the accuracy: exact, a sum over the binomial law."""
    counts = np.arange(problems + 1)
    weights = stats.binom.pmf(counts, problems, accuracy)
    held = np.zeros(problems + 1)
    for correct in counts[weights > 1e-12]:
        interval = wilson_interval(int(correct), problems)
        held[correct] = interval.low <= accuracy <= interval.high
    return float(held @ weights)


def bca_coverage(accuracy: float, problems: int, worlds: int, resamples: int = 999) -> float:
    """Share of worlds whose BCa interval of avg@8 holds the accuracy; many problems are either easy or hard."""
    generator = np.random.default_rng([problems, round(1000 * accuracy)])
    held = 0
    for _ in range(worlds):
        shares = generator.binomial(8, generator.beta(2 * accuracy, 2 * (1 - accuracy), size=problems)) / 8
        interval = bca_interval(shares, generator=generator, resamples=resamples)
        held += interval.low <= accuracy <= interval.high
    return held / worlds


def seed_coverage(worlds: int) -> float:
    """Share of worlds whose Student's t interval over three seeds holds the mean."""
    draws = np.random.default_rng(3).normal(5.0, 2.0, size=(worlds, 3))
    intervals = [seed_mean(row).interval for row in draws]
    return float(np.mean([own.low <= 5.0 <= own.high for own in intervals]))


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_wilson_covers_from_200_problems_on(accuracy: float) -> None:
    """Averaged over neighbouring numbers of problems: for a single one coverage jumps, because counts are whole."""
    found = np.mean([wilson_coverage(accuracy, problems) for problems in range(200, 240, 6)])
    assert 0.93 <= found <= 0.97


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("problems", [200, 500])
@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_bca_covers_from_200_problems_on(accuracy: float, problems: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = bca_coverage(accuracy, problems, WORLDS)
    with capsys.disabled():
        print(f"\nBCa, {problems} problems, accuracy {accuracy:.0%}: {found:.1%}")
    assert 0.93 <= found <= 0.97


@pytest.mark.parametrize("accuracy", [0.05, 0.5])
def test_bca_covers_at_200_problems_roughly(accuracy: float) -> None:
    """The same in seconds: 300 worlds, so four standard errors besides."""
    assert 0.93 - 0.05 <= bca_coverage(accuracy, 200, 300, resamples=499) <= 0.97 + 0.03


def test_intervals_over_seeds_cover_however_few() -> None:
    assert seed_coverage(3_000) == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_coverage_with_few_problems_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """30, the size of AIME, and 3 seeds: no bound, they give what they give, and a reader must know it."""
    with capsys.disabled():
        print(f"\nseeds, Student's t, 3 seeds: {seed_coverage(WORLDS):.1%}")
        for accuracy in ACCURACIES:
            wilson, bca = wilson_coverage(accuracy, 30), bca_coverage(accuracy, 30, WORLDS)
            print(f"30 problems, accuracy {accuracy:.0%}: Wilson {wilson:.1%}, BCa {bca:.1%}")
