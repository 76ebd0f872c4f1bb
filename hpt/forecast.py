"""What a plan will take, seconds and disk: from this machine's finished runs, else from a reference one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt.experiments import PlannedRun
from hpt.files import read_json
from hpt.runs import run_folders

#: Seconds per step of one run on one core of the machine the first report was made on (AMD EPYC, AVX-512, two runs side
#: by side), validations and checkpoints included; base training is per update.
REFERENCE_SECONDS = {
    "tiny": {"pretrain": 0.15, "sft": 0.5, "grpo": 1.0, "luffy": 1.2, "hpt": 1.2},
    "mini": {"pretrain": 0.25, "sft": 0.5, "grpo": 0.95, "luffy": 2.1, "hpt": 2.25},
}
#: Imports, engine start and first compilation of a process; one final evaluation on one set, on average.
START_SECONDS, EVALUATION_SECONDS = 20.0, 4.0
#: Two checkpoints, final weights and records of a run of the mini world.
RUN_MIB = 10.0


@dataclass(frozen=True)
class Forecast:
    """Seconds of every run left to do, in order; what they take side by side; and their disk."""

    seconds: tuple[float, ...]
    wall_s: float
    disk_mib: float


def seconds_per_step(root: Path, scale: str) -> dict[str, float]:
    """Return seconds per step by method: as finished runs of this machine took, else the reference's."""
    known = dict(REFERENCE_SECONDS.get(scale, {}))
    for folder in run_folders(root, scale):
        path = folder.path / "provenance.json"
        wall = read_json(path).get("wall_s") if folder.finished and path.exists() else None
        if wall:
            config = folder.config
            known[config.method] = max(0.0, wall - START_SECONDS) / max(1, config.schedule.steps)
    return known


def forecast(planned: Sequence[PlannedRun], root: Path, scale: str, jobs: int) -> Forecast:
    """Return what the runs left to do will take with ``jobs`` side by side.

    Bases come first and alone; then the longest remaining run starts whenever a core is free, as `hpt.pool` does it.

    Example:
        >>> forecast([], Path("runs"), "mini", 2).wall_s
        0.0
    """
    known = seconds_per_step(root, scale)
    slowest = max(known.values(), default=1.0)
    left = [run for run in planned if not run.done]
    seconds = [
        START_SECONDS
        + run.config.schedule.steps * known.get(run.method, slowest)
        + len(run.evaluations) * EVALUATION_SECONDS
        for run in left
    ]
    wall = 0.0
    for is_base in (True, False):
        cores = [0.0] * max(1, jobs)
        for run, own in zip(left, seconds, strict=True):
            if (run.method == "pretrain") == is_base:
                cores[cores.index(min(cores))] += own
        wall += max(cores)
    return Forecast(tuple(seconds), wall, RUN_MIB * len(left))
