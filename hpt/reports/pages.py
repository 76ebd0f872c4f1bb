"""The report's pages: ``index.html`` and ``README.md`` rendered from what the executed notebooks left, and theirs."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hpt.config.run_config import NUMERICS_VERSION
from hpt.evaluation.intervals import MIN_SEEDS
from hpt.paper.paper import claims
from hpt.reports.frames import trainings
from hpt.reports.notebooks import DAMAGE, markdown_text, short_commit, verdict_badge
from hpt.reports.verdicts import by_topic, chance_text, headlines
from hpt.runs.catalogue import ARTEFACTS
from hpt.support.files import read_json, write_text
from hpt.support.text import duration, few

#: The figure at the top of the page.
MAIN_FIGURE = "figure5"

_ABOUT = (
    "Every table and figure with our value and its interval beside the paper's, a verdict on each claim of the paper, "
    "and where every number came from."
)
_SMALL = (
    "This is a small world made by this package. It says nothing about the level a model of 1.5 or 7 billion "
    "parameters reaches: compare signs and order with the paper, never levels."
)


def render(folder: Path, scale: str) -> Path:
    """Render ``index.html`` and ``README.md`` of a report from the files its notebooks left; return the page."""
    report = _report(folder, scale)
    write_text(folder / "style.css", style_sheet())
    index, readme = (page_environment().get_template(f"{name}.jinja") for name in ("index.html", "README.md"))
    write_text(folder / "index.html", compact(index.render(report=report)))
    write_text(folder / "README.md", readme.render(report=report))
    return folder / "index.html"


def compact(page: str) -> str:
    """Return HTML without the white space between elements, a table row a line; what is preformatted stays.

    Example:
        >>> compact("<div>\\n  <p>a</p>\\n</div>\\n<pre>x\\n<b>y</b>\\n</pre>")
        '<div> <p>a</p> </div>\\n<pre>x\\n<b>y</b>\\n</pre>'
    """
    parts = re.split(r"(<(pre|script|style)\b.*?</\2>)", page, flags=re.DOTALL)
    # of every three parts the first is outside, the second an element to keep, the third its name
    parts[::3] = [re.sub(r">\s*\n\s*<", "> <", part).replace("> <tr", ">\n<tr") for part in parts[::3]]
    del parts[2::3]
    return "".join(parts)


def report_headlines(folder: Path) -> list[str]:
    """Return the sentences that the report in ``folder`` opens with (`hpt.reports.verdicts.headlines`)."""
    return _report(folder, folder.name)["headlines"]


def _report(folder: Path, scale: str) -> dict[str, Any]:
    """Return everything the page says."""
    order = list(dict.fromkeys(artefact.notebook for artefact in ARTEFACTS.values()))
    files = {path.stem: path for path in (folder / "notebooks").glob("*.json")}
    statuses = [read_json(files[name]) for name in order if name in files]
    made = {one["name"]: _shown(folder, one, status) for status in statuses for one in status["artefacts"]}
    judged = {row["claim"]: row | {"notebook": status["notebook"]} for status in statuses for row in status["verdicts"]}
    verdicts = [judged[claim.id] for claim in claims() if claim.id in judged]
    runs = {row["run"]: row for status in statuses for row in status["runs"]}
    seeds = sorted({seed for status in statuses for seed in status["seeds"]})
    return {
        "scale": scale,
        "about": _ABOUT,
        "headlines": headlines(verdicts, seeds),
        "seeds_text": f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'} ({', '.join(map(str, seeds))})",
        "notes": notes(scale, seeds, statuses, list(runs.values())),
        "failures": [status for status in statuses if status["state"] != "ok"],
        "main": made.get(MAIN_FIGURE),
        "artefacts": [made[name] for name in dict.fromkeys([*ARTEFACTS, *made]) if name in made],
        "verdicts": verdicts,
        "topics": by_topic(verdicts),
        "chance_text": chance_text(judged.values()),
        "missing": [_missing_row(row) for row in missing_artefacts(folder)],
        "tally": Counter(row["verdict"] for row in judged.values()).most_common(),
        "notebooks": statuses,
        "runs": [runs[name] for name in sorted(runs)],
        "with_config": {name for name in runs if (folder / "records" / name / "config.json").exists()},
    }


def _shown(folder: Path, made: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """Return a table or figure as the page shows it: what a notebook left of it, with links to its files."""
    name, is_table = made["name"], made["kind"] == "table"
    files = [] if is_table else [f"figures/{name}.svg", f"figures/{name}.png"]
    files += [f"tables/{name}.{ending}" for ending in ("csv", *(("md", "tex") if is_table else ()), "provenance.json")]
    links = [{"text": file.partition(f"/{name}.")[2], "href": file} for file in files]
    links += [{"text": f"{more}.csv", "href": f"tables/{more}.csv"} for more in made.get("more", ())]
    provenance = folder / "tables" / f"{name}.provenance.json"
    runs = [row["run"] for row in read_json(provenance)["runs"]] if provenance.exists() else []
    shown = made | {"notebook": status["notebook"], "runs": runs, "links": links}
    if is_table:
        shown["html"] = Markup(made["html"])  # escaped when it was made (`hpt.reports.notebooks.html_table`)
        shown["markdown"] = Markup((folder / "tables" / f"{name}.md").read_text(encoding="utf-8"))
    else:
        shown["source"] = f"figures/{name}.svg"  # not inside the page: twenty figures would make it megabytes
    return shown


def _missing_row(row: dict[str, Any]) -> dict[str, Any]:
    waiting = sum(claim.artefact == row["artefact"] for claim in claims())
    seeds = ", ".join(map(str, row["seeds"]))
    state = f"made of seed{'' if len(row['seeds']) == 1 else 's'} {seeds} alone" if seeds else "not made"
    if waiting and not seeds:
        state += f", and {waiting} claim{'' if waiting == 1 else 's'} not judged"
    runs = row["missing"]
    return {"title": ARTEFACTS[row["artefact"]].title, "state": state, "runs": runs, "few": few(runs, 6)}


def notebook_page(notebook: Any, status: dict[str, Any]) -> str:
    """Return an executed notebook as a page of its report."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    # nbconvert escapes what cells printed; what they display is HTML of `hpt.reports`
    return compact(page_environment().get_template("notebook.html.jinja").render(status=status, body=Markup(body)))


def style_sheet() -> str:
    """Return the one style sheet of every page the package writes."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("friendly", "github-dark"))
    text = page_environment().get_template("style.css.jinja").render()
    return f"{text}{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def page_environment() -> Any:
    """Return the environment of ``hpt/reports/templates``: HTML is escaped; Markdown goes through the filter md."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hpt.reports"),
        autoescape=lambda name: ".md" not in (name or ""),  # Markdown goes through the filter md instead
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[[Any], str]] = {
        "badge": verdict_badge,
        "md": markdown_text,
        "commit": commit_of,
        "duration": lambda seconds: "" if seconds is None else duration(seconds),
        "minutes": lambda moment: (moment or "")[:16].replace("T", " "),  # an ISO moment; all are UTC
        "tally": lambda rows: ", ".join(f"{n} {name}" for name, n in Counter(row["verdict"] for row in rows).items()),
    }
    environment.filters.update(filters)
    return environment


def commit_of(row: Mapping[str, Any]) -> str:
    """Return the commit of a row of `source_rows`, or of a notebook's status, as pages show it.

    Example:
        >>> commit_of({"commit": "0123456789abcdef", "dirty": True})
        '0123456789ab+'
    """
    return short_commit(row["commit"] + ("+" if row["dirty"] else ""))


def missing_artefacts(folder: Path) -> list[dict[str, Any]]:
    """Return what records did not allow when a report was made of them: `hpt.reports.build.Available` of each, as JSON.

    Their ``seeds`` are those the artefact was made of; none = it was not made, or of its ``bases`` alone.
    """
    file = folder / "missing.json"
    return read_json(file) if file.exists() else []


def notes(scale: str, seeds: Sequence[int], statuses: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[str]:
    """Return what a reader must know before reading the page, as sentences.

    Args:
        scale: key of `hpt.config.scales.SCALES`.
        seeds: run seeds of all notebooks.
        statuses: what the notebooks left, see `hpt.reports.build.execute`.
        runs: rows of `hpt.reports.notebooks.source_rows`.
    """
    found = []
    if scale == "tiny":
        found.append("Scale tiny exists for tests: its numbers mean nothing.")
    elif scale != "full":
        found.append(_SMALL)
    if 0 < len(seeds) < MIN_SEEDS:
        count = "One seed decides" if len(seeds) == 1 else f"{len(seeds)} seeds decide"
        found.append(f"{count} nothing about methods; {MIN_SEEDS} or more do.")
    found += _about_bases(runs) if len(seeds) > 1 else []
    if any(status.get("from_records") for status in statuses):
        found.append(
            "Training results are read from committed records. What needs no run was computed when this page was made, "
            "but for what was measured once on runs that the captions name: the gradients at checkpoints, and the "
            "tokens of Figure 1's group."
        )
    changed = {f"{key} = {value}" for status in statuses for key, value in status.get("settings", {}).items()}
    if changed:
        found.append("Changed settings: " + ", ".join(sorted(changed)) + ".")
    made_at = sorted({commit_of(row) for row in runs})
    if len(made_at) > 1:
        changed_files = " (+: with changed files)" if any("+" in commit for commit in made_at) else ""
        found.append(f"The runs were made at {len(made_at)} commits: {', '.join(made_at)}{changed_files}.")
    for name in DAMAGE:
        met = [f"{row[name]} of {row['run']}" for row in runs if row.get(name)]
        if met:
            what = name.replace("_", " ").capitalize()
            found.append(f"{what}, set aside and made again from the last good state: {', '.join(met)}.")
    older = sorted({str(row["numerics_version"]) for row in runs} - {str(NUMERICS_VERSION)})
    if older:
        found.append(f"Some runs are of numerics version {', '.join(older)}; the package is at {NUMERICS_VERSION}.")
    return found


def _about_bases(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return that bases are shared, and which were not: trained again, perhaps on another processor."""
    found = [
        "Each base is trained once and shared by all seeds: an interval over seeds does not hold what another base of "
        "the same recipe would change."
    ]
    for policy in sorted({row["policy"] for row in runs}):
        begun = trainings((row.get("base_weights"), row["seed"]) for row in runs if row["policy"] == policy)
        if len(begun) > 1:
            found.append(f"Not so the {policy} base, whose weights were {' and '.join(begun)}.")
    return found
