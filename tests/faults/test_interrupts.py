"""Ctrl-C once stops cleanly and says how to continue; twice stops at once. Nothing is left running either way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.processes import said_until

#: The command line with a job of `tests.stand_ins`, which needs no engine; it would wait an hour for a deaf one.
_COMMAND = """
import sys
from multiprocessing.context import BaseContext
import pytest
from hpt.cli import main
from hpt.runs import pool
from tests import stand_ins

BaseContext.set_forkserver_preload = lambda *_: None
pytest.MonkeyPatch().setattr(stand_ins.JOB, getattr(stand_ins, sys.argv.pop()))
pool.STOP_S = 3600
main()
"""


@contextmanager
def command(job: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A command whose job is at work, in a process group of its own as in a terminal, and the job."""

    def listen() -> None:  # a shell starts background jobs, and so whole test runs, with Ctrl-C ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    asked = ["train", "--method", "pretrain", "--scale", "tiny", "--runs-dir", str(folder), job]
    with subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *asked], stderr=subprocess.PIPE, text=True, process_group=0, preexec_fn=listen
    ) as process:
        try:
            end = time.monotonic() + 200
            while not any("at work" in log.read_text() for log in folder.glob("*/*/log.txt")):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < end
                time.sleep(0.1)
            (log,) = folder.glob("*/*/log.txt")
            yield process, psutil.Process(int(log.read_text().split("at work ")[1].split()[0]))
        finally:
            process.kill()


def test_once_lets_a_job_finish_what_it_does_and_says_how_to_continue(tmp_path: Path) -> None:
    with command("willing", tmp_path) as (process, job):
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group
        said = process.communicate(timeout=100)[1]
        assert process.returncode == 130
        assert "the same command continues" in said
        assert "Traceback" not in said
        assert not job.is_running()
    (log,) = tmp_path.glob("*/*/log.txt")
    assert [line for line in log.read_text().split("\n") if line][1:] == ["saved"], "interrupted once, not twice"


def test_twice_stops_at_once(tmp_path: Path) -> None:
    with command("deaf", tmp_path) as (process, job):
        os.killpg(process.pid, signal.SIGINT)
        assert "again stops at once" in said_until(process.stderr, "stopping")
        time.sleep(0.5)
        assert process.poll() is None, "it waits for the job"
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=100)[1]
        assert process.returncode == 130
        assert "the same command continues" in said
        assert not job.is_running()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_ends_with_the_command_that_started_it(number: signal.Signals, tmp_path: Path) -> None:
    with command("deaf", tmp_path) as (process, job):
        process.send_signal(number)
        process.wait(timeout=100)
        assert psutil.wait_procs([job], timeout=60)[1] == []
