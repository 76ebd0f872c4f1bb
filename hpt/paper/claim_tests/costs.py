"""Tests on what training costs: tokens sampled, tokens trained, seconds (Sections 3.2 and 4.2)."""

from collections.abc import Sequence

from hpt.evaluation.intervals import seed_mean
from hpt.paper.claim_tests.records import (
    ClaimRecords,
    Condition,
    Finding,
    NotTestable,
    RunFrames,
    every_seed,
    quantity,
    spread,
)


def costs_less(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    columns: Sequence[str],
    threshold_percent: float,
    baseline_after: str | None = None,
) -> Finding:
    """Test that a method's run costs less than a baseline's: the sum of the columns over all steps.

    The effect is the method's cost relative to the baseline's, in percent less (positive: cheaper). Where the baseline
    starts from another run, that run (``baseline_after``) is part of its cost. A column a run does not have is a cost
    it does not pay: SFT samples nothing.
    """
    per_seed, parts, what = {}, [], ", ".join(map(quantity, columns))
    for seed, runs in records.seeds.items():
        own = _cost(runs[method], columns, records.run(method, seed))
        other = _cost(runs[baseline], columns, records.run(baseline, seed))
        if baseline_after is not None:
            other += _total(runs[baseline_after], columns)
        if other <= 0:
            raise NotTestable(f"{records.label(baseline)} of seed {seed} has no cost in {what}")
        per_seed[seed] = 100 * (1 - own / other)
        parts.append(f"seed {seed}: {own:.4g} against {other:.4g}")
    saved = seed_mean(list(per_seed.values()))
    sums = f"{what}, sums: {'; '.join(parts)}"
    explanation = f"{records.label(method)} saves {spread(saved, 'percent', 1)} (below 0: costs more); {sums}."
    return Finding(per_seed, "percent saved", saved.decide(threshold_percent), explanation)


def rollouts_left_out_when_switched(records: ClaimRecords, *, method: str, share_at_most: float) -> Finding:
    """Test that questions on the demonstration branch cost no rollouts (Section 4.2).

    The effect is the share of all sampled tokens that were sampled for questions which then learnt from their
    demonstration alone.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        rows = runs[method].rollouts
        if rows.empty:
            raise NotTestable(f"no rollouts of {records.label(method)}, seed {seed}")
        tokens = (rows["rollouts"] * rows["response_tokens_mean"]).fillna(0.0)
        switched = rows["branch"] == "demonstration"
        if not tokens.sum() or not switched.any():
            raise NotTestable(
                f"{records.label(method)} of seed {seed} sampled nothing, or never switched to a demonstration"
            )
        per_seed[seed] = float(tokens[switched].sum() / tokens.sum())
        conditions[seed] = [Condition("share of sampled tokens", per_seed[seed], at_most=share_at_most)]
    decision, met = every_seed(conditions)
    return Finding(per_seed, "share", decision, met)


def _cost(run: RunFrames, columns: Sequence[str], whose: str) -> float:
    if not set(columns) & set(run.metrics.columns):
        raise NotTestable(f"no {', '.join(map(quantity, columns))} of {whose}")
    return _total(run, columns)


def _total(run: RunFrames, columns: Sequence[str]) -> float:
    return float(sum(run.metrics[column].sum() for column in columns if column in run.metrics.columns))
