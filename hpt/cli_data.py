"""``hpt data``: fetch, check and show the public sets of the paper."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hpt.cli_options import console
from hpt.errors import ConfigError

if TYPE_CHECKING:
    from hpt.data.show import ShownToken
    from hpt.tasks.problems import Problem

data_app = typer.Typer(no_args_is_help=True, help="Fetch, check and show the public data sets of the paper.")

Folder = Annotated[Path, typer.Option("--data-dir", help="Folder of downloaded sets")]
Names = Annotated[list[str] | None, typer.Argument(help="Sets by name; none = all of them")]


@data_app.command("download")
def download_sets(
    names: Names = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="A local file or folder (.parquet, .jsonl, .json) instead of the hub")
    ] = None,
    levels: Annotated[
        Path | None, typer.Option(help="Ids with levels, to be joined: a file, or MATH's own folder")
    ] = None,
    folder: Folder = Path("data"),
) -> None:
    """Fetch sets from the hub (HF_TOKEN, or `hf auth login`, where one is gated), check and keep them."""
    from hpt.data.store import download
    from hpt.data.table import DATASETS

    wanted = names or [name for name, dataset in DATASETS.items() if dataset.hub]
    if (source is not None or levels is not None) and len(wanted) != 1:
        raise ConfigError("--from", str(source or levels), "one set", "name the set this file holds")
    for name in wanted:
        console.print(f"{name}: {len(download(name, folder, source, levels)):,} problems")


@data_app.command("check")
def check_sets(
    names: Names = None,
    leakage: Annotated[
        str | None, typer.Option(help="Compare this training set's questions (or a file's) with all benchmarks here")
    ] = None,
    folder: Folder = Path("data"),
) -> None:
    """Say of every set what it should be, whether it is here, and whether what is here is it."""
    from hpt.data.store import statuses

    found = statuses(folder, names or ())
    table = Table()
    table.add_column("set", no_wrap=True)  # what `hpt data download` is given
    for name in ("paper", "problems", "here", "detail"):
        table.add_column(name)
    for own in found:
        table.add_row(own.dataset.name, own.dataset.title, own.dataset.size, own.state, own.detail)
    console.print(table)
    if leakage is not None:
        _print_leakage(leakage, [own.dataset.name for own in found if own.state == "ready"], folder)
    if any(own.state == "wrong" for own in found):
        raise typer.Exit(1)


def _print_leakage(source: str, names: list[str], folder: Path) -> None:
    from hpt.data.leakage import NEAR, WORDS, leaks
    from hpt.data.sources import problems_from
    from hpt.data.store import load_set
    from hpt.data.table import DATASETS

    training = load_set(source, folder) if source in DATASETS else problems_from(source)
    benchmarks = {name: load_set(name, folder) for name in names if DATASETS[name].use == "evaluation"}
    if not benchmarks:
        raise ConfigError("--leakage", source, "at least one benchmark here", "type: hpt data download")
    found = leaks(training, benchmarks)
    counts = Counter((leak.benchmark, leak.kind) for leak in found)
    table = Table("benchmark", "problems", "exact in training", f"near (half of its {WORDS}-word runs)")
    for name, problems in benchmarks.items():
        table.add_row(name, str(len(problems)), str(counts[name, "exact"]), str(counts[name, "near"]))
    console.print(table)
    for leak in found:
        console.print(f"{leak.benchmark} {leak.problem_id}: {leak.kind} ({leak.share:.0%}), {leak.training_id}")
    console.print(f"{len(training):,} training questions; near: at least {NEAR:.0%} of a problem's runs of words")


@data_app.command("show")
def show_problem(
    source: Annotated[str, typer.Argument(help="A set, or a file or folder of your own")],
    problem: Annotated[str, typer.Option(help="Id of a problem, or its number in the set")] = "0",
    policy: Annotated[Path | None, typer.Option(help="Model folder whose tokenizer is used")] = None,
    template: Annotated[
        str, typer.Option(help="How the question becomes a prompt; see `hpt.tasks.templates`")
    ] = "qwen",
    limit: Annotated[int, typer.Option(min=1, help="Longest response, tokens: longer demonstrations are cut")] = 8192,
    whole: Annotated[bool, typer.Option("--all", help="Show every token of a long demonstration")] = False,
    folder: Folder = Path("data"),
) -> None:
    """Print a problem, and with --policy exactly what the model sees of it, token by token."""
    from hpt.data.sources import problems_from
    from hpt.data.store import load_set
    from hpt.data.table import DATASETS

    problems = load_set(source, folder) if source in DATASETS else problems_from(source)
    by_id = {own.id: own for own in problems}
    if problem not in by_id and not (problem.isdecimal() and int(problem) < len(problems)):
        raise ConfigError("--problem", problem, f"an id of {source}, or a number below {len(problems)}", "correct it")
    chosen = by_id[problem] if problem in by_id else problems[int(problem)]
    for name, value in vars(chosen).items():
        console.print(f"{name}: {value!r}" if name == "id" else f"{name}: {value}", markup=False, highlight=False)
    if policy is None:
        console.print("with --policy FOLDER: what its model sees, token by token")
        return
    _print_tokens(policy, chosen, template, limit, whole)


def _print_tokens(policy: Path, chosen: Problem, template: str, limit: int, whole: bool) -> None:
    from hpt.data.show import shown_problem
    from hpt.model_folder import load_tokenizer

    tokenizer = load_tokenizer(policy)
    prompt, response, is_cut = shown_problem(tokenizer, chosen, template, limit)
    console.print(f"prompt in template {template}: {len(prompt)} tokens")
    _print_list(prompt, whole=True)
    if response is not None:
        console.print(f"demonstration: {len(response)} tokens" + (f", cut to {limit}" if is_cut else ""))
        _print_list(response, whole)


def _print_list(tokens: list[ShownToken], whole: bool) -> None:
    left_out = range(0) if whole else range(40, len(tokens) - 20)
    for token in tokens:
        if token.place in left_out:
            if token.place == left_out.start:
                console.print(f"     ... {len(left_out)} more (--all shows them)")
            continue
        console.print(f"{token.place:6d} {token.id:8d} {token.text!r}", markup=False, highlight=False)
