"""Accuracy of every training question in every epoch (Section 4.2): grids, rows that stay at zero, differences.

Everything is computed from the recorded rollouts (`hpt.records.rollout_rows`): a question's accuracy in an epoch is the
share of its rollouts that were correct, whatever the gate made of them afterwards.
"""

from math import ceil

import numpy as np
import pandas as pd

from hpt.errors import RecordFault

QUARTERS = 4


def accuracy_grid(rollouts: pd.DataFrame) -> pd.DataFrame:
    """Return the share of correct rollouts per question and epoch (Figure 3).

    An epoch of a question is the n-th time it was asked; epochs that not every question reached are left out. Where the
    prompts of a step divide the questions, as in Figures 3 and 4, these are the epochs of training.

    Args:
        rollouts: one row per question and step: step, problem_id, level, correct, rollouts.

    Returns:
        [questions, epochs], indexed by level and problem_id (sorted), columns 1, 2, ...; NaN where a question was asked
        without being sampled.

    Example:
        >>> rows = pd.DataFrame({"step": [0, 1], "problem_id": "p", "level": 3, "correct": [0, 6], "rollouts": 8})
        >>> accuracy_grid(rows).loc[(3, "p")].tolist()
        [0.0, 0.75]
    """
    ordered = rollouts.sort_values("step", kind="stable")
    epoch = ordered.groupby("problem_id").cumcount() + 1
    sampled = ordered["rollouts"].astype(float)
    share = ordered["correct"].astype(float) / sampled.where(sampled > 0)
    whole = epoch <= ordered["problem_id"].value_counts().min()
    table = ordered.assign(epoch=epoch, share=share)[whole].set_index(["level", "problem_id", "epoch"])
    return table["share"].unstack("epoch").sort_index()


def always_zero(grid: pd.DataFrame) -> pd.Series:
    """Return which questions never had a correct rollout: the "continuous white lines" of Figure 3.

    Args:
        grid: as from `accuracy_grid`.

    Returns:
        Booleans with the rows of the grid.
    """
    return grid.fillna(0.0).eq(0.0).all(axis=1)


def part_of_training(epochs: int, start_share: float, end_share: float) -> slice:
    """Return the epochs that begin in a part of training, as places from 0: of 50, the first quarter has 13.

    Example:
        >>> [part_of_training(50, quarter / 4, (quarter + 1) / 4) for quarter in (0, 3)]
        [slice(0, 13, None), slice(38, 50, None)]
    """
    return slice(ceil(start_share * epochs), ceil(end_share * epochs))


def quarter_shares(difference: pd.DataFrame) -> pd.DataFrame:
    """Return how much of a difference of two grids is positive, zero and negative in each quarter of training.

    Args:
        difference: one grid of `accuracy_grid` minus another; at least four epochs.

    Returns:
        One row per level and quarter: level, quarter (1 to 4), red (share above 0), white (0), blue (below 0).

    Example:
        >>> index = pd.MultiIndex.from_tuples([(3, "p")], names=["level", "problem_id"])
        >>> quarter_shares(pd.DataFrame([[-1.0, 0.0, 0.5, 0.25]], index=index))["red"].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    epochs = difference.shape[1]
    if epochs < QUARTERS:
        raise RecordFault(f"{epochs} epochs have no quarters; train for {QUARTERS} or more")
    rows = []
    for level, own in difference.groupby(level="level"):
        for number in range(1, QUARTERS + 1):
            cells = own.to_numpy()[:, part_of_training(epochs, (number - 1) / QUARTERS, number / QUARTERS)]
            signs = np.sign(cells[np.isfinite(cells)])
            shares = {name: float((signs == sign).mean()) if len(signs) else np.nan
                      for name, sign in (("red", 1), ("white", 0), ("blue", -1))}  # fmt: skip
            rows.append({"level": level, "quarter": number, **shares})
    return pd.DataFrame(rows)
