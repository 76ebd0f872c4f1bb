"""Tests on final scores: averages over benchmarks (Tables 2, 3, 5, 6) and pass@k (Figure 2)."""

from collections.abc import Callable, Sequence

import pandas as pd

from hpt.evaluation.intervals import Decision, seed_mean
from hpt.evaluation.scores import pass_at_k
from hpt.paper.claim_tests.records import (
    ClaimRecords,
    Condition,
    Finding,
    NotTestable,
    RunFrames,
    every_seed,
    spread,
)

#: A run and whose it is -> its score in percent on every set that counts.
_Score = Callable[[RunFrames, str], pd.Series]


def average_above(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    distribution: str,
    threshold_points: float,
    benchmark: str | None = None,
) -> Finding:
    """Test that a method's average score is above a baseline's (Tables 2, 3): unweighted mean over benchmarks.

    The means are of unrounded scores; rounding belongs to printing. ``benchmark`` names one of the paper's, for claims
    about the set that stands for it alone.
    """
    return _above(records, method, baseline, _average(distribution, benchmark), threshold_points)


def pass_at_k_above(
    records: ClaimRecords, *, method: str, baseline: str, evaluations: Sequence[str], k: int, threshold_points: float
) -> Finding:
    """Test that a method's pass@k is above a baseline's (Figure 2): unbiased estimate, unweighted mean over sets."""
    return _above(records, method, baseline, _pass_at(evaluations, k), threshold_points)


def average_highest(
    records: ClaimRecords, *, method: str, others: Sequence[str], distribution: str, threshold_points: float
) -> Finding:
    """Test that a method's average is above every other's (Tables 5, 6); see `_highest`."""
    return _highest(records, method, others, _average(distribution, None), threshold_points)


def pass_at_k_highest(
    records: ClaimRecords,
    *,
    method: str,
    others: Sequence[str],
    evaluations: Sequence[str],
    k: int,
    threshold_points: float,
) -> Finding:
    """Test that a method's pass@k is above every other's (takeaway 3, Figure 2); see `_highest`."""
    return _highest(records, method, others, _pass_at(evaluations, k), threshold_points)


def gains_more(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    other: str,
    other_baseline: str,
    distribution: str,
    threshold_points: float,
) -> Finding:
    """Test that a method gains more over its baseline than another does over its own (Section 2.3): RL on two bases.

    The effect is the difference of the two gains, each of unweighted means over the same sets.
    """
    score = _average(distribution, None)
    first, second = (_above(records, arm, under, score, 0.0) for arm, under in
                     ((method, baseline), (other, other_baseline)))  # fmt: skip
    per_seed = {seed: first.per_seed[seed] - second.per_seed[seed] for seed in records.seeds}
    difference = seed_mean(list(per_seed.values()))
    explanation = f"gain minus gain: {spread(difference, 'points', 1)}. {first.explanation} {second.explanation}"
    return Finding(per_seed, "points", difference.decide(threshold_points), explanation)


def best_on_most_sets(
    records: ClaimRecords,
    *,
    method: str,
    others: Sequence[str],
    sets_at_least: int,
    distributions: Sequence[str] = ("in", "out"),
) -> Finding:
    """Test that a method is above all others on nearly every set, in every seed ("consistently", abstract).

    The effect is the number of sets of these distributions on which it is above the best of the others.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        scores = [
            pd.concat([_average(kind, None)(runs[name], records.run(name, seed)) for kind in distributions])
            for name in (method, *others)
        ]
        _same_sets(scores, f"the methods of seed {seed}")
        best = pd.concat(scores[1:], axis=1).max(axis=1)
        per_seed[seed] = float((scores[0] > best).sum())
        conditions[seed] = [Condition(f"sets won, of {len(best)}:", per_seed[seed], at_least=sets_at_least)]
    decision, met = every_seed(conditions)
    return Finding(per_seed, "sets", decision, met)


def _above(records: ClaimRecords, method: str, baseline: str, score: _Score, threshold: float) -> Finding:
    per_seed = {}
    for seed, runs in records.seeds.items():
        ours, other = (score(runs[name], records.run(name, seed)) for name in (method, baseline))
        _same_sets([ours, other], f"{records.label(method)} and {records.label(baseline)} of seed {seed}")
        per_seed[seed] = float(ours.mean() - other.mean())
    difference = seed_mean(list(per_seed.values()))
    explanation = f"{records.difference(method, baseline)}: {spread(difference, 'points', 1)}."
    return Finding(per_seed, "points", difference.decide(threshold), explanation)


def _highest(records: ClaimRecords, method: str, others: Sequence[str], score: _Score, threshold: float) -> Finding:
    """Decide against every other method: above when it is above each, below when it is below one of them.

    The effect is the difference to the method that comes closest, or is furthest ahead. Not the difference to the best
    other of each seed: a maximum over noisy values is too high.
    """
    findings = [_above(records, method, other, score, threshold) for other in others]
    nearest = min(findings, key=lambda finding: sum(finding.per_seed.values()))
    decisions = {finding.decision for finding in findings}
    if Decision.below in decisions:
        decision = Decision.below
    else:
        decision = nearest.decision if len(decisions) == 1 else Decision.undecided
    return Finding(nearest.per_seed, nearest.unit, decision, " ".join(finding.explanation for finding in findings))


def _average(distribution: str, benchmark: str | None) -> _Score:
    def score(run: RunFrames, whose: str) -> pd.Series:
        if not {"benchmark", "distribution", "score"} <= set(run.scores.columns):
            raise NotTestable(f"no scores of {whose}")
        scores = run.scores[run.scores["distribution"] == distribution]
        if benchmark is not None:
            scores = scores[scores["stands_for"] == benchmark]
        values = scores.set_index("benchmark")["score"]
        if values.empty or values.isna().any():
            raise NotTestable(f"no complete {distribution}-distribution scores of {whose}")
        return values

    return score


def _pass_at(evaluations: Sequence[str], k: int) -> _Score:
    def score(run: RunFrames, whose: str) -> pd.Series:
        return pd.Series({name: _pass_at_of(counts_of(run, name, whose), name, k, whose) for name in evaluations})

    return score


def _pass_at_of(counts: pd.DataFrame, name: str, k: int, whose: str) -> float:
    if counts["samples"].min() < k:
        raise NotTestable(f"{name} of {whose} has {counts['samples'].min()} answers per problem, fewer than k = {k}")
    return 100 * float(pass_at_k(counts["correct"], counts["samples"], k).mean())


def counts_of(run: RunFrames, evaluation: str, whose: str) -> pd.DataFrame:
    """Return a run's counts per problem on an evaluation."""
    there = "benchmark" in run.counts.columns
    counts = run.counts[run.counts["benchmark"] == evaluation] if there else run.counts
    if counts.empty:
        raise NotTestable(f"no answers to {evaluation} of {whose}")
    return counts.reset_index(drop=True)


def _same_sets(scores: Sequence[pd.Series], whose: str) -> None:
    if any(set(series.index) != set(scores[0].index) for series in scores):
        raise NotTestable(f"{whose} were evaluated on different benchmarks")
