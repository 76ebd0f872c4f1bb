"""Independent runs side by side: one process each, one core each, with one bar for all and one line per job.

With several devices a run has them all, started by DeepSpeed's launcher, and runs come one after the other.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hpt.errors import HptError
from hpt.files import write_json
from hpt.job import Job, is_ready, resolve_run
from hpt.launch import job_command, launcher_options
from hpt.ranks import PARENT
from hpt.runs import RunFolder


@dataclass
class Running:
    """A job at work: its process, core, log and line on the screen; ``ranked``: the process is a launcher."""

    job: Job
    folder: RunFolder
    process: subprocess.Popen[bytes]
    core: int
    log: Path
    line: TaskID
    ranked: bool = False


def run_jobs(
    jobs: Sequence[Job], parallel: int | None = None, on_finish: Callable[[RunFolder], None] = lambda folder: None
) -> None:
    """Run jobs in processes of their own, at most ``parallel`` at once (default: the number of cores).

    ``on_finish`` is called with the folder of every job that ended well, as it ends.

    Each process is pinned to a core: threads of two samplers that choose cores for themselves land on the same one.

    Raises:
        HptError: a job failed; the others are stopped, and continue with the same command.
    """
    cores = sorted(os.sched_getaffinity(0))
    launcher = launcher_options()
    parallel = 1 if launcher is not None else min(parallel or len(cores), len(jobs))
    waiting, running = list(jobs), []
    free = [cores[i % len(cores)] for i in range(parallel)]
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    plain = not sys.stderr.isatty()
    console = Console(stderr=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="hpt-") as scratch,
            Progress(*columns, console=console, disable=plain) as bar,
        ):
            whole = bar.add_task(f"{len(jobs)} runs", total=len(jobs), detail="")
            while waiting or running:
                while free and (following := _first_ready(waiting)) is not None:
                    waiting.remove(following)
                    running.append(_start(following, free.pop(), Path(scratch), bar, launcher))
                    if plain:
                        print(f"started {running[-1].folder.path.name}", file=sys.stderr, flush=True)
                if waiting and not running:
                    lacking = ", ".join(f"{job.config.method} on {job.config.policy.name}" for job in waiting)
                    raise HptError(f"no job is left that makes what these start from: {lacking}")
                time.sleep(0.2)
                for own in list(running):
                    _show(own, bar)
                    if own.process.poll() is None:
                        continue
                    running.remove(own)
                    free.append(own.core)
                    _finish(own)
                    on_finish(own.folder)
                    bar.update(own.line, visible=False)
                    bar.advance(whole)
                    if plain:
                        print(f"finished {own.folder.path.name}", file=sys.stderr, flush=True)
    finally:
        for own in running:
            _signal(own, signal.SIGINT)
        for own in running:
            try:
                own.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                _signal(own, signal.SIGKILL)


def _first_ready(waiting: Sequence[Job]) -> Job | None:
    """The first job whose initial weights are there: a run waits for its base, other bases' runs need not."""
    return next((job for job in waiting if is_ready(job.config, job.root)), None)


def _signal(own: Running, number: int) -> None:
    """Send a signal to a job; to a launcher's whole session, for the launcher does not pass it on."""
    if own.ranked:
        os.killpg(own.process.pid, number)
    else:
        own.process.send_signal(number)


def _start(job: Job, core: int, scratch: Path, bar: Progress, launcher: list[str] | None) -> Running:
    config = resolve_run(job.config, job.root)
    folder = RunFolder.of(config, job.root)
    folder.path.mkdir(parents=True, exist_ok=True)
    spec = scratch / f"{folder.path.name}.json"
    write_json(
        spec,
        {"config": config.model_dump(mode="json"), "root": str(job.root), "evaluations": list(job.evaluations)},
    )
    log = folder.path / "log.txt"
    threads = str(config.engine.threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        PARENT: f"{os.getpid()}@{os.uname().nodename}",
    }

    def prepare() -> None:
        if threads == "1" and launcher is None:
            os.sched_setaffinity(0, {core})
        # a pool that is killed outright cannot stop its jobs; without this they would run on, unseen (PR_SET_PDEATHSIG)
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)

    with open(log, "ab") as file:
        process = subprocess.Popen(
            job_command("hpt.job", [str(spec)], launcher), stdout=file, stderr=subprocess.STDOUT, env=environment,
            preexec_fn=prepare, start_new_session=launcher is not None,
        )  # fmt: skip
    line = bar.add_task(folder.path.name, total=max(1, config.schedule.steps), detail="starting")
    return Running(job, folder, process, core, log, line, launcher is not None)


def _show(own: Running, bar: Progress) -> None:
    status = own.folder.status
    parts = [f"step {status['step']}"]
    if status.get("reward") is not None:
        parts.append(f"reward {status['reward']:.2f}")
    if status.get("offline_ratio") is not None:
        parts.append(f"offline {status['offline_ratio']:.2f}")
    if status.get("left_s") is not None:
        parts.append(f"{status['left_s']:.0f} s left")
    bar.update(own.line, completed=status["step"], detail=", ".join(parts))


def _finish(own: Running) -> None:
    if own.process.returncode == 0:
        return
    lines = own.log.read_text(errors="replace").splitlines()
    tail = lines[-15:]
    said = [line for line in lines[-200:] if line.startswith("error: ")]
    if own.ranked and said and said[-1] not in tail:  # the launcher and the other ranks may have said much since
        tail.insert(0, said[-1])
    message = f"run {own.folder.path.name} ended with exit code {own.process.returncode}; its log is {own.log}:"
    raise HptError("\n".join([message, *tail]))
