"""What a report is made of: notebooks, their artefacts and seeds, from finished runs or from what records allow."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpt.artefacts import BUILDERS
from hpt.errors import ConfigError, HptError
from hpt.experiments import ARTEFACTS, artefacts_named, planned_runs
from hpt.export import record_folders
from hpt.files import read_json, write_json
from hpt.recorded import Recorded, RecordStore, recorded


@dataclass(frozen=True)
class NotebookTask:
    """One notebook to execute, the artefacts it is to make, and of which seeds."""

    notebook: str
    artefacts: tuple[str, ...]
    seeds: tuple[int, ...]


def tasks_from_runs(
    scale: str, only: Sequence[str], seeds: Sequence[int], root: Path, folder: Path
) -> list[NotebookTask]:
    """Return the notebooks that make the artefacts from finished runs.

    Args:
        scale: key of `hpt.scales.SCALES`.
        only: names of artefacts; empty = all of the paper.
        seeds: run seeds.
        root: folder of run folders.
        folder: ``reports/<scale>``, whose list of what is missing these artefacts leave.

    Raises:
        HptError: runs are missing.
    """
    names = [artefact.name for artefact in artefacts_named(only) if artefact.name in BUILDERS]
    if missing := [run for run in planned_runs(scale, names, seeds, root) if not run.done]:
        texts = [f"{run.method} seed {run.seed} ({run.reason})" for run in missing]
        remedy = f"`hpt reproduce --scale {scale}` computes them, --from-records reads committed records"
        raise HptError(f"{len(missing)} runs are missing for this report: {few(texts, 4)}; {remedy}")
    _write_missing(folder, [row for row in missing_artefacts(folder) if row["artefact"] not in names])
    return [NotebookTask(notebook, tuple(own), tuple(seeds)) for notebook, own in _by_notebook(names).items()]


def tasks_from_records(scale: str, only: Sequence[str], seeds: Sequence[int], folder: Path) -> list[NotebookTask]:
    """Return the notebooks that make what the records allow, each with the seeds of which all its runs are there.

    Without ``only``, what they do not allow is taken out of the report and listed in its ``missing.json``.

    Args:
        scale: key of `hpt.scales.SCALES`.
        only: names of artefacts, all of which must be possible; empty = all that are.
        seeds: run seeds wanted.
        folder: ``reports/<scale>``; records are read from its ``records/``.

    Raises:
        ConfigError: no records at all.
        HptError: records are missing for an artefact of ``only``, or for every artefact.
    """
    store = RecordStore(folder / "records")
    if not record_folders(store.folder):
        remedy = "leave --from-records out, or bring records with `hpt runs import`"
        raise ConfigError("--from-records", str(store.folder), "a folder that holds records", remedy)
    found = {own.artefact: own for own in recorded(scale, only or list(BUILDERS), seeds, store)}
    incomplete = [own for own in found.values() if own.missing]
    if incomplete and (only or not any(own.seeds for own in found.values() if ARTEFACTS[own.artefact].arms)):
        first = incomplete[0]
        message = f"the records lack {len(first.missing)} runs for {first.artefact}: {few(first.missing, 4)}"
        remedy = "compute and export them with `hpt runs export`"
        raise HptError(f"{message}; {remedy}{', or leave --only out to make what the records allow' if only else ''}")
    tasks = []
    for notebook, names in _by_notebook(found).items():
        # one execution has one list of seeds: that of its artefacts with the most
        own_seeds = max((found[name].seeds for name in names), key=len)
        if own_seeds:
            made = tuple(name for name in names if set(own_seeds) <= set(found[name].seeds))
            tasks.append(NotebookTask(notebook, made, own_seeds))
    seeds_of = {name: task.seeds for task in tasks for name in task.artefacts}
    if only:
        _write_missing(folder, [row for row in missing_artefacts(folder) if row["artefact"] not in seeds_of])
    else:
        _take_off(folder, tasks, [name for name in BUILDERS if name not in seeds_of])
        _write_missing(folder, [asdict(Recorded(own.artefact, seeds_of.get(own.artefact, ()), own.missing))
                                for own in incomplete])  # fmt: skip
    return tasks


def missing_artefacts(folder: Path) -> list[dict[str, Any]]:
    """Return what records did not allow when a report was made of them: `hpt.recorded.Recorded` of each, as JSON.

    Their ``seeds`` are those the artefact was made of; none = it was not made.
    """
    file = folder / "missing.json"
    return read_json(file) if file.exists() else []


def few(names: Sequence[str], most: int) -> str:
    """Return the first of some names, and how many more there are.

    Example:
        >>> few(["a", "b", "c"], 2), few(["a", "b"], 2)
        ('a; b; and 1 more', 'a; b')
    """
    more = f"; and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def _by_notebook(names: Iterable[str]) -> dict[str, list[str]]:
    notebooks: dict[str, list[str]] = {}
    for name in names:
        notebooks.setdefault(ARTEFACTS[name].notebook, []).append(name)
    return notebooks


def _write_missing(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    if rows or (folder / "missing.json").exists():
        write_json(folder / "missing.json", list(rows))


def _take_off(folder: Path, tasks: Sequence[NotebookTask], artefacts: Sequence[str]) -> None:
    """Remove what an earlier report left of artefacts, and of notebooks that now make none: records do not say it."""
    executed = {task.notebook for task in tasks}
    for notebook in {own.notebook for own in ARTEFACTS.values()} - executed:
        for ending in ("html", "json"):
            (folder / "notebooks" / f"{notebook}.{ending}").unlink(missing_ok=True)
    for name in artefacts:
        for pattern in (f"tables/{name}.*", f"tables/{name}_*.csv", f"figures/{name}.*"):
            for path in folder.glob(pattern):
                path.unlink()
