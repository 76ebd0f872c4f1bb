"""Independent runs side by side: a process, and a core or GPUs, for each; one bar for all and one per run.

On CPU each is forked from a process that has imported PyTorch, transformers and vLLM once (`hpt.runs.preload`): the
import takes longer than a short run. What a run computes is to the last bit what a process started from nothing does.
A run on several GPUs is started by DeepSpeed's launcher; with options for it, runs come one after the other.

A run that fails stops no other: the rest are made, and at the end all failures are reported. What a run's process says
with its exit code proves nothing, its folder alone says that it is finished.
"""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hpt.config.run_config import RunConfig
from hpt.runs.evaluations import missing_evaluations
from hpt.runs.folder import RunFolder, damaged_files
from hpt.runs.job import Job, write_job
from hpt.runs.job import main as job_main
from hpt.runs.resolve import is_ready, resolve_run
from hpt.support.errors import ConfigError, HptError, RunRefused, warn
from hpt.support.files import holder, writing
from hpt.support.plugins import folders
from hpt.support.process import environment, without_main_script
from hpt.support.text import duration
from hpt.training.ranks import (
    LAUNCHED,
    PARENT,
    RUN_GPUS,
    end_with_parent,
    gpu_groups,
    job_command,
    launched,
    launcher_options,
    visible_gpus,
)

#: Seconds between two looks at a run's status; until runs that were interrupted are killed, all together.
LOOK_S, STOP_S = 1.0, 20.0
#: More runs at a time than this are shown in one line.
SHOWN = 10


class Forked:
    """A process forked from the one that has imported everything, with what the pool calls of `subprocess.Popen`."""

    def __init__(self, target: Callable[..., None], arguments: tuple[object, ...]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["hpt.runs.preload"])
        self._process: ForkServerProcess = context.Process(target=target, args=arguments)
        # libgomp reads this when it is loaded, once for all that are forked
        with without_main_script(), environment({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}):
            try:
                self._process.start()
            except (EOFError, OSError) as error:
                message = "the process that runs are forked from ended; what it said stands above"
                raise HptError(f"{message}; `hpt doctor` says whether PyTorch and vLLM work") from error
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
    threading.Thread(target=_end_with_command, daemon=True).start()
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


def _end_with_command() -> None:
    """End this process when the command that asked for it has ended: the process it was forked from lives on."""
    command = multiprocessing.parent_process()
    if command is not None:
        command.join()
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True)
class Place:
    """What a run has for itself: a core, or GPUs as CUDA_VISIBLE_DEVICES names them ("" = all there are, or none)."""

    core: int
    gpus: str = ""


@dataclass
class Running:
    """A job at work: its process, place, log, bar and start; ``ranked``: the process is a launcher."""

    job: Job
    config: RunConfig
    folder: RunFolder
    process: "subprocess.Popen[bytes] | Forked"
    place: Place
    log: Path
    bar: Any
    started: float
    ranked: bool = False
    waits_for: str = ""
    shown_at: float = 0.0
    step: int = 0
    said_before: int = 0  # bytes of its log


def run_jobs(
    jobs: Sequence[Job], parallel: int | None = None, on_finish: Callable[[RunFolder], None] = lambda folder: None
) -> None:
    """Run jobs in processes of their own, at most ``parallel`` at once (default: one per core, or per group of GPUs).

    ``on_finish`` is called with the folder of every job that ended well, as it ends.

    On CPU each process is pinned to a core: threads of samplers that choose cores for themselves land on the same one.

    Raises:
        HptError: jobs failed, or could not start because what they start from failed; the others are finished.
        RunRefused: all that failed found a mistake in what was asked for, which a second try would find again.
    """
    if launcher_options() is None and launched():
        raise ConfigError("RANK", os.environ["RANK"], "unset for hpt's own commands, which start the ranks themselves",
                          f"type `unset {' '.join(LAUNCHED)}`; --launcher-args says on how many devices")  # fmt: skip
    launcher, places = _places(jobs)
    at_most = len(jobs) if launcher is None else len(places)  # a single process may share a core or GPU, if asked to
    parallel = min(parallel or len(places), at_most)
    waiting, running, failed = list(jobs), list[Running](), list[HptError]()
    free = [places[i % len(places)] for i in range(parallel)]
    try:
        with tqdm(total=len(jobs), desc="all", unit="run", disable=None) as whole:
            changed = True
            while waiting or running:
                while changed and free and (following := _first_ready(waiting)) is not None:
                    waiting.remove(following)
                    with _noting(failed):
                        running.append(_start(following, free[-1], launcher, shown=parallel <= SHOWN))
                        free.pop()
                        _say(_started(running[-1].folder))
                if waiting and not running:
                    break
                changed = False  # nothing else becomes ready before a run ends
                time.sleep(0.2)
                for job in list(running):
                    if job.process.poll() is None:
                        if time.monotonic() - job.shown_at >= LOOK_S:
                            _show(job)
                        continue
                    running.remove(job)
                    changed = True
                    free.append(job.place)
                    job.bar.close()
                    with _noting(failed):
                        _finish(job)
                        on_finish(job.folder)
                        _say(f"finished {job.folder.path.name} in {duration(time.monotonic() - job.started)}")
                    whole.update()
                if parallel > SHOWN:
                    done = sum(job.step for job in running), sum(job.config.schedule.steps for job in running)
                    whole.set_postfix_str(f"{len(running)} at work, step {done[0]} of {done[1]} in all")
        _raise_failures(failed, waiting)
    except KeyboardInterrupt:
        print("stopping; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        raise
    finally:
        _stop(running)


def _places(jobs: Sequence[Job]) -> tuple[list[str] | None, list[Place]]:
    """The launcher's options, None without it, and what runs side by side have for themselves."""
    launcher, cores = launcher_options(), sorted(os.sched_getaffinity(0))
    if launcher is not None:
        if RUN_GPUS in os.environ:
            raise ConfigError("--run-gpus", os.environ[RUN_GPUS], "nothing beside --launcher-args, which says where a "
                              "run's processes are", "leave one of the two out")  # fmt: skip
        return launcher, [Place(cores[0])]
    wanted = [visible_gpus() if job.config.scale == "full" else job.config.rollout.tensor_parallel for job in jobs]
    groups = gpu_groups(max(wanted, default=1))
    if not groups:
        return None, [Place(core) for core in cores]
    places = [Place(cores[i % len(cores)], gpus) for i, gpus in enumerate(groups)]
    return ([] if "," in groups[0] else None), places


@contextmanager
def _noting(failed: list[HptError]) -> Generator[None]:
    """Say how a run failed, and go on."""
    try:
        yield
    except HptError as error:
        failed.append(error)
        _say(f"failed: {str(error).splitlines()[0]}")


def _raise_failures(failed: Sequence[HptError], waiting: Sequence[Job]) -> None:
    """Report all runs that failed, and those that could not start for want of them."""
    if not failed and not waiting:
        return
    if len(failed) == 1 and not waiting:
        raise failed[0]
    parts = [str(error) for error in failed]
    if len(failed) > 1:
        parts.insert(0, f"{len(failed)} runs failed; all others that could be made are finished")
    if waiting:
        lacking = ", ".join(
            f"{job.config.method} on {job.config.policy.name}, seed {job.config.seed}" for job in waiting
        )
        parts.append(f"not started, since no job is left that makes what they start from: {lacking}")
    refused = failed and all(isinstance(error, ConfigError) for error in failed)
    raise (RunRefused if refused else HptError)("\n\n".join(parts))


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
    """Interrupt jobs and wait for their end; those at work after `STOP_S`, or a second Ctrl-C, are killed."""
    try:
        for job in running:
            if job.ranked:  # the launcher does not pass it on to its session
                os.killpg(job.process.pid, signal.SIGINT)
            else:
                job.process.send_signal(signal.SIGINT)
        end = time.monotonic() + STOP_S
        for job in running:
            with suppress(subprocess.TimeoutExpired):
                job.process.wait(timeout=max(0.0, end - time.monotonic()))
    finally:
        for job in running:
            if job.process.poll() is None:
                with suppress(ProcessLookupError):  # it has no session yet, or ended this moment
                    os.killpg(job.process.pid, signal.SIGKILL)
                job.process.send_signal(signal.SIGKILL)
                job.process.wait()
            job.bar.close()


def _start(job: Job, place: Place, launcher: list[str] | None, shown: bool) -> Running:
    config = resolve_run(job.config, job.root)
    folder = RunFolder.of(config, job.root)
    with writing(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
    log = folder.path / "log.txt"
    threads = str(config.engine.threads)
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        PARENT: f"{os.getpid()}@{os.uname().nodename}",
    }
    if place.gpus:
        variables["CUDA_VISIBLE_DEVICES"] = place.gpus
    spec = str(write_job(replace(job, config=config), folder, variables))
    paths = folders(config.own_modules)  # they are found where this process found them
    with writing(log), open(log, "ab") as file:
        said_before = file.tell()
        if launcher is None and threads == "1" and not visible_gpus():
            process = Forked(_job_process, (spec, str(log), variables, paths, place.core))
        else:
            inherited = os.environ.get("PYTHONPATH", "")
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, [*paths, inherited]))
            process = subprocess.Popen(
                job_command("hpt.runs.job", [spec], launcher), stdout=file, stderr=subprocess.STDOUT,
                env=variables, preexec_fn=end_with_parent, start_new_session=True,
            )  # fmt: skip
    bar = tqdm(
        total=max(1, config.schedule.steps), desc=folder.path.name, unit="step", leave=False,
        disable=None if shown else True,
    )  # fmt: skip
    return Running(job, config, folder, process, place, log, bar, time.monotonic(), launcher is not None,
                   said_before=said_before)  # fmt: skip


def _show(job: Running) -> None:
    """Move a job's bar to where the job stands, and say whom it waits for."""
    job.shown_at = time.monotonic()
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
    job.step = status["step"]
    job.bar.update(job.step - job.bar.n)


def _finish(job: Running) -> None:
    """Repeat the warnings of a job, and raise what one said that is not finished."""
    lines = job.log.read_bytes()[job.said_before :].decode(errors="replace").splitlines()
    for line in lines:
        if line.startswith("warning: "):
            warn(line.removeprefix("warning: "))
    code, name = job.process.returncode, job.folder.path.name
    lacking = _lacking(job)
    if not lacking:
        if code:
            warn(f"run {name} ended with exit code {code} after it was finished")
        return
    if job.ranked:  # its launcher may have been killed, and ranks would hold the run for ever
        with suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGKILL)
    tail = lines[-15:]
    said = [line for line in lines[-200:] if line.startswith("error: ")]
    if job.ranked and said and said[-1] not in tail:  # the launcher and the other ranks may have said much since
        tail.insert(0, said[-1])
    message = f"run {name} ended with exit code {code}, {lacking}; its log is {job.log}:"
    # 2 is the exit code of `hpt.runs.job.main` for a mistake in what was asked for
    raise (RunRefused if code == 2 and said else HptError)("\n".join([message, *tail]))


def _lacking(job: Running) -> str:
    """What of a job is not done, as its folder says; "" when it is."""
    status = job.folder.status
    if status["state"] != "finished":
        return f"not finished ({status['state']} at step {status['step']})"
    if missing := missing_evaluations(job.folder, job.config, job.job.evaluations):
        return f"not evaluated on {', '.join(missing)}"
    # one that had finished before may have been started because of damage, and have failed before it saw to that
    damaged = damaged_files(job.folder) if job.process.returncode else []
    return f"damaged: {', '.join(damaged)}" if damaged else ""
