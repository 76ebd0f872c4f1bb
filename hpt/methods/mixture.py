"""From rollouts, demonstrations and (alpha, beta) to weighted trajectories: Eq. 11-13 before any gradient.

Everything here is counted over the whole optimiser step and all ranks, from what was sampled and before anything is
dropped: leaving out a trajectory that weighs nothing never changes a denominator of a component or of the KL term. The
entropy bonus is a mean over the tokens in its scope; with ``entropy_scope = trained`` these are by definition those of
the trajectories that are not left out. Every rank holds the whole rollout batch and computes this alike, so no count
ever has to be communicated.

Two forms carry the data: `Trajectory`, a response that was drawn, and `WeightedTrajectory`, the same with everything
that weighs it in the loss. Both compare and hash by identity, so they are keys of the tables here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpt.config.run_config import RunConfig
from hpt.methods.methods import Component, Method, compares_with_rollouts, resolved_row
from hpt.upge.advantage import RolloutGroups, advantages, updated_baseline
from hpt.upge.aggregation import StepCounts, aggregation_rule, trajectory_scales
from hpt.upge.estimator import Row
from hpt.upge.stabilization import BATCH_MASKS

#: `Trajectory.sample` of a demonstration.
DEMONSTRATION = -1


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One response to one prompt: a rollout of the policy, or the demonstration.

    Attributes:
        prompt_index: position of the question in the rollout batch, 0..N-1.
        sample: 0..n-1 for rollouts, `DEMONSTRATION` for the demonstration.
        prompt_tokens: [P] int32 token ids.
        response_tokens: [len] int32 token ids, the end token included when it was produced.
        old_logprobs: [len] float32 log pi_old as the sampler reported it; zeros for a demonstration.
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
        scale: aggregation scale x coefficient x (alpha or beta).
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
    """A trajectory with its weights in the loss of one optimiser step.

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


@dataclass(frozen=True, eq=False)
class QuestionBatch:
    """What is known about one question of a rollout batch once its rollouts are graded.

    Its n ``rollouts`` are fewer when a demonstration takes a place in the group, and none for pure SFT;
    ``demonstration`` is tau*, ``alpha`` and ``beta`` are those of Eq. 9.
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


def members(questions: Sequence[QuestionBatch], component: Component) -> dict[Trajectory, float]:
    """Return the trajectories a component acts on, with the coefficient of Eq. 9 of their question (never zero)."""
    acted: dict[Trajectory, float] = {}
    for question in questions:
        if component.data == "rollouts":
            acted |= {rollout: question.alpha for rollout in question.rollouts if question.alpha > 0}
        elif question.beta > 0 and question.demonstration is not None:
            acted[question.demonstration] = question.beta
    return acted


def assemble(
    questions: Sequence[QuestionBatch], method: Method, config: RunConfig, step: int, baseline: float = 0.0
) -> Assembled:
    """Weigh every trajectory of a rollout batch and divide the batch into optimiser steps.

    ``step`` is the batch's number (Clip-Cov's hash), ``baseline`` REINFORCE's running one. Returned are, per update,
    the trajectories that weigh something, each with one `Part` per component acting on it.
    """
    rows = [resolved_row(component, config) for component in method.components]
    acting = list(zip(method.components, rows, strict=True))
    tables = [_advantages(questions, component, row, config, baseline) for component, row in acting]
    keeps = [_kept_tokens(row, table, config, step) if component.data == "rollouts" else {}
             for (component, row), table in zip(acting, tables, strict=True)]  # fmt: skip
    shares = split_into_updates(questions, config.schedule.updates_per_step)
    updates, left_out = [], 0
    for share in shares:
        parts: dict[Trajectory, list[Part]] = {}
        for index, (component, row) in enumerate(acting):
            acted = members(share, component)
            scales = _scales(component, row, list(acted), share, method, config)
            constant = getattr(config.estimator, component.coefficient)
            for (trajectory, feedback), scale in zip(acted.items(), scales, strict=True):
                factor = float(scale) * constant * feedback
                part = Part(index, tables[index][trajectory], factor, keeps[index].get(trajectory))
                parts.setdefault(trajectory, []).append(part)
        weighted = [WeightedTrajectory(trajectory, tuple(its_parts)) for trajectory, its_parts in parts.items()]
        weighted = _with_regularisers(weighted, share, method, config)
        kept = tuple(item for item in weighted if not item.is_zero)
        left_out += len(weighted) - len(kept)
        updates.append(kept)
    return Assembled(tuple(updates), tuple(tuple(share) for share in shares), left_out)


def _advantages(
    questions: Sequence[QuestionBatch], component: Component, row: Row, config: RunConfig, baseline: float
) -> dict[Trajectory, np.ndarray]:
    """Per-token advantages [len] float64 of every trajectory a component acts on.

    Statistics that run over the batch (REINFORCE++, a baseline) run over the whole rollout batch, once, before it is
    divided into updates.
    """
    with_group = compares_with_rollouts(component, config)
    acting = members(questions, component)
    compared: list[Trajectory] = []
    for question in questions:
        both = [*question.rollouts, question.demonstration]
        group = both if with_group else question.rollouts if component.data == "rollouts" else both[-1:]
        present = [trajectory for trajectory in group if trajectory is not None]
        if any(trajectory in acting for trajectory in present):
            compared.extend(present)
    per_token = advantages(row, _groups(compared, baseline)) if compared else []
    return {item: values for item, values in zip(compared, per_token, strict=True) if item in acting}


def _kept_tokens(
    row: Row, table: dict[Trajectory, np.ndarray], config: RunConfig, step: int
) -> dict[Trajectory, np.ndarray]:
    """What a mask over the whole rollout batch lets through (Clip-Cov); nothing for the other masks."""
    if row.mask not in BATCH_MASKS:
        return {}
    kept = BATCH_MASKS[row.mask](
        row,
        [trajectory.old_logprobs for trajectory in table],
        list(table.values()),
        seed=config.seed,
        step=step,
        problem_ids=[trajectory.problem_id for trajectory in table],
        samples=[trajectory.sample for trajectory in table],
    )
    return dict(zip(table, kept, strict=True))


def _scales(
    component: Component,
    row: Row,
    trajectories: Sequence[Trajectory],
    share: Sequence[QuestionBatch],
    method: Method,
    config: RunConfig,
) -> np.ndarray:
    lengths = np.array([trajectory.length for trajectory in trajectories], dtype=np.int64)
    pooled = {trajectory for other in method.components for trajectory in members(share, other)}
    counts = StepCounts(
        prompts=len(share),
        rollouts_per_prompt=config.rollout.rollouts_per_prompt,
        max_response_tokens=config.max_response_tokens,
        sequences=len(trajectories),
        tokens=int(lengths.sum()),
        ranks=config.estimator.released_ranks,
        micro_batches=config.estimator.released_micro_batches,
        pooled_tokens=sum(trajectory.length for trajectory in pooled),
    )
    rule = aggregation_rule(row, config.estimator.normalization, component.scale)
    return trajectory_scales(rule, lengths, counts)


def _with_regularisers(
    weighted: list[WeightedTrajectory], share: Sequence[QuestionBatch], method: Method, config: RunConfig
) -> list[WeightedTrajectory]:
    """Add the entropy bonus (a mean over the tokens in its scope) and the KL term (scaled like the rollouts)."""
    settings = config.estimator
    entropy, kl = dict.fromkeys(weighted, 0.0), dict.fromkeys(weighted, 0.0)
    if settings.entropy_coefficient:
        scope = [item for item in weighted if settings.entropy_scope == "all" or not item.is_zero]
        tokens = sum(item.trajectory.length for item in scope)
        entropy.update((item, settings.entropy_coefficient / tokens) for item in scope)
    if settings.kl_coefficient and settings.kl_term == "loss":
        for component in method.components:
            if component.data == "rollouts":
                rollouts = [item for item in weighted if not item.trajectory.is_demonstration]
                row, trajectories = resolved_row(component, config), [item.trajectory for item in rollouts]
                scales = _scales(component, row, trajectories, share, method, config)
                kl |= {item: settings.kl_coefficient * float(s) for item, s in zip(rollouts, scales, strict=True)}
    return [replace(item, entropy_scale=entropy[item], kl_scale=kl[item]) for item in weighted]


def baseline_after(questions: Sequence[QuestionBatch], method: Method, config: RunConfig, baseline: float) -> float:
    """Return REINFORCE's running baseline after this rollout batch: global, so that it can be checkpointed."""
    rollouts = [rollout for question in questions for rollout in question.rollouts]
    online = [component for component in method.components if component.data == "rollouts"]
    if not rollouts or not online:
        return baseline
    row = resolved_row(online[0], config)
    return updated_baseline(row, _groups(rollouts, baseline), config.estimator.baseline_decay)


def _groups(trajectories: Sequence[Trajectory], baseline: float) -> RolloutGroups:
    # k1 of every token (Appendix B.2), where the log-probs of the frozen policy were computed
    kl = [t.old_logprobs.astype(np.float64) - t.reference_logprobs
          for t in trajectories if t.reference_logprobs is not None]  # fmt: skip
    return RolloutGroups(
        rewards=np.array([trajectory.reward for trajectory in trajectories]),
        group=np.array([trajectory.prompt_index for trajectory in trajectories]),
        is_demonstration=np.array([trajectory.is_demonstration for trajectory in trajectories]),
        lengths=np.array([trajectory.length for trajectory in trajectories]),
        kl=kl if len(kl) == len(trajectories) else None,
        baseline=baseline,
    )
