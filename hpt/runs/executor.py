"""Runs on this machine; on those of a Ray cluster: `hpt.runs.cluster`.

An executor has ``slots`` places, as many as runs go side by side.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from hpt.config.run_config import RunConfig
from hpt.config.settings import EngineSettings
from hpt.runs.job import Job
from hpt.runs.process import Place, RunProcess, cores_for
from hpt.support.errors import ConfigError
from hpt.training.ranks import RUN_GPUS, gpu_groups, job_command, launcher_options, visible_gpus


class LocalExecutor:
    """This machine: a core or GPUs for every run; with options for DeepSpeed's launcher one run at a time."""

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
