"""Detached factors per trajectory that two of SRFT's three terms carry (Fu et al. 2025); every other row has 1.

A coefficient is a function ``(streams, rewards) -> [T]``, detached, registered in `COEFFICIENTS`. H is the mean token
entropy of the trajectory under the current policy, in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hpt.errors import ConfigError
from hpt.upge.reference import trajectory_means

if TYPE_CHECKING:
    from torch import Tensor

    from hpt.upge.row import TokenStreams

Coefficient = Callable[["TokenStreams", "Tensor | None"], "Tensor"]


def one(streams: TokenStreams, rewards: Tensor | None) -> Tensor:
    """Return 1 for every token [T]."""
    return streams.logprobs.new_ones(streams.logprobs.shape)


def half_exp_minus_entropy(streams: TokenStreams, rewards: Tensor | None) -> Tensor:
    """SRFT's SFT weight 0.5 exp(-H): an unsure policy learns less from the demonstration.

    Returns:
        [T].
    """
    weight = 0.5 * (-trajectory_means(streams.entropies, streams)).exp()
    return weight[streams.trajectory].to(streams.logprobs.dtype)


def tenth_exp_entropy_if_correct(streams: TokenStreams, rewards: Tensor | None) -> Tensor:
    """SRFT's self-rollout weight: 0.1 exp(H) where the answer is right, 1 where it is wrong (its advantage is -1).

    Args:
        streams: the micro-batch.
        rewards: [B]; above 0 is right.

    Returns:
        [T].

    Raises:
        ConfigError: rewards are missing.
    """
    if rewards is None:
        remedy = "give Component.rewards"
        raise ConfigError("rewards", None, "one reward per trajectory for srft_rollout", remedy)
    weight = 0.1 * trajectory_means(streams.entropies, streams).exp()
    weight = weight.where(rewards > 0, weight.new_ones(()))
    return weight[streams.trajectory].to(streams.logprobs.dtype)


COEFFICIENTS: dict[str, Coefficient] = {
    "one": one,
    "half_exp_minus_entropy": half_exp_minus_entropy,
    "tenth_exp_entropy_if_correct": tenth_exp_entropy_if_correct,
}
