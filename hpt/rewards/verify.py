r"""Eq. 7: the answer in the last balanced ``\boxed{...}`` of a response, and math-verify on it.

math-verify reads LaTeX and compares decimals to six places, whatever their size. So text it would misread is rewritten
first, the same way on both sides, and the places follow the size of the gold answer:

- ``4.5e33`` is a number (math-verify reads 4.5 times e times 33), ``2e``, ``3e^2`` and ``0x1e5`` are left alone. With a
  sign after it the e may be Euler's too: ``2e-1`` is read as 0.2 and as 2e - 1, and equals either.
- A full stop after a number or a bracket is no part of it: ``5.`` is 5, ``-1./3`` is -1/3.
- ``2i`` is 2 times i, as ``2 i`` is (math-verify takes the first i for a variable).
- A gold answer that cannot be read whole is compared as text; a percentage is right without its sign too.
- Decimals are compared to six places; where the gold answer holds a number below 0.001, to six significant digits of
  the smallest it holds. Other numbers are compared exactly, or to twelve digits or more.

Worker processes of ``hpt.rewards.workers`` import this module and math-verify, nothing else heavy: no torch, no vLLM.
"""

import logging
import math
import re
import resource
import signal
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hpt.rewards.guard import refusals, refuse_side_effects

# An escaped brace (`\{`) is a printed character in TeX, not a group, so it must not be counted; counting it would lose
# `\boxed{\left\{x\right.}`. A double backslash is a line break and leaves the following brace unescaped, except before
# `boxed`, where models write `\\boxed{5}` for `\boxed{5}`.
_TOKEN = re.compile(r"\\boxed\s*\{|\\[{}]|\\\\(?!boxed)|[{}]")


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last balanced ``\boxed{...}`` in a text, or None where there is none.

    "Last" means the box whose command stands last, so of nested boxes the inner one, as in the graders of Hendrycks
    et al. 2021 and of the released code. An unbalanced last box (a response cut off inside it) is passed over.

    Example:
        >>> last_boxed(r"so \boxed{1}, no: \boxed{\frac{1}{2}} and \boxed{3")
        '\\frac{1}{2}'
    """
    if "\\boxed" not in text:
        return None
    open_groups: list[int] = []  # content start of each open box, -1 for a plain group
    best_start, best_end = -1, -1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token.startswith("\\boxed"):
            open_groups.append(match.end())
        elif token == "{":
            open_groups.append(-1)
        elif token == "}" and open_groups:
            start = open_groups.pop()
            if start > best_start:  # an outer box closes after, but starts before, the one it contains
                best_start, best_end = start, match.start()
    return None if best_start < 0 else text[best_start:best_end]


WORKER_MEMORY_BYTES = 2 * 1024**3  # address space a worker may add to what it holds after its imports
DECIMALS, DIGITS = 6, 15  # math-verify's own: decimal places of decimals, significant digits of everything else
SMALL = 1e-3  # below it these would leave a number fewer than four digits
_SCIENTIFIC = re.compile(r"(?<![\w.^\\])(\d+(?:\.\d+)?|\.\d+)e([-+]?\d{1,3})(?![\w^]|\.\d)")
_IMAGINARY = re.compile(r"(?<=\d)i\b")
_FULL_STOP = re.compile(r"(?<=[\d)}\]$])\.(?=\s*(?:[/*),$]|$))")


class Pair(NamedTuple):
    """One comparison for math-verify: the content of a response's box and of the gold answer's."""

    answer: str
    gold: str


Comparison = Callable[[str, str], bool]


@lru_cache(maxsize=16_384)
def _parsed(content: str, is_gold: bool = False) -> list[Any]:
    """Parse one answer, boxed again; cached because the responses to one problem share its gold answer."""
    from math_verify import parse
    from math_verify.grader import get_pct_val

    content = _IMAGINARY.sub(" i", _FULL_STOP.sub("", content))
    texts = [_SCIENTIFIC.sub(r"\1E\2", content)]  # math-verify reads the capital letter
    if any(match[2][0] in "+-" for match in _SCIENTIFIC.finditer(content)):
        texts.append(content)
    values: list[Any] = []
    for text in texts:
        values += parse(
            "\\boxed{" + text + "}",
            # a formula it cannot read would be taken for the last number in it, and that number for the answer
            extraction_mode="first_match" if is_gold else "any_match",
            parsing_timeout=None,  # type: ignore[arg-type]  # the pool limits the time
        )
    if is_gold:  # math-verify takes 50 for 50%, and not 62.5 for 62.5%
        values += [number for value in values if (number := get_pct_val(value)) is not None]
    return [_evaluated(value) for value in values]


def _evaluated(value: Any) -> Any:
    """Return a number with decimals as one decimal, computed with more digits than it keeps: 1.13 * 10^2 is 113."""
    from sympy import Expr, Float, N, UnevaluatedExpr

    if not isinstance(value, Expr) or isinstance(value, Float) or not value.is_number:
        return value
    decimals = value.atoms(Float)
    if not decimals or value.has(UnevaluatedExpr):  # the latter is per cent, which math-verify compares in its own way
        return value
    number = N(value.xreplace({number: Float(str(number), 3 * DIGITS) for number in decimals}))
    return number if 1e-300 < abs(number) < 1e300 else value  # rounding 9.9^{9^9} would write out all its digits


def _zeros_after_the_point(value: Any) -> int:
    """Return how many zeros stand between the point and the smallest number of a gold answer below `SMALL`, else 0."""
    from sympy import Basic, Expr, MatrixBase

    if isinstance(value, MatrixBase):
        return max(map(_zeros_after_the_point, value.flat()), default=0)
    if not isinstance(value, Basic):
        return 0  # a text that math-verify could not read
    if not isinstance(value, Expr):  # a set, a tuple, an interval, an equation
        return max(map(_zeros_after_the_point, value.args), default=0)
    size = abs(value.evalf(3)) if value.is_number else value
    return -Decimal(str(size)).adjusted() - 1 if size.is_comparable and 0 < size < SMALL else 0


def math_verify_equal(answer: str, gold: str) -> bool:
    """Say whether math-verify takes an answer for the gold answer; their order matters to ``verify``."""
    if is_whole_number(answer) and is_whole_number(gold):  # a step of training compares hundreds
        return answer.lstrip("0") == gold.lstrip("0")
    from math_verify import verify

    expected, given = _parsed(gold, is_gold=True), _parsed(answer)
    if all(isinstance(value, str) for value in expected):
        return not _texts(expected).isdisjoint(_texts(given))
    extra = max(map(_zeros_after_the_point, expected), default=0)
    return verify(
        expected,
        given,
        float_rounding=DECIMALS + extra,
        numeric_precision=DIGITS + max(0, extra - 3),
        timeout_seconds=None,
    )


def is_whole_number(text: str) -> bool:
    """Say whether a text is ASCII digits alone; str.isdigit takes Arabic-Indic ones too, which math-verify does not."""
    return text.isascii() and text.isdigit()


def _texts(values: list[Any]) -> set[str]:
    """Return what math-verify could not read, or keeps beside what it read, without spaces."""
    return {text for value in values if isinstance(value, str) and (text := "".join(value.split()))}


def prepare_worker(compare: Comparison) -> None:
    """Import math-verify, limit memory, refuse files and network; ``compare`` has to be imported before that."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # deadly at once: a handler waits for C code to return
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off; ours is on
    math_verify_equal("1", "2.5")  # the first parse builds tables; later ones take half a millisecond
    status = Path("/proc/self/statm")
    if status.exists():  # Linux; elsewhere only the time is limited
        held = int(status.read_text().split()[0]) * resource.getpagesize()
        _lower_soft_limit(resource.RLIMIT_AS, held + WORKER_MEMORY_BYTES)
    refuse_side_effects()


def _lower_soft_limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def compare_chunk(compare: Comparison, pairs: Sequence[Pair], limit_s: float) -> list[bool | None]:
    """Compare each pair, in a worker; None where the comparison raised, or was refused something."""
    # Backstop for a parent that was killed and can no longer stop this worker; the limit counts from its birth.
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _lower_soft_limit(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime + 2 * limit_s) + 1)
    outcomes: list[bool | None] = []
    for pair in pairs:
        refused = len(refusals)
        try:
            outcome = bool(compare(*pair))
            outcomes.append(outcome if len(refusals) == refused else None)
        except Exception:  # anything from RecursionError to MemoryError; one pair must not cost the others of its chunk
            outcomes.append(None)
    return outcomes
