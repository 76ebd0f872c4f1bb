"""The questions of scale ``smollm``: graded families of reasoning-gym, with demonstrations of a few worked steps.

They lie in ``smollm.jsonl`` beside this file, drawn by ``python -m benchmarks.smollm_questions`` and chosen as
docs/world.md says. Each family is an evaluation set. The published model boxes too few answers to
be rewarded: the base of this scale has seen the demonstrations of other questions, those of split ``format``
(`hpt.training.bases`).
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from hpt.config.settings import Settings
from hpt.data.problems import EvaluationSet, Problem

#: Name of the scale and of its world.
SMOLLM = "smollm"
FILE = Path(__file__).with_name("smollm.jsonl")
IN_DISTRIBUTION = ("sums", "products", "equations", "legs")
OUT_OF_DISTRIBUTION = ("divisors", "angles")
#: Figure 2 draws many answers to a few questions: this many of the two hardest levels of every trained family.
REACH = 4


class GymWorld(Settings):
    """What other worlds have too: a name, the size of the curves, and the probability that a guess is right.

    Nothing bounds the answers, so there is no guess of the right form: 0.
    """

    name: str
    curve_problems: int = 16
    curve_samples: int = 4
    chance: float = 0.0


SMOLLM_WORLD = GymWorld(name=SMOLLM)


@cache
def _problems() -> Mapping[tuple[str, str], tuple[Problem, ...]]:
    """Return the questions of the file by split and family, which stand in a question's id."""
    found = defaultdict[tuple[str, str], list[Problem]](list)
    for line in FILE.read_text(encoding="utf-8").splitlines():
        problem = Problem(**json.loads(line))
        split, family, *_ = problem.id.split("-")
        found[split, family].append(problem)
    return {key: tuple(problems) for key, problems in found.items()}


def mixed(split: str) -> list[Problem]:
    """Return the questions of a split, families and levels in turn, so that the first so many are a fair sample."""
    families = [_problems()[split, name] for name in IN_DISTRIBUTION]
    places = sorted((int(problem.id.rpartition("-")[2]), problem.level or 0, number, problem)
                    for number, family in enumerate(families) for problem in family)  # fmt: skip
    return [problem for *_, problem in places]


def evaluation_sets() -> dict[str, EvaluationSet]:
    """Return the evaluation sets by name: a family each, and ``reach``, which Figure 2 draws many answers to."""

    def of(name: str, distribution: str, make: Callable[[], tuple[Problem, ...]]) -> EvaluationSet:
        return EvaluationSet(name, "", 1, distribution, 0, make)

    sets = {name: of(name, kind, lambda name=name: _problems()["evaluation", name])
            for kind, names in (("in", IN_DISTRIBUTION), ("out", OUT_OF_DISTRIBUTION)) for name in names}  # fmt: skip
    return sets | {"reach": of("reach", "part", _hardest)}


def _hardest() -> tuple[Problem, ...]:
    hard = [[problem for problem in _problems()["evaluation", name] if problem.level == level]
            for name in IN_DISTRIBUTION for level in (3, 4)]  # fmt: skip
    return tuple(problem for of_level in hard for problem in of_level[:REACH])
