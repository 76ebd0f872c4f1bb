"""What a report is made of: notebooks, their artefacts and seeds, from finished runs or from what records allow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpt.artefacts import BUILDERS
from hpt.errors import ConfigError, HptError
from hpt.experiments import ARTEFACTS, PlannedRun, artefacts_named, planned_runs
from hpt.export import ABSENT, RecordStore, record_folders
from hpt.files import read_json, write_json
from hpt.paper import claims


@dataclass(frozen=True)
class NotebookTask:
    """One notebook to execute, the artefacts it is to make, of which seeds, with which custom methods beside."""

    notebook: str
    artefacts: tuple[str, ...]
    seeds: tuple[int, ...]
    custom: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Return the notebook's parameters that say this."""
        several = sum(artefact.notebook == self.notebook for artefact in ARTEFACTS.values()) > 1
        only = {"only": list(self.artefacts)} if several else {}
        return {"seeds": list(self.seeds)} | only | ({"extra_methods": list(self.custom)} if self.custom else {})


@dataclass(frozen=True)
class FinishedRuns:
    """The run folders below ``folder``, asked the same question as a `RecordStore`."""

    folder: Path

    def lacking(self, run: PlannedRun) -> str:
        """Return what is left to do of a run, empty when nothing."""
        new = run.folder is None or run.folder.status["state"] == "new"
        return ABSENT if run.reason and new else run.reason


@dataclass(frozen=True)
class Available:
    """What the records, or the finished runs, allow of an artefact.

    Attributes:
        artefact: its name.
        seeds: of those asked for, the ones of which every run is there; all of them for an artefact without runs.
        missing: the runs of the others, in words.
    """

    artefact: str
    seeds: tuple[int, ...]
    missing: tuple[str, ...]


def available(
    scale: str,
    artefacts: Sequence[str],
    seeds: Sequence[int],
    store: RecordStore | FinishedRuns,
    custom: Sequence[str] = (),
) -> list[Available]:
    """Return, for each of the artefacts, the seeds that the store allows and what is missing for the others."""
    lacking: dict[str, str] = {}  # artefacts share runs; the same run with other evaluations is another question

    def lacks(run: PlannedRun) -> str:
        key = f"{run.config.fingerprint()} {run.evaluations}"
        if key not in lacking:
            lacking[key] = store.lacking(run)
        return lacking[key]

    found = []
    for artefact in artefacts_named(list(artefacts)):
        there, missing = [], {}
        more = custom if artefact.extra_policy else ()
        for seed in seeds:
            # no run folder lies below the records, so nothing on this machine changes what is planned
            runs = planned_runs(scale, [artefact.name], [seed], store.folder, own=more)
            left = {run.title: reason for run in runs if (reason := lacks(run))}
            there += [] if left else [seed]
            missing |= left
        texts = (text if reason == ABSENT else f"{text} ({reason})" for text, reason in missing.items())
        found.append(Available(artefact.name, tuple(there), tuple(texts)))
    return found


def notebook_tasks(
    scale: str,
    only: Sequence[str],
    seeds: Sequence[int],
    store: RecordStore | FinishedRuns,
    folder: Path,
    so_far: bool = False,
    custom: Sequence[str] = (),
) -> list[NotebookTask]:
    """Return the notebooks that make artefacts, each with the seeds of which all its runs are there.

    From finished runs everything asked for must be there, unless ``so_far``; from records, everything of ``only``.
    What is not there is listed in the ``missing.json`` of ``folder``; with records and without ``only``, it is taken
    out of the report too.

    Args:
        scale: key of `hpt.scales.SCALES`.
        only: names of artefacts; none = all of the paper, and with records those of the appendix too.
        seeds: run seeds wanted.
        store: where the runs are.
        folder: ``reports/<scale>``.
        so_far: make what the finished runs allow.
        custom: methods of the user's, further lines of the artefacts that take some.

    Raises:
        ConfigError: no records at all.
        HptError: runs are missing.
    """
    records = isinstance(store, RecordStore)
    if records and not record_folders(store.folder):
        remedy = "leave --from-records out, or bring records with `hpt runs import`"
        raise ConfigError("--from-records", str(store.folder), "a folder that holds records", remedy)
    names = [artefact.name for artefact in artefacts_named(only or (list(BUILDERS) if records else []))]
    names = [name for name in names if name in BUILDERS]
    if records or so_far:
        found = {row.artefact: row for row in available(scale, names, seeds, store, custom)}
    else:
        if missing := [run for run in planned_runs(scale, names, seeds, store.folder, own=custom) if not run.done]:
            texts = few([f"{run.title} ({run.reason})" for run in missing], 4)
            remedy = f"`hpt reproduce --scale {scale}` computes them, --from-records reads committed records"
            raise HptError(f"{len(missing)} runs are missing for this report: {texts}; {remedy}")
        found = {name: Available(name, tuple(seeds), ()) for name in names}
    incomplete = [row for row in found.values() if row.missing]
    if (
        records
        and incomplete
        and (only or not any(row.seeds for row in found.values() if ARTEFACTS[row.artefact].arms))
    ):
        first = incomplete[0]
        message = f"the records lack {len(first.missing)} runs for {first.artefact}: {few(first.missing, 4)}"
        remedy = "compute and export them with `hpt runs export`"
        raise HptError(f"{message}; {remedy}{', or leave --only out to make what the records allow' if only else ''}")
    tasks = []
    for notebook, its in _by_notebook(found).items():
        # one execution has one list of seeds: that of its artefacts with the most
        most = max((found[name].seeds for name in its), key=len)
        if most:
            made = tuple(name for name in its if set(most) <= set(found[name].seeds))
            takes = any(ARTEFACTS[name].extra_policy for name in made)
            tasks.append(NotebookTask(notebook, made, most, tuple(custom) if takes else ()))
    seeds_of = {name: task.seeds for task in tasks for name in task.artefacts}
    others = [row for row in missing_artefacts(folder) if row["artefact"] not in names]
    if records and not only:
        _take_off(folder, tasks, [name for name in BUILDERS if name not in seeds_of])
    rows = [asdict(Available(row.artefact, seeds_of.get(row.artefact, ()), row.missing)) for row in incomplete]
    if others or rows or (folder / "missing.json").exists():
        write_json(folder / "missing.json", [*others, *rows])
    return tasks


def missing_artefacts(folder: Path) -> list[dict[str, Any]]:
    """Return what runs or records did not allow when a report was made of them: `Available` of each, as JSON.

    Their ``seeds`` are those the artefact was made of; none = it was not made.
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
    again = {made["name"] for made in status["artefacts"]}
    kept = [made for made in before.get("artefacts", ())
            if made["name"] not in again and (folder / "tables" / f"{made['name']}.csv").is_file()]  # fmt: skip
    if not kept:
        return status
    judged = {row["claim"] for row in status["verdicts"]}
    about = {claim.id for claim in claims() if claim.artefact in {made["name"] for made in kept}} - judged
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


def _take_off(folder: Path, tasks: Sequence[NotebookTask], artefacts: Sequence[str]) -> None:
    """Remove what an earlier report left of artefacts, and of notebooks that now make none: records do not say it."""
    executed = {task.notebook for task in tasks}
    for notebook in {artefact.notebook for artefact in ARTEFACTS.values()} - executed:
        for ending in ("html", "json"):
            (folder / "notebooks" / f"{notebook}.{ending}").unlink(missing_ok=True)
    for name in artefacts:
        for pattern in (f"tables/{name}.*", f"tables/{name}_*.csv", f"figures/{name}.*"):
            for path in folder.glob(pattern):
                path.unlink()
