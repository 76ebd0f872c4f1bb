"""Figures 3 and 4: the grid of questions and epochs, rows that stay at zero, and the difference of two methods."""

import numpy as np
import pandas as pd
import pytest

from hpt.evaluation.scores import accuracy_grid, always_zero, quarter_shares
from hpt.reports.frames import question_grids, questions, row_order, shares_by_quarter, zero_rows
from hpt.runs.records import RunRecords
from hpt.support.errors import RecordFault
from tests.fabricated import fabricated_records

N = 8


def rollouts(counts: dict[tuple[int, str], list[int]], orders: list[list[str]] | None = None) -> pd.DataFrame:
    """Rows as training leaves them: two questions per step, every epoch in an order of its own."""
    epochs = len(next(iter(counts.values())))
    rows, step = [], 0
    for epoch in range(epochs):
        keys = list(counts) if orders is None else sorted(counts, key=lambda key: orders[epoch].index(key[1]))
        for start in range(0, len(keys), 2):
            for level, name in keys[start : start + 2]:
                rows.append((step, name, level, counts[level, name][epoch], N))
            step += 1
    return pd.DataFrame(rows, columns=["step", "problem_id", "level", "correct", "rollouts"])


COUNTS = {(3, "a"): [0, 4, 8, 8], (3, "b"): [0, 0, 0, 0], (5, "c"): [0, 0, 1, 0], (5, "d"): [0, 0, 0, 0]}


def test_a_question_is_one_row_whatever_the_order_of_an_epoch() -> None:
    table = rollouts(COUNTS, [["a", "b", "c", "d"], ["d", "c", "b", "a"], ["c", "a", "d", "b"], ["b", "d", "a", "c"]])
    grid = accuracy_grid(table.sample(frac=1, random_state=0))  # nor of the rows
    assert grid.index.tolist() == [(3, "a"), (3, "b"), (5, "c"), (5, "d")]
    assert grid.columns.tolist() == [1, 2, 3, 4]
    assert (grid.to_numpy() * N == [COUNTS[key] for key in grid.index]).all()


def test_an_epoch_that_not_every_question_reached_is_left_out_and_who_was_not_sampled_has_no_accuracy() -> None:
    table = rollouts(COUNTS)
    grid = accuracy_grid(table.iloc[:-1])
    assert grid.columns.tolist() == [1, 2, 3]
    assert grid.loc[(3, "a")].tolist() == [0, 0.5, 1]
    table.loc[0, ["correct", "rollouts"]] = 0
    grid = accuracy_grid(table)
    assert np.isnan(grid.loc[(3, "a"), 1])
    assert grid.loc[(3, "b"), 1] == 0.0


def test_rows_that_stay_at_zero_are_counted_per_level_and_seed() -> None:
    other = COUNTS | {(5, "c"): [0, 0, 0, 0]}
    grids = {0: accuracy_grid(rollouts(COUNTS)), 7: accuracy_grid(rollouts(other))}
    assert always_zero(grids[0]).tolist() == [False, True, False, True]
    zero = zero_rows(grids)
    columns = ["level", "questions", "mean", "seed_0", "seed_7"]
    assert zero[columns].values.tolist() == [[3, 2, 1, 1, 1], [5, 2, 1.5, 1, 2]]


def test_rows_are_ordered_by_mean_accuracy_within_their_level() -> None:
    swapped = COUNTS | {(3, "b"): [8, 8, 8, 8], (3, "a"): [0, 0, 0, 0]}
    first = {0: accuracy_grid(rollouts(COUNTS))}
    both = first | {1: accuracy_grid(rollouts(swapped))}
    assert [name for _, name in row_order(first)] == ["a", "b", "c", "d"]
    assert [name for _, name in row_order(both)] == ["b", "a", "c", "d"]  # 32 against 20 correct over both seeds


def test_quarters_tell_red_from_white_from_blue() -> None:
    index = pd.MultiIndex.from_tuples([(3, "a"), (3, "b"), (5, "c")], names=["level", "problem_id"])
    epochs = [[-0.5, -0.1, 0, 0, 0.2, 0.1, 0.1, 0.9], [0, -1, -1, 1, 0, 0, 1, 1], [np.nan, 0, 0, 0, 0, 0, 0, 0.5]]
    shares = quarter_shares(pd.DataFrame(epochs, index=index)).set_index(["level", "quarter"])
    assert shares.loc[(3, 1)].tolist() == [0, 0.25, 0.75]
    assert shares.loc[(3, 2)].tolist() == [0.25, 0.5, 0.25]
    assert shares.loc[(3, 4)].tolist() == [1, 0, 0]
    assert shares.loc[(5, 1)].tolist() == [0, 1, 0]
    assert shares.loc[(5, 4)].tolist() == [0.5, 0.5, 0]
    with pytest.raises(RecordFault, match="3 epochs have no quarters"):
        quarter_shares(pd.DataFrame([[0.0] * 3], index=index[:1]))
    # fifty epochs: 13, 12, 13 and 12 of them, and each counted once
    ones = pd.DataFrame([[1.0 if epoch < 13 else 0.0 for epoch in range(50)]], index=index[:1])
    assert quarter_shares(ones)["red"].tolist() == [1, 0, 0, 0]


def test_shares_are_means_over_seeds() -> None:
    index = pd.MultiIndex.from_tuples([(3, "a")], names=["level", "problem_id"])
    over = shares_by_quarter({seed: pd.DataFrame([[sign] * 4], index=index) for seed, sign in ((0, 1.0), (4, -1.0))})
    first = over[over["quarter"] == 1].set_index("colour")
    assert first["mean"].to_dict() == {"red": 50.0, "white": 0.0, "blue": 50.0}
    assert (first.loc["red", "seed_0"], first.loc["red", "seed_4"]) == (100.0, 0.0)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    return fabricated_records(tmp_path_factory.mktemp("runs"), "figure4", seeds=(0, 1))


def test_a_row_is_a_question_of_a_seed_in_the_order_given(records: list[RunRecords]) -> None:
    first, second = (question_grids(records, name) for name in ("grpo_after_sft", "hpt_few_questions"))
    assert set(first) == set(second) == {0, 1}
    order = row_order(first)
    frame = questions({seed: second[seed] - grid for seed, grid in first.items()}, order)
    assert frame["seed"].value_counts().to_dict() == {0: len(order), 1: len(order)}
    runs = {(run.arms[0], run.seed): run for run in records}
    grids = [accuracy_grid(runs[arm, 1].rollouts) for arm in ("hpt_few_questions-weak", "grpo_after_sft-weak")]
    row = frame[frame["seed"] == 1].iloc[3]
    assert (row["level"], row["problem_id"]) == order[3]
    assert [row[f"epoch_{epoch}"] for epoch in range(1, 5)] == (grids[0] - grids[1]).loc[order[3]].tolist()
    assert frame.groupby(["seed", "level"])["row"].apply(list).map(lambda own: own == [*range(1, len(own) + 1)]).all()
