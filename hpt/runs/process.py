"""A run's process: forked from one that has imported everything, started from nothing, or a launcher of several.

On CPU a run is forked from a process that has imported PyTorch, transformers and vLLM once (`hpt.runs.preload`): the
import takes longer than a short run. What a run computes is to the last bit what a process started from nothing does.
"""

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from hpt.config.settings import EngineSettings
from hpt.runs.job import main as job_main
from hpt.support.errors import HptError
from hpt.support.files import writing
from hpt.support.process import environment, without_main_script
from hpt.training.ranks import PARENT, end_with_parent, job_command, visible_gpus


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

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
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


def cores_for(count: int) -> tuple[list[int], list[socket.socket]]:
    """Return different cores for so many runs, and the names that keep them from other commands until they are closed.

    First come the cores that no other command or agent on this machine has; where these are too few, others are shared.
    """
    free, names, cores = list[int](), list[socket.socket](), sorted(os.sched_getaffinity(0))
    for core in cores:
        if len(free) < count:
            name = socket.socket(socket.AF_UNIX)
            try:
                name.bind(f"\0hpt-core-{core}")
            except OSError:
                name.close()
            else:
                free.append(core)
                names.append(name)
    others = [core for core in cores if core not in free]
    first = os.getpid() % max(1, len(others))
    return [*free, *others[first:], *others[:first]][:count], names


def run_variables(threads: int, gpus: str = "") -> dict[str, str]:
    """Return the environment of a run's process that is started here; ``gpus`` "": those of this process."""
    given = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    given |= {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}
    return os.environ | given | {PARENT: f"{os.getpid()}@{os.uname().nodename}"}


class RunProcess:
    """A run at work on this machine, in a session of its own that ends when this process does.

    ``spec`` is the JSON of its job, ``paths`` are folders of its own modules, found first, and ``launcher`` is the
    command that starts its ranks (None = it has one).
    """

    #: Whether the machine it ran on is gone: it may be started again elsewhere.
    lost = False

    def __init__(
        self, spec: str, log: Path, engine: EngineSettings, paths: Sequence[str], place: Place,
        launcher: Sequence[str] | None,
    ) -> None:  # fmt: skip
        self.ranked, variables = launcher is not None, run_variables(engine.threads, place.gpus)
        self._process: subprocess.Popen[bytes] | Forked
        forked = engine.threads == 1 and engine.instruction_set == "avx2"  # as what it is forked from was imported
        if launcher is None and forked and not visible_gpus():
            self._process = Forked(_job_process, (spec, str(log), variables, list(paths), place.core))
        else:
            inherited = os.environ.get("PYTHONPATH", "")
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, [*paths, inherited]))
            with writing(log), open(log, "ab") as file:
                self._process = subprocess.Popen(
                    launcher or job_command("hpt.runs.job", [spec], None), stdout=file, stderr=subprocess.STDOUT,
                    env=variables, preexec_fn=end_with_parent, start_new_session=True,
                )  # fmt: skip
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return its exit code; None while it is at work."""
        return self._process.poll()

    def wait(self, timeout: float) -> None:
        """Wait for its end, at most ``timeout`` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def interrupt(self) -> None:
        if self.ranked:  # the launcher does not pass it on to its session
            self._signal_session(signal.SIGINT)
        else:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill it, and the ranks that a launcher left behind when it ended: they would hold the run for ever."""
        alive = self.poll() is None
        if alive or self.ranked:
            self._signal_session(signal.SIGKILL)
        if alive:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def _signal_session(self, number: int) -> None:
        with suppress(ProcessLookupError):  # there is none yet, or none any more
            os.killpg(self.pid, number)
