"""Tests on the records of runs: final scores, pass@k, exclusive solves, curves over training, single questions, costs.

Every test takes the records and the parameters that ``paper.json`` gives its claim.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from hpt.evaluation.intervals import seed_mean
from hpt.evaluation.scores import accuracy_grid, always_zero, part_of_training, pass_at_k
from hpt.paper.claim_tests.records import (
    ClaimRecords,
    NotTestable,
    Outcome,
    RunFrames,
    all_of,
    over_seeds,
    quantity,
    spread,
    unit_of,
)
from hpt.paper.paper import paper_value

MIN_STEPS = 20  # two steps in each tenth of training; windows of one step are noise
MIN_EPOCHS = 4  # a quarter of training is at least one epoch
FLOOR, CEILING = 2.0, 98.0  # percent: where every method is below or above, nothing can be told (docs/world.md)

#: A run -> its score in percent on every set that counts.
_Score = Callable[[RunFrames], pd.Series]


# Final scores (Tables 2, 3, 5, 6) and pass@k (Figure 2)


def average_above(
    records: ClaimRecords,
    *,
    method: str,
    distribution: str,
    threshold_points: float,
    baseline: str = "",
    others: Sequence[str] = (),
    benchmark: str | None = None,
) -> Outcome:
    """Test that a method's average score is above a baseline's (Tables 2, 3), or above every other's (Table 6).

    The average is an unweighted mean over benchmarks of unrounded scores; rounding belongs to printing. ``benchmark``
    names one of the paper's, for claims about the set that stands for it alone.
    """
    return _highest(records, method, others or [baseline], _average(distribution, benchmark), threshold_points)


def pass_at_k_above(
    records: ClaimRecords,
    *,
    method: str,
    evaluations: Sequence[str],
    k: int,
    threshold_points: float,
    baseline: str = "",
    others: Sequence[str] = (),
) -> Outcome:
    """Test that a method's pass@k is above a baseline's, or every other's (Figure 2): unbiased, a mean over sets."""
    return _highest(records, method, others or [baseline], _pass_at(evaluations, k), threshold_points)


def gains_more(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    other: str,
    other_baseline: str,
    distribution: str,
    threshold_points: float,
) -> Outcome:
    """Test that a method gains more over its baseline than another over its baseline (Section 2.3): RL on two bases.

    The effect is the difference of the two gains, each of unweighted means over the same sets.
    """
    first, second = (_above(records, arm, under, _average(distribution), 0.0) for arm, under in
                     ((method, baseline), (other, other_baseline)))  # fmt: skip
    per_seed = {seed: first.per_seed[seed] - second.per_seed[seed] for seed in records.seeds}
    difference = seed_mean(list(per_seed.values()))
    explanation = f"gain minus gain: {spread(difference, 'points', 1)}. {first.explanation} {second.explanation}"
    return Outcome(per_seed, "points", difference.decide(threshold_points), explanation)


def best_on_most_sets(
    records: ClaimRecords,
    *,
    method: str,
    others: Sequence[str],
    sets_at_least: int,
    distributions: Sequence[str] = ("in", "out"),
) -> Outcome:
    """Test that a method is above all others on as many sets as in the paper's table ("consistently", abstract).

    The effect is the number of sets of these distributions on which it is above the best of the others.
    """
    per_seed, sets = {}, 0
    for seed, runs in records.each_seed(method, *others):
        scores = _scores(runs, lambda run: pd.concat([_average(kind)(run) for kind in distributions]))
        best = pd.concat(scores[1:], axis=1).max(axis=1)
        per_seed[seed], sets = float((scores[0] > best).sum()), len(best)
        if sets < sets_at_least:
            raise NotTestable(f"{sets} sets, fewer than the {sets_at_least} that the claim is about")
    return over_seeds(per_seed, "sets", sets_at_least, f"sets won, of {sets}", side="at least")


def _above(records: ClaimRecords, method: str, baseline: str, score: _Score, threshold: float, of: int = 1) -> Outcome:
    per_seed, levels = {}, []
    for seed, runs in records.each_seed(method, baseline):
        ours, other = _scores(runs, score)
        per_seed[seed] = float(ours.mean() - other.mean())
        levels.append((ours.mean(), other.mean()))
    both = np.mean(levels, axis=0)
    dead = bool(both.max() < FLOOR or both.min() > CEILING)
    found = over_seeds(per_seed, "points", threshold, records.difference(method, baseline), of=of)
    return replace(found, dead=dead)


def _highest(records: ClaimRecords, method: str, others: Sequence[str], score: _Score, threshold: float) -> Outcome:
    return all_of([_above(records, method, other, score, threshold, len(others)) for other in others])


def _average(distribution: str, benchmark: str | None = None) -> _Score:
    def score(run: RunFrames) -> pd.Series:
        if not {"benchmark", "distribution", "score"} <= set(run.scores.columns):
            raise NotTestable(f"no scores of {run.name}")
        scores = run.scores[run.scores["distribution"] == distribution]
        if benchmark is not None:
            scores = scores[scores["stands_for"] == benchmark]
        values = scores.set_index("benchmark")["score"]
        if values.empty or values.isna().any():
            raise NotTestable(f"no complete {distribution}-distribution scores of {run.name}")
        return values

    return score


def _pass_at(evaluations: Sequence[str], k: int) -> _Score:
    def of_set(run: RunFrames, name: str) -> float:
        counts = _counts(run, name)
        if (fewest := counts["samples"].min()) < k:
            raise NotTestable(f"{name} of {run.name} has {fewest} answers per problem, fewer than k = {k}")
        return 100 * float(pass_at_k(counts["correct"], counts["samples"], k).mean())

    return lambda run: pd.Series({name: of_set(run, name) for name in evaluations})


def _scores(runs: Sequence[RunFrames], score: _Score) -> list[pd.Series]:
    """Return the scores of runs that are to be compared."""
    scores = [score(run) for run in runs]
    if any(set(series.index) != set(scores[0].index) for series in scores):
        raise NotTestable(f"{_names(runs)} were evaluated on different benchmarks")
    return scores


def _counts(run: RunFrames, evaluation: str) -> pd.DataFrame:
    """Return a run's counts per problem on an evaluation."""
    there = "benchmark" in run.counts.columns
    counts = run.counts[run.counts["benchmark"] == evaluation] if there else run.counts
    if counts.empty:
        raise NotTestable(f"no answers to {evaluation} of {run.name}")
    return counts.reset_index(drop=True)


def _names(runs: Sequence[RunFrames]) -> str:
    return " and ".join(run.name for run in runs)


# Exclusive solves (Table 4): problems that only the method solves (+X), and only the baseline (-Y)


def exclusive_gains_grow(
    records: ClaimRecords, *, method: str, baseline: str, evaluation: str, threshold: float, every_level: bool = False
) -> Outcome:
    """Test that +X grows with the level: shares of the level's problems, since in the paper harder levels have more.

    The effect is the least-squares slope over the levels, in points per level; with ``every_level``, the least of the
    steps from one level to the next, each of which must be above the threshold.
    """
    slopes: dict[str, dict[int, float]] = {}
    for seed, runs in records.each_seed(method, baseline):
        gains = _exclusive(runs, evaluation).groupby("level")["gain"].mean() * 100
        if len(gains) < 2:
            raise NotTestable(f"{evaluation} has one level")
        steps = {f"+X from level {level - 1} to {level}": step for level, step in gains.diff().dropna().items()}
        found = steps if every_level else {"slope of +X": float(np.polyfit(gains.index.to_numpy(float), gains, 1)[0])}
        for name, value in found.items():
            slopes.setdefault(name, {})[seed] = value
    return all_of([over_seeds(per_seed, "points/level", threshold, name, 2, of=len(slopes))
                   for name, per_seed in slopes.items()])  # fmt: skip


def exclusive_losses_small(
    records: ClaimRecords, *, method: str, baseline: str, evaluation: str, printed: str
) -> Outcome:
    """Test that -Y is at most what a row of Table 4 prints; the effect is -Y in percent of all problems."""
    percent = paper_value("table4", printed, "Overall")
    assert percent is not None, printed
    per_seed = {seed: 100 * float(_exclusive(runs, evaluation)["loss"].mean())
                for seed, runs in records.each_seed(method, baseline)}  # fmt: skip
    return over_seeds(per_seed, "percent", percent, "-Y", side="at most")


def exclusive_net_gain(
    records: ClaimRecords, *, method: str, baseline: str, evaluation: str, threshold_points: float
) -> Outcome:
    """Test that the method newly solves more than it loses: +X minus -Y, in percent of all problems."""
    per_seed = {}
    for seed, runs in records.each_seed(method, baseline):
        solves = _exclusive(runs, evaluation)
        per_seed[seed] = 100 * float((solves["gain"] - solves["loss"]).mean())
    return over_seeds(per_seed, "points", threshold_points, "+X minus -Y")


def _exclusive(runs: Sequence[RunFrames], evaluation: str) -> pd.DataFrame:
    """Return one row per problem: level, gain (+X) and loss (-Y), each a share.

    With several answers per problem a problem counts as the chance that the method's answer is right and the
    baseline's is wrong; with one answer that is the count of Table 4.
    """
    ours, other = (_counts(run, evaluation) for run in runs)
    together = ours.merge(other, on=["problem_id", "level"], suffixes=("", "_other"))
    if not len(ours) == len(other) == len(together):
        raise NotTestable(f"{_names(runs)} were asked different problems of {evaluation}")
    solved = together["correct"] / together["samples"]
    solved_other = together["correct_other"] / together["samples_other"]
    gain, loss = solved * (1 - solved_other), solved_other * (1 - solved)
    return pd.DataFrame({"level": together["level"], "gain": gain, "loss": loss})


# Curves over training (Figures 5 to 8)


def series_above(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    column: str,
    after_share: float,
    windows: int,
    threshold: float,
) -> Outcome:
    """Test that a method's curve lies above a baseline's (Figures 7 and 8), in each of so many equal windows.

    Training counts from ``after_share`` of its steps on.
    """
    found: list[dict[int, float]] = [{} for _ in range(windows)]
    for seed, runs in records.each_seed(method, baseline):
        curve, other = _two_curves(runs, column)
        counted = (curve - other).iloc[round(after_share * len(curve)) :]
        for per_seed, part in zip(found, np.array_split(counted.to_numpy(dtype=np.float64), windows), strict=True):
            per_seed[seed] = float(part.mean())
    what = records.difference(method, baseline)
    return all_of([
        over_seeds(per_seed, unit_of(column), threshold, what if windows == 1 else f"window {place}: {what}", 3,
                   of=windows)
        for place, per_seed in enumerate(found, start=1)
    ])  # fmt: skip


def rises(
    records: ClaimRecords,
    *,
    method: str,
    column: str,
    start: tuple[float, float],
    end: tuple[float, float],
    falls: bool = False,
) -> Outcome:
    """Test that a curve is higher in one part of training than in an earlier one, or with ``falls`` lower.

    Parts are shares of the steps, as [0.8, 1]. The effect is the mean over the later part minus that over the earlier.
    """
    per_seed, sign = {}, -1.0 if falls else 1.0
    for seed, (run,) in records.each_seed(method):
        curve = _curve(run, column)
        per_seed[seed] = sign * (_mean_between(curve, *end) - _mean_between(curve, *start))
    order = "early minus late" if falls else "late minus early"
    return over_seeds(per_seed, unit_of(column), 0.0, f"{quantity(column)} of {records.label(method)}, {order}", 3)


def slows_down(
    records: ClaimRecords, *, method: str, column: str, turn: float, window: float, falls: bool = False
) -> Outcome:
    """Test that a curve changes faster before a point of training than after it: it settles (Figures 6 and 7).

    A speed is the difference of the means at both ends of a part, each of ``window`` of all steps, over the part's
    length. The effect is the earlier speed minus the later, up or with ``falls`` down, per whole training.
    """
    per_seed, sign = {}, -1.0 if falls else 1.0
    for seed, (run,) in records.each_seed(method):
        curve = _curve(run, column)

        def speed(start: float, end: float, of: pd.Series = curve) -> float:
            return (_mean_between(of, end - window, end) - _mean_between(of, start, start + window)) / (end - start)

        per_seed[seed] = sign * (speed(0.0, turn) - speed(turn, 1.0))
    what = f"{'fall' if falls else 'rise'} of {quantity(column)} before {turn:.0%} of training minus after"
    return over_seeds(per_seed, f"{unit_of(column)} per training", 0.0, what, 3)


def stays_below_ceiling(records: ClaimRecords, *, method: str, column: str) -> Outcome:
    """Test that no step's mean response is as long as sampling allows (Figure 7, right).

    The effect is the longest step's share of the ceiling, in percent.
    """
    if records.ceiling_tokens is None:
        raise NotTestable("the largest response length is not known")
    per_seed = {seed: 100 * float(_curve(run, column).max()) / records.ceiling_tokens
                for seed, (run,) in records.each_seed(method)}  # fmt: skip
    below = over_seeds({seed: 100 - value for seed, value in per_seed.items()}, "percent", 0.0, "left to the ceiling")
    return replace(below, per_seed=per_seed, unit="% of the ceiling")


def mean_above(
    records: ClaimRecords, *, method: str, column: str, threshold: float, after_share: float = 0.0
) -> Outcome:
    """Test that a quantity is above a threshold on average over the steps that have it, from a share of them on."""
    per_seed, what = {}, f"{quantity(column)} of {records.label(method)}"
    for seed, (run,) in records.each_seed(method):
        if column not in run.metrics.columns or run.metrics[column].isna().all():
            raise NotTestable(f"no run of {records.label(method)} records {quantity(column)}")
        per_seed[seed] = _mean_between(run.metrics[column].dropna(), after_share, 1.0)
    return over_seeds(per_seed, unit_of(column), threshold, what, 3)


def stays_above_longer(
    records: ClaimRecords, *, longer: str, shorter: str, column: str, level: float, threshold_steps: float
) -> Outcome:
    """Test that one run's curve is above a level for more steps than another's (Figure 6: the weaker base on SFT).

    Steps are counted wherever they are, so that a curve that wavers around the level has no single crossing to find.
    The effect is the difference of the two counts.
    """
    per_seed, counts = {}, []
    for seed, runs in records.each_seed(longer, shorter):
        curve, other = _two_curves(runs, column)
        above, above_other = int((curve > level).sum()), int((other > level).sum())
        per_seed[seed] = float(above - above_other)
        counts.append(f"seed {seed}: {above} and {above_other} of {len(curve)}")
    what = f"{records.difference(longer, shorter)}, steps with {quantity(column)} above {level:g}"
    return over_seeds(per_seed, "steps", threshold_steps, what, more="; ".join(counts) + ".")


def validation_above(
    records: ClaimRecords, *, method: str, baseline: str, threshold_points: float, every_set: bool = False
) -> Outcome:
    """Test that a method's validation curves lie above a baseline's (Figure 5): their mean, or every one of them.

    A curve counts by its mean over all points but the first, which is the base for both methods.
    """
    differences: dict[int, pd.Series] = {}
    for seed, runs in records.each_seed(method, baseline):
        curves, other = (_validation_curves(run).iloc[1:] for run in runs)
        if not curves.index.equals(other.index) or not curves.columns.equals(other.columns):
            raise NotTestable(f"{_names(runs)} were validated on different sets or steps")
        differences[seed] = (curves - other).mean()
    return _of_sets(differences, records.difference(method, baseline), threshold_points, every_set)


def validation_improves(records: ClaimRecords, *, method: str, parts: int, every_set: bool = False) -> Outcome:
    """Test that a method's validation curves rise over each of so many equal parts of training (Figure 5).

    Of the sets' mean, or of every one of them. The first point is the base.
    """
    found = []
    for part in range(parts):
        gains = {}
        for seed, (run,) in records.each_seed(method):
            curves = _validation_curves(run)
            ends = [round((len(curves) - 1) * place / parts) for place in (part, part + 1)]
            gains[seed] = curves.iloc[ends[1]] - curves.iloc[ends[0]]
        found.append(_of_sets(gains, f"gain in part {part + 1} of {parts}", 0.0, every_set, parts))
    return all_of(found)


def _of_sets(by_seed: dict[int, pd.Series], what: str, threshold: float, every_set: bool, parts: int = 1) -> Outcome:
    """Decide by the mean of the sets' values, or by every one of them; one of so many parts."""
    if not every_set:
        means = {seed: float(one.mean()) for seed, one in by_seed.items()}
        return over_seeds(means, "points", threshold, what, of=parts)
    sets = next(iter(by_seed.values())).index
    return all_of([over_seeds({seed: float(one[name]) for seed, one in by_seed.items()}, "points", threshold,
                              f"{name}: {what}", of=parts * len(sets)) for name in sets])  # fmt: skip


def _validation_curves(run: RunFrames) -> pd.DataFrame:
    """Return [points, sets] accuracies in percent; the first point is the base."""
    if run.validation.empty:
        raise NotTestable(f"no validation curves of {run.name}")
    shares = run.validation.assign(share=100 * run.validation["correct"] / run.validation["samples"])
    return shares.pivot_table(index="step", columns="benchmark", values="share").sort_index()


def _two_curves(runs: Sequence[RunFrames], column: str) -> tuple[pd.Series, pd.Series]:
    first, second = (_curve(run, column) for run in runs)
    if not first.index.equals(second.index):
        raise NotTestable(f"{_names(runs)} were trained for different steps")
    return first, second


def _curve(run: RunFrames, column: str) -> pd.Series:
    """Return a column by step, without the steps that have no value."""
    if not {"step", column} <= set(run.metrics.columns):
        raise NotTestable(f"no {quantity(column)} of {run.name}")
    curve = run.metrics.set_index("step")[column].sort_index().dropna()
    if len(curve) < MIN_STEPS:
        raise NotTestable(f"{quantity(column)} of {run.name} has {len(curve)} steps, fewer than {MIN_STEPS}")
    return curve


def _mean_between(curve: pd.Series, start: float, end: float) -> float:
    """Return the mean over a range of shares of training, at least one step."""
    first, last = round(start * len(curve)), round(end * len(curve))
    return float(curve.iloc[min(first, len(curve) - 1) : max(last, first + 1)].mean())


# Single questions over training (Figures 3 and 4)


def rows_at_zero(records: ClaimRecords, *, method: str, level: int) -> Outcome:
    """Test that a question of a level, or more, stays unsolved over all of training: no rollout correct in any epoch.

    The effect is the number of such questions.
    """
    per_seed = {seed: float(always_zero(_level(_grid(run), level)).sum()) for seed, (run,) in records.each_seed(method)}
    return over_seeds(per_seed, "questions", 1.0, f"at zero on level {level}", side="at least")


def more_rows_at_zero(
    records: ClaimRecords, *, method: str, level: int, easier_level: int, threshold_points: float
) -> Outcome:
    """Test that more questions of a hard level than of an easier one stay unsolved over all of training.

    The effect is the difference of the shares of such questions between the levels, in points.
    """
    per_seed = {}
    for seed, (run,) in records.each_seed(method):
        hard, easy = (always_zero(_level(_grid(run), of_level)) for of_level in (level, easier_level))
        per_seed[seed] = 100 * float(hard.mean() - easy.mean())
    return over_seeds(per_seed, "points", threshold_points, f"level {level} minus level {easier_level}")


def map_dominance(
    records: ClaimRecords,
    *,
    leader: str,
    other: str,
    levels: Sequence[int],
    start_share: float,
    end_share: float,
    threshold_points: float,
    against_levels: Sequence[int] = (),
) -> Outcome:
    """Test that one method's colour dominates a part of the difference map (Figure 4).

    The effect is the share of cells (question and epoch) in which ``leader`` has the higher accuracy minus the share
    in which ``other`` has, in points; with ``against_levels``, this on ``levels`` minus the same on those.
    """
    per_seed = {}
    for seed, runs in records.each_seed(leader, other):
        ahead, against = map(_grid, runs)
        if not ahead.index.equals(against.index) or not ahead.columns.equals(against.columns):
            raise NotTestable(f"{_names(runs)} were trained on different questions or epochs")
        difference = ahead - against
        part = difference.iloc[:, part_of_training(difference.shape[1], start_share, end_share)]
        per_seed[seed] = _lead(part, levels) - (_lead(part, against_levels) if against_levels else 0.0)
    what = f"cells led by {records.label(leader)} minus cells led by {records.label(other)}"
    return over_seeds(per_seed, "points", threshold_points, what)


def _lead(difference: pd.DataFrame, levels: Sequence[int]) -> float:
    cells = pd.concat([_level(difference, level) for level in levels]).to_numpy()
    return 100 * float((cells > 0).mean() - (cells < 0).mean())


def _level(grid: pd.DataFrame, level: int) -> pd.DataFrame:
    chosen = grid[grid.index.get_level_values("level") == level]
    if chosen.empty:
        raise NotTestable(f"no questions of level {level}")
    return chosen


def _grid(run: RunFrames) -> pd.DataFrame:
    if run.rollouts.empty:
        raise NotTestable(f"no rollouts of {run.name}")
    grid = accuracy_grid(run.rollouts)
    if grid.shape[1] < MIN_EPOCHS:
        raise NotTestable(f"{run.name} has {grid.shape[1]} epochs in which every question was asked, need {MIN_EPOCHS}")
    return grid


# Costs: tokens sampled, tokens trained, seconds (Sections 3.2 and 4.2)


def costs_less(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    columns: Sequence[str],
    threshold_percent: float,
    baseline_after: str | None = None,
) -> Outcome:
    """Test that a method's run costs less than a baseline's: the sum of the columns over all steps.

    The effect is the method's cost relative to the baseline's, in percent less (positive: cheaper). Where the baseline
    starts from another run, that run (``baseline_after``) is part of its cost. A column a run does not have is a cost
    it does not pay: SFT samples nothing.
    """
    per_seed, parts, what = {}, [], ", ".join(map(quantity, columns))
    for seed, (run, *others) in records.each_seed(method, baseline, *([baseline_after] if baseline_after else [])):
        for compared in (run, others[0]):
            if not set(columns) & set(compared.metrics.columns):
                raise NotTestable(f"no {what} of {compared.name}")
        ours, other = _cost(run, columns), sum(_cost(part, columns) for part in others)
        if other <= 0:
            raise NotTestable(f"{others[0].name} has no cost in {what}")
        per_seed[seed] = 100 * (1 - ours / other)
        parts.append(f"seed {seed}: {ours:.4g} against {other:.4g}")
    saved = seed_mean(list(per_seed.values()))
    sums = f"{what}, sums: {'; '.join(parts)}"
    explanation = f"{records.label(method)} saves {spread(saved, 'percent', 1)} (below 0: costs more); {sums}."
    return Outcome(per_seed, "percent saved", saved.decide(threshold_percent), explanation)


def rollouts_left_out_when_switched(records: ClaimRecords, *, method: str) -> Outcome:
    """Test that questions on the demonstration branch cost no rollouts (Section 4.2).

    The effect is the share of all sampled tokens that were sampled for questions which then learnt from their
    demonstration alone.
    """
    per_seed = {}
    for seed, (run,) in records.each_seed(method):
        rows = run.rollouts
        if rows.empty:
            raise NotTestable(f"no rollouts of {run.name}")
        tokens = (rows["rollouts"] * rows["response_tokens_mean"]).fillna(0.0)
        switched = rows["branch"] == "demonstration"
        if not tokens.sum() or not switched.any():
            raise NotTestable(f"{run.name} sampled nothing, or never switched to a demonstration")
        per_seed[seed] = 100 * float(tokens[switched].sum() / tokens.sum())
    return over_seeds(per_seed, "% of tokens", 0.0, "sampled for questions that switch", side="at most")


def _cost(run: RunFrames, columns: Sequence[str]) -> float:
    return float(sum(run.metrics[column].sum() for column in columns if column in run.metrics.columns))
