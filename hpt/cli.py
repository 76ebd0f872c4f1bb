"""The command line: ``hpt reproduce | train | evaluate | plan | runs | data | models | report | doctor``.

Exit codes: 0 done, 1 a fault while running, 2 a mistake in what was asked for (before any compute), 130 interrupted.
A command reads its options, calls a room and prints; rooms are imported inside, so that ``--help`` is quick.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import hpt
from hpt.support.errors import ConfigError, HptError
from hpt.support.files import MANIFEST, locked, remove_half_written
from hpt.support.text import did_you_mean
from hpt.training.ranks import ADDRESS, EXECUTOR, OPTIONS, RUN_GPUS, RUN_NODES, executor_name, launcher_options

if TYPE_CHECKING:
    from hpt.data.problems import Problem
    from hpt.data.prompts import ShownToken
    from hpt.runs.folder import RunFolder

#: What every command prints on.
console = Console(soft_wrap=True, markup=False, highlight=False)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Check, understand and change *Towards a Unified View of Large Language Model Post-Training*.",
)
runs_app = typer.Typer(no_args_is_help=True, help="List, show, compare, export, import or remove runs.")
data_app = typer.Typer(no_args_is_help=True, help="Fetch, check and show the public data sets of the paper.")
models_app = typer.Typer(no_args_is_help=True, help="Fetch published models and change what the paper changes.")
app.add_typer(runs_app, name="runs")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

# Options that several commands share.
# fmt: off
Scale = Annotated[str, typer.Option(
    help="How big: tiny (minutes, numbers mean nothing), mini, smollm (SmolLM2-135M), gpu (one GPU) or full (8 GPUs)")]
RunsDir = Annotated[Path, typer.Option(help="Folder of run folders")]
ReportsDir = Annotated[Path, typer.Option(help="Folder the reports are written to")]
Seeds = Annotated[str, typer.Option(help="Seeds, comma-separated; one is quick, three give intervals: 0,1,2")]
Only = Annotated[list[str] | None, typer.Option(
    help="Only these artefacts, e.g. --only table3 --only figure5; a wrong name, such as list, names them all")]
Extra = Annotated[list[str] | None, typer.Option(
    "--extra", help="A custom method, module:METHOD, as a further line of Table 3, Figures 5 to 7")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at the same time; default: one per core, or per GPU")]
Set = Annotated[list[str] | None, typer.Option(
    "--set", help="One setting, e.g. --set gate.count=2 --set optimizer.learning_rate=0.001")]
LauncherArgs = Annotated[str | None, typer.Option(
    "--launcher-args", envvar=OPTIONS,
    help="Options for DeepSpeed's launcher, e.g. '--num_gpus 8' or '--hostfile hosts': one run after the other")]
RunGpus = Annotated[int | None, typer.Option(
    "--run-gpus", min=1, envvar=RUN_GPUS, help="GPUs of each run; default: 1, at scale full all of a machine")]
RunNodes = Annotated[int | None, typer.Option(
    "--run-nodes", min=1, envvar=RUN_NODES, help="With --executor ray: machines of each run")]
Executor = Annotated[str | None, typer.Option(
    "--executor", envvar=EXECUTOR, help="Where runs are made: local, or ray for a cluster (docs/cluster.md)")]
Address = Annotated[str | None, typer.Option(
    "--address", envvar=ADDRESS, help="With --executor ray: host:port of the cluster's head; default: auto")]
FromRecords = Annotated[bool, typer.Option(
    "--from-records", help="Render from committed records instead of computing; the report says so")]
DataDir = Annotated[Path, typer.Option("--data-dir", help="Folder of downloaded sets")]
Names = Annotated[list[str] | None, typer.Argument(help="Sets by name; none = all of them")]
# fmt: on


def use_executor(
    launcher_args: LauncherArgs = None,
    run_gpus: RunGpus = None,
    run_nodes: RunNodes = None,
    executor: Executor = None,
    address: Address = None,
) -> None:
    """Have every run from here on, those of notebooks included, made there, and started with these options."""
    if launcher_args is not None:
        launcher_options(launcher_args)
    given = {OPTIONS: launcher_args, RUN_GPUS: run_gpus, RUN_NODES: run_nodes, EXECUTOR: executor, ADDRESS: address}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    executor_name()  # before anything is read or computed


def makes_runs(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `use_executor`, which is called before it."""
    own, where = (inspect.signature(function, eval_str=True) for function in (command, use_executor))

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        use_executor(**{name: given.pop(name) for name in where.parameters})
        command(**given)

    together = [*own.parameters.values(), *where.parameters.values()]
    with_options.__dict__["__signature__"] = own.replace(parameters=together)  # what typer reads
    return with_options


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a comma-separated list."""
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


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows of texts; the first column, which other commands are given, is never wrapped."""
    table = Table()
    for place, name in enumerate(columns):
        table.add_column(name, no_wrap=place == 0)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


@data_app.command("download")
def download_sets(
    names: Names = None,
    source: Annotated[Path | None, typer.Option("--from", help="A local file or folder (.parquet, .jsonl, .json) "
                                                               "instead of the hub")] = None,
    folder: DataDir = Path("data"),
) -> None:  # fmt: skip
    """Fetch sets from the hub (HF_TOKEN, or `hf auth login`, where one is gated), check and keep them."""
    from hpt.data.public import DATASETS
    from hpt.data.store import download

    wanted = names or [name for name, dataset in DATASETS.items() if dataset.hub]
    if source is not None and len(wanted) != 1:
        raise ConfigError("--from", str(source), "one set", "name the set this file holds")
    for name in wanted:
        console.print(f"{name}: {len(download(name, folder, source)):,} problems")


@data_app.command("check")
def check_sets(
    names: Names = None,
    leakage: Annotated[str | None, typer.Option(help="Compare this training set's questions (or a file's) with all "
                                                     "benchmarks here")] = None,
    folder: DataDir = Path("data"),
) -> None:  # fmt: skip
    """Say of every set what it should be, whether it is here, and whether what is here is it."""
    from hpt.data.store import statuses

    found = statuses(folder, names or ())
    rows = [(one.dataset.name, one.dataset.title, one.dataset.size, one.state, one.detail) for one in found]
    print_table(("set", "paper", "problems", "here", "detail"), rows)
    if leakage is not None:
        _print_leakage(leakage, [one.dataset.name for one in found if one.state == "ready"], folder)
    if any(one.state == "wrong" for one in found):
        raise typer.Exit(1)


def _print_leakage(source: str, names: list[str], folder: Path) -> None:
    from hpt.data.leakage import NEAR, WORDS, leaks
    from hpt.data.public import DATASETS
    from hpt.data.store import load_set

    training = _problems(source, folder)
    benchmarks = {name: load_set(name, folder) for name in names if DATASETS[name].use == "evaluation"}
    if not benchmarks:
        raise ConfigError("--leakage", source, "at least one benchmark here", "type: hpt data download")
    found = leaks(training, benchmarks)
    counts = Counter((leak.benchmark, leak.kind) for leak in found)
    columns = ("benchmark", "problems", "exact in training", f"near (half of its {WORDS}-word runs)")
    print_table(columns, [(name, len(problems), counts[name, "exact"], counts[name, "near"])
                          for name, problems in benchmarks.items()])  # fmt: skip
    for leak in found:
        console.print(f"{leak.benchmark} {leak.problem_id}: {leak.kind} ({leak.share:.0%}), {leak.training_id}")
    console.print(f"{len(training):,} training questions; near: at least {NEAR:.0%} of a problem's runs of words")


def _problems(source: str, folder: Path) -> Sequence[Problem]:
    """Return the problems of a public set, or of the user's file or folder."""
    from hpt.data.public import DATASETS
    from hpt.data.sources import problems_from
    from hpt.data.store import load_set

    return load_set(source, folder) if source in DATASETS else problems_from(source)


@data_app.command("show")
def show_problem(
    source: Annotated[str, typer.Argument(help="A set, or your file or folder")],
    problem: Annotated[str, typer.Option(help="Id of a problem, or its number in the set")] = "0",
    policy: Annotated[Path | None, typer.Option(help="Model folder whose tokenizer is used")] = None,
    template: Annotated[str | None, typer.Option(help="How the question becomes a prompt; default: qwen, "
                                                      "or plain where the tokenizer has no chat template")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Longest response, tokens: longer demonstrations are cut")] = 8192,
    whole: Annotated[bool, typer.Option("--all", help="Show every token of a long demonstration")] = False,
    folder: DataDir = Path("data"),
) -> None:  # fmt: skip
    """Print a problem, and with --policy exactly what the model sees of it, token by token."""
    problems = _problems(source, folder)
    by_id = {one.id: one for one in problems}
    if problem not in by_id and not (problem.isdecimal() and int(problem) < len(problems)):
        raise ConfigError("--problem", problem, f"an id of {source}, or a number below {len(problems)}", "correct it")
    chosen = by_id[problem] if problem in by_id else problems[int(problem)]
    for name, value in vars(chosen).items():
        console.print(f"{name}: {value!r}" if name == "id" else f"{name}: {value}")
    if policy is None:
        console.print("with --policy FOLDER: what its model sees, token by token")
        return
    from hpt.data.models import load_tokenizer
    from hpt.data.prompts import shown_problem

    tokenizer = load_tokenizer(policy)
    template = template or ("qwen" if getattr(tokenizer, "chat_template", None) else "plain")
    prompt, response, is_cut = shown_problem(tokenizer, chosen, template, limit)
    console.print(f"prompt in template {template}: {len(prompt)} tokens")
    _print_list(prompt, whole=True)
    if response is not None:
        console.print(f"demonstration: {len(response)} tokens" + (f", cut to {limit}" if is_cut else ""))
        _print_list(response, whole)


def _print_list(tokens: list[ShownToken], whole: bool) -> None:
    left_out = range(0) if whole else range(40, len(tokens) - 20)
    for token in tokens:
        if token.place not in left_out:
            console.print(f"{token.place:6d} {token.id:8d} {token.text!r}")
        elif token.place == left_out.start:
            console.print(f"     ... {len(left_out)} more (--all shows them)")


@models_app.command("list")
def list_models(runs_dir: RunsDir = Path("runs")) -> None:
    """List the models with their place on the hub, what is changed, and whether they are here."""
    from hpt.data.models import MODELS, RECORD
    from hpt.runs.folder import RunFolder
    from hpt.runs.resolve import public_base_config

    rows = []
    for name, model in MODELS.items():
        config = public_base_config(model.scale, model.role, "data")
        model_folder = RunFolder.of(config, runs_dir).fetched(config)
        changes = ", ".join(f"{setting} {value}" for setting, value in model.changes.items()) or "nothing"
        here = model_folder if (model_folder / RECORD).is_file() else "no"
        rows.append((name, model.title, model.hub, changes, here))
    print_table(("name", "model", "hub", "changed", "here"), rows)


@models_app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="weak, strong or llama of the paper, or smollm2-135m")],
    source: Annotated[Path | None, typer.Option("--from", help="A local copy of the published model")] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Fetch a model (HF_TOKEN, or `hf auth login`, where it is gated), change its configuration, record it."""
    from hpt.data.models import MODELS, prepare_model
    from hpt.runs.folder import RunFolder, write_checksums
    from hpt.runs.resolve import public_base_config

    if name not in MODELS:
        raise ConfigError("model", name, "one of " + ", ".join(MODELS), did_you_mean(name, list(MODELS)))
    config = public_base_config(MODELS[name].scale, MODELS[name].role, "data")
    folder = RunFolder.of(config, runs_dir)
    with folder.lock():
        folder.create(config)
        record = prepare_model(MODELS[name], folder.fetched(config), source)
        if not config.schedule.steps:  # else its run goes on with it
            write_checksums(folder)
            folder.set_status("finished", 0)
    for name, (published, now) in record["changes"].items():
        console.print(f"{name}: {published} -> {now}")
    console.print(f"{record['title']} from {record['source']}: {folder.fetched(config)}")


def records_of(reports_dir: Path, scale: str) -> Path:
    """Return the folder of a scale's records."""
    from hpt.config.scales import check_scale

    check_scale(scale)
    return reports_dir / scale / "records"


def find_run(name: str, runs_dir: Path, finished: bool = False) -> RunFolder:
    """Return the one run folder whose name starts with ``name``, perhaps only if it is finished."""
    from hpt.runs.folder import run_folders

    found = [folder for folder in run_folders(runs_dir) if folder.path.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(folder.path.name for folder in found[:5]) or no_runs(runs_dir) or "none begins so"
        raise ConfigError("run", name, f"the beginning of one run's name ({names})", "see `hpt runs list`")
    if finished and not found[0].finished:
        allowed = f"a finished run (it is {found[0].status['state']})"
        raise ConfigError("run", found[0].path.name, allowed, "run its command again")
    return found[0]


def no_runs(runs_dir: Path) -> str:
    """Say which folder holds no run, and which one above it, or of the package, does; empty where it holds some."""
    from hpt.runs.folder import run_folders

    if run_folders(runs_dir):
        return ""
    places = [place / runs_dir for place in (*Path.cwd().parents, Path(__file__).resolve().parents[1])]
    there = next((f"; there are some in {place}: --runs-dir" for place in places if run_folders(place)), "")
    return f"no run in {runs_dir.resolve()}{there}"


@runs_app.command("list")
def list_runs(runs_dir: RunsDir = Path("runs")) -> None:
    """List all runs with state and step; one is running only where a live process has it."""
    from hpt.runs.folder import run_folders

    if nothing := no_runs(runs_dir):
        console.print(nothing)
        return
    found = [(folder.path, folder.state, folder.status) for folder in run_folders(runs_dir)]
    rows = [(path.name, path.parent.name, state, status["step"]) for path, state, status in found]
    print_table(("run", "scale", "state", "step"), rows)
    messages = [f"{path.name}: {status['message']}" for path, _, status in found if status.get("message")]
    console.print("\n".join(messages))


@runs_app.command("show")
def show_run(run: str, runs_dir: RunsDir = Path("runs")) -> None:
    """Print a run's settings, status and provenance."""
    folder = find_run(run, runs_dir)
    status = folder.status | {"state": folder.state}
    shown = {"folder": str(folder.path), "status": status, "config": folder.config.model_dump(mode="json")}
    for name in ("provenance", "data"):
        if (folder.path / f"{name}.json").exists():
            shown[name] = json.loads((folder.path / f"{name}.json").read_text())
    console.print_json(data=shown)


@runs_app.command("compare")
def compare_runs(
    first: Annotated[str, typer.Argument(help="Name of a finished run, the start of it, or a folder of records")],
    second: Annotated[str, typer.Argument(help="The other")],
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """List the settings in which two runs differ, and their last values; `hpt.runs.compare.by_step` has all steps."""
    from hpt.runs.compare import differences, final_values
    from hpt.runs.records import load_records

    def folder_of(name: str) -> Path:
        exported = (Path(name) / MANIFEST).exists()
        return (Path(name) if exported else find_run(name, runs_dir, finished=True).path).resolve()

    paths = [folder_of(name) for name in (first, second)]
    if paths[0] == paths[1]:
        raise ConfigError("run", second, f"another run than {first}", "name two runs; see `hpt runs list`")
    left, right = (load_records(path) for path in paths)
    settings = differences(left, right)
    console.print(settings.to_string(index=False) if len(settings) else "they differ in no setting")
    values = final_values(left, right).to_string(float_format="{:.4g}".format)
    console.print(f"means of the last tenth of training:\n{values}")


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
    console.print(f"removed {folder.path}")


@runs_app.command("export")
def export_runs(
    scale: Scale = "mini", runs_dir: RunsDir = Path("runs"), reports_dir: ReportsDir = Path("reports")
) -> None:
    """Write the records of every finished run (counts, a few answers, no weights) under reports/<scale>/records/."""
    from hpt.runs.folder import run_folders
    from hpt.runs.records import export_run

    records = records_of(reports_dir, scale)
    finished = [folder for folder in run_folders(runs_dir, scale) if folder.finished]
    for folder in finished:
        export_run(folder, records)
        console.print(f"exported {folder.path.name}")
    if not finished:
        console.print(f"nothing exported: no finished run in {(runs_dir / scale).resolve()}")


@runs_app.command("fill")
@makes_runs
def fill_records(
    scale: Scale = "mini",
    only: Only = None,
    seeds: Seeds = "0",
    jobs: Jobs = None,
    runs_dir: RunsDir = Path("runs"),
    reports_dir: ReportsDir = Path("reports"),
    why: Annotated[bool, typer.Option("--why", help="Say which runs have no record, and stop")] = False,
) -> None:
    """Make the runs that reports/<scale>/records/ lacks, exporting each as it ends; run again to continue."""
    from hpt.runs.make import planned_runs
    from hpt.runs.records import RecordStore, fill, lacking_runs

    records, numbers = records_of(reports_dir, scale), parse_seeds(seeds)
    if why:
        planned = planned_runs(scale, only or [], numbers, runs_dir)
        for run in lacking_runs(planned, RecordStore(records), runs_dir):
            console.print(f"{run.title}: {run.reason}")
        return
    exported = fill(scale, only or [], numbers, runs_dir, records, jobs)
    for name in exported:
        console.print(f"exported {name}")
    if not exported:
        console.print(f"nothing to make: {records} has a record of every run asked for")


@runs_app.command("import")
def import_run_records(source: Path, scale: Scale = "mini", reports_dir: ReportsDir = Path("reports")) -> None:
    """Take records made elsewhere into reports/<scale>/records/, each checked first."""
    from hpt.runs.records import import_runs

    for folder in import_runs(source, records_of(reports_dir, scale)):
        console.print(f"imported {folder.name}")


def _print_version(asked: bool) -> None:
    if asked:
        console.print(hpt.__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                          help="Print the version, and stop")] = False,
) -> None:  # fmt: skip
    """What stands before a command."""


@app.command()
@makes_runs
def reproduce(
    scale: Scale = "mini",
    only: Only = None,
    extra: Extra = None,
    seeds: Seeds = "0",
    jobs: Jobs = None,
    runs_dir: RunsDir = Path("runs"),
    reports_dir: ReportsDir = Path("reports"),
    from_records: FromRecords = False,
) -> None:
    """Compute whatever is missing, execute the notebooks and write the report; run again to continue."""
    from hpt.config.scales import check_scale
    from hpt.runs.make import check_own, compute

    chosen, numbers, custom = only or [], parse_seeds(seeds), _spelled(extra)
    check_scale(scale)
    check_own(custom, chosen, scale)  # before a lock is made and perhaps waited for
    if not from_records:
        compute(scale, chosen, numbers, runs_dir, jobs, own=custom)
    done = _make_report(scale, numbers, runs_dir, reports_dir, only, from_records, custom=custom)
    waited = " (made while this command waited)" if done else ""
    console.print(f"report: {reports_dir / scale / 'index.html'}{waited}")
    if len(numbers) < 3:
        console.print("fewer than three seeds decide little: the same command with --seeds 0,1,2 adds the intervals")


def _spelled(extra: list[str] | None) -> list[str]:
    """Return custom methods as ``module:METHOD``, those of installed packages too."""
    from hpt.methods.methods import METHODS
    from hpt.support.plugins import spelled

    return [spelled(name, "methods", METHODS) for name in extra or []]


@app.command()
def plan(
    scale: Scale = "mini",
    only: Only = None,
    extra: Extra = None,
    seeds: Seeds = "0",
    jobs: Jobs = None,
    runs_dir: RunsDir = Path("runs"),
    gpus: Annotated[int | None, typer.Option(min=1, help="GPU scales: how many; default: 8, at scale gpu 1")] = None,
    gpu_memory: Annotated[float, typer.Option(min=1, help="GPU scales: memory of a GPU, GiB")] = 80,
    gpu_tflops: Annotated[float, typer.Option(min=1, help="GPU scales: peak of a GPU in bfloat16, TFLOP/s")] = 989,
    utilisation: Annotated[Path | None, typer.Option(help="GPU scales: result of `python -m benchmarks.gpu`; "
                                                          "default: stated shares")] = None,
    machines: Annotated[int | None, typer.Option(min=1, help="So many machines like this one, or with so many GPUs; "
                                                             "default: 1, with --executor ray the cluster's")] = None,
    run_gpus: RunGpus = None,
    run_nodes: RunNodes = None,
    executor: Executor = None,
    address: Address = None,
) -> None:  # fmt: skip
    """Show what would run, why, and what it takes; nothing is computed."""
    from hpt.runs.cluster import cluster_room
    from hpt.runs.make import planned_runs
    from hpt.runs.plan import ON_GPUS, machine_of, make_plan, print_plan

    machine = machine_of(scale, gpus, gpu_memory, gpu_tflops, utilisation)
    runs = planned_runs(scale, only or [], parse_seeds(seeds), runs_dir, own=_spelled(extra))
    use_executor(None, run_gpus, run_nodes, executor, address)
    groups = 1
    if scale in ON_GPUS and run_gpus is not None:
        if run_gpus > machine.gpus and executor_name() != "ray":
            raise ConfigError("--run-gpus", run_gpus, f"at most {machine.gpus}, the GPUs of a machine", "raise --gpus")
        groups, machine = machine.gpus // run_gpus, replace(machine, gpus=run_gpus)
    if executor_name() == "ray" and machines is None:
        jobs = min(jobs or sys.maxsize, cluster_room([run.config for run in runs]))
    else:
        if (run_nodes or 1) > (machines or 1):
            raise ConfigError("--run-nodes", str(run_nodes), f"at most {machines or 1}, the machines", "add --machines")
        if scale in ON_GPUS and jobs is not None and jobs > groups:
            remedy = "leave it out, or lower --run-gpus: runs that share a GPU are not planned"
            raise ConfigError("--jobs", jobs, f"at most {groups}, one per group of GPUs", remedy)
        places = jobs or (groups if scale in ON_GPUS else len(os.sched_getaffinity(0)))
        jobs = places * (machines or 1) // (run_nodes or 1)  # a run over several machines takes a place on each
    if nothing := no_runs(runs_dir):
        console.print(nothing)
    print_plan(make_plan(scale, runs, runs_dir, machine, jobs), runs_dir, console)


@app.command()
@makes_runs
def train(
    method: Annotated[str, typer.Option(help="sft, grpo, sft_then_grpo, luffy, srft, hpt, off_on, mix_on, pretrain, "
                                             "or a custom module:METHOD")] = "hpt",
    scale: Scale = "mini",
    recipe: Annotated[str, typer.Option(help="released: as the authors run it; paper: as printed")] = "released",
    policy: Annotated[str, typer.Option(help="Base: weak, strong or llama; or a model folder (./weak)")] = "weak",
    data: Annotated[str | None, typer.Option(help="Training problems: a public set (`hpt data check`), or a file or "
                                                   "folder (.jsonl, .json, .parquet)")] = None,
    validation: Annotated[list[str] | None, typer.Option(help="Questions of the curves, as --data; none: with a file "
                                                              "as --data, a tenth of it is held out")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    settings: Set = None,
    evaluations: Annotated[str, typer.Option(help="Final evaluation: sets or files, comma-separated")] = "",
    runs_dir: RunsDir = Path("runs"),
) -> None:  # fmt: skip
    """Train one policy with one method (its base first, if it is missing); run again to continue."""
    folder = hpt.train(
        method, scale=scale, recipe=recipe, policy=policy, data=data, validation=validation or (), seed=seed,
        settings=parse_settings(settings), evaluations=tuple(filter(None, evaluations.split(","))), runs_dir=runs_dir,
    )  # fmt: skip
    console.print(f"finished: {folder.path}")
    if message := folder.status.get("message"):
        console.print(message)


@app.command()
@makes_runs
def evaluate(
    run: Annotated[str | None, typer.Argument(help="Name of a finished run, or the start of it")] = None,
    model: Annotated[Path | None, typer.Option(help="Instead of a run: any model folder (Hugging Face format)")] = None,
    benchmarks: Annotated[str, typer.Option(help="Sets, or files or folders of your questions, comma-separated, or "
                                                 "all; mine.jsonl@8 draws eight answers to each")] = "all",
    scale: Annotated[str | None, typer.Option(help="With --model: whose sets, limits and sampling settings; "
                                                   "default: mini")] = None,
    template: Annotated[str | None, typer.Option(help="With --model: how a question becomes a prompt")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="With --model: folder of downloaded sets")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="With --model: one setting, e.g. "
                                                                     "--set rollout.max_model_tokens=4096")] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:  # fmt: skip
    """Sample a finished run's policy, or any model, on evaluation sets and print its scores."""
    from hpt.data.sources import evaluation_names, recorded_name
    from hpt.runs.evaluations import evaluation_key, sampling_config
    from hpt.runs.make import run_with_base
    from hpt.runs.records import load_records
    from hpt.runs.resolve import given_base_config

    short = {"data.template": template, "data.folder": data_dir and str(data_dir)}
    given = parse_settings([f"{name}={json.dumps(value)}" for name, value in short.items() if value] + (settings or []))
    if model is not None and run is None:
        config = given_base_config(scale or "mini", model, given)
    elif run is not None and model is None:
        found = find_run(run, runs_dir)
        for option, asked in (("--set", ", ".join(given)), ("--scale", scale)):
            if asked:
                raise ConfigError(option, asked, "nothing beside a run: it is evaluated as it was trained",
                                  f"leave it out, or name the run's model: --model {found.model}")  # fmt: skip
        config = find_run(run, runs_dir, finished=True).config
    else:
        raise ConfigError("run", run, "either a run or --model FOLDER", "name one of the two")
    sets = evaluation_names(sampling_config(config)) if benchmarks == "all" else tuple(benchmarks.split(","))
    folder = run_with_base(config, runs_dir, sets)
    counts = load_records(folder.path).evaluations
    rows = []
    for name in sets:
        solved = counts[counts["key"] == evaluation_key(config, name)[2]]  # not the same set under an earlier law
        share = 100 * (solved["correct"] / solved["samples"]).mean()
        called = recorded_name(folder.config, name)
        rows.append((called, len(solved), int(solved["samples"].sum()), f"{share:.1f}"))
    print_table(("set", "problems", "samples", "accuracy (%)"), rows)


@app.command()
def report(
    scale: Scale = "mini",
    only: Only = None,
    seeds: Seeds = "0",
    runs_dir: RunsDir = Path("runs"),
    reports_dir: ReportsDir = Path("reports"),
    from_records: FromRecords = False,
) -> None:  # fmt: skip
    """Execute the notebooks and write the report from what is there."""
    from hpt.config.scales import check_scale

    check_scale(scale)
    if not from_records and (nothing := no_runs(runs_dir)):
        console.print(nothing)
    _make_report(scale, parse_seeds(seeds), runs_dir, reports_dir, only, from_records)


def _make_report(
    scale: str, seeds: list[int], runs_dir: Path, reports_dir: Path, only: list[str] | None = None,
    from_records: bool = False, custom: Sequence[str] = (),
) -> bool:  # fmt: skip
    """Render, one process at a time; returns whether the same command did it while this one waited."""
    from hpt.reports.build import build_report, checked_artefacts
    from hpt.runs.records import RecordStore

    store = RecordStore(records_of(reports_dir, scale)) if from_records else None
    checked_artefacts(scale, only or [], seeds, runs_dir, store, custom)  # before a folder is made for it
    with locked(reports_dir / scale) as done:
        if not done:
            remove_half_written(reports_dir / scale, besides="records")
            build_report(scale, seeds, runs_dir, reports_dir, only or None, from_records, custom)
    return done


@app.command()
def doctor() -> None:
    """Check the environment: what is missing, and what to type."""
    from hpt.runs.doctor import diagnose

    lines = list(diagnose())
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for line in lines:
        console.print(f"{line.status:4} ", style=colours[line.status], end="")
        console.print(f"{line.name}: {line.detail}" + (f"\n     → {line.remedy}" if line.remedy else ""))
    if any(line.status == "fail" for line in lines):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line and turn the package's errors into one sentence and an exit code."""
    # runs started from here import custom modules from the folder the user is in
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    sys.path.insert(0, os.getcwd())
    try:
        app()
    except HptError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except SystemExit as leaving:  # typer turns Ctrl-C into this without a word
        if leaving.code == 130:
            Console(stderr=True).print("interrupted; the same command continues where this one stopped")
        raise


if __name__ == "__main__":
    main()
