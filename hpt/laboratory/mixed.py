"""Eq. 8 to 13 on an enumerable policy: the package's mixed loss against the printed one, with real alpha and beta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpt.config.run_config import RunConfig
from hpt.laboratory.cases import Case, Check, difference
from hpt.laboratory.exact import token_entropies, token_logprobs
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import method_named, resolved_row
from hpt.methods.mixture import DEMONSTRATION, QuestionBatch, Trajectory, assemble
from hpt.runs.resolve import build_config
from hpt.training.batches import collate
from hpt.training.engine import micro_batch_loss

#: Gates of Eq. 9: name -> settings.
FEEDBACK: dict[str, dict[str, Any]] = {
    "switch below": {"kind": "switch", "count": 4},
    "switch above": {"kind": "switch", "count": 0},
    "linear": {"kind": "linear"},
    "sigmoid": {"kind": "sigmoid", "count": 1, "slope": 3.0},
    "constant": {"kind": "constant", "alpha": 0.7, "beta": 1.9},
}
ROLLOUTS = 4


@dataclass(frozen=True, eq=False)
class Mixed:
    """Four rollouts, half of them right, a demonstration, and the gate's two numbers.

    Attributes:
        case: policy and question.
        config: with the gate, in the recipe ``paper``.
        chosen: rollouts, indices of trajectories.
        demonstration: index of one.
        alpha, beta: of Eq. 9.
    """

    case: Case
    config: RunConfig
    chosen: tuple[int, ...]
    demonstration: int
    alpha: float
    beta: float


def make_mixed(case: Case, gate: dict[str, Any]) -> Mixed:
    """Return a batch of one question under a gate; P = 1/2 (Eq. 8)."""
    right = torch.nonzero(case.question.reward > 0).flatten().tolist()
    wrong = torch.nonzero(case.question.reward == 0).flatten().tolist()
    settings: dict[str, Any] = {f"gate.{key}": value for key, value in gate.items()}
    settings |= {"rollout.rollouts_per_prompt": ROLLOUTS, "schedule.prompts_per_step": 1,
                 "schedule.updates_per_step": 1}  # fmt: skip
    config = build_config("hpt", scale="tiny", recipe="paper", settings=settings)
    chosen = (right[0], wrong[1], right[2], wrong[-1])
    (alpha,), (beta,) = feedback_coefficients(config.gate, np.array([2]), ROLLOUTS)
    return Mixed(case, config, chosen, right[1], float(alpha), float(beta))


def rollouts_of(case: Case, chosen: Sequence[int]) -> tuple[Trajectory, ...]:
    """Return trajectories of the space as rollouts of pi_old."""
    space, before = case.policy.space, token_logprobs(case.policy, case.old_parameters).detach()
    made = []
    for sample, position in enumerate(chosen):
        length = int(space.lengths[position])
        tokens = space.tokens[position, :length].numpy().astype(np.int32)
        old = before[space.pair[position, :length]].numpy()
        reward = float(case.question.reward[position])
        made.append(Trajectory("q0", 0, sample, np.zeros(1, np.int32), tokens, old, reward, 0))
    return tuple(made)


def package_gradient(mixed: Mixed) -> Tensor:
    """Return the gradient [D] of the package's loss, assembled as training assembles it."""
    case, space = mixed.case, mixed.case.policy.space
    (demonstration,) = rollouts_of(case, [mixed.demonstration])
    demonstration = replace(demonstration, sample=DEMONSTRATION, old_logprobs=0 * demonstration.old_logprobs)
    method = method_named("hpt")
    batch = QuestionBatch("q0", rollouts_of(case, mixed.chosen), demonstration, mixed.alpha, mixed.beta)
    (items,) = assemble([batch], method, mixed.config, step=0).updates
    rows = [resolved_row(component, mixed.config) for component in method.components]

    def loss(leaf: Tensor) -> Tensor:
        micro = collate(items, len(rows), dtype=torch.float64)
        now, where = token_logprobs(case.policy, leaf), []
        for item in items:
            index = space.index(tuple(item.trajectory.response_tokens.tolist()))
            where.append(space.pair[index, : item.trajectory.length])
        pairs = torch.cat(where)
        entropies = token_entropies(case.policy, leaf)[pairs // space.vocabulary]
        return micro_batch_loss(micro, now[pairs], entropies, rows)[0]

    return case.gradient(loss)


def printed_gradient(mixed: Mixed) -> Tensor:
    """Return the gradient [D] of Eq. 11 to 13 as they stand, alpha and beta as numbers."""
    case, space = mixed.case, mixed.case.policy.space

    def loss(leaf: Tensor) -> Tensor:
        now, before = token_logprobs(case.policy, leaf), token_logprobs(case.policy, case.old_parameters).detach()
        rewards = case.question.reward[list(mixed.chosen)]
        normalised = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        loss_rl = torch.zeros((), dtype=torch.float64)
        for trajectory, advantage in zip(mixed.chosen, normalised, strict=True):
            for t in range(int(space.lengths[trajectory])):
                pair = space.pair[trajectory, t]
                ratio = (now[pair] - before[pair]).exp()
                loss_rl = loss_rl - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) / ROLLOUTS
        length = int(space.lengths[mixed.demonstration])
        loss_sft = -now[space.pair[mixed.demonstration, :length]].sum() / length
        return mixed.alpha * loss_rl + mixed.beta * loss_sft

    return case.gradient(loss)


def mixed_checks(case: Case) -> Iterator[Check]:
    """Yield Eq. 13 under every gate of `FEEDBACK`, and what a gate of another pair would be off by."""
    for name, gate in FEEDBACK.items():
        mixed = make_mixed(case, gate)
        states = f"the mixed loss, {name}: alpha = {mixed.alpha:.3g}, beta = {mixed.beta:.3g}"
        yield Check("Eq. 9 to 13", states, True, difference(printed_gradient(mixed), package_gradient(mixed)))
    mixed = make_mixed(case, FEEDBACK["linear"])
    other = package_gradient(replace(mixed, alpha=1.0, beta=0.0))
    yield Check("Eq. 9 to 13", "linear gate, alpha and beta rounded to 1 and 0", False,
                difference(printed_gradient(mixed), other))  # fmt: skip
