"""The verifier when comparisons hang or kill their worker: the batch completes, the rest is graded, all is counted.

The functions given as ``compare`` run in worker processes, which import them from this module.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpt.rewards.verify import WORKER_MEMORY_BYTES, Pair
from hpt.rewards.workers import Verdict, Verifier
from hpt.support.errors import HptError
from tests.gold import Gold

HANGS_S = 60.0
TIMEOUT_S = 1.0  # a comparison here takes microseconds; a loaded machine may pause it for half a second


def text_equal_unless_told_to_fail(answer: str, gold: str) -> bool:
    """Misbehave as the answer says. `once PATH` misbehaves only as long as PATH does not exist."""
    words = answer.split()
    if words[0] == "once":
        mark = Path(words[1])
        if mark.exists():
            return True
        mark.touch()
        words = words[2:]
    if words[0] == "hang":
        time.sleep(HANGS_S)
    if words[0] == "hang-in-c":  # one uninterruptible C call, some minutes long
        _ = 10 ** (10**9) % 7
    if words[0] == "exit":
        os._exit(int(words[1]))
    if words[0] == "kill":
        signal.raise_signal(signal.SIGKILL)
    if words[0] == "raise":
        raise RecursionError
    return answer == gold


def no_engine_in_worker(answer: str, gold: str) -> bool:
    return "math_verify" in sys.modules and not {"torch", "vllm", "numpy"} & set(sys.modules)


def room_for(answer: str, gold: str) -> bool:
    return len(bytearray(int(answer))) > 0


def grade(verifier: Verifier, *answers: str) -> list[Verdict]:
    grades = verifier.grade([f"\\boxed{{{answer}}}" for answer in answers], [Gold("good")] * len(answers))
    return [grade.verdict for grade in grades]


def failing_verifier(**settings: int) -> Verifier:
    return Verifier(timeout_s=TIMEOUT_S, compare=text_equal_unless_told_to_fail, **settings)


@pytest.mark.parametrize(
    ("failure", "deaths"), [("hang", 0), ("hang-in-c", 0), ("exit 1", 2), ("exit 0", 0), ("kill", 2)]
)
def test_a_failing_pair_is_tried_alone_then_times_out_and_the_batch_completes(failure: str, deaths: int) -> None:
    with failing_verifier() as verifier:
        expected = [Verdict.correct, Verdict.timed_out, Verdict.wrong, Verdict.correct]
        assert grade(verifier, "good", failure, "bad", "good") == expected
        counted = {"timed_out": 1, "retried_alone": 3, "worker_deaths": deaths, "pool_restarts": 0}
        assert {name: verifier.counters[name] for name in counted} == counted  # 3: the distinct pairs of its chunk
        assert grade(verifier, "good", "better") == [Verdict.correct, Verdict.wrong]  # and the next batch works


def may_write_files(compare: object) -> None:
    """What a worker does instead of preparing itself where its comparison has to leave a mark."""


@pytest.mark.parametrize("failure", ["hang", "exit 3"])
def test_a_pair_that_failed_once_is_graded_when_tried_alone(
    tmp_path: Path, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpt.rewards.workers.prepare_worker", may_write_files)
    with failing_verifier() as verifier:
        assert grade(verifier, f"once {tmp_path}/mark {failure}", "good") == [Verdict.correct] * 2
        assert verifier.counters["retried_alone"] == 2
        assert verifier.counters["timed_out"] == 0


def test_many_failures_among_good_answers_with_two_workers() -> None:
    answers = ["good", "exit 1", "exit 2"] + [f"bad{i}" for i in range(40)]
    with failing_verifier(workers=2) as verifier:
        verdicts = grade(verifier, *answers)
    assert verdicts == [Verdict.correct] + [Verdict.timed_out] * 2 + [Verdict.wrong] * 40


def test_a_timeout_is_not_remembered() -> None:
    with failing_verifier() as verifier:
        for _ in range(2):
            assert grade(verifier, "exit 1") == [Verdict.timed_out]
        assert verifier.counters["cache_hits"] == 0
        assert verifier.counters["worker_deaths"] == 4


def test_a_comparison_that_raises_is_wrong_and_counted() -> None:
    with failing_verifier() as verifier:
        assert grade(verifier, "raise", "good") == [Verdict.wrong, Verdict.correct]
        assert (verifier.counters["errors"], verifier.counters["retried_alone"]) == (1, 0)


def test_close_stops_a_hanging_worker_and_grading_starts_a_new_one() -> None:
    verifier = Verifier(timeout_s=HANGS_S, compare=text_equal_unless_told_to_fail)
    verifier.start()
    hanging = verifier._schedule([Pair("hang", "good")])
    end = time.monotonic() + HANGS_S
    while not hanging.running() and time.monotonic() < end:
        time.sleep(0.02)
    start = time.monotonic()
    verifier.close()
    verifier.close()
    assert time.monotonic() - start < HANGS_S / 2
    assert multiprocessing.active_children() == []
    assert grade(verifier, "good") == [Verdict.correct]
    verifier.close()
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory limit needs Linux")
@pytest.mark.parametrize(("share", "verdict"), [(0.5, Verdict.correct), (1.5, Verdict.wrong)])
def test_a_worker_cannot_take_all_memory(share: float, verdict: Verdict) -> None:
    with Verifier(timeout_s=60, compare=room_for) as verifier:  # filling a gigabyte takes seconds on a busy machine
        assert grade(verifier, str(int(share * WORKER_MEMORY_BYTES))) == [verdict]
        assert verifier.counters["errors"] == (verdict is Verdict.wrong)


def fail_to_prepare(compare: object) -> None:
    raise ImportError("no math_verify here")


def test_workers_that_cannot_start_are_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpt.rewards.workers.prepare_worker", fail_to_prepare)
    with failing_verifier() as verifier, pytest.raises(HptError, match="failed to start 4 times"):
        grade(verifier, "good")


SCRIPT = """
print("once")
from tests.faults.test_verifier import no_engine_in_worker
from tests.gold import Gold
from hpt.rewards.workers import Verifier
with Verifier(compare=no_engine_in_worker) as verifier:
    print(verifier.grade([r"\\boxed{1}"], [Gold("1")])[0].verdict.value)
"""


def test_workers_import_math_verify_but_no_engine_nor_the_main_script(tmp_path: Path) -> None:
    """A training job's main module imports torch; and spawn would need a script to guard its work."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.stdout.split(), done.stderr) == (["once", "correct"], "")


REFUSED: dict[str, Callable[[], object]] = {
    "read": lambda: Path(__file__).read_text(),
    "write": lambda: Path("written-by-an-answer").write_text(""),
    "connect": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
    "start": lambda: subprocess.run(["true"], check=True),
    "shell": lambda: os.execv(sys.executable, [sys.executable, "--version"]),
    "kill": lambda: os.kill(os.getppid(), 0),
}


def try_what_is_refused(answer: str, gold: str) -> bool:
    """Do what the answer says and swallow what comes of it, as math-verify does."""
    try:
        if answer in REFUSED:
            REFUSED[answer]()
    except Exception:
        return True
    return answer == gold


def test_what_a_worker_is_refused_is_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Verifier(compare=try_what_is_refused) as verifier:
        assert grade(verifier, "good", *REFUSED, "better") == [Verdict.correct] + [Verdict.wrong] * (len(REFUSED) + 1)
        assert verifier.counters["errors"] == len(REFUSED)
        assert verifier.counters["worker_deaths"] == 0
    said = [line for line in capfd.readouterr().err.splitlines() if "refused to a verifier's worker" in line]
    assert len(said) == len(REFUSED)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_still_imports_what_math_verify_needs_when_first_used(capfd: pytest.CaptureFixture[str]) -> None:
    """Units, sets and matrices import parts of sympy; a refused import would make a right answer wrong."""
    answers = {r"5\text{ cm}": "5", r"[1,2)\cup(3,4]": r"[1,2) \cup (3,4]", r"x>\sqrt{2}": r"x > 2^{1/2}"}
    golds = [Gold(gold) for gold in answers.values()]
    with Verifier(timeout_s=30) as verifier:
        grades = verifier.grade([f"\\boxed{{{answer}}}" for answer in answers], golds)
        assert [grade.verdict for grade in grades] == [Verdict.correct] * len(answers)
        assert verifier.counters["errors"] == 0
    assert "refused" not in capfd.readouterr().err
