"""The graded world: every constant of the synthetic task, and the training and validation problems made from it.

How the constants were chosen, and what was looked at, is told in docs/world.md. All problems are functions of the world
alone; the splits are disjoint by construction (`hpt.data.world.chains.split_of`).
"""

import random
from functools import cache

from pydantic import Field

from hpt.config.settings import Settings
from hpt.data.problems import Problem
from hpt.data.world.chains import Chain, Split, draw_chain, imperfect_teacher, seeded


class SetConstants(Settings):
    """One evaluation set of the world."""

    name: str = Field(description="name in tables")
    stands_for: str = Field(description="benchmark of the paper whose place it takes")
    problems_per_level: dict[int, int] = Field(description="level to number of problems")
    samples_per_problem: int = Field(default=1, ge=1, description="answers sampled per problem (avg@k)")
    distribution: str = Field(
        default="in", pattern="^(in|out)$", description="'in' or 'out' of the training distribution"
    )
    multiply_share: float | None = Field(
        default=None, ge=0, le=1, description="another mix of operations; None = the world's"
    )
    form: str = Field(default="plain", pattern="^(plain|choice|notation)$", description="how the question is asked")


class GradedWorld(Settings):
    """Every constant of a graded world; a level is a number of operations."""

    name: str = Field(description="name of the preset; also selects the pre-training recipes")
    seed: int = Field(ge=0, description="seed of all problems, demonstrations, splits and pre-training documents")
    digits: int = Field(default=4, ge=1, le=9, description="digits of a state; there are 10**digits answers")
    chain_lengths: tuple[int, ...] = Field(default=(1, 2, 3, 4, 5), description="operations of level 1, 2, ...")
    longer_chain_length: int = Field(
        default=6, ge=1, description="operations of the level after the last, for evaluation only"
    )
    multiply_share: float = Field(
        default=0.34, ge=0, le=1, description="probability of * ; + and - share the rest evenly"
    )
    detour: float = Field(
        default=0.25, ge=0, lt=1, description="probability that the teacher errs before each value it writes"
    )
    max_detours: int = Field(default=8, ge=0, description="errors in one demonstration at most: bounds its length")
    training_per_level: tuple[int, ...] = Field(description="training questions of level 1, 2, ... (hard-heavy)")
    validation_per_level: tuple[int, ...] = Field(
        description="problems of level 1, 2, ... on which settings are chosen"
    )
    evaluation: tuple[SetConstants, ...] = Field(description="the evaluation sets, in the order of the tables")
    curve_problems: int = Field(
        default=40, ge=1, description="at most so many problems per in-distribution set in curves"
    )
    curve_samples: int = Field(default=4, ge=1, description="answers sampled per problem in curves")
    context_tokens: int = Field(default=256, ge=16, description="positions of the models: prompt and response together")

    @property
    def chance(self) -> float:
        """Probability that a uniformly guessed answer of the right form is right."""
        return 10.0**-self.digits

    def chain_length(self, level: int) -> int:
        """Return the operations of ``level`` (1-based; the last level plus one is the longer chain).

        Example:
            >>> MINI_WORLD.chain_length(6)
            6
        """
        return (*self.chain_lengths, self.longer_chain_length)[level - 1]


def _sets(scale: float, samples: int, most: int) -> tuple[SetConstants, ...]:
    """The eight sets at full size, or shrunk: ``scale`` times the problems, at most ``most`` of them."""

    def shrunk(counts: dict[int, int]) -> dict[int, int]:
        if sum(counts.values()) * scale <= most and scale == 1.0:
            return counts
        share = min(scale, most / sum(counts.values()))
        return {level: max(1, int(count * share)) for level, count in counts.items()}

    rows = (
        ("contest-a", "AIME 24", {5: 30}, 32, "in", None, "plain"),
        ("contest-b", "AIME 25", {6: 30}, 32, "in", None, "plain"),
        ("contest-c", "AMC", {3: 42, 4: 41}, 32, "in", None, "plain"),
        ("graded-500", "MATH-500", {1: 43, 2: 90, 3: 105, 4: 128, 5: 134}, 1, "in", None, "plain"),
        ("applied", "Minerva", {1: 30, 2: 50, 3: 60, 4: 66, 5: 66}, 1, "in", 0.7, "plain"),
        ("olympiad-like", "OlympiadBench", {4: 338, 5: 337}, 1, "in", None, "plain"),
        ("choice", "ARC-c", {1: 390, 2: 391, 3: 391}, 1, "out", None, "choice"),
        ("notation", "GPQA", {1: 66, 2: 66, 3: 66}, 1, "out", None, "notation"),
    )
    return tuple(
        SetConstants(
            name=name, stands_for=stands_for, problems_per_level=shrunk(counts), samples_per_problem=min(k, samples),
            distribution=distribution, multiply_share=share, form=form,
        )
        for name, stands_for, counts, k, distribution, share, form in rows
    )  # fmt: skip


MINI_WORLD = GradedWorld(
    name="mini",
    seed=4021,
    training_per_level=(143, 143, 143, 286, 286),
    validation_per_level=(40, 40, 40, 40, 40),
    evaluation=_sets(1.0, 32, 10**9),
)

#: The smallest world with the same parts; its numbers mean nothing.
TINY_WORLD = GradedWorld(
    name="tiny",
    seed=4022,
    digits=2,
    max_detours=4,
    training_per_level=(16, 8, 8, 8, 8),
    validation_per_level=(2, 2, 2, 2, 2),
    evaluation=_sets(0.02, 2, 8),
    curve_problems=4,
    curve_samples=2,
    context_tokens=128,
)

#: The mini world grown for one GPU: longer chains, of which the bases see the three shortest levels, as there,
#: and twice the questions. Nobody has trained on it yet, and nothing in it was searched.
GPU_WORLD = GradedWorld(
    name="gpu",
    seed=4023,
    chain_lengths=(2, 3, 4, 6, 8),
    longer_chain_length=10,
    max_detours=10,
    training_per_level=(286, 286, 286, 572, 572),
    validation_per_level=(80, 80, 80, 80, 80),
    evaluation=_sets(1.0, 32, 10**9),
    curve_problems=100,
)

WORLDS: dict[str, GradedWorld] = {world.name: world for world in (MINI_WORLD, TINY_WORLD, GPU_WORLD)}


def training_problems(world: GradedWorld) -> list[Problem]:
    """Return the training questions, each with one demonstration of the imperfect teacher.

    The order mixes the levels, so that the first so many questions are a fair sample of all.

    Example:
        >>> problem = training_problems(TINY_WORLD)[0]
        >>> problem.demonstration.endswith(f"boxed{{{problem.answer}}}")
        True
    """
    problems = list(_problems(world.model_dump_json(), "training"))
    seeded(world.seed, "training", "order").shuffle(problems)
    return problems


def validation_problems(world: GradedWorld) -> list[Problem]:
    """Return the problems on which settings are chosen; no table reports them."""
    return list(_problems(world.model_dump_json(), "validation"))


@cache
def _problems(content: str, split: Split) -> tuple[Problem, ...]:
    # keyed by content: a world holds mappings and cannot be hashed itself; a plan asks anew for each of its runs
    world = GradedWorld.model_validate_json(content)
    problems: list[Problem] = []
    seen: set[str] = set()
    per_level = {"training": world.training_per_level, "validation": world.validation_per_level}[split]
    for level, count in enumerate(per_level, start=1):
        for number in range(count):
            chain, generator = new_chain(world, split, (split, level, number), level, world.multiply_share, seen)
            demonstration = None
            if split == "training":
                demonstration = imperfect_teacher(generator, chain, world.detour, world.max_detours)
            name = f"{world.name}-{split}-{level}-{number}"
            problems.append(Problem(name, f"{chain.text}?", chain.answer, demonstration, level, "digits"))
    return tuple(problems)


def new_chain(
    world: GradedWorld, split: Split, name: tuple[object, ...], level: int, multiply_share: float, seen: set[str]
) -> tuple[Chain, random.Random]:
    """Draw a chain of ``level`` that is not in ``seen`` (it is added) and return it with its generator.

    The draw depends on the world's seed and ``name`` alone, so changing one set leaves the others as they are.
    """
    generator = seeded(world.seed, *name)
    while True:
        length = world.chain_length(level)
        chain = draw_chain(generator, world.seed, split, world.digits, length, multiply_share)
        if chain.text not in seen:
            seen.add(chain.text)
            return chain, generator
