r"""The questions of scale ``smollm``: graded families of reasoning-gym, with demonstrations of a few worked steps.

They are read from ``smollm.jsonl`` beside this file, so that neither runs nor reports need reasoning-gym;
``python -m hpt.data.world.gym`` draws them anew, and a test compares. Each family is an evaluation set. Which families
and levels, and what was looked at to choose them, is told in docs/world.md.

reasoning-gym (Apache-2.0) draws question and answer. A teacher works the answer out from what reasoning-gym says of
the question (its metadata), so every demonstration is right. The published model boxes too few answers to be
rewarded: the base of this scale has seen the demonstrations of other questions, those of split ``format``
(`hpt.training.bases`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hpt.config.settings import Settings
from hpt.data.problems import Problem, save_problems
from hpt.data.world.sets import EvaluationSet

#: Name of the scale and of its world.
SMOLLM = "smollm"
FILE = Path(__file__).with_name("smollm.jsonl")
SEED = 18
#: Questions of each of four levels (of two, twice as many), none twice.
PER_LEVEL = {"evaluation": 50, "validation": 5, "training": 20, "format": 20}
#: Figure 2 draws many answers to a few questions: this many of the two hardest levels of every trained family.
REACH = 4

Metadata = Mapping[str, Any]


class GymWorld(Settings):
    """What other worlds have too: a name, the size of the curves, and the probability that a guess is right.

    Nothing bounds the answers, so there is no guess of the right form: 0.
    """

    name: str
    curve_problems: int = 16
    curve_samples: int = 4
    chance: float = 0.0


SMOLLM_WORLD = GymWorld(name=SMOLLM)


@dataclass(frozen=True)
class Family:
    """A family of reasoning-gym and how it is asked here.

    Attributes:
        name: of its evaluation set.
        gym: reasoning-gym's name of it.
        levels: settings of reasoning-gym, the easiest level first.
        steps: metadata to the worked steps, the last of which ends in the answer.
        question: (question, metadata) to a shorter question.
        trained: whether it is trained on; else it is out of distribution.
    """

    name: str
    gym: str
    levels: Sequence[Mapping[str, int]]
    steps: Callable[[Metadata], list[str]]
    question: Callable[[str, Metadata], str]
    trained: bool = True


def _sum_steps(meta: Metadata) -> list[str]:
    """Return one line for every term after the first.

    Example:
        >>> _sum_steps({"expression": "2 - 8 - 2"})
        ['2 - 8 = -6', '-6 - 2 = -8']
    """
    first, *rest = meta["expression"].split()
    total, steps = int(first), list[str]()
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        after = total + int(term) * (1 if sign == "+" else -1)
        steps.append(f"{total} {sign} {term} = {after}")
        total = after
    return steps


def _product_steps(meta: Metadata) -> list[str]:
    """Return one line for every factor after the first, three where both have two digits: tens, ones and their sum.

    Example:
        >>> _product_steps({"expression": "87 * 67"})
        ['87 * 60 = 5220', '87 * 7 = 609', '5220 + 609 = 5829']
    """
    total, *factors = map(int, meta["expression"].split(" * "))
    steps = list[str]()
    for factor in factors:
        tens, ones = total * (factor - factor % 10), total * (factor % 10)
        if total > 9 and tens and ones:
            steps += [f"{total} * {factor - factor % 10} = {tens}", f"{total} * {factor % 10} = {ones}"]
            steps.append(f"{tens} + {ones} = {tens + ones}")
        else:
            steps.append(f"{total} * {factor} = {total * factor}")
        total *= factor
    return steps


def _equation_steps(meta: Metadata) -> list[str]:
    """Return the variable's term alone, then the variable.

    Example:
        >>> _equation_steps({"equation": "45 - 8*e = 5", "variable": "e"})
        ['8e = 45 - 5 = 40', 'e = 40 / 8 = 5']
    """
    name, (left, right) = meta["variable"], meta["equation"].split(" = ")
    first, sign, second = left.split() if " " in left else (left, "+", "0")
    own, other = (first, second) if name in first else (second, first)
    factor = int(own.removesuffix(name).removesuffix("*") or 1)
    if own == second and sign == "-":
        moved = f"{other} - {right}" if int(right) >= 0 else f"{other} + {right[1:]}"
    else:
        moved = f"{right} {'-' if own == second or sign == '+' else '+'} {other}"
    value = _value_of(moved)
    if factor == 1:
        return [f"{name} = {moved} = {value}"]
    alone = [] if other == "0" else [f"{factor}{name} = {moved} = {value}"]
    return [*alone, f"{name} = {value} / {factor} = {value // factor}"]


def _value_of(text: str) -> int:
    """Return the value of a sum as `_sum_steps` works it out."""
    return int(_sum_steps({"expression": text})[-1].rpartition("= ")[2])


def _leg_steps(meta: Metadata) -> list[str]:
    """Return the legs of every kind of animal, and their sum."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS  # pyright: ignore[reportMissingImports]

    legs = {animal: (count, ANIMALS[animal]) for animal, count in meta["animals"].items()}
    steps = [f"{count} * {each} = {count * each}" for count, each in legs.values()]
    total = " + ".join(str(count * each) for count, each in legs.values())
    return steps if len(legs) == 1 else [*steps, f"{total} = {meta['total_legs']}"]


def _gcd_steps(meta: Metadata) -> list[str]:
    """Return Euclid's remainders.

    Example:
        >>> _gcd_steps({"numbers": [10, 6]})
        ['10 mod 6 = 4', '6 mod 4 = 2', '4 mod 2 = 0', 'gcd = 2']
    """
    smaller, larger = sorted(meta["numbers"])
    steps = list[str]()
    while smaller:
        steps.append(f"{larger} mod {smaller} = {larger % smaller}")
        larger, smaller = smaller, larger % smaller
    return [*steps, f"gcd = {larger}"]


def _angle_steps(meta: Metadata) -> list[str]:
    """Return the sum of the known angles, and what it lacks."""
    known, whole = [int(angle) for angle in meta["known_angles"]], meta["total_interior_sum"]
    return [f"{' + '.join(map(str, known))} = {sum(known)}", f"{whole} - {sum(known)} = {whole - sum(known)}"]


def _expression(_question: str, meta: Metadata) -> str:
    return f"What is {meta['expression']}?"


def _terms(terms: int, digits: int) -> dict[str, int]:
    return {"min_terms": terms, "max_terms": terms, "min_digits": digits, "max_digits": digits}


FAMILIES = (
    Family(
        "sums", "chain_sum", (_terms(2, 1), _terms(3, 1), _terms(2, 2), _terms(3, 2)), _sum_steps, _expression,
    ),
    Family(
        "products", "products", (_terms(2, 1), _terms(3, 1), _terms(2, 1) | {"max_digits": 2}, _terms(2, 2)),
        _product_steps, _expression,
    ),
    Family(
        "equations", "simple_equations",
        tuple({"min_terms": 2, "max_terms": 2, "max_value": most} for most in (5, 9, 20, 50)),
        _equation_steps, lambda question, meta: f"Solve for {meta['variable']}: {meta['equation']}",
    ),
    Family(
        "legs", "leg_counting",
        tuple({"min_animals": kinds, "max_animals": kinds, "max_instances": most}
              for kinds, most in ((1, 5), (1, 15), (2, 5), (2, 15))),
        _leg_steps, lambda question, meta: question.split("\n")[-2].replace("Now, how", "How"),
    ),
    Family(
        "divisors", "gcd", tuple({"min_value": 2, "max_value": most} for most in (12, 24, 48, 96)), _gcd_steps,
        lambda question, meta: f"What is the greatest common divisor of {' and '.join(map(str, meta['numbers']))}?",
        trained=False,
    ),
    Family(
        "angles", "simple_geometry", tuple({"min_sides": sides, "max_sides": sides} for sides in (3, 4)), _angle_steps,
        lambda question, meta: question.partition("Return only")[0].replace(".0°", ""), trained=False,
    ),
)  # fmt: skip
IN_DISTRIBUTION = tuple(family.name for family in FAMILIES if family.trained)
OUT_OF_DISTRIBUTION = tuple(family.name for family in FAMILIES if not family.trained)


def draw() -> list[Problem]:
    """Draw all questions anew with reasoning-gym; which split and set one is of stands in its id.

    Raises:
        ImportError: reasoning-gym is not installed.
    """
    problems = list[Problem]()
    for number, family in enumerate(FAMILIES):
        seen = set[str]()  # of all levels: an easy question may come again among harder ones
        for level in range(1, len(family.levels) + 1):
            drawn = _drawn(family, level, 1_000_000 * SEED + 100_000 * number + 10_000 * level, seen)
            for split, count in PER_LEVEL.items() if family.trained else [*PER_LEVEL.items()][:1]:
                for place in range(count * 4 // len(family.levels)):
                    question, answer, shown = next(drawn)
                    name = f"{split}-{family.name}-{level}-{place}"
                    demonstration = shown if split in ("training", "format") else None
                    problems.append(Problem(name, question, answer, demonstration, level))
    return problems


def _drawn(family: Family, level: int, seed: int, seen: set[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (question, answer, demonstration) of questions that are not in ``seen``, and add them."""
    import reasoning_gym  # pyright: ignore[reportMissingImports]

    for entry in reasoning_gym.create_dataset(family.gym, seed=seed, size=10_000, **family.levels[level - 1]):
        question, answer = family.question(entry["question"], entry["metadata"]).strip(), str(entry["answer"])
        if question not in seen:
            seen.add(question)
            *steps, last = family.steps(entry["metadata"])
            yield question, answer, "\n".join([*steps, f"{last.rpartition(' ')[0]} \\boxed{{{answer}}}"])


@cache
def _problems() -> Mapping[tuple[str, str], tuple[Problem, ...]]:
    """Return the questions of the file by split and family."""
    found: dict[tuple[str, str], tuple[Problem, ...]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        problem = Problem(**json.loads(line))
        split, family, *_ = problem.id.split("-")
        found[split, family] = (*found.get((split, family), ()), problem)
    return found


def mixed(split: str) -> list[Problem]:
    """Return the questions of a split, families and levels in turn, so that the first so many are a fair sample."""
    families = [_problems()[split, name] for name in IN_DISTRIBUTION]
    places = sorted((int(one.id.rpartition("-")[2]), one.level or 0, number, one)
                    for number, family in enumerate(families) for one in family)  # fmt: skip
    return [one for *_, one in places]


def evaluation_sets() -> dict[str, EvaluationSet]:
    """Return the evaluation sets by name: a family each, and ``reach``, which Figure 2 draws many answers to.

    Example:
        >>> {name: len(one.problems) for name, one in evaluation_sets().items()}
        {'sums': 200, 'products': 200, 'equations': 200, 'legs': 200, 'divisors': 200, 'angles': 200, 'reach': 32}
    """

    def of(name: str, distribution: str, make: Callable[[], tuple[Problem, ...]]) -> EvaluationSet:
        return EvaluationSet(name, "none of the paper's", 1, distribution, 0, make)

    sets = {name: of(name, kind, lambda name=name: _problems()["evaluation", name])
            for kind, names in (("in", IN_DISTRIBUTION), ("out", OUT_OF_DISTRIBUTION)) for name in names}  # fmt: skip
    return sets | {"reach": of("reach", "part", _hardest)}


def _hardest() -> tuple[Problem, ...]:
    hard = [[one for one in _problems()["evaluation", name] if one.level == level]
            for name in IN_DISTRIBUTION for level in (3, 4)]  # fmt: skip
    return tuple(one for of_level in hard for one in of_level[:REACH])


if __name__ == "__main__":
    save_problems(FILE, draw())
