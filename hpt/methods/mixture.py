"""From rollouts, demonstrations and (alpha, beta) to weighted trajectories: Eq. 11-13 before any gradient.

Everything here is counted over the whole optimiser step and all ranks, from what was sampled and before anything is
dropped: leaving out a trajectory that weighs nothing never changes a denominator of a component or of the KL term. The
entropy bonus is a mean over the tokens in its scope; with ``entropy_scope = trained`` these are by definition those of
the trajectories that are not left out. Every rank holds the whole rollout batch and computes this alike, so no count
ever has to be communicated.

What was drawn, and what is trained on: a response to a prompt, and the same with everything that weighs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpt.config.run_config import RunConfig
from hpt.methods.methods import Component, Method, compares_with_rollouts, resolved_row
from hpt.upge.advantage import RolloutGroups, advantages, updated_baseline
from hpt.upge.aggregation import StepCounts, trajectory_scales
from hpt.upge.estimator import Row
from hpt.upge.stabilization import BATCH_MASKS

#: `Trajectory.sample` of a demonstration.
DEMONSTRATION = -1


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One response to one prompt: a rollout of the policy, or the demonstration.

    Attributes:
        problem_id: id of the question.
        prompt_index: position of the question in the rollout batch, 0..N-1.
        sample: 0..n-1 for rollouts, `DEMONSTRATION` for the demonstration.
        prompt_tokens: [P] int32 token ids.
        response_tokens: [len] int32 token ids, the end token included when it was produced.
        old_logprobs: [len] float32 log pi_old as reported by whoever sampled; zeros for a demonstration.
        reward: R of Eq. 7, 0.0 or 1.0.
        policy_version: number of updates the sampling weights had seen; -1 for a demonstration.
        reference_logprobs: [len] float32 log-probs of the frozen initial policy, where a KL term in the advantage
            needs them.
        truncated: whether the sampler stopped it at the length limit; a model may have several end tokens, so the last
            token does not tell.
    """

    problem_id: str
    prompt_index: int
    sample: int
    prompt_tokens: np.ndarray
    response_tokens: np.ndarray
    old_logprobs: np.ndarray
    reward: float
    policy_version: int
    reference_logprobs: np.ndarray | None = None
    truncated: bool = False

    @property
    def is_demonstration(self) -> bool:
        """Whether this is the demonstration of its question."""
        return self.sample == DEMONSTRATION

    @property
    def length(self) -> int:
        """Number of response tokens."""
        return len(self.response_tokens)

    @property
    def total_tokens(self) -> int:
        """Prompt and response tokens together: what a forward pass costs."""
        return len(self.prompt_tokens) + len(self.response_tokens)


@dataclass(frozen=True, eq=False)
class Part:
    """What one component (row) of the method does to one trajectory.

    Attributes:
        component: index of the component in the method.
        advantages: [len] float64, per token.
        scale: aggregation scale x coefficient x (alpha or beta), a number.
        keep: [len] bool, tokens the mask lets through whatever the ratio (Clip-Cov); None = all.
    """

    component: int
    advantages: np.ndarray
    scale: float
    keep: np.ndarray | None = None

    @property
    def is_zero(self) -> bool:
        """Whether the part can have no gradient: Eq. 6's weight is a product, so one zero factor is enough."""
        return self.scale == 0.0 or not np.any(self.advantages)


@dataclass(frozen=True, eq=False)
class WeightedTrajectory:
    """A trajectory with everything that weighs it in the loss of one optimiser step.

    ``entropy_scale`` is the per-token factor of the entropy bonus, ``kl_scale`` that of the KL term; 0 = outside.
    """

    trajectory: Trajectory
    parts: tuple[Part, ...]
    entropy_scale: float = 0.0
    kl_scale: float = 0.0

    @property
    def is_zero(self) -> bool:
        """Whether a forward and backward pass would add exactly nothing to the gradient."""
        return self.entropy_scale == 0.0 and self.kl_scale == 0.0 and all(part.is_zero for part in self.parts)


#: (normalisation, which half) -> aggregation rule of `hpt.upge.aggregation`.
NORMALIZATIONS = {
    (normalization, half): f"{normalization}_{half}"
    for normalization in ("per_prompt", "paper", "released")
    for half in ("rollouts", "demonstration")
}


@dataclass(frozen=True, eq=False)
class QuestionBatch:
    """What is known about one question of a rollout batch once its rollouts are graded.

    Attributes:
        problem_id: id of the question.
        rollouts: its n rollouts (fewer when a demonstration takes a place in the group; none for pure SFT).
        demonstration: tau*, or None when the data has none.
        alpha, beta: Eq. 9.
    """

    problem_id: str
    rollouts: tuple[Trajectory, ...]
    demonstration: Trajectory | None
    alpha: float
    beta: float


@dataclass(frozen=True, eq=False)
class Assembled:
    """The rollout batch as optimiser steps: per update its weighted trajectories, the zero ones already left out.

    ``questions`` are those of each update; ``left_out`` counts trajectories that weigh nothing.
    """

    updates: tuple[tuple[WeightedTrajectory, ...], ...]
    questions: tuple[tuple[QuestionBatch, ...], ...]
    left_out: int


def split_into_updates(questions: Sequence[QuestionBatch], updates: int) -> list[list[QuestionBatch]]:
    """Deal questions to optimiser steps: the same number each, those that use a demonstration spread evenly.

    Slicing the batch in order would be wrong: where demonstrations stand together, one update would be all SFT.
    """
    with_demonstration = [question for question in questions if question.beta > 0]
    without = [question for question in questions if not question.beta > 0]
    dealt: list[list[QuestionBatch]] = [[] for _ in range(updates)]
    for position, question in enumerate([*with_demonstration, *without]):
        dealt[position % updates].append(question)
    return dealt


def members(questions: Sequence[QuestionBatch], component: Component) -> list[tuple[Trajectory, float]]:
    """Return the trajectories a component acts on, with the coefficient of Eq. 9 of their question (never zero)."""
    acted: list[tuple[Trajectory, float]] = []
    for question in questions:
        if component.data == "rollouts":
            acted.extend((rollout, question.alpha) for rollout in question.rollouts if question.alpha > 0)
        elif question.beta > 0 and question.demonstration is not None:
            acted.append((question.demonstration, question.beta))
    return acted


def component_advantages(
    questions: Sequence[QuestionBatch], component: Component, row: Row, config: RunConfig, baseline: float
) -> dict[int, np.ndarray]:
    """Return the per-token advantages [len] float64 of every trajectory a component acts on, by ``id(trajectory)``.

    Statistics that run over the batch (REINFORCE++, a baseline) run over the whole rollout batch, once, before it is
    divided into updates.
    """
    with_group = compares_with_rollouts(component, config)
    acting = {id(trajectory) for trajectory, _ in members(questions, component)}
    group: list[Trajectory] = []
    for question in questions:
        own = [*question.rollouts, question.demonstration] if with_group else []
        own = own or (question.rollouts if component.data == "rollouts" else [question.demonstration])
        present = [trajectory for trajectory in own if trajectory is not None]
        if any(id(trajectory) in acting for trajectory in present):
            group.extend(present)
    if not group:
        return {}
    groups = _groups(group, baseline)
    per_token = advantages(row, groups)
    return {id(t): a for a, t in zip(per_token, group, strict=True) if id(t) in acting}


def assemble(
    questions: Sequence[QuestionBatch], method: Method, config: RunConfig, step: int, baseline: float = 0.0
) -> Assembled:
    """Weigh every trajectory of a rollout batch and divide the batch into optimiser steps.

    Args:
        questions: N graded questions with their (alpha, beta).
        method: the method at work.
        config: normalisation, coefficients, number of updates.
        step: rollout batch number (Clip-Cov's hash).
        baseline: running baseline of REINFORCE.

    Returns:
        Per update, the trajectories that weigh something, each with one `Part` per component acting on it.
    """
    rows = [resolved_row(component, config) for component in method.components]
    tables = [
        component_advantages(questions, component, row, config, baseline)
        for component, row in zip(method.components, rows, strict=True)
    ]
    keeps = [
        _kept_tokens(questions, component, row, table, config, step)
        for component, row, table in zip(method.components, rows, tables, strict=True)
    ]
    shares = split_into_updates(questions, config.schedule.updates_per_step)
    updates, left_out = [], 0
    for share in shares:
        parts: dict[int, list[Part]] = {}
        everyone: dict[int, Trajectory] = {}
        for index, (component, row) in enumerate(zip(method.components, rows, strict=True)):
            acted = members(share, component)
            everyone.update((id(trajectory), trajectory) for trajectory, _ in acted)
            scales = _scales(component, row, [trajectory for trajectory, _ in acted], share, method, config)
            constant = getattr(config.estimator, component.coefficient)
            for (trajectory, feedback), scale in zip(acted, scales, strict=True):
                key = id(trajectory)
                part = Part(index, tables[index][key], float(scale) * constant * feedback, keeps[index].get(key))
                parts.setdefault(key, []).append(part)
        weighted = [WeightedTrajectory(trajectory, tuple(parts[key])) for key, trajectory in everyone.items()]
        weighted = _with_regularisers(weighted, share, method, config)
        kept = tuple(item for item in weighted if not item.is_zero)
        left_out += len(weighted) - len(kept)
        updates.append(kept)
    return Assembled(tuple(updates), tuple(tuple(share) for share in shares), left_out)


def _kept_tokens(
    questions: Sequence[QuestionBatch],
    component: Component,
    row: Row,
    table: dict[int, np.ndarray],
    config: RunConfig,
    step: int,
) -> dict[int, np.ndarray]:
    if row.mask not in BATCH_MASKS or component.data != "rollouts":
        return {}
    acting = [trajectory for trajectory, _ in members(questions, component)]
    kept = BATCH_MASKS[row.mask](
        row,
        [trajectory.old_logprobs for trajectory in acting],
        [table[id(trajectory)] for trajectory in acting],
        seed=config.seed,
        step=step,
        problem_ids=[trajectory.problem_id for trajectory in acting],
        samples=[trajectory.sample for trajectory in acting],
    )
    return {id(trajectory): keep for trajectory, keep in zip(acting, kept, strict=True)}


def _scales(
    component: Component,
    row: Row,
    trajectories: Sequence[Trajectory],
    share: Sequence[QuestionBatch],
    method: Method,
    config: RunConfig,
) -> np.ndarray:
    lengths = np.array([trajectory.length for trajectory in trajectories], dtype=np.int64)
    pooled = {id(t): t.length for other in method.components for t, _ in members(share, other)}
    counts = StepCounts(
        prompts=len(share),
        rollouts_per_prompt=config.rollout.rollouts_per_prompt,
        max_response_tokens=config.max_response_tokens,
        sequences=len(trajectories),
        tokens=int(lengths.sum()),
        ranks=config.estimator.released_ranks,
        micro_batches=config.estimator.released_micro_batches,
        pooled_tokens=sum(pooled.values()),
    )
    normalization = config.estimator.normalization
    rule = row.aggregation if normalization == "row" else NORMALIZATIONS[normalization, component.scale]
    return trajectory_scales(rule, lengths, counts)


def _with_regularisers(
    weighted: list[WeightedTrajectory], share: Sequence[QuestionBatch], method: Method, config: RunConfig
) -> list[WeightedTrajectory]:
    """Add the entropy bonus (a mean over the tokens in its scope) and the KL term (scaled like the rollouts)."""
    settings = config.estimator
    entropy, kl = dict.fromkeys(map(id, weighted), 0.0), dict.fromkeys(map(id, weighted), 0.0)
    if settings.entropy_coefficient:
        scope = [item for item in weighted if settings.entropy_scope == "all" or not item.is_zero]
        tokens = sum(item.trajectory.length for item in scope)
        entropy.update((id(item), settings.entropy_coefficient / tokens) for item in scope)
    if settings.kl_coefficient and settings.kl_term == "loss":
        for component in method.components:
            if component.data == "rollouts":
                rollouts = [item for item in weighted if not item.trajectory.is_demonstration]
                row, trajectories = resolved_row(component, config), [item.trajectory for item in rollouts]
                scales = _scales(component, row, trajectories, share, method, config)
                kl.update(
                    (id(item), settings.kl_coefficient * float(s)) for item, s in zip(rollouts, scales, strict=True)
                )
    return [replace(item, entropy_scale=entropy[id(item)], kl_scale=kl[id(item)]) for item in weighted]


def baseline_after(questions: Sequence[QuestionBatch], method: Method, config: RunConfig, baseline: float) -> float:
    """Return REINFORCE's running baseline after this rollout batch: global, so that it can be checkpointed."""
    rollouts = [rollout for question in questions for rollout in question.rollouts]
    online = [component for component in method.components if component.data == "rollouts"]
    if not rollouts or not online:
        return baseline
    row = resolved_row(online[0], config)
    return updated_baseline(row, _groups(rollouts, baseline), config.estimator.baseline_decay)


def _groups(trajectories: Sequence[Trajectory], baseline: float) -> RolloutGroups:
    return RolloutGroups(
        rewards=np.array([trajectory.reward for trajectory in trajectories]),
        group=np.array([trajectory.prompt_index for trajectory in trajectories]),
        is_demonstration=np.array([trajectory.is_demonstration for trajectory in trajectories]),
        lengths=np.array([trajectory.length for trajectory in trajectories]),
        kl=_kl_to_reference(trajectories),
        baseline=baseline,
    )


def _kl_to_reference(trajectories: Sequence[Trajectory]) -> list[np.ndarray] | None:
    """k1 of every token (Appendix B.2), where the log-probs of the frozen policy were computed."""
    kl = [
        t.old_logprobs.astype(np.float64) - t.reference_logprobs
        for t in trajectories
        if t.reference_logprobs is not None
    ]
    return kl if len(kl) == len(trajectories) else None
