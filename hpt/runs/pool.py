"""Independent runs side by side, each a process with a core or GPUs; one bar for all and one per run.

Where they are computed is an executor's matter: on this machine (`hpt.runs.process`), or on those of a Ray cluster
(`hpt.runs.cluster`). Commands that share a folder share its runs: the command that claims one makes it.

A run that fails stops no other: the rest are made, and at the end all failures are reported. What a run's process says
with its exit code proves nothing, its folder alone says that it is finished. A run whose machine is lost goes on
elsewhere from its newest checkpoint.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hpt.runs.cluster import RayExecutor, RayWork
from hpt.runs.evaluations import lacking
from hpt.runs.folder import RunFolder
from hpt.runs.job import Job, write_job
from hpt.runs.process import LocalExecutor, RunProcess, run_variables
from hpt.runs.resolve import lacking_start, resolve_run
from hpt.support.errors import ConfigError, HptError, RunRefused, warn
from hpt.support.files import CLAIM, Held, holder, locked, writing
from hpt.support.plugins import folders
from hpt.support.text import duration
from hpt.training.ranks import LAUNCHED, RUN_NODES, executor_name, launched, launcher_options

Executor = LocalExecutor | RayExecutor

#: Seconds between two looks at a run's status; until runs that were interrupted are killed, all together.
LOOK_S, STOP_S = 1.0, 20.0
#: More runs at a time than this are shown in one line.
SHOWN = 10
#: tqdm's ``disable``: None lets it look for a terminal, which a notebook is not.
UNSEEN = False if any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__) else None
#: How often a run is started again after its machine was lost.
RETRIES = 3


@dataclass
class Running:
    """A run at work."""

    run: Job  # its configuration resolved
    process: RunProcess | RayWork
    place: Any
    claim: ExitStack
    log: Path
    said_before: int  # bytes of its log
    bar: Any
    started: float
    shown_at: float = 0.0
    step: int = 0


def run_jobs(
    jobs: Sequence[Job], parallel: int | None = None, on_finish: Callable[[RunFolder], None] = lambda folder: None
) -> None:
    """Run jobs in processes of their own, at most ``parallel`` at once (default: one per core, or per group of GPUs).

    ``on_finish`` is called with the folder of every job that is done, as it ends. Jobs that failed, or could not start
    because what they start from failed, are reported once the others are finished: as `RunRefused` where all found a
    mistake in what was asked for, which a second try would find again.
    """
    if launcher_options() is None and launched():
        raise ConfigError("RANK", os.environ["RANK"], "unset for hpt's own commands, which start the ranks themselves",
                          f"type `unset {' '.join(LAUNCHED)}`; --launcher-args says on how many devices")  # fmt: skip
    if executor_name() == "ray":
        executor = RayExecutor(jobs, parallel)
    elif os.environ.get(RUN_NODES, "1") != "1":
        raise ConfigError("--run-nodes", os.environ[RUN_NODES], "1 on this machine", "add --executor ray")
    else:
        executor = LocalExecutor(jobs, parallel)
    pool = _Pool(jobs, executor, on_finish)
    try:
        with tqdm(total=len(jobs), desc="all", unit="run", disable=UNSEEN) as pool.done:
            while pool.look():
                time.sleep(0.2)
        _raise_failures(pool.failed, pool.waiting)
    except KeyboardInterrupt:
        print("stopping; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        raise
    finally:
        try:
            _stop(pool.running)
        finally:
            executor.close()


class _Pool:
    """The runs of one command: those that wait, those at work, those that another command makes."""

    done: Any  # the bar of all runs

    def __init__(self, jobs: Sequence[Job], executor: Executor, on_finish: Callable[[RunFolder], None]) -> None:
        self.executor, self.on_finish = executor, on_finish
        self.waiting, self.running, self.elsewhere = list(jobs), list[Running](), list[Job]()
        self.asked, self.failed, self.lost = dict[str, Job](), list[HptError](), Counter[str]()
        self.following: Job | None = None  # resolved, as those at work and elsewhere
        self.changed, self.looked_at = True, 0.0

    def look(self) -> bool:
        """See which runs have ended, and start others; returns whether there is anything to wait for."""
        for running in list(self.running):
            if running.process.poll() is not None:
                self._end(running)
            elif time.monotonic() - running.shown_at >= LOOK_S:
                _show(running)
        if self.executor.slots > SHOWN:
            steps = sum(one.step for one in self.running), sum(one.run.config.schedule.steps for one in self.running)
            self.done.set_postfix_str(f"{len(self.running)} at work, step {steps[0]} of {steps[1]} in all")
        if self.elsewhere and time.monotonic() - self.looked_at >= LOOK_S:
            self._look_elsewhere()
        while self._start_one():
            pass
        return bool(self.running or self.elsewhere or self.following)

    def _start_one(self) -> bool:
        """Start the first run that can be; returns whether another one may follow at once."""
        if self.following is None and self.changed:  # nothing else becomes ready before a run ends
            # a run waits for its base, other bases' runs need not
            job = next((job for job in self.waiting if lacking_start(job.config, job.root) is None), None)
            self.changed = job is not None
            if job is not None:
                self.waiting.remove(job)
                with _noting(self.failed):
                    self.following = replace(job, config=resolve_run(job.config, job.root))
                    self.asked[self.following.name] = job  # resolved anew, should it be started again
                return True
        run = self.following
        if run is None:
            return False
        # on a kind of processor that it was computed on before, if there is one
        place: Any = self.executor.take((run.folder.begun.get("processors") or [""])[-1])
        if place is None:
            return False
        self.following, claim = None, ExitStack()
        try:
            with _noting(self.failed):
                claim.enter_context(locked(run.folder.path, wait=False, name=CLAIM))
                if not lacking(run.folder, run.config, run.evaluations):  # another command has made it meanwhile
                    self._finished(run, "by another command")
                else:
                    self.running.append(_start(run, place, claim, self.executor))
                    place, claim = None, ExitStack()
                    step = 0 if run.folder.finished else run.folder.status["step"]
                    _say(f"started {run.name}" + (f" again: it had stopped at step {step}" if step else ""))
        except Held:
            _say(f"{run.name} is made by {holder(run.folder.path, CLAIM) or 'another command'}: its turn comes again")
            self.elsewhere.append(run)
        finally:
            claim.close()
            if place is not None:
                self.executor.give_back(place, lost=False)
        return True

    def _look_elsewhere(self) -> None:
        """Take back the runs that no other command holds any more."""
        self.looked_at = time.monotonic()
        for run in list(self.elsewhere):
            with suppress(Held), locked(run.folder.path, wait=False, name=CLAIM):
                self.elsewhere.remove(run)
                self.waiting.insert(0, self.asked[run.name])
                self.changed = True

    def _end(self, running: Running) -> None:
        run, self.changed = running.run, True
        self.running.remove(running)
        running.bar.close()
        try:
            with _noting(self.failed):
                again = running.process.lost and self.lost[run.name] < RETRIES
                if again and lacking(run.folder, run.config, run.evaluations, files=False):
                    self.lost[run.name] += 1
                    self.waiting.insert(0, self.asked[run.name])
                    _say(f"{run.name} lost its machine at step {run.folder.status['step']}; it goes on elsewhere")
                    return
                _finish(running)
                self._finished(run, f"in {duration(time.monotonic() - running.started)}")
        finally:
            running.claim.close()
            self.executor.give_back(running.place, running.process.lost)

    def _finished(self, run: Job, how: str) -> None:
        self.on_finish(run.folder)
        _say(f"finished {run.name} {how}")
        self.done.update()


@contextmanager
def _noting(failed: list[HptError]) -> Generator[None]:
    """Say how a run failed, and go on."""
    try:
        yield
    except Held:
        raise
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
        configs = [job.config for job in waiting]
        names = ", ".join(f"{config.method} on {config.policy.name}, seed {config.seed}" for config in configs)
        parts.append(f"not started, since no job is left that makes what they start from: {names}")
    refused = failed and all(isinstance(error, ConfigError) for error in failed)
    raise (RunRefused if refused else HptError)("\n\n".join(parts))


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def _stop(running: Sequence[Running]) -> None:
    """Interrupt runs and wait for their end; those at work after `STOP_S`, or a second Ctrl-C, are killed."""
    try:
        for one in running:
            one.process.interrupt()
        end = time.monotonic() + STOP_S
        for one in running:
            one.process.wait(max(0.0, end - time.monotonic()))
    finally:
        for one in running:
            one.process.kill()
            one.bar.close()
            one.claim.close()


def _start(run: Job, place: Any, claim: ExitStack, executor: Executor) -> Running:
    log, config = run.folder.path / "log.txt", run.config
    spec = str(write_job(run, run.folder, run_variables(config.engine.threads)))
    with writing(log), open(log, "ab") as file:
        said_before = file.tell()
    # the run's own modules are found where this process found them
    process = executor.start(place, spec, log, config.engine, folders(config.own_modules))
    bar = tqdm(total=max(1, config.schedule.steps), desc=run.name, unit="step", leave=False,
               disable=UNSEEN if executor.slots <= SHOWN else True)  # fmt: skip
    return Running(run, process, place, claim, log, said_before, bar, time.monotonic())


def _show(running: Running) -> None:
    running.shown_at, status = time.monotonic(), running.run.folder.status
    shown = {name: status[name] for name in ("reward", "offline_ratio") if status.get(name) is not None}
    running.bar.set_postfix(shown, refresh=False)
    running.step = status["step"]
    running.bar.update(running.step - running.bar.n)


def _finish(running: Running) -> None:
    """Repeat the warnings of a run, and raise what one said that is not finished."""
    lines = running.log.read_bytes()[running.said_before :].decode(errors="replace").splitlines()
    for line in lines:
        if line.startswith("warning: "):
            warn(line.removeprefix("warning: "))
    code, run = running.process.poll(), running.run
    # one that had finished before may have been started because of damage, and have failed before it saw to that
    left = lacking(run.folder, run.config, run.evaluations, files=bool(code))
    if not left:
        if code:
            warn(f"run {run.name} ended with exit code {code} after it was finished")
        return
    if running.process.ranked:  # its launcher may have been killed, and ranks would hold the run for ever
        running.process.kill()
    tail = lines[-15:]
    said = [line for line in lines[-200:] if line.startswith("error: ")]
    if running.process.ranked and said and said[-1] not in tail:  # launcher and other ranks may have said much since
        tail.insert(0, said[-1])
    message = f"run {run.name} ended with exit code {code}, not finished ({left}); its log is {running.log}:"
    # 2 is the exit code of `hpt.runs.job.main` for a mistake in what was asked for
    raise (RunRefused if code == 2 and said else HptError)("\n".join([message, *tail]))
