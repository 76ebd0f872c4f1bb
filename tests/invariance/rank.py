"""One rank of a training run that also writes down what it was given to train on: ``python -m ... JOB OUT``."""

import json
import os
import sys
from pathlib import Path

from hpt.data.problems import Problem
from hpt.methods.mixture import Trajectory
from hpt.runs import job
from hpt.training.trainer import Trainer


def main(spec: str, out: Path) -> int:
    """Run the job; every rank writes (problem, sample, tokens) of all rollouts, step by step."""
    drawn: list[list[tuple[str, int, list[int]]]] = []
    genuine = Trainer.sample

    def sample(trainer: Trainer, questions: list[Problem]) -> list[list[Trajectory]]:
        groups = genuine(trainer, questions)
        drawn.append([(t.problem_id, t.sample, t.response_tokens.tolist()) for group in groups for t in group])
        return groups

    Trainer.sample = sample
    code = job.main([spec])
    (out / f"samples-{os.environ['RANK']}.json").write_text(json.dumps(drawn))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
