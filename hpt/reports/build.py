"""What a report is made of: notebooks, their artefacts and seeds, from finished runs or from what records allow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hpt.artefacts import BUILDERS
from hpt.errors import ConfigError, HptError
from hpt.experiments import ARTEFACTS, artefacts_named, planned_runs
from hpt.export import record_folders
from hpt.files import read_json, write_json
from hpt.paper import claims
from hpt.recorded import FinishedRuns, Recorded, RecordStore, recorded


@dataclass(frozen=True)
class NotebookTask:
    """One notebook to execute, the artefacts it is to make, of which seeds, on which bases (none = all).

    ``own`` are methods of the user's own, further lines of these artefacts.
    """

    notebook: str
    artefacts: tuple[str, ...]
    seeds: tuple[int, ...]
    bases: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Return the notebook's parameters that say this."""
        several = sum(own.notebook == self.notebook for own in ARTEFACTS.values()) > 1
        only = {"only": list(self.artefacts)} if several else {}
        own = {"extra_methods": list(self.own)} if self.own else {}
        return {"seeds": list(self.seeds)} | only | ({"bases": list(self.bases)} if self.bases else {}) | own


def tasks_from_runs(
    scale: str, only: Sequence[str], seeds: Sequence[int], root: Path, folder: Path, own: Sequence[str] = ()
) -> list[NotebookTask]:
    """Return the notebooks that make the artefacts from finished runs.

    Args:
        scale: key of `hpt.scales.SCALES`.
        only: names of artefacts; empty = all of the paper.
        seeds: run seeds.
        root: folder of run folders.
        folder: ``reports/<scale>``, whose list of what is missing these artefacts leave.
        own: methods of the user's own, further lines of the artefacts that take some.

    Raises:
        HptError: runs are missing.
    """
    names = [artefact.name for artefact in artefacts_named(only) if artefact.name in BUILDERS]
    if missing := [run for run in planned_runs(scale, names, seeds, root, own=own) if not run.done]:
        texts = [f"{run.method} seed {run.seed} ({run.reason})" for run in missing]
        remedy = f"`hpt reproduce --scale {scale}` computes them, --from-records reads committed records"
        raise HptError(f"{len(missing)} runs are missing for this report: {few(texts, 4)}; {remedy}")
    _write_missing(folder, [row for row in missing_artefacts(folder) if row["artefact"] not in names])
    tasks = [NotebookTask(notebook, tuple(made), tuple(seeds)) for notebook, made in _by_notebook(names).items()]
    return [_with_own(task, own) for task in tasks]


def _with_own(task: NotebookTask, own: Sequence[str]) -> NotebookTask:
    takes = any(ARTEFACTS[name].extra_policy for name in task.artefacts)
    return replace(task, own=tuple(own) if takes else ())


def tasks_so_far(scale: str, only: Sequence[str], seeds: Sequence[int], root: Path, folder: Path) -> list[NotebookTask]:
    """Return `possible_tasks`, and list the rest in the ``missing.json`` of ``folder``, ``reports/<scale>``."""
    tasks, missing = possible_tasks(scale, only, seeds, root)
    chosen = {artefact.name for artefact in artefacts_named(only)}
    others = [row for row in missing_artefacts(folder) if row["artefact"] not in chosen]
    _write_missing(folder, [*others, *missing])
    return tasks


def possible_tasks(
    scale: str, only: Sequence[str], seeds: Sequence[int], root: Path
) -> tuple[list[NotebookTask], list[dict[str, Any]]]:
    """Return the notebooks that finished runs allow, some of a part of their bases, and what is missing for the rest.

    Args:
        scale: key of `hpt.scales.SCALES`.
        only: names of artefacts; empty = all of the paper.
        seeds: run seeds wanted; a notebook is made of those that it has every run of.
        root: folder of run folders.

    Returns:
        The notebooks, and a row for ``missing.json`` per artefact that lacks runs.
    """
    names = [artefact.name for artefact in artefacts_named(only) if artefact.name in BUILDERS]
    found = {own.artefact: own for own in recorded(scale, names, seeds, FinishedRuns(root))}
    tasks, missing = [], []
    for notebook, artefacts in _by_notebook(found).items():
        whole = tuple(seed for seed in seeds if all(seed in found[name].seeds for name in artefacts))
        bases = () if whole else _finished_bases(scale, artefacts, seeds, root)
        if whole or bases:
            tasks.append(NotebookTask(notebook, tuple(artefacts), whole or tuple(seeds), bases))
        for name in artefacts:
            if found[name].missing:
                missing.append(asdict(Recorded(name, whole, found[name].missing)) | {"bases": list(bases)})
    return tasks, missing


def _finished_bases(scale: str, artefacts: Sequence[str], seeds: Sequence[int], root: Path) -> tuple[str, ...]:
    """Return the bases on which all runs of a notebook's artefacts are finished, if it can be made of some alone."""
    if not all(ARTEFACTS[name].by_base for name in artefacts):
        return ()
    bases = dict.fromkeys(base for name in artefacts for base in ARTEFACTS[name].policies)
    return tuple(
        base for base in bases if all(run.done for run in planned_runs(scale, artefacts, seeds, root, bases=(base,)))
    )


def tasks_from_records(
    scale: str, only: Sequence[str], seeds: Sequence[int], folder: Path, own: Sequence[str] = ()
) -> list[NotebookTask]:
    """Return the notebooks that make what the records allow, each with the seeds of which all its runs are there.

    Without ``only``, what they do not allow is taken out of the report and listed in its ``missing.json``.

    Args:
        scale: key of `hpt.scales.SCALES`.
        only: names of artefacts, all of which must be possible; empty = all that are.
        seeds: run seeds wanted.
        folder: ``reports/<scale>``; records are read from its ``records/``.
        own: methods of the user's own, further lines of the artefacts that take some.

    Raises:
        ConfigError: no records at all.
        HptError: records are missing for an artefact of ``only``, or for every artefact.
    """
    store = RecordStore(folder / "records")
    if not record_folders(store.folder):
        remedy = "leave --from-records out, or bring records with `hpt runs import`"
        raise ConfigError("--from-records", str(store.folder), "a folder that holds records", remedy)
    found = {row.artefact: row for row in recorded(scale, only or list(BUILDERS), seeds, store, own)}
    incomplete = [row for row in found.values() if row.missing]
    if incomplete and (only or not any(row.seeds for row in found.values() if ARTEFACTS[row.artefact].arms)):
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
        _write_missing(folder, [asdict(Recorded(row.artefact, seeds_of.get(row.artefact, ()), row.missing))
                                for row in incomplete])  # fmt: skip
    return [_with_own(task, own) for task in tasks]


def missing_artefacts(folder: Path) -> list[dict[str, Any]]:
    """Return what records did not allow when a report was made of them: `hpt.recorded.Recorded` of each, as JSON.

    Their ``seeds`` are those the artefact was made of; none = it was not made, or of its ``bases`` alone.
    """
    file = folder / "missing.json"
    return read_json(file) if file.exists() else []


def with_earlier(status: dict[str, Any], before: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a notebook's status and what an earlier execution made beside what this one was asked for.

    They stay on the page with their verdicts and runs: of Figures 5 to 7, `--only figure6` makes one again.

    Args:
        status: what the execution left, see `hpt.notebook.Study.finish`.
        before: the same of the execution before; empty = there was none.
        folder: ``reports/<scale>``; an artefact whose files are gone is not kept.
    """
    again = {own["name"] for own in status["artefacts"]}
    kept = [own for own in before.get("artefacts", ())
            if own["name"] not in again and (folder / "tables" / f"{own['name']}.csv").is_file()]  # fmt: skip
    if not kept:
        return status
    judged = {row["claim"] for row in status["verdicts"]}
    about = {claim.id for claim in claims() if claim.artefact in {own["name"] for own in kept}} - judged
    there = {row["run"] for row in status["runs"]}
    return status | {
        "artefacts": [*status["artefacts"], *kept],
        "verdicts": [*status["verdicts"], *(row for row in before["verdicts"] if row["claim"] in about)],
        "runs": [*status["runs"], *(row for row in before["runs"] if row["run"] not in there)],
        "seeds": sorted({*status["seeds"], *before["seeds"]}),
    }


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
