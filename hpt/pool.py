"""Independent runs side by side: one process each, one core each, with one bar for all and one line per job.

With several devices a run has them all, started by DeepSpeed's launcher, and runs come one after the other.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hpt.errors import HptError, RunRefused
from hpt.files import write_json, writing
from hpt.forecast import duration
from hpt.job import Job
from hpt.kernel_bar import KernelBar
from hpt.launch import end_with_parent, job_command, launcher_options, visible_gpus
from hpt.locks import holder
from hpt.own_modules import folders
from hpt.ranks import PARENT, warn
from hpt.resolve import is_ready, resolve_run
from hpt.runs import RunFolder


@dataclass
class Running:
    """A job at work: its process, core, log, line on the screen and start; ``ranked``: the process is a launcher."""

    job: Job
    folder: RunFolder
    process: subprocess.Popen[bytes]
    core: int
    log: Path
    line: TaskID
    started: float
    ranked: bool = False
    waits_for: str = ""


def run_jobs(
    jobs: Sequence[Job], parallel: int | None = None, on_finish: Callable[[RunFolder], None] = lambda folder: None
) -> None:
    """Run jobs in processes of their own, at most ``parallel`` at once (default: one per core, on a GPU one).

    ``on_finish`` is called with the folder of every job that ended well, as it ends.

    Each process is pinned to a core: threads of two samplers that choose cores for themselves land on the same one.

    Raises:
        HptError: a job failed; the others are stopped, and continue with the same command.
        RunRefused: a job found a mistake in what was asked for, which no second try mends.
    """
    cores = sorted(os.sched_getaffinity(0))
    launcher = launcher_options()
    at_once = 1 if visible_gpus() else len(cores)  # a run takes its share of a GPU's memory, whoever else is on it
    parallel = 1 if launcher is not None else min(parallel or at_once, len(jobs))
    waiting = list(jobs)
    running: list[Running] = []
    free = [cores[i % len(cores)] for i in range(parallel)]
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    plain = not sys.stderr.isatty()
    console = Console(stderr=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="hpt-") as scratch,
            Progress(*columns, console=console, disable=plain) as bar,
        ):
            kernel = KernelBar(len(jobs))
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
                shown = [_show(own, bar, plain) for own in running]
                kernel.draw(len(jobs) - len(waiting) - len(running), shown)
                for own in list(running):
                    if own.process.poll() is None:
                        continue
                    running.remove(own)
                    free.append(own.core)
                    _finish(own)
                    on_finish(own.folder)
                    bar.update(own.line, visible=False)
                    bar.advance(whole)
                    took = duration(time.monotonic() - own.started)
                    said = f"finished {own.folder.path.name} in {took}"
                    if plain:  # a notebook would be sent HTML by rich
                        print(said, file=sys.stderr, flush=True)
                    else:
                        console.print(said, highlight=False, soft_wrap=True)
            kernel.draw(len(jobs), [], last=True)
    except KeyboardInterrupt:
        print("stopping; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        raise
    finally:
        _stop(running)


def _first_ready(waiting: Sequence[Job]) -> Job | None:
    """The first job whose initial weights are there: a run waits for its base, other bases' runs need not."""
    return next((job for job in waiting if is_ready(job.config, job.root)), None)


def _stop(running: Sequence[Running]) -> None:
    """Interrupt jobs and wait for their end; those that take longer than 20 s, or a second Ctrl-C, are killed."""
    try:
        for own in running:
            _signal(own, signal.SIGINT)
        for own in running:
            with suppress(subprocess.TimeoutExpired):
                own.process.wait(timeout=20)
    finally:
        for own in running:
            if own.process.poll() is None:
                os.killpg(own.process.pid, signal.SIGKILL)
                own.process.wait()


def _signal(own: Running, number: int) -> None:
    """Send a signal to a job; to a launcher's whole session, for the launcher does not pass it on."""
    if own.ranked:
        os.killpg(own.process.pid, number)
    else:
        own.process.send_signal(number)


def _start(job: Job, core: int, scratch: Path, bar: Progress, launcher: list[str] | None) -> Running:
    config = resolve_run(job.config, job.root)
    folder = RunFolder.of(config, job.root)
    with writing(folder.path):
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
    if config.own_modules:  # they are found where this process found them
        inherited = os.environ.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [*folders(config.own_modules), inherited]))

    def prepare() -> None:
        if threads == "1" and launcher is None:
            os.sched_setaffinity(0, {core})
        end_with_parent()

    with writing(log), open(log, "ab") as file:
        # a session of its own: a terminal's Ctrl-C would reach the job twice, directly and through the pool
        process = subprocess.Popen(
            job_command("hpt.job", [str(spec)], launcher), stdout=file, stderr=subprocess.STDOUT, env=environment,
            preexec_fn=prepare, start_new_session=True,
        )  # fmt: skip
    line = bar.add_task(folder.path.name, total=max(1, config.schedule.steps), detail="starting")
    return Running(job, folder, process, core, log, line, time.monotonic(), launcher is not None)


def _show(own: Running, bar: Progress, plain: bool) -> tuple[str, int, int, str]:
    """Show where a job stands on the terminal's bar, and return it: name, step, steps, and the rest in words."""
    status, parts = own.folder.status, list[str]()
    other = holder(own.folder.path)
    if other is not None and other.at_work and other.pid != own.process.pid and not own.ranked:
        parts.append(f"waiting for {other}")
        if plain and str(other) != own.waits_for:
            print(f"{own.folder.path.name} waits for {other}", file=sys.stderr, flush=True)
        own.waits_for = str(other)
    if status.get("reward") is not None:
        parts.append(f"reward {status['reward']:.2f}")
    if status.get("offline_ratio") is not None:
        parts.append(f"offline {status['offline_ratio']:.2f}")
    if status.get("left_s") is not None:
        parts.append(f"{status['left_s']:.0f} s left")
    detail = ", ".join(parts)
    bar.update(own.line, completed=status["step"], detail=", ".join([f"step {status['step']}", *parts]))
    return own.folder.path.name, status["step"], status.get("steps", 0), detail


def _finish(own: Running) -> None:
    lines = own.log.read_text(errors="replace").splitlines()
    for line in lines:
        if line.startswith("warning: "):
            warn(line.removeprefix("warning: "))
    if own.process.returncode == 0:
        return
    tail = lines[-15:]
    said = [line for line in lines[-200:] if line.startswith("error: ")]
    if own.ranked and said and said[-1] not in tail:  # the launcher and the other ranks may have said much since
        tail.insert(0, said[-1])
    message = f"run {own.folder.path.name} ended with exit code {own.process.returncode}; its log is {own.log}:"
    # the exit code of `hpt.job.main` for a mistake in what was asked for is that of the command, too
    refused = own.process.returncode == 2 and bool(said)
    raise (RunRefused if refused else HptError)("\n".join([message, *tail]))
