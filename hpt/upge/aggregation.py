"""The scale of a trajectory's tokens in the loss: every sum, mean and divisor of every method, in one place.

The estimator sums; whatever is a mean in a paper is a scale here. Scales come from counts over the *whole optimiser
step*, all micro-batches and all ranks, taken before anything is skipped. So the step's gradient is

    g = sum_ranks sum_micro_batches sum_{trajectories} scale_i sum_t weight_t grad(-logprob_t)

and depends on no split into micro-batches or ranks. DeepSpeed returns the *mean* over ranks of what each rank has
summed, (1/world) sum_ranks g_rank; the trainer therefore multiplies its loss by the world size, and DeepSpeed must not
divide by a number of accumulation steps. Nothing here knows either number.

A rule is a function ``(lengths, counts) -> [B] float64``, registered in `AGGREGATIONS`. The three normalisations a step
can choose over the rows' own rules have two each, one for rollouts and one for demonstrations:

    per_prompt   1/(N n L)   1/(N L)         the default below the full scale
    paper        1/(N n)     1/(N length)    Eq. 11 to 13 as printed
    released     1/(W L)     m/T_D           what the authors' scripts do; W, m constants that stand for their machine

Two of SRFT's three terms carry a detached factor per trajectory as well (Fu et al. 2025); every other row has 1. A
coefficient is a function ``(streams, rewards) -> [T]``, registered in `COEFFICIENTS`; H is the mean token entropy of
the trajectory under the current policy, in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpt.support.errors import ConfigError
from hpt.support.plugins import resolve
from hpt.upge.reference import trajectory_means

if TYPE_CHECKING:
    from torch import Tensor

    from hpt.upge.row import Row, TokenStreams


@dataclass(frozen=True)
class StepCounts:
    """Counts of one optimiser step over all ranks, before anything is skipped.

    Attributes:
        prompts: N, every prompt of the step, whatever became of it.
        rollouts_per_prompt: n.
        max_response_tokens: L, tokens.
        sequences: trajectories on which this component acts.
        tokens: their response tokens (T_D for demonstrations).
        ranks: W of `released`, the authors' 8 GPUs; not our world size.
        micro_batches: m of `released`, their micro-batches per rank that held a demonstration.
        pooled_tokens: response tokens of rollouts and demonstrations together; LUFFY divides both terms by it.
    """

    prompts: int
    rollouts_per_prompt: int
    max_response_tokens: int
    sequences: int
    tokens: int
    ranks: int = 8
    micro_batches: int = 1
    pooled_tokens: int | None = None


Aggregation = Callable[[np.ndarray, StepCounts], np.ndarray]


def token_mean(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/T: every token of the component weighs the same (DAPO, PPO, SFT)."""
    return _constant(1.0 / counts.tokens, lengths)


def pooled_token_mean(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/(T_on + T_off): the mean over rollouts and demonstrations together, Z of LUFFY (Yan et al. 2025)."""
    if not counts.pooled_tokens:
        remedy = "count the tokens of rollouts and demonstrations of the step together"
        raise ConfigError("StepCounts.pooled_tokens", counts.pooled_tokens, "a positive count", remedy)
    return _constant(1.0 / counts.pooled_tokens, lengths)


def sequence_mean(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/(sequences x length): a mean over tokens, then over trajectories (GRPO, GSPO; Eq. 16)."""
    return 1.0 / (counts.sequences * np.asarray(lengths, np.float64))


def sequence_sum(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/sequences: a trajectory's log-probability is the sum over its tokens (REINFORCE, RLOO)."""
    return _constant(1.0 / counts.sequences, lengths)


def constant_length(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/(sequences x L): like `sequence_mean` with one length for all, so that length earns no discount (Dr. GRPO)."""
    return _constant(1.0 / (counts.sequences * counts.max_response_tokens), lengths)


def per_prompt_rollouts(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/(N n L)."""
    return _constant(1.0 / (counts.prompts * counts.rollouts_per_prompt * counts.max_response_tokens), lengths)


def per_prompt_demonstration(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/(N L)."""
    return _constant(1.0 / (counts.prompts * counts.max_response_tokens), lengths)


def paper_rollouts(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/(N n): Eq. 11, a sum over tokens and a mean over rollouts, averaged over questions."""
    return _constant(1.0 / (counts.prompts * counts.rollouts_per_prompt), lengths)


def paper_demonstration(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/(N length): Eq. 12, the demonstration's own token mean, averaged over questions."""
    return 1.0 / (counts.prompts * np.asarray(lengths, np.float64))


def released_rollouts(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """1/(W L): a sum over rollouts without any count of them."""
    return _constant(1.0 / (counts.ranks * counts.max_response_tokens), lengths)


def released_demonstration(lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """m/T_D: a token mean per micro-batch, summed over the m micro-batches that held a demonstration."""
    return _constant(counts.micro_batches / counts.tokens, lengths)


def _constant(scale: float, lengths: np.ndarray) -> np.ndarray:
    return np.full(len(lengths), scale, dtype=np.float64)


AGGREGATIONS: dict[str, Aggregation] = {
    "token_mean": token_mean,
    "pooled_token_mean": pooled_token_mean,
    "sequence_mean": sequence_mean,
    "sequence_sum": sequence_sum,
    "constant_length": constant_length,
    "per_prompt_rollouts": per_prompt_rollouts,
    "per_prompt_demonstration": per_prompt_demonstration,
    "paper_rollouts": paper_rollouts,
    "paper_demonstration": paper_demonstration,
    "released_rollouts": released_rollouts,
    "released_demonstration": released_demonstration,
}


def aggregation_rule(row: Row, normalization: str, half: str) -> str:
    """Return the rule of a normalisation for one half, rollouts or demonstration; ``row`` is the row's own rule."""
    return row.aggregation if normalization == "row" else f"{normalization}_{half}"


def trajectory_scales(rule: str, lengths: np.ndarray, counts: StepCounts) -> np.ndarray:
    """Return what multiplies every token of each trajectory in the loss.

    Args:
        rule: key of `AGGREGATIONS`, or ``module:function``.
        lengths: [B] int, response tokens of the trajectories in question; any subset of the step's.
        counts: of the step.

    Returns:
        [B] float64; empty for no trajectories, whatever the counts.

    Example:
        >>> counts = StepCounts(prompts=2, rollouts_per_prompt=2, max_response_tokens=10, sequences=4, tokens=20)
        >>> trajectory_scales("sequence_mean", np.array([5, 10]), counts)
        array([0.05 , 0.025])
    """
    function = resolve(AGGREGATIONS, rule, "aggregation")
    if len(lengths) == 0:
        return np.zeros(0)  # counts of 0 would divide by zero
    return function(np.asarray(lengths), counts)


Coefficient = Callable[["TokenStreams", "Tensor | None"], "Tensor"]


def one(streams: TokenStreams, rewards: Tensor | None) -> Tensor:
    """Return 1 for every token [T]."""
    return streams.logprobs.new_ones(streams.logprobs.shape)


def half_exp_minus_entropy(streams: TokenStreams, rewards: Tensor | None) -> Tensor:
    """SRFT's SFT weight 0.5 exp(-H): an unsure policy learns less from the demonstration."""
    weight = 0.5 * (-trajectory_means(streams.entropies, streams)).exp()
    return weight[streams.trajectory].to(streams.logprobs.dtype)


def tenth_exp_entropy_if_correct(streams: TokenStreams, rewards: Tensor | None) -> Tensor:
    """SRFT's self-rollout weight: 0.1 exp(H) where R > 0, the answer is right, else 1 (its advantage is -1)."""
    if rewards is None:
        remedy = "give Term.rewards"
        raise ConfigError("rewards", None, "one reward per trajectory for srft_rollout", remedy)
    weight = 0.1 * trajectory_means(streams.entropies, streams).exp()
    weight = weight.where(rewards > 0, weight.new_ones(()))
    return weight[streams.trajectory].to(streams.logprobs.dtype)


COEFFICIENTS: dict[str, Coefficient] = {
    "one": one,
    "half_exp_minus_entropy": half_exp_minus_entropy,
    "tenth_exp_entropy_if_correct": tenth_exp_entropy_if_correct,
}
