"""Every number a run records, as ``metrics.csv`` defines it, and how a step's row is computed, alike for every method.

Prefixes: ``rollout/`` all rollouts before the gate acts, ``gate/``, ``trained/`` what the update saw, ``loss/``,
``estimator/``, ``optim/``, ``check/``, ``time/``: only these last may differ between two runs of one configuration.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hpt.data.problems import Problem
from hpt.methods.mixture import Assembled, QuestionBatch
from hpt.rewards.workers import Verdict

if TYPE_CHECKING:  # tables of metrics are read where PyTorch is not
    from hpt.training.engine import StepOutcome


@dataclass(frozen=True)
class Metric:
    """One quantity: label for axes, unit, definition and formula."""

    name: str
    label: str
    unit: str
    definition: str
    formula: str


with Path(__file__).with_name("metrics.csv").open(encoding="utf-8", newline="") as _file:
    _ALL = {row["name"]: Metric(**row) for row in csv.DictReader(_file)}
METRICS = {name: metric for name, metric in _ALL.items() if not name.startswith("score/")}
#: What tables and figures compute from counts per problem; no column of a run.
SCORES = {name: metric for name, metric in _ALL.items() if name.startswith("score/")}


def timing_columns() -> list[str]:
    """Return the columns that may differ between two runs of one configuration."""
    return [name for name in METRICS if name.startswith("time/")]


def axis_label(name: str) -> str:
    """Return what an axis of this metric says, unit included.

    Example:
        >>> axis_label("rollout/entropy")
        'Entropy (nats/token)'
        >>> axis_label("score/pass_at_k")
        'pass@k (%)'
    """
    metric = _ALL[name]
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


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
        return sum(given is verdict for given in self.verdicts)


def rollout_rows(
    step: int, problems: Sequence[Problem], graded: Sequence[GradedRollouts], questions: Sequence[QuestionBatch]
) -> list[dict[str, Any]]:
    """Return the step's rows of ``rollouts.parquet``: one per question."""
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
    if rollouts:
        return "both" if demonstration else "rollouts"
    return "demonstration" if demonstration else "none"


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
    online_parts: Iterable[str], assembled: Assembled, sums: dict[str, float], outcomes: Sequence["StepOutcome"]
) -> dict[str, float]:
    """Return the ``trained/``, ``loss/``, ``estimator/`` and ``optim/`` metrics of a step's updates.

    ``online_parts`` are the names in ``sums`` of the method's components that act on rollouts.
    """
    trained = [item.trajectory for update in assembled.updates for item in update]
    of = defaultdict(float, sums)  # no sums of what the step did not train on

    def online(quantity: str) -> float:
        return sum(of[f"{name}/{quantity}"] for name in online_parts)

    return {
        "trained/rollouts": float(sum(not trajectory.is_demonstration for trajectory in trained)),
        "trained/demonstrations": float(sum(trajectory.is_demonstration for trajectory in trained)),
        "trained/rollout_tokens": of["rollout_tokens"],
        "trained/demonstration_tokens": of["demonstration_tokens"],
        "trained/forwarded_tokens": of["forwarded_tokens"],
        "trained/left_out": float(assembled.left_out),
        "trained/rollout_entropy": _share(of["rollout_entropy"], of["rollout_tokens"]),
        "trained/demonstration_entropy": _share(of["demonstration_entropy"], of["demonstration_tokens"]),
        "trained/demonstration_nll": _share(of["demonstration_nll"], of["demonstration_tokens"]),
        "estimator/clip_fraction": _share(online("masked_tokens"), online("tokens")),
        "estimator/approx_kl": _share(online("approx_kl_sum"), online("tokens")),
        "loss/total": of["loss"] / max(1, len(outcomes)),
        "optim/updates": float(sum(outcome.applied for outcome in outcomes)),
        "optim/skipped_updates": float(sum(not outcome.applied for outcome in outcomes)),
        "optim/gradient_norm": float(np.mean([outcome.gradient_norm for outcome in outcomes])) if outcomes else NAN,
    }


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else NAN


def rows_of(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return a table's rows as dictionaries; none for no table."""
    return [] if frame is None else frame.to_dict("records")  # pyright: ignore[reportReturnType]
