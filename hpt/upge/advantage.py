"""The advantage A-hat of Eq. 6: how much better a trajectory was than expected. numpy only, once per rollout batch.

An advantage is a function ``(row, groups) -> list of [length] float64``, registered in `ADVANTAGES`. It sees all
trajectories it may compare, those of every rank; whether a demonstration belongs to its group (G_on or G_on u G_off of
Table 1) is the method's decision, taken by what it passes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hpt.support.errors import ConfigError
from hpt.support.plugins import resolve

if TYPE_CHECKING:
    from hpt.upge.row import Row

#: Added to every standard deviation that divides, as in the released code.
STD_EPSILON = 1e-6


@dataclass(frozen=True, eq=False)
class RolloutGroups:
    """All trajectories of a rollout batch, all ranks.

    Attributes:
        rewards: [B] float64, R of Eq. 7.
        group: [B] int, index of the prompt.
        is_demonstration: [B] bool.
        lengths: [B] int, response tokens.
        kl: per trajectory [length] float64, k1 = log pi_old - log pi_frozen of each token; None = not computed.
        values: per trajectory [length] float64, V of the state before each token; PPO only.
        baseline: b of REINFORCE, owned and checkpointed by the caller; see `updated_baseline`.
    """

    rewards: np.ndarray
    group: np.ndarray
    is_demonstration: np.ndarray
    lengths: np.ndarray
    kl: list[np.ndarray] | None = None
    values: list[np.ndarray] | None = None
    baseline: float = 0.0


Advantage = Callable[["Row", RolloutGroups], list[np.ndarray]]


def one(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    """A = 1: SFT and DFT."""
    return _spread(np.ones(len(groups.rewards)), groups)


def own_reward(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    """A = R: a demonstration that is alone in its group, as in the released code of OFF/ON and Mix/ON."""
    return _spread(groups.rewards, groups)


def signed(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    """A = +1 where R > 0, else -1: REINFORCE as Table 1 prints it."""
    return _spread(np.where(groups.rewards > 0, 1.0, -1.0), groups)


def group(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    """A = (R - mean) / (std + 1e-6) over the trajectories of the same prompt (Eq. 5 and 17); ``std: none`` omits std.

    Exactly 0 for a group of one, and for a group whose rewards are all equal: dividing the rounding error of the mean
    by 1e-6 would otherwise make a signal out of nothing.
    """
    return _spread(_by_group(groups.rewards, groups.group, partial(_standardised, row)), groups)


def leave_one_out(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    """A_i = R_i - mean of the other members (RLOO, Ahmadian et al. 2024); R holds the KL penalty.

    0 for a group of one: there is nothing to compare with.
    """

    def against_others(rewards: np.ndarray) -> np.ndarray:
        others = len(rewards) - 1
        return np.zeros(1) if others == 0 else (rewards - rewards.mean()) * len(rewards) / others

    return _spread(_by_group(_penalised_rewards(row, groups), groups.group, against_others), groups)


def running_baseline(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    """A = R - b with the caller's running baseline (Ahmadian et al. 2024); R holds the KL penalty."""
    return _spread(_penalised_rewards(row, groups) - groups.baseline, groups)


def batch_normalised(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    """REINFORCE++: the return of each token, normalised by mean and std over all tokens of the rollout batch.

    return_t = R - kl_coefficient sum_{s >= t} kl_s, then (return_t - mean) / (std + 1e-6) (Hu et al. 2025a). A
    trajectory counts with its length, as in the authors' implementation. Exactly 0 when all returns are equal.
    """
    returns = [_discounted(rewards, 1.0) for rewards in _token_rewards(row, groups)]
    flat = _standardised(row, np.concatenate([np.zeros(0), *returns]))
    return np.split(flat, np.cumsum(groups.lengths)[:-1]) if returns else []


def gae(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    """PPO: A_t = sum_k (gamma lambda)^k delta_{t+k} with delta_t = r_t + gamma V_{t+1} - V_t.

    Generalised advantage estimation, Schulman et al. 2015b, Eq. 16. r_t = -kl_coefficient kl_t, plus R at the last
    token, after which V = 0. Not whitened.
    """
    if groups.values is None:
        remedy = "choose another row: no critic is trained here, so PPO can be studied but not trained with"
        raise ConfigError(f"row {row.name}: values", None, "one value per token", remedy)
    gamma, decay = row.number("gae_gamma"), row.number("gae_lambda")
    advantage_streams = []
    for rewards, values in zip(_token_rewards(row, groups), groups.values, strict=True):
        following = np.append(values[1:], 0.0)
        advantage_streams.append(_discounted(rewards + gamma * following - values, gamma * decay))
    return advantage_streams


ADVANTAGES: dict[str, Advantage] = {
    "one": one,
    "own_reward": own_reward,
    "signed": signed,
    "group": group,
    "leave_one_out": leave_one_out,
    "running_baseline": running_baseline,
    "batch_normalised": batch_normalised,
    "gae": gae,
}


def advantages(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    """Return the advantage of every token of every trajectory; statistics are taken over exactly those in ``groups``.

    Returns:
        One [length] float64 array per trajectory, constant within it unless the row works per token.

    Example:
        >>> from hpt.upge.estimator import ROWS
        >>> none = np.zeros(2, dtype=bool)
        >>> groups = RolloutGroups(np.array([1.0, 0.0]), np.array([0, 0]), none, np.array([1, 2]))
        >>> advantages(ROWS["dr_grpo"], groups)
        [array([0.5]), array([-0.5, -0.5])]
    """
    return resolve(ADVANTAGES, row.advantage, f"row {row.name}: advantage")(row, groups)


def updated_baseline(row: Row, groups: RolloutGroups, decay: float) -> float:
    """Return the running baseline after this rollout batch, b <- decay b + (1 - decay) mean R over its rollouts.

    Demonstrations do not count: b estimates what the policy earns. Call it after `advantages`, once per rollout batch
    with the trajectories of all ranks, so that b is the same everywhere; then b may be stored in the checkpoint. R
    holds the KL penalty as in `running_baseline`.

    Example:
        >>> from hpt.upge.estimator import ROWS
        >>> none = np.zeros(2, dtype=bool)
        >>> groups = RolloutGroups(np.array([1.0, 0.0]), np.array([0, 0]), none, np.array([1, 2]), baseline=1.0)
        >>> updated_baseline(ROWS["reinforce_baseline"], groups, decay=0.5)
        0.75
    """
    rewards = _penalised_rewards(row, groups)[~groups.is_demonstration]
    if len(rewards) == 0:
        return groups.baseline
    return decay * groups.baseline + (1 - decay) * math.fsum(rewards.tolist()) / len(rewards)


def _spread(values: np.ndarray, groups: RolloutGroups) -> list[np.ndarray]:
    return [np.full(length, value, dtype=np.float64) for value, length in zip(values, groups.lengths, strict=True)]


def _by_group(rewards: np.ndarray, group_of: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    result = np.zeros(len(rewards))
    for index in np.unique(group_of):
        members = group_of == index
        result[members] = function(rewards[members])
    return result


def _standardised(row: Row, values: np.ndarray) -> np.ndarray:
    if len(values) == 0 or values.max() == values.min():
        return np.zeros(len(values))
    centred, kind = values - values.mean(), row.parameter("std")
    if kind == "none":
        return centred
    return centred / (values.std(ddof=1 if kind == "sample" else 0) + STD_EPSILON)


def _kl_penalties(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    coefficient = float(row.parameters.get("kl_coefficient") or 0.0)
    if coefficient == 0.0:
        return [np.zeros(length) for length in groups.lengths]
    if groups.kl is None:
        remedy = "compute log-probs of the frozen policy, or set kl_coefficient to 0"
        raise ConfigError(f"row {row.name}: kl_coefficient", coefficient, "0 when the batch has no kl", remedy)
    return [coefficient * np.asarray(kl, np.float64) for kl in groups.kl]


def _penalised_rewards(row: Row, groups: RolloutGroups) -> np.ndarray:
    return groups.rewards - np.array([penalty.sum() for penalty in _kl_penalties(row, groups)])


def _token_rewards(row: Row, groups: RolloutGroups) -> list[np.ndarray]:
    streams = []
    for reward, penalty in zip(groups.rewards, _kl_penalties(row, groups), strict=True):
        rewards = -penalty
        rewards[-1] += reward
        streams.append(rewards)
    return streams


def _discounted(values: np.ndarray, discount: float) -> np.ndarray:
    backwards = itertools.accumulate(reversed(values.tolist()), lambda later, value: value + discount * later)
    return np.array(list(backwards)[::-1], dtype=np.float64)
