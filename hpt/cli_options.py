"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hpt.errors import ConfigError
from hpt.launch import OPTIONS, launcher_options

#: What every command prints on.
console = Console(soft_wrap=True)

Scale = Annotated[
    str, typer.Option(help="How big: tiny (minutes, numbers mean nothing), mini, gpu (one GPU) or full (8 GPUs)")
]
RunsDir = Annotated[Path, typer.Option(help="Folder of run folders")]
ReportsDir = Annotated[Path, typer.Option(help="Folder the reports are written to")]
Seeds = Annotated[str, typer.Option(help="Seeds, comma-separated; one is quick, three give intervals: 0,1,2")]
Only = Annotated[list[str] | None, typer.Option(help="Only these artefacts, e.g. --only table3 --only figure5")]
Extra = Annotated[
    list[str] | None,
    typer.Option("--extra", help="A method of your own, module:METHOD, as a further line of Table 3, Figures 5 to 7"),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at the same time; default: one per core, on a GPU one")]
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
    """Have every run from here on, those of notebooks included, started with these options."""
    if text is not None:
        launcher_options(text)
        os.environ[OPTIONS] = text


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a comma-separated list.

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
