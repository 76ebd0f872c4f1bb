"""A job forked from a process that has imported everything is, to the last bit, one started from nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from multiprocessing.forkserver import _forkserver
from pathlib import Path

import pytest

from hpt.runs.folder import RunFolder
from hpt.runs.job import Job
from hpt.runs.pool import run_jobs
from hpt.runs.process import Forked
from hpt.runs.resolve import base_config, build_config
from hpt.support.errors import HptError
from tests.jobs import assert_same_results, only_run


def _exit_with(code: int) -> None:
    sys.exit(code)


def test_a_forked_job_equals_a_fresh_one(tiny_runs: dict[str, RunFolder], tmp_path: Path) -> None:
    forked = tiny_runs["hpt"]
    base = tiny_runs["pretrain"].path
    shutil.copytree(base, tmp_path / "runs" / base.parent.name / base.name)
    job = {
        "config": forked.config.model_dump(mode="json"),
        "root": str(tmp_path / "runs"),
        "evaluations": ["contest-a"],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run(
        [sys.executable, "-m", "hpt.runs.job", str(tmp_path / "job.json")], env=os.environ | alone, check=True
    )
    fresh = RunFolder(tmp_path / "runs" / forked.path.parent.name / forked.path.name)
    assert_same_results(fresh, forked)


def test_exit_codes_are_told() -> None:
    processes = [Forked(_exit_with, (code,)) for code in (0, 2)]
    assert [process.wait(60) for process in processes] == [0, 2]


def test_a_lost_server_loses_its_jobs_alone_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config = base_config(build_config("hpt", scale="tiny"))
    Forked(_exit_with, (0,)).wait(60)
    server = _forkserver._forkserver_pid  # pyright: ignore[reportAttributeAccessIssue]

    def lose(_: object) -> None:
        os.kill(server, signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpt.runs.pool._show", lose)
        with pytest.raises(HptError, match="ended with exit code"):
            run_jobs([Job(config, tmp_path)])
    run_jobs([Job(config, tmp_path)])
    assert only_run(tmp_path).finished
