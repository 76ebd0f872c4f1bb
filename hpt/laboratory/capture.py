"""Capture one group of answers from a step of a run, so that Table 1's rows can be looked at on real tokens.

    python -m hpt.laboratory.capture runs/mini/hpt-strong-s1000-0123456789abcdef

takes the next step of a finished run from its final weights, without changing the run: vLLM samples, math-verify
grades, the first of the step's two updates is made, and the log-probs of a group of the *second* update are taken
again. So their ratios are those that masks and denominators meet in training. The result is written to
`hpt/laboratory/group.json`, which is part of the package, with the name of the run it is of.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hpt.config.run_config import RunConfig
from hpt.laboratory.group import PATH
from hpt.methods.mixture import Trajectory, WeightedTrajectory
from hpt.runs.folder import RunFolder, check, source_commit
from hpt.runs.job import encoded_training
from hpt.support.errors import HptError
from hpt.support.files import read_json


def trainer_after(folder: RunFolder, verifier: Any) -> Any:
    """Return a trainer of the run's method that starts from the run's final weights."""
    from hpt.data.models import load_tokenizer
    from hpt.training.engine import PolicyEngine
    from hpt.training.policy import load_model
    from hpt.training.sampler import Sampler
    from hpt.training.trainer import Trainer

    config: RunConfig = folder.config
    tokenizer = load_tokenizer(str(folder.model))
    data = encoded_training(config, tokenizer)
    engine = PolicyEngine(load_model(str(folder.model)), config.engine, config.optimizer)
    return Trainer(
        config, data.problems, data.prompts, data.demonstrations, tokenizer, engine,
        Sampler(str(folder.model), config.rollout), verifier,
    )  # fmt: skip


def capture(folder: RunFolder) -> dict[str, Any]:
    """Return the group as `hpt.laboratory.group.load_group` reads it."""
    from hpt.methods.mixture import assemble
    from hpt.rewards.workers import Verifier

    config = folder.config
    check(folder)
    if not folder.finished or config.schedule.updates_per_step < 2:
        raise HptError(f"{folder.path.name} must be finished and have two updates per step; name another run")
    with Verifier(timeout_s=config.rollout.verifier_timeout_s) as verifier:
        trainer = trainer_after(folder, verifier)
        step = config.schedule.steps
        trainer.state.step = step
        questions = trainer.questions(step)
        rollouts = trainer.sample(questions)
        batch = trainer.weigh_questions(questions, rollouts, trainer.verify(questions, rollouts))
        assembled = assemble(batch, trainer.method, config, step, 0.0)
        rewards = {question.problem_id: [rollout.reward for rollout in question.rollouts] for question in batch}
        mixed = [question for question in assembled.questions[1] if 0 < np.mean(rewards[question.problem_id]) < 1]
        if not mixed:
            raise HptError(f"step {step} of {folder.path.name} has no question with right and wrong answers")
        # the one nearest to half right: with one right of eight, a single answer would carry all colours
        chosen = min(mixed, key=lambda question: abs(np.mean(rewards[question.problem_id]) - 0.5))
        assert chosen.demonstration is not None
        trainer.updater.update(assembled.updates[0], config.optimizer.learning_rate)
        trajectories = [*chosen.rollouts, chosen.demonstration]
        now = trainer.updater.logprobs([WeightedTrajectory(trajectory, ()) for trajectory in trajectories])

        def shown(trajectory: Trajectory) -> dict[str, Any]:
            return {
                "tokens": trainer.tokenizer.convert_ids_to_tokens(trajectory.response_tokens.tolist()),
                "old_logprobs": [float(f"{value:.6g}") for value in trajectory.old_logprobs],
                "logprobs": [float(f"{value:.6g}") for value in now[id(trajectory)]],
                "reward": trajectory.reward,
                "is_demonstration": trajectory.is_demonstration,
            }

        problem = next(problem for problem in questions if problem.id == chosen.problem_id)
        commit, dirty = source_commit()
        return {
            "run": folder.path.name, "step": step, "learning_rate": config.optimizer.learning_rate,
            "commit": commit, "dirty": dirty, "question": problem.question, "answer": problem.answer,
            "level": problem.level, "trajectories": [shown(trajectory) for trajectory in trajectories],
        }  # fmt: skip


def main(arguments: list[str]) -> None:
    """Capture a group from the run folder named, and write it into the package."""
    folder = RunFolder(Path(arguments[0]))
    read_json(folder.path / "config.json")
    content = capture(folder)
    PATH.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {PATH}: {len(content['trajectories'])} trajectories of {content['run']}, step {content['step']}")


if __name__ == "__main__":
    main(sys.argv[1:])
