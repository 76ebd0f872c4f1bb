"""Algorithm 1: Hybrid Post-Training, and with other methods in its place, SFT, GRPO, LUFFY, SRFT and their relatives.

`Trainer.train` is the algorithm for a batch of questions; its comments quote the paper's lines. Sampling, grading and
the gate are methods below it, the loss is `hpt.methods.mixture.assemble`, an optimiser step
`hpt.training.engine.Updater`. One rollout batch is a step; it holds ``prompts_per_step`` questions and is followed by
``updates_per_step`` optimiser steps.

Every rank grades a share of the step's rollouts and demonstrations (Eq. 7), and all get all verdicts: grading is
limited in time, so two ranks that graded the same answer could come to different rewards and drift apart.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from hpt.config.run_config import RunConfig
from hpt.data.problems import Problem
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import resolved_row, stage_at
from hpt.methods.mixture import DEMONSTRATION, Assembled, QuestionBatch, Trajectory, assemble, baseline_after
from hpt.rewards.workers import Verdict, Verifier
from hpt.support.errors import TrainingFault
from hpt.training.checkpoint import Records, TrainingState
from hpt.training.engine import PolicyEngine, StepOutcome, Updater, sft_rl_gradients, sums_over_ranks, warmed_up
from hpt.training.guards import (
    PROBE_TOKENS,
    FaultWatch,
    LogprobGap,
    check_untrained,
    check_verdicts,
    compare,
    spread_sample,
    with_reference,
    with_trainer_logprobs,
)
from hpt.training.metrics import (
    GradedRollouts,
    gate_metrics,
    rollout_metrics,
    rollout_rows,
    rows_of,
    training_metrics,
)
from hpt.training.ranks import Ranks
from hpt.training.sampler import Sampler, SamplingRequest, request_seed


def grade_demonstrations(
    ranks: Ranks,
    verifier: Verifier,
    questions: Sequence[Problem],
    prompts: Mapping[str, np.ndarray],
    demonstrations: Mapping[str, np.ndarray],
) -> dict[int, Trajectory]:
    """Return tau* of every question that has one, by the question's place in the step, with its reward.

    Prompts and demonstrations are token ids by problem id. The verifier remembers them, so each is graded once.
    """
    own = ranks.share([index for index, problem in enumerate(questions) if problem.id in demonstrations])
    texts = [questions[index].demonstration or "" for index in own]
    grades = verifier.grade(texts, [questions[index] for index in own]) if texts else []
    rewards = [(index, float(grade.verdict is Verdict.correct)) for index, grade in zip(own, grades, strict=True)]
    graded: dict[int, Trajectory] = {}
    for index, reward in ranks.gather(rewards):
        name = questions[index].id
        zeros = np.zeros(len(demonstrations[name]), dtype=np.float32)  # no sampler drew it
        graded[index] = Trajectory(name, index, DEMONSTRATION, prompts[name], demonstrations[name], zeros, reward, -1)
    return graded


class Trainer:
    """One run of one method.

    Args:
        config: resolved settings of the run; ``self.config`` are those of the stage at work.
        problems: training questions, each encoded in ``prompts`` and (where it has one) ``demonstrations``.
        prompts, demonstrations: token ids by problem id.
        tokenizer: of the policy.
        engine: the policy under DeepSpeed, the same in all stages.
        sampler, verifier: vLLM and math-verify.
        reference: frozen initial policy for a KL term, or None.
        state, records: where to continue.
        validate: returns the rows of the validation curves at a step, sampled from ``sampler``; None = no curves.
    """

    def __init__(
        self,
        config: RunConfig,
        problems: list[Problem],
        prompts: dict[str, np.ndarray],
        demonstrations: dict[str, np.ndarray],
        tokenizer: Any,
        engine: PolicyEngine,
        sampler: Sampler,
        verifier: Verifier,
        reference: Any = None,
        state: TrainingState | None = None,
        records: Records | None = None,
        validate: Callable[[int], list[dict[str, Any]]] | None = None,
    ) -> None:
        self.run, self.problems, self.prompts, self.demonstrations = config, problems, prompts, demonstrations
        self.engine = engine
        self.tokenizer, self.sampler, self.verifier, self.validate = tokenizer, sampler, verifier, validate
        self.reference, self.state = reference, state or TrainingState()
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: rows_of((records or {}).get(name)) for name in ("metrics", "rollouts", "validation")
        }
        self.timings: dict[str, float] = {}
        self.faults = FaultWatch(config.optimizer, quiet=engine.rank != 0)
        self.start_stage()

    def start_stage(self) -> None:
        """Take up the stage the run has come to: its method and settings and, after another, a fresh optimiser."""
        self.stage = stage_at(self.run, self.state.step)
        self.method, self.config = self.stage.method, self.stage.config
        if self.state.step == self.stage.start > 0:
            self.engine.reset_optimizer()
        rows = [resolved_row(component, self.config) for component in self.method.components]
        parts = enumerate(self.method.components)
        self.online_parts = [str(index) for index, component in parts if component.data == "rollouts"]
        kl_in_loss = self.config.estimator.kl_coefficient and self.config.estimator.kl_term == "loss"
        reference = self.reference if kl_in_loss else None
        self.updater = Updater(self.engine, rows, self.config.rollout.temperature, reference)

    def train(self, until: int, after_step: Callable[[], None] = lambda: None) -> None:
        """Run Algorithm 1 up to step ``until``, through as many stages as there are; ``after_step`` follows every step.

        Raises:
            TrainingFault: stale weights, a sampler that fails, or what `hpt.training.guards` finds hopeless.
        """
        while self.state.step < until:  # for t = 1 to T do
            if self.state.step == self.stage.end:
                self.start_stage()
            if self.state.step == 0:
                self.validate_if_due()  # the base: the curves' first point, which is no cost of the step
            step_start = time.perf_counter()
            questions = self.questions(self.state.step)
            with self.clock("time/transfer_s"):
                if self.method.samples:
                    self.move_weights()
            with self.clock("time/rollout_s"):
                rollouts = self.sample(questions)  #   tau_i ~ pi_theta(. | q), i = 1..n
            with self.clock("time/verify_s"):
                graded = self.verify(questions, rollouts)  #   v(tau_i) <- R(tau_i)
            check_verdicts(self.state.step, graded)
            self.sampler.sleep()
            with self.clock("time/train_s"):
                batch = self.weigh_questions(questions, rollouts, graded)  #   P, alpha <- f(P), beta <- g(P)
                gap = LogprobGap(self.config, self.state.step)
                batch = with_reference(batch, self.config, self.updater, self.reference)
                assembled = self.assemble(batch)  # L
                if self.config.rollout.old_logprobs == "trainer":
                    batch = with_trainer_logprobs(batch, assembled, self.config, self.updater, gap)
                    assembled = self.assemble(batch)
                measured = self.measure(assembled)
                sums, outcomes = self.update(batch, assembled, gap)  #   theta <- theta - eta grad L
                self.state.baseline = baseline_after(batch, self.method, self.config, self.state.baseline)
            self.timings["time/step_s"] = time.perf_counter() - step_start
            for name in ("time/train_s", "time/step_s"):  # a diagnostic is no cost of the method
                self.timings[name] -= self.timings["time/measure_s"]
            self.record(questions, graded, batch, assembled, sums, outcomes, gap, measured)
            self.state.step += 1
            self.validate_if_due()
            after_step()

    def questions(self, step: int) -> list[Problem]:
        """Return the step's questions: every epoch in an order of its own, its last incomplete batch left out."""
        size = self.config.schedule.prompts_per_step
        steps_per_epoch = len(self.problems) // size
        epoch, position = divmod(step, steps_per_epoch)
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.problems))
        return [self.problems[i] for i in order[position * size : (position + 1) * size]]

    def sample(self, questions: list[Problem]) -> list[list[Trajectory]]:
        """Draw the rollouts of every question: [N][n]; every rank draws a share, all get all."""
        settings = self.config.rollout
        samples = settings.rollouts_per_prompt - self.method.demonstrations_per_group if self.method.samples else 0
        if samples == 0:
            return [[] for _ in questions]
        drawn = self._draw(list(enumerate(questions)), "train", samples, settings.max_response_tokens)
        return [drawn[index] for index in range(len(questions))]

    def _draw(
        self, asked: list[tuple[int, Problem]], purpose: str, samples: int, max_tokens: int
    ) -> dict[int, list[Trajectory]]:
        """Draw responses from the trainer's present weights; by the number that each question came with.

        Raises:
            TrainingFault: the sampler has other weights.
        """
        settings, version = self.config.rollout, self.sampler.version
        if version != self.state.version:
            message = f"step {self.state.step}: the sampler's weights are version {version}, the trainer's "
            raise TrainingFault(f"{message}{self.state.version}; the same command continues from the last checkpoint")
        own = self.engine.share(asked, settings.tensor_parallel)
        requests = [
            SamplingRequest(
                self.prompts[problem.id],
                request_seed(self.config.seed, purpose, self.state.step, problem.id),
                samples,
                settings.temperature,
                settings.top_p,
                max_tokens,
            )
            for _, problem in own
        ]
        drawn = [
            (index, [
                Trajectory(problem.id, index, i, self.prompts[problem.id], s.tokens, s.logprobs, 0.0, version,
                           truncated=s.finish_reason == "length")
                for i, s in enumerate(batch)
            ])
            for (index, problem), batch in zip(own, self.sampler.sample(requests), strict=True)
        ]  # fmt: skip
        return dict(self.engine.gather_shares(drawn, settings.tensor_parallel))

    def verify(self, questions: list[Problem], rollouts: list[list[Trajectory]]) -> list[GradedRollouts]:
        """Grade every rollout [N][n] (Eq. 7); n may be 0."""
        own = self.engine.share(range(len(questions)))
        flat = [(index, rollout) for index in own for rollout in rollouts[index]]
        texts = self.tokenizer.batch_decode([t.response_tokens for _, t in flat], skip_special_tokens=True)
        grades = iter(self.verifier.grade(texts, [questions[index] for index, _ in flat]) if flat else ())
        verdicts = [(index, tuple(next(grades).verdict for _ in rollouts[index])) for index in own]
        by_question = dict(self.engine.gather(verdicts))
        return [
            GradedRollouts(
                lengths=np.array([rollout.length for rollout in group], dtype=np.int64),
                negative_logprobs=np.array([-rollout.old_logprobs.sum(dtype=np.float64) for rollout in group]),
                truncated=np.array([rollout.truncated for rollout in group], dtype=bool),
                verdicts=by_question[index],
            )
            for index, group in enumerate(rollouts)
        ]

    def weigh_questions(
        self, questions: list[Problem], rollouts: list[list[Trajectory]], graded: list[GradedRollouts]
    ) -> list[QuestionBatch]:
        """Turn verdicts into rewards and performance into (alpha, beta), Eq. 7-10."""
        members = self.config.rollout.rollouts_per_prompt - self.method.demonstrations_per_group
        correct = np.array([grades.correct for grades in graded])
        alpha, beta = feedback_coefficients(self.config.gate, correct, members)
        demonstrations = grade_demonstrations(self.engine, self.verifier, questions, self.prompts, self.demonstrations)
        batch = []
        for index, (problem, group, grades) in enumerate(zip(questions, rollouts, graded, strict=True)):
            rewarded = tuple(
                replace(rollout, reward=float(verdict is Verdict.correct))
                for rollout, verdict in zip(group, grades.verdicts, strict=True)
            )
            weights = float(alpha[index]), float(beta[index])
            batch.append(QuestionBatch(problem.id, rewarded, demonstrations.get(index), *weights))
        return batch

    def assemble(self, batch: list[QuestionBatch]) -> Assembled:
        """Weigh every trajectory (Eq. 13) and divide the batch into updates; see `hpt.methods.mixture.assemble`."""
        return assemble(batch, self.method, self.config, self.state.step, self.state.baseline)

    def measure(self, assembled: Assembled) -> dict[str, float]:
        """Return the diagnostics taken every ``diagnostics.gradient_cosine_every`` steps, which change nothing."""
        every = self.config.diagnostics.gradient_cosine_every
        with self.clock("time/measure_s"):
            due = every and self.state.step % every == 0
            return sft_rl_gradients(self.updater, assembled) if due else {}

    def update(
        self, batch: list[QuestionBatch], assembled: Assembled, gap: LogprobGap
    ) -> tuple[dict[str, float], list[StepOutcome]]:
        """Take the step's optimiser steps; returns sums over all ranks, and how each step ended.

        Raises:
            TrainingFault: the log-probs of sampler and trainer are too far apart; no optimiser step was taken.
        """
        unseen = gap.rollouts == 0
        if unseen:
            check_untrained(batch, assembled, self.config, self.updater, gap)
        totals: dict[str, float] = {}
        outcomes = []
        for number, items in enumerate(assembled.updates):
            see = gap.see if unseen and number == 0 else None  # later the policy has moved away from the sampler's
            outcome, sums = self.updater.update(items, self.learning_rate(), see)
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
            if outcome is not None:
                outcomes.append(outcome)
                self.faults.see_update(self.state.step, outcome)
                self.state.version += outcome.applied
        return sums_over_ranks(self.engine, totals), outcomes

    def learning_rate(self) -> float:
        """Return the constant rate, after a short warm-up that starts above zero; a stage has its own."""
        return warmed_up(self.config.optimizer, self.state.step - self.stage.start)

    def move_weights(self) -> None:
        """Give the sampler the trainer's weights, with their version, unless it has them."""
        if self.sampler.version != self.state.version:
            self.sampler.load_weights(self.engine.named_weights(), self.state.version)

    def check_sampler(self) -> None:
        """Load the trainer's weights into the sampler and compare log-probs on a few fresh responses.

        Used before evaluations, whose answers the trainer never sees and may be sampled differently.

        Raises:
            TrainingFault: their log-probs are too far apart.
        """
        self.move_weights()
        settings = self.config.rollout
        asked = list(enumerate(spread_sample(self.problems, settings.gap_check_rollouts)))
        drawn = self._draw(asked, "check", 1, min(PROBE_TOKENS, settings.max_response_tokens))
        rollouts = [rollout for index, _ in asked for rollout in drawn[index]]
        compare(self.updater, rollouts, LogprobGap(self.config, self.state.step))

    def validate_if_due(self) -> None:
        """Sample the validation curves' problems every ``validation.every`` steps, and at the end."""
        settings, step = self.config.validation, self.state.step
        done = any(row["step"] == step for row in self.rows["validation"])
        due = settings.every and (step % settings.every == 0 or step == self.config.schedule.steps)
        if done or not due or self.validate is None:
            return
        self.check_sampler()
        self.rows["validation"] += self.validate(step)

    def record(
        self, questions: list[Problem], graded: list[GradedRollouts], batch: list[QuestionBatch],
        assembled: Assembled, sums: dict[str, float], outcomes: list[StepOutcome], gap: LogprobGap,
        measured: dict[str, float],
    ) -> None:  # fmt: skip
        self.rows["rollouts"] += rollout_rows(self.state.step, questions, graded, batch)
        self.rows["metrics"].append(
            {
                "step": self.state.step,
                **rollout_metrics(graded),
                **gate_metrics(batch),
                **training_metrics(self.online_parts, assembled, sums, outcomes),
                **measured,
                "optim/learning_rate": self.learning_rate(),
                "check/logprob_gap": gap.largest,
                "check/mean_logprob_gap": gap.mean,
                "check/logprob_gap_rollouts": float(gap.rollouts),
                "check/policy_version": float(self.state.version),
                **self.timings,
            }
        )

    def tables(self) -> Records:
        return {name: pd.DataFrame(rows) for name, rows in self.rows.items()}

    @contextmanager
    def clock(self, name: str) -> Generator[None]:
        """Time a phase of the step, seconds."""
        start = time.perf_counter()
        yield
        self.timings[name] = time.perf_counter() - start
