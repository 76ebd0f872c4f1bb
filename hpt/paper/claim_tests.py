"""The tests that decide claims: functions from the records of several seeds to an outcome.

`TESTS` names them all; ``paper.json`` says which claim uses which, on which arms (the arguments by position) and with
which parameters. Every test raises `NotTestable` where the records lack what it reads. The rules by which they decide:

* What needs runs is decided by *one number per seed* (a paired difference, a change along a curve, a count) and the
  95 % interval of its mean over at least three seeds (`over_seeds`). No seed has a veto, and the only thresholds are 0
  and what the paper itself prints.
* What must be true of *several things* (every baseline, every set, every part of training) is above when each of them
  is, and below as soon as one is, at a level divided by their number (`all_of`).
* What follows from *exact sums or seeded draws* needs no run and depends on no seed: it is decided by an interval over
  questions, which says nothing about training seeds.

One seed decides nothing of a run. The confirmatory contrasts are then judged together (`hpt.paper.claims`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from hpt.evaluation.intervals import Decision, Interval, seed_mean
from hpt.evaluation.scores import accuracy_grid, always_zero, part_of_training, pass_at_k
from hpt.paper.paper import paper_value
from hpt.training.metrics import METRICS

MIN_STEPS = 20  # two steps in each tenth of training; windows of one step are noise
MIN_EPOCHS = 4  # a quarter of training is at least one epoch
FLOOR, CEILING = 2.0, 98.0  # percent: where every method is below or above, nothing can be told (docs/world.md)
LEVEL, RESAMPLES = 0.95, 2000
MIN_QUESTIONS = 6  # of fewer, resampling gives hardly more than the questions themselves
OVER_QUESTIONS = "bootstrap over questions"


class NotTestable(Exception):
    """The records lack what a test needs; the message says what."""


@dataclass(frozen=True, eq=False)
class RunFrames:
    """Records of one run: its tables ``metrics``, ``rollouts`` and ``validation`` (`hpt.runs.records.RunRecords`).

    ``scores`` has a row per benchmark: benchmark, distribution ("in", "out"), stands_for, score (percent). ``counts``
    has a row per problem and evaluation: benchmark (the evaluation's name), problem_id, level, correct, samples.
    ``name`` is what readers call the run; `ClaimRecords.each_seed` fills it in.
    """

    metrics: pd.DataFrame
    rollouts: pd.DataFrame = field(default_factory=pd.DataFrame)
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    counts: pd.DataFrame = field(default_factory=pd.DataFrame)
    validation: pd.DataFrame = field(default_factory=pd.DataFrame)
    name: str = ""

    def table(self, kind: str) -> pd.DataFrame:
        """Return one of the tables, which must not be empty."""
        frame: pd.DataFrame = getattr(self, kind)
        if frame.empty:
            raise NotTestable(f"no {kind} of {self.name}")
        return frame


@dataclass(frozen=True, eq=False)
class ClaimRecords:
    """All records a claim is tested on, at one scale.

    ``seeds``: seed -> arm -> its run, arms named as the claim names them (``hpt``, ``hpt@strong``). ``ceiling_tokens``:
    the largest response length sampling allows. ``frames``: tables made without a run, by name. ``labels``: arm -> what
    readers call it.
    """

    scale: str
    seeds: Mapping[int, Mapping[str, RunFrames]]
    ceiling_tokens: int | None = None
    frames: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def label(self, arm: str) -> str:
        """Return what readers call an arm."""
        return self.labels.get(arm, arm)

    def difference(self, method: str, baseline: str) -> str:
        """Return what readers call the difference of two arms."""
        return f"{self.label(method)} minus {self.label(baseline)}"

    def each_seed(self, *arms: str) -> Iterator[tuple[int, list[RunFrames]]]:
        """Yield every seed with the runs of these arms."""
        for seed, runs in self.seeds.items():
            yield seed, [replace(runs[arm], name=f"{self.label(arm)}, seed {seed}") for arm in arms]

    def frame(self, name: str) -> pd.DataFrame:
        """Return a table made without a run."""
        if name not in self.frames:
            raise NotTestable(f"{name} was not made")
        return self.frames[name]


@dataclass(frozen=True)
class Outcome:
    """What a test found.

    ``effect`` is the mean of ``per_seed``, the effect of every seed, which is empty where no run was needed;
    ``interval`` is None of one seed, or where the effect is exact. ``dead``: all methods lie at the floor or at the
    ceiling, where nothing can be told.
    """

    per_seed: dict[int, float]
    unit: str
    decision: Decision
    explanation: str
    effect: float
    interval: Interval | None = None
    dead: bool = False


# How is decided


def over_seeds(
    per_seed: dict[int, float],
    unit: str,
    what: str,
    threshold: float = 0.0,
    side: Literal["above", "at least", "at most"] = "above",
    digits: int = 1,
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
    mean, seeds = seed_mean(list(per_seed.values())), len(per_seed)
    low, high = (f"{end:+.{digits}f}" for end in (mean.interval.low, mean.interval.high))
    over = f"{seeds} seeds, {mean.interval.level:.0%} interval {low} to {high}" if seeds > 1 else "1 seed"
    text = f"{what}: {mean.mean:+.{digits}f} {unit} ({over})."
    return Outcome(per_seed, unit, decision, text, mean.mean, mean.interval if mean.interval.known else None)


def all_of(found: Sequence[Outcome]) -> Outcome:
    """Decide what must hold of each of several (`over_seeds` with ``of``): above when all are, below as soon as one is.

    The effect is that of the one that decides: furthest below, else of the lowest interval. Not the least of each seed:
    a minimum over noisy values is too low.
    """
    below = [outcome for outcome in found if outcome.decision is Decision.below]
    nearest = min(below or found, key=lambda own: own.effect if below or not own.interval else own.interval.low)
    text = " ".join(outcome.explanation for outcome in found)
    if len(found) > 1:
        text += f" Shown is the lowest of the {len(found)}; one fails by its interval at a level divided by as many."
    decision, dead = both(*(outcome.decision for outcome in found)), all(outcome.dead for outcome in found)
    return replace(nearest, decision=decision, explanation=text, dead=dead)


def each_over_seeds(by_seed: dict[int, pd.Series], unit: str, digits: int = 1, parts: int = 1) -> Outcome:
    """Decide what must hold of each of several named effects, in one of so many parts (`over_seeds`, `all_of`)."""
    found, names = [], list(next(iter(by_seed.values())).index)
    for name in names:
        per_seed = {seed: float(effects[name]) for seed, effects in by_seed.items()}
        found.append(over_seeds(per_seed, unit, name, digits=digits, of=parts * len(names)))
    return all_of(found)


def both(*decisions: Decision) -> Decision:
    """Decide a claim of several parts: above when all are, below as soon as one is."""
    if Decision.below in decisions:
        return Decision.below
    return decisions[0] if len(set(decisions)) == 1 else Decision.undecided


def _alike(runs: Sequence[RunFrames], read: Callable[[RunFrames], Any], what: str) -> list[Any]:
    """Return what is read of every run; runs that are compared must have the same ``what``."""
    first, *others = found = [read(run) for run in runs]
    if any(not axis.equals(same) for one in others for axis, same in zip(one.axes, first.axes, strict=True)):
        raise NotTestable(f"{' and '.join(run.name for run in runs)} have different {what}")
    return found


def _quantity(column: str) -> str:
    """Return what readers call a column of the metrics."""
    return METRICS[column].label[:1].lower() + METRICS[column].label[1:]


# Final scores (Tables 2, 3, 5, 6) and pass@k (Figure 2)

#: A run -> its score in percent on every set that counts.
_Score = Callable[[RunFrames], pd.Series]


def average_above(
    records: ClaimRecords, method: str, *others: str, distribution: str, benchmark: str | None = None
) -> Outcome:
    """Test that a method's average score is above a baseline's (Tables 2, 3), or above every other's (Table 6).

    The average is an unweighted mean over benchmarks of unrounded scores; rounding belongs to printing. ``benchmark``
    names one of the paper's, for claims about the set that stands for it alone.
    """
    return _highest(records, method, others, _average(distribution, benchmark))


def pass_at_k_above(
    records: ClaimRecords, method: str, *others: str, evaluations: Sequence[str], k: int, threshold: float = 0.0
) -> Outcome:
    """Test that a method's pass@k is above a baseline's, or every other's (Figure 2): unbiased, a mean over sets."""

    def of_set(run: RunFrames, name: str) -> float:
        counts = _counts(run, name)
        if (fewest := counts["samples"].min()) < k:
            raise NotTestable(f"{name} of {run.name} has {fewest} answers per problem, fewer than k = {k}")
        return 100 * float(pass_at_k(counts["correct"], counts["samples"], k).mean())

    def score(run: RunFrames) -> pd.Series:
        return pd.Series({name: of_set(run, name) for name in evaluations})

    return _highest(records, method, others, score, threshold)


def gains_more(
    records: ClaimRecords, method: str, baseline: str, other: str, other_baseline: str, *, distribution: str
) -> Outcome:
    """Test that a method gains more over its baseline than another over its baseline (Section 2.3): RL on two bases."""
    first, second = (_above(records, arm, under, _average(distribution)) for arm, under in
                     ((method, baseline), (other, other_baseline)))  # fmt: skip
    per_seed = {seed: first.per_seed[seed] - second.per_seed[seed] for seed in records.seeds}
    found = over_seeds(per_seed, "points", "gain minus gain")
    return replace(found, explanation=" ".join(one.explanation for one in (found, first, second)))


def best_on_most_sets(
    records: ClaimRecords, method: str, *others: str, sets_at_least: int, distributions: Sequence[str]
) -> Outcome:
    """Test that a method is above all others on as many sets as in the paper's table ("consistently", abstract)."""

    def score(run: RunFrames) -> pd.Series:
        return pd.concat([_average(kind)(run) for kind in distributions])

    per_seed, sets = {}, 0
    for seed, runs in records.each_seed(method, *others):
        ours, *theirs = _alike(runs, score, "benchmarks")
        per_seed[seed], sets = float((ours > pd.concat(theirs, axis=1).max(axis=1)).sum()), len(ours)
        if sets < sets_at_least:
            raise NotTestable(f"{sets} sets, fewer than the {sets_at_least} that the claim is about")
    return over_seeds(per_seed, "sets", f"sets won, of {sets}", sets_at_least, side="at least")


def _highest(
    records: ClaimRecords, method: str, others: Sequence[str], score: _Score, threshold: float = 0.0
) -> Outcome:
    return all_of([_above(records, method, other, score, threshold, len(others)) for other in others])


def _above(
    records: ClaimRecords, method: str, baseline: str, score: _Score, threshold: float = 0.0, of: int = 1
) -> Outcome:
    per_seed, levels = {}, []
    for seed, runs in records.each_seed(method, baseline):
        ours, other = (float(scores.mean()) for scores in _alike(runs, score, "benchmarks"))
        per_seed[seed] = ours - other
        levels.append((ours, other))
    means = np.mean(levels, axis=0)
    dead = bool(means.max() < FLOOR or means.min() > CEILING)
    return replace(over_seeds(per_seed, "points", records.difference(method, baseline), threshold, of=of), dead=dead)


def _average(distribution: str, benchmark: str | None = None) -> _Score:
    def score(run: RunFrames) -> pd.Series:
        scores = run.table("scores")
        scores = scores[scores["distribution"] == distribution]
        if benchmark is not None:
            scores = scores[scores["stands_for"] == benchmark]
        values = scores.set_index("benchmark")["score"]
        if values.empty or values.isna().any():
            raise NotTestable(f"no complete {distribution}-distribution scores of {run.name}")
        return values

    return score


def _counts(run: RunFrames, evaluation: str) -> pd.DataFrame:
    """Return a run's counts per problem on an evaluation."""
    counts = run.counts if run.counts.empty else run.counts[run.counts["benchmark"] == evaluation]
    if counts.empty:
        raise NotTestable(f"no answers to {evaluation} of {run.name}")
    return counts


# Exclusive solves (Table 4): problems that only the method solves (+X), and only the baseline (-Y)


def exclusive_gains_grow(
    records: ClaimRecords, method: str, baseline: str, *, evaluation: str, every_level: bool = False
) -> Outcome:
    """Test that +X grows with the level: shares of the level's problems, since in the paper harder levels have more.

    By the least-squares slope over the levels, or with ``every_level`` by every step from one level to the next.
    """
    slopes: dict[int, pd.Series] = {}
    for seed, runs in records.each_seed(method, baseline):
        gains = _exclusive(runs, evaluation)[0].groupby("level").mean() * 100
        if len(gains) < 2:
            raise NotTestable(f"{evaluation} has one level")
        slope = float(np.polyfit(gains.index.to_numpy(float), gains, 1)[0])
        steps = gains.diff().dropna().rename(lambda level: f"+X from level {level - 1} to {level}")
        slopes[seed] = steps if every_level else pd.Series({"slope of +X": slope})
    return each_over_seeds(slopes, "points/level", digits=2)


def exclusive_losses_small(
    records: ClaimRecords, method: str, baseline: str, *, evaluation: str, printed: str
) -> Outcome:
    """Test that -Y is at most what a row of Table 4 prints, in percent of all problems."""
    percent = paper_value("table4", printed, "Overall")
    assert percent is not None, printed
    per_seed = {seed: 100 * float(_exclusive(runs, evaluation)[1].mean())
                for seed, runs in records.each_seed(method, baseline)}  # fmt: skip
    return over_seeds(per_seed, "percent", "-Y", percent, side="at most")


def exclusive_net_gain(records: ClaimRecords, method: str, baseline: str, *, evaluation: str) -> Outcome:
    """Test that the method newly solves more than it loses: +X minus -Y, in percent of all problems."""
    per_seed = {}
    for seed, runs in records.each_seed(method, baseline):
        gain, loss = _exclusive(runs, evaluation)
        per_seed[seed] = 100 * float((gain - loss).mean())
    return over_seeds(per_seed, "points", "+X minus -Y")


def _exclusive(runs: Sequence[RunFrames], evaluation: str) -> tuple[pd.Series, pd.Series]:
    """Return gain (+X) and loss (-Y) of every problem, by level and problem, each a share.

    With several answers per problem a problem counts as the chance that the method's answer is right and the
    baseline's is wrong; with one answer that is the count of Table 4.
    """

    def solved(run: RunFrames) -> pd.Series:
        counts = _counts(run, evaluation).set_index(["level", "problem_id"])
        return counts["correct"] / counts["samples"]

    ours, other = _alike(runs, solved, f"problems of {evaluation}")
    return ours * (1 - other), other * (1 - ours)


# Curves over training (Figures 5 to 8)


def series_above(
    records: ClaimRecords, method: str, baseline: str, *, column: str, after_share: float, windows: int
) -> Outcome:
    """Test that a method's curve lies above a baseline's from a share of the steps on, in each of so many windows."""
    means: dict[int, pd.Series] = {}
    what = records.difference(method, baseline)
    names = [what] if windows == 1 else [f"window {place}: {what}" for place in range(1, windows + 1)]
    for seed, runs in records.each_seed(method, baseline):
        curve, other = _curves(runs, column)
        counted = (curve - other).iloc[round(after_share * len(curve)) :]
        parts = np.array_split(counted.to_numpy(dtype=np.float64), windows)
        means[seed] = pd.Series([part.mean() for part in parts], names)
    return each_over_seeds(means, METRICS[column].unit, digits=3)


def mean_above(
    records: ClaimRecords,
    method: str,
    *,
    column: str,
    part: tuple[float, float] = (0.0, 1.0),
    minus: tuple[float, float] | None = None,
    falls: bool = False,
) -> Outcome:
    """Test that a curve is above 0 on average over a part of training, or above its average over an earlier part.

    Parts are shares of the steps that have it, as [0.8, 1]. With ``falls`` the earlier average must be the larger one.
    """
    per_seed, sign = {}, -1.0 if falls else 1.0
    for seed, runs in records.each_seed(method):
        (curve,) = _curves(runs, column, fewest=MIN_STEPS if minus else 1)
        per_seed[seed] = sign * (_mean_between(curve, *part) - (_mean_between(curve, *minus) if minus else 0.0))
    order = "" if minus is None else ", early minus late" if falls else ", late minus early"
    what = f"{_quantity(column)} of {records.label(method)}{order}"
    return over_seeds(per_seed, METRICS[column].unit, what, digits=3)


def slows_down(
    records: ClaimRecords, method: str, *, column: str, turn: float, window: float, falls: bool = False
) -> Outcome:
    """Test that a curve changes faster before a point of training than after it: it settles (Figures 6 and 7).

    A speed is the difference of the means at both ends of a part, each of ``window`` of all steps, over the part's
    length.
    """
    per_seed, sign = {}, -1.0 if falls else 1.0
    for seed, runs in records.each_seed(method):
        (curve,) = _curves(runs, column)

        def speed(start: float, end: float, of: pd.Series = curve) -> float:
            return (_mean_between(of, end - window, end) - _mean_between(of, start, start + window)) / (end - start)

        per_seed[seed] = sign * (speed(0.0, turn) - speed(turn, 1.0))
    what = f"{'fall' if falls else 'rise'} of {_quantity(column)} before {turn:.0%} of training minus after"
    return over_seeds(per_seed, f"{METRICS[column].unit} per training", what, digits=3)


def stays_below_ceiling(records: ClaimRecords, method: str) -> Outcome:
    """Test that no step's mean response is as long as sampling allows (Figure 7, right)."""
    if records.ceiling_tokens is None:
        raise NotTestable("the largest response length is not known")
    per_seed = {}
    for seed, runs in records.each_seed(method):
        (curve,) = _curves(runs, "rollout/response_length_tokens")
        per_seed[seed] = 100 * float(curve.max()) / records.ceiling_tokens
    share = over_seeds(per_seed, "% of the ceiling", "")
    left = over_seeds({seed: 100 - value for seed, value in per_seed.items()}, "percent", "left to the ceiling")
    return replace(share, decision=left.decision, explanation=left.explanation)


def stays_above_longer(records: ClaimRecords, longer: str, shorter: str, *, column: str, level: float) -> Outcome:
    """Test that one run's curve is above a level for more steps than another's (Figure 6: the weaker base on SFT).

    Steps are counted wherever they are, so that a curve that wavers around the level has no single crossing to find.
    """
    per_seed = {}
    for seed, runs in records.each_seed(longer, shorter):
        curve, other = _curves(runs, column)
        per_seed[seed] = float((curve > level).sum() - (other > level).sum())
    what = f"{records.difference(longer, shorter)}, steps with {_quantity(column)} above {level:g}"
    return over_seeds(per_seed, "steps", what)


def validation_above(records: ClaimRecords, method: str, baseline: str, *, every_set: bool = False) -> Outcome:
    """Test that a method's validation curves lie above a baseline's (Figure 5): their mean, or every one of them.

    A curve counts by its mean over all points but the first, which is the base for both methods.
    """
    differences: dict[int, pd.Series] = {}
    for seed, runs in records.each_seed(method, baseline):
        curves, other = _alike(runs, _validation_curves, "validation sets or steps")
        differences[seed] = (curves - other).iloc[1:].mean()
    return _of_sets(differences, records.difference(method, baseline), every_set)


def validation_improves(records: ClaimRecords, method: str, *, parts: int, every_set: bool = False) -> Outcome:
    """Test that a method's validation curves, or their mean, rise over each of so many parts of training (Figure 5)."""
    found = []
    for part in range(parts):
        gains = {}
        for seed, (run,) in records.each_seed(method):
            curves = _validation_curves(run)
            ends = [round((len(curves) - 1) * place / parts) for place in (part, part + 1)]
            gains[seed] = curves.iloc[ends[1]] - curves.iloc[ends[0]]
        found.append(_of_sets(gains, f"gain in part {part + 1} of {parts}", every_set, parts))
    return all_of(found)


def _of_sets(by_seed: dict[int, pd.Series], what: str, every_set: bool, parts: int = 1) -> Outcome:
    """Decide by the mean of the sets' values, or by every one of them, in one of so many parts."""
    named = {seed: values.rename(lambda name: f"{name}: {what}") if every_set else pd.Series({what: values.mean()})
             for seed, values in by_seed.items()}  # fmt: skip
    return each_over_seeds(named, "points", parts=parts)


def _validation_curves(run: RunFrames) -> pd.DataFrame:
    """Return [points, sets] accuracies in percent; the first point is the base."""
    validation = run.table("validation")
    shares = validation.assign(share=100 * validation["correct"] / validation["samples"])
    return shares.pivot_table(index="step", columns="benchmark", values="share").sort_index()


def _curves(runs: Sequence[RunFrames], column: str, fewest: int = MIN_STEPS) -> list[pd.Series]:
    """Return a column of the metrics by step, without the steps that have no value, of runs that are compared."""

    def curve(run: RunFrames) -> pd.Series:
        found = run.metrics.set_index("step")[column].sort_index().dropna() if column in run.metrics else pd.Series()
        if len(found) < fewest:
            raise NotTestable(f"{_quantity(column)} of {run.name} has {len(found)} steps, fewer than {fewest}")
        return found

    return _alike(runs, curve, "steps")


def _mean_between(curve: pd.Series, start: float, end: float) -> float:
    """Return the mean over a range of shares of training, at least one step."""
    first, last = round(start * len(curve)), round(end * len(curve))
    return float(curve.iloc[min(first, len(curve) - 1) : max(last, first + 1)].mean())


# Single questions over training (Figures 3 and 4)


def rows_at_zero(records: ClaimRecords, method: str, *, level: int) -> Outcome:
    """Test that a question of a level, or more, stays unsolved over all of training: no rollout is ever correct."""
    per_seed = {seed: float(always_zero(_level(_grid(run), level)).sum()) for seed, (run,) in records.each_seed(method)}
    return over_seeds(per_seed, "questions", f"at zero on level {level}", 1.0, side="at least")


def more_rows_at_zero(records: ClaimRecords, method: str, *, level: int, easier_level: int) -> Outcome:
    """Test that of a hard level's questions a larger share stays unsolved over all of training than of an easier's."""
    per_seed = {}
    for seed, (run,) in records.each_seed(method):
        hard, easy = (always_zero(_level(_grid(run), of_level)) for of_level in (level, easier_level))
        per_seed[seed] = 100 * float(hard.mean() - easy.mean())
    return over_seeds(per_seed, "points", f"level {level} minus level {easier_level}")


def map_dominance(
    records: ClaimRecords,
    leader: str,
    other: str,
    *,
    levels: Sequence[int],
    start_share: float,
    end_share: float,
    against_levels: Sequence[int] = (),
) -> Outcome:
    """Test that one method's colour dominates a part of the difference map (Figure 4).

    By the share of cells (question and epoch) in which ``leader`` has the higher accuracy minus the share in which
    ``other`` has; with ``against_levels``, this on ``levels`` minus the same on those.
    """

    def lead(difference: pd.DataFrame, levels: Sequence[int]) -> float:
        cells = pd.concat([_level(difference, level) for level in levels]).to_numpy()
        return 100 * float((cells > 0).mean() - (cells < 0).mean())

    per_seed = {}
    for seed, runs in records.each_seed(leader, other):
        ahead, against = _alike(runs, _grid, "questions or epochs")
        part = (ahead - against).iloc[:, part_of_training(ahead.shape[1], start_share, end_share)]
        per_seed[seed] = lead(part, levels) - (lead(part, against_levels) if against_levels else 0.0)
    what = f"cells led by {records.label(leader)} minus cells led by {records.label(other)}"
    return over_seeds(per_seed, "points", what)


def _level(grid: pd.DataFrame, level: int) -> pd.DataFrame:
    chosen = grid[grid.index.get_level_values("level") == level]
    if chosen.empty:
        raise NotTestable(f"no questions of level {level}")
    return chosen


def _grid(run: RunFrames) -> pd.DataFrame:
    grid = accuracy_grid(run.table("rollouts"))
    if grid.shape[1] < MIN_EPOCHS:
        raise NotTestable(f"{run.name} has {grid.shape[1]} epochs in which every question was asked, need {MIN_EPOCHS}")
    return grid


# Costs: tokens sampled, tokens trained, seconds (Sections 3.2 and 4.2)


def costs_less(records: ClaimRecords, method: str, *baseline: str, columns: Sequence[str]) -> Outcome:
    """Test that a method's run costs less than a baseline's: the sum of the columns over all steps.

    Where the baseline starts from another run, that run is part of its cost (``baseline`` are then both). A column a
    run does not have is a cost it does not pay: SFT samples nothing.
    """
    per_seed, what = {}, ", ".join(map(_quantity, columns))
    for seed, runs in records.each_seed(method, *baseline):
        ours, *theirs = (float(run.metrics.filter(list(columns)).sum().sum()) for run in runs)
        if ours <= 0 or theirs[0] <= 0:
            raise NotTestable(f"{runs[0].name} or {runs[1].name} has no {what}")
        per_seed[seed] = 100 * (1 - ours / sum(theirs))
    return over_seeds(per_seed, "percent saved", f"sum of {what}, {records.label(method)} (below 0: costs more)")


def rollouts_left_out_when_switched(records: ClaimRecords, method: str) -> Outcome:
    """Test that questions which then learn from their demonstration alone cost no sampled tokens (Section 4.2)."""
    per_seed = {}
    for seed, (run,) in records.each_seed(method):
        rows = run.table("rollouts")
        tokens = (rows["rollouts"] * rows["response_tokens_mean"]).fillna(0.0)
        switched = rows["branch"] == "demonstration"
        if not tokens.sum() or not switched.any():
            raise NotTestable(f"{run.name} sampled nothing, or never switched to a demonstration")
        per_seed[seed] = 100 * float(tokens[switched].sum() / tokens.sum())
    return over_seeds(per_seed, "% of tokens", "sampled for questions that switch", side="at most")


# Tables of the laboratory, where the truth is known and no run is needed (Sections 2.2, 2.3). Every interval resamples
# questions, the same ones for all rows or gates compared.


def rows_effective(records: ClaimRecords, *, frame: str, situation: str) -> Outcome:
    """Test that every row is an effective direction: E[g] . t > 0, t the true gradient of the objective.

    It holds when the 95 % interval of every row's cosine lies above 0. It fails as soon as one row's lies below 0, at a
    level divided by the number of rows: of many rows one would be below by chance.
    """
    sums = _sums(records, frame, situation)
    cosines = {row: _resampled(sums, row, "cosine") for row in dict.fromkeys(sums["row"])}
    intervals = {row: _interval(values[1:]) for row, values in cosines.items()}
    against = [row for row, values in cosines.items() if _interval(values[1:], 1 - (1 - LEVEL) / len(cosines)).high < 0]
    unclear = [row for row, interval in intervals.items() if row not in against and interval.low <= 0]
    decision = Decision.below if against else Decision.undecided if unclear else Decision.above
    worst = min(cosines, key=lambda row: cosines[row][0])
    text = f"smallest of {len(cosines)} rows: {worst}, {cosines[worst][0]:+.2f}"
    text += f"; against the true gradient: {', '.join(against)}" if against else ""
    text += f"; not told apart from 0: {', '.join(unclear)}" if unclear else ""
    return Outcome({}, "cosine", decision, f"{text}.", float(cosines[worst][0]), intervals[worst])


def row_against_row(
    records: ClaimRecords, *, frame: str, situation: str, quantity: str, row: str, other: str, times_at_least: float
) -> Outcome:
    """Test that one row has more of something than another, by at least a factor."""
    sums = _sums(records, frame, situation)
    this, against = (_resampled(sums, name, quantity) for name in (row, other))
    if not (np.isfinite(this[0]) and np.isfinite(against[0]) and against[0] > 0):
        raise NotTestable(f"{quantity} of {row} is {this[0]:.3g}, of {other} {against[0]:.3g}: they have no ratio")
    # rather than left out, a resample in which `other` has none of it counts for the claim
    ratio = this / np.where(against > 0, against, np.nan)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    interval = _interval(ratio[1:])
    text = f"{quantity}: {row} {this[0]:.3g}, {other} {against[0]:.3g}, {ratio[0]:.2f} times as much."
    return Outcome({}, "times", _decide(interval, times_at_least), text, float(ratio[0]), interval)


def rows_trade_off(records: ClaimRecords, *, frame: str, situation: str) -> Outcome:
    """Test that no row has both the least bias (angle) and the least variance (noise).

    It holds when the row of least noise has more bias than the row of least bias, and that one more noise, each with
    the 95 % interval of the difference above 0.
    """
    sums = _sums(records, frame, situation)
    angle, noise = ({row: _resampled(sums, row, name) for row in dict.fromkeys(sums["row"])}
                    for name in ("angle", "noise"))  # fmt: skip
    straight, quiet = (min(found, key=lambda row: found[row][0]) for found in (angle, noise))
    more_bias, more_noise = angle[quiet] - angle[straight], noise[straight] - noise[quiet]
    intervals = [_interval(difference[1:]) for difference in (more_bias, more_noise)]
    decision = both(*(_decide(interval, 0.0) for interval in intervals))
    if straight == quiet:
        decision = Decision.below
    text = (
        f"least angle: {straight} ({angle[straight][0]:.3g}), least noise: {quiet} ({noise[quiet][0]:.3g}); the first "
        f"has {more_noise[0]:.3g} [{intervals[1].low:.3g}, {intervals[1].high:.3g}] more noise."
    )
    return Outcome({}, "degrees", decision, text, float(more_bias[0]), intervals[0])


def gate_better(
    records: ClaimRecords, *, frame: str, objective: str, gate: str, others: Sequence[str], threshold: float = 0.0
) -> Outcome:
    """Test that a gate has less error than each of some others, in |t|^2.

    A gate with one constant more is never worse than one without, so for those a threshold of 0 would be no test.
    """
    found = records.frame(frame)
    chosen = found[(found["objective"] == objective) & (found["gate"] == gate) & found["against"].isin(others)]
    if len(chosen) < len(others):
        raise NotTestable(f"{frame} does not compare {gate} with {', '.join(others)} for {objective}")
    intervals = [Interval(float(low), float(high), LEVEL, OVER_QUESTIONS)
                 for low, high in zip(chosen["low"], chosen["high"], strict=True)]  # fmt: skip
    texts = [f"{against} {difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" for against, difference, one
             in zip(chosen["against"], chosen["difference"], intervals, strict=True)]  # fmt: skip
    nearest = int(chosen["difference"].to_numpy().argmin())
    text = f"error of others minus that of {gate}: {'; '.join(texts)}."
    decision = both(*(_decide(interval, threshold) for interval in intervals))
    least = float(chosen["difference"].iloc[nearest])
    return Outcome({}, "of |t|² less error", decision, text, least, intervals[nearest])


def terms_agree(records: ClaimRecords, *, frame: str, success_at_most: float) -> Outcome:
    """Test that the reward's gradient and the demonstrations' (the two terms of Eq. 2) do not point apart.

    It holds when the mean cosine over questions is above 0 at every success rate and distance of a demonstrator that
    never errs, each with its 95 % interval, and fails as soon as one is below.
    """
    found = records.frame(frame)
    chosen = found[(found["success"] <= success_at_most) & (found["slips"] == 0)]
    cells = {key: cell.to_numpy() for key, cell in chosen.groupby(["success", "distance"])["cosine"]}
    if not cells or min(map(len, cells.values())) < MIN_QUESTIONS:
        raise NotTestable(f"{frame} has fewer than {MIN_QUESTIONS} questions of a kind")
    intervals = {key: _interval(values[_resamples(len(values))].mean(1)) for key, values in cells.items()}
    decision = both(*(_decide(interval, 0.0) for interval in intervals.values()))
    success, distance = worst = min(cells, key=lambda key: float(cells[key].mean()))
    negative = 100 * float((chosen["cosine"] < 0).mean())
    text = (
        f"smallest mean of {len(cells)} at P = {success:g}, distance {distance:g}; negative on {negative:.0f} % of "
        f"{len(chosen)} questions."
    )
    return Outcome({}, "cosine", decision, text, float(cells[worst].mean()), intervals[worst])


def rows_agree(records: ClaimRecords, *, frame: str) -> Outcome:
    """Test that an identity was found on every line of a table (``same``); what is exact has no interval."""
    found = records.frame(frame)
    found = found[found["same"].notna()]
    same = found["same"].astype(bool)
    text = f"{int(same.sum())} of {len(found)} lines agree"
    text += "." if same.all() else f"; not: {', '.join(map(str, found[~same].iloc[:, 0]))}."
    decision = Decision.above if same.all() else Decision.below
    return Outcome({}, "% of lines", decision, text, 100 * float(same.mean()))


def _sums(records: ClaimRecords, frame: str, situation: str) -> pd.DataFrame:
    found = records.frame(frame)
    found = found[found["situation"] == situation]
    questions = found["question"].nunique()
    if questions < MIN_QUESTIONS:
        raise NotTestable(f"{frame} has {questions} questions in {situation!r}; at least {MIN_QUESTIONS} are needed")
    return found


def _resampled(sums: pd.DataFrame, row: str, quantity: str) -> np.ndarray:
    """Return a quantity pooled over all questions, and then over every resample of them: [1 + RESAMPLES]."""
    from hpt.laboratory.errors import SUMS, derived

    lines = sums[sums["row"] == row].sort_values("question")
    if lines.empty:
        raise NotTestable(f"no row {row}")
    chosen = np.concatenate([np.arange(len(lines))[None], _resamples(len(lines))])

    def added(name: str) -> np.ndarray:
        return lines[name].to_numpy(np.float64)[chosen].sum(1)

    if quantity == "masked":
        return added("masked_tokens") / added("tokens")
    return np.asarray(derived(*map(added, SUMS))[quantity], np.float64)


def _resamples(questions: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, questions, (RESAMPLES, questions))


def _interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    # no interpolation: between a number and infinity there is none
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return Interval(float(low), float(high), level, OVER_QUESTIONS)


def _decide(interval: Interval, threshold: float) -> Decision:
    if math.isnan(interval.low) or interval.low <= threshold <= interval.high:
        return Decision.undecided
    return Decision.above if interval.low > threshold else Decision.below


TESTS: dict[str, Callable[..., Outcome]] = {
    test.__name__: test
    for test in (
        average_above, pass_at_k_above, gains_more, best_on_most_sets, exclusive_gains_grow, exclusive_losses_small,
        exclusive_net_gain, series_above, mean_above, slows_down, stays_below_ceiling, stays_above_longer,
        validation_above, validation_improves, map_dominance, more_rows_at_zero, rows_at_zero, costs_less,
        rollouts_left_out_when_switched, rows_effective, row_against_row, rows_trade_off, gate_better, terms_agree,
        rows_agree,
    )
}  # fmt: skip
