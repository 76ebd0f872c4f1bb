"""Making a report: which notebooks, of which seeds, from finished runs or from records; and executing them.

    reports/<scale>/
        index.html, README.md      what `hpt.reports.pages` renders, with a page per subject; regenerated, never edited
        style.css, page.js         of all its pages
        tables/, figures/          written by the notebooks (`hpt.reports.notebooks.Study`)
        missing.json               artefacts that were not made of every seed, and the runs that are missing
        notebooks/<name>.html      the executed notebook
        notebooks/<name>.json      its status: artefacts, verdicts, runs, commit, duration
        records/                   committed records (`hpt.runs.records`)
        .executed/                 executed .ipynb files, kept out of version control

The page is a function of that folder: with ``only``, what an earlier call made stays on it.
"""

import datetime
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hpt.reports.notebooks import shown_path
from hpt.reports.pages import missing_artefacts, notebook_page, render
from hpt.runs.catalogue import ARTEFACTS, artefacts_at, artefacts_named
from hpt.runs.folder import source_commit
from hpt.runs.make import planned_runs
from hpt.runs.records import ABSENT, RecordStore, record_folders
from hpt.support.errors import ConfigError, HptError
from hpt.support.files import read_json, write_json, write_text, writing
from hpt.support.process import environment
from hpt.support.text import few

#: Source notebooks; the package is used from its folder, as everything that edits and reruns is.
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
#: Notebooks executed at the same time, at most; each needs up to 1 GB.
MOST_KERNELS = 4


@dataclass(frozen=True)
class NotebookTask:
    """One notebook to execute, the artefacts it is to make, of which seeds, with which custom methods beside."""

    notebook: str
    artefacts: tuple[str, ...]
    seeds: tuple[int, ...]
    custom: tuple[str, ...] = ()


@dataclass(frozen=True)
class Available:
    """The seeds of which every run of an artefact is there, and the runs that are missing of the others, in words."""

    artefact: str
    seeds: tuple[int, ...]
    missing: tuple[str, ...]


def build_report(
    scale: str,
    seeds: Sequence[int],
    root: Path,
    reports_dir: Path,
    only: Sequence[str] | None = None,
    from_records: bool = False,
    own: Sequence[str] = (),
) -> Path:
    """Execute the notebooks of the artefacts and write ``reports/<scale>``; return its ``index.html``.

    Nothing is trained: what the artefacts of ``only`` (none = all of the paper) need must be there, as runs below
    ``root``, or as records in ``reports/<scale>/records``. From records and without ``only``, the report is made anew
    of all that they allow, with the seeds they allow, and says what is missing. ``own`` are custom methods
    (``module:METHOD``), further lines of the artefacts that take some. Where a notebook fails, the others are made, the
    page says why, and an `HptError` is raised.
    """
    folder = Path(reports_dir).resolve() / scale
    store = RecordStore(folder / "records") if from_records else None
    tasks, incomplete = notebook_tasks(scale, list(only or []), seeds, root, store, own)
    if from_records and not only:  # made anew: nothing of an earlier report stays
        for part in ("tables", "figures", "notebooks"):
            shutil.rmtree(folder / part, ignore_errors=True)
    handled = {name for task in tasks for name in task.artefacts} | {row.artefact for row in incomplete}
    missing = [row for row in missing_artefacts(folder) if row["artefact"] not in handled]
    write_json(folder / "missing.json", [*missing, *map(asdict, incomplete)])
    parameters = {
        "scale": scale,
        "runs_dir": shown_path(Path(root).resolve()),
        "output_dir": shown_path(folder),
        "from_records": shown_path(folder / "records") if from_records else "",
    }
    # a kernel's threads would wait for each other while another kernel has their cores
    one_thread = environment({"OMP_NUM_THREADS": "1"})
    with one_thread, ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), MOST_KERNELS)) as pool:
        try:  # those that compute, instead of reading runs, take longest: first
            ordered = sorted(tasks, key=lambda task: any(ARTEFACTS[name].arms for name in task.artefacts))
            done = list(pool.map(lambda task: execute(task, folder, parameters), ordered))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    failed = [status["notebook"] for status in done if status["state"] != "ok"]
    index = render(folder, scale)
    if failed:
        raise HptError(f"failed: {', '.join(failed)}; {index} says why, and holds everything else")
    return index


def execute(task: NotebookTask, folder: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Execute a notebook with papermill, write it as HTML, and return its status, which is written too.

    Cells tagged with the name of an artefact are left out where it is not asked for.
    """
    import nbformat
    import papermill
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class ThisInterpreter(AsyncKernelManager):
        """Starts the interpreter that runs this, not one that a folder of JUPYTER_PATH holds by the name python3."""

        @default("kernel_spec_manager")
        def _kernel_spec_manager_default(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[])  # without folders, python3 is ipykernel's: `sys.executable`

    name, (commit, dirty) = task.notebook, source_commit()
    parameters = (
        parameters | {"seeds": list(task.seeds)} | ({"extra_methods": list(task.custom)} if task.custom else {})
    )
    executed, status_file = folder / ".executed" / f"{name}.ipynb", folder / "notebooks" / f"{name}.json"
    write_text(executed.parent / ".gitignore", "*\n")
    before = read_json(status_file) if status_file.exists() else {}
    started, when = time.monotonic(), datetime.datetime.now(datetime.UTC)
    source = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    source.cells = [cell for cell in source.cells if _is_asked_for(cell, task.artefacts)]
    try:
        with writing(executed):
            papermill.execute_notebook(
                source, executed, parameters, kernel_name="python3", kernel_manager_class=ThisInterpreter,
                progress_bar=sys.stderr.isatty(), extra_arguments=["--log-level=CRITICAL"],
            )  # fmt: skip
        status = with_earlier(read_json(status_file), before, folder)
    except (papermill.PapermillExecutionError, RuntimeError) as error:
        # the other notebooks are still wanted; what went wrong stands on the page and in the exit code
        failed = isinstance(error, papermill.PapermillExecutionError)
        why = f"{error.ename}: {error.evalue}" if failed else f"its kernel died or did not start: {error}"
        status: dict[str, Any] = {
            "notebook": name, "state": "failed", "error": why, "artefacts": [], "verdicts": [], "runs": [],
            "scale": parameters["scale"], "seeds": parameters["seeds"], "commit": commit or "unknown", "dirty": dirty,
        }  # fmt: skip
    status["when"], status["wall_s"] = when.isoformat(timespec="minutes"), round(time.monotonic() - started, 1)
    write_json(status_file, status)
    page = notebook_page(nbformat.read(executed, as_version=4), status)
    write_text(folder / "notebooks" / f"{name}.html", page)
    return status


def _is_asked_for(cell: Any, artefacts: Sequence[str]) -> bool:
    about = [tag for tag in cell.metadata.get("tags", []) if tag in ARTEFACTS]
    return not about or any(tag in artefacts for tag in about)


def with_earlier(status: dict[str, Any], before: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a notebook's status with what an earlier execution (``before``) made beside what this one was asked for.

    They stay on the page as long as their files do: of Figures 5 to 7, `--only figure6` makes one again.
    """
    again = {made["name"] for made in status["artefacts"]}
    kept = {made["name"]: made for made in before.get("artefacts", ())
            if made["name"] not in again and (folder / "tables" / f"{made['name']}.csv").is_file()}  # fmt: skip
    if not kept:
        return status
    there = {row["run"] for row in status["runs"]}
    return status | {
        "artefacts": [*status["artefacts"], *kept.values()],
        "verdicts": [*status["verdicts"], *(row for row in before["verdicts"] if row["artefact"] in kept)],
        "runs": [*status["runs"], *(row for row in before["runs"] if row["run"] not in there)],
        "seeds": sorted({*status["seeds"], *before["seeds"]}),
    }


def available(
    scale: str, artefacts: Sequence[str], seeds: Sequence[int], store: RecordStore, custom: Sequence[str] = ()
) -> list[Available]:
    """Return, for each of the artefacts, the seeds that the records allow and what is missing for the others."""
    lacking: dict[str, str] = {}  # artefacts share runs; the same run with other evaluations is another question
    found = []
    for artefact in artefacts_named(list(artefacts), scale):
        there, missing = [], {}
        own = custom if artefact.extra_policy else ()
        for seed in seeds:
            # no run folder lies below the records, so nothing on this machine changes what is planned
            left = {}
            for run in planned_runs(scale, [artefact.name], [seed], store.folder, own=own):
                key = f"{run.config.fingerprint()} {run.evaluations}"
                lacking[key] = lacking[key] if key in lacking else store.lacking(run)
                if reason := lacking[key]:
                    left[run.title] = run.title if reason == ABSENT else f"{run.title} ({reason})"
            there += [] if left else [seed]
            missing |= left
        found.append(Available(artefact.name, tuple(there), tuple(missing.values())))
    return found


def checked_artefacts(
    scale: str, only: Sequence[str], seeds: Sequence[int], root: Path, store: RecordStore | None,
    custom: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Return the names of the artefacts asked for, once it is known that there are their runs, or any records."""
    if store is not None and not record_folders(store.folder):
        remedy = "leave --from-records out, or bring records with `hpt runs import`"
        raise ConfigError("--from-records", str(store.folder), "a folder that holds records", remedy)
    asked = only or (list(artefacts_at(scale)) if store else [])
    names = [artefact.name for artefact in artefacts_named(asked, scale)]
    planned = [] if store else planned_runs(scale, names, seeds, root, own=custom)
    if missing := [f"{run.title} ({run.reason})" for run in planned if not run.done]:
        where = (root / scale).resolve()
        remedy = "`hpt reproduce` with the same options computes them, --from-records reads committed records"
        raise HptError(f"{len(missing)} runs are missing in {where} for this report: {few(missing, 4)}; {remedy}")
    return names


def notebook_tasks(
    scale: str, only: Sequence[str], seeds: Sequence[int], root: Path, store: RecordStore | None,
    custom: Sequence[str] = (),
) -> tuple[list[NotebookTask], list[Available]]:  # fmt: skip
    """Return the notebooks to execute, and of artefacts that lack records the seeds they are made of.

    From runs, or of ``only``, everything must be there; else what the records allow is made. Nothing is written.
    """
    names = checked_artefacts(scale, only, seeds, root, store, custom)
    rows = available(scale, names, seeds, store, custom) if store else [Available(n, tuple(seeds), ()) for n in names]
    found = {row.artefact: row for row in rows}
    incomplete = [row for row in rows if row.missing]
    nothing = not any(row.seeds for row in rows if ARTEFACTS[row.artefact].arms)
    if incomplete and (only or nothing):
        first = incomplete[0]
        message = f"the records lack {len(first.missing)} runs for {first.artefact}: {few(first.missing, 4)}"
        raise HptError(f"{message}; export them with `hpt runs export`, or leave --only out to make what is there")
    tasks = []
    for notebook in dict.fromkeys(ARTEFACTS[name].notebook for name in found):
        its = [name for name in found if ARTEFACTS[name].notebook == notebook]
        # one execution has one list of seeds: that of its artefacts with the most
        most = max((found[name].seeds for name in its), key=len)
        if most:
            made = tuple(name for name in its if set(most) <= set(found[name].seeds))
            takes = any(ARTEFACTS[name].extra_policy for name in made)
            tasks.append(NotebookTask(notebook, made, most, tuple(custom) if takes else ()))
    seeds_of = {name: task.seeds for task in tasks for name in task.artefacts}
    return tasks, [replace(row, seeds=seeds_of.get(row.artefact, ())) for row in incomplete]
