"""Questions and policies to experiment with: success rate, demonstrator and staleness as dials, each turned alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hpt.laboratory.exact import TabularPolicy, TrajectorySpace, random_parameters
from hpt.laboratory.experiment import Experiment
from hpt.laboratory.truth import Question, law, objective_gradient
from hpt.support.errors import ConfigError


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
        distance: of the demonstrator from the policy's own right answers: 0 is pi given "right", 1 a law over the same
            answers that knows nothing of the policy, in between geometric.
        slips: probability that a demonstration is wrong (then one of the policy's own mistakes).
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


def made_stale(experiment: Experiment, divergence: float, seed: int = 0, drift: float = 0.5) -> Experiment:
    """Return the experiment with its policy moved on since it sampled, until KL(pi_old || pi) is ``divergence``.

    The move is partly the ascent training makes and partly in a random direction: with ascent alone, ratios and
    advantages would agree on every token, and with chance alone masks would have nothing to hold back.

    Args:
        experiment: whose parameters become pi_old.
        divergence: KL(pi_old || pi) of a trajectory, nats; 0 = on-policy.
        seed: of the random direction.
        drift: share of the squared step that is ascent.
    """
    if divergence == 0:
        return experiment
    start = experiment.parameters
    ascent = objective_gradient(experiment.policy, start, experiment.question, experiment.mu)
    chance = random_parameters(experiment.policy, seed + 7919)
    # weigh chance by how often a prefix is visited, as an update from samples would
    through = (experiment.pi_old @ experiment.policy.space.incidence).sqrt()
    chance = chance * through if len(through) == len(chance) else chance
    direction = drift**0.5 * ascent / ascent.norm() + (1 - drift) ** 0.5 * chance / chance.norm()

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
