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
    TabularPolicy,
    TrajectorySpace,
    law,
    objective,
    random_parameters,
    token_entropies,
    token_logprobs,
)
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import Component, Data, method_named, resolved_row
from hpt.support.errors import ConfigError
from hpt.support.plugins import resolve
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts, aggregation_rule, trajectory_scales
from hpt.upge.estimator import ROWS, Row, Term, upge_loss
from hpt.upge.row import TokenStreams
from hpt.upge.stabilization import BATCH_MASKS

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
    """Return a random question with a policy of a given success rate P, on-policy.

    The policy's law given "right" and given "wrong" is drawn from ``seed`` alone, so turning ``success`` changes P and
    nothing else. A table of logits can represent any law.

    Args:
        correct_share: share of all trajectories that are right.
        distance: of the demonstrator from the policy's right answers: 0 is pi given "right", 1 a law over the same
            answers that knows nothing of the policy, in between geometric.
        slips: probability that a demonstration is wrong (then one of the policy's mistakes).
        mu: of the Common Objective.
    """
    for name, value in {"success": success, "correct_share": correct_share}.items():
        if not 0 < value < 1:  # at 0 and 1 logits are infinite
            raise ConfigError(name, value, "a share between 0 and 1, ends excluded", "correct the value")
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
    return Experiment(policy, parameters, parameters, right.double(), demonstrator, mu, rollouts)


def made_stale(experiment: Experiment, divergence: float, seed: int = 0) -> Experiment:
    """Return the experiment with its policy moved on since it sampled, until KL(pi_old || pi) is ``divergence``, nats.

    Half of the squared move is the ascent training makes, half in a random direction: with ascent alone, ratios and
    advantages would agree on every token, and with chance alone masks would have nothing to hold back.
    """
    if divergence == 0:
        return experiment
    start, old = experiment.parameters, experiment.pi_old
    ascent = experiment.gradient(lambda leaf: objective(experiment, leaf, experiment.mu))
    chance = random_parameters(experiment.policy, seed + 7919)
    # weigh chance by how often a prefix is visited, as an update from samples would
    through = (old @ experiment.policy.space.incidence).sqrt()
    chance = chance * through if len(through) == len(chance) else chance
    direction = 0.5**0.5 * ascent / ascent.norm() + 0.5**0.5 * chance / chance.norm()

    def moved(step: float) -> float:
        return float((old * (old / law(experiment.policy, start + step * direction)).log()).sum())

    low, high = 0.0, 1.0
    while moved(high) < divergence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) < divergence else (low, middle)
    return replace(experiment, parameters=start + high * direction, old_parameters=start)


# Draws


@dataclass(frozen=True, eq=False)
class Draws:
    """A question drawn S times: rollouts [S, n] and demonstrations [S], int64 indices of trajectories.

    ``weights`` [S] are the probabilities of the draws, summing to 1.
    """

    rollouts: Tensor
    demonstrations: Tensor
    weights: Tensor


def sample_draws(experiment: Experiment, count: int, seed: int) -> Draws:
    """Draw ``count`` times n rollouts from pi_old and a demonstration from pi_beta."""
    generator = torch.Generator().manual_seed(seed)
    rollouts = torch.multinomial(
        experiment.pi_old, count * experiment.rollouts, replacement=True, generator=generator
    ).view(count, experiment.rollouts)
    demonstrations = torch.multinomial(experiment.demonstrator, count, replacement=True, generator=generator)
    return Draws(rollouts, demonstrations, torch.full((count,), 1 / count, dtype=torch.float64))


# Gradients of rows and methods on draws

#: Rows that act on the demonstration; every other acts on the rollouts.
OFFLINE = ("sft", "srft_offline", "srft_sft", "luffy_offline", "offline_unshaped", "dft")


def _component(row: str) -> Component:
    data: Data = "demonstration" if row in OFFLINE else "rollouts"
    pooled = row in OFFLINE and ROWS[row].advantage == "group"  # compared with the rollouts (Table 1)
    return Component(row, data, "rl_coefficient", data, "rollouts_and_demonstration" if pooled else "rollouts")


#: How each row is used.
USES: dict[str, Component] = {name: _component(name) for name in ROWS}


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


def token_streams(experiment: Experiment, chosen: Tensor, sampled: bool = True) -> tuple[TokenStreams, Tensor]:
    """Return trajectories [B] as one micro-batch, and the (prefix, token) pair of each of its tokens [T].

    Demonstrations are not ``sampled``: they have no old log-probs.
    """
    space = experiment.policy.space
    pairs = space.pair[chosen][space.mask[chosen].bool()]
    owner = torch.repeat_interleave(torch.arange(len(chosen)), space.lengths[chosen])
    now, before = (token_logprobs(experiment.policy, theta).detach()[pairs]
                   for theta in (experiment.parameters, experiment.old_parameters))  # fmt: skip
    entropies = token_entropies(experiment.policy, experiment.parameters).detach()[pairs // space.vocabulary]
    return TokenStreams(now, entropies, before if sampled else torch.zeros_like(before), owner, len(chosen)), pairs


def row_gradients(
    component: Component | str, experiment: Experiment, draws: Draws, row: Row | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Return the ascent direction of a row on every draw, [S, D] = -grad loss, and sums over its tokens.

    The sums are the metrics of `hpt.upge.estimator.upge_loss` with the row's name left out. ``component`` says how the
    row is used: a name of `USES`, or a user's ``module:ROW``. ``row`` takes the place of the component's row.
    """
    use = _component(component) if isinstance(component, str) else component
    row = resolve(ROWS, use.row, "row") if row is None else row
    on_rollouts, pooled = use.data == "rollouts", use.group == "rollouts_and_demonstration"
    # in a pooled group the demonstration takes the place of a rollout, as in LUFFY
    acting = draws.rollouts[:, int(pooled) :] if on_rollouts else draws.demonstrations[:, None]
    chosen = acting.flatten()
    streams, pairs = token_streams(experiment, chosen, sampled=on_rollouts)
    per_token, scales, keep = _terms(row, experiment, draws, on_rollouts, pooled)
    result = upge_loss(streams, [Term(row, per_token, scales, keep, rewards=experiment.reward[chosen])])
    table = torch.zeros(len(acting), len(experiment.token_scores), dtype=torch.float64)
    table.index_put_((streams.trajectory // acting.shape[1], pairs), result.weights, accumulate=True)
    sums = {name.rpartition("/")[2]: float(value) for name, value in result.metrics.items()}
    return table @ experiment.token_scores, sums


def _terms(
    row: Row, experiment: Experiment, draws: Draws, on_rollouts: bool, pooled: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return advantage, scale and what a mask over the batch keeps, of every token the row acts on, [T], by draw."""
    space, reward, lengths = experiment.policy.space, experiment.reward.numpy(), experiment.policy.space.lengths.numpy()
    before = token_logprobs(experiment.policy, experiment.old_parameters).detach()
    values, old = ([array[:length].numpy() for array, length in zip(table, lengths, strict=True)]
                   for table in (experiment.values[space.state], before[space.pair]))  # fmt: skip
    advantage: list[np.ndarray] = []
    scale: list[np.ndarray] = []
    keep: list[np.ndarray] = []
    for step, (rollouts, demonstration) in enumerate(zip(draws.rollouts, draws.demonstrations, strict=True)):
        others = rollouts[1:] if pooled else rollouts if on_rollouts else rollouts[:0]
        compared = np.append(others, demonstration) if pooled or not on_rollouts else others
        is_demonstration = np.arange(len(compared)) >= len(others)
        acting = is_demonstration != on_rollouts
        per_token, scales = group_terms(
            row, reward[compared], lengths[compared], is_demonstration, acting, experiment.rollouts, space.length,
            [values[i] for i in compared], experiment.baseline,
        )  # fmt: skip
        actors, of_actors = compared[acting], [per_token[i] for i in np.flatnonzero(acting)]
        advantage += of_actors
        scale.append(np.repeat(scales[acting], lengths[actors]))
        if row.mask in BATCH_MASKS:
            keep += BATCH_MASKS[row.mask](
                row, [old[i] for i in actors], of_actors, seed=0, step=step,
                problem_ids=[str(sample) for sample in range(len(actors))], samples=range(len(actors)),
            )  # fmt: skip
    kept = torch.from_numpy(np.concatenate(keep)).double() if keep else None
    return torch.from_numpy(np.concatenate(advantage)), torch.from_numpy(np.concatenate(scale)), kept


def method_gradients(config: RunConfig, experiment: Experiment, draws: Draws) -> tuple[Tensor, dict[str, float]]:
    """Return the ascent direction of a whole method on every draw, [S, D] (Eq. 11-13), and sums over its tokens.

    A method is several rows under a gate, with the coefficients and the normalisation of its configuration; L is the
    experiment's longest answer, n the draws'.
    """
    method = method_named(config.method)
    if method.stages:
        raise ConfigError("method", config.method, "a method of one stage", "name one of " + ", ".join(method.stages))
    correct = experiment.reward[draws.rollouts].sum(1).long().numpy()
    n = draws.rollouts.shape[1]
    alpha, beta = (torch.from_numpy(values) for values in feedback_coefficients(config.gate, correct, n))
    total, sums = torch.zeros(len(correct), len(experiment.parameters), dtype=torch.float64), {}
    for component in method.components:
        row = resolved_row(component, config)
        row = replace(row, aggregation=aggregation_rule(row, config.estimator.normalization, component.scale))
        gradients, row_sums = row_gradients(component, experiment, draws, row)
        weight = getattr(config.estimator, component.coefficient) * (alpha if component.data == "rollouts" else beta)
        total = weight[:, None] * gradients + total
        sums = {name: value + sums.get(name, 0.0) for name, value in row_sums.items()}
    return total, sums
