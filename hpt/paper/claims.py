"""Claims of the paper with a verdict on each: the claim's test (`hpt.paper.claim_tests`) applied to records.

A small model says nothing about the level of a large one, so "reproduced" is a word for scale ``full`` only.
"""

import math
from dataclasses import dataclass, field, replace
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
    """The verdict on a claim, with the numbers behind it.

    Attributes:
        claim_id: id of the claim.
        verdict: one of `ClaimVerdict`.
        explanation: the numbers, or what is missing.
        effect: mean over seeds, None where not testable; of a claim without runs the test's effect.
        interval: Student's t of the effect over seeds; None where not testable, for one seed, or where exact.
        unit: of effect and interval.
        per_seed: effect of every seed.
    """

    claim_id: str
    verdict: ClaimVerdict
    explanation: str
    effect: float | None = None
    interval: Interval | None = None
    unit: str = ""
    per_seed: dict[int, float] = field(default_factory=dict)


def judge(claim: Claim, records: ClaimRecords) -> ClaimResult:
    """Apply a claim's test to the records of its base.

    Seeds that lack a run of one of the claim's methods are left out, and named in the explanation. A claim that names
    no methods is decided on tables made without a run, which are the same at every scale and never the paper's world.

    Example:
        >>> from hpt.paper.paper import claim_named
        >>> judge(claim_named("figure6-weak-offline-ratio"), ClaimRecords("mini", {})).verdict.value
        'not testable here'
    """
    try:
        if claim.methods:
            return _judge_runs(claim, records)
        found = TESTS[claim.test](records, **claim.parameters)
    except NotTestable as reason:
        return ClaimResult(claim.id, ClaimVerdict.not_testable, str(reason))
    verdict = _verdict(found.decision, "")
    return ClaimResult(claim.id, verdict, found.explanation, found.effect, found.interval, found.unit)


def _judge_runs(claim: Claim, records: ClaimRecords) -> ClaimResult:
    if records.scale in NUMBERS_WITHOUT_MEANING:
        raise NotTestable(f"scale {records.scale} exists for tests; its numbers mean nothing")
    seeds = records.with_methods(*claim.methods)
    if not seeds:
        raise NotTestable("no seed has runs of " + " and ".join(claim.methods))
    found = TESTS[claim.test](replace(records, seeds=seeds), **claim.parameters)
    if not all(math.isfinite(value) for value in found.per_seed.values()):
        raise NotTestable("the records give no number: " + found.explanation)
    incomplete = sorted(set(records.seeds) - set(seeds))
    note = f" Left out, a run is missing: seeds {incomplete}." if incomplete else ""
    mean = seed_mean(list(found.per_seed.values()))
    interval = mean.interval if mean.interval.known else None
    verdict, explanation = _verdict(found.decision, records.scale), found.explanation + note
    return ClaimResult(claim.id, verdict, explanation, mean.mean, interval, found.unit, found.per_seed)


def _verdict(decision: Decision, scale: str) -> ClaimVerdict:
    return {
        Decision.above: ClaimVerdict.reproduced if scale == "full" else ClaimVerdict.holds,
        Decision.below: ClaimVerdict.fails,
        Decision.undecided: ClaimVerdict.undecided,
        Decision.one_seed: ClaimVerdict.one_seed,
    }[decision]
