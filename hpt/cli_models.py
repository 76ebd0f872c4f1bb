"""``hpt models``: the paper's models, fetched and changed as the paper changes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hpt.cli_options import RunsDir, console

models_app = typer.Typer(no_args_is_help=True, help="Fetch the paper's models and change what the paper changes.")


@models_app.command("list")
def list_models(runs_dir: RunsDir = Path("runs")) -> None:
    """List the models with their place on the hub, what is changed, and whether they are here."""
    from hpt.public_models import MODELS
    from hpt.resolve import public_base_config
    from hpt.runs import RunFolder

    table = Table("policy", "paper", "hub", "changed", "here")
    for role, model in MODELS.items():
        folder = RunFolder.of(public_base_config("full", role, "data"), runs_dir)
        changes = ", ".join(f"{name} {value}" for name, value in model.changes.items()) or "nothing"
        table.add_row(role, model.title, model.hub, changes, str(folder.model) if folder.finished else "no")
    console.print(table)


@models_app.command("prepare")
def prepare(
    policy: Annotated[str, typer.Argument(help="weak, strong or llama")],
    source: Annotated[Path | None, typer.Option("--from", help="A local copy of the published model")] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Fetch a model (HF_TOKEN, or `hf auth login`, where it is gated), change its configuration, record it."""
    from hpt.integrity import write_checksums
    from hpt.public_models import MODELS, prepare_model
    from hpt.resolve import public_base_config
    from hpt.runs import RunFolder

    config = public_base_config("full", policy, "data")
    folder = RunFolder.of(config, runs_dir)
    with folder.lock():
        folder.create(config)
        record = prepare_model(MODELS[policy], folder.model, source)
        write_checksums(folder)
        folder.set_status("finished", 0)
    for name, (published, now) in record["changes"].items():
        console.print(f"{name}: {published} -> {now}")
    console.print(f"{record['title']} from {record['source']}: {folder.model}")
