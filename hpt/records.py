"""From a training step to its rows: what `hpt.metrics` defines, computed once, alike for every method."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hpt.assembly import Assembled, QuestionBatch
from hpt.engine import StepOutcome
from hpt.rewards import Verdict
from hpt.tasks.problems import Problem

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class GradedRollouts:
    """The rollouts of one question with what the sampler and the verifier said of them.

    ``lengths`` [n] tokens, ``negative_logprobs`` [n] sums of -log pi in nats, ``truncated`` [n], ``verdicts`` [n].
    """

    lengths: np.ndarray
    negative_logprobs: np.ndarray
    truncated: np.ndarray
    verdicts: tuple[Verdict, ...]

    @property
    def correct(self) -> int:
        """Number of correct rollouts, n P of Eq. 8."""
        return self.count(Verdict.correct)

    def count(self, verdict: Verdict) -> int:
        """Number of rollouts with this verdict."""
        return sum(other is verdict for other in self.verdicts)


def rollout_rows(
    step: int, problems: Sequence[Problem], graded: Sequence[GradedRollouts], questions: Sequence[QuestionBatch]
) -> list[dict[str, Any]]:
    """Return the step's rows of ``rollouts.parquet``: one per question, whatever became of it."""
    return [
        {
            "step": step,
            "problem_id": problem.id,
            "level": problem.level,
            "correct": group.correct,
            "rollouts": len(group.lengths),
            "alpha": question.alpha,
            "beta": question.beta,
            "branch": _branch(question),
            "response_tokens_mean": float(group.lengths.mean()) if len(group.lengths) else NAN,
            "entropy": _share(group.negative_logprobs.sum(), group.lengths.sum()),
            "no_answer": group.count(Verdict.no_answer),
            "timed_out": group.count(Verdict.timed_out),
        }
        for problem, group, question in zip(problems, graded, questions, strict=True)
    ]


def _branch(question: QuestionBatch) -> str:
    rollouts = question.alpha > 0 and bool(question.rollouts)
    demonstration = question.beta > 0 and question.demonstration is not None
    return {(True, True): "both", (True, False): "rollouts", (False, True): "demonstration"}.get(
        (rollouts, demonstration), "none"
    )


def rollout_metrics(graded: Sequence[GradedRollouts]) -> dict[str, float]:
    """Return the ``rollout/`` metrics: all rollouts, before the gate acts; empty without rollouts."""
    lengths = np.concatenate([group.lengths for group in graded])
    if not len(lengths):
        return {}
    n = len(graded[0].lengths)
    correct = np.array([group.correct for group in graded])
    return {
        "rollout/reward": float(correct.sum() / len(lengths)),
        "rollout/response_length_tokens": float(lengths.mean()),
        "rollout/entropy": float(np.sum([group.negative_logprobs.sum() for group in graded]) / lengths.sum()),
        "rollout/truncated_frac": float(np.concatenate([group.truncated for group in graded]).mean()),
        "rollout/tokens": float(lengths.sum()),
        "rollout/no_answer_count": float(sum(group.count(Verdict.no_answer) for group in graded)),
        "rollout/timed_out_count": float(sum(group.count(Verdict.timed_out) for group in graded)),
        "gate/all_wrong_frac": float((correct == 0).mean()),
        "gate/all_correct_frac": float((correct == n).mean()),
    }


def gate_metrics(questions: Sequence[QuestionBatch]) -> dict[str, float]:
    """Return the ``gate/`` metrics, both readings of the offline data ratio among them."""
    offline = sum(question.beta > 0 and question.demonstration is not None for question in questions)
    rows = offline + sum(len(question.rollouts) for question in questions if question.alpha > 0)
    return {
        "gate/alpha_mean": float(np.mean([question.alpha for question in questions])),
        "gate/beta_mean": float(np.mean([question.beta for question in questions])),
        "gate/offline_ratio_prompts": offline / len(questions),
        "gate/offline_ratio_rows": _share(offline, rows),
    }


def training_metrics(
    online_rows: Iterable[str], assembled: Assembled, sums: dict[str, float], outcomes: Sequence[StepOutcome]
) -> dict[str, float]:
    """Return the ``trained/``, ``loss/``, ``estimator/`` and ``optim/`` metrics of a step's updates."""
    trained = [item.trajectory for update in assembled.updates for item in update]
    rollout_tokens, demonstration_tokens = sums.get("rollout_tokens", 0.0), sums.get("demonstration_tokens", 0.0)

    def online(quantity: str) -> float:
        return sum(sums.get(f"{name}/{quantity}", 0.0) for name in online_rows)

    return {
        "trained/rollouts": float(sum(not trajectory.is_demonstration for trajectory in trained)),
        "trained/demonstrations": float(sum(trajectory.is_demonstration for trajectory in trained)),
        "trained/rollout_tokens": rollout_tokens,
        "trained/demonstration_tokens": demonstration_tokens,
        "trained/left_out": float(assembled.left_out),
        "trained/rollout_entropy": _share(sums.get("rollout_entropy", 0.0), rollout_tokens),
        "trained/demonstration_entropy": _share(sums.get("demonstration_entropy", 0.0), demonstration_tokens),
        "trained/demonstration_nll": _share(sums.get("demonstration_nll", 0.0), demonstration_tokens),
        "estimator/clip_fraction": _share(online("masked_tokens"), online("tokens")),
        "estimator/approx_kl": _share(online("approx_kl_sum"), online("tokens")),
        "loss/total": sums.get("loss", 0.0) / max(1, len(outcomes)),
        "optim/updates": float(sum(outcome.applied for outcome in outcomes)),
        "optim/skipped_updates": float(sum(not outcome.applied for outcome in outcomes)),
        "optim/gradient_norm": float(np.mean([outcome.gradient_norm for outcome in outcomes])) if outcomes else NAN,
    }


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else NAN


def rows_of(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return a table's rows as dictionaries; none for no table."""
    if frame is None:
        return []
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
