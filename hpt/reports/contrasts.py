"""The 13 confirmatory contrasts with everything that stands beside their verdicts (docs/world.md): a row each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hpt.evaluation.intervals import detectable, exact_share, paired_difference, seed_mean, seeds_needed, sign_flip_p
from hpt.paper.claims import ALPHA
from hpt.paper.paper import confirmatory_claims
from hpt.reports.frames import BASE, averages_by_seed, is_shared, of_method
from hpt.reports.verdicts import confirmatory, printed_difference, world_spread
from hpt.runs.records import RunRecords


def contrasts(records: Sequence[RunRecords], scale: str) -> pd.DataFrame:
    """Return HPT minus each baseline, on the unweighted mean of the in-distribution sets, paired by seed.

    Of the runs of the family at a scale (`hpt.reports.notebooks.Study.family`).

    Returns:
        A row per contrast: claim, policy, other (arm), seeds (that both have); hpt, average (of the other; percent),
        effect with its simultaneous interval low, high, and paper (points); p_value (paired t), p_corrected (Holm over
        the family), p_sign_flip (exact); with the one seed left out that moves it most, without_low and without_high
        (the effect) and without_p (the largest p of the t test); runs that end below their base: collapsed of
        other_runs, hpt_collapsed of hpt_runs, each with its exact interval in percent; the power calculation: sd (of
        the paired difference), sd_world (`world_spread`), detects_5, detects_10 (points that five or ten seeds
        show four times in five in the corrected test), seeds_for_paper; verdict; ``seed_<n>``.
    """
    results, level = confirmatory(records, scale), 1 - ALPHA / len(confirmatory_claims())
    rows = []
    for claim in confirmatory_claims():
        averages = [averages_by_seed(of_method(records, name, claim.policy)) for name in claim.methods]
        seeds = [seed for seed in averages[0] if seed in averages[1]]
        printed, result = printed_difference(claim), results[claim.id]
        row: dict[str, Any] = {"claim": claim.id, "policy": claim.policy, "other": claim.methods[1],
                               "seeds": len(seeds), "paper": printed, "p_corrected": result.p_corrected,
                               "verdict": result.verdict.value}  # fmt: skip
        if seeds:
            sides = [[side[seed] for seed in seeds] for side in averages]
            row |= {"hpt": np.mean(sides[0]), "average": np.mean(sides[1])} | _difference(sides, level, printed)
            row |= {f"seed_{seed}": one - two for seed, one, two in zip(seeds, *sides, strict=True)}
        base_runs = of_method(records, BASE, claim.policy)
        bases = averages_by_seed(base_runs)
        for prefix, side in (("hpt_", averages[0]), ("other_", averages[1])):
            shared = dict.fromkeys(side, *bases.values()) if is_shared(base_runs) else bases
            row |= _collapses(side, shared, prefix)
        rows.append(row | {"sd_world": world_spread(records, claim.policy)})
    frame = pd.DataFrame(rows)
    by_seed = sorted((str(name) for name in frame if str(name).startswith("seed_")), key=lambda name: int(name[5:]))
    return frame[[*(name for name in frame if name not in by_seed), *by_seed]]


def _difference(sides: Sequence[Sequence[float]], level: float, printed: float) -> dict[str, float]:
    difference = paired_difference(*sides, level=level)
    several = len(difference.differences) > 1
    values = np.array(difference.differences)
    left = [seed_mean(np.delete(values, place)) for place in range(len(values))] if several else []
    return {
        "effect": difference.mean, "low": difference.interval.low, "high": difference.interval.high,
        "p_value": difference.p_value, "p_sign_flip": sign_flip_p(values) if several else math.nan,
        "without_low": min((one.mean for one in left), default=math.nan),
        "without_high": max((one.mean for one in left), default=math.nan),
        "without_p": max((one.p_value for one in left), default=math.nan),
        "sd": difference.sd,
        "detects_5": difference.sd * detectable(5, level), "detects_10": difference.sd * detectable(10, level),
        "seeds_for_paper": seeds_needed(printed, difference.sd, level) if several else math.nan,
    }  # fmt: skip


def _collapses(averages: Mapping[int, float], bases: Mapping[int, float], prefix: str) -> dict[str, float]:
    """Return how many runs end below the base they started from, with the exact interval of their share."""
    below = [averages[seed] < bases[seed] for seed in averages if seed in bases]
    interval = exact_share(sum(below), len(below)) if below else None
    low, high = (100 * interval.low, 100 * interval.high) if interval else (math.nan, math.nan)
    names = ("runs", "collapsed", "collapsed_low", "collapsed_high")
    return {f"{prefix}{name}": value for name, value in zip(names, (len(below), sum(below), low, high), strict=True)}
