"""What a change is worth: the difference of two runs' averages over sets, over seeds and over problems."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hpt.arms import IN_DISTRIBUTION
from hpt.artefacts.intervals import average_interval
from hpt.artefacts.output import Cell, interval_text
from hpt.artefacts.selection import evaluation_counts
from hpt.export import RunRecords
from hpt.scores import round_half_up
from hpt.stats import SeedDifference, paired_difference

#: Per set, [problems] shares of correct answers of one run.
SetShares = Sequence[np.ndarray]


def problem_shares(run: RunRecords, name: str) -> np.ndarray:
    """Return a run's share of correct answers to every problem of a set, [problems].

    Raises:
        RecordFault: the run was not evaluated on it.
    """
    counts = evaluation_counts(run, name)
    return (counts["correct"] / counts["samples"]).to_numpy(np.float64)


def in_distribution_shares(run: RunRecords) -> SetShares:
    """Return a run's `problem_shares` of every in-distribution set.

    Raises:
        RecordFault: the run was not evaluated on one.
    """
    return [problem_shares(run, name) for name in IN_DISTRIBUTION]


def average_of_sets(shares: SetShares) -> float:
    """Return the unweighted mean over sets, percent.

    Example:
        >>> average_of_sets([np.array([1.0, 0.0]), np.array([1.0])])
        75.0
    """
    return 100 * float(np.mean([own.mean() for own in shares]))


def effect(
    own: Mapping[int, SetShares], other: Mapping[int, SetShares]
) -> tuple[dict[str, float], SeedDifference | None]:
    """Return how much better ``own`` is than ``other``, on the seeds both have.

    Args:
        own, other: seed -> shares of every set, in the same order.

    Returns:
        effect (points), seeds_low, seeds_high (Student's t over paired seeds, NaN for one), problems_low, problems_high
        (over the problems of each set, fixed weights) and ``seed_<n>``; and the difference over seeds. Without a common
        seed: NaN, and None.

    Example:
        >>> numbers, _ = effect({0: [np.array([1.0, 1.0, 0.0])]}, {0: [np.array([1.0, 0.0, 0.0])]})
        >>> round(numbers["effect"], 1)
        33.3
    """
    seeds = [seed for seed in own if seed in other]
    if not seeds:
        names = ("effect", "seeds_low", "seeds_high", "problems_low", "problems_high")
        return dict.fromkeys(names, float("nan")), None
    ours, theirs = ([average_of_sets(kind[seed]) for seed in seeds] for kind in (own, other))
    difference = paired_difference(ours, theirs)
    over_problems = average_interval([
        np.mean([own[seed][i] - other[seed][i] for seed in seeds], axis=0) for i in range(len(own[seeds[0]]))
    ])  # fmt: skip
    return {
        "effect": difference.mean,
        "seeds_low": difference.interval.low,
        "seeds_high": difference.interval.high,
        "problems_low": 100 * over_problems.low,
        "problems_high": 100 * over_problems.high,
        **{f"seed_{seed}": value for seed, value in zip(seeds, difference.differences, strict=True)},
    }, difference


def effect_cell(numbers: Mapping[Any, Any]) -> Cell:
    """Return an effect with its interval, over seeds where there is one, else over problems; empty without an effect.

    Args:
        numbers: as `effect` returns them.

    Example:
        >>> numbers = {"effect": 1.25, "seeds_low": 0.5, "seeds_high": 2.0, "problems_low": 1.0, "problems_high": 1.5}
        >>> effect_cell(numbers).value, effect_cell(numbers).interval
        ('+1.3', '[0.5, 2.0]')
    """
    if pd.isna(numbers["effect"]):
        return Cell("")
    kind = "problems" if pd.isna(numbers["seeds_low"]) else "seeds"
    interval = interval_text(numbers[f"{kind}_low"], numbers[f"{kind}_high"])
    return Cell(f"{round_half_up(numbers['effect']):+.1f}", interval)


def interval_kind(seeds: int) -> str:
    """Return what the intervals of `effect_cell` are over, for captions.

    Example:
        >>> interval_kind(3)
        "over 3 seeds (Student's t, paired)"
    """
    if seeds > 1:
        return f"over {seeds} seeds (Student's t, paired)"
    return "over the problems for fixed weights, which says nothing about the next training run"
