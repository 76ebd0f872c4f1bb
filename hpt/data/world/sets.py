"""The eight evaluation sets of the graded world, each standing for a benchmark of the paper, and the curves."""

from dataclasses import dataclass
from functools import cache

from hpt.data.problems import Problem
from hpt.data.world.chains import choice_question, in_notation
from hpt.data.world.graded import GradedWorld, SetConstants, new_chain


@dataclass(frozen=True)
class EvaluationSet:
    """Problems with the number of answers sampled for each; ``stands_for`` is the paper's benchmark in its place."""

    name: str
    stands_for: str
    problems: tuple[Problem, ...]
    samples_per_problem: int
    distribution: str


def evaluation_sets(world: GradedWorld) -> dict[str, EvaluationSet]:
    """Return the evaluation sets by name, in the order of the tables; no chain is in two of them.

    Example:
        >>> from hpt.data.world.graded import MINI_WORLD
        >>> [(own.name, len(own.problems)) for own in evaluation_sets(MINI_WORLD).values()][:2]
        [('contest-a', 30), ('contest-b', 30)]
    """
    return _evaluation_sets(world.model_dump_json())


@cache
def _evaluation_sets(content: str) -> dict[str, EvaluationSet]:
    # keyed by content: a world holds mappings and cannot be hashed itself
    world = GradedWorld.model_validate_json(content)
    seen: set[str] = set()
    return {constants.name: _set(world, constants, seen) for constants in world.evaluation}


def curve_problems(world: GradedWorld) -> dict[str, tuple[Problem, ...]]:
    """Return at most ``curve_problems`` problems of every in-distribution set, spread evenly over it."""
    curves = {}
    for name, own in evaluation_sets(world).items():
        if own.distribution == "in":
            stride = max(1, len(own.problems) // world.curve_problems)
            curves[name] = own.problems[::stride][: world.curve_problems]
    return curves


def _set(world: GradedWorld, constants: SetConstants, seen: set[str]) -> EvaluationSet:
    share = world.multiply_share if constants.multiply_share is None else constants.multiply_share
    problems = []
    for level, count in constants.problems_per_level.items():
        for number in range(count):
            name = ("evaluation", constants.name, level, number)
            chain, _ = new_chain(world, "evaluation", name, level, share, seen)
            question, answer, kind = f"{chain.text}?", chain.answer, "digits"
            if constants.form == "choice":
                (question, answer), kind = choice_question(chain), "choice"
            elif constants.form == "notation":
                question = in_notation(question)
            identity = f"{world.name}-{constants.name}-{level}-{number}"
            problems.append(Problem(identity, question, answer, None, level, kind))
    return EvaluationSet(
        constants.name, constants.stands_for, tuple(problems), constants.samples_per_problem, constants.distribution
    )
