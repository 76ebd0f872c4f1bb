r"""The verifier against answers made to break it: no crash, no hang, bounded memory, no side effect, no code run.

What is compiled is looked at too: math-verify hands answers without LaTeX to sympy, which evaluates them as Python.
`math_verify_watched` runs in worker processes, which import it from this module.
"""

import ast
import multiprocessing
import os
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hpt.rewards.verify import WORKER_MEMORY_BYTES, math_verify_equal
from hpt.rewards.workers import MAX_ANSWER_CHARACTERS, WORKER_START_S, Verdict, Verifier
from tests.faults.hostile import CONTENTS, GOLDS, HARD, RESPONSES, hostile_responses
from tests.gold import Gold

TIMEOUT_S = 1.0
BATCH = 25
#: What may be compiled: arithmetic, with the names sympy wraps numbers in, its constants, and symbols as texts; and
#: what sympy generates of its own for polynomials. Nothing here calls or names anything else.
HARMLESS = re.compile(
    r"from sympy import \*|(?:'[\w.+-]*+'|\d[\d.]*+|[-+*/%(),.:=<> \n]"
    r"|\b(?:Integer|Float|Rational|Symbol|Add|Mul|Pow|E|I|pi|oo|evaluate|False|True|def|return|if|else|None|[eE]\d+"
    r"|monomial_\w++|[ABk]|[abr]\d++)\b)*+"
)
#: Modules that compile templates of their own, filled with names from installed source or with kinds of numbers (mpmath
#: makes a sum per kind of coefficients), never with a piece of an answer: what sympy imports at first use, and e^(x^2).
OWN_TEMPLATES = frozenset({"dataclasses", "typing", "collections", "mpmath.libmp.libhyper"})
_compiled: list[str] = []


def _note_compiled(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "compile" and arguments[0] is not None and not str(arguments[1]).endswith(".py"):
        if sys._getframe(1).f_globals.get("__name__") in OWN_TEMPLATES:
            return
        source = arguments[0]
        if isinstance(source, ast.AST):  # sympy rewrites what it parsed before it compiles that
            source = ast.unparse(source)
        _compiled.append(source.decode(errors="replace") if isinstance(source, bytes) else str(source))


def math_verify_watched(answer: str, gold: str) -> bool:
    """Compare as always, and say on stderr what was compiled if it was more than arithmetic."""
    if not getattr(sys, "_compiling_is_watched", False):
        sys._compiling_is_watched = True
        sys.addaudithook(_note_compiled)
    _compiled.clear()
    try:
        return math_verify_equal(answer, gold)
    finally:
        for source in _compiled:
            if not HARMLESS.fullmatch(source):
                os.write(2, f"compiled more than arithmetic: {source!a} for {answer!a}\n".encode())


@dataclass
class Grader:
    """A verifier with its limits watched: a comparison's own, and what a busy machine takes to start a worker."""

    verifier: Verifier
    answers: int = 0
    slowest_s: float = 0.0
    largest_worker: int = 0

    def grade(self, responses: list[str], golds: list[Gold]) -> list[Verdict]:
        """Grade a batch, and check what must hold of every batch."""
        before, start = Counter(self.verifier.counters), time.monotonic()
        grades = self.verifier.grade(responses, golds)
        took = time.monotonic() - start
        grown = self.verifier.counters - before
        assert took <= (1 + grown["retried_alone"]) * (TIMEOUT_S + WORKER_START_S)
        assert len(grades) == len(responses) == sum(grown[verdict] for verdict in Verdict)
        assert all(grade.answer is None or len(grade.answer) <= MAX_ANSWER_CHARACTERS for grade in grades)
        self.answers += len(responses)
        self.slowest_s = max(self.slowest_s, took / (1 + grown["retried_alone"]))
        self.largest_worker = max([self.largest_worker, *map(peak_memory, multiprocessing.active_children())])
        return [grade.verdict for grade in grades]


def peak_memory(process: Any) -> int:
    """Bytes of memory a process held at most; 0 where it cannot be read."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    except OSError:
        return 0
    return int(found.group(1)) * 1024 if found else 0


@pytest.fixture
def grader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Grader]:
    """A grader; afterwards nothing was written, refused, compiled or left running."""
    monkeypatch.chdir(tmp_path)  # where an answer that writes would leave its mark
    own, ended = resident_bytes(), largest_ended_child()
    with Verifier(timeout_s=TIMEOUT_S, compare=math_verify_watched) as verifier:
        grader = Grader(verifier)
        yield grader
    said = capfd.readouterr().err
    counted = {name: count for name, count in verifier.counters.items() if count}
    largest, grown = (size / 2**20 for size in (grader.largest_worker, resident_bytes() - own))
    with capfd.disabled():  # the figures of docs/reliability.md
        print(f"\n{grader.answers} answers: {counted}; slowest batch or lone answer {grader.slowest_s:.1f} s; largest "
              f"worker {largest:.0f} MiB; this process grew by {grown:.0f} MiB", flush=True)  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert multiprocessing.active_children() == []
    assert "refused to a verifier's worker" not in said
    assert "compiled more than arithmetic" not in said
    assert grader.largest_worker < WORKER_MEMORY_BYTES + 300 * 1024**2
    # those that were killed; a larger child of an earlier test would hide them
    assert largest_ended_child() < max(ended + 1, WORKER_MEMORY_BYTES + 300 * 1024**2)
    assert resident_bytes() - own < 300 * 1024**2


def largest_ended_child() -> int:
    """Bytes of memory the largest of all processes held that this one started and that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.ci_slow
@pytest.mark.timeout(1800)
def test_known_troubles(grader: Grader) -> None:
    """Every one against a gold answer it is not, and the troublesome responses."""
    responses = [f"\\boxed{{{content}}}" for content in CONTENTS + HARD] + list(RESPONSES)
    verdicts: Counter[Verdict] = Counter()
    for start in range(0, len(responses), BATCH):
        batch = responses[start : start + BATCH]
        verdicts.update(grader.grade(batch, [Gold("31415926")] * len(batch)))
    assert verdicts[Verdict.correct] == 0
    assert verdicts[Verdict.wrong] + verdicts[Verdict.timed_out] > 200  # the rest has no answer


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "answers", [200, pytest.param(1_000, marks=pytest.mark.ci_slow), pytest.param(20_000, marks=pytest.mark.slow)]
)
def test_generated_answers(answers: int, grader: Grader) -> None:
    """The same ones every time."""
    batches = st.lists(hostile_responses(), min_size=BATCH, max_size=BATCH)

    @settings(
        max_examples=answers // BATCH, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(batches, st.lists(st.sampled_from(GOLDS), min_size=BATCH, max_size=BATCH))
    def grade(responses: list[str], golds: list[str]) -> None:
        grader.grade(responses, [Gold(gold) for gold in golds])

    grade()
    assert grader.answers >= answers


@pytest.mark.parametrize("code", ["__import__('os')", "open('x','w')", "[1 for _ in 'ab']", "x.y", "def f(A): return A",
                                  "Symbol ('x' ).name", "factorial (9 )", "lambda :1", "a0 .real"])  # fmt: skip
def test_what_is_compiled_would_be_noticed(code: str) -> None:
    harmless = "Integer (1 )+Symbol ('x' )**Float ('2.5' )"
    assert not HARMLESS.fullmatch(code)
    assert HARMLESS.fullmatch(harmless)
    _compiled.clear()
    for text in (code, harmless):  # sympy compiles some of it as a syntax tree, which it has rewritten
        _note_compiled("compile", (ast.parse(text), "<string>"))
    assert [bool(HARMLESS.fullmatch(source)) for source in _compiled] == [False, True]
