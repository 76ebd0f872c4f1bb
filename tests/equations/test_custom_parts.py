"""Parts of a row that a user wrote are used as they are; what is refused stands in tests/test_plugins.py."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts, trajectory_scales
from hpt.upge.estimator import Row, Term, upge_loss
from hpt.upge.row import TokenStreams

COUNTS = StepCounts(1, 2, 8, sequences=2, tokens=5, ranks=1, micro_batches=1, pooled_tokens=0)


@pytest.fixture(autouse=True)
def my_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module under a name that a user's own could have."""
    monkeypatch.setitem(sys.modules, "my_parts", sys.modules[__name__])


def first_alone(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.0], dtype=torch.float64)


def half_of_pi(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    return streams.logprobs.detach() - np.log(2.0)


def right_answers_twice(streams: TokenStreams, rewards: Tensor) -> Tensor:
    return 1 + rewards[streams.trajectory]


def squares(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    return lengths.astype(float) ** 2 / counts.tokens


def rewards_less_a_constant(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    return [np.full(length, reward - row.number("clip_eps_low"))
            for reward, length in zip(groups.rewards, groups.lengths, strict=True)]  # fmt: skip


def tokens_of(count: int) -> TokenStreams:
    """Tokens of one answer, ratio 1."""
    logprobs = torch.full((count,), -1.0, dtype=torch.float64, requires_grad=True)
    none = torch.zeros(count, dtype=torch.int64)
    return TokenStreams(logprobs, torch.zeros(count), logprobs.detach(), none, 1)


def weights_with(part: str, function: str) -> list[float]:
    """Weights of two tokens of one right answer, advantage 1, with one part from this module."""
    fields = {"mask": "none", "denominator": "old", "trajectory_coefficient": "one", part: f"my_parts:{function}"}
    row = Row("mine", advantage="one", aggregation="token_mean", **fields)
    ones = torch.ones(2, dtype=torch.float64)
    return upge_loss(tokens_of(2), [Term(row, ones, ones, rewards=ones[:1])]).weights.tolist()


def test_a_custom_part_is_used() -> None:
    assert weights_with("mask", "first_alone") == pytest.approx([1.0, 0.0])
    assert weights_with("denominator", "half_of_pi") == pytest.approx([2.0, 2.0])
    assert weights_with("trajectory_coefficient", "right_answers_twice") == pytest.approx([2.0, 2.0])
    row = Row("mine", "none", "unit", "my_parts:rewards_less_a_constant", "token_mean", {"clip_eps_low": 0.25})
    groups = RolloutGroups(np.array([1.0, 0.0]), np.zeros(2, int), np.zeros(2, bool), np.array([1, 2]))
    assert [own.tolist() for own in advantages(row, groups)] == [[0.75], [-0.25, -0.25]]
    assert trajectory_scales("my_parts:squares", [2, 3], COUNTS).tolist() == [0.8, 1.8]


DRAWN: list[Tensor] = []


def at_random(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    DRAWN.append(torch.randint(0, 2, streams.logprobs.shape, dtype=streams.logprobs.dtype))
    return DRAWN[-1]


def test_a_random_mask_is_drawn_once_for_loss_and_metrics() -> None:
    row = Row("mine", "my_parts:at_random", "current", "one", "token_mean")
    DRAWN.clear()
    result = upge_loss(tokens_of(64), [Term(row, torch.ones(64), torch.ones(64))])
    (mask,) = DRAWN
    assert torch.equal(result.weights, mask)
    assert result.metrics["mine/masked_tokens"] == (mask == 0).sum()
