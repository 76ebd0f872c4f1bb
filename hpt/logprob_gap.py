"""Log-probs of rollouts that somebody else than the sampler reports, and the gap between the two reports.

The gap is the guard against training on stale weights: at equal weights sampler and trainer agree to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpt.batch import Trajectory, WeightedTrajectory
from hpt.errors import TrainingFault

if TYPE_CHECKING:
    from hpt.assembly import Assembled, QuestionBatch
    from hpt.config import RunConfig
    from hpt.update import Updater


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


def check_untrained(
    batch: Sequence["QuestionBatch"], assembled: "Assembled", config: "RunConfig", updater: "Updater", gap: LogprobGap
) -> None:
    """Compare sampler and trainer on rollouts that the first update leaves out: at least as many as configured.

    Those it trains on are compared in its own forward passes, see `Updater.update`.

    Raises:
        TrainingFault: they are too far apart.
    """
    first = {id(item.trajectory) for item in assembled.updates[0]}
    others = [rollout for question in batch for rollout in question.rollouts if id(rollout) not in first]
    _compare(updater, spread_sample(others, config.rollout.gap_check_rollouts), gap)


def with_trainer_logprobs(
    batch: list["QuestionBatch"], config: "RunConfig", updater: "Updater", gap: LogprobGap
) -> list["QuestionBatch"]:
    """With ``rollout.old_logprobs = trainer``, put the trainer's log pi_old in the place of the sampler's.

    In bfloat16 the two engines round differently, and a ratio that starts away from 1 would be their noise.

    Raises:
        TrainingFault: they are too far apart.
    """
    rollouts = [rollout for question in batch for rollout in question.rollouts]
    if config.rollout.old_logprobs == "sampler" or not rollouts:
        return batch
    found = _compare(updater, rollouts, gap)
    return _with_rollouts(batch, lambda r: replace(r, old_logprobs=found[id(r)]))


def with_reference(
    batch: list["QuestionBatch"], config: "RunConfig", updater: "Updater", reference: Any
) -> list["QuestionBatch"]:
    """With a KL term in the advantage, give every rollout the frozen policy's log-probs (Appendix B.2)."""
    settings = config.estimator
    if not settings.kl_coefficient or settings.kl_term == "loss":
        return batch
    rollouts = [WeightedTrajectory(rollout, ()) for question in batch for rollout in question.rollouts]
    found = updater.logprobs(rollouts, reference)
    return _with_rollouts(batch, lambda rollout: replace(rollout, reference_logprobs=found[id(rollout)]))


def _compare(updater: "Updater", rollouts: Sequence[Trajectory], gap: LogprobGap) -> dict[int, np.ndarray]:
    """Return the trainer's log-probs of rollouts by ``id``, once ``gap`` has seen how far the sampler's are off."""
    found = updater.logprobs([WeightedTrajectory(rollout, ()) for rollout in rollouts])
    gaps = [np.abs(found[id(rollout)] - rollout.old_logprobs).max() for rollout in rollouts]
    gap.see(float(np.max(gaps, initial=0.0)), len(gaps))  # np.max: Python's max() forgets a nan that is not first
    return found


def _with_rollouts(batch: list["QuestionBatch"], change: Callable[[Trajectory], Trajectory]) -> list["QuestionBatch"]:
    return [replace(question, rollouts=tuple(map(change, question.rollouts))) for question in batch]
