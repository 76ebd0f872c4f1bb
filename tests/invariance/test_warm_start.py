"""A job forked from a process that has imported everything is, to the last bit, one started from nothing."""

import os
import signal
import subprocess
import sys
from multiprocessing.forkserver import _forkserver
from pathlib import Path

import pytest

from hpt.runs.folder import RunFolder
from hpt.runs.job import Job, write_job
from hpt.runs.pool import run_jobs
from hpt.runs.process import Forked
from hpt.support.errors import HptError
from tests.digits import digits_config, write_digits
from tests.jobs import Undisturbed, assert_same_results, only_run


def _exit_with(code: int) -> None:
    sys.exit(code)


def test_a_forked_job_equals_a_fresh_one(digits_runs: dict[str, Undisturbed], tmp_path: Path) -> None:
    """The pool's, and those of these tests."""
    own = digits_runs["hpt"]
    run_jobs([Job(own.config, tmp_path / "forked", own.evaluations)])
    assert_same_results(only_run(tmp_path / "forked"), own.folder)
    spec = write_job(Job(own.config, tmp_path / "fresh", own.evaluations), RunFolder(tmp_path), {})
    alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run([sys.executable, "-m", "hpt.runs.job", str(spec)], env=os.environ | alone, check=True)
    assert_same_results(only_run(tmp_path / "fresh"), own.folder)


def test_exit_codes_are_told() -> None:
    processes = [Forked(_exit_with, (code,)) for code in (0, 2)]
    assert [process.wait(60) for process in processes] == [0, 2]


@pytest.mark.ci_slow
def test_a_lost_server_loses_its_jobs_alone_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config = digits_config("hpt", write_digits(tmp_path / "world"), schedule__steps=2, validation__every=0)
    Forked(_exit_with, (0,)).wait(60)
    server = _forkserver._forkserver_pid

    def lose(_: object) -> None:
        os.kill(server, signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpt.runs.pool._show", lose)
        with pytest.raises(HptError, match="ended with exit code"):
            run_jobs([Job(config, tmp_path / "runs")])
    run_jobs([Job(config, tmp_path / "runs")])
    assert only_run(tmp_path / "runs").finished
