"""The command line: ``hpt reproduce | train | evaluate | plan | runs | data | models | report | doctor``.

Exit codes: 0 done, 1 a fault while running, 2 a mistake in what was asked for (before any compute), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hpt.cli_data import data_app
from hpt.cli_evaluate import evaluate
from hpt.cli_models import models_app
from hpt.cli_options import (
    Extra,
    Gpus,
    Jobs,
    LauncherArgs,
    Only,
    ReportsDir,
    RunsDir,
    Scale,
    Seeds,
    Set,
    console,
    parse_seeds,
    parse_settings,
    use_launcher,
)
from hpt.cli_runs import runs_app
from hpt.errors import ConfigError, HptError
from hpt.locks import locked

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Check, understand and change *Towards a Unified View of Large Language Model Post-Training*.",
)
app.add_typer(runs_app, name="runs")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")
app.command()(evaluate)


@app.command()
def reproduce(
    scale: Scale = "mini",
    only: Only = None,
    extra: Extra = None,
    seeds: Seeds = "0",
    jobs: Jobs = None,
    runs_dir: RunsDir = Path("runs"),
    reports_dir: ReportsDir = Path("reports"),
    why: Annotated[bool, typer.Option("--why", help="Say what would be computed and why, and stop")] = False,
    from_records: Annotated[
        bool,
        typer.Option("--from-records", help="Render from committed records instead of computing; the report says so"),
    ] = False,
    launcher_args: LauncherArgs = None,
) -> None:
    """Compute whatever is missing, execute the notebooks and write the report; run again to continue."""
    from hpt.catalogue import artefacts_named
    from hpt.experiments import check_own, compute
    from hpt.methods import METHODS
    from hpt.plugins import spelled
    from hpt.scales import check_scale

    use_launcher(launcher_args)
    chosen, numbers = only or [], parse_seeds(seeds)
    own = [spelled(name, "methods", METHODS) for name in extra or []]
    if why:
        _print_plan(scale, chosen, numbers, runs_dir, own=own, jobs=jobs)
        return
    check_scale(scale)
    artefacts_named(chosen)  # before a lock is made and perhaps waited for
    check_own(own, chosen)
    if from_records:
        done = _make_report(scale, numbers, runs_dir, reports_dir, only=chosen or None, from_records=True, own=own)
    else:
        with locked(runs_dir / scale) as done:
            if not done:
                compute(scale, chosen, numbers, runs_dir, jobs, own=own)
                _make_report(scale, numbers, runs_dir, reports_dir, only=chosen or None, own=own)
    waited = " (made while this command waited)" if done else ""
    console.print(f"report: {reports_dir / scale / 'index.html'}{waited}", markup=False)
    if len(numbers) < 3:
        console.print("one seed decides nothing: `hpt reproduce --seeds 0,1,2` adds the intervals")


@app.command()
def plan(
    scale: Scale = "mini",
    only: Only = None,
    seeds: Seeds = "0",
    jobs: Jobs = None,
    runs_dir: RunsDir = Path("runs"),
    gpus: Gpus = None,
    gpu_memory: Annotated[float, typer.Option(min=1, help="GPU scales: memory of a GPU, GiB")] = 80,
    gpu_tflops: Annotated[float, typer.Option(min=1, help="GPU scales: peak of a GPU in bfloat16, TFLOP/s")] = 989,
    utilisation: Annotated[
        Path | None, typer.Option(help="GPU scales: result of `python -m benchmarks.gpu`; default: stated shares")
    ] = None,
) -> None:
    """Show what would run, why, and what it takes; nothing is computed."""
    from hpt.plan import machine_of

    machine = machine_of(scale, gpus, gpu_memory, gpu_tflops, utilisation)
    _print_plan(scale, only or [], parse_seeds(seeds), runs_dir, machine=machine, jobs=jobs)


def _print_plan(
    scale: str, only: list[str], seeds: list[int], runs_dir: Path, own: Sequence[str] = (), machine: Any = None,
    jobs: int | None = None,
) -> None:  # fmt: skip
    from hpt.experiments import planned_runs
    from hpt.plan import ON_GPUS, make_plan, print_plan

    runs = planned_runs(scale, only, seeds, runs_dir, own=own)
    jobs = 1 if scale in ON_GPUS else jobs or len(os.sched_getaffinity(0))
    print_plan(make_plan(scale, runs, runs_dir, machine, jobs), runs_dir, console)


@app.command()
def train(
    method: Annotated[str, typer.Option(help="sft, grpo, sft_then_grpo, luffy, srft, hpt, off_on, mix_on, pretrain, "
                                             "or module:METHOD of your own")] = "hpt",
    scale: Scale = "mini",
    recipe: Annotated[str, typer.Option(help="released: as the authors run it; paper: as printed")] = "released",
    policy: Annotated[str, typer.Option(help="Base: weak, strong or llama; or a model folder")] = "weak",
    data: Annotated[str | None, typer.Option(help="Training problems: a public set (`hpt data check`), or a file or "
                                                   "folder (.jsonl, .json, .parquet)")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    settings: Set = None,
    evaluations: Annotated[str, typer.Option(help="Sets to evaluate the final policy on, comma-separated")] = "",
    runs_dir: RunsDir = Path("runs"),
    launcher_args: LauncherArgs = None,
) -> None:  # fmt: skip
    """Train one policy with one method (its base first, if it is missing); run again to continue."""
    import hpt

    use_launcher(launcher_args)
    folder = hpt.train(
        method, scale=scale, recipe=recipe, policy=policy, data=data, seed=seed, settings=parse_settings(settings),
        evaluations=tuple(filter(None, evaluations.split(","))), runs_dir=runs_dir,
    )  # fmt: skip
    console.print(f"finished: {folder.path}", markup=False)
    if message := folder.status.get("message"):
        console.print(message, markup=False)


@app.command()
def report(
    scale: Scale = "mini",
    only: Only = None,
    seeds: Seeds = "0",
    runs_dir: RunsDir = Path("runs"),
    reports_dir: ReportsDir = Path("reports"),
    from_records: Annotated[bool, typer.Option("--from-records", help="Render from committed records")] = False,
    so_far: Annotated[
        bool, typer.Option("--so-far", help="Render what the finished runs allow and list what is missing")
    ] = False,
) -> None:
    """Execute the notebooks and write the report from what is there."""
    from hpt.scales import check_scale

    if so_far and from_records:
        raise ConfigError("--so-far", "--from-records", "one of the two: records are rendered as far as they go anyway",
                          "leave one out")  # fmt: skip
    check_scale(scale)
    _make_report(scale, parse_seeds(seeds), runs_dir, reports_dir, only, from_records, so_far)


def _make_report(
    scale: str, seeds: list[int], runs_dir: Path, reports_dir: Path, only: list[str] | None = None,
    from_records: bool = False, so_far: bool = False, own: Sequence[str] = (),
) -> bool:  # fmt: skip
    """Render, one process at a time; returns whether the same command did it while this one waited."""
    from hpt.files import remove_half_written
    from hpt.reports.build import build_report

    with locked(reports_dir / scale) as done:
        if not done:
            remove_half_written(reports_dir / scale, besides="records")
            build_report(
                scale, seeds, runs_dir, reports_dir, only=only, from_records=from_records, so_far=so_far, own=own
            )
    return done


@app.command()
def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Import the heavy packages too (a minute)")] = False,
) -> None:
    """Check the environment: what is missing, and what to type."""
    from hpt.doctor import diagnose, inspect_machine

    findings = diagnose(inspect_machine(deep=deep))
    for finding in findings:
        mark = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}[finding.status]
        console.print(
            f"{mark} {finding.name}: {finding.detail}" + (f"\n     → {finding.remedy}" if finding.remedy else "")
        )
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line and turn the package's errors into one sentence and an exit code."""
    # runs started from here import modules of the user's own from where the user stands
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    sys.path.insert(0, os.getcwd())
    try:
        app()
    except ConfigError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(2)
    except HptError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(1)
    except SystemExit as leaving:  # typer turns Ctrl-C into this without a word
        if leaving.code == 130:
            Console(stderr=True).print("interrupted; the same command continues where this one stopped")
        raise


if __name__ == "__main__":
    main()
