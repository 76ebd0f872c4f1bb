"""Chains of digit-wise operations: the arithmetic of the graded world, its texts, and its split into disjoint parts.

A state is a string of digits, leading zeros kept. One operation acts on every digit alone, modulo 10: ``+d`` and ``-d``
with d = 1..9, ``*m`` with m in 3, 7, 9. All of them permute the ten digits, so an answer is uniform over all states and
a guess is right once in ``10**digits``.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["pretraining", "training", "validation", "evaluation"]

DIGITS = "0123456789"
ADDITIVE = tuple(f"{sign}{amount}" for sign in "+-" for amount in range(1, 10))
MULTIPLICATIVE = ("*3", "*7", "*9")  # coprime to 10; *1 does nothing
LETTERS = "ABCD"
NOTATION = str.maketrans("+-*", "pmt")

_FUNCTIONS = {
    "+": lambda digit, amount: digit + amount,
    "-": lambda digit, amount: digit - amount,
    "*": lambda digit, amount: digit * amount,
}
#: Operation to the permutation of digit characters it performs.
OPERATIONS: dict[str, dict[int, int]] = {
    operation: {
        ord(digit): ord(DIGITS[_FUNCTIONS[operation[0]](int(digit), int(operation[1])) % 10]) for digit in DIGITS
    }
    for operation in ADDITIVE + MULTIPLICATIVE
}

#: Upper ends, on [0, 1), of the parts into which a hash of each chain divides all chains.
_SPLITS: tuple[tuple[float, Split], ...] = (
    (0.01, "validation"),
    (0.03, "evaluation"),
    (0.13, "training"),
    (1.0, "pretraining"),
)
_HELD_OUT = ("validation", "evaluation")


def seeded(*parts: object) -> random.Random:
    """Return a generator that depends on ``parts`` alone: not on earlier calls, the process or Python's ``hash``.

    Example:
        >>> seeded("teacher", 1).random() == seeded("teacher", 1).random() != seeded("teacher", 2).random()
        True
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))


@dataclass(frozen=True)
class Chain:
    """A start state and the operations applied to it from left to right.

    Example:
        >>> chain = Chain("2735", ("*9", "-7"))
        >>> chain.text, chain.states, chain.answer
        ('2735*9-7', ('2735', '8375', '1608'), '1608')
    """

    start: str
    operations: tuple[str, ...]

    @property
    def text(self) -> str:
        """Start and operations, the name of the chain and, with ``?``, its question."""
        return self.start + "".join(self.operations)

    @property
    def states(self) -> tuple[str, ...]:
        """All states, from the start to the answer: one more than operations."""
        states = [self.start]
        for operation in self.operations:
            states.append(states[-1].translate(OPERATIONS[operation]))
        return tuple(states)

    @property
    def answer(self) -> str:
        """The state after the last operation."""
        return self.states[-1]

    def parts(self) -> Iterator["Chain"]:
        """Yield every contiguous part of the chain, the chain itself among them."""
        states, length = self.states, len(self.operations)
        for first in range(length):
            for last in range(first + 1, length + 1):
                yield Chain(states[first], self.operations[first:last])


class Named(Protocol):
    """What has a name of its own: a chain, or a program of look-ups."""

    @property
    def text(self) -> str: ...


def split_of(seed: int, chain: Named) -> Split:
    """Return the one part of the data to which ``chain`` belongs, from a hash of (seed, chain).

    The form in which it is asked (plain, choice, other notation) does not matter: no chain is ever in two parts.

    Example:
        >>> split_of(1, Chain("2735", ("*9",))) == split_of(1, Chain("2735", ("*9",)))
        True
    """
    digest = hashlib.blake2b(f"{seed}|{chain.text}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    return next(split for end, split in _SPLITS if position < end)


def belongs(seed: int, chain: Chain, split: Split) -> bool:
    """Return whether ``chain`` may be used in ``split``.

    Chains that are shown worked out (pre-training, training) must moreover hold no validation or evaluation chain as a
    part: otherwise a level-1 test question could be read off a step of a longer demonstration.
    """
    if split_of(seed, chain) != split:
        return False
    return split in _HELD_OUT or not any(split_of(seed, part) in _HELD_OUT for part in chain.parts())


def draw_chain(
    generator: random.Random, seed: int, split: Split, digits: int, length: int, multiply_share: float
) -> Chain:
    """Draw a chain of ``length`` operations that belongs to ``split``.

    Args:
        generator: source of randomness, advanced.
        seed: seed of the world, which decides the split.
        split: part of the data.
        digits: digits of a state.
        length: number of operations.
        multiply_share: probability that an operation is a multiplication; + and - share the rest evenly.

    Example:
        >>> len(draw_chain(seeded(0), 1, "training", 4, 3, 0.34).operations)
        3
    """
    while True:
        start = f"{generator.randrange(10**digits):0{digits}d}"
        kinds = [MULTIPLICATIVE if generator.random() < multiply_share else ADDITIVE for _ in range(length)]
        chain = Chain(start, tuple(generator.choice(kind) for kind in kinds))
        if belongs(seed, chain, split):
            return chain


def boxed(answer: str) -> str:
    r"""Return ``\boxed{answer}``."""
    return rf"\boxed{{{answer}}}"


def compact_solution(chain: Chain) -> str:
    r"""Return the short style of the bases: each state follows from the text before it.

    Example:
        >>> compact_solution(Chain("2735", ("*9", "-7")))
        '2735*9=8375-7=1608'
    """
    states = chain.states
    return states[0] + "".join(f"{op}={state}" for op, state in zip(chain.operations, states[1:], strict=True))


def restated_solution(chain: Chain, detours: dict[int, list[str]] | None = None) -> str:
    r"""Return the long style of the demonstrations: every step restates its state.

    Args:
        chain: what is worked out.
        detours: step (0-based) to wrong values written, and marked wrong with ``#``, before the right one.

    Example:
        >>> restated_solution(Chain("2735", ("*9", "-7")), {1: ["1308"]})
        '2735*9=8375>8375-7=1308#1608>'
    """
    steps = []
    states = chain.states
    for step, operation in enumerate(chain.operations):
        values = [*(detours or {}).get(step, []), states[step + 1]]
        steps.append(f"{states[step]}{operation}={'#'.join(values)}>")
    return "".join(steps)


def imperfect_teacher(generator: random.Random, chain: Chain, detour: float, max_detours: int) -> str:
    r"""Return a demonstration: restated steps with detours, then the right boxed answer.

    Before each right value the teacher errs with probability ``detour``, again and again. It then forgets to change one
    digit, always the last that the operation changes: an error at a random place is so improbable, digit by digit, that
    sampling at temperature 0.6 with top-p 0.95 never shows it, and imitating the teacher costs nothing.

    Args:
        generator: source of randomness, advanced.
        chain: what is worked out.
        detour: probability of a wrong value before each value written.
        max_detours: at most so many in one demonstration, which bounds its length.

    Example:
        >>> imperfect_teacher(seeded(3), Chain("2735", ("*9", "-7")), 0.25, 8)
        '2735*9=8375>8375-7=1608>\\boxed{1608}'
    """
    detours: dict[int, list[str]] = {}
    states, left = chain.states, max_detours
    for step in range(len(chain.operations)):
        wrong = _with_one_digit_forgotten(states[step], states[step + 1])
        while wrong is not None and left and generator.random() < detour:
            detours.setdefault(step, []).append(wrong)
            left -= 1
    return restated_solution(chain, detours) + boxed(chain.answer)


def _with_one_digit_forgotten(before: str, after: str) -> str | None:
    """``after`` with the last digit that changed left as it was; None where none changed (multiplying 0 or 5)."""
    for place in reversed(range(len(after))):
        if before[place] != after[place]:
            return after[:place] + before[place] + after[place + 1 :]
    return None


def choice_question(chain: Chain) -> tuple[str, str]:
    """Return (question with four choices, right letter): in which quarter of all states, A the lowest, is the answer?

    The choices are fixed, because models of this size do not learn to look a letter up: with four values listed, before
    or after their letters, 3,000 documents taught nothing beyond chance.

    Example:
        >>> choice_question(Chain("2735", ("*9",)))
        ('2735*9?ABCD', 'D')
    """
    quarter = int(chain.answer) * len(LETTERS) // 10 ** len(chain.answer)
    return f"{chain.text}?{LETTERS}", LETTERS[quarter]


def in_notation(text: str) -> str:
    """Return ``text`` with the other symbols for the operations.

    Example:
        >>> in_notation("2735*9-7?")
        '2735t9m7?'
    """
    return text.translate(NOTATION)
