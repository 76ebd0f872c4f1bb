"""Every number a run records: name, definition and unit, and how a step's row is computed, alike for every method.

Prefixes: ``rollout/`` all rollouts before the gate acts, ``gate/``, ``trained/`` what the update saw, ``loss/``,
``estimator/``, ``optim/``, ``check/``, ``time/``. A column marked as timing is the only kind that may differ between
two runs of one configuration.
"""

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
    """One quantity: label for axes, unit, definition and formula for the glossary, and whether it is a time."""

    name: str
    label: str
    unit: str
    definition: str
    formula: str
    is_timing: bool = False


_ALL = (
    Metric("step", "Training step", "rollout batches",
           "Number of rollout batches trained on so far.",
           "s = 0, 1, ..., schedule.steps - 1"),
    Metric("rollout/reward", "Training reward", "share",
           "Mean R (Eq. 7) of all rollouts, before the gate acts.",
           "sum_qi R_qi / (Q n)"),
    Metric("rollout/response_length_tokens", "Response length", "tokens",
           "Mean tokens of all sampled responses, end token included.",
           "sum_qi T_qi / (Q n)"),
    Metric("rollout/entropy", "Entropy", "nats/token",
           "Mean of -log pi over all sampled tokens as reported by the sampler; unbiased at T = 1, top-p 1.",
           "-sum_qit log pi_s(y_qit) / sum_qi T_qi"),
    Metric("rollout/truncated_frac", "Truncated responses", "share",
           "Rollouts that reached the length ceiling.",
           "#{qi: T_qi = L, no end token} / (Q n)"),
    Metric("rollout/tokens", "Tokens sampled", "tokens",
           "Tokens of all rollouts of the step.",
           "sum_qi T_qi"),
    Metric("rollout/no_answer_count", "No answer", "rollouts",
           "Rollouts without a closed box.",
           "#{qi: no answer}"),
    Metric("rollout/timed_out_count", "Timed out", "rollouts",
           "Answers the verifier could not settle in time, twice.",
           "#{qi: timed out}"),
    Metric("gate/offline_ratio_prompts", "Offline data ratio (prompts)", "share",
           "Questions that learn from their demonstration / questions.",
           "D / Q"),
    Metric("gate/offline_ratio_rows", "Offline data ratio (rows)", "share",
           "Demonstrations / (demonstrations + rollouts) among the rows the method keeps.",
           "D / (D + n #{q: alpha_q > 0})"),
    Metric("gate/all_wrong_frac", "Never solved", "share",
           "Prompts none of whose rollouts is correct.",
           "#{q: P_q = 0} / Q"),
    Metric("gate/all_correct_frac", "Always solved", "share",
           "Prompts all of whose rollouts are correct.",
           "#{q: P_q = 1} / Q"),
    Metric("gate/alpha_mean", "alpha", "",
           "Mean weight of RL over questions (Eq. 9).",
           "sum_q alpha_q / Q"),
    Metric("gate/beta_mean", "beta", "",
           "Mean weight of SFT over questions (Eq. 9).",
           "sum_q beta_q / Q"),
    Metric("trained/rollouts", "Rollouts trained", "rollouts",
           "Rollouts with a forward and backward pass.",
           "|B_on|"),
    Metric("trained/demonstrations", "Demonstrations trained", "demonstrations",
           "Demonstrations trained on.",
           "|B_off|"),
    Metric("trained/rollout_tokens", "Rollout tokens trained", "tokens",
           "Response tokens of trained rollouts.",
           "T_on = sum of T over B_on"),
    Metric("trained/demonstration_tokens", "Demonstration tokens trained", "tokens",
           "Response tokens of them.",
           "T_off = sum of T over B_off"),
    Metric("trained/forwarded_tokens", "Tokens forwarded", "tokens",
           "Tokens that the layers see, prompts and padding included; a shared prompt counts once.",
           "sum over micro-batches of positions"),
    Metric("trained/left_out", "Left out", "trajectories",
           "Trajectories the method keeps whose weight is exactly zero; they cost no pass.",
           "#{kept trajectories of weight 0}"),
    Metric("trained/rollout_entropy", "Exact entropy, rollouts", "nats/token",
           "Exact entropy on trained rollouts.",
           "sum over T_on of H(pi) / T_on"),
    Metric("trained/demonstration_entropy", "Exact entropy, demonstrations", "nats/token",
           "On demonstrations.",
           "sum over T_off of H(pi) / T_off"),
    Metric("trained/demonstration_nll", "Demonstration loss", "nats/token",
           "Mean -log pi of demonstration tokens.",
           "-sum over T_off of log pi / T_off"),
    Metric("loss/total", "Loss", "",
           "Mean over the step's updates of the normalised loss (Eq. 13).",
           "sum_u loss_u / U"),
    Metric("estimator/clip_fraction", "Clipped tokens", "share",
           "Trained rollout tokens whose mask is 0.",
           "#{t in T_on: mask_t = 0} / T_on"),
    Metric("estimator/approx_kl", "KL to sampling policy", "nats/token",
           "Mean of r - 1 - log r on trained rollouts.",
           "sum over T_on of (r - 1 - log r) / T_on, r = pi / pi_s"),
    Metric("gradient/sft_norm", "Norm of the SFT gradient", "",
           "Of the gradient of Eq. 13 on demonstrations, before clipping, every "
           "diagnostics.gradient_cosine_every steps; 0 where the step learns from none.",
           "|g_off|"),
    Metric("gradient/rl_norm", "Norm of the RL gradient", "",
           "The same on rollouts: which of the two drives the step.",
           "|g_on|"),
    Metric("gradient/sft_rl_cosine", "Cosine of SFT and RL gradient", "",
           "Between the gradients of Eq. 13 on demonstrations and on rollouts, every "
           "diagnostics.gradient_cosine_every steps, where both are there.",
           "<g_off, g_on> / (|g_off| |g_on|)"),
    Metric("optim/learning_rate", "Learning rate", "",
           "Rate of the last update of the step.",
           "lr_U"),
    Metric("optim/gradient_norm", "Gradient norm", "",
           "Mean global norm before clipping over the step's updates.",
           "sum_u |g_u| / U"),
    Metric("optim/updates", "Updates", "updates",
           "Optimiser steps taken from this rollout batch.",
           "#{u: applied}"),
    Metric("optim/skipped_updates", "Skipped updates", "updates",
           "Updates skipped: norm not finite or above optimizer.skip_above_norm.",
           "U - #{u: applied}"),
    Metric("check/logprob_gap", "Sampler-trainer gap", "nats",
           "Largest |sampler - trainer| log-prob checked.",
           "max |log pi_s - log pi|"),
    Metric("check/mean_logprob_gap", "Mean sampler-trainer gap", "nats",
           "Mean |sampler - trainer| log-prob over the tokens checked.",
           "mean |log pi_s - log pi|"),
    Metric("check/logprob_gap_rollouts", "Rollouts checked", "rollouts",
           "Rollouts the gap was taken over.",
           "#{rollouts compared}"),
    Metric("check/policy_version", "Policy version", "updates",
           "Updates the policy has seen when the step ends.",
           "updates up to and with this step's"),
    Metric("time/rollout_s", "Sampling", "s",
           "Sampling the rollouts.",
           "clock", True),
    Metric("time/verify_s", "Verifying", "s",
           "Grading the answers.",
           "clock", True),
    Metric("time/train_s", "Training", "s",
           "Assembling, forward, backward, optimiser steps.",
           "clock, without time/measure_s", True),
    Metric("time/transfer_s", "Weight transfer", "s",
           "Moving weights to the sampler.",
           "clock", True),
    Metric("time/measure_s", "Measuring", "s",
           "Diagnostics that change nothing; in no other time.",
           "clock", True),
    Metric("time/step_s", "Step", "s",
           "The whole step; validation, checkpoint and diagnostics apart.",
           "clock, without time/measure_s", True),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}

#: What tables and figures compute from counts per problem; no column of a run.
SCORES: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("score/avg_at_k", "avg@k", "%", "Mean accuracy of k answers per problem of an evaluation set.",
               "100 sum_p c_p / (N k)"),
        Metric("score/average", "Average", "%", "Mean over sets of their scores as printed, rounded half up.",
               "sum_b score_b / #{b}"),
        Metric("score/pass_at_k", "pass@k", "%",
               "Chance that one of k answers is correct, unbiased from m >= k answers.",
               "100 sum_p (1 - C(m - c_p, k) / C(m, k)) / N"),
        Metric("score/validation", "Validation accuracy", "%",
               "Accuracy on a fixed part of an evaluation set while training.", "100 sum_p c_p / (N k)"),
        Metric("score/exclusive", "Exclusive solves", "problems",
               "Problems of a level solved by one policy and not by the other: +X of the first, -Y of the second.",
               "X = #{p: a_p > b_p}, Y = #{p: a_p < b_p}"),
        Metric("score/question_accuracy", "Accuracy of a question", "share",
               "Correct rollouts of a training question in an epoch.", "sum_i R_qi / n"),
    )
}  # fmt: skip

#: What the letters of the formulas stand for.
SYMBOLS = (
    ("q, i, t", "question of the step, its rollout, token of that"),
    ("Q, n", "questions of the step, rollouts each"),
    ("R, T, P", "reward (Eq. 7), response tokens, share of correct rollouts of a question (Eq. 8)"),
    ("L", "largest response length"),
    ("pi, pi_s", "the policy, and the policy the rollouts were sampled from"),
    ("alpha, beta", "weights of RL and SFT of a question (Eq. 9)"),
    ("D", "questions whose demonstration the method keeps (beta > 0)"),
    ("B_on, B_off", "rollouts and demonstrations with a forward and backward pass"),
    ("u, U, g", "update of the step, their number, its gradient before clipping"),
    ("p, N, m, c", "problem of a set, their number, answers drawn, correct ones"),
    ("a, b", "whether (or how often) the first and the second policy solved a problem"),
    ("#{...}", "how many"),
)


def timing_columns() -> list[str]:
    """Return the columns that may differ between two runs of one configuration."""
    return [name for name, metric in METRICS.items() if metric.is_timing]


def axis_label(name: str) -> str:
    """Return what an axis of this metric says, unit included.

    Example:
        >>> axis_label("rollout/entropy")
        'Entropy (nats/token)'
        >>> axis_label("score/pass_at_k")
        'pass@k (%)'
    """
    metric = METRICS.get(name) or SCORES[name]
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def glossary() -> str:
    """Return ``docs/metrics.md``: every quantity with its definition, formula and unit, as Markdown.

    ``python -m hpt.training.metrics`` writes it.
    """
    parts = [_ABOUT]
    for heading, own in (("What a run records", METRICS), ("What tables and figures compute", SCORES)):
        rows = [
            (f"`{metric.name}`", metric.label, metric.definition, f"`{metric.formula}`", metric.unit or "1")
            for metric in own.values()
        ]
        parts.append(f"## {heading}\n\n{_table(('name', 'label', 'definition', 'formula', 'unit'), rows)}")
    parts.append(f"## Symbols\n\n{_table(('symbol', 'stands for'), [(f'`{one}`', two) for one, two in SYMBOLS])}")
    return "\n\n".join(parts) + "\n"


_ABOUT = """# Metrics

Written by `python -m hpt.training.metrics` from the registry that the logger, axis labels and tables use
(`hpt/training/metrics.py`); never edited. A run's `metrics.parquet` has one row per step and a column per metric; a
cell is empty where a method has no such quantity. Columns whose formula is a clock are the only ones that may differ
between two runs of one configuration."""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").write_text(glossary(), encoding="utf-8")


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
        return sum(own is verdict for own in self.verdicts)


def rollout_rows(
    step: int, problems: Sequence[Problem], graded: Sequence[GradedRollouts], questions: Sequence[QuestionBatch]
) -> list[dict[str, Any]]:
    """Return the step's rows of ``rollouts.parquet``: one per question."""
    return [
        {
            "step": step,
            "problem_id": problem.id,
            "level": problem.level,
            "correct": own.correct,
            "rollouts": len(own.lengths),
            "alpha": question.alpha,
            "beta": question.beta,
            "branch": _branch(question),
            "response_tokens_mean": float(own.lengths.mean()) if len(own.lengths) else NAN,
            "entropy": _share(own.negative_logprobs.sum(), own.lengths.sum()),
            "no_answer": own.count(Verdict.no_answer),
            "timed_out": own.count(Verdict.timed_out),
        }
        for problem, own, question in zip(problems, graded, questions, strict=True)
    ]


def _branch(question: QuestionBatch) -> str:
    rollouts = question.alpha > 0 and bool(question.rollouts)
    demonstration = question.beta > 0 and question.demonstration is not None
    return {(True, True): "both", (True, False): "rollouts", (False, True): "demonstration"}.get(
        (rollouts, demonstration), "none"
    )


def rollout_metrics(graded: Sequence[GradedRollouts]) -> dict[str, float]:
    """Return the ``rollout/`` metrics: all rollouts, before the gate acts; empty without rollouts."""
    lengths = np.concatenate([own.lengths for own in graded])
    if not len(lengths):
        return {}
    n = len(graded[0].lengths)
    correct = np.array([own.correct for own in graded])
    return {
        "rollout/reward": float(correct.sum() / len(lengths)),
        "rollout/response_length_tokens": float(lengths.mean()),
        "rollout/entropy": float(np.sum([own.negative_logprobs.sum() for own in graded]) / lengths.sum()),
        "rollout/truncated_frac": float(np.concatenate([own.truncated for own in graded]).mean()),
        "rollout/tokens": float(lengths.sum()),
        "rollout/no_answer_count": float(sum(own.count(Verdict.no_answer) for own in graded)),
        "rollout/timed_out_count": float(sum(own.count(Verdict.timed_out) for own in graded)),
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
    rollout_tokens, demonstration_tokens = sums.get("rollout_tokens", 0.0), sums.get("demonstration_tokens", 0.0)

    def online(quantity: str) -> float:
        return sum(sums.get(f"{name}/{quantity}", 0.0) for name in online_parts)

    return {
        "trained/rollouts": float(sum(not trajectory.is_demonstration for trajectory in trained)),
        "trained/demonstrations": float(sum(trajectory.is_demonstration for trajectory in trained)),
        "trained/rollout_tokens": rollout_tokens,
        "trained/demonstration_tokens": demonstration_tokens,
        "trained/forwarded_tokens": sums.get("forwarded_tokens", 0.0),
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
