"""``hpt runs``: list, show, export, import or remove run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hpt.errors import ConfigError

if TYPE_CHECKING:
    from hpt.runs import RunFolder

runs_app = typer.Typer(no_args_is_help=True, help="List, show, export, import or remove runs.")
console = Console(soft_wrap=True)

Scale = Annotated[str, typer.Option(help="How big: tiny (minutes, numbers mean nothing), mini, or full (8 GPUs)")]
RunsDir = Annotated[Path, typer.Option(help="Folder of run folders")]
ReportsDir = Annotated[Path, typer.Option(help="Folder the reports are written to")]


def find_run(name: str, runs_dir: Path) -> RunFolder:
    """Return the one run folder whose name starts with ``name``.

    Raises:
        ConfigError: none, or several.
    """
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
    with folder.lock():
        shutil.rmtree(folder.path)
    console.print(f"removed {folder.path}")


@runs_app.command("export")
def export_runs(
    scale: Scale = "mini", runs_dir: RunsDir = Path("runs"), reports_dir: ReportsDir = Path("reports")
) -> None:
    """Write the records of every finished run (no answers, no weights) under reports/<scale>/records/."""
    from hpt.export import export_run
    from hpt.runs import run_folders

    for folder in run_folders(runs_dir, scale):
        if folder.finished:
            export_run(folder, reports_dir / scale / "records")
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
    from hpt.cli import parse_seeds
    from hpt.fill import fill, lacking_runs
    from hpt.recorded import run_text

    records, numbers = reports_dir / scale / "records", parse_seeds(seeds)
    if why:
        for run in lacking_runs(scale, only or [], numbers, runs_dir, records):
            console.print(f"{run_text(run)}: {run.reason}")
        return
    for name in fill(scale, only or [], numbers, runs_dir, records, jobs):
        console.print(f"exported {name}")


@runs_app.command("import")
def import_run_records(source: Path, scale: Scale = "mini", reports_dir: ReportsDir = Path("reports")) -> None:
    """Take records made elsewhere into reports/<scale>/records/, each checked first."""
    from hpt.export import import_runs

    for folder in import_runs(source, reports_dir / scale / "records"):
        console.print(f"imported {folder.name}")
