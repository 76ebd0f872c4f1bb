"""One optimiser step: from weighted trajectories to a gradient that depends on nothing but them.

The same class trains bases, runs methods and is measured by the invariance tests: there is one path to a gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpt.batch import MicroBatch, collate, split_into_micro_batches, split_over_ranks
from hpt.batch import zero_weight_filler as filler
from hpt.engine import PolicyEngine, StepOutcome
from hpt.policy import forward_micro_batch
from hpt.trajectory import WeightedTrajectory
from hpt.upge.estimator import Component, upge_loss
from hpt.upge.regularisers import entropy_bonus, kl_to_reference
from hpt.upge.row import TokenStreams
from hpt.upge.rows import Row

#: Sums of a metric over tokens or trajectories, to be added over micro-batches and ranks before anything is divided.
Sums = dict[str, float]
#: Of one response: the largest |difference of log-probs|, their sum, and tokens.
Gap = tuple[float, float, int]


def micro_batch_loss(
    batch: MicroBatch, logprobs: Tensor, entropies: Tensor, rows: Sequence[Row], reference: Tensor | None = None
) -> tuple[Tensor, Sums]:
    """Return this micro-batch's part of the step's loss (Eq. 13) and the sums its metrics are made of.

    Args:
        batch: the micro-batch.
        logprobs, entropies: [T] of the current policy.
        rows: the row of every component of the method.
        reference: [T] log-probs of the frozen initial policy, when a KL term is on.
    """
    streams = TokenStreams(logprobs, entropies, batch.old_logprobs, batch.trajectory, batch.trajectories)
    components = [
        Component(rows[index], part.advantages, part.scales, part.keep, batch.rewards, str(index))
        for index, part in batch.parts.items()
    ]
    result = upge_loss(streams, components)
    loss = result.loss
    if batch.entropy_scales.any():  # else its gradient, as dear as that of the log-probs, is not computed
        loss = loss - entropy_bonus(entropies, batch.entropy_scales)
    if reference is not None:
        loss = loss + kl_to_reference(logprobs, reference, batch.kl_scales)
    sums = {name: float(value) for name, value in result.metrics.items()}
    with torch.no_grad():
        # a zero-weight filler of another rank's work is a "demonstration" of one token; it must not be counted
        for kind, wanted in (("rollout", False), ("demonstration", True)):
            own = [m.trajectory.is_demonstration is wanted and not m.is_zero for m in batch.members]
            chosen = torch.tensor(own, device=batch.trajectory.device)[batch.trajectory]
            sums[f"{kind}_tokens"] = float(chosen.sum())
            sums[f"{kind}_nll"] = float(-logprobs[chosen].sum())
            sums[f"{kind}_entropy"] = float(entropies[chosen].sum())
        sums["loss"] = float(loss)
    return loss, sums


class Updater:
    """Runs optimiser steps on a `PolicyEngine`.

    Args:
        engine: the policy under DeepSpeed.
        rows: the row of every component of the method at work.
        temperature: of sampling; log-probs are taken at the same temperature.
        reference: frozen initial policy for a KL term, or None.
    """

    def __init__(
        self, engine: PolicyEngine, rows: Sequence[Row], temperature: float = 1.0, reference: nn.Module | None = None
    ) -> None:
        self.engine, self.rows, self.temperature, self.reference = engine, list(rows), temperature, reference
        self.dtype = torch.float32

    def micro_batches(self, items: Sequence[WeightedTrajectory]) -> list[MicroBatch]:
        """Return this rank's micro-batches; every rank gets the same number, filled up with weightless ones."""
        settings = self.engine.settings
        shares = [
            split_into_micro_batches(share, settings.micro_batch_tokens, settings.layout)
            for share in split_over_ranks(items, self.engine.ranks)
        ]
        most = max(1, *(len(share) for share in shares)) if self.engine.ranks > 1 else len(shares[0])
        own = shares[self.engine.rank]
        own = own + [[filler()]] * (most - len(own))
        return [collate(group, len(self.rows), settings.layout, self.dtype) for group in own]

    def forward(self, batch: MicroBatch, of: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Return (logprobs [T], entropies [T]) of the policy, or of the model ``of``."""
        return forward_micro_batch(of or self.engine, batch, self.engine.settings.layout, self.temperature)

    def update(
        self,
        items: Sequence[WeightedTrajectory],
        learning_rate: float,
        see_gap: Callable[[list[Gap]], None] | None = None,
    ) -> tuple[StepOutcome | None, Sums]:
        """Take one optimiser step on the whole step's trajectories (the same list on every rank).

        Args:
            items: the trajectories.
            learning_rate: of this step.
            see_gap: called before the optimiser steps with the gaps between log-probs and old log-probs of all ranks'
                rollouts; what it raises keeps the step from being taken.

        Returns:
            What became of the step (None: nothing weighed anything, no step was taken) and this rank's metric sums.
        """
        totals: Sums = {}
        if not items:
            return None, totals
        gaps: list[Gap] = []
        for batch in self.micro_batches(items):
            sums, own = self.accumulate(batch)
            gaps += own
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
        if see_gap is not None:
            see_gap(self.engine.gather(gaps))
        return self.engine.step(learning_rate), totals

    def accumulate(self, batch: MicroBatch) -> tuple[Sums, list[Gap]]:
        """Run one forward and backward, adding to the gradient; returns metric sums, and the gaps of its rollouts."""
        batch = move(batch, self.engine.device)
        logprobs, entropies = self.forward(batch)
        loss, sums = micro_batch_loss(batch, logprobs, entropies, self.rows, self.reference_logprobs(batch))
        self.engine.backward(loss)
        rollouts = [
            (member.trajectory.old_logprobs, own)
            for member, own in zip(batch.members, by_trajectory(batch, logprobs.detach()), strict=True)
            if not member.trajectory.is_demonstration
        ]
        return sums, [gap_of(own, old) for old, own in rollouts]

    def loss(self, batch: MicroBatch, of: nn.Module) -> Tensor:
        """Return a micro-batch's part of the step's loss under the model ``of``, without any KL term."""
        batch = move(batch, self.engine.device)
        return micro_batch_loss(batch, *self.forward(batch, of), self.rows)[0]

    @torch.no_grad()
    def reference_logprobs(self, batch: MicroBatch) -> Tensor | None:
        """Return the frozen initial policy's log-probs [T], or None without a KL term."""
        return None if self.reference is None else self.forward(batch, self.reference)[0]

    @torch.no_grad()
    def logprobs(self, items: Sequence[WeightedTrajectory], of: nn.Module | None = None) -> dict[int, Any]:
        """Return log-probs [len] of each trajectory, by ``id(trajectory)``; every rank computes a share.

        Args:
            items: trajectories, the same on every rank; their weights do not matter.
            of: another model than the policy: the frozen initial one.
        """
        place = {id(item.trajectory): index for index, item in enumerate(items)}
        found: list[tuple[int, Any]] = []
        for own in self.micro_batches(items) if items else []:
            batch = move(own, self.engine.device)
            values = self.forward(batch, of)[0]
            for member, part in zip(batch.members, by_trajectory(batch, values), strict=True):
                if (index := place.get(id(member.trajectory))) is not None:  # else it only fills up another rank's work
                    found.append((index, part))
        return {id(items[index].trajectory): values for index, values in self.engine.gather(found)}


def by_trajectory(batch: MicroBatch, values: Tensor) -> list[np.ndarray]:
    """Return a micro-batch's values [T] as one array [len] per trajectory, in order."""
    ends = np.cumsum([member.trajectory.length for member in batch.members])[:-1]
    return np.split(values.float().cpu().numpy(), ends)


def move(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """Return the micro-batch on ``device``."""
    if device.type == "cpu":
        return batch
    for name, value in vars(batch).items():
        if isinstance(value, Tensor):
            setattr(batch, name, value.to(device, non_blocking=True))
    for part in batch.parts.values():
        part.advantages, part.scales = part.advantages.to(device), part.scales.to(device)
        part.keep = None if part.keep is None else part.keep.to(device)
    return batch


def sums_over_ranks(engine: PolicyEngine, own: dict[str, float]) -> dict[str, float]:
    """Return the sums of an update over all ranks, of which each trained its share; the same on every rank."""
    if engine.ranks == 1:
        return own
    gathered = engine.gather([own])
    return {name: sum(part.get(name, 0.0) for part in gathered) for part in gathered for name in part}


def gap_of(logprobs: np.ndarray, others: np.ndarray) -> Gap:
    """Return (largest, sum, tokens) of |log-prob - other log-prob| over the tokens of one response [len].

    Example:
        >>> gap_of(np.array([-1.0, -2.0]), np.array([-1.5, -2.0]))
        (0.5, 0.5, 2)
    """
    gaps = np.abs(logprobs - others)
    return float(gaps.max()), float(gaps.sum()), len(gaps)
