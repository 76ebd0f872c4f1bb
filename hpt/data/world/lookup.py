r"""The mini world: programs of look-ups in random tables, where a skill is knowledge that the corpus sets.

A state is two numbers of two digits (or one). An operation, named by a letter, is one random table that replaces both,
so a step takes two *facts*. A question is a state and a program; every line of its solution holds the new state and
what is left of the program, always five places wide, so that the next line is made from the line above alone. The last
state stands in the box::

    3752ffi..        question: apply f, f, i
    >8114fi...       after f
    >0963i....       after f
    \boxed{7220}     after i

A small network learns an algorithm in a jump whose time differs from seed to seed; of many independent facts it knows
as many as its corpus held. Why every constant is what it is, and the worlds that were tried before: docs/world.md.
"""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import Field

from hpt.config.settings import Settings
from hpt.data.problems import EvaluationSet, Problem, seeded

Split = Literal["pretraining", "training", "validation", "evaluation"]
#: Upper ends, on [0, 1), of the parts into which a hash of each program divides all programs.
_SPLITS: tuple[tuple[float, Split], ...] = (
    (0.01, "validation"),
    (0.03, "evaluation"),
    (0.13, "training"),
    (1.0, "pretraining"),
)
LETTERS = "ABCD"
SLOTS = 5
EMPTY, ASK = ".", "?"
#: Marks of a line: one operation applied, or two at once.
ONE, TWO = ">", "!"


class Family(Settings):
    """Operations that bases know equally well."""

    operations: str = Field(description="their letters")
    share: float = Field(ge=0, le=1, description="of the operations of training questions")
    silent: bool = Field(default=False, description="the teacher always does them together with a neighbour")


class LookupSet(Settings):
    """One evaluation set."""

    name: str
    stands_for: str = Field(description="benchmark of the paper whose place it takes")
    problems_per_level: dict[int, int]
    samples_per_problem: int = Field(default=1, ge=1)
    shares: tuple[float, ...] | None = Field(default=None, description="of the families; None = the world's")
    form: str = Field(default="plain", pattern="^(plain|choice|notation)$", description="how the question is asked")


class LookupWorld(Settings):
    """Every constant of a world of look-ups; a level is a number of operations."""

    name: str
    seed: int = Field(ge=0, description="of tables, questions, demonstrations, splits and documents")
    digits: int = Field(default=2, ge=1, description="of a number; a table has 10**digits of them")
    families: tuple[Family, ...]
    training_per_level: tuple[int, ...]
    validation_per_level: tuple[int, ...]
    evaluation: tuple[LookupSet, ...]
    curve_problems: int = Field(default=40, ge=1, description="at most so many of each in-distribution set in curves")
    curve_samples: int = Field(default=4, ge=1, description="answers sampled per problem in curves")
    context_tokens: int = Field(default=128, ge=16)

    def __hash__(self) -> int:  # problems are made once for a world, and dictionaries in it have no hash
        return hash(self.name)

    @property
    def operations(self) -> str:
        """All letters, family by family."""
        return "".join(family.operations for family in self.families)

    @property
    def chance(self) -> float:
        """Probability that a uniformly guessed state is right."""
        return 1 / 10 ** (2 * self.digits)


@dataclass(frozen=True)
class Fact:
    """One entry of an operation's table."""

    right: str  # the number it gives
    misconception: str  # the wrong number that corpora hold in its place
    rank: float  # in [0, 1); where the fact stands in its family, from seldom to often known


@cache  # a program is drawn some forty times until it belongs to its split
def numbers(digits: int) -> tuple[str, ...]:
    """Return all numbers of so many digits, leading zeros kept."""
    return tuple(f"{number:0{digits}d}" for number in range(10**digits))


@cache
def facts(seed: int, operation: str, digits: int = 2) -> dict[str, Fact]:
    """Return the table of ``operation``: a permutation of the numbers, so answers are as uniform as starts."""
    generator = seeded(seed, "table", operation)
    all_of_them = numbers(digits)
    count = len(all_of_them)
    right = generator.sample(all_of_them, count)
    wrong = [all_of_them[(int(number) + generator.randrange(1, count)) % count] for number in right]
    return {number: Fact(right[i], wrong[i], generator.random()) for i, number in enumerate(all_of_them)}


def halves(state: str) -> tuple[str, str]:
    return state[: len(state) // 2], state[len(state) // 2 :]


def applied(seed: int, operation: str, state: str) -> str:
    first, second = halves(state)
    table = facts(seed, operation, len(first))
    return table[first].right + table[second].right


@dataclass(frozen=True)
class Program:
    """A state and the operations to apply to it, the first first."""

    state: str
    operations: str

    @property
    def text(self) -> str:
        """State and program, padded to five places, such as ``3752ffi..``: its name, and its question."""
        return self.state + self.operations.ljust(SLOTS, EMPTY)

    def states(self, seed: int) -> tuple[str, ...]:
        """Return all states, from the start to the answer."""
        states = [self.state]
        for operation in self.operations:
            states.append(applied(seed, operation, states[-1]))
        return tuple(states)


def split_of(seed: int, program: Program) -> Split:
    """Return the one part of the data to which ``program`` belongs, from a hash of (seed, program).

    The form in which it is asked (plain, choice, other notation) does not matter: no program is ever in two parts.
    """
    digest = hashlib.blake2b(f"{seed}|{program.text}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    return next(split for end, split in _SPLITS if position < end)


def holds_a_part_of(seed: int, states: tuple[str, ...], operations: str) -> bool:
    """Return whether a worked-out program holds a validation or evaluation question as a contiguous part."""
    length = len(operations)
    parts = (Program(states[i], operations[i:j]) for i in range(length) for j in range(i + 1, length + 1))
    return any(split_of(seed, part) in ("validation", "evaluation") for part in parts)


def solution(states: tuple[str, ...], operations: str, doubled: frozenset[int] = frozenset()) -> str:
    r"""Return the lines of a solution and its box; ``doubled`` are places of operations done together with the next.

    Example:
        >>> states = ("3752", "8114", "0963", "7220")
        >>> solution(states, "ffi")
        '>8114fi...>0963i....\\boxed{7220}'
        >>> solution(states, "ffi", frozenset({0})), solution(states, "ffi", frozenset({1}))
        ('!0963i....\\boxed{7220}', '>8114fi...!\\boxed{7220}')
    """
    text, done = "", 0
    while True:
        both = done in doubled
        done += 1 + both
        if done == len(operations):
            return text + TWO * both + rf"\boxed{{{states[done]}}}"
        text += (TWO if both else ONE) + Program(states[done], operations[done:]).text


def demonstration(world: LookupWorld, program: Program) -> str:
    """Return the teacher's solution: right, but an operation of a silent family is done at once with a neighbour.

    The teacher is the larger model that can. A pupil that imitates it has to guess there (two tables make 10,000
    composites, of which the demonstrations show a few), and hardly sees the table of a silent operation.
    """
    silent = "".join(family.operations for family in world.families if family.silent)
    doubled, place = set(), 0
    while place < len(program.operations):
        pair = program.operations[place : place + 2]
        both = len(pair) == 2 and any(one in silent for one in pair)
        if both:
            doubled.add(place)
        place += 1 + both
    return solution(program.states(world.seed), program.operations, frozenset(doubled))


def draw_program(
    generator: random.Random, world: LookupWorld, split: Split, length: int, shares: tuple[float, ...] | None = None
) -> Program:
    """Draw a program of ``length`` operations that belongs to ``split``; ``shares`` of families, or the world's."""
    weights = shares or tuple(family.share for family in world.families)
    while True:
        chosen = generator.choices(world.families, weights, k=length)
        state = "".join(generator.choices(numbers(world.digits), k=2))
        program = Program(state, "".join(generator.choice(family.operations) for family in chosen))
        if split_of(world.seed, program) != split:
            continue
        held_out = split in ("validation", "evaluation")
        if held_out or not holds_a_part_of(world.seed, program.states(world.seed), program.operations):
            return program


def asked(world: LookupWorld, program: Program, form: str) -> tuple[str, str]:
    """Return (question, answer) in one of the forms.

    ``notation`` writes operations as capitals, ``3752FI...``; ``choice`` asks, by ``?`` behind the last operation, in
    which quarter of all numbers the first one ends: ``3752fi?..``, answer B.
    """
    answer = program.states(world.seed)[-1]
    if form == "choice":
        return Program(program.state, program.operations + ASK).text, quarter(answer)
    return (program.text.upper() if form == "notation" else program.text), answer


def quarter(state: str) -> str:
    """Return the letter of the quarter of all numbers in which the first number lies."""
    first, _ = halves(state)
    return LETTERS[int(first) * len(LETTERS) // 10 ** len(first)]


def training_problems(world: LookupWorld) -> list[Problem]:
    """Return the training questions, each with its demonstration, levels mixed."""
    problems = list(_learnt_from(world, "training"))
    seeded(world.seed, "training", "order").shuffle(problems)
    return problems


def validation_problems(world: LookupWorld) -> list[Problem]:
    """Return the problems on which settings are chosen; no table reports them."""
    return list(_learnt_from(world, "validation"))


@cache
def _learnt_from(world: LookupWorld, split: Split) -> tuple[Problem, ...]:
    per_level = world.training_per_level if split == "training" else world.validation_per_level
    return _made(world, split, (split,), dict(enumerate(per_level, start=1)), set())


def _made(
    world: LookupWorld, split: Split, name: tuple[str, ...], per_level: Mapping[int, int], seen: set[str],
    shares: tuple[float, ...] | None = None, form: str = "plain",
) -> tuple[Problem, ...]:  # fmt: skip
    """Return so many problems of every level, none of a program that is in ``seen``, and add theirs to it."""
    problems = []
    for level, number in ((level, number) for level, count in per_level.items() for number in range(count)):
        # a function of seed and name, so that changing one set leaves the others as they are
        generator = seeded(world.seed, *name, level, number)
        while (program := draw_program(generator, world, split, level, shares)).text in seen:
            pass
        seen.add(program.text)
        shown = demonstration(world, program) if split == "training" else None
        identity, kind = f"{world.name}-{name[-1]}-{level}-{number}", "choice" if form == "choice" else "digits"
        problems.append(Problem(identity, *asked(world, program, form), shown, level, kind))
    return tuple(problems)


def evaluation_sets(world: LookupWorld) -> dict[str, EvaluationSet]:
    """Return the evaluation sets by name, in the order of the tables; no program is in two of them."""
    sets = {}
    for one in world.evaluation:
        distribution, choices = ("in" if one.form == "plain" else "out"), (len(LETTERS) if one.form == "choice" else 0)
        about = (one.name, one.stands_for, one.samples_per_problem, distribution, choices)
        sets[one.name] = EvaluationSet(*about, lambda name=one.name: _evaluated(world)[name])
    return sets


@cache
def _evaluated(world: LookupWorld) -> Mapping[str, tuple[Problem, ...]]:
    seen, sets = set[str](), {}
    for one in world.evaluation:
        name = ("evaluation", one.name)
        sets[one.name] = _made(world, "evaluation", name, one.problems_per_level, seen, one.shares, one.form)
    return sets


_SETS = (
    LookupSet(name="contest-a", stands_for="AIME 24", problems_per_level={4: 15, 5: 15}, samples_per_problem=32,
              shares=(0.5, 0.35, 0.1, 0.05)),
    LookupSet(name="contest-b", stands_for="AIME 25", problems_per_level={2: 10, 3: 10, 4: 10}, samples_per_problem=32,
              shares=(0.7, 0.0, 0.15, 0.15)),
    LookupSet(name="contest-c", stands_for="AMC", problems_per_level={2: 20, 3: 32, 4: 31}, samples_per_problem=32,
              shares=(0.05, 0.8, 0.1, 0.05)),
    LookupSet(name="graded-500", stands_for="MATH-500", problems_per_level=dict.fromkeys(range(1, 6), 100)),
    LookupSet(name="applied", stands_for="Minerva", problems_per_level={1: 90, 2: 91, 3: 91},
              shares=(0.3, 0.2, 0.1, 0.4)),
    LookupSet(name="olympiad-like", stands_for="OlympiadBench", problems_per_level={1: 135, 2: 200, 3: 200, 4: 140},
              shares=(0.15, 0.15, 0.65, 0.05)),
    LookupSet(name="choice", stands_for="ARC-c", problems_per_level={1: 390, 2: 391, 3: 391}, form="choice"),
    LookupSet(name="notation", stands_for="GPQA", problems_per_level={1: 66, 2: 66, 3: 66}, form="notation"),
)  # fmt: skip


def _few(sets: tuple[LookupSet, ...]) -> tuple[LookupSet, ...]:
    return tuple(
        one.model_copy(update={
            "problems_per_level": {level: 2 if count >= 100 else 1 for level, count in one.problems_per_level.items()},
            "samples_per_problem": min(one.samples_per_problem, 2),
        })
        for one in sets
    )  # fmt: skip


#: Four families: known, partly known, silent (the teacher never writes them alone), and one that bases have wrong.
MINI_LOOKUPS = LookupWorld(
    name="lookups",
    seed=4031,
    families=(
        Family(operations="fgh", share=0.52),
        Family(operations="ijk", share=0.24),
        Family(operations="lm", share=0.15, silent=True),
        Family(operations="n", share=0.09),
    ),
    training_per_level=(143, 143, 143, 286, 286),
    validation_per_level=(40, 40, 40, 40, 40),
    evaluation=_SETS,
)

#: The smallest world with the same parts; its numbers mean nothing. One or two problems of a level, two answers each.
TINY_LOOKUPS = LookupWorld(
    name="lookups-tiny",
    seed=4032,
    digits=1,
    families=MINI_LOOKUPS.families,
    training_per_level=(16, 8, 8, 8, 8),
    validation_per_level=(2, 2, 2, 2, 2),
    evaluation=_few(_SETS),
    curve_problems=4,
    curve_samples=2,
)

#: The mini world grown for one GPU: twice the operations and the questions. Nobody has trained on it yet.
GPU_LOOKUPS = LookupWorld(
    name="lookups-gpu",
    seed=4033,
    families=(
        Family(operations="efghij", share=0.52),
        Family(operations="klmnop", share=0.24),
        Family(operations="qrst", share=0.15, silent=True),
        Family(operations="uv", share=0.09),
    ),
    training_per_level=(286, 286, 286, 572, 572),
    validation_per_level=(80, 80, 80, 80, 80),
    evaluation=_SETS,
    curve_problems=100,
)

LOOKUPS = {world.name: world for world in (MINI_LOOKUPS, TINY_LOOKUPS, GPU_LOOKUPS)}
