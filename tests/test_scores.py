"""Scores against counting by hand, against exact integers, and against the paper's tables."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt.evaluation.scores import (
    average_of_cells,
    chance_pass_at_k,
    counts_per_problem,
    exclusive_solves,
    pass_at_k,
    pass_at_k_bootstrap,
    round_half_up,
)
from hpt.support.errors import ConfigError


@pytest.mark.parametrize("correct", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_equals_counting_all_subsets(correct: int, k: int) -> None:
    answers = [True] * correct + [False] * (5 - correct)
    subsets = list(combinations(answers, k))
    counted = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k([correct], 5, k) == pytest.approx([counted], abs=1e-12)


@given(st.integers(0, 2048), st.integers(1, 2048))
def test_pass_at_k_equals_exact_integers_at_the_papers_size(correct: int, k: int) -> None:
    exact = 1 - Fraction(comb(2048 - correct, k), comb(2048, k))
    assert pass_at_k([correct], 2048, k)[0] == pytest.approx(float(exact), abs=1e-10)


def test_pass_at_k_takes_samples_per_problem_and_exact_ends() -> None:
    assert pass_at_k([0, 1, 3, 8], [4, 1, 6, 8], 1) == pytest.approx([0, 1, 0.5, 1])
    assert pass_at_k([0, 2048], 2048, 1024).tolist() == [0.0, 1.0]
    for counts, samples, k in (([1], 4, 5), ([1], 4, 0), ([5], 4, 1), ([-1], 4, 1), ([], 4, 1)):
        with pytest.raises(ConfigError):
            pass_at_k(counts, samples, k)


def test_the_bootstrap_draws_with_replacement_around_its_known_mean() -> None:
    counts = np.array([0, 1, 16, 64])
    draws = pass_at_k_bootstrap(counts, 64, 8, draws=20_000, generator=0)
    expected = (1 - (1 - counts / 64) ** 8).mean()
    assert draws.mean() == pytest.approx(expected, abs=4 * draws.std() / np.sqrt(len(draws)))
    assert draws.mean() < pass_at_k(counts, 64, 8).mean()  # fewer distinct samples; the gap is 4 standard errors
    assert set(np.unique(draws)) <= {0.25, 0.5, 0.75}


def test_the_bootstrap_is_seeded() -> None:
    first, again, other = (pass_at_k_bootstrap([3, 5], 8, 2, generator=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (pass_at_k_bootstrap([3, 5], 8, 2, generator=np.random.default_rng(1)) == first).all()


@pytest.mark.parametrize(
    ("answers", "k", "share"), [(1_000, 1, 0.001), (4, 2, 7 / 16), (1, 3, 1.0), (1_000, 256, 0.226)]
)
def test_chance(answers: int, k: int, share: float) -> None:
    assert chance_pass_at_k(answers, k) == pytest.approx(share, abs=1e-4)


def test_exclusive_solves_by_hand() -> None:
    a = [1, 1, 1, 1, 0, 1, 0, 1]
    b = [0, 1, 0, 0, 0, 0, 1, 0]
    frame = exclusive_solves(a, b, [1, 1, 1, 2, 2, 2, 2, 2]).set_index("level")
    assert frame.loc[1].to_list() == [3, 2, 0, 66.7, 0.0, 0.5]
    assert frame.loc["Overall", ["problems", "a_only", "b_only"]].to_list() == [8, 5, 1]
    # two-sided exact: 2 (C(6,0) + C(6,1)) / 2^6
    assert frame.loc["Overall", "p_value"] == pytest.approx(14 / 64)


def test_exclusive_solves_of_equal_policies_and_of_other_problems() -> None:
    frame = exclusive_solves([1, 0], [1, 0], ["x", "y"])
    assert frame[["a_only", "b_only", "p_value"]].values.tolist() == [[0, 0, 1.0]] * 3
    with pytest.raises(ValueError, match="alike"):
        exclusive_solves([1, 0], [1], [1, 1])


def test_exclusive_solves_of_shares_are_the_mean_over_all_pairs_of_answers() -> None:
    generator = np.random.default_rng(3)
    a, b = generator.random((6, 4)) < 0.7, generator.random((6, 3)) < 0.4
    levels = [1, 1, 1, 2, 2, 2]
    pairs = [exclusive_solves(a[:, i], b[:, j], levels) for i in range(4) for j in range(3)]
    expected = exclusive_solves(a.mean(axis=1), b.mean(axis=1), levels)
    for name in ("a_only", "b_only"):
        assert expected[name].tolist() == pytest.approx(np.mean([pair[name] for pair in pairs], axis=0).tolist())


def test_the_sign_test_leaves_ties_out() -> None:
    frame = exclusive_solves([0.9, 0.8, 0.5, 0.1], [0.1, 0.2, 0.5, 0.0], [1] * 4)
    assert frame.iloc[-1]["p_value"] == pytest.approx(2 / 8)  # three of three ahead: 2 C(3, 0) / 2^3


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.05, 0.1), (0.25, 0.3), (44.449999999999996, 44.5), (44.44, 44.4), (-0.25, -0.3), (7, 7.0)]
)
def test_round_half_up(value: float, rounded: float) -> None:
    assert round_half_up(value) == rounded


def test_an_average_is_taken_from_the_printed_cells() -> None:
    assert average_of_cells([12.44, 12.46]) == 12.5  # 12.4 and 12.5; the unrounded mean 12.45 would agree,
    assert average_of_cells([12.44, 12.42]) == 12.4
    assert average_of_cells([1.04, 1.04, 1.06]) == 1.0  # cells 1.0 1.0 1.1
    assert average_of_cells([1.05, 1.05, 1.04]) == 1.1  # cells 1.1 1.1 1.0: 1.067; unrounded 1.047 would give 1.0


ANSWERS = pd.DataFrame(
    [
        ("b", "q", 2, 0, "correct", 10),
        ("b", "q", 2, 1, "wrong", 20),
        ("a", "q", None, 0, "no_answer", 30),
        ("a", "p", None, 0, "timed_out", 50),
        ("a", "p", None, 1, "correct", 70),
    ],
    columns=["benchmark", "problem_id", "level", "sample", "verdict", "response_tokens"],
)


def test_counts_per_problem_keeps_order_and_problems_without_level() -> None:
    counts = counts_per_problem(ANSWERS)
    assert list(counts.columns) == [
        *("benchmark", "problem_id", "level", "correct", "samples", "no_answer", "timed_out", "response_tokens_mean")
    ]
    assert counts.drop(columns="level").values.tolist() == [
        ["b", "q", 1, 2, 0, 0, 15.0],
        ["a", "q", 0, 1, 1, 0, 30.0],
        ["a", "p", 1, 2, 0, 1, 60.0],
    ]
    assert counts["level"].isna().tolist() == [False, True, True]
