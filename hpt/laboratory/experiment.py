"""One question drawn many times, and what each row of Table 1, or a whole method, makes of the draws.

One *draw* is what training has for one question: n rollouts of the policy that sampled, and one demonstration. A row
turns a draw into a gradient g [D], by the package's code; a rollout batch is one question here, so statistics over a
batch (REINFORCE++, Clip-Cov) run over its group. `hpt.laboratory.errors` compares g with the true gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hpt.config.run_config import RunConfig
from hpt.laboratory.exact import (
    Experiment,
    Question,
    TabularPolicy,
    TrajectorySpace,
    law,
    objective_gradient,
    random_parameters,
    token_entropies,
    token_logprobs,
)
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import Component, method_named, resolved_row
from hpt.methods.mixture import NORMALIZATIONS
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


# Questions, with success rate, demonstrator and staleness as dials


def make_experiment(
    seed: int,
    *,
    success: float = 0.3,
    vocabulary: int = 4,
    length: int = 4,
    correct_share: float = 0.15,
    distance: float = 1.0,
    slips: float = 0.0,
    mu: float = 0.0,
    rollouts: int = 8,
) -> Experiment:
    """Return a random question with a policy of a given success rate, on-policy.

    The policy's law given "right" and given "wrong" is drawn from ``seed`` alone, so turning ``success`` changes P and
    nothing else. A table of logits can represent any law.

    Args:
        seed: of the question.
        success: P, the policy's probability of a right answer, inside 0..1.
        vocabulary, length: of the space; token 0 ends a trajectory.
        correct_share: share of all trajectories that are right.
        distance: of the demonstrator from the policy's right answers: 0 is pi given "right", 1 a law over the same
            answers that knows nothing of the policy, in between geometric.
        slips: probability that a demonstration is wrong (then one of the policy's mistakes).
        mu: of the Common Objective.
        rollouts: n.

    Example:
        >>> experiment = make_experiment(seed=0, success=0.25)
        >>> round(experiment.success, 12)
        0.25
    """
    for name, value in {"success": success, "correct_share": correct_share}.items():
        if not 0 < value < 1:
            raise ConfigError(name, value, "a share between 0 and 1, ends excluded", "correct the value")
    for name, value in {"distance": distance, "slips": slips}.items():
        if not 0 <= value <= 1:
            raise ConfigError(name, value, "a number from 0 to 1", "correct the value")
    space = TrajectorySpace.of(vocabulary, length)
    policy = TabularPolicy(space)
    generator = torch.Generator().manual_seed(seed)
    drawn = law(policy, random_parameters(policy, seed)).detach()
    right = torch.zeros(len(space), dtype=torch.bool)
    right[torch.randperm(len(space), generator=generator)[: max(1, round(correct_share * len(space)))]] = True
    given_right, given_wrong = (torch.where(chosen, drawn, 0) for chosen in (right, ~right))
    given_right, given_wrong = given_right / given_right.sum(), given_wrong / given_wrong.sum()
    strange = torch.where(right, torch.randn(len(space), generator=generator, dtype=torch.float64).exp() ** 1.5, 0.0)
    strange = strange / strange.sum()
    blended = torch.where(right, given_right ** (1 - distance) * strange**distance, 0.0)
    demonstrator = (1 - slips) * blended / blended.sum() + slips * given_wrong
    parameters = policy.parameters_of(success * given_right + (1 - success) * given_wrong)
    return Experiment(policy, parameters, parameters, Question(space, right.double(), demonstrator), mu, rollouts)


def made_stale(experiment: Experiment, divergence: float, seed: int = 0) -> Experiment:
    """Return the experiment with its policy moved on since it sampled, until KL(pi_old || pi) is ``divergence``, nats.

    Half of the squared move is the ascent training makes, half in a random direction: with ascent alone, ratios and
    advantages would agree on every token, and with chance alone masks would have nothing to hold back.
    """
    if divergence == 0:
        return experiment
    start = experiment.parameters
    ascent = objective_gradient(experiment.policy, start, experiment.question, experiment.mu)
    chance = random_parameters(experiment.policy, seed + 7919)
    # weigh chance by how often a prefix is visited, as an update from samples would
    through = (experiment.pi_old @ experiment.policy.space.incidence).sqrt()
    chance = chance * through if len(through) == len(chance) else chance
    direction = 0.5**0.5 * ascent / ascent.norm() + 0.5**0.5 * chance / chance.norm()

    def moved(step: float) -> tuple[Tensor, float]:
        parameters = start + step * direction
        pi, old = law(experiment.policy, parameters), experiment.pi_old
        return parameters, float((old * (old / pi).log()).sum())

    low, high = 0.0, 1.0
    while moved(high)[1] < divergence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle)[1] < divergence else (low, middle)
    return replace(experiment, parameters=moved(high)[0], old_parameters=start)


# Draws


@dataclass(frozen=True, eq=False)
class Draws:
    """A question drawn S times.

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


# Gradients of rows and methods on draws


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


def row_gradients(
    component: Component | str,
    experiment: Experiment,
    draws: Draws,
    aggregation: str | None = None,
    row: Row | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the ascent direction of a row on every draw, [S, D] = -grad loss, and sums over its tokens.

    The sums are the metrics of `hpt.upge.estimator.upge_loss` with the row's name left out.

    Args:
        component: how the row is used; a name of `USES`, or a user's ``module:ROW``.
        experiment, draws: the question, and what was drawn of it.
        aggregation: another rule than the row's, a key of `hpt.upge.aggregation.AGGREGATIONS`.
        row: the row to use in place of the one the component names.
    """
    use = USES.get(component, _component(component, "rollouts")) if isinstance(component, str) else component
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
    keep = _kept(row, experiment, draws, before, per_token)[on] if row.mask in BATCH_MASKS else None
    part = estimator.Term(
        row, per_token.flatten(0, 1)[on], scales.flatten()[owner], keep, rewards=experiment.question.reward[chosen]
    )
    result = upge_loss(streams, [part])
    table = torch.zeros(len(acting), len(space.prefixes) * space.vocabulary, dtype=torch.float64)
    table.index_put_((owner // acting.shape[1], pairs), result.weights, accumulate=True)
    sums = {name.rpartition("/")[2]: float(value) for name, value in result.metrics.items()}
    return table @ experiment.token_scores, sums


def method_gradients(config: RunConfig, experiment: Experiment, draws: Draws) -> tuple[Tensor, dict[str, float]]:
    """Return the ascent direction of a whole method on every draw, [S, D] (Eq. 11-13), and sums over its tokens.

    A method is several rows under a gate, with the coefficients and the normalisation of its configuration; L is the
    experiment's longest answer, n the draws'.

    Example:
        >>> from hpt.runs.resolve import build_config
        >>> experiment = make_experiment(seed=0, success=0.5)
        >>> method_gradients(build_config("hpt"), experiment, sample_draws(experiment, 5, seed=0))[0].shape[0]
        5
    """
    method = method_named(config.method)
    if method.stages:
        raise ConfigError("method", config.method, "a method of one stage", "name one of " + ", ".join(method.stages))
    correct = experiment.question.reward[draws.rollouts].sum(1).long().numpy()
    n = draws.rollouts.shape[1]
    alpha, beta = (torch.from_numpy(values) for values in feedback_coefficients(config.gate, correct, n))
    total, sums = torch.zeros(len(correct), len(experiment.parameters), dtype=torch.float64), {}
    for component in method.components:
        row = resolved_row(component, config)
        kind = config.estimator.normalization
        rule = row.aggregation if kind == "row" else NORMALIZATIONS[kind, component.scale]
        gradients, row_sums = row_gradients(component, experiment, draws, rule, row)
        weight = getattr(config.estimator, component.coefficient) * (alpha if component.data == "rollouts" else beta)
        total = weight[:, None] * gradients + total
        sums = {name: value + sums.get(name, 0.0) for name, value in row_sums.items()}
    return total, sums


def _advantages_and_scales(use: Component, row: Row, experiment: Experiment, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return per-token advantages [S, a, L] and scales [S, a] of the a trajectories the row acts on in every draw.

    Draws share few *patterns* of rewards and lengths, whatever the order of their rollouts; the package's functions are
    called once for each.
    """
    space, reward = experiment.policy.space, experiment.question.reward.numpy()
    pooled, on_rollouts = use.group == "rollouts_and_demonstration", use.data == "rollouts"
    demonstrations = draws.demonstrations[:, None]
    # a demonstration takes a place in the group, as in LUFFY: n - 1 rollouts beside it
    if pooled:
        compared = torch.cat([draws.rollouts[:, 1:], demonstrations], 1).numpy()
    else:
        compared = (draws.rollouts if on_rollouts else demonstrations).numpy()
    members = compared.shape[1]
    is_demonstration = (np.arange(members) == members - 1) & (pooled or not on_rollouts)
    acting = is_demonstration != on_rollouts
    critic, lengths = "gae_gamma" in row.parameters, space.lengths.numpy()
    # without a critic only rewards and lengths matter; with one, which trajectory it is
    label = np.arange(len(space)) if critic else lengths * 2 + (reward > 0)
    seen = label[compared]
    order = np.lexsort((seen, np.broadcast_to(is_demonstration, seen.shape)))  # a demonstration stays the last
    in_order = np.take_along_axis(compared, order, 1)
    _, first, pattern = np.unique(label[in_order], axis=0, return_index=True, return_inverse=True)
    tables, factors = np.zeros((len(first), members, space.length)), np.zeros((len(first), members))
    for index, group in enumerate(in_order[first]):
        values = [experiment.values[space.state[i, : lengths[i]]].numpy() for i in group] if critic else None
        per_token, factors[index] = group_terms(
            row, reward[group], lengths[group], is_demonstration, acting, experiment.rollouts, space.length,
            values, experiment.baseline,
        )  # fmt: skip
        for member, of_member in enumerate(per_token):
            tables[index, member, : len(of_member)] = of_member
    pattern, back = pattern.ravel(), np.argsort(order, axis=1)
    tables = np.take_along_axis(tables[pattern], back[:, :, None], 1)
    factors = np.take_along_axis(factors[pattern], back, 1)
    return torch.from_numpy(tables[:, acting]), torch.from_numpy(factors[:, acting])


def group_terms(
    row: Row,
    rewards: np.ndarray,
    lengths: np.ndarray,
    is_demonstration: np.ndarray,
    acting: np.ndarray,
    n: int,
    longest: int,
    values: list[np.ndarray] | None = None,
    baseline: float = 0.0,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return advantages per token and scales [B] of the trajectories a row compares, where a step is one question.

    ``acting`` [B] are those the row acts on, ``longest`` is L.
    """
    groups = RolloutGroups(
        rewards, np.zeros(len(rewards), dtype=int), is_demonstration, lengths, values=values, baseline=baseline
    )
    counts = StepCounts(
        prompts=1, rollouts_per_prompt=n, max_response_tokens=longest, sequences=int(acting.sum()),
        tokens=int(lengths[acting].sum()), pooled_tokens=int(lengths.sum()),
    )  # fmt: skip
    return advantages(row, groups), trajectory_scales(row.aggregation, lengths, counts)


def _kept(row: Row, experiment: Experiment, draws: Draws, before: Tensor, per_token: Tensor) -> Tensor:
    """Return what a mask over the batch lets through, [S n, L]."""
    space = experiment.policy.space
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
    return torch.from_numpy(keep).flatten(0, 1)
