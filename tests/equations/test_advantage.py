"""Advantages against numbers a person can work out; `test_table1` holds the others against each paper's loss."""

import numpy as np
import pytest

from hpt.support.errors import ConfigError
from hpt.upge.advantage import RolloutGroups, advantages, updated_baseline
from hpt.upge.estimator import ROWS, Row


def groups_of(
    rewards: list[float], group: list[int] | None = None, lengths: list[int] | None = None, **more: object
) -> RolloutGroups:
    """Rollouts of one prompt, of a token each, if not told otherwise."""
    count = len(rewards)
    more = {"is_demonstration": np.zeros(count, dtype=bool)} | more
    return RolloutGroups(np.array(rewards, dtype=float), np.array(group or [0] * count),
                         lengths=np.array(lengths or [1] * count, dtype=int), **more)  # fmt: skip


def first_tokens(name: str, groups: RolloutGroups, **parameters: float | str | None) -> list[float]:
    return [float(values[0]) for values in advantages(ROWS[name].with_parameters(**parameters), groups)]


def test_group_mean_and_both_standard_deviations() -> None:
    # rewards 1 0 0 0: mean 1/4, sum of squares 3/4; sample variance 1/4, population variance 3/16
    groups = groups_of([1, 0, 0, 0])
    assert first_tokens("grpo", groups, std="none") == [0.75, -0.25, -0.25, -0.25]
    assert first_tokens("grpo", groups, std="sample") == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)
    expected = [0.75 / np.sqrt(3 / 16), *[-0.25 / np.sqrt(3 / 16)] * 3]
    assert first_tokens("grpo", groups, std="population") == pytest.approx(expected, rel=1e-5)
    # the constant that is added is 1e-6, not 1e-8 or 1e-4
    assert first_tokens("grpo", groups, std="sample")[0] == pytest.approx(0.75 / (0.5 + 1e-6), rel=1e-12)


def test_a_demonstration_in_the_group_of_wrong_rollouts() -> None:
    assert first_tokens("luffy_offline", groups_of([0] * 7 + [1]), std="none") == [-0.125] * 7 + [0.875]


@pytest.mark.parametrize("std", ["none", "sample", "population"])
@pytest.mark.parametrize("rewards", [[1.0], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_nothing_to_compare_gives_exactly_zero(rewards: list[float], std: str) -> None:
    """0.1 three times has a mean that differs from 0.1 in the last bit; divided by 1e-6 that would be a signal."""
    assert first_tokens("grpo", groups_of(rewards), std=std) == [0.0] * len(rewards)


def test_advantages_are_spread_over_tokens_and_groups_found_wherever_their_members_stand() -> None:
    row = Row("lone", "none", "unit", "own_reward", "token_mean")
    assert [values.tolist() for values in advantages(row, groups_of([1, 0], [0, 1], [2, 1]))] == [[1, 1], [0]]
    assert first_tokens("dr_grpo", groups_of([1, 0, 0, 0], [7, 3, 7, 3])) == [0.5, 0.0, -0.5, 0.0]
    assert first_tokens("rloo", groups_of([1, 0, 0.5, 1], [0, 0, 0, 1])) == pytest.approx([0.75, -0.75, 0.0, 0.0])


def test_returns_that_are_all_equal_are_no_signal() -> None:
    equal = groups_of([1, 1], [0, 1], [2, 1], kl=[np.zeros(2), np.zeros(1)])
    assert not np.concatenate(advantages(ROWS["reinforce_plus_plus"], equal)).any()


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (ROWS["ppo"], "no critic"),
        (ROWS["rloo"].with_parameters(kl_coefficient=0.1), "frozen policy"),
        (Row("mine", "none", "current", "gruop", "token_mean"), "leave_one_out"),
    ],
)
def test_missing_ingredients_and_unknown_names_are_refused_with_a_reason(row: Row, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        advantages(row, groups_of([1, 0]))


def test_values_that_are_not_one_per_trajectory_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        advantages(ROWS["ppo"], groups_of([1, 1], values=[np.ones(1)]))


def test_running_baseline_counts_rollouts_only() -> None:
    row = ROWS["reinforce_baseline"]
    groups = groups_of([1, 0, 0, 1], is_demonstration=np.array([False] * 3 + [True]), baseline=0.5)
    assert first_tokens("reinforce_baseline", groups) == [0.5, -0.5, -0.5, 0.5]
    assert updated_baseline(row, groups, decay=0.9) == pytest.approx(0.9 * 0.5 + 0.1 / 3)
    assert updated_baseline(row, groups_of([1, 1, 0], baseline=0.5), 0.9) == pytest.approx(0.9 * 0.5 + 0.1 * 2 / 3)
    only_demonstration = groups_of([1], is_demonstration=np.ones(1, bool), baseline=0.5)
    assert updated_baseline(row, only_demonstration, decay=0.9) == 0.5


@pytest.mark.parametrize("name", sorted(ROWS))
def test_no_trajectories_no_advantages(name: str) -> None:
    assert advantages(ROWS[name], groups_of([], kl=[], values=[])) == []
