"""Claims of the paper with a verdict on each: the claim's test (`hpt.paper.claim_tests`) applied to records.

A small model says nothing about the level of a large one, so "reproduced" is a word for scale ``full`` only.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from hpt.evaluation.intervals import Decision, Interval, seed_mean
from hpt.paper.claim_tests import TESTS, ClaimRecords, NotTestable, RunFrames
from hpt.paper.paper import Claim

__all__ = ["ClaimRecords", "ClaimResult", "ClaimVerdict", "RunFrames", "judge"]

NUMBERS_WITHOUT_MEANING = frozenset({"tiny"})


class ClaimVerdict(StrEnum):
    """The words a report may use of a claim."""

    holds = "holds in this world"
    reproduced = "reproduced"
    fails = "does not hold"
    undecided = "undecided"
    one_seed = "undecided (one seed)"
    not_testable = "not testable here"


@dataclass(frozen=True)
class ClaimResult:
    """The verdict on a claim, with what it rests on.

    Attributes:
        claim_id: id of the claim.
        verdict: one of `ClaimVerdict`.
        effect: mean over seeds, None where not testable; of a claim without runs the test's own.
        interval: Student's t of the effect over seeds; None where not testable, for one seed, or where exact.
        unit: of effect and interval.
        per_seed: effect of every seed.
        explanation: the numbers, or what is missing.
    """

    claim_id: str
    verdict: ClaimVerdict
    effect: float | None
    interval: Interval | None
    unit: str
    per_seed: dict[int, float]
    explanation: str


def judge(claim: Claim, records: ClaimRecords) -> ClaimResult:
    """Apply a claim's test to the records of its base.

    Seeds that lack a run of one of the claim's methods are left out, and named in the explanation. A claim that names
    no methods is decided on tables made without a run, which are the same at every scale and never the paper's world.

    Example:
        >>> from hpt.paper.paper import claim_named
        >>> judge(claim_named("figure6-weak-offline-ratio"), ClaimRecords("mini", {})).verdict.value
        'not testable here'
    """
    test = TESTS[claim.test]
    if not claim.methods:
        return _judge_without_runs(claim, records)
    try:
        if records.scale in NUMBERS_WITHOUT_MEANING:
            raise NotTestable(f"scale {records.scale} exists for tests; its numbers mean nothing")
        seeds = records.with_methods(*claim.methods)
        if not seeds:
            raise NotTestable("no seed has runs of " + " and ".join(claim.methods))
        finding = test(replace(records, seeds=seeds), **claim.parameters)
        if not all(math.isfinite(value) for value in finding.per_seed.values()):
            raise NotTestable("the records give no number: " + finding.explanation)
    except NotTestable as reason:
        return ClaimResult(claim.id, ClaimVerdict.not_testable, None, None, "", {}, str(reason))
    incomplete = sorted(set(records.seeds) - set(seeds))
    note = f" Left out, a run is missing: seeds {incomplete}." if incomplete else ""
    over_seeds = seed_mean(list(finding.per_seed.values()))
    return ClaimResult(
        claim.id,
        _verdict(finding.decision, records.scale),
        over_seeds.mean,
        over_seeds.interval if over_seeds.interval.known else None,
        finding.unit,
        finding.per_seed,
        finding.explanation + note,
    )


def _judge_without_runs(claim: Claim, records: ClaimRecords) -> ClaimResult:
    try:
        finding = TESTS[claim.test](records, **claim.parameters)
    except NotTestable as reason:
        return ClaimResult(claim.id, ClaimVerdict.not_testable, None, None, "", {}, str(reason))
    verdict = _verdict(finding.decision, "")
    return ClaimResult(claim.id, verdict, finding.effect, finding.interval, finding.unit, {}, finding.explanation)


def _verdict(decision: Decision, scale: str) -> ClaimVerdict:
    return {
        Decision.above: ClaimVerdict.reproduced if scale == "full" else ClaimVerdict.holds,
        Decision.below: ClaimVerdict.fails,
        Decision.undecided: ClaimVerdict.undecided,
        Decision.one_seed: ClaimVerdict.one_seed,
    }[decision]
