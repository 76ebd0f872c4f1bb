r"""Decide whether two answers are equal: math-verify, and the limits on the process it runs in.

Worker processes of ``hpt.rewards`` import this module and math-verify, nothing else heavy: no torch, no vLLM.
"""

import logging
import math
import resource
import signal
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hpt.guard import refusals, refuse_side_effects

WORKER_MEMORY_BYTES = 2 * 1024**3  # address space a worker may add to what it holds after its imports
PARSE_CACHE_SIZE = 16_384  # parsed answers a worker keeps: responses share their gold, and wrong answers recur


class Pair(NamedTuple):
    """One comparison for math-verify: the content of a response's box and of the gold answer's."""

    answer: str
    gold: str


Comparison = Callable[[str, str], bool]


@lru_cache(maxsize=PARSE_CACHE_SIZE)
def _parse_boxed(content: str) -> list[Any]:
    """Parse one answer, boxed again; cached because the responses to one problem share its gold answer."""
    from math_verify import parse

    return parse("\\boxed{" + content + "}", parsing_timeout=None)  # type: ignore[arg-type]  # the pool limits the time


def math_verify_equal(answer: str, gold: str) -> bool:
    """Say whether math-verify takes an answer for the gold answer; the argument order of ``verify`` is not symmetric.

    Example:
        >>> math_verify_equal("0.5", "\\\\frac{1}{2}"), math_verify_equal("2", "3")
        (True, False)
    """
    from math_verify import verify

    return verify(_parse_boxed(gold), _parse_boxed(answer), timeout_seconds=None)


def prepare_worker(compare: Comparison) -> None:
    """Import math-verify, limit memory, refuse files and network, and make SIGTERM deadly at once.

    At once, because a handler waits for C code to return. ``compare`` is what the worker will be given to call: as an
    argument of its first function it is imported before files are refused.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off; ours is on
    math_verify_equal("1", "2")  # the first parse builds tables; later ones take half a millisecond
    status = Path("/proc/self/statm")
    if status.exists():  # Linux; elsewhere only the time is limited
        held = int(status.read_text().split()[0]) * resource.getpagesize()
        _lower_soft_limit(resource.RLIMIT_AS, held + WORKER_MEMORY_BYTES)
    refuse_side_effects()


def _lower_soft_limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def compare_chunk(compare: Comparison, pairs: Sequence[Pair], limit_s: float) -> list[bool | None]:
    """Compare each pair; None where the comparison raised, or was refused something it swallowed the exception of.

    Runs in a worker, with its CPU time limited.
    """
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
