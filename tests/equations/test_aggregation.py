"""Aggregation rules against numbers a person can add up, and their independence of any split."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import hpt
from hpt.support.errors import ConfigError
from hpt.upge.aggregation import AGGREGATIONS, StepCounts, trajectory_scales

LENGTHS = np.array([2, 5, 10])
#: 4 questions, 5 rollouts each, at most 10 tokens; the component acts on three trajectories with 17 tokens.
COUNTS = StepCounts(
    prompts=4, rollouts_per_prompt=5, max_response_tokens=10, sequences=3, tokens=17, micro_batches=7, pooled_tokens=50
)
BY_HAND = {
    "token_mean": [1 / 17] * 3,
    "pooled_token_mean": [1 / 50] * 3,
    "sequence_mean": [1 / 6, 1 / 15, 1 / 30],
    "sequence_sum": [1 / 3] * 3,
    "constant_length": [1 / 30] * 3,
    "per_prompt_rollouts": [1 / 200] * 3,
    "per_prompt_demonstration": [1 / 40] * 3,
    "paper_rollouts": [1 / 20] * 3,
    "paper_demonstration": [1 / 8, 1 / 20, 1 / 40],
    "released_rollouts": [1 / 80] * 3,
    "released_demonstration": [7 / 17] * 3,
}


@pytest.mark.parametrize("rule", sorted(AGGREGATIONS))
def test_scales_by_hand(rule: str) -> None:
    """Those of a rank or micro-batch are those of the step: nothing may be counted from the trajectories at hand."""
    whole = trajectory_scales(rule, LENGTHS, COUNTS)
    assert whole.dtype == np.float64
    np.testing.assert_allclose(whole, BY_HAND[rule], rtol=1e-15)
    for subset in ([0], [2, 0], [1, 2], []):
        np.testing.assert_array_equal(trajectory_scales(rule, LENGTHS[subset], COUNTS), whole[subset])
    nothing = replace(COUNTS, sequences=0, tokens=0, pooled_tokens=None)
    assert trajectory_scales(rule, np.zeros(0, dtype=np.int64), nothing).shape == (0,)


@pytest.mark.parametrize(
    ("row", "expected"), [("grpo", 0.0), ("dapo", 2 / 4), ("dr_grpo", 2 / 6), ("reinforce", 2 / 2)]
)
def test_lengths_1_and_3_with_advantages_of_1_and_minus_1_do_not_depend_on_the_split(row: str, expected: float) -> None:
    """A mean over sequences cancels, a mean over tokens does not: each rule has its name, none changes with the batch.

    d loss / d theta where theta is every token's log-prob: minus the sum over tokens of scale * advantage.
    """
    mask = torch.tensor([[0, 1, 0, 0], [0, 1, 1, 1]])
    counts = StepCounts(0, 0, 3, sequences=2, tokens=4)
    for parts in ([[0, 1]], [[0], [1]]):
        theta = torch.zeros((), requires_grad=True)
        for part in parts:
            logprobs, advantages = (theta - 1).expand(len(part), 4), torch.tensor([1.0, -1.0])[part]
            hpt.upge_loss(hpt.ROWS[row], logprobs, None, advantages, mask[part], counts=counts).backward()
        assert float(theta.grad) == pytest.approx(expected, abs=1e-7)


def test_errors_say_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="pooled_tokens"):
        trajectory_scales("pooled_token_mean", LENGTHS, replace(COUNTS, pooled_tokens=None))
    with pytest.raises(ConfigError, match="constant_length"):
        trajectory_scales("constant", LENGTHS, COUNTS)
