r"""Grade responses: the content of the last balanced box goes to math-verify, in worker processes that can be killed.

Three decisions, each with the alternative it replaces:

1. Only the box is graded. math-verify on a whole response accepts an unboxed ``398*9=712`` and merges several boxes.
2. math-verify decides equality; no string grader of our own. Two kinds of answer add a rule on the *form*: "digits"
   must be ASCII digits (math-verify accepts ``\boxed{245+1}`` for 246), "choice" must be one letter, as it is or in its
   usual dress: ``\boxed{\text{(B)}}`` is B.
3. Workers are killed, not interrupted. math-verify's own limit is SIGALRM, which works only in a main thread and cannot
   stop a big-integer power inside C; and it reports "not equal" where the truth is "not known".

Workers are started with "spawn": the parent may hold torch, vLLM and their threads, which a fork would copy half-alive.
They do not import the parent's main script, as spawn otherwise does: it may hold torch, and need no guard this way.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Protocol, Self

from pebble import ProcessExpired, ProcessPool

from hpt.rewards.verify import (
    Comparison,
    Pair,
    compare_chunk,
    is_whole_number,
    last_boxed,
    math_verify_equal,
    prepare_worker,
)
from hpt.support.errors import ConfigError, HptError
from hpt.support.process import without_main_script

MAX_ANSWER_CHARACTERS = 2_000  # longer boxes are not answers; sympy's worst cases grow faster than linearly with length
MAX_CHUNK = 32  # pairs per task: large enough to hide the exchange (0.2 ms), small enough to repeat after a failure
CACHE_SIZE = 65_536  # (answer, gold) pairs remembered across batches
WORKER_START_S = 60.0  # a worker that needs longer to import math-verify is counted as stuck
MAX_POOL_RESTARTS = 3  # per batch
#: A lone letter of a multiple-choice question, which has at most ten: `B`, `(B)`, `B.`, `B)`, in \text and its like.
_CHOICE = re.compile(r"(?:\\(?:text|math)(?:normal|bf|rm|sf|it)?\{)?(?:\(([A-J])\)|([A-J])\)?)\.?\}?\.?")


class Verdict(StrEnum):
    """What grading one response ended with; only ``correct`` earns reward 1 (Eq. 7)."""

    correct = "correct"
    wrong = "wrong"
    no_answer = "no_answer"
    timed_out = "timed_out"


@dataclass(frozen=True)
class Grade:
    """The verdict on one response and the answer it was given for (at most 2,000 characters of it)."""

    verdict: Verdict
    answer: str | None


class GradedProblem(Protocol):
    """What the verifier reads of a problem; ``hpt.data.problems.Problem`` has these fields."""

    @property
    def answer(self) -> str: ...  # boxed or bare

    @property
    def answer_kind(self) -> str: ...  # a key of FORM_RULES


# The form an answer must have before it is compared.
FORM_RULES: dict[str, Callable[[str], bool]] = {
    "math": lambda answer: True,
    "digits": is_whole_number,
    "choice": lambda answer: _choice(answer) is not None,
}


#: What a text may hold and still show nothing: spaces, braces, dollars, \text and its like around nothing.
_SHOWS_NOTHING = re.compile(r"(?:\\(?:text|math)[a-z]*|[{}$'\s])*")


def why_unanswerable(problem: GradedProblem) -> str | None:
    r"""Return what a gold answer must be and is not, so that no response can be graded as correct; None where one can.

    Only the text is checked: math-verify takes milliseconds for a gold answer, and a hostile one holds it up.
    """
    gold = _gold(problem)
    if not FORM_RULES[problem.answer_kind](gold):
        return {"choice": "a lone letter A-J", "digits": "digits alone"}[problem.answer_kind]
    if last_boxed(f"\\boxed{{{gold}}}") is None or len(gold) > MAX_ANSWER_CHARACTERS:
        return f"at most {MAX_ANSWER_CHARACTERS:,} characters, with all braces closed"
    # inside a word, some scripts need invisible characters
    if _SHOWS_NOTHING.fullmatch(gold) or "Cf" in map(unicodedata.category, (gold[0], gold[-1])):
        return "text that can be seen from its first character to its last (no zero-width space, no byte-order mark)"
    return None


def _gold(problem: GradedProblem) -> str:
    boxed = last_boxed(problem.answer)
    return problem.answer if boxed is None else boxed


def _choice(text: str) -> str | None:
    match = _CHOICE.fullmatch("".join(text.split()))  # in the pattern, spaces would cost a power of their number
    return match and (match[1] or match[2])


class _WorkerProcess(SpawnProcess):
    """A spawned process that is not told of the parent's main script, and so does not import it."""

    def start(self) -> None:
        with without_main_script():
            super().start()


class _WorkerContext(SpawnContext):
    Process = _WorkerProcess


class Verifier:
    """Grades batches of responses, with workers that start on demand and are replaced when they hang or die.

    A pair of answer and gold that took longer than ``timeout_s``, or whose worker died, is compared once more in a task
    of its own; if that fails too the response counts as wrong, with the verdict ``timed_out``. A worker takes about
    100 MB and 1 s to start. ``compare`` decides equality; it must be importable. Not thread-safe. ``counters`` count
    every verdict, and what went wrong: of these ``too_long`` and ``errors`` (the comparison raised) are wrong answers.

    Example:
        >>> from types import SimpleNamespace
        >>> with Verifier() as verifier:
        ...     grades = verifier.grade(["\\\\boxed{024}"], [SimpleNamespace(answer="24", answer_kind="digits")])
        >>> grades[0].verdict.value
        'correct'
    """

    def __init__(self, workers: int = 1, timeout_s: float = 5.0, *, compare: Comparison = math_verify_equal) -> None:
        self.workers, self.timeout_s = workers, timeout_s
        self.counters = Counter[str]()
        self._compare = compare
        self._cache: dict[Pair, Verdict] = {}
        self._pool: ProcessPool | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the workers in the background (about 1 s until they can work); ``grade`` does it where needed."""
        if self._pool is None:
            self._pool = ProcessPool(
                self.workers, initializer=prepare_worker, initargs=(self._compare,), context=_WorkerContext()
            )
            self._schedule([])  # pebble starts its processes with the first task

    def close(self) -> None:
        """Stop the workers without waiting for what they do; a later ``grade`` starts new ones."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.stop()
            pool.join()

    def grade(self, responses: Sequence[str], problems: Sequence[GradedProblem]) -> list[Grade]:
        """Grade each response against the problem at the same position.

        Equal (answer, gold) pairs are compared once per batch, and remembered across batches unless they timed out.
        """
        grades: list[Grade | Pair] = [
            self._grade_form(response, problem) for response, problem in zip(responses, problems, strict=True)
        ]
        asked = Counter(grade for grade in grades if isinstance(grade, Pair))
        verdicts = {pair: self._cache[pair] for pair in asked if pair in self._cache}
        self.counters["cache_hits"] += sum(asked[pair] for pair in verdicts)
        verdicts |= self._compare_pairs([pair for pair in asked if pair not in verdicts])
        for pair, verdict in verdicts.items():
            if verdict is not Verdict.timed_out:  # a machine under load must not decide every later batch
                self._cache[pair] = verdict
        while len(self._cache) > CACHE_SIZE:
            del self._cache[next(iter(self._cache))]
        finished = [Grade(verdicts[grade], grade.answer) if isinstance(grade, Pair) else grade for grade in grades]
        self.counters.update(grade.verdict.value for grade in finished)
        return finished

    def _grade_form(self, response: str, problem: GradedProblem) -> Grade | Pair:
        """Grade what needs no comparison; return the pair to compare otherwise."""
        if problem.answer_kind not in FORM_RULES:
            allowed = f"one of {sorted(FORM_RULES)}"
            raise ConfigError("problem.answer_kind", problem.answer_kind, allowed, "correct the data row")
        answer = last_boxed(response)
        if answer is None:
            return Grade(Verdict.no_answer, None)
        if len(answer) > MAX_ANSWER_CHARACTERS:
            self.counters["too_long"] += 1
            return Grade(Verdict.wrong, answer[:MAX_ANSWER_CHARACTERS])
        if not FORM_RULES[problem.answer_kind](answer):
            return Grade(Verdict.wrong, answer)
        gold = _gold(problem)
        if problem.answer_kind == "choice":
            return Grade(Verdict.correct if _choice(answer) == _choice(gold) else Verdict.wrong, answer)
        return Pair(answer, gold)

    def _compare_pairs(self, pairs: list[Pair]) -> dict[Pair, Verdict]:
        """Compare in chunks; whatever was in a chunk that failed is compared again, each pair alone."""
        size = max(1, min(MAX_CHUNK, math.ceil(len(pairs) / self.workers)))
        verdicts = self._run([pairs[start : start + size] for start in range(0, len(pairs), size)])
        failed = [pair for pair in pairs if pair not in verdicts]
        self.counters["retried_alone"] += len(failed)
        verdicts |= self._run([[pair] for pair in failed])
        return {pair: verdicts.get(pair, Verdict.timed_out) for pair in pairs}

    def _run(self, chunks: list[list[Pair]]) -> dict[Pair, Verdict]:
        """Run each chunk once; chunks that ran out of time or lost their worker are missing from the result."""
        verdicts: dict[Pair, Verdict] = {}
        restarts = 0
        while chunks:
            lost = self._run_on_pool(chunks, verdicts)
            if lost:  # these never ran to an end of their own: the pool itself broke
                restarts += 1
                self.counters["pool_restarts"] += 1
                self.close()
                if restarts > MAX_POOL_RESTARTS:
                    message = f"the verifier's worker processes failed to start {restarts} times"
                    raise HptError(f"{message}; what they print says why, and `import math_verify` must work")
            chunks = lost
        return verdicts

    def _run_on_pool(self, chunks: list[list[Pair]], verdicts: dict[Pair, Verdict]) -> list[list[Pair]]:
        """Run the chunks on the present pool, add their verdicts, and return those lost because the pool broke."""
        self.start()
        try:
            waiting = {self._schedule(chunk): chunk for chunk in chunks}
        except RuntimeError:  # pebble: a worker died while idle, which breaks the whole pool
            return chunks
        lost: list[list[Pair]] = []
        while waiting:
            done, _ = wait(waiting, timeout=self.timeout_s + WORKER_START_S, return_when=FIRST_COMPLETED)
            if not done:  # a worker killed while it held pebble's lock leaves all others waiting for it
                return lost + list(waiting.values())
            for future in done:
                chunk = waiting.pop(future)
                try:
                    outcomes = future.result()
                except TimeoutError:
                    continue
                except ProcessExpired:
                    self.counters["worker_deaths"] += 1
                    continue
                except RuntimeError:  # BrokenProcessPool and pebble's own
                    lost.append(chunk)
                    continue
                self.counters["errors"] += outcomes.count(None)
                verdicts |= {
                    pair: Verdict.correct if outcome else Verdict.wrong
                    for pair, outcome in zip(chunk, outcomes, strict=True)
                }
        return lost

    def _schedule(self, chunk: list[Pair]) -> "Future[list[bool | None]]":
        assert self._pool is not None
        return self._pool.schedule(compare_chunk, args=(self._compare, chunk, self.timeout_s), timeout=self.timeout_s)
