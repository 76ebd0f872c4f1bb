"""The same thing started twice: one process works, the other waits and says for whom; a dead one blocks nobody."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hpt.runs.folder import run_folders
from hpt.support.errors import HptError
from hpt.support.files import LOCK, holder, locked
from tests.processes import said_until

_HOLD = """
import sys
from pathlib import Path
from hpt.support.files import locked

sys.stderr = sys.stdout
with locked(Path(sys.argv[1])) as done:
    print("nothing left" if done else "mine", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def started(*arguments: str, stderr: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """A Python process that is killed when the test is over, its output in a pipe."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


def let_go(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(timeout=30) == 0


@pytest.fixture
def first(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder."""
    with started("-c", _HOLD, str(tmp_path)) as process:
        assert line(process) == "mine"
        yield process


@pytest.mark.parametrize(("more", "found"), [((), "nothing left"), (("--more",), "mine")])
def test_the_second_waits_says_for_whom_and_finds_nothing_left(
    more: tuple[str, ...], found: str, first: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Another command has other work to do; the same one, asked for afterwards, does it again."""
    with started("-c", _HOLD, str(tmp_path), *more) as second:
        said = line(second)
        for part in (f"process {first.pid} ", str(tmp_path), "waiting"):
            assert part in said
        let_go(first)
        assert line(second) == found
        let_go(second)
    with started("-c", _HOLD, str(tmp_path), *more) as third:
        assert line(third) == "mine"


def test_the_lock_of_a_killed_process_is_free_and_its_work_not_done(
    first: subprocess.Popen[str], tmp_path: Path
) -> None:
    with started("-c", _HOLD, str(tmp_path)) as second:
        assert "waiting" in line(second)
        first.kill()
        assert line(second) == "mine"
        second.kill()
        second.wait()
    assert not holder(tmp_path).at_work
    with locked(tmp_path, wait=False) as done:
        assert not done


def test_who_will_not_wait_reads_who_holds_it(first: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(HptError, match=f"worked on by process {first.pid} "), locked(tmp_path, wait=False):
        pass


def test_a_lock_file_that_says_nothing_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("not JSON")
    assert holder(tmp_path) is None
    with locked(tmp_path, wait=False) as done:
        assert not done


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(HptError, match=str(tmp_path)), locked(tmp_path / "new"):
            pass
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock of another kind takes its place: one that is a file's existence would outlive a killed process."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(HptError, match=r"its file system has no locks .* Lustre: -o flock") as caught, locked(tmp_path):
        pass
    assert str(tmp_path) in str(caught.value)
    monkeypatch.undo()
    with locked(tmp_path, wait=False):
        pass


def test_a_number_that_another_process_has_by_now_holds_nothing(tmp_path: Path) -> None:
    with locked(tmp_path):
        held = holder(tmp_path)
    assert replace(held, done=False).at_work
    assert not replace(held, done=False, started="1").at_work


def all_said(process: subprocess.Popen[str], timeout_s: float) -> str:
    said, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, said
    return said


def typed_twice(words: str, *folders: str, at_work: Callable[[], int | None], waiting: str) -> tuple[str, str, int]:
    """Type a command in a second terminal while the first is at work: what both say, and the process at work.

    That one is halted meanwhile, as after Ctrl-Z: it might be done before the second command has come so far.
    """
    command = ("-m", "hpt.cli", *words.split(), *folders)
    with started(*command, stderr=subprocess.STDOUT) as first:
        while (pid := at_work()) is None:
            assert first.poll() is None
            time.sleep(0.1)
        with started(*command, stderr=subprocess.STDOUT) as second:
            os.kill(pid, signal.SIGSTOP)
            try:
                said_until(second.stdout, f"{waiting} by process {first.pid} ")
            finally:
                os.kill(pid, signal.SIGCONT)
            second_said = all_said(second, 600)
        return all_said(first, 60), second_said, pid


@pytest.mark.ci_slow
@pytest.mark.timeout(900)
def test_one_training_is_done_once_for_two_commands(tmp_path: Path) -> None:
    """The second command leaves the run to the first, and finds it finished."""

    def at_work() -> int | None:
        return next((held.pid for path in tmp_path.glob("*/*") if (held := holder(path))), None)

    words = "train --method pretrain --scale tiny --runs-dir"
    _, second, pid = typed_twice(words, str(tmp_path), at_work=at_work, waiting="is made")
    assert "by another command" in second
    (folder,) = run_folders(tmp_path)
    assert folder.finished
    assert "worked on by" not in (folder.path / "log.txt").read_text()
    assert folder.table("metrics")["step"].is_monotonic_increasing
    assert folder.status["pid"] == pid, "the second process trained again"


@pytest.mark.ci_slow
@pytest.mark.timeout(900)
def test_one_report_is_made_once_for_two_reproductions(tmp_path: Path) -> None:
    """The audit needs no run: what two commands could do twice, or to each other, is the report itself."""
    report = tmp_path / "reports" / "tiny"

    def at_work() -> int | None:
        held = holder(report)
        return held and held.pid

    folders = (f"--runs-dir={tmp_path / 'runs'}", f"--reports-dir={tmp_path / 'reports'}")
    words = "reproduce --scale tiny --only audit"
    first, second, _ = typed_twice(words, *folders, at_work=at_work, waiting="worked on")
    assert "made while this command waited" in second
    assert "made while this command waited" not in first
    assert (report / "index.html").is_file()
    assert len(pd.read_csv(report / "tables" / "audit.csv")) > 0
