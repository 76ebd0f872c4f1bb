"""A run's process, and the places of this machine that runs have for themselves; of a Ray cluster: `hpt.runs.cluster`.

On CPU a run is forked from a process that has imported PyTorch, transformers and vLLM once (`hpt.runs.preload`): the
import takes longer than a short run. What a run computes is to the last bit what a process started from nothing does.
On GPUs it is started from nothing, alone or by a launcher of several ranks.
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

from hpt.config.run_config import RunConfig
from hpt.config.settings import EngineSettings
from hpt.runs.job import Job
from hpt.runs.job import main as job_main
from hpt.support.errors import ConfigError, HptError
from hpt.support.files import writing
from hpt.support.process import environment, without_main_script
from hpt.training.ranks import (
    PARENT,
    RUN_GPUS,
    end_with_parent,
    gpu_groups,
    job_command,
    launcher_options,
    visible_gpus,
)


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

    lost = False  #: whether its machine is gone: it may be started again elsewhere

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
        return self._process.poll()

    def wait(self, timeout: float) -> None:
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


class LocalExecutor:
    """This machine: a core or GPUs for each of ``slots`` runs; with options for DeepSpeed's launcher one at a time."""

    def __init__(self, jobs: Sequence[Job], parallel: int | None) -> None:
        self._options, cores = launcher_options(), sorted(os.sched_getaffinity(0))
        self._names = list[socket.socket]()
        groups = list[str]()
        if self._options is None:
            groups = gpu_groups(gpus_of_a_run([job.config for job in jobs], visible_gpus()))
            places = [Place(cores[i % len(cores)], gpus) for i, gpus in enumerate(groups)]
            if not places:  # two commands side by side must not take the same core
                own, self._names = cores_for(min(parallel or len(cores), len(jobs), len(cores)))
                places = [Place(core) for core in own]
            self._options = [] if groups and "," in groups[0] else None
        elif RUN_GPUS in os.environ:
            raise ConfigError("--run-gpus", os.environ[RUN_GPUS], "nothing beside --launcher-args, which says where a "
                              "run's processes are", "leave one of the two out")  # fmt: skip
        else:
            places = [Place(cores[0])]
        # a single process may share a core or GPU, if asked to
        self.slots = min(parallel or len(places), len(jobs) if self._options is None else len(places))
        self._free = [places[i % len(places)] for i in range(self.slots)]

    def take(self, like: str = "") -> Place | None:
        """Return a free place, of this kind of processor if there is one; None when all are taken."""
        return self._free.pop() if self._free else None

    def start(self, place: Place, spec: str, log: Path, engine: EngineSettings, paths: Sequence[str]) -> RunProcess:
        """Start a run there, see `RunProcess`."""
        launcher = None if self._options is None else job_command("hpt.runs.job", [spec], self._options)
        return RunProcess(spec, log, engine, paths, place, launcher)

    def give_back(self, place: Place, lost: bool) -> None:
        """Have a place back; ``lost``: with a machine that is gone."""
        self._free.append(place)

    def close(self) -> None:
        """Give all places up."""
        for name in self._names:
            name.close()


def gpus_of_a_run(configs: Sequence[RunConfig], there: int) -> int:
    """Return how many of a machine's GPUs a run takes where `--run-gpus` does not say."""
    wanted = (there if config.scale == "full" else config.rollout.tensor_parallel for config in configs)
    return max(wanted, default=1)
