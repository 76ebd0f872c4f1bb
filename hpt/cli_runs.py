"""``hpt runs``: list, show, compare, export, import or remove run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hpt.cli_options import ReportsDir, RunsDir, Scale, console, parse_seeds
from hpt.errors import ConfigError

if TYPE_CHECKING:
    from hpt.runs import RunFolder

runs_app = typer.Typer(no_args_is_help=True, help="List, show, compare, export, import or remove runs.")


def records_of(reports_dir: Path, scale: str) -> Path:
    """Return the folder of a scale's records."""
    from hpt.build import build_config

    return reports_dir / build_config("hpt", scale=scale).scale / "records"


def find_run(name: str, runs_dir: Path) -> RunFolder:
    """Return the one run folder whose name starts with ``name``."""
    from hpt.runs import run_folders

    found = [folder for folder in run_folders(runs_dir) if folder.path.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(folder.path.name for folder in found[:5]) or "none begins so"
        raise ConfigError("run", name, f"the beginning of one run's name ({names})", "see `hpt runs list`")
    return found[0]


@runs_app.command("list")
def list_runs(runs_dir: RunsDir = Path("runs")) -> None:
    """List all runs with state and step."""
    from hpt.runs import run_folders

    table = Table("run", "scale", "state", "step")
    for folder in run_folders(runs_dir):
        status = folder.status
        table.add_row(folder.path.name, folder.path.parent.name, status["state"], str(status["step"]))
    console.print(table)


@runs_app.command("show")
def show_run(run: str, runs_dir: RunsDir = Path("runs")) -> None:
    """Print a run's settings, status and provenance."""
    folder = find_run(run, runs_dir)
    shown = {"folder": str(folder.path), "status": folder.status, "config": folder.config.model_dump(mode="json")}
    for name in ("provenance", "data"):
        if (folder.path / f"{name}.json").exists():
            shown[name] = json.loads((folder.path / f"{name}.json").read_text())
    console.print_json(data=shown)


@runs_app.command("compare")
def compare_runs(
    first: Annotated[str, typer.Argument(help="Name of a finished run, the start of it, or a folder of records")],
    second: Annotated[str, typer.Argument(help="The other")],
    runs_dir: RunsDir = Path("runs"),
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; default: comparisons/ below --runs-dir"),
    ] = None,
) -> None:
    """List the settings in which two runs differ and their last values, and draw them over each other by step."""
    from hpt.compare import differences, final_values, write_comparison
    from hpt.export import load_records

    paths = [_finished(name, runs_dir) for name in (first, second)]
    if paths[0] == paths[1]:
        raise ConfigError("run", second, f"another run than {first}", "name two runs; see `hpt runs list`")
    left, right = (load_records(path) for path in paths)
    settings = differences(left, right)
    drawn = write_comparison(left, right, output or runs_dir / "comparisons")
    for text in (
        settings.to_string(index=False) if len(settings) else "they differ in no setting",
        f"means of the last tenth of training:\n{final_values(left, right).to_string(float_format='{:.4g}'.format)}",
        f"drawn over each other: {drawn}",
    ):
        console.print(text, markup=False, highlight=False)


def _finished(name: str, runs_dir: Path) -> Path:
    """Return the folder of a finished run, or of records."""
    from hpt.files import MANIFEST

    if (Path(name) / MANIFEST).exists():
        return Path(name).resolve()
    folder = find_run(name, runs_dir)
    if not folder.finished:
        raise ConfigError("run", name, f"a finished run (it is {folder.status['state']})", "run its command again")
    return folder.path.resolve()


@runs_app.command("remove")
def remove_run(
    run: str,
    runs_dir: RunsDir = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
) -> None:
    """Delete a run's folder, weights and records."""
    import shutil

    folder = find_run(run, runs_dir)
    if not yes:
        typer.confirm(f"delete {folder.path} for good?", abort=True)
    with folder.lock(wait=False):
        shutil.rmtree(folder.path)
    console.print(f"removed {folder.path}", markup=False)


@runs_app.command("export")
def export_runs(
    scale: Scale = "mini", runs_dir: RunsDir = Path("runs"), reports_dir: ReportsDir = Path("reports")
) -> None:
    """Write the records of every finished run (no answers, no weights) under reports/<scale>/records/."""
    from hpt.export import export_run
    from hpt.runs import run_folders

    records = records_of(reports_dir, scale)
    for folder in run_folders(runs_dir, scale):
        if folder.finished:
            export_run(folder, records)
            console.print(f"exported {folder.path.name}")


@runs_app.command("fill")
def fill_records(
    scale: Scale = "mini",
    only: Annotated[list[str] | None, typer.Option(help="Only these artefacts, e.g. --only table3")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated")] = "0",
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at the same time; default: the number of cores")] = None,
    runs_dir: RunsDir = Path("runs"),
    reports_dir: ReportsDir = Path("reports"),
    why: Annotated[bool, typer.Option("--why", help="Say which runs have no record, and stop")] = False,
) -> None:
    """Make the runs that reports/<scale>/records/ lacks, exporting each as it ends; run again to continue."""
    from hpt.fill import fill, lacking_runs

    records, numbers = records_of(reports_dir, scale), parse_seeds(seeds)
    if why:
        for run in lacking_runs(scale, only or [], numbers, runs_dir, records):
            console.print(f"{run.title}: {run.reason}")
        return
    for name in fill(scale, only or [], numbers, runs_dir, records, jobs):
        console.print(f"exported {name}")


@runs_app.command("import")
def import_run_records(source: Path, scale: Scale = "mini", reports_dir: ReportsDir = Path("reports")) -> None:
    """Take records made elsewhere into reports/<scale>/records/, each checked first."""
    from hpt.export import import_runs

    for folder in import_runs(source, records_of(reports_dir, scale)):
        console.print(f"imported {folder.name}")
