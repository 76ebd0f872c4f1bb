"""``python -m benchmarks.smollm_questions``: draw the questions of scale ``smollm`` anew, into smollm.jsonl.

reasoning-gym (Apache-2.0) draws question and answer. A teacher works the answer out from what reasoning-gym says of
the question (its metadata), so every demonstration is right. Which families and levels, and what was looked at to
choose them, is told in docs/world.md. `hpt.data.world.gym` reads the file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpt.data.problems import Problem, save_problems
from hpt.data.world.gym import FILE

SEED = 18
#: Questions of each of four levels (of two, twice as many), none twice.
PER_LEVEL = {"evaluation": 50, "validation": 5, "training": 20, "format": 20}

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A family of reasoning-gym and how it is asked here."""

    name: str  # of its evaluation set
    gym: str  # reasoning-gym's name of it
    levels: Sequence[Mapping[str, int]]  # settings of reasoning-gym, the easiest level first
    steps: Callable[[Metadata], list[str]]  # the worked steps, the last of which ends in the answer
    question: Callable[[str, Metadata], str]  # a shorter question
    trained: bool = True  # else it is out of distribution


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


def draw() -> list[Problem]:
    """Draw all questions anew; which split and set one is of stands in its id."""
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


if __name__ == "__main__":
    save_problems(FILE, draw())
