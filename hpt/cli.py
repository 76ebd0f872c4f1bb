"""The command line: ``hpt reproduce | train | evaluate | plan | runs | data | models | report | doctor``.

Exit codes: 0 done, 1 a fault while running, 2 a mistake in what was asked for (before any compute), 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from hpt.cli_data import data_app
from hpt.cli_models import models_app
from hpt.cli_runs import ReportsDir, RunsDir, Scale, find_run, runs_app
from hpt.errors import ConfigError, HptError
from hpt.launch import OPTIONS, launcher_options

if TYPE_CHECKING:
    from hpt.config import RunConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Check, understand and change *Towards a Unified View of Large Language Model Post-Training*.",
)
app.add_typer(runs_app, name="runs")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")
console = Console(soft_wrap=True)

Seeds = Annotated[str, typer.Option(help="Seeds, comma-separated; one is quick, three give intervals: 0,1,2")]
Only = Annotated[list[str] | None, typer.Option(help="Only these artefacts, e.g. --only table3 --only figure5")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at the same time; default: the number of cores")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, e.g. --set gate.count=2 --set optimizer.learning_rate=0.001"),
]
Gpus = Annotated[int | None, typer.Option(min=1, help="GPU scales: number of GPUs; default: 8, at scale gpu 1")]
LauncherArgs = Annotated[
    str | None,
    typer.Option(
        "--launcher-args",
        envvar=OPTIONS,
        help="Options for DeepSpeed's launcher, e.g. '--num_gpus 8' or '--hostfile hosts'; default: all GPUs there are",
    ),
]


def use_launcher(text: str | None) -> None:
    """Have every run from here on, those of notebooks included, started with these options.

    Raises:
        ConfigError: not options of DeepSpeed's launcher.
    """
    if text is not None:
        launcher_options(text)
        os.environ[OPTIONS] = text


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a comma-separated list.

    Raises:
        ConfigError: not whole numbers of at least 0, or named twice.

    Example:
        >>> parse_seeds("0,1,2")
        [0, 1, 2]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError("seeds", text, "different whole numbers of at least 0, comma-separated", "write e.g. 0,1,2")
    return [int(part) for part in parts]


def parse_settings(given: list[str] | None) -> dict[str, Any]:
    """Return dotted settings from ``name=value`` texts; a value is read as JSON, else taken as text.

    Raises:
        ConfigError: no equals sign, or a name given twice.

    Example:
        >>> parse_settings(["gate.count=2", "estimator.clip_eps_low=none"])
        {'gate.count': 2, 'estimator.clip_eps_low': 'none'}
    """
    settings: dict[str, Any] = {}
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator or name in settings:
            raise ConfigError("--set", text, "name=value, each name once", "write e.g. --set gate.count=2")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


@app.command()
def reproduce(
    scale: Scale = "mini",
    only: Only = None,
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
    from hpt.experiments import compute
    from hpt.report import build_report

    use_launcher(launcher_args)
    chosen, numbers = only or [], parse_seeds(seeds)
    if why:
        _print_plan(scale, chosen, numbers, runs_dir)
        return
    if not from_records:
        compute(scale, chosen, numbers, runs_dir, jobs)
    build_report(scale, numbers, runs_dir, reports_dir, only=chosen or None, from_records=from_records)
    console.print(f"report: {reports_dir / scale / 'index.html'}")
    if len(numbers) < 3:
        console.print("one seed decides nothing: `hpt reproduce --seeds 0,1,2` adds the intervals")


@app.command()
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
        _print_plan(scale, only or [], parse_seeds(seeds), runs_dir)


def _print_plan(scale: str, only: list[str], seeds: list[int], runs_dir: Path, jobs: int | None = None) -> None:
    from hpt.experiments import planned_runs
    from hpt.forecast import forecast

    planned = planned_runs(scale, only, seeds, runs_dir)
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
        f"{runs_dir}; times are those of runs finished here, else of a reference machine"
    )


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
    from hpt.experiments import run_with_base
    from hpt.job import base_config
    from hpt.scales import build_config

    use_launcher(launcher_args)
    given = parse_settings(settings)
    if method == "pretrain" and (given or data is not None):
        asked = ", ".join([*(settings or []), *([data] if data else [])])
        raise ConfigError("method", "pretrain", f"no settings and no data ({asked}): a base is made by its recipe",
                          "leave them out, or name the method they are for")  # fmt: skip
    if data is not None:
        given["data.source"] = data
    if Path(policy).is_dir():
        given["policy.path"], policy = str(Path(policy).resolve()), Path(policy).name
    basis = build_config("hpt", scale=scale, policy=policy) if method == "pretrain" else None
    config = base_config(basis) if basis else build_config(
        method, scale=scale, recipe=recipe, policy=policy, seed=seed, settings=given
    )  # fmt: skip
    folder = run_with_base(config, runs_dir, tuple(filter(None, evaluations.split(","))))
    console.print(f"finished: {folder.path}")


@app.command()
def evaluate(
    run: Annotated[str | None, typer.Argument(help="Name of a finished run, or the start of it")] = None,
    model: Annotated[Path | None, typer.Option(help="Instead of a run: any model folder (Hugging Face format)")] = None,
    benchmarks: Annotated[str, typer.Option(help="Sets, comma-separated, or all")] = "all",
    scale: Annotated[str, typer.Option(help="With --model: whose sets, limits and sampling settings")] = "full",
    template: Annotated[str | None, typer.Option(help="With --model: how a question becomes a prompt")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="With --model: folder of downloaded sets")] = None,
    runs_dir: RunsDir = Path("runs"),
    launcher_args: LauncherArgs = None,
) -> None:
    """Sample a finished run's policy, or any model, on evaluation sets and print its scores."""
    from hpt.data.sources import evaluation_names
    from hpt.experiments import run_with_base
    from hpt.export import load_records
    from hpt.job import sampling_config

    use_launcher(launcher_args)
    if (run is None) == (model is None):
        raise ConfigError("run", run, "either a run or --model FOLDER", "name one of the two")
    config = find_run(run, runs_dir).config if run is not None else _given(cast(Path, model), scale, template, data_dir)
    sets = evaluation_names(sampling_config(config)) if benchmarks == "all" else tuple(benchmarks.split(","))
    folder = run_with_base(config, runs_dir, sets)
    counts = load_records(folder.path).evaluations
    table = Table("set", "problems", "samples", "accuracy (%)")
    for name, own in counts.groupby("benchmark", sort=False):
        share = 100 * (own["correct"] / own["samples"]).mean()
        table.add_row(str(name), str(len(own)), str(int(own["samples"].sum())), f"{share:.1f}")
    console.print(table)


def _given(model: Path, scale: str, template: str | None, data_dir: Path | None) -> RunConfig:
    """The configuration under which a model folder is evaluated, with the scale's settings where none are named."""
    from hpt.bases import given_base_config
    from hpt.scales import build_config

    data = build_config("hpt", scale=scale).data
    chosen = {"template": template or data.template, "evaluation": data.evaluation}
    return given_base_config(scale, model, {**chosen, "folder": str(data_dir or data.folder)})


@app.command()
def report(
    scale: Scale = "mini",
    only: Only = None,
    seeds: Seeds = "0",
    runs_dir: RunsDir = Path("runs"),
    reports_dir: ReportsDir = Path("reports"),
    from_records: Annotated[bool, typer.Option("--from-records", help="Render from committed records")] = False,
) -> None:
    """Execute the notebooks and write the report from what is there."""
    from hpt.report import build_report

    build_report(scale, parse_seeds(seeds), runs_dir, reports_dir, only=only, from_records=from_records)


@app.command()
def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Import the heavy packages too (a minute)")] = False,
) -> None:
    """Check the environment: what is missing, and what to type."""
    from hpt.doctor import diagnose

    findings = diagnose(deep=deep)
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
        Console(stderr=True).print(f"error: {error}", markup=False)
        sys.exit(2)
    except HptError as error:
        Console(stderr=True).print(f"error: {error}", markup=False)
        sys.exit(1)
    except SystemExit as leaving:  # typer turns Ctrl-C into this without a word
        if leaving.code == 130:
            Console(stderr=True).print("interrupted; the same command continues where this one stopped")
        raise


if __name__ == "__main__":
    main()
