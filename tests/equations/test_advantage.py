"""Advantages against numbers a person can work out, and what they may not depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt.support.errors import ConfigError
from hpt.upge.advantage import RolloutGroups, advantages, updated_baseline
from hpt.upge.estimator import ROWS, Row


def groups_of(
    rewards: list[float], group: list[int], lengths: list[int] | None = None, **more: object
) -> RolloutGroups:
    return RolloutGroups(
        rewards=np.array(rewards, dtype=float),
        group=np.array(group),
        is_demonstration=np.zeros(len(rewards), dtype=bool),
        lengths=np.array(lengths or [1] * len(rewards)),
        **more,  # type: ignore[arg-type]
    )


def first_tokens(name: str, groups: RolloutGroups, **parameters: float | str | None) -> list[float]:
    return [float(values[0]) for values in advantages(ROWS[name].with_parameters(**parameters), groups)]


def test_group_mean_and_both_standard_deviations() -> None:
    # rewards 1 0 0 0: mean 1/4, sum of squares 3/4; sample variance 1/4, population variance 3/16
    groups = groups_of([1, 0, 0, 0], [0] * 4)
    assert first_tokens("grpo", groups, std="none") == [0.75, -0.25, -0.25, -0.25]
    assert first_tokens("grpo", groups, std="sample") == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)
    expected = [0.75 / np.sqrt(3 / 16), *[-0.25 / np.sqrt(3 / 16)] * 3]
    assert first_tokens("grpo", groups, std="population") == pytest.approx(expected, rel=1e-5)
    # the constant that is added is 1e-6, not 1e-8 or 1e-4
    assert first_tokens("grpo", groups, std="sample")[0] == pytest.approx(0.75 / (0.5 + 1e-6), rel=1e-12)


def test_a_demonstration_in_the_group_of_wrong_rollouts() -> None:
    assert first_tokens("luffy_offline", groups_of([0] * 7 + [1], [5] * 8), std="none") == [-0.125] * 7 + [0.875]


@pytest.mark.parametrize("std", ["none", "sample", "population"])
@pytest.mark.parametrize("rewards", [[1.0], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_nothing_to_compare_gives_exactly_zero(rewards: list[float], std: str) -> None:
    """0.1 three times has a mean that differs from 0.1 in the last bit; divided by 1e-6 that would be a signal."""
    assert first_tokens("grpo", groups_of(rewards, [0] * len(rewards)), std=std) == [0.0] * len(rewards)


def test_a_lone_demonstration_keeps_its_reward() -> None:
    row = Row("lone", "none", "unit", "own_reward", "token_mean")
    assert [values.tolist() for values in advantages(row, groups_of([1, 0], [0, 1], [2, 1]))] == [[1, 1], [0]]


def test_groups_are_distinguished_wherever_their_members_stand() -> None:
    assert first_tokens("dr_grpo", groups_of([1, 0, 0, 0], [7, 3, 7, 3])) == [0.5, 0.0, -0.5, 0.0]


def test_fixed_advantages() -> None:
    assert first_tokens("reinforce", groups_of([1, 0], [0, 0])) == [1.0, -1.0]
    assert first_tokens("sft", groups_of([0, 0.5], [0, 0])) == [1.0, 1.0]


def test_leave_one_out() -> None:
    groups = groups_of([1, 0, 0.5, 1], [0, 0, 0, 1])
    assert first_tokens("rloo", groups) == pytest.approx([0.75, -0.75, 0.0, 0.0])


def test_kl_penalty_enters_the_reward() -> None:
    groups = groups_of([1, 0], [0, 0], [2, 1], kl=[np.array([0.1, 0.3]), np.array([-0.2])])
    # R - 0.5 sum k1 = 0.8 and 0.1
    assert first_tokens("reinforce_baseline", groups, kl_coefficient=0.5) == pytest.approx([0.8, 0.1])
    assert first_tokens("rloo", groups, kl_coefficient=0.5) == pytest.approx([0.7, -0.7])


def test_batch_normalised_by_hand() -> None:
    groups = groups_of([1, 0], [0, 1], [2, 1], kl=[np.array([0.5, 0.5]), np.array([0.0])])
    # returns: 1 - (0.5 + 0.5) = 0, 1 - 0.5 = 0.5, and 0 -> mean 1/6, population variance 1/18
    row = ROWS["reinforce_plus_plus"].with_parameters(kl_coefficient=1.0)
    expected = np.array([-1 / 6, 1 / 3, -1 / 6]) / (np.sqrt(1 / 18) + 1e-6)
    per_token = advantages(row, groups)
    assert [len(values) for values in per_token] == [2, 1]
    np.testing.assert_allclose(np.concatenate(per_token), expected, rtol=1e-12)
    assert not np.concatenate(advantages(row, groups_of([1, 1], [0, 1], [2, 1], kl=[np.zeros(2), np.zeros(1)]))).any()


def test_gae_by_hand() -> None:
    groups = groups_of([1], [0], [2], values=[np.array([0.5, 0.4])], kl=[np.array([0.1, 0.2])])
    row = ROWS["ppo"].with_parameters(gae_gamma=0.9, gae_lambda=0.8)
    # delta_1 = 1 - 0.4 = 0.6, delta_0 = 0.9 * 0.4 - 0.5 = -0.14, A_0 = -0.14 + 0.72 * 0.6
    np.testing.assert_allclose(advantages(row, groups)[0], [0.292, 0.6], rtol=1e-12)
    # with 0.5 k1: delta_1 = 0.6 - 0.1, delta_0 = -0.14 - 0.05
    np.testing.assert_allclose(advantages(row.with_parameters(kl_coefficient=0.5), groups)[0], [0.17, 0.5], rtol=1e-12)
    # lambda = 1, gamma = 1: return minus value
    np.testing.assert_allclose(advantages(ROWS["ppo"], groups)[0], [0.5, 0.6], rtol=1e-12)


@pytest.mark.parametrize(
    ("row", "what"),
    [(ROWS["ppo"], "no critic"), (ROWS["rloo"].with_parameters(kl_coefficient=0.1), "frozen policy")],
)
def test_missing_ingredients_are_refused_with_a_reason(row: Row, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        advantages(row, groups_of([1, 0], [0, 0]))


def test_values_that_are_not_one_per_trajectory_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        advantages(ROWS["ppo"], groups_of([1, 1], [0, 0], values=[np.ones(1)]))


def test_unknown_advantage_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="leave_one_out"):
        advantages(Row("mine", "none", "current", "gruop", "token_mean"), groups_of([1], [0]))


def test_running_baseline_counts_rollouts_only() -> None:
    groups = RolloutGroups(np.array([1.0, 0.0, 0.0, 1.0]), np.zeros(4), np.array([False] * 3 + [True]), np.ones(4, int),
                           baseline=0.5)  # fmt: skip
    row = ROWS["reinforce_baseline"]
    assert updated_baseline(row, groups, decay=0.9) == pytest.approx(0.9 * 0.5 + 0.1 / 3)
    assert first_tokens("reinforce_baseline", groups) == [0.5, -0.5, -0.5, 0.5]
    two_right = RolloutGroups(np.array([1.0, 1.0, 0.0]), np.zeros(3), np.zeros(3, bool), np.ones(3, int), baseline=0.5)
    assert updated_baseline(row, two_right, decay=0.9) == pytest.approx(0.9 * 0.5 + 0.1 * 2 / 3)
    only_demonstration = RolloutGroups(np.ones(1), np.zeros(1), np.ones(1, bool), np.ones(1, int), baseline=0.5)
    assert updated_baseline(row, only_demonstration, decay=0.9) == 0.5


@pytest.mark.parametrize("name", sorted(ROWS))
def test_no_trajectories_no_advantages(name: str) -> None:
    empty = RolloutGroups(np.zeros(0), np.zeros(0, int), np.zeros(0, bool), np.zeros(0, int), kl=[], values=[])
    assert advantages(ROWS[name], empty) == []


@st.composite
def batches(draw: st.DrawFn) -> tuple[RolloutGroups, list[int]]:
    size = draw(st.integers(1, 12))
    draws = {
        name: [draw(strategy) for _ in range(size)]
        for name, strategy in (
            ("rewards", st.sampled_from([0.0, 0.1, 0.5, 1.0])),
            ("group", st.integers(0, 3)),
            ("lengths", st.integers(1, 4)),
        )
    }
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    streams = {name: [rng.normal(size=length) for length in draws["lengths"]] for name in ("kl", "values")}
    return groups_of(**draws, **streams), draw(st.permutations(range(size)))


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from(sorted(ROWS)))
def test_order_of_trajectories_does_not_matter(batch: tuple[RolloutGroups, list[int]], name: str) -> None:
    groups, order = batch
    assert groups.kl is not None
    assert groups.values is not None
    shuffled = RolloutGroups(
        rewards=groups.rewards[order],
        group=groups.group[order],
        is_demonstration=groups.is_demonstration[order],
        lengths=groups.lengths[order],
        kl=[groups.kl[i] for i in order],
        values=[groups.values[i] for i in order],
    )
    row = ROWS[name]
    if "kl_coefficient" in row.parameters:
        row = row.with_parameters(kl_coefficient=0.1)
    direct, permuted = advantages(row, groups), advantages(row, shuffled)
    assert [len(values) for values in direct] == groups.lengths.tolist()
    for position, original in enumerate(order):
        np.testing.assert_allclose(permuted[position], direct[original], rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(batches())
def test_group_advantages_sum_to_zero_and_scale_free(batch: tuple[RolloutGroups, list[int]]) -> None:
    """Centred in every group; dividing by the std makes them independent of the reward's unit."""
    groups, _ = batch
    first = np.array(first_tokens("grpo", groups))
    for index in np.unique(groups.group):
        assert abs(first[groups.group == index].sum()) < 1e-9
    tenfold = groups_of((groups.rewards * 1000).tolist(), groups.group.tolist())
    np.testing.assert_allclose(first_tokens("grpo", tenfold), first, rtol=1e-4)
