"""Parts of a row (mask, advantage, ...) from a module of one's own: used as they are, refused in full."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hpt.errors import ConfigError
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts, trajectory_scales
from hpt.upge.estimator import Component, Row, TokenStreams, upge_loss

COUNTS = StepCounts(1, 2, 8, sequences=2, tokens=5, ranks=1, micro_batches=1, pooled_tokens=0)
#: Parts a row has per token, with what a function for it is given.
PARTS = {
    "mask": "row, streams, advantages [T]",
    "denominator": "row, streams, advantages [T]",
    "trajectory_coefficient": "streams, rewards [B]",
}
FORM = "one number per token, [2] torch.float64, detached"


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


def one_number(*given: object) -> float:
    return 1.0


def single_precision(*given: object) -> Tensor:
    return torch.ones(2)


def no_arguments() -> None: ...


def squares(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    return lengths.astype(float) ** 2 / counts.tokens


def rewards_less_a_constant(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    return [np.full(length, reward - row.number("clip_eps_low"))
            for reward, length in zip(groups.rewards, groups.lengths, strict=True)]  # fmt: skip


def too_many(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    return np.ones(len(lengths) + 1)


def weights_with(part: str, function: str) -> list[float]:
    """Weights of two tokens of one right answer, ratio 1, advantage 1, with one part from this module."""
    fields = {"mask": "none", "denominator": "old", "trajectory_coefficient": "one", part: f"my_parts:{function}"}
    row = Row("mine", advantage="one", aggregation="token_mean", **fields)
    logprobs = torch.full((2,), -1.0, dtype=torch.float64, requires_grad=True)
    streams = TokenStreams(logprobs, torch.zeros(2), logprobs.detach(), torch.zeros(2, dtype=torch.int64), 1)
    ones = torch.ones(2, dtype=torch.float64)
    return upge_loss(streams, [Component(row, ones, ones, rewards=ones[:1])]).weights.tolist()


def said(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as refusal:
        call()
    return str(refusal.value)


@pytest.mark.parametrize(
    ("part", "function", "weights"),
    [
        ("mask", "first_alone", [1.0, 0.0]),
        ("denominator", "half_of_pi", [2.0, 2.0]),
        ("trajectory_coefficient", "right_answers_twice", [2.0, 2.0]),
    ],
)
def test_a_part_of_ones_own_is_used(part: str, function: str, weights: list[float]) -> None:
    assert weights_with(part, function) == pytest.approx(weights)


DRAWN: list[Tensor] = []


def at_random(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    DRAWN.append(torch.randint(0, 2, streams.logprobs.shape, dtype=streams.logprobs.dtype))
    return DRAWN[-1]


def test_a_random_mask_is_drawn_once_for_loss_and_metrics() -> None:
    row = Row("mine", "my_parts:at_random", "current", "one", "token_mean")
    logprobs = torch.full((64,), -1.0, dtype=torch.float64, requires_grad=True)
    streams = TokenStreams(logprobs, torch.zeros(64), logprobs.detach(), torch.zeros(64, dtype=torch.int64), 1)
    DRAWN.clear()
    result = upge_loss(streams, [Component(row, torch.ones(64), torch.ones(64))])
    (mask,) = DRAWN
    assert torch.equal(result.weights, mask)
    assert result.metrics["mine/masked_tokens"] == (mask == 0).sum()


@pytest.mark.parametrize("part", PARTS)
def test_what_is_wrong_with_a_part_is_said_in_full(part: str) -> None:
    for function, form, remedy in (
        ("one_number", FORM, "mend it: it returned a float"),
        (
            "single_precision",
            FORM,
            "mend it: it returned [2] torch.float32; see .to(streams.logprobs.dtype)",
        ),
        ("PARTS", f"a function ({PARTS[part]})", "it is a dict: name the function"),
        (
            "no_arguments",
            f"a function ({PARTS[part]})",
            f"mend it: TypeError: no_arguments() takes 0 positional arguments but {len(PARTS[part].split(', '))} "
            "were given",
        ),
    ):
        expected = f"row mine: {part} = 'my_parts:{function}': allowed is {form}; {remedy}"
        assert said(lambda function=function: weights_with(part, function)) == expected


def advantages_with(function: str) -> list[np.ndarray]:
    """Advantages of two answers, of one and two tokens, from this module."""
    row = Row("mine", "none", "unit", f"my_parts:{function}", "token_mean", {"clip_eps_low": 0.25})
    rewards, lengths = np.array([1.0, 0.0]), np.array([1, 2])
    return advantages(row, RolloutGroups(rewards, np.zeros(2, int), np.zeros(2, bool), lengths))


def test_an_advantage_of_ones_own_is_used() -> None:
    assert [own.tolist() for own in advantages_with("rewards_less_a_constant")] == [[0.75], [-0.25, -0.25]]


def test_what_is_wrong_with_an_advantage_is_said_in_full() -> None:
    form = "a list with one [length] float64 array per trajectory"
    for function, allowed, remedy in (
        ("one_number", form, "mend it: it returned a float for 2 trajectories"),
        ("PARTS", "a function (row, groups)", "it is a dict: name the function"),
        ("no_arguments", "a function (row, groups)",
         "mend it: TypeError: no_arguments() takes 0 positional arguments but 2 were given"),
    ):  # fmt: skip
        expected = f"row mine: advantage = 'my_parts:{function}': allowed is {allowed}; {remedy}"
        assert said(lambda function=function: advantages_with(function)) == expected


def test_an_aggregation_of_ones_own_is_used() -> None:
    assert trajectory_scales("my_parts:squares", [2, 3], COUNTS).tolist() == [0.8, 1.8]


def test_what_is_wrong_with_an_aggregation_is_said_in_full() -> None:
    form = "one number per trajectory, [B] float64"
    for function, allowed, remedy in (
        ("too_many", form, "mend it: it has shape (3,), not (2,)"),
        ("PARTS", "a function (lengths [B], counts)", "it is a dict: name the function"),
    ):
        expected = f"aggregation = 'my_parts:{function}': allowed is {allowed}; {remedy}"
        assert said(lambda function=function: trajectory_scales(f"my_parts:{function}", [2, 3], COUNTS)) == expected
    unknown = said(lambda: trajectory_scales("typo", [2, 3], COUNTS))
    assert unknown.startswith("aggregation = 'typo': allowed is one of ")
