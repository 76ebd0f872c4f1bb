"""What watches a run: the gap between the sampler's log-probs and the trainer's, and steps that went wrong.

The gap is the guard against wrong weights: at equal weights sampler and trainer agree to rounding. It is taken on
rollouts where a step has some (`check_untrained`, `Updater.update`), and on responses drawn for it before answers are
sampled that nobody trains on (`Trainer.check_sampler`). So every transfer of weights is followed by a check, whatever
the method.

A step that went wrong is skipped and counted: an update whose gradient norm is not finite, or above
``optimizer.skip_above_norm`` (`hpt.training.engine`). A run stops after many such updates in a row, or after a batch in
which the verifier settled no answer, for every reward would be wrong.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from hpt.config.run_config import RunConfig
from hpt.config.settings import OptimizerSettings
from hpt.methods.mixture import DEMONSTRATION, Assembled, QuestionBatch, Trajectory, WeightedTrajectory
from hpt.rewards.workers import Verdict
from hpt.support.errors import ConfigError, TrainingFault
from hpt.training.engine import Gap, PolicyEngine, StepOutcome, Updater, gap_of, move
from hpt.training.metrics import GradedRollouts
from hpt.training.policy import collate, forward_micro_batch
from hpt.upge.stabilization import BATCH_MASKS

Item = TypeVar("Item")

#: Bound of the mean gap, nats per token, by ``policy.dtype``. Rounding moves single improbable tokens far (5 nats are
#: allowed at scale full) and the mean little: on SmolLM2-135M by 2e-5 in float32 and 0.04 in bfloat16. An output head
#: that is one update of rate 1e-5 behind moves it there by 1.4e-3: seen in float32, and in bfloat16 lost in the
#: rounding, so that no bound could tell it. The bound of bfloat16 stands at 2.5 times the rounding and sees what has
#: grown to that; that no transfer was left out altogether is compared exactly, by versions.
MEAN_BOUNDS = {"float32": 1e-3, "bfloat16": 0.1}
#: Tokens of a response, or of a prompt, that are read for the comparison alone.
PROBE_TOKENS = 32
MOST_IN_A_ROW = 20  # updates without a finite gradient; such a run computes, but learns nothing
FEWEST_TIMEOUTS = 8  # answers that all timed out; fewer may be one question's
_SAID = 20  # messages; all are counted in the records


class LogprobGap:
    """What was seen of the gap on the rollouts of one step, before its first optimiser step.

    Its bounds are ``rollout.max_logprob_gap`` for every token of a rollout, which ``diagnostics.rollouts_over_gap``
    rollouts may exceed, and ``diagnostics.max_mean_logprob_gap``.

    Example:
        >>> from hpt.config.run_config import RunConfig
        >>> seen = LogprobGap(RunConfig(), step=3)
        >>> seen.see([(2e-6, 4e-6, 8), (1e-6, 2e-6, 4)])
        >>> seen.rollouts, seen.largest, seen.mean
        (2, 2e-06, 5e-07)
    """

    def __init__(self, config: RunConfig, step: int) -> None:
        self.bound, self.allowed = config.rollout.max_logprob_gap, config.diagnostics.rollouts_over_gap
        self.mean_bound = config.diagnostics.max_mean_logprob_gap or MEAN_BOUNDS[config.policy.dtype]
        self.step, self.seen = step, np.zeros((0, 3))

    @property
    def rollouts(self) -> int:
        return len(self.seen)

    @property
    def largest(self) -> float:
        """Largest |sampler - trainer| log-prob, nats; nan before anything was seen."""
        return float(self.seen[:, 0].max()) if len(self.seen) else float("nan")

    @property
    def mean(self) -> float:
        """Mean |sampler - trainer| log-prob over tokens, nats; nan before anything was seen."""
        return float(self.seen[:, 1].sum() / self.seen[:, 2].sum()) if len(self.seen) else float("nan")

    def see(self, gaps: Sequence[Gap]) -> None:
        """Add what `gap_of` found on some rollouts; call it before the optimiser steps.

        Raises:
            TrainingFault: a bound is exceeded, or a gap is no number: training on stale weights is refused.
        """
        if not gaps:
            return
        self.seen = np.concatenate([self.seen, gaps])
        found = (
            f"step {self.step}: sampler and trainer log-probs differ by {self.mean:.3g} nats on average and by "
            f"{self.largest:.3g} at most on {self.rollouts} rollouts; allowed is"
        )
        if not self.mean <= self.mean_bound:
            found += f" diagnostics.max_mean_logprob_gap = {self.mean_bound:g}"
            raise TrainingFault(f"{found}. Rounding does not reach it: the sampler computes with other weights, or "
                                "otherwise, than the trainer")  # fmt: skip
        over = int((~(self.seen[:, 0] <= self.bound)).sum())
        if over > self.allowed:
            found += f" rollout.max_logprob_gap = {self.bound:g}"
            raise TrainingFault(f"{found}. The same command draws the same again; to train on it, add "
                                f"--set diagnostics.rollouts_over_gap={over}, with which the run goes on")  # fmt: skip


def spread_sample(items: Sequence[Item], at_least: int) -> list[Item]:
    """Return at least so many of the items (all, where there are fewer), taken at even distances.

    Example:
        >>> spread_sample("abcdef", 3)
        ['a', 'c', 'e']
    """
    return list(items[:: max(1, len(items) // max(1, at_least))])


def check_untrained(
    batch: Sequence[QuestionBatch], assembled: Assembled, config: RunConfig, updater: Updater, gap: LogprobGap
) -> None:
    """Compare sampler and trainer on rollouts that the first update leaves out: at least as many as configured.

    Those it trains on are compared in its own forward passes, see `Updater.update`.
    """
    first = {id(item.trajectory) for item in assembled.updates[0]}
    others = [rollout for question in batch for rollout in question.rollouts if id(rollout) not in first]
    compare(updater, spread_sample(others, config.rollout.gap_check_rollouts), gap)


def with_trainer_logprobs(
    batch: list[QuestionBatch], assembled: Assembled, config: RunConfig, updater: Updater, gap: LogprobGap
) -> list[QuestionBatch]:
    """Put the trainer's log pi_old in the place of the sampler's (``rollout.old_logprobs = trainer``).

    In bfloat16 the two engines round differently, and a ratio that starts away from 1 would be their noise. A rollout
    that weighs nothing in ``assembled`` keeps the sampler's, which nothing reads (a few are compared all the same),
    unless a statistic over the whole batch or a KL term in the advantages reads all.
    """
    rollouts = [rollout for question in batch for rollout in question.rollouts]
    weighing = {id(item.trajectory) for items in assembled.updates for item in items}
    reads_all = any(row.mask in BATCH_MASKS for row in updater.rows) or config.estimator.kl_coefficient
    read = [rollout for rollout in rollouts if reads_all or id(rollout) in weighing]
    others = [rollout for rollout in rollouts if not reads_all and id(rollout) not in weighing]
    found = compare(updater, [*read, *spread_sample(others, config.rollout.gap_check_rollouts)], gap)
    return _with_rollouts(batch, lambda r: replace(r, old_logprobs=found.get(id(r), r.old_logprobs)))


def with_reference(
    batch: list[QuestionBatch], config: RunConfig, updater: Updater, reference: Any
) -> list[QuestionBatch]:
    """With a KL term in the advantage, give every rollout the frozen policy's log-probs (Appendix B.2)."""
    settings = config.estimator
    if not settings.kl_coefficient or settings.kl_term == "loss":
        return batch
    rollouts = [WeightedTrajectory(rollout, ()) for question in batch for rollout in question.rollouts]
    found = updater.logprobs(rollouts, reference)
    return _with_rollouts(batch, lambda rollout: replace(rollout, reference_logprobs=found[id(rollout)]))


def compare(updater: Updater, rollouts: Sequence[Trajectory], gap: LogprobGap) -> dict[int, np.ndarray]:
    """Return the trainer's log-probs of rollouts by ``id``, once ``gap`` has seen how far the sampler's are off.

    Raises:
        TrainingFault: they are too far apart.
    """
    found = updater.logprobs([WeightedTrajectory(rollout, ()) for rollout in rollouts])
    gap.see([gap_of(found[id(rollout)], rollout.old_logprobs) for rollout in rollouts])
    return found


@torch.no_grad()
def check_own_forward(engine: PolicyEngine, prompts: Sequence[np.ndarray], config: RunConfig) -> None:
    """Compare the log-probs this package computes with those of the model's own forward pass, before it is trained.

    Each of the prompts (token ids) is read with itself as the response, and with itself backwards; all ranks call it.

    Raises:
        ConfigError: the family does something to its logits, or to packed rows, that the package does not know.
    """
    tokens = [prompt[:PROBE_TOKENS] for prompt in prompts]
    items = [
        WeightedTrajectory(Trajectory("", i, DEMONSTRATION, read, read, np.zeros(len(read), np.float32), 0.0, -1), ())
        for i, read in enumerate(tokens)
    ]
    items += [
        replace(item, trajectory=replace(item.trajectory, response_tokens=item.trajectory.response_tokens[::-1].copy()))
        for item in items
    ]

    def logprobs(layout: str, whole_model: bool = False) -> np.ndarray:
        batch = move(collate(items, 0, layout), engine.device)
        found, _ = forward_micro_batch(engine, batch, layout, config.rollout.temperature, whole_model)
        return found.float().cpu().numpy()

    bounds = LogprobGap(config, 0)

    def mean_if_far() -> float | None:
        largest, total, count = gap_of(logprobs(engine.layout), logprobs("padded", whole_model=True))
        return None if total / count <= bounds.mean_bound and largest <= bounds.bound else total / count

    far = mean_if_far()
    if far is not None and engine.layout == "shared":  # convolutions and states run through the whole row
        engine.module.shares_prompts = False
        far = mean_if_far()
    if far is not None:
        allowed = f"a model whose own log-probs the package finds: {type(engine.module.model).__name__}'s differ by "
        remedy = "use a model of another family; `hpt.training.policy.ChunkedHead` says what is known of heads"
        raise ConfigError("policy.path", config.policy.path, f"{allowed}{far:.2g} nats on average", remedy)


def _with_rollouts(batch: list[QuestionBatch], change: Callable[[Trajectory], Trajectory]) -> list[QuestionBatch]:
    return [replace(question, rollouts=tuple(map(change, question.rollouts))) for question in batch]


def check_verdicts(step: int, graded: Sequence[GradedRollouts]) -> None:
    """Look at a batch's verdicts.

    Raises:
        TrainingFault: the verifier settled none of its answers: rewards of 0 would be its failure.
    """
    late = sum(group.count(Verdict.timed_out) for group in graded)
    settled = sum(group.count(Verdict.correct) + group.count(Verdict.wrong) for group in graded)
    if late >= FEWEST_TIMEOUTS and settled == 0:
        message = f"step {step}: the verifier settled none of {late} answers in time, so every reward would be 0"
        remedy = "raise rollout.verifier_timeout_s, or give the machine less to do"
        raise TrainingFault(f"{message}; {remedy}; the same command continues from the last checkpoint")


class FaultWatch:
    """Sees how a run's updates ended; ``quiet``: of several ranks one speaks."""

    def __init__(self, settings: OptimizerSettings, quiet: bool = False) -> None:
        self.settings, self.quiet = settings, quiet
        self.unsound = self.said = 0

    def see_update(self, step: int, outcome: StepOutcome) -> None:
        """Look at how an update ended.

        Raises:
            TrainingFault: `MOST_IN_A_ROW` updates without a finite gradient.
        """
        if outcome.applied:
            self.unsound = 0
            return
        if math.isfinite(outcome.gradient_norm):
            why = f"above optimizer.skip_above_norm = {self.settings.skip_above_norm:g}"
        else:
            self.unsound += 1
            why = "not finite: the loss or a gradient is not a number, or infinite"
        self.said += 1
        if not self.quiet and self.said <= _SAID:
            norm = f"its gradient norm {outcome.gradient_norm:g} is {why}"
            kept = "weights and moments stay as they were (optim/skipped_updates counts it)"
            print(f"step {step}: update skipped, {norm}; {kept}", file=sys.stderr, flush=True)
        if self.unsound >= MOST_IN_A_ROW:
            message = f"step {step}: {self.unsound} updates in a row had no finite gradient, and nothing is learnt"
            remedy = "look for the first one in metrics.parquet, and lower optimizer.learning_rate or correct the data"
            raise TrainingFault(f"{message}; {remedy}; the last checkpoint is kept")
