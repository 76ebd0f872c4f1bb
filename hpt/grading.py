"""Eq. 7 for a step's rollouts and demonstrations: every rank grades a share, and all get all verdicts.

Grading is limited in time, so two ranks that graded the same answer could come to different rewards and drift apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpt.ranks import Ranks
from hpt.records import GradedRollouts
from hpt.rewards import Verdict, Verifier
from hpt.tasks.problems import Problem
from hpt.trajectory import DEMONSTRATION, Trajectory


def grade_rollouts(
    ranks: Ranks,
    verifier: Verifier,
    tokenizer: Any,
    questions: Sequence[Problem],
    rollouts: Sequence[Sequence[Trajectory]],
) -> list[GradedRollouts]:
    """Return the verdicts, lengths and likelihoods of every question's rollouts.

    Args:
        ranks: among which the work is shared.
        verifier: grades texts.
        tokenizer: turns a rollout's tokens into text.
        questions: [N] of the step.
        rollouts: [N][n] of each question; n may be 0.
    """
    own = ranks.share(range(len(questions)))
    flat = [(index, rollout) for index in own for rollout in rollouts[index]]
    texts = tokenizer.batch_decode([t.response_tokens for _, t in flat], skip_special_tokens=True)
    grades = iter(verifier.grade(texts, [questions[index] for index, _ in flat]) if flat else ())
    verdicts = [(index, tuple(next(grades).verdict for _ in rollouts[index])) for index in own]
    by_question = dict(ranks.gather(verdicts))
    return [
        GradedRollouts(
            lengths=np.array([rollout.length for rollout in group], dtype=np.int64),
            negative_logprobs=np.array([-rollout.old_logprobs.sum(dtype=np.float64) for rollout in group]),
            truncated=np.array([rollout.truncated for rollout in group], dtype=bool),
            verdicts=by_question[index],
        )
        for index, group in enumerate(rollouts)
    ]


def grade_demonstrations(
    ranks: Ranks,
    verifier: Verifier,
    questions: Sequence[Problem],
    prompts: Mapping[str, np.ndarray],
    demonstrations: Mapping[str, np.ndarray],
) -> dict[int, Trajectory]:
    """Return tau* of every question that has one, by the question's place in the step, with its reward.

    Args:
        ranks: among which the work is shared.
        verifier: remembers what it has graded, so a demonstration costs once.
        questions: of the step.
        prompts, demonstrations: token ids by problem id.
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
