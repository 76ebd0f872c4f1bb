"""Claims of the paper with a verdict on each: the claim's test (`hpt.paper.claim_tests`) applied to records.

The rules were fixed before the runs they judge (docs/world.md): the confirmatory contrasts are judged together
(`judge_together`); every other claim by its own 95 % interval, and is exploratory. A small model says nothing about the
level of a large one, so "reproduced" is a word for scale ``full`` only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hpt.evaluation.intervals import MIN_SEEDS, Decision, Interval, SeedDifference, holm, seed_mean
from hpt.paper.claim_tests import TESTS, ClaimRecords, NotTestable
from hpt.paper.paper import Claim, confirmatory_claims

ALPHA = 0.05  # chance of any wrong decision among the confirmatory contrasts
LEVEL_POINTS = 2.0  # two averages are level when the 90 % interval of their difference lies within as much
DETECTED_BY_TEN = 1.5  # standard deviations of the paired difference that ten seeds detect in the corrected test


class ClaimVerdict(StrEnum):
    """The words a report may use of a claim."""

    holds = "holds"
    reproduced = "reproduced"
    smaller = "smaller than the paper's"
    fails = "does not hold"
    level = "does not hold (level)"
    undecided = "undecided"
    one_seed = "undecided (one seed)"
    dead = "not testable: ceiling or floor"
    too_small = "not testable at this size"
    not_testable = "not testable here"


_VERDICTS = {
    Decision.above: ClaimVerdict.holds,
    Decision.below: ClaimVerdict.fails,
    Decision.undecided: ClaimVerdict.undecided,
    Decision.one_seed: ClaimVerdict.one_seed,
}


@dataclass(frozen=True)
class ClaimResult:
    """The verdict on a claim, with the numbers behind it.

    ``effect`` is the mean over seeds, of a claim without runs the test's effect. ``interval`` is Student's t of it over
    seeds, of a confirmatory contrast the simultaneous one; None for one seed, or where the effect is exact.
    ``p_corrected`` is that of a confirmatory contrast, by Holm over all of them.
    """

    verdict: ClaimVerdict
    explanation: str
    effect: float | None = None
    interval: Interval | None = None
    unit: str = ""
    per_seed: dict[int, float] = field(default_factory=dict)
    p_corrected: float = math.nan


def judge(claim: Claim, records: ClaimRecords) -> ClaimResult:
    """Apply a claim's test to the records of its base.

    Seeds that lack a run of one of the claim's methods are left out, and named in the explanation. A claim that names
    no methods is decided on tables made without a run, which are the same at every scale and never the paper's world.
    """
    note = ""
    try:
        if claim.methods:
            records, note = _whole_seeds(claim, records)
        found = TESTS[claim.test](records, *claim.methods, **claim.parameters)
        if not all(math.isfinite(value) for value in found.per_seed.values()):
            raise NotTestable("the records give no number: " + found.explanation)
    except NotTestable as reason:
        return ClaimResult(ClaimVerdict.not_testable, str(reason))
    verdict = ClaimVerdict.dead if found.dead else _VERDICTS[found.decision]
    verdict = _at_scale(verdict, records.scale) if claim.methods else verdict
    return ClaimResult(verdict, found.explanation + note, found.effect, found.interval, found.unit, found.per_seed)


def _whole_seeds(claim: Claim, records: ClaimRecords) -> tuple[ClaimRecords, str]:
    """Return the records of the seeds that have a run of every arm, and a sentence that names the others."""
    if records.scale == "tiny":
        raise NotTestable("scale tiny exists for tests; its numbers mean nothing")
    seeds = {seed: runs for seed, runs in sorted(records.seeds.items()) if set(claim.methods) <= set(runs)}
    if not seeds:
        raise NotTestable("no seed has runs of " + " and ".join(claim.methods))
    incomplete = sorted(set(records.seeds) - set(seeds))
    note = f" Left out, a run is missing: seeds {incomplete}." if incomplete else ""
    return replace(records, seeds=seeds), note


def _at_scale(verdict: ClaimVerdict, scale: str) -> ClaimVerdict:
    return ClaimVerdict.reproduced if verdict is ClaimVerdict.holds and scale == "full" else verdict


def judge_together(
    records: Mapping[str, ClaimRecords], printed: Mapping[str, float], spread: Mapping[str, float]
) -> dict[str, ClaimResult]:
    """Judge the confirmatory contrasts: paired t with Holm's correction over all 13, and simultaneous intervals.

    Each simultaneous interval (Bonferroni) has coverage 1 - 0.05 / 13, all together at least 0.95. A contrast that
    cannot be tested stays in the family with p = 1. The rules and their order: docs/world.md. By claim, ``records`` are
    those of its base, ``printed`` is the paper's difference in points, ``spread`` the standard deviation of a paired
    difference on its base, measured before HPT is run (NaN = not).
    """
    found = {claim.id: judge(claim, records[claim.id]) for claim in confirmatory_claims()}
    differences = {name: seed_mean(list(one.per_seed.values()), 1 - ALPHA / len(found))
                   for name, one in found.items() if one.per_seed}  # fmt: skip
    testable = [name for name, one in differences.items()
                if len(one.differences) >= MIN_SEEDS and found[name].verdict is not ClaimVerdict.dead]  # fmt: skip
    corrected = holm([differences[name].p_value if name in testable else math.nan for name in found])
    p_of = dict(zip(found, corrected.tolist(), strict=True))
    for name, one in differences.items():
        found[name] = replace(found[name], interval=one.interval if one.interval.known else None)
        if name in testable:
            verdict = confirmed(one, p_of[name], printed[name], spread.get(name, math.nan))
            text = f"That interval is for one contrast; shown is the one that holds for all {len(found)} together. "
            near = seed_mean(one.differences, level=0.9).interval
            text += f"Corrected p {p_of[name]:.2g}; 90 % interval, which decides whether they are level: "
            text += f"{near.low:+.1f} to {near.high:+.1f}; the paper {printed[name]:+.1f}."
            found[name] = replace(
                found[name], verdict=_at_scale(verdict, records[name].scale),
                explanation=f"{found[name].explanation} {text}", p_corrected=p_of[name],
            )  # fmt: skip
    return found


def confirmed(difference: SeedDifference, p_corrected: float, printed: float, spread: float) -> ClaimVerdict:
    """Return the verdict on one contrast of the family (`judge_together`), over at least three seeds, in points."""
    if p_corrected < ALPHA and difference.mean > 0:
        return ClaimVerdict.smaller if difference.interval.high < printed else ClaimVerdict.holds
    if p_corrected < ALPHA:
        return ClaimVerdict.fails
    near = seed_mean(difference.differences, level=0.9)  # two one-sided tests at 5 % each
    if max(abs(near.interval.low), abs(near.interval.high)) < LEVEL_POINTS:
        return ClaimVerdict.level
    return ClaimVerdict.too_small if printed < DETECTED_BY_TEN * spread else ClaimVerdict.undecided
