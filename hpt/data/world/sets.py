"""An evaluation set, of whatever world."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from hpt.data.problems import Problem


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
