"""``hpt plan``: what would run, how long it takes and what it needs; nothing is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hpt.cli_options import Gpus, Only, RunsDir, Scale, Seeds, console, parse_seeds


def plan(
    scale: Scale = "mini",
    only: Only = None,
    seeds: Seeds = "0",
    runs_dir: RunsDir = Path("runs"),
    gpus: Gpus = None,
    gpu_memory: Annotated[float, typer.Option(min=1, help="GPU scales: memory of a GPU, GiB")] = 80,
    gpu_tflops: Annotated[float, typer.Option(min=1, help="GPU scales: peak of a GPU in bfloat16, TFLOP/s")] = 989,
    utilisation: Annotated[
        Path | None, typer.Option(help="GPU scales: result of `python -m benchmarks.gpu`; default: stated shares")
    ] = None,
) -> None:
    """Show what would run, and why; nothing is computed."""
    from hpt.resource_plan import ON_GPUS, machine_of, make_plan, print_plan

    if scale in ON_GPUS:
        machine = machine_of(scale, gpus, gpu_memory, gpu_tflops, utilisation)
        print_plan(make_plan(scale, only or [], parse_seeds(seeds), runs_dir, machine), runs_dir, console)
    else:
        print_missing_runs(scale, only or [], parse_seeds(seeds), runs_dir)


def print_missing_runs(
    scale: str, only: list[str], seeds: list[int], runs_dir: Path, jobs: int | None = None, own: Sequence[str] = ()
) -> None:
    from hpt.experiments import planned_runs
    from hpt.forecast import forecast

    planned = planned_runs(scale, only, seeds, runs_dir, own=own)
    if not planned:
        console.print("no run is needed: everything follows from published numbers")
        return
    jobs = jobs or len(os.sched_getaffinity(0))
    expected = forecast(planned, runs_dir, scale, jobs)
    seconds = iter(expected.seconds)
    table = Table("run", "seed", "steps", "evaluations", "minutes", "to do")
    for run in planned:
        minutes = "" if run.done else f"{next(seconds) / 60:.1f}"
        cells = (
            f"{run.method} ({run.policy})",
            str(run.seed),
            str(run.config.schedule.steps),
            str(len(run.evaluations)),
        )
        table.add_row(*cells, minutes, run.reason or "nothing: done")
    console.print(table)
    console.print(
        f"about {expected.wall_s / 60:.0f} min, {jobs} runs at a time, and {expected.disk_mib:.0f} MiB of disk below "
        f"{runs_dir}, judging by {expected.basis or 'nothing: no run is left'}; on cores that do nothing else"
    )
