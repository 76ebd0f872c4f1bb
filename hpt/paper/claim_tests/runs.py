"""Tests on the records of runs: final scores, pass@k, exclusive solves, curves over training, single questions, costs.

Every test takes the records and the parameters that ``paper.json`` gives its claim.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from hpt.evaluation.intervals import seed_mean
from hpt.evaluation.scores import accuracy_grid, always_zero, part_of_training, pass_at_k
from hpt.paper.claim_tests.records import (
    ClaimRecords,
    Condition,
    NotTestable,
    Outcome,
    RunFrames,
    both,
    over_seeds,
    quantity,
    spread,
    unanimous,
    unit_of,
)

MIN_STEPS = 20  # two steps in each tenth of training; windows of one step are noise
MIN_EPOCHS = 4  # a quarter of training is at least one epoch

#: A run -> its score in percent on every set that counts.
_Score = Callable[[RunFrames], pd.Series]


# Final scores (Tables 2, 3, 5, 6) and pass@k (Figure 2)


def average_above(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    distribution: str,
    threshold_points: float,
    benchmark: str | None = None,
) -> Outcome:
    """Test that a method's average score is above a baseline's (Tables 2, 3): unweighted mean over benchmarks.

    The means are of unrounded scores; rounding belongs to printing. ``benchmark`` names one of the paper's, for claims
    about the set that stands for it alone.
    """
    return _above(records, method, baseline, _average(distribution, benchmark), threshold_points)


def pass_at_k_above(
    records: ClaimRecords, *, method: str, baseline: str, evaluations: Sequence[str], k: int, threshold_points: float
) -> Outcome:
    """Test that a method's pass@k is above a baseline's (Figure 2): unbiased estimate, unweighted mean over sets."""
    return _above(records, method, baseline, _pass_at(evaluations, k), threshold_points)


def average_highest(
    records: ClaimRecords, *, method: str, others: Sequence[str], distribution: str, threshold_points: float
) -> Outcome:
    """Test that a method's average is above every other's (Tables 5, 6); see `_highest`."""
    return _highest(records, method, others, _average(distribution), threshold_points)


def pass_at_k_highest(
    records: ClaimRecords,
    *,
    method: str,
    others: Sequence[str],
    evaluations: Sequence[str],
    k: int,
    threshold_points: float,
) -> Outcome:
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
    """Test that a method is above all others on nearly every set, in every seed ("consistently", abstract).

    The effect is the number of sets of these distributions on which it is above the best of the others.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.each_seed(method, *others):
        scores = _scores(runs, lambda run: pd.concat([_average(kind)(run) for kind in distributions]))
        best = pd.concat(scores[1:], axis=1).max(axis=1)
        _check_sets(len(best), sets_at_least)
        per_seed[seed] = float((scores[0] > best).sum())
        conditions[seed] = [Condition(f"sets won, of {len(best)}:", per_seed[seed], at_least=sets_at_least)]
    return unanimous(per_seed, "sets", conditions)


def _check_sets(found: int, needed: int) -> None:
    if found < needed:
        raise NotTestable(f"{found} sets, fewer than the {needed} that the claim is about")


def _above(records: ClaimRecords, method: str, baseline: str, score: _Score, threshold: float) -> Outcome:
    per_seed = {}
    for seed, runs in records.each_seed(method, baseline):
        ours, other = _scores(runs, score)
        per_seed[seed] = float(ours.mean() - other.mean())
    return over_seeds(per_seed, "points", threshold, records.difference(method, baseline))


def _highest(records: ClaimRecords, method: str, others: Sequence[str], score: _Score, threshold: float) -> Outcome:
    """Decide against every other method: above when it is above each, below when it is below one of them.

    The effect is the difference to the method that comes closest, or is furthest ahead. Not the difference to the best
    other of each seed: a maximum over noisy values is too high.
    """
    found = [_above(records, method, other, score, threshold) for other in others]
    nearest = min(found, key=lambda outcome: sum(outcome.per_seed.values()))
    decision = both(*(outcome.decision for outcome in found))
    return Outcome(nearest.per_seed, nearest.unit, decision, " ".join(outcome.explanation for outcome in found))


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
    records: ClaimRecords, *, method: str, baseline: str, evaluation: str, steps_down_at_most: int, threshold: float
) -> Outcome:
    """Test that +X grows with the level: shares of the level's problems, since harder levels have more problems.

    The effect is the least-squares slope over the levels, in points per level; besides, in every seed +X may fall from
    one level to the next only so often.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.each_seed(method, baseline):
        gains = _exclusive(runs, evaluation).groupby("level")["gain"].mean() * 100
        if len(gains) < 2:
            raise NotTestable(f"{evaluation} has one level")
        per_seed[seed] = float(np.polyfit(gains.index.to_numpy(float), gains.to_numpy(), 1)[0])
        down = int((np.diff(gains.to_numpy()) < 0).sum())
        levels = ", ".join(f"{value:.1f}" for value in gains)
        conditions[seed] = [Condition(f"+X {levels} % by level; steps down", down, at_most=steps_down_at_most)]
    return over_seeds(per_seed, "points/level", threshold, "slope of +X", 2, conditions)


def exclusive_losses_small(
    records: ClaimRecords,
    *,
    method: str,
    baseline: str,
    evaluation: str,
    overall_below_percent: float,
    level_at_most_percent: float,
) -> Outcome:
    """Test that -Y stays small: over all levels below a share (Student's t), on no level above another in any seed.

    The effect is -Y in percent of all problems; the test is one-sided in meaning, so a large effect fails.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.each_seed(method, baseline):
        losses = _exclusive(runs, evaluation)
        per_seed[seed] = 100 * float(losses["loss"].mean())
        worst = 100 * float(losses.groupby("level")["loss"].mean().max())
        conditions[seed] = [Condition("-Y of the worst level, percent", worst, at_most=level_at_most_percent)]
    everywhere = unanimous(per_seed, "percent", conditions)
    below = seed_mean([overall_below_percent - value for value in per_seed.values()])
    explanation = f"-Y: {spread(seed_mean(list(per_seed.values())), 'percent', 1)}; {everywhere.explanation}"
    return Outcome(per_seed, "percent", both(below.decide(), everywhere.decision), explanation)


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
    windows: int,
    windows_left_out: int,
    threshold: float,
    windows_above_at_least: int,
) -> Outcome:
    """Test that a method's curve lies above a baseline's, on average and nearly everywhere (Figure 7, left).

    Steps are cut into equal windows; the first ``windows_left_out`` do not count. It holds when the mean difference is
    above the threshold over seeds and every seed has enough windows above it; it fails when the mean difference is
    below, or no seed has enough windows.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.each_seed(method, baseline):
        curve, other = _two_curves(runs, column)
        differences = _window_means(curve - other, windows)[windows_left_out:]
        per_seed[seed] = float(differences.mean())
        above = int((differences > threshold).sum())
        conditions[seed] = [Condition(f"windows above, of {len(differences)}:", above, at_least=windows_above_at_least)]
    return over_seeds(per_seed, unit_of(column), threshold, records.difference(method, baseline), 3, conditions)


def falls_and_settles(
    records: ClaimRecords,
    *,
    method: str,
    column: str,
    early_share: float,
    late_share: float,
    early_at_least: float,
    late_at_most: float,
    late_at_least: float,
    late_change_at_most: float,
) -> Outcome:
    """Test that a curve starts high, falls, and settles at a small but non-zero level (Figure 6).

    Shares are of the training steps; the effect is the late mean minus the early mean.
    """
    per_seed, conditions = {}, {}
    for seed, (run,) in records.each_seed(method):
        curve = _curve(run, column)
        early, late = _mean_between(curve, 0.0, early_share), _mean_between(curve, 1 - late_share, 1.0)
        middle = 1 - late_share / 2
        change = abs(_mean_between(curve, middle, 1.0) - _mean_between(curve, 1 - late_share, middle))
        per_seed[seed] = late - early
        conditions[seed] = [
            Condition("early mean", early, at_least=early_at_least),
            Condition("late mean", late, at_least=late_at_least, at_most=late_at_most),
            Condition("late change", change, at_most=late_change_at_most),
        ]
    return unanimous(per_seed, unit_of(column), conditions)


def rises_and_stays(
    records: ClaimRecords,
    *,
    method: str,
    column: str,
    start_share: float,
    late_share: float,
    windows: int,
    rise_at_least: float,
    quick_by_share: float,
    quick_at_least: float,
    ceiling_share_at_most: float,
    kept_at_least: float,
) -> Outcome:
    """Test that a curve rises early, stays below its ceiling and does not fall back (Figure 7, right).

    Shares are of the training steps; the peak is the highest window mean; the effect is the late mean minus the start.
    """
    if records.ceiling_tokens is None:
        raise NotTestable("the largest response length is not known")
    per_seed, conditions = {}, {}
    for seed, (run,) in records.each_seed(method):
        curve = _curve(run, column)
        start, late = _mean_between(curve, 0.0, start_share), _mean_between(curve, 1 - late_share, 1.0)
        peak = float(_window_means(curve, windows).max())
        by_then = _mean_between(curve, quick_by_share - 1 / windows, quick_by_share)
        covered = (by_then - start) / (peak - start) if peak > start else 0.0
        per_seed[seed] = late - start
        conditions[seed] = [
            Condition("late mean / start", late / start if start else float("inf"), at_least=rise_at_least),
            Condition("share of the rise covered early", covered, at_least=quick_at_least),
            Condition("highest step / ceiling", curve.max() / records.ceiling_tokens, at_most=ceiling_share_at_most),
            Condition("late mean / peak", late / peak if peak else 0.0, at_least=kept_at_least),
        ]
    return unanimous(per_seed, unit_of(column), conditions)


def ends_above_start(
    records: ClaimRecords, *, method: str, column: str, early_share: float, late_share: float, threshold: float
) -> Outcome:
    """Test that a curve is higher at the end of training than at its start (Figure 6: the reward), over seeds.

    Shares are of the training steps; the effect is the late mean minus the early mean.
    """
    per_seed = {}
    for seed, (run,) in records.each_seed(method):
        curve = _curve(run, column)
        per_seed[seed] = _mean_between(curve, 1 - late_share, 1.0) - _mean_between(curve, 0.0, early_share)
    what = f"{quantity(column)} of {records.label(method)}, late minus early"
    return over_seeds(per_seed, unit_of(column), threshold, what, 3)


def mean_above(records: ClaimRecords, *, method: str, column: str, threshold: float) -> Outcome:
    """Test that a quantity is above a threshold on average over all steps that have it."""
    per_seed, what = {}, f"{quantity(column)} of {records.label(method)}"
    for seed, (run,) in records.each_seed(method):
        if column not in run.metrics.columns or run.metrics[column].isna().all():
            raise NotTestable(f"no run of {records.label(method)} records {quantity(column)}")
        per_seed[seed] = float(run.metrics[column].mean())
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
    records: ClaimRecords, *, method: str, baseline: str, sets_at_least: int, threshold_points: float
) -> Outcome:
    """Test that a method's validation curves lie above a baseline's (Figure 5), on average and on nearly every set.

    A curve counts by its mean over all points but the first, which is the base for both methods.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.each_seed(method, baseline):
        curves, other = (_validation_curves(run).iloc[1:] for run in runs)
        if not curves.index.equals(other.index) or not curves.columns.equals(other.columns):
            raise NotTestable(f"{_names(runs)} were validated on different sets or steps")
        differences = (curves - other).mean()
        _check_sets(len(differences), sets_at_least)
        per_seed[seed] = float(differences.mean())
        above = int((differences > 0).sum())
        conditions[seed] = [Condition(f"sets above, of {len(differences)}:", above, at_least=sets_at_least)]
    return over_seeds(per_seed, "points", threshold_points, records.difference(method, baseline), 1, conditions)


def validation_improves(
    records: ClaimRecords, *, method: str, sets_at_least: int, fall_at_most_points: float
) -> Outcome:
    """Test that a method's validation curves end above their start on most sets, and do not collapse in between.

    The effect is the last point of the sets' mean minus the first, which is the base.
    """
    per_seed, conditions = {}, {}
    for seed, (run,) in records.each_seed(method):
        curves = _validation_curves(run)
        _check_sets(curves.shape[1], sets_at_least)
        mean = curves.mean(axis=1)
        per_seed[seed] = float(mean.iloc[-1] - mean.iloc[0])
        ahead = int((curves.iloc[-1] > curves.iloc[0]).sum())
        fall = float((mean.cummax() - mean).max())
        conditions[seed] = [
            Condition(f"sets that end above the base, of {curves.shape[1]}:", ahead, at_least=sets_at_least),
            Condition("largest fall of their mean in points", fall, at_most=fall_at_most_points),
        ]
    return unanimous(per_seed, "points", conditions)


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


def _window_means(curve: pd.Series, windows: int) -> np.ndarray:
    return np.array([part.mean() for part in np.array_split(curve.to_numpy(dtype=np.float64), windows)])


def _mean_between(curve: pd.Series, start: float, end: float) -> float:
    """Return the mean over a range of shares of training, at least one step."""
    first, last = round(start * len(curve)), round(end * len(curve))
    return float(curve.iloc[min(first, len(curve) - 1) : max(last, first + 1)].mean())


# Single questions over training (Figures 3 and 4)


def rows_at_zero(records: ClaimRecords, *, method: str, level: int, rows_at_least: int) -> Outcome:
    """Test that questions of a level stay unsolved over all of training: no rollout correct in any epoch.

    The effect is the share of such questions, in percent.
    """
    per_seed, conditions = {}, {}
    for seed, (run,) in records.each_seed(method):
        zero = always_zero(_level(_grid(run), level))
        per_seed[seed] = 100 * float(zero.mean())
        name = f"questions at zero on level {level}, of {len(zero)}:"
        conditions[seed] = [Condition(name, int(zero.sum()), at_least=rows_at_least)]
    return unanimous(per_seed, "% of questions", conditions)


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


def rollouts_left_out_when_switched(records: ClaimRecords, *, method: str, share_at_most: float) -> Outcome:
    """Test that questions on the demonstration branch cost no rollouts (Section 4.2).

    The effect is the share of all sampled tokens that were sampled for questions which then learnt from their
    demonstration alone.
    """
    per_seed, conditions = {}, {}
    for seed, (run,) in records.each_seed(method):
        rows = run.rollouts
        if rows.empty:
            raise NotTestable(f"no rollouts of {run.name}")
        tokens = (rows["rollouts"] * rows["response_tokens_mean"]).fillna(0.0)
        switched = rows["branch"] == "demonstration"
        if not tokens.sum() or not switched.any():
            raise NotTestable(f"{run.name} sampled nothing, or never switched to a demonstration")
        per_seed[seed] = float(tokens[switched].sum() / tokens.sum())
        conditions[seed] = [Condition("share of sampled tokens", per_seed[seed], at_most=share_at_most)]
    return unanimous(per_seed, "share", conditions)


def _cost(run: RunFrames, columns: Sequence[str]) -> float:
    return float(sum(run.metrics[column].sum() for column in columns if column in run.metrics.columns))
