"""The stabilization mask 1_stable of Eq. 6: which tokens may still move the policy (Appendix B.3).

A mask is a function ``(row, streams, advantages) -> [T]`` of 0 and 1 in the type of the log-probs, registered in
`MASKS`. A mask that has to look at the whole rollout batch is computed before training on it and handed to the
estimator as ``keep``; its function is in `BATCH_MASKS` under the same name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpt.upge.reference import sequence_log_ratio

if TYPE_CHECKING:
    from torch import Tensor

    from hpt.upge.row import Row, TokenStreams

Mask = Callable[["Row", "TokenStreams", "Tensor"], "Tensor"]


def none(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """Let every token through."""
    return streams.logprobs.new_ones(streams.logprobs.shape)


def clip(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """1_clip: drop a token once its own ratio has left the trust region in the direction its advantage pushes it.

    With r = pi / pi_old, the derivative of min(r A, clip(r, 1 - eps_low, 1 + eps_high) A) is 0 where A > 0 and
    r > 1 + eps_high, or A < 0 and r < 1 - eps_low (Schulman et al. 2017, Eq. 7; Eq. 21). The mask is *not*
    1[1 - eps <= r <= 1 + eps]: a token outside on the harmless side keeps its gradient, which leads it back. A bound of
    None is none.
    """
    return _trust_region(row, (streams.logprobs.detach() - streams.old_logprobs).exp(), advantages)


def sequence_clip(row: Row, streams: TokenStreams, advantages: Tensor) -> Tensor:
    """GSPO's mask: the rule of `clip` applied to s = (prod_t r_t)^(1/length), so a trajectory stays or goes as a whole.

    Zheng et al. 2025, Eq. 5 to 7.
    """
    return _trust_region(row, sequence_log_ratio(streams).exp(), advantages)


def _trust_region(row: Row, ratio: Tensor, advantages: Tensor) -> Tensor:
    below = (advantages < 0) & (ratio < 1 - row.bound("clip_eps_low"))
    above = (advantages > 0) & (ratio > 1 + row.bound("clip_eps_high"))
    return (~(below | above)).to(ratio.dtype)


MASKS: dict[str, Mask] = {
    "none": none,
    "clip": clip,
    "sequence_clip": sequence_clip,
    "clip_cov": clip,  # times what `clip_cov_keep` lets through
}


def clip_cov_keep(
    row: Row,
    old_logprobs: Sequence[np.ndarray],
    advantages: Sequence[np.ndarray],
    *,
    seed: int,
    step: int,
    problem_ids: Sequence[str],
    samples: Sequence[int],
) -> list[np.ndarray]:
    """Choose the tokens Clip-Cov drops: a few of those that pull the entropy down most (Cui et al. 2025b).

    With means over all tokens given, cov_t = (log pi_old,t - mean log pi_old) (A_t - mean A). Of the tokens with
    ``clip_cov_low`` < cov < ``clip_cov_high``, ``clip_cov_share`` of *all* tokens (at least one) are dropped at random.
    The chance is a hash of (seed, step, problem, sample, token) and sums are exact, so neither the order of the
    trajectories nor the number of ranks changes the choice; drawing from a generator would make both matter.

    Args:
        row: ``clip_cov_share``, ``clip_cov_low``, ``clip_cov_high``.
        old_logprobs: of every kept on-policy trajectory of the rollout batch, [length] each, from before any update.
            At that moment all ratios are 1, so no candidate is clipped already.
        advantages: [length] each.
        seed, step: of the run.
        problem_ids, samples: of each trajectory; together they name it.

    Returns:
        One [length] bool array per trajectory, False where the token is dropped.

    Example:
        >>> from hpt.upge.estimator import ROWS
        >>> logprobs = [np.array([-0.1, -4.0]), np.array([-0.1])]
        >>> advantages = [np.array([1.0, -1.0]), np.array([1.0])]
        >>> names = {"problem_ids": ["a", "b"], "samples": [0, 0]}
        >>> clip_cov_keep(ROWS["clip_cov"], logprobs, advantages, seed=0, step=0, **names)
        [array([ True, False]), array([ True])]
    """
    low, high = row.number("clip_cov_low"), row.number("clip_cov_high")
    lengths = [len(values) for values in old_logprobs]
    if sum(lengths) == 0:
        return [np.ones(length, dtype=bool) for length in lengths]
    centre_logprob, centre_advantage = _exact_mean(old_logprobs), _exact_mean(advantages)
    candidates = []
    for index, (logprob, advantage) in enumerate(zip(old_logprobs, advantages, strict=True)):
        logprob, advantage = np.asarray(logprob, np.float64), np.asarray(advantage, np.float64)
        covariance = (logprob - centre_logprob) * (advantage - centre_advantage)
        for token in np.flatnonzero((covariance > low) & (covariance < high)).tolist():
            name = (problem_ids[index], samples[index], token)
            candidates.append((_hash(seed, step, *name), name, index, token))
    count = max(1, int(row.number("clip_cov_share") * sum(lengths)))
    keep = [np.ones(length, dtype=bool) for length in lengths]
    for _, _, index, token in sorted(candidates)[:count]:
        keep[index][token] = False
    return keep


def _exact_mean(arrays: Sequence[np.ndarray]) -> float:
    # fsum rounds once, so the mean does not depend on the order; np.mean does in the last bit
    return math.fsum(value for array in arrays for value in array.tolist()) / sum(len(array) for array in arrays)


def _hash(*parts: object) -> int:
    content = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1  # 63 bits


#: Masks over the whole rollout batch; the trainer calls them once and hands the result to the estimator as ``keep``.
BATCH_MASKS: dict[str, Callable[..., list[np.ndarray]]] = {"clip_cov": clip_cov_keep}
