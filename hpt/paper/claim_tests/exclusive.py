"""Tests on exclusive solves (Table 4): problems that only the method solves (+X), and only the baseline (-Y).

With several answers per problem a problem counts as the chance that the method's answer is right and the baseline's
is wrong; with one answer that is the count of Table 4.
"""

import numpy as np
import pandas as pd

from hpt.evaluation.intervals import seed_mean
from hpt.paper.claim_tests.records import ClaimRecords, Condition, Finding, NotTestable, both, every_seed, spread
from hpt.paper.claim_tests.scores import counts_of


def exclusive_gains_grow(
    records: ClaimRecords, *, method: str, baseline: str, evaluation: str, steps_down_at_most: int, threshold: float
) -> Finding:
    """Test that +X grows with the level: shares of the level's problems, since harder levels have more problems.

    The effect is the least-squares slope over the levels, in points per level; besides, in every seed +X may fall from
    one level to the next only so often.
    """
    per_seed, conditions = {}, {}
    for seed in records.seeds:
        gains = _exclusive(records, method, baseline, evaluation, seed).groupby("level")["gain"].mean() * 100
        if len(gains) < 2:
            raise NotTestable(f"{evaluation} has one level")
        per_seed[seed] = float(np.polyfit(gains.index.to_numpy(float), gains.to_numpy(), 1)[0])
        down = int((np.diff(gains.to_numpy()) < 0).sum())
        levels = ", ".join(f"{value:.1f}" for value in gains)
        conditions[seed] = [Condition(f"+X {levels} % by level; steps down", down, at_most=steps_down_at_most)]
    slope = seed_mean(list(per_seed.values()))
    everywhere, met = every_seed(conditions)
    explanation = f"slope of +X: {spread(slope, 'points/level', 2)}; {met}"
    return Finding(per_seed, "points/level", both(slope.decide(threshold), everywhere), explanation)


def exclusive_losses_small(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    evaluation: str,
    overall_below_percent: float,
    level_at_most_percent: float,
) -> Finding:
    """Test that -Y stays small: over all levels below a share (Student's t), on no level above another in any seed.

    The effect is -Y in percent of all problems; the test is one-sided in meaning, so a large effect fails.
    """
    per_seed, conditions = {}, {}
    for seed in records.seeds:
        losses = _exclusive(records, method, baseline, evaluation, seed)
        per_seed[seed] = 100 * float(losses["loss"].mean())
        worst = 100 * float(losses.groupby("level")["loss"].mean().max())
        conditions[seed] = [Condition("-Y of the worst level, percent", worst, at_most=level_at_most_percent)]
    everywhere, met = every_seed(conditions)
    below = seed_mean([overall_below_percent - value for value in per_seed.values()])
    explanation = f"-Y: {spread(seed_mean(list(per_seed.values())), 'percent', 1)}; {met}"
    return Finding(per_seed, "percent", both(below.decide(), everywhere), explanation)


def exclusive_net_gain(
    records: ClaimRecords, *, method: str, baseline: str, evaluation: str, threshold_points: float
) -> Finding:
    """Test that the method newly solves more than it loses: +X minus -Y, in percent of all problems."""
    per_seed = {}
    for seed in records.seeds:
        solves = _exclusive(records, method, baseline, evaluation, seed)
        per_seed[seed] = 100 * float((solves["gain"] - solves["loss"]).mean())
    net = seed_mean(list(per_seed.values()))
    return Finding(per_seed, "points", net.decide(threshold_points), f"+X minus -Y: {spread(net, 'points', 1)}.")


def _exclusive(records: ClaimRecords, method: str, baseline: str, evaluation: str, seed: int) -> pd.DataFrame:
    """Return one row per problem: level, gain (+X) and loss (-Y), each a share."""
    runs = records.seeds[seed]
    own, other = (counts_of(runs[arm], evaluation, records.run(arm, seed)) for arm in (method, baseline))
    together = own.merge(other, on=["problem_id", "level"], suffixes=("", "_other"))
    if not len(own) == len(other) == len(together):
        both_runs = f"{records.run(method, seed)} and {records.run(baseline, seed)}"
        raise NotTestable(f"{both_runs} were asked different problems of {evaluation}")
    solved = together["correct"] / together["samples"]
    solved_other = together["correct_other"] / together["samples_other"]
    return pd.DataFrame(
        {
            "level": together["level"],
            "gain": solved * (1 - solved_other),
            "loss": solved_other * (1 - solved),
        }
    )
