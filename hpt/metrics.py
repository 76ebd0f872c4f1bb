"""Every number a run records, once: name, definition, unit; the logger, axis labels, tables and glossary read this.

Prefixes: ``rollout/`` all rollouts before the gate acts, ``gate/``, ``trained/`` what the update saw, ``loss/``,
``estimator/``, ``optim/``, ``check/``, ``time/``. A column marked as timing is the only kind that may differ between
two runs of one configuration.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One recorded quantity: label for axes, definition for the glossary, unit, and whether it is a time."""

    name: str
    label: str
    unit: str
    definition: str
    is_timing: bool = False


_ALL = (
    Metric("step", "Training step", "rollout batches", "Number of rollout batches trained on so far."),
    Metric("rollout/reward", "Training reward", "share", "Mean R (Eq. 7) of all rollouts, before the gate acts."),
    Metric("rollout/response_length_tokens", "Response length", "tokens",
           "Mean tokens of all sampled responses, end token included."),
    Metric("rollout/entropy", "Entropy", "nats/token",
           "Mean of -log pi over all sampled tokens as reported by the sampler; unbiased at T = 1, top-p 1."),
    Metric("rollout/truncated_frac", "Truncated responses", "share", "Rollouts that reached the length ceiling."),
    Metric("rollout/tokens", "Tokens sampled", "tokens", "Tokens of all rollouts of the step."),
    Metric("rollout/no_answer_count", "No answer", "rollouts", "Rollouts without a closed box."),
    Metric("rollout/timed_out_count", "Timed out", "rollouts", "Answers the verifier could not settle in time, twice."),
    Metric("gate/offline_ratio_prompts", "Offline data ratio (prompts)", "share",
           "Prompts that learn from their demonstration / prompts."),
    Metric("gate/offline_ratio_rows", "Offline data ratio (rows)", "share",
           "Demonstrations / (demonstrations + rollouts) among the rows the method keeps."),
    Metric("gate/all_wrong_frac", "Never solved", "share", "Prompts none of whose rollouts is correct."),
    Metric("gate/all_correct_frac", "Always solved", "share", "Prompts all of whose rollouts are correct."),
    Metric("gate/alpha_mean", "alpha", "", "Mean weight of RL over prompts (Eq. 9)."),
    Metric("gate/beta_mean", "beta", "", "Mean weight of SFT over prompts (Eq. 9)."),
    Metric("trained/rollouts", "Rollouts trained", "rollouts", "Rollouts with a forward and backward pass."),
    Metric("trained/demonstrations", "Demonstrations trained", "demonstrations", "Demonstrations trained on."),
    Metric("trained/rollout_tokens", "Rollout tokens trained", "tokens", "Response tokens of trained rollouts."),
    Metric("trained/demonstration_tokens", "Demonstration tokens trained", "tokens", "Response tokens of them."),
    Metric("trained/left_out", "Left out", "trajectories",
           "Trajectories the method keeps whose weight is exactly zero; they cost no pass."),
    Metric("trained/rollout_entropy", "Exact entropy, rollouts", "nats/token", "Exact entropy on trained rollouts."),
    Metric("trained/demonstration_entropy", "Exact entropy, demonstrations", "nats/token", "On demonstrations."),
    Metric("trained/demonstration_nll", "Demonstration loss", "nats/token", "Mean -log pi of demonstration tokens."),
    Metric("loss/total", "Loss", "", "Mean over the step's updates of the normalised loss (Eq. 13)."),
    Metric("estimator/clip_fraction", "Clipped tokens", "share", "Trained rollout tokens whose mask is 0."),
    Metric("estimator/approx_kl", "KL to sampling policy", "nats/token", "Mean of r - 1 - log r on trained rollouts."),
    Metric("gradient/sft_rl_cosine", "Cosine of SFT and RL gradient", "",
           "Between the gradients of Eq. 13 on demonstrations and on rollouts, every diagnostics.gradient_cosine_every "
           "steps, where both are there."),
    Metric("optim/learning_rate", "Learning rate", "", "Rate of the last update of the step."),
    Metric("optim/gradient_norm", "Gradient norm", "", "Mean global norm before clipping over the step's updates."),
    Metric("optim/updates", "Updates", "updates", "Optimiser steps taken from this rollout batch."),
    Metric("optim/skipped_updates", "Skipped updates", "updates",
           "Updates skipped: norm not finite or above optimizer.skip_above_norm."),
    Metric("check/logprob_gap", "Sampler-trainer gap", "nats", "Largest |sampler - trainer| log-prob checked."),
    Metric("check/logprob_gap_rollouts", "Rollouts checked", "rollouts", "Rollouts the gap was taken over."),
    Metric("check/policy_version", "Policy version", "updates", "Updates the sampling weights had seen."),
    Metric("time/rollout_s", "Sampling", "s", "Sampling the rollouts.", True),
    Metric("time/verify_s", "Verifying", "s", "Grading the answers.", True),
    Metric("time/train_s", "Training", "s", "Assembling, forward, backward, optimiser steps.", True),
    Metric("time/transfer_s", "Weight transfer", "s", "Moving weights to the sampler.", True),
    Metric("time/measure_s", "Measuring", "s", "Diagnostics that change nothing; in no other time.", True),
    Metric("time/step_s", "Step", "s", "The whole step; validation, checkpoint and diagnostics apart.", True),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


def timing_columns() -> list[str]:
    """Return the columns that may differ between two runs of one configuration."""
    return [name for name, metric in METRICS.items() if metric.is_timing]


def axis_label(name: str) -> str:
    """Return what an axis of this metric says, unit included.

    Example:
        >>> axis_label("rollout/entropy")
        'Entropy (nats/token)'
    """
    metric = METRICS[name]
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label
