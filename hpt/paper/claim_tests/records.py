"""What a claim's test is given, what it returns, and the rules by which it decides.

* A *comparison of methods* is decided by the paired difference per seed with Student's t over at least three seeds
  (`over_seeds`).
* The *shape of one curve* is decided seed by seed against thresholds: it holds when every seed satisfies all of them,
  and fails when no seed does (`unanimous`). Student's t is no help there: shares near zero are far from normal.
* What follows from *exact sums or seeded draws* (`hpt.paper.claim_tests.laboratory`) needs no run and depends on no
  seed: it is decided by an interval over questions.

One seed decides nothing of a run. Thresholds are arguments; their values stand in ``paper.json`` beside each claim.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from hpt.evaluation.intervals import MIN_SEEDS, Decision, Interval, SeedDifference, seed_mean
from hpt.training.metrics import METRICS


@dataclass(frozen=True, eq=False)
class RunFrames:
    """Records of one run.

    Attributes:
        metrics: one row per step, with ``step`` and the columns of `hpt.training.metrics`.
        rollouts: one row per question and step.
        scores: one row per benchmark: benchmark, distribution ("in", "out"), stands_for, score (percent).
        counts: one row per problem and evaluation: benchmark (the evaluation's name), problem_id, level, correct,
            samples.
        validation: one row per problem of the validation curves: step, benchmark, problem_id, correct, samples.
        name: what readers call the run; `ClaimRecords.each_seed` fills it in.
    """

    metrics: pd.DataFrame
    rollouts: pd.DataFrame = field(default_factory=pd.DataFrame)
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    counts: pd.DataFrame = field(default_factory=pd.DataFrame)
    validation: pd.DataFrame = field(default_factory=pd.DataFrame)
    name: str = ""


@dataclass(frozen=True, eq=False)
class ClaimRecords:
    """All records a claim is tested on, at one scale.

    Attributes:
        scale: name of the scale.
        seeds: seed -> arm -> its run; arms are named as the claim names them (``hpt``, ``hpt@strong``).
        ceiling_tokens: largest response length sampling allows, in tokens; None = unknown.
        frames: name -> table that was made without a run, for claims that need none.
        labels: arm -> what readers call it.
    """

    scale: str
    seeds: Mapping[int, Mapping[str, RunFrames]]
    ceiling_tokens: int | None = None
    frames: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def label(self, arm: str) -> str:
        """Return what readers call an arm; without a label, its name."""
        return self.labels.get(arm, arm)

    def difference(self, method: str, baseline: str) -> str:
        """Return what readers call the difference of two arms."""
        return f"{self.label(method)} minus {self.label(baseline)}"

    def each_seed(self, *arms: str) -> Iterator[tuple[int, list[RunFrames]]]:
        """Yield every seed with the runs of these arms."""
        for seed, runs in self.seeds.items():
            yield seed, [replace(runs[arm], name=f"{self.label(arm)}, seed {seed}") for arm in arms]

    def with_methods(self, *methods: str) -> dict[int, Mapping[str, RunFrames]]:
        """Return the seeds that have runs of all these methods, in order."""
        return {seed: self.seeds[seed] for seed in sorted(self.seeds) if set(methods) <= set(self.seeds[seed])}


@dataclass(frozen=True)
class Outcome:
    """What a test found.

    Attributes:
        per_seed: effect of every seed; empty where no run was needed.
        unit: of the effect.
        decision: where it lies.
        explanation: the numbers behind it in words.
        effect: where it is no mean over seeds.
        interval: of that effect; None = it is exact.
    """

    per_seed: dict[int, float]
    unit: str
    decision: Decision
    explanation: str
    effect: float | None = None
    interval: Interval | None = None


class NotTestable(Exception):
    """The records lack what a test needs; the message says what."""


@dataclass(frozen=True)
class Condition:
    """One threshold a seed has to meet: a quantity with its value and bounds, ends included."""

    quantity: str
    value: float
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def met(self) -> bool:
        """Whether the value lies within the bounds."""
        return self.at_least <= self.value <= self.at_most

    def __str__(self) -> str:
        bounds = [(self.at_least, "at least"), (self.at_most, "at most")]
        asked = " and ".join(f"{word} {bound:g}" for bound, word in bounds if math.isfinite(bound))
        return f"{self.quantity} {self.value:.3g} ({asked}{'' if self.met else ': not met'})"


Conditions = Mapping[int, list[Condition]]


def over_seeds(
    per_seed: dict[int, float],
    unit: str,
    threshold: float,
    what: str,
    digits: int = 1,
    conditions: Conditions | None = None,
    more: str = "",
) -> Outcome:
    """Decide by Student's t over seeds, and with conditions also by unanimity; ``what`` names the effect."""
    mean = seed_mean(list(per_seed.values()))
    decision = mean.decide(threshold)
    if conditions is not None:
        everywhere, more = _every_seed(conditions)
        decision = both(decision, everywhere)
    return Outcome(per_seed, unit, decision, f"{what}: {spread(mean, unit, digits)}" + (f"; {more}" if more else "."))


def unanimous(per_seed: dict[int, float], unit: str, conditions: Conditions) -> Outcome:
    """Decide by unanimity: above when every seed meets all its conditions, below when none does."""
    return Outcome(per_seed, unit, *_every_seed(conditions))


def _every_seed(conditions: Conditions) -> tuple[Decision, str]:
    met = {seed: all(condition.met for condition in those) for seed, those in conditions.items()}
    if len(met) == 1:
        decision = Decision.one_seed
    elif len(met) < MIN_SEEDS or len(set(met.values())) > 1:
        decision = Decision.undecided
    else:
        decision = Decision.above if all(met.values()) else Decision.below
    numbers = "; ".join(f"seed {seed}: {', '.join(map(str, those))}" for seed, those in conditions.items())
    return decision, f"all conditions met in {sum(met.values())} of {len(met)} seeds. {numbers}."


def both(*decisions: Decision) -> Decision:
    """Decide a claim of several parts: above when all are, below as soon as one is.

    Example:
        >>> both(Decision.above, Decision.undecided).value, both(Decision.above, Decision.below).value
        ('undecided', 'below')
    """
    if Decision.below in decisions:
        return Decision.below
    return decisions[0] if len(set(decisions)) == 1 else Decision.undecided


def spread(difference: SeedDifference, unit: str, digits: int) -> str:
    """Return a mean over seeds with its interval, in words."""
    text = f"{difference.mean:+.{digits}f} {unit} ({len(difference.differences)} seeds"
    interval = difference.interval
    if not interval.known:
        return text.replace("1 seeds", "1 seed") + ")"
    text += f", {interval.level:.0%} interval {interval.low:+.{digits}f} to {interval.high:+.{digits}f}"
    return f"{text}; {difference.smallest_detectable:.{digits}f} would have been seen 4 times in 5)"


def quantity(column: str) -> str:
    """Return what readers call a column of the metrics.

    Example:
        >>> quantity("rollout/reward")
        'training reward'
    """
    return METRICS[column].label[:1].lower() + METRICS[column].label[1:] if column in METRICS else column


def unit_of(column: str) -> str:
    """Return the unit of a metric; empty for a column that is none."""
    return METRICS[column].unit if column in METRICS else ""
