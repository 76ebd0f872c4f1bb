"""The report: execute the notebooks, then render one page and one README from what they left behind.

    reports/<scale>/
        index.html, README.md      what this module renders; regenerated, never edited
        tables/, figures/          written by the notebooks (`hpt.artefacts`)
        missing.json               with records: the artefacts they do not allow, and the runs that are missing
        notebooks/<name>.html      the executed notebook
        notebooks/<name>.json      its status: artefacts, verdicts, runs, commit, duration
        records/                   committed records (`hpt.export`)
        .executed/                 executed .ipynb files, kept out of version control

The page is a function of that folder: with ``only``, what an earlier call made stays on it.
"""

import datetime
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hpt.artefacts.notes import notes
from hpt.artefacts.provenance import commit_of
from hpt.artefacts.verdicts import by_topic, chance_text
from hpt.errors import HptError
from hpt.experiments import ARTEFACTS
from hpt.export import RecordStore
from hpt.files import read_json, write_json, write_text, writing
from hpt.notebook import shown_path
from hpt.pages import page_environment
from hpt.paper import claims
from hpt.plan import duration
from hpt.report_tasks import FinishedRuns, few, missing_artefacts, notebook_tasks, with_earlier
from hpt.runs import source_commit

#: Source notebooks; the package is used from its folder, as everything that edits and reruns is.
NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
#: The figure at the top of the page.
MAIN_FIGURE = "figure5"

_ABOUT = (
    "Every table and figure with our value and its interval beside the paper's, a verdict on each claim of the paper, "
    "and where every number came from."
)


def build_report(
    scale: str,
    seeds: Sequence[int],
    root: Path,
    reports_dir: Path,
    only: Sequence[str] | None = None,
    from_records: bool = False,
    so_far: bool = False,
    own: Sequence[str] = (),
) -> Path:
    """Execute the notebooks of the artefacts and write ``reports/<scale>``; return its ``index.html``.

    Nothing is trained: what the artefacts need must be there, as runs or as records. From records and without ``only``,
    everything is made that the records allow, with the seeds they allow; the rest is taken off the page, which says
    which runs are missing.

    Args:
        scale: key of `hpt.scales.SCALES`.
        seeds: run seeds.
        root: folder of run folders.
        reports_dir: ``reports``.
        only: names of artefacts; none = all of the paper, or with ``from_records`` all that the records allow.
        from_records: read ``reports/<scale>/records`` instead of the runs; the page says so.
        so_far: make what the finished runs allow, and list what is missing.
        own: methods of the user's own (``module:METHOD``), further lines of the artefacts that take some.

    Raises:
        ConfigError: an unknown scale or artefact, or no records to read.
        HptError: runs are missing, or a notebook failed; the others are done, and the page says which failed.
    """
    folder = Path(reports_dir).resolve() / scale
    store = RecordStore(folder / "records") if from_records else FinishedRuns(root)
    tasks = notebook_tasks(scale, list(only or []), seeds, store, folder, so_far, own)
    parameters = {
        "scale": scale,
        "runs_dir": shown_path(Path(root).resolve()),
        "output_dir": shown_path(folder),
        "from_records": shown_path(folder / "records") if from_records else "",
    }
    failed = []
    for task in tasks:
        status = execute(task.notebook, folder, parameters | task.parameters())
        failed += [task.notebook] if status["state"] != "ok" else []
    index = render(folder, scale)
    if failed:
        raise HptError(f"failed: {', '.join(failed)}; {index} says why, and holds everything else")
    return index


def execute(name: str, folder: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Execute a notebook with papermill, write it as HTML, and return its status, which is written too.

    Args:
        name: of the notebook.
        folder: ``reports/<scale>``.
        parameters: of the notebook.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    executed = folder / ".executed" / f"{name}.ipynb"
    write_text(executed.parent / ".gitignore", "*\n")
    status_file = folder / "notebooks" / f"{name}.json"
    commit, dirty = source_commit()
    before = read_json(status_file) if status_file.exists() else {}
    started, when = time.monotonic(), datetime.datetime.now(datetime.UTC)
    run = {"notebook": name, "scale": parameters["scale"], "commit": commit or "unknown", "dirty": dirty}
    try:
        with writing(executed):
            papermill.execute_notebook(
                NOTEBOOKS / f"{name}.ipynb", executed, parameters, kernel_name="python3",
                progress_bar=sys.stderr.isatty(),
            )  # fmt: skip
        status = with_earlier(read_json(status_file), before, folder)
    except (papermill.PapermillExecutionError, RuntimeError) as error:
        # the other notebooks are still wanted; what went wrong stands on the page and in the exit code
        if isinstance(error, papermill.PapermillExecutionError):
            why = f"{error.ename}: {error.evalue}"
        elif isinstance(error, DeadKernelError):
            why = "its kernel died, perhaps for want of memory"
        else:
            why = f"its kernel did not start: {error}"
        status = run | {"state": "failed", "error": why}
        status |= {"seeds": parameters["seeds"], "artefacts": [], "verdicts": [], "runs": []}
    status["when"], status["wall_s"] = when.isoformat(timespec="minutes"), round(time.monotonic() - started, 1)
    write_json(status_file, status)
    page = _notebook_page(nbformat.read(executed, as_version=4), status)
    write_text(folder / "notebooks" / f"{name}.html", page)
    return status


def render(folder: Path, scale: str) -> Path:
    """Render ``index.html`` and ``README.md`` of a report from the files its notebooks left; return the page."""
    report = _report(folder, scale)
    for name in ("index.html", "README.md"):
        write_text(folder / name, page_environment().get_template(f"{name}.jinja").render(report=report))
    return folder / "index.html"


def _report(folder: Path, scale: str) -> dict[str, Any]:
    """Return everything the page says."""
    order = list(dict.fromkeys(artefact.notebook for artefact in ARTEFACTS.values()))
    files = {path.stem: path for path in (folder / "notebooks").glob("*.json")}
    statuses = [read_json(files[name]) for name in order if name in files]
    made = {own["name"]: _shown(folder, own, status) for status in statuses for own in status["artefacts"]}
    judged = {row["claim"]: row | {"notebook": status["notebook"]} for status in statuses for row in status["verdicts"]}
    verdicts = [judged[claim.id] for claim in claims() if claim.id in judged]
    runs = {row["run"]: row for status in statuses for row in status["runs"]}
    seeds = sorted({seed for status in statuses for seed in status["seeds"]})
    return {
        "scale": scale,
        "about": _ABOUT,
        "seeds_text": f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'} ({', '.join(map(str, seeds))})",
        "notes": notes(scale, seeds, statuses, list(runs.values())),
        "failures": [status for status in statuses if status["state"] != "ok"],
        "main": made.get(MAIN_FIGURE),
        "artefacts": [made[name] for name in ARTEFACTS if name in made],
        "verdicts": verdicts,
        "topics": by_topic(verdicts),
        "chance_text": chance_text(judged.values()),
        "missing": [_missing_row(row) for row in missing_artefacts(folder)],
        "tally": Counter(row["verdict"] for row in judged.values()).most_common(),
        "notebooks": [_status_row(status) for status in statuses],
        "runs": [_run_row(folder, runs[name]) for name in sorted(runs)],
    }


def _shown(folder: Path, own: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    name, endings = own["name"], ("csv", "md", "tex") if own["kind"] == "table" else ("csv",)
    links = [{"text": ending, "href": f"tables/{name}.{ending}"} for ending in (*endings, "provenance.json")]
    links += [{"text": f"{more}.csv", "href": f"tables/{more}.csv"} for more in own.get("more", ())]
    provenance = folder / "tables" / f"{name}.provenance.json"
    runs = [row["run"] for row in read_json(provenance)["runs"]] if provenance.exists() else []
    shown = own | {"notebook": status["notebook"], "runs": runs}
    if own["kind"] == "table":
        shown["markdown"] = Markup((folder / "tables" / f"{name}.md").read_text(encoding="utf-8"))
    else:
        links = [{"text": ending, "href": f"figures/{name}.{ending}"} for ending in ("svg", "png")] + links
        shown["source"] = f"figures/{name}.svg"  # not inside the page: twenty figures would make it megabytes
    return shown | {"links": links}


def _missing_row(row: dict[str, Any]) -> dict[str, Any]:
    waiting = sum(claim.artefact == row["artefact"] for claim in claims())
    seeds = ", ".join(map(str, row["seeds"]))
    state = f"made of seed{'' if len(row['seeds']) == 1 else 's'} {seeds} alone" if seeds else "not made"
    if waiting and not seeds:
        state += f", and {waiting} claim{'' if waiting == 1 else 's'} not judged"
    return {
        "name": row["artefact"],
        "title": ARTEFACTS[row["artefact"]].title,
        "state": state,
        "runs": row["missing"],
        "few": few(row["missing"], 6),
    }


def _status_row(status: dict[str, Any]) -> dict[str, Any]:
    counts = Counter(row["verdict"] for row in status["verdicts"])
    return {
        "name": status["notebook"],
        "state": status["state"],
        "when": _minutes(status.get("when")),
        "wall_s": status["wall_s"],
        "took": duration(status["wall_s"]),
        "commit": commit_of(status),
        "seeds": ", ".join(map(str, status["seeds"])),
        "verdicts": ", ".join(f"{count} {verdict}" for verdict, count in counts.items()),
    }


def _run_row(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    seconds, config = row["wall_s"], f"records/{row['run']}/config.json"
    return row | {
        "config": config if (folder / config).exists() else "",
        "commit": commit_of(row),
        "took": "" if seconds is None else duration(seconds),
        "wall_s": seconds or 0,
        "finished": _minutes(row["finished"]),
    }


def _minutes(moment: str | None) -> str:
    """Return an ISO moment to the minute, without its offset (all are UTC)."""
    return (moment or "")[:16].replace("T", " ")


def _notebook_page(notebook: Any, status: dict[str, Any]) -> str:
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    light, dark = (HtmlFormatter(style=own).get_style_defs(".highlight") for own in ("friendly", "github-dark"))
    template = page_environment().get_template("notebook.html.jinja")
    return template.render(
        name=status["notebook"],
        scale=status["scale"],
        when=_minutes(status["when"]),
        commit=commit_of(status),
        error=status.get("error"),
        body=Markup(body),  # nbconvert escapes what cells printed; what they display is HTML of `hpt.artefacts.markup`
        highlighting=Markup(f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"),
    )
