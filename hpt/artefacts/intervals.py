"""The two intervals of a score: over seeds, and over problems with the weights held fixed; never mixed."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hpt.stats import Interval, bca_interval, wilson_interval

_RESAMPLES = 9_999
_SEED = 0  # of the bootstrap: the same records give the same interval


def problem_interval(shares: NDArray[np.float64], one_answer: bool) -> Interval:
    """Return the interval of a set's score over its problems: Wilson for one graded answer each, else BCa.

    Args:
        shares: [problems] share of correct answers (over samples, and over seeds where there are several).
        one_answer: whether each share is one answer, 0 or 1.

    Example:
        >>> problem_interval(np.array([1.0, 0.0, 1.0, 1.0]), one_answer=True).kind
        'Wilson over problems, fixed weights'
    """
    if one_answer:
        return wilson_interval(round(float(shares.sum())), len(shares))
    return bca_interval(shares, generator=_SEED, resamples=_RESAMPLES)


def average_interval(shares: Sequence[NDArray[np.float64]], level: float = 0.95) -> Interval:
    """Return the interval of the unweighted mean of several sets' scores; each set is resampled on its own.

    Pooling the problems instead would weigh a set by its size, which the paper's average does not.

    Args:
        shares: per set, [problems] shares of correct answers.
        level: coverage.

    Example:
        >>> half = np.array([0.0, 1.0] * 20)
        >>> interval = average_interval([half, half])
        >>> interval.low < 0.5 < interval.high
        True
    """
    kind = "BCa over problems of each set, fixed weights"
    if all(np.ptp(own) == 0 for own in shares):
        return Interval(math.nan, math.nan, level, "unknown: no spread over problems")

    def average(*sets: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.mean([own.mean(axis=axis) for own in sets], axis=0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of the constant sets among them, which are no harm here
        # a set of one problem (scale tiny) has no spread; scipy wants two values to see that
        samples = tuple(np.repeat(own, 2) if len(own) == 1 else own for own in shares)
        result = stats.bootstrap(
            samples, average, n_resamples=_RESAMPLES, confidence_level=level, method="BCa",
            rng=np.random.default_rng(_SEED), batch=1_000,
        )  # fmt: skip
    return Interval(float(result.confidence_interval.low), float(result.confidence_interval.high), level, kind)
