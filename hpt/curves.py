"""The validation curves drawn while a policy trains (Figure 5)."""

from typing import Any

from hpt.config import RunConfig
from hpt.engine import PolicyEngine
from hpt.evaluate import evaluation_law, sample_answers
from hpt.records import rows_of
from hpt.rewards import Verdict, Verifier
from hpt.rollout import Sampler
from hpt.tasks.problems import Problem


def validation_rows(
    sampler: Sampler,
    verifier: Verifier,
    tokenizer: Any,
    curves: dict[str, list[Problem]],
    config: RunConfig,
    step: int,
    engine: PolicyEngine,
) -> list[dict[str, Any]]:
    """Sample every curve's problems from the weights the sampler holds; each rank takes a share, all get all rows.

    Returns:
        One row per problem: step, benchmark, problem_id, level, correct, samples, response_tokens_mean.
    """
    law = evaluation_law(config, config.validation.samples_per_problem)
    rows: list[dict[str, Any]] = []
    width = config.rollout.tensor_parallel
    shares = {name: engine.share(problems, width) for name, problems in curves.items()}
    answers = sample_answers(sampler, verifier, tokenizer, shares, law)
    answers["correct"] = answers["verdict"] == Verdict.correct.value
    for name in curves:
        counts = (
            answers[answers["benchmark"] == name]
            .groupby(["benchmark", "problem_id"], sort=True)
            .agg(
                level=("level", "first"),
                correct=("correct", "sum"),
                samples=("correct", "size"),
                response_tokens_mean=("response_tokens", "mean"),
            )
        )
        rows += [{"step": step, **row} for row in engine.gather_shares(rows_of(counts.reset_index()), width)]
    return rows
