"""What a claim's test is given, what it returns, and the rules by which it decides.

* What needs runs is decided by *one number per seed* (a paired difference, a change along a curve, a count) and the
  95 % interval of its mean over at least three seeds (`over_seeds`). No seed has a veto, and the only thresholds are 0
  and what the paper itself prints.
* What must be true of *several things* (every baseline, every set, every part of training) is above when each of them
  is, and below as soon as one is, at a level divided by their number (`all_of`).
* What follows from *exact sums or seeded draws* (`hpt.paper.claim_tests.laboratory`) needs no run and depends on no
  seed: it is decided by an interval over questions.

One seed decides nothing of a run. The confirmatory contrasts are then judged together (`hpt.paper.claims`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from hpt.evaluation.intervals import Decision, Interval, SeedDifference, seed_mean
from hpt.training.metrics import METRICS


@dataclass(frozen=True, eq=False)
class RunFrames:
    """Records of one run: its tables ``metrics``, ``rollouts`` and ``validation`` (`hpt.runs.records.RunRecords`).

    Attributes:
        scores: one row per benchmark: benchmark, distribution ("in", "out"), stands_for, score (percent).
        counts: one row per problem and evaluation: benchmark (the evaluation's name), problem_id, level, correct,
            samples.
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


@dataclass(frozen=True)
class Outcome:
    """What a test found.

    Attributes:
        per_seed: effect of every seed; empty where no run was needed.
        effect, interval: where the effect is no mean over seeds; without interval it is exact.
        dead: whether all methods lie at the floor or at the ceiling, where nothing can be told.
    """

    per_seed: dict[int, float]
    unit: str
    decision: Decision
    explanation: str
    effect: float | None = None
    interval: Interval | None = None
    dead: bool = False


class NotTestable(Exception):
    """The records lack what a test needs; the message says what."""


def over_seeds(
    per_seed: dict[int, float],
    unit: str,
    threshold: float,
    what: str,
    digits: int = 1,
    more: str = "",
    side: Literal["above", "at least", "at most"] = "above",
    of: int = 1,
) -> Outcome:
    """Decide by Student's t over seeds on which side of the threshold the effect is; ``what`` names the effect.

    One ``of`` several that must all be above is below only at a level divided by their number: of many, one would be
    by chance.
    """
    sign = -1.0 if side == "at most" else 1.0
    margins = [sign * (value - threshold) for value in per_seed.values()]
    decision = seed_mean(margins).decide(inclusive=side != "above")
    if decision is Decision.below:
        decision = seed_mean(margins, 1 - 0.05 / of).decide()
    text = f"{what}: {spread(seed_mean(list(per_seed.values())), unit, digits)}" + (f"; {more}" if more else ".")
    return Outcome(per_seed, unit, decision, text)


def all_of(found: Sequence[Outcome]) -> Outcome:
    """Decide what must hold of each of several (`over_seeds` with ``of``): above when all are, below as soon as one is.

    The effect is that of the one that comes closest, or is furthest below. Not the least of each seed: a minimum over
    noisy values is too low.
    """
    nearest = min(found, key=lambda outcome: sum(outcome.per_seed.values()))
    text = " ".join(outcome.explanation for outcome in found)
    decision = both(*(outcome.decision for outcome in found))
    return Outcome(nearest.per_seed, nearest.unit, decision, text, dead=all(outcome.dead for outcome in found))


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
    return f"{text}, {interval.level:.0%} interval {interval.low:+.{digits}f} to {interval.high:+.{digits}f})"


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
