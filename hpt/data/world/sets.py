"""The eight evaluation sets of the graded world, each standing for a benchmark of the paper, and the curves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial

from hpt.data.problems import Problem
from hpt.data.world.chains import LETTERS, choice_question, in_notation
from hpt.data.world.graded import GradedWorld, SetConstants, new_chain


@dataclass(frozen=True)
class EvaluationSet:
    """An evaluation set: what tables say of it, and its problems, which are made or read when they are asked for.

    Attributes:
        name: of the set.
        stands_for: the paper's benchmark in its place.
        samples_per_problem: answers sampled for each problem.
        distribution: ``in`` or ``out`` of the training distribution.
        choices: answers that a question offers, of which one is right; 0 where it offers none.
        make: returns the problems.
    """

    name: str
    stands_for: str
    samples_per_problem: int
    distribution: str
    choices: int
    make: Callable[[], tuple[Problem, ...]] = field(repr=False)

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """The problems, in the set's order."""
        return self.make()


def evaluation_sets(world: GradedWorld) -> dict[str, EvaluationSet]:
    """Return the evaluation sets by name, in the order of the tables; no chain is in two of them.

    Example:
        >>> from hpt.data.world.graded import MINI_WORLD
        >>> [(one.name, len(one.problems)) for one in evaluation_sets(MINI_WORLD).values()][:2]
        [('contest-a', 30), ('contest-b', 30)]
    """
    made = partial(_problems, world.model_dump_json())
    sets = {}
    for one in world.evaluation:
        choices = len(LETTERS) if one.form == "choice" else 0
        about = (one.name, one.stands_for, one.samples_per_problem, one.distribution, choices)
        sets[one.name] = EvaluationSet(*about, lambda name=one.name: made()[name])
    return sets


@cache
def _problems(content: str) -> dict[str, tuple[Problem, ...]]:
    # all sets together, so that no chain is in two; by content, because a world holds mappings and cannot be hashed
    world = GradedWorld.model_validate_json(content)
    seen: set[str] = set()
    return {constants.name: _problems_of(world, constants, seen) for constants in world.evaluation}


def _problems_of(world: GradedWorld, constants: SetConstants, seen: set[str]) -> tuple[Problem, ...]:
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
    return tuple(problems)
