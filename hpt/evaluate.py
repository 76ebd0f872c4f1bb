"""One policy on one set of problems: every sampled answer with its verdict; all scores are computed afterwards.

avg@k, pass@k, exclusive solves and their intervals (`hpt.scores`, `hpt.stats`) come from the same table of answers, so
no two numbers of a report can rest on different generations.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from hpt.config import Settings, digest
from hpt.rewards import Verifier
from hpt.rollout import Sampler, SamplingRequest, request_seed
from hpt.tasks.problems import Problem, problems_hash
from hpt.tasks.prompts import prompt_tokens


class EvaluationSettings(Settings):
    """How answers are sampled (Section 3.1: temperature 0.6, top-p 0.95)."""

    samples_per_problem: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.6, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_response_tokens: int = Field(default=112, ge=1)
    seed: int = Field(default=0, ge=0)

    def key(self, problems: Sequence[Problem]) -> str:
        """Return the name of everything that can move the answers besides the weights."""
        return digest({"evaluation": self.model_dump(), "problems": problems_hash(problems)})


def sample_answers(
    sampler: Sampler,
    verifier: Verifier,
    tokenizer: Any,
    name: str,
    problems: Sequence[Problem],
    settings: EvaluationSettings,
) -> pd.DataFrame:
    """Sample and grade answers to every problem of a set.

    Args:
        sampler: holds the policy's weights.
        verifier: grades.
        tokenizer: of the policy.
        name: of the evaluation, ``set`` or ``set@samples``, written into the table; the set's name is part of the
            request seeds, so that more samples begin with the same ones.
        problems: the set (or a rank's share of it).
        settings: sampling law, samples per problem, seed.

    Returns:
        One row per answer: benchmark, problem_id, level, sample, verdict, answer (content of the last box),
        response_tokens, finish_reason, mean_logprob (nats/token, of the law sampled from).
    """
    requests = [
        SamplingRequest(
            prompt_tokens(tokenizer, problem),
            request_seed(settings.seed, f"evaluate:{name.partition('@')[0]}", 0, problem.id),
            settings.samples_per_problem,
            settings.temperature,
            settings.top_p,
            settings.max_response_tokens,
        )
        for problem in problems
    ]
    batches = sampler.sample(requests)
    flat = [
        (problem, i, sample) for problem, batch in zip(problems, batches, strict=True) for i, sample in enumerate(batch)
    ]
    # a rank with no problem of a small set has nothing to decode, and batch_decode makes one empty text of nothing
    texts = tokenizer.batch_decode([sample.tokens for _, _, sample in flat], skip_special_tokens=True) if flat else []
    grades = verifier.grade(texts, [problem for problem, _, _ in flat])
    return pd.DataFrame(
        {
            "benchmark": name,
            "problem_id": [problem.id for problem, _, _ in flat],
            "level": [problem.level for problem, _, _ in flat],
            "sample": [i for _, i, _ in flat],
            "verdict": [grade.verdict.value for grade in grades],
            "answer": [grade.answer for grade in grades],
            "response_tokens": [len(sample.tokens) for _, _, sample in flat],
            "finish_reason": [sample.finish_reason for _, _, sample in flat],
            "mean_logprob": [float(np.mean(sample.logprobs)) for _, _, sample in flat],
        }
    )
