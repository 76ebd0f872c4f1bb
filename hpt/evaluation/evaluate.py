"""Sampling one policy on sets of problems: every answer with its verdict.

All scores (`hpt.evaluation.scores`) come from this table, so no two numbers of a report are of different generations.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field

from hpt.config.run_config import RunConfig, digest
from hpt.config.settings import Settings
from hpt.data.problems import Problem, problems_hash
from hpt.data.prompts import prompt_tokens, warn_of_unknown
from hpt.evaluation.scores import counts_per_problem
from hpt.rewards.workers import Verifier
from hpt.support.errors import warn
from hpt.training.metrics import rows_of
from hpt.training.sampler import Sampler, SamplingRequest, request_seed

if TYPE_CHECKING:
    from hpt.training.engine import PolicyEngine


class EvaluationSettings(Settings):
    """How answers are sampled (Section 3.1: temperature 0.6, top-p 0.95)."""

    samples_per_problem: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.6, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_response_tokens: int = Field(default=112, ge=1)
    seed: int = Field(default=0, ge=0)
    template: str = Field(default="plain", description="how a question becomes a prompt")

    def key(self, problems: Sequence[Problem] | str) -> str:
        """Return the name of everything but the weights that can move the answers to ``problems``, or their hash."""
        hashed = problems if isinstance(problems, str) else _hash_of(tuple(problems))
        law = self.model_dump(exclude={"template"} if self.template == "plain" else None)  # newer than the first keys
        return digest({"evaluation": law, "problems": hashed})


@lru_cache(maxsize=64)
def _hash_of(problems: tuple[Problem, ...]) -> str:
    """Return the hash of a set's problems; many runs are evaluated on the same few sets."""
    return problems_hash(problems)


def evaluation_law(config: RunConfig, samples: int) -> EvaluationSettings:
    """Return how a run's policy is evaluated, on curves and at the end: ``samples`` answers a problem, greedily one."""
    law = config.validation
    if law.temperature == 0 and samples > 1:
        warn(f"validation.temperature = 0 is greedy, all answers to a problem are the same: 1 is drawn, not {samples}")
        samples = 1
    return EvaluationSettings(
        samples_per_problem=samples,
        temperature=law.temperature,
        top_p=law.top_p,
        max_response_tokens=config.rollout.max_response_tokens,
        seed=config.seed,
        template=config.data.template,
    )


#: Answers of each final evaluation kept word for word, and the characters kept of each end of a longer one.
KEPT_ANSWERS, KEPT_CHARACTERS = 24, 2_000


def answer_hash(evaluation: str, problem_id: str, sample: int) -> int:
    """Return the hash by which answers are chosen to be kept: 32 bits of the SHA-256 of ``set/question/sample``.

    Nothing a policy does moves it, so all runs keep their answers to the same questions.
    """
    name = f"{evaluation.partition('@')[0]}/{problem_id}/{sample}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def kept_answers(evaluation: str, problems: Sequence[Problem], samples: int) -> set[tuple[str, int]]:
    """Return (question, sample) of the `KEPT_ANSWERS` answers to an evaluation with the lowest `answer_hash`."""
    asked = [(problem.id, sample) for problem in problems for sample in range(samples)]
    return set(sorted(asked, key=lambda one: (answer_hash(evaluation, *one), one))[:KEPT_ANSWERS])


def _both_ends(text: str) -> str:
    whole = len(text) <= 2 * KEPT_CHARACTERS
    return text if whole else f"{text[:KEPT_CHARACTERS]} [...] {text[-KEPT_CHARACTERS:]}"


def sample_answers(
    sampler: Sampler,
    verifier: Verifier,
    tokenizer: Any,
    sets: Mapping[str, Sequence[Problem]],
    settings: EvaluationSettings,
    keep: Collection[tuple[str, int]] = (),
) -> pd.DataFrame:
    """Sample and grade answers to every problem of some sets, in one call of the sampler.

    Several small sets cost less together than one after the other: each call ends with a tail in which the sampler
    works on the few longest answers alone. What is drawn does not depend on it, since every request has a seed.

    ``sets`` are problems (or a rank's share of them) by evaluation, ``set`` or ``set@samples``; the set's name is part
    of the request seeds, so that more samples begin with the same ones. One row per answer: ``answer`` is the content
    of the last box, ``mean_logprob`` in nats/token of the law sampled from, ``text`` only of those in ``keep``.
    """
    asked = [(name, problem) for name, problems in sets.items() for problem in problems]
    prompts = {name: {one.id: prompt_tokens(tokenizer, one, settings.template) for one in problems}
               for name, problems in sets.items()}  # fmt: skip
    for name, of_set in prompts.items():
        warn_of_unknown(tokenizer, of_set, name)
    requests = [
        SamplingRequest(
            prompts[name][problem.id],
            request_seed(settings.seed, f"evaluate:{name.partition('@')[0]}", 0, problem.id),
            settings.samples_per_problem,
            settings.temperature,
            settings.top_p,
            settings.max_response_tokens,
        )
        for name, problem in asked
    ]
    flat = [
        (name, problem, i, sample)
        for (name, problem), batch in zip(asked, sampler.sample(requests), strict=True)
        for i, sample in enumerate(batch)
    ]
    # a rank with no problem of a small set has nothing to decode, and batch_decode makes one empty text of nothing
    texts = tokenizer.batch_decode([sample.tokens for *_, sample in flat], skip_special_tokens=True) if flat else []
    grades = verifier.grade(texts, [problem for _, problem, *_ in flat])
    return pd.DataFrame(
        {
            "benchmark": [name for name, *_ in flat],
            "problem_id": [problem.id for _, problem, *_ in flat],
            "level": [problem.level for _, problem, *_ in flat],
            "sample": [i for _, _, i, _ in flat],
            "verdict": [grade.verdict.value for grade in grades],
            "answer": [grade.answer for grade in grades],
            "response_tokens": [len(sample.tokens) for *_, sample in flat],
            "finish_reason": [sample.finish_reason for *_, sample in flat],
            "mean_logprob": [float(np.mean(sample.logprobs)) for *_, sample in flat],
            "text": [
                _both_ends(text) if (problem.id, i) in keep else None
                for text, (_, problem, i, _) in zip(texts, flat, strict=True)
            ],
        }
    )


def validation_rows(
    sampler: Sampler,
    verifier: Verifier,
    tokenizer: Any,
    curves: dict[str, list[Problem]],
    config: RunConfig,
    step: int,
    engine: "PolicyEngine",
) -> list[dict[str, Any]]:
    """Sample every curve's problems from the weights the sampler holds; each rank takes a share, all get all rows."""
    law, width = evaluation_law(config, config.validation.samples_per_problem), config.rollout.tensor_parallel
    rows: list[dict[str, Any]] = []
    shares = {name: engine.share(problems, width) for name, problems in curves.items()}
    answers = sample_answers(sampler, verifier, tokenizer, shares, law)
    counts = counts_per_problem(answers).sort_values("problem_id")
    columns = ["benchmark", "problem_id", "level", "correct", "samples", "response_tokens_mean"]
    for name in curves:
        shared = rows_of(counts.loc[counts["benchmark"] == name, columns])
        rows += [{"step": step, **row} for row in engine.gather_shares(shared, width)]
    return rows
