"""``hpt evaluate``: a run's policy, or any model folder, on evaluation sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hpt.cli_options import LauncherArgs, RunsDir, console, parse_settings, use_launcher
from hpt.cli_runs import find_run
from hpt.errors import ConfigError


def evaluate(
    run: Annotated[str | None, typer.Argument(help="Name of a finished run, or the start of it")] = None,
    model: Annotated[Path | None, typer.Option(help="Instead of a run: any model folder (Hugging Face format)")] = None,
    benchmarks: Annotated[str, typer.Option(help="Sets, comma-separated, or all")] = "all",
    scale: Annotated[str, typer.Option(help="With --model: whose sets, limits and sampling settings")] = "full",
    template: Annotated[str | None, typer.Option(help="With --model: how a question becomes a prompt")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="With --model: folder of downloaded sets")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --model: one setting, e.g. --set rollout.max_model_tokens=4096"),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    launcher_args: LauncherArgs = None,
) -> None:
    """Sample a finished run's policy, or any model, on evaluation sets and print its scores."""
    from hpt.data.sources import evaluation_names
    from hpt.experiments import run_with_base
    from hpt.export import load_records
    from hpt.final_evaluations import evaluation_key, sampling_config
    from hpt.resolve import given_base_config

    use_launcher(launcher_args)
    given = _given(template, data_dir, settings)
    if model is not None and run is None:
        config = given_base_config(scale, model, given)
    elif run is not None and model is None:
        found = find_run(run, runs_dir)
        if given:
            raise ConfigError("--set", ", ".join(given), "nothing beside a run: it is evaluated as it was trained",
                              f"leave it out, or name the run's model: --model {found.model}")  # fmt: skip
        config = found.config
    else:
        raise ConfigError("run", run, "either a run or --model FOLDER", "name one of the two")
    sets = evaluation_names(sampling_config(config)) if benchmarks == "all" else tuple(benchmarks.split(","))
    folder = run_with_base(config, runs_dir, sets)
    counts = load_records(folder.path).evaluations
    table = Table("set", "problems", "samples", "accuracy (%)")
    for name in sets:
        own = counts[counts["key"] == evaluation_key(config, name)[2]]  # not the same set under an earlier law
        share = 100 * (own["correct"] / own["samples"]).mean()
        table.add_row(name, str(len(own)), str(int(own["samples"].sum())), f"{share:.1f}")
    console.print(table)


def _given(template: str | None, data_dir: Path | None, settings: list[str] | None) -> dict[str, Any]:
    """Return what was named as one, dotted; --template and --data-dir are short for two settings."""
    short = {"data.template": template, "data.folder": str(data_dir) if data_dir is not None else None}
    named = {name: value for name, value in short.items() if value is not None}
    given = parse_settings(settings)
    for name in named.keys() & given.keys():
        raise ConfigError("--set", f"{name}={given[name]}", "each setting once", "leave one of the two out")
    return {**named, **given}
