"""Tests on single questions over training (Figures 3 and 4): rows that stay at zero, and which method leads where."""

from collections.abc import Sequence

import pandas as pd

from hpt.evaluation.intervals import seed_mean
from hpt.evaluation.scores import accuracy_grid, always_zero, part_of_training
from hpt.paper.claim_tests.records import (
    ClaimRecords,
    Condition,
    Finding,
    NotTestable,
    RunFrames,
    every_seed,
    spread,
)

MIN_EPOCHS = 4  # a quarter of training is at least one epoch


def rows_at_zero(records: ClaimRecords, *, method: str, level: int, rows_at_least: int) -> Finding:
    """Test that questions of a level stay unsolved over all of training: no rollout correct in any epoch.

    The effect is the share of such questions, in percent.
    """
    per_seed, conditions = {}, {}
    for seed, runs in records.seeds.items():
        zero = always_zero(_level(_grid(runs[method], records.run(method, seed)), level))
        per_seed[seed] = 100 * float(zero.mean())
        name = f"questions at zero on level {level}, of {len(zero)}:"
        conditions[seed] = [Condition(name, int(zero.sum()), at_least=rows_at_least)]
    everywhere, met = every_seed(conditions)
    return Finding(per_seed, "% of questions", everywhere, met)


def more_rows_at_zero(
    records: ClaimRecords, *, method: str, level: int, easier_level: int, threshold_points: float
) -> Finding:
    """Test that more questions of a hard level than of an easier one stay unsolved over all of training.

    The effect is the difference of the shares of such questions between the levels, in points.
    """
    per_seed = {}
    for seed, runs in records.seeds.items():
        grid = _grid(runs[method], records.run(method, seed))
        hard, easy = (always_zero(_level(grid, of_level)) for of_level in (level, easier_level))
        per_seed[seed] = 100 * float(hard.mean() - easy.mean())
    difference = seed_mean(list(per_seed.values()))
    explanation = f"level {level} minus level {easier_level}: {spread(difference, 'points', 1)}."
    return Finding(per_seed, "points", difference.decide(threshold_points), explanation)


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
) -> Finding:
    """Test that one method's colour dominates a part of the difference map (Figure 4).

    The effect is the share of cells (question and epoch) in which ``leader`` has the higher accuracy minus the share
    in which ``other`` has, in points; with ``against_levels``, this on ``levels`` minus the same on those.
    """
    per_seed = {}
    for seed, runs in records.seeds.items():
        ahead, against = (_grid(runs[name], records.run(name, seed)) for name in (leader, other))
        if not ahead.index.equals(against.index) or not ahead.columns.equals(against.columns):
            whose = f"{records.label(leader)} and {records.label(other)} of seed {seed}"
            raise NotTestable(f"{whose} were trained on different questions or epochs")
        difference = ahead - against
        part = difference.iloc[:, part_of_training(difference.shape[1], start_share, end_share)]
        per_seed[seed] = _lead(part, levels) - (_lead(part, against_levels) if against_levels else 0.0)
    lead = seed_mean(list(per_seed.values()))
    explanation = (
        f"cells led by {records.label(leader)} minus cells led by {records.label(other)}: {spread(lead, 'points', 1)}."
    )
    return Finding(per_seed, "points", lead.decide(threshold_points), explanation)


def _lead(difference: pd.DataFrame, levels: Sequence[int]) -> float:
    cells = pd.concat([_level(difference, level) for level in levels]).to_numpy()
    return 100 * float((cells > 0).mean() - (cells < 0).mean())


def _level(grid: pd.DataFrame, level: int) -> pd.DataFrame:
    chosen = grid[grid.index.get_level_values("level") == level]
    if chosen.empty:
        raise NotTestable(f"no questions of level {level}")
    return chosen


def _grid(run: RunFrames, whose: str) -> pd.DataFrame:
    if run.rollouts.empty:
        raise NotTestable(f"no rollouts of {whose}")
    grid = accuracy_grid(run.rollouts)
    if grid.shape[1] < MIN_EPOCHS:
        raise NotTestable(f"{whose} has {grid.shape[1]} epochs in which every question was asked, need {MIN_EPOCHS}")
    return grid
