"""The reference policy denominator pi_ref of Eq. 6, as its logarithm.

A denominator is a function ``(row, streams, advantages) -> [T]``, detached, registered in `DENOMINATORS`. It decides
how strongly a token is pushed, pi / pi_ref, and need not be a policy: SFT divides by the current one, offline RL by 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from hpt.upge.row import Row, TokenStreams

Denominator = Callable[["Row", "TokenStreams", "Tensor"], "Tensor"]


def current(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """pi_ref = pi, so pi / pi_ref = 1: SFT and REINFORCE."""
    return streams.logprobs.detach()


def old(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """pi_ref = pi_old, so pi / pi_ref is the importance ratio r: PPO, GRPO and their kin (Eq. 18)."""
    return streams.old_logprobs


def unit(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """pi_ref = 1, so pi / pi_ref is the probability itself: the policy of the demonstrations is unknown (Eq. 20)."""
    return streams.logprobs.new_zeros(streams.logprobs.shape)


def unit_shaped(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """pi_ref = 1 / f'(p) with LUFFY's f(p) = p / (p + gamma), so pi / pi_ref = gamma p / (p + gamma)^2.

    Yan et al. 2025. f'(p) = gamma / (p + gamma)^2 is taken at the token's current probability; gamma is the row's
    ``shaping_gamma``, 0.1 in LUFFY.
    """
    gamma = row.number("shaping_gamma")
    return 2 * (streams.logprobs.detach().exp() + gamma).log() - math.log(gamma)


def clipped_ratio(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """pi_ref = pi / clip(r, 1 - eps_low, 1 + eps_high), so pi / pi_ref is the clipped ratio: CISPO.

    MiniMax-M1 (Chen et al. 2025), Eq. 4 and 5. The *ratio* is bounded and no token is dropped; Table 1 prints pi_old
    and a mask instead, which would drop the tokens that the method exists to keep. A bound of None is none.
    """
    logprobs = streams.logprobs.detach()
    ratio = (logprobs - streams.old_logprobs).exp()
    return logprobs - ratio.clamp(1 - row.bound("clip_eps_low"), 1 + row.bound("clip_eps_high")).log()


def sequence_ratio(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """pi_ref = pi / s with s = (prod_t r_t)^(1/length), so every token of a trajectory has pi / pi_ref = s: GSPO.

    Zheng et al. 2025, Eq. 5. Since grad s = s / length * sum_t grad log pi_t, the weight A s with an aggregation that
    divides by the length is the exact gradient of s A.
    """
    return streams.logprobs.detach() - sequence_log_ratio(streams)


def trajectory_means(values: Tensor, streams: TokenStreams) -> Tensor:
    """Return the mean of ``values`` [T] over the tokens of each trajectory, as [B] float64, detached.

    float64, because on a GPU the order of these additions is not fixed and must not show.
    """
    values = values.detach().double()
    sums = values.new_zeros(streams.trajectories).index_add(0, streams.trajectory, values)
    counts = values.new_zeros(streams.trajectories).index_add(0, streams.trajectory, values.new_ones(values.shape))
    return sums / counts.clamp(min=1)


def sequence_log_ratio(streams: TokenStreams) -> Tensor:
    """Return log s of GSPO for every token, the mean of log r over its trajectory; [T], detached."""
    means = trajectory_means(streams.logprobs - streams.old_logprobs, streams)
    return means[streams.trajectory].to(streams.logprobs.dtype)


DENOMINATORS: dict[str, Denominator] = {
    "current": current,
    "old": old,
    "unit": unit,
    "unit_shaped": unit_shaped,
    "clipped_ratio": clipped_ratio,
    "sequence_ratio": sequence_ratio,
}
