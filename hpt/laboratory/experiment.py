"""One question seen many times over, and what each row of Table 1 makes of it by the package's own code.

One *draw* is what training has for one question: n rollouts of the policy that sampled, and one demonstration. A row
turns a draw into a gradient g [D]; a rollout batch is one question here, so statistics over a batch (REINFORCE++,
Clip-Cov) run over its group. `hpt.laboratory.errors` compares g with the true gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hpt.laboratory.exact import token_entropies, token_logprobs
from hpt.laboratory.truth import Situation
from hpt.methods.methods import Component
from hpt.support.errors import ConfigError
from hpt.support.plugins import resolve
from hpt.upge import estimator
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts, trajectory_scales
from hpt.upge.estimator import ROWS, Row, upge_loss
from hpt.upge.row import TokenStreams
from hpt.upge.stabilization import BATCH_MASKS

#: Draws that may be listed instead of sampled.
MAX_LISTED = 200_000


def _component(row: str, data: str, pooled: bool = False) -> Component:
    group = "rollouts_and_demonstration" if pooled else "rollouts"
    return Component(row, data, "rl_coefficient", data, group)  # type: ignore[arg-type]


#: Rows that act on the demonstration; every other acts on the rollouts.
OFFLINE = ("sft", "srft_offline", "srft_sft", "luffy_offline", "offline_unshaped", "dft")
#: How each row is used: on rollouts, or on the demonstration, alone or compared with the rollouts (Table 1).
USES: dict[str, Component] = {
    name: _component(name, "rollouts") for name in ROWS
} | {
    name: _component(name, "demonstration", pooled=ROWS[name].advantage == "group")
    for name in OFFLINE
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Experiment(Situation):
    """One question, a policy, and the policy that sampled for it.

    Attributes:
        policy, parameters, old_parameters, question: of `Situation`.
        mu: of the Common Objective (Eq. 1).
        rollouts: n.
        baseline: b of REINFORCE with a running baseline: what the policy earns on all questions, not on this one.
    """

    mu: float = 0.0
    rollouts: int = 8
    baseline: float = 0.5

    @cached_property
    def true_gradient(self) -> Tensor:
        """grad J_mu, [D], by Eq. 2."""
        through = self.policy.space.incidence
        weights = self.pi * self.question.reward + self.mu * self.question.demonstrator
        return (weights @ through) @ self.token_scores

    @cached_property
    def success(self) -> float:
        """P of the policy that sampled, exactly."""
        return float(self.pi_old @ self.question.reward)

    @cached_property
    def values(self) -> Tensor:
        """The critic a perfect PPO would have: expected reward after every prefix under pi_old, [M]."""
        through = self.policy.space.incidence
        shape = (len(self.policy.space.prefixes), self.policy.space.vocabulary)
        reached = (self.pi_old @ through).view(shape).sum(1)
        return ((self.pi_old * self.question.reward) @ through).view(shape).sum(1) / reached


@dataclass(frozen=True, eq=False)
class Draws:
    """What is seen of a question, many times over.

    Attributes:
        rollouts: [S, n] int64, indices of trajectories.
        demonstrations: [S] int64.
        weights: [S], probability of each draw, summing to 1.
        listed: whether these are all draws there are; otherwise they were sampled and moments need correction.
    """

    rollouts: Tensor
    demonstrations: Tensor
    weights: Tensor
    listed: bool = False


def sample_draws(experiment: Experiment, count: int, seed: int) -> Draws:
    """Draw ``count`` times n rollouts from pi_old and a demonstration from pi_beta."""
    generator = torch.Generator().manual_seed(seed)
    rollouts = torch.multinomial(
        experiment.pi_old, count * experiment.rollouts, replacement=True, generator=generator
    ).view(count, experiment.rollouts)
    demonstrations = torch.multinomial(experiment.question.demonstrator, count, replacement=True, generator=generator)
    return Draws(rollouts, demonstrations, torch.full((count,), 1 / count, dtype=torch.float64))


def list_draws(experiment: Experiment, with_demonstrations: bool = True) -> Draws:
    """Return every possible draw with its probability; expectations over them are exact."""
    everyone = torch.nonzero(experiment.pi_old > 0).flatten()
    demonstrated = torch.nonzero(experiment.question.demonstrator > 0).flatten()
    demonstrated = demonstrated if with_demonstrations else demonstrated[:1]
    count = len(everyone) ** experiment.rollouts * len(demonstrated)
    if count > MAX_LISTED:
        raise ConfigError("draws", count, f"at most {MAX_LISTED}", "sample them, or choose a smaller space or group")
    cells = torch.cartesian_prod(*[everyone] * experiment.rollouts, demonstrated)
    rollouts, demonstrations = cells[:, :-1], cells[:, -1]
    weights = experiment.pi_old[rollouts].prod(1)
    if with_demonstrations:
        weights = weights * experiment.question.demonstrator[demonstrations]
    return Draws(rollouts, demonstrations, weights, listed=True)


def row_gradients(
    component: Component | str,
    experiment: Experiment,
    draws: Draws,
    aggregation: str | None = None,
    row: Row | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the ascent direction of a row on every draw, [S, D], and sums over its tokens.

    A rollout batch is one question here: statistics over a batch (REINFORCE++, Clip-Cov) run over its group.

    Args:
        component: how the row is used; a name of `USES`, or your own with ``module:ROW``.
        experiment: the question and the policies.
        draws: what is seen of it.
        aggregation: another rule than the row's own, a key of `hpt.upge.aggregation.AGGREGATIONS`.
        row: another row than the one the component names: with settings written over it.

    Returns:
        g [S, D] = -grad loss, and the metrics of `hpt.upge.estimator.upge_loss` with the row's name left out.
    """
    use = USES[component] if isinstance(component, str) and component in USES else component
    if isinstance(use, str):
        use = _component(use, "rollouts")
    row = resolve(ROWS, use.row, "row") if row is None else row
    row = row if aggregation is None else replace(row, aggregation=aggregation)
    space, on_rollouts = experiment.policy.space, use.data == "rollouts"
    acting = draws.rollouts if on_rollouts else draws.demonstrations[:, None]
    chosen = acting.flatten()
    on = space.mask[chosen].bool()
    pairs = space.pair[chosen][on]
    owner = torch.arange(len(chosen))[:, None].expand_as(on)[on]
    now, before = (token_logprobs(experiment.policy, theta).detach() for theta in
                   (experiment.parameters, experiment.old_parameters))  # fmt: skip
    entropies = token_entropies(experiment.policy, experiment.parameters).detach()
    old = before[pairs] if on_rollouts else torch.zeros(len(pairs), dtype=torch.float64)
    streams = TokenStreams(now[pairs], entropies[pairs // space.vocabulary], old, owner, len(chosen))
    per_token, scales = _advantages_and_scales(use, row, experiment, draws)
    rewards = experiment.question.reward[chosen]
    keep = _kept(row, experiment, draws, per_token) if row.mask in BATCH_MASKS else None
    part = estimator.Term(
        row,
        advantages=per_token.flatten(0, 1)[on],
        scales=scales.flatten()[owner],
        keep=None if keep is None else keep.flatten(0, 1)[on],
        rewards=rewards,
    )
    result = upge_loss(streams, [part])
    table = torch.zeros(len(acting), len(space.prefixes) * space.vocabulary, dtype=torch.float64)
    table.index_put_((owner // acting.shape[1], pairs), result.weights, accumulate=True)
    sums = {name.rpartition("/")[2]: float(value) for name, value in result.metrics.items()}
    return table @ experiment.token_scores, sums


def _advantages_and_scales(use: Component, row: Row, experiment: Experiment, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return per-token advantages [S, a, L] and scales [S, a] of the a trajectories the row acts on in every draw.

    The package's functions are called once per *pattern* of rewards and lengths: draws share few of them.
    """
    space, reward = experiment.policy.space, experiment.question.reward
    pooled, on_rollouts = use.group == "rollouts_and_demonstration", use.data == "rollouts"
    demonstrations = draws.demonstrations[:, None]
    # a demonstration takes a place in the group, as in LUFFY: n - 1 rollouts beside it
    compared = torch.cat([draws.rollouts[:, 1:], demonstrations], 1) if pooled else (
        draws.rollouts if on_rollouts else demonstrations
    )  # fmt: skip
    members = compared.shape[1]
    is_demonstration = np.zeros(members, dtype=bool)
    is_demonstration[members - (0 if on_rollouts and not pooled else 1) :] = True
    acting = slice(None) if not pooled else (slice(0, members - 1) if on_rollouts else slice(members - 1, members))
    critic = "gae_gamma" in row.parameters
    # without a critic only rewards and lengths matter; with one, which trajectory it is
    label = np.arange(len(space)) if critic else (space.lengths * 2 + (reward > 0)).numpy()
    keys = label[compared.numpy()]
    order = np.argsort(keys[:, : members - pooled], axis=1, kind="stable")
    if pooled:
        order = np.concatenate([order, np.full((len(order), 1), members - 1)], 1)
    ordered = np.take_along_axis(compared.numpy(), order, 1)
    _, first, pattern = np.unique(np.take_along_axis(keys, order, 1), axis=0, return_index=True, return_inverse=True)
    lengths = space.lengths.numpy()
    tables, factors = np.zeros((len(first), members, space.length)), np.zeros((len(first), members))
    for index, position in enumerate(first):
        group = ordered[position]
        groups = RolloutGroups(
            rewards=reward.numpy()[group],
            group=np.zeros(members, dtype=int),
            is_demonstration=is_demonstration,
            lengths=lengths[group],
            values=[experiment.values[space.state[i, : lengths[i]]].numpy() for i in group] if critic else None,
            baseline=experiment.baseline,
        )
        for member, values in enumerate(advantages(row, groups)):
            tables[index, member, : len(values)] = values
        tokens = int(lengths[group[acting]].sum())
        counts = StepCounts(
            prompts=1, rollouts_per_prompt=experiment.rollouts, max_response_tokens=space.length,
            sequences=len(group[acting]), tokens=tokens, pooled_tokens=int(lengths[group].sum()),
        )  # fmt: skip
        factors[index] = trajectory_scales(row.aggregation, lengths[group], counts)
    back = np.argsort(order, axis=1)
    per_token = np.take_along_axis(tables[pattern.ravel()], back[:, :, None], 1)
    scales = np.take_along_axis(factors[pattern.ravel()], back, 1)
    return torch.from_numpy(per_token[:, acting].copy()), torch.from_numpy(scales[:, acting].copy())


def _kept(row: Row, experiment: Experiment, draws: Draws, per_token: Tensor) -> Tensor:
    space = experiment.policy.space
    before = token_logprobs(experiment.policy, experiment.old_parameters).detach()
    keep = np.ones(per_token.shape)
    names = [str(sample) for sample in range(draws.rollouts.shape[1])]
    for step, group in enumerate(draws.rollouts.tolist()):
        sizes = [int(space.lengths[i]) for i in group]
        kept = BATCH_MASKS[row.mask](
            row,
            [before[space.pair[i, :size]].numpy() for i, size in zip(group, sizes, strict=True)],
            [per_token[step, member, :size].numpy() for member, size in enumerate(sizes)],
            seed=0, step=step, problem_ids=names, samples=range(len(group)),
        )  # fmt: skip
        for member, values in enumerate(kept):
            keep[step, member, : len(values)] = values
    return torch.from_numpy(keep)
