"""Do SFT and RL pull the policy in opposite directions? The cosine between their gradients, along a run.

Section 2 says that the two "are not in conflict, and they can be optimized jointly within a single loss". At a step
that learns from rollouts and from demonstrations, the gradient of Eq. 13 is the sum of the two; this module takes it
apart. It reads the policy and changes nothing, neither weights nor accumulated gradients, so a run that measures ends
with the bits of one that does not.
"""

from dataclasses import replace

import torch

from hpt.assembly import Assembled
from hpt.trajectory import WeightedTrajectory
from hpt.update import Updater


def sft_rl_cosine(updater: Updater, assembled: Assembled) -> float | None:
    """Return the cosine between the gradients on the demonstrations and on the rollouts of a whole step (Eq. 13).

    Both are taken at the weights before the step's first update, over all its updates, with the weights they are
    trained with; the entropy bonus and a KL term belong to neither and are left out.

    Args:
        updater: on the engine that holds the policy, at ZeRO stage 0 to 2 (every rank must hold whole parameters).
        assembled: the step's weighted trajectories, the same on every rank.

    Returns:
        In -1 to 1; None where the step has no demonstration or no rollout to learn from, or one gradient is zero.

    Example:
        >>> sft_rl_cosine(trainer.updater, assembled)  # doctest: +SKIP
        0.07
    """
    items = [
        replace(item, entropy_scale=0.0, kl_scale=0.0)
        for update in assembled.updates
        for item in update
        if not all(part.is_zero for part in item.parts)
    ]
    demonstrations = [item for item in items if item.trajectory.is_demonstration]
    rollouts = [item for item in items if not item.trajectory.is_demonstration]
    if not demonstrations or not rollouts:
        return None
    sft, rl = step_gradient(updater, demonstrations), step_gradient(updater, rollouts)
    norms = float(sft.norm() * rl.norm())
    return float(sft @ rl) / norms if norms > 0 else None


def step_gradient(updater: Updater, items: list[WeightedTrajectory]) -> torch.Tensor:
    """Return the gradient of the loss of some trajectories, float64 [parameters], summed over micro-batches and ranks.

    Not through the engine's backward: that would add to the gradient the optimiser is about to use.
    """
    engine = updater.engine
    parameters = [own for own in engine.module.parameters() if own.requires_grad]
    total = torch.zeros(sum(own.numel() for own in parameters), dtype=torch.float64, device=engine.device)
    for batch in updater.micro_batches(items):
        loss = updater.loss(batch, engine.module)
        own = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        total += torch.cat([gradient.flatten().double() for gradient in own])
    if engine.ranks > 1:
        torch.distributed.all_reduce(total)
    return total
