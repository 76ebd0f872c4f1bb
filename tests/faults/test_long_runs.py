"""Two thousand steps: memory, files, threads and processes stay as they are, the last steps as quick as the first.

Step times are wall time: they mean something only where nothing else runs.
"""

import os
import statistics
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.digits import digits_config, write_digits
from tests.jobs import only_run, start_job

#: Real sampling, grading, updates and checkpoints; `HPT_LONG_STEPS` makes a shorter one for a look.
STEPS = int(os.environ.get("HPT_LONG_STEPS", "2000"))
#: Steps after which everything is warm, and steps whose times are compared.
WARM = STEPS // 10
#: Settings of the run; records are kept in memory, so a run of many steps grows by them.
#: So little is learnt that answers keep their length: with it the work of a step would shrink, and hide what grows.
SETTINGS = {
    "schedule__steps": STEPS, "checkpoint__every": STEPS // 4, "validation__every": 0, "optimizer__learning_rate": 1e-9,
}  # fmt: skip


def sample(job: psutil.Process, step: int) -> dict[str, int]:
    """What a job and all it started hold at a step; memory in bytes."""
    held = {"step": step, "memory": 0, "files": 0, "threads": 0, "processes": 0}
    for own in (job, *job.children(recursive=True)):
        try:
            with own.oneshot():
                held["memory"] += own.memory_info().rss
                held["files"] += own.num_fds()
                held["threads"] += own.num_threads()
                held["processes"] += 1
        except psutil.Error:  # a worker that is being replaced
            continue
    return held


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_a_long_run_neither_grows_nor_slows_down(tmp_path: Path) -> None:
    world = write_digits(tmp_path / "world")
    config = digits_config("hpt", world, **SETTINGS)
    started = start_job(config, tmp_path / "runs")
    job, samples = psutil.Process(started.process.pid), list[dict[str, int]]()
    while started.process.is_alive():
        time.sleep(0.5)
        found = list((tmp_path / "runs").glob("*/*/status.json"))
        try:
            step = only_run(tmp_path / "runs").status["step"] if found else 0
            now = sample(job, step)
        except psutil.Error:
            break
        if now["processes"] and (not samples or step > samples[-1]["step"]):
            samples.append(now)
    assert started.wait(600) == 0, started.said()
    warm = [own for own in samples if WARM <= own["step"] < STEPS]
    assert len(warm) > 10, samples
    tenth = max(3, len(warm) // 10)
    first, last = warm[:tenth], warm[-tenth:]

    def change(name: str) -> float:
        before, after = (statistics.median(own[name] for own in part) for part in (first, last))
        return after / before - 1

    seconds = only_run(tmp_path / "runs").table("metrics")["time/step_s"].to_numpy()
    steps = max(10, STEPS // 10)
    slower = float(np.median(seconds[-steps:]) / np.median(seconds[WARM : WARM + steps])) - 1
    grown = {name: change(name) for name in ("memory", "files", "threads", "processes")}
    print(f"{STEPS} steps, {sum(seconds):.0f} s; {first[0]} -> {last[-1]}; {grown}; step time {slower:+.1%}")
    assert grown["memory"] < 0.05
    assert max(grown["files"], grown["threads"], grown["processes"]) <= 0
    assert abs(slower) < 0.10, "the work of a step changed, or its pace"
