"""The gap between the sampler's and the trainer's log-probs: the guard against training on stale weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpt.batch import Trajectory
from hpt.errors import TrainingFault


@dataclass
class LogprobGap:
    """What was seen of the gap in one step, before its first optimiser step.

    Attributes:
        bound: ``rollout.max_logprob_gap``, nats.
        step: rollout batch number.
        sampler_version, trainer_version: updates that the sampler's and the trainer's weights have seen.
        largest: largest |sampler - trainer| log-prob so far, nats; nan before anything was seen.
        rollouts: how many rollouts were looked at.
    """

    bound: float
    step: int
    sampler_version: int
    trainer_version: int
    largest: float = float("nan")
    rollouts: int = 0

    def see(self, gap: float, rollouts: int) -> None:
        """Add what was found on some rollouts; call it before the optimiser steps.

        Raises:
            TrainingFault: the gap exceeds the bound, or is no number: training on stale weights is refused.

        Example:
            >>> seen = LogprobGap(bound=0.05, step=3, sampler_version=6, trainer_version=6)
            >>> seen.see(1e-6, 8)
            >>> seen.largest, seen.rollouts
            (1e-06, 8)
        """
        if rollouts == 0:
            return
        if not gap <= self.bound:
            message = f"step {self.step}: sampler and trainer log-probs differ by {gap:.3g} nats, allowed is "
            message += f"rollout.max_logprob_gap = {self.bound}; the sampler's weights are "
            raise TrainingFault(message + f"version {self.sampler_version}, the trainer's {self.trainer_version}")
        self.largest = gap if self.rollouts == 0 else max(self.largest, gap)
        self.rollouts += rollouts


def spread_sample(rollouts: Sequence[Trajectory], at_least: int) -> list[Trajectory]:
    """Return at least so many of the rollouts (all, where there are fewer), taken at even distances.

    Example:
        >>> spread_sample("abcdef", 3)
        ['a', 'c', 'e']
    """
    return list(rollouts[:: max(1, len(rollouts) // max(1, at_least))])
