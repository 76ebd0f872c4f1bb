"""Independent runs side by side: one process each, one core each, with one bar for all and one per run.

On CPU each is forked from a process that has imported PyTorch, transformers and vLLM once (`hpt.runs.preload`): the
import takes longer than a short run. What a run computes is to the last bit what a process started from nothing does.
With several devices a run has them all, started by DeepSpeed's launcher, and runs come one after the other.
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hpt.runs.folder import RunFolder
from hpt.runs.job import Job
from hpt.runs.job import main as job_main
from hpt.runs.resolve import is_ready, resolve_run
from hpt.support.errors import ConfigError, HptError, RunRefused, warn
from hpt.support.files import holder, write_json, writing
from hpt.support.plugins import folders
from hpt.support.process import environment, without_main_script
from hpt.support.text import duration
from hpt.training.ranks import LAUNCHED, PARENT, end_with_parent, job_command, launched, launcher_options, visible_gpus


class Forked:
    """A process forked from the one that has imported everything, with what the pool calls of `subprocess.Popen`."""

    def __init__(self, target: Callable[..., None], arguments: tuple[object, ...]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["hpt.runs.preload"])
        self._process: ForkServerProcess = context.Process(target=target, args=arguments)
        # libgomp reads this when it is loaded, once for all that are forked
        with without_main_script(), environment({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}):
            self._process.start()
        self.pid: int = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it is not over.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)


def _job_process(spec: str, log: str, variables: dict[str, str], paths: list[str], core: int) -> None:
    """Make a forked process what a fresh one would be, and do the job."""
    end_with_parent()
    os.setsid()  # a terminal's Ctrl-C would reach the job twice, directly and through the pool
    os.sched_setaffinity(0, {core})
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = paths
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = job_main([spec])
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]  # a forked process leaves without them
    sys.exit(code)


@dataclass
class Running:
    """A job at work: its process, core, log, bar and start; ``ranked``: the process is a launcher."""

    job: Job
    folder: RunFolder
    process: "subprocess.Popen[bytes] | Forked"
    core: int
    log: Path
    bar: Any
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
    if launcher is None and launched():
        raise ConfigError("RANK", os.environ["RANK"], "unset for hpt's own commands, which start the ranks themselves",
                          f"type `unset {' '.join(LAUNCHED)}`; --launcher-args says on how many devices")  # fmt: skip
    at_once = 1 if visible_gpus() else len(cores)  # a run takes its share of a GPU's memory, whoever else is on it
    parallel = 1 if launcher is not None else min(parallel or at_once, len(jobs))
    waiting, running = list(jobs), list[Running]()
    free = [cores[i % len(cores)] for i in range(parallel)]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="hpt-") as scratch,
            tqdm(total=len(jobs), desc="all", unit="run", disable=None) as whole,
        ):
            while waiting or running:
                while free and (following := _first_ready(waiting)) is not None:
                    waiting.remove(following)
                    running.append(_start(following, free.pop(), Path(scratch), launcher))
                    _say(_started(running[-1].folder))
                if waiting and not running:
                    lacking = ", ".join(f"{job.config.method} on {job.config.policy.name}" for job in waiting)
                    raise HptError(f"no job is left that makes what these start from: {lacking}")
                time.sleep(0.2)
                for job in list(running):
                    _show(job)
                    if job.process.poll() is None:
                        continue
                    running.remove(job)
                    free.append(job.core)
                    job.bar.close()
                    _finish(job)
                    on_finish(job.folder)
                    whole.update()
                    _say(f"finished {job.folder.path.name} in {duration(time.monotonic() - job.started)}")
    except KeyboardInterrupt:
        print("stopping; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        raise
    finally:
        _stop(running)


def _say(text: str) -> None:
    """Print a line above the bars."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def _started(folder: RunFolder) -> str:
    step = 0 if folder.finished else folder.status["step"]
    return f"started {folder.path.name}" + (f" again: it had stopped at step {step}" if step else "")


def _first_ready(waiting: Sequence[Job]) -> Job | None:
    """The first job whose initial weights are there: a run waits for its base, other bases' runs need not."""
    return next((job for job in waiting if is_ready(job.config, job.root)), None)


def _stop(running: Sequence[Running]) -> None:
    """Interrupt jobs and wait for their end; those that take longer than 20 s, or a second Ctrl-C, are killed."""
    try:
        for job in running:
            if job.ranked:  # the launcher does not pass it on to its session
                os.killpg(job.process.pid, signal.SIGINT)
            else:
                job.process.send_signal(signal.SIGINT)
        for job in running:
            with suppress(subprocess.TimeoutExpired):
                job.process.wait(timeout=20)
    finally:
        for job in running:
            if job.process.poll() is None:
                os.killpg(job.process.pid, signal.SIGKILL)
                job.process.wait()
            job.bar.close()


def _start(job: Job, core: int, scratch: Path, launcher: list[str] | None) -> Running:
    config = resolve_run(job.config, job.root)
    folder = RunFolder.of(config, job.root)
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    spec = scratch / f"{folder.path.name}.json"
    evaluations = list(job.evaluations)
    write_json(spec, {"config": config.model_dump(mode="json"), "root": str(job.root), "evaluations": evaluations})
    log = folder.path / "log.txt"
    threads = str(config.engine.threads)
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        PARENT: f"{os.getpid()}@{os.uname().nodename}",
    }
    paths = folders(config.own_modules)  # they are found where this process found them
    with writing(log), open(log, "ab") as file:
        if launcher is None and threads == "1" and not visible_gpus():
            process = Forked(_job_process, (str(spec), str(log), variables, paths, core))
        else:
            inherited = os.environ.get("PYTHONPATH", "")
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, [*paths, inherited]))
            process = subprocess.Popen(
                job_command("hpt.runs.job", [str(spec)], launcher), stdout=file, stderr=subprocess.STDOUT,
                env=variables, preexec_fn=end_with_parent, start_new_session=True,
            )  # fmt: skip
    bar = tqdm(total=max(1, config.schedule.steps), desc=folder.path.name, unit="step", leave=False, disable=None)
    return Running(job, folder, process, core, log, bar, time.monotonic(), launcher is not None)


def _show(job: Running) -> None:
    """Move a job's bar to where the job stands, and say whom it waits for."""
    status, parts = job.folder.status, list[str]()
    other = holder(job.folder.path)
    if other is not None and other.at_work and other.pid != job.process.pid and not job.ranked:
        if str(other) != job.waits_for:
            _say(f"{job.folder.path.name} waits for {other}")
        job.waits_for = str(other)
    if status.get("reward") is not None:
        parts.append(f"reward {status['reward']:.2f}")
    if status.get("offline_ratio") is not None:
        parts.append(f"offline {status['offline_ratio']:.2f}")
    job.bar.set_postfix_str(", ".join(parts), refresh=False)
    job.bar.update(status["step"] - job.bar.n)


def _finish(job: Running) -> None:
    """Repeat the warnings of a job, and raise what one that failed said."""
    lines = job.log.read_text(errors="replace").splitlines()
    for line in lines:
        if line.startswith("warning: "):
            warn(line.removeprefix("warning: "))
    code = job.process.returncode
    if code == 0:
        return
    tail = lines[-15:]
    said = [line for line in lines[-200:] if line.startswith("error: ")]
    if job.ranked and said and said[-1] not in tail:  # the launcher and the other ranks may have said much since
        tail.insert(0, said[-1])
    message = f"run {job.folder.path.name} ended with exit code {code}; its log is {job.log}:"
    # 2 is the exit code of `hpt.runs.job.main` for a mistake in what was asked for
    raise (RunRefused if code == 2 and said else HptError)("\n".join([message, *tail]))
