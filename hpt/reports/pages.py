"""The report's pages, rendered from what executed notebooks left: the first says what was found, the others show it.

``index.html`` and ``README.md`` hold the answer; a page per `hpt.reports.verdicts.Section` its tables and figures,
``claims.html`` and ``claims.md`` every claim, ``provenance.html`` notebooks and runs.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd
from markupsafe import Markup

from hpt.config.run_config import NUMERICS_VERSION
from hpt.data.world.gym import SMOLLM
from hpt.evaluation.intervals import MIN_SEEDS
from hpt.paper.paper import claims, headline_claims
from hpt.reports.frames import trainings
from hpt.reports.notebooks import markdown_text, short_commit, verdict_badge
from hpt.reports.verdicts import (
    SECTIONS,
    WITHOUT_RUNS,
    by_kind,
    by_section,
    chance_text,
    counted,
    forest,
    headlines,
    section_of,
)
from hpt.runs.catalogue import ARTEFACTS
from hpt.support.files import read_json, write_text
from hpt.support.text import duration, few

#: Pages that every report has: file, title, what is on it.
_OTHER_PAGES = (
    ("claims", "All claims", "What was tested of the paper's sentences, and the verdicts"),
    ("provenance", "Provenance", "Notebooks, runs, their settings, commits and times"),
)
_SMALL = (
    "This is a small world made by this package. It says nothing about the level a model of 1.5 or 7 billion "
    "parameters reaches: compare signs and order with the paper, never levels."
)
_SMOLLM = (
    "This is SmolLM2-135M-Instruct, a real language model, on graded arithmetic questions of reasoning-gym. All seeds "
    "start from this one base: an interval over seeds does not hold what another base would change. It says nothing "
    "about the level a model of 1.5 or 7 billion parameters reaches: compare signs and order with the paper."
)


def render(folder: Path, scale: str) -> Path:
    """Render the pages of a report from the files its notebooks left; return the first, ``index.html``."""
    report = _report(folder, scale)
    pages = page_environment()
    write_text(folder / "style.css", style_sheet())
    for name in ("index.html", "claims.html", "provenance.html"):
        write_text(folder / name, compact(pages.get_template(f"{name}.jinja").render(report=report)))
    for name in ("README.md", "claims.md"):
        write_text(folder / name, pages.get_template(f"{name}.jinja").render(report=report))
    for section in SECTIONS:
        shown = next((own for own in report["sections"] if own["name"] == section.name), None)
        file = folder / f"{section.name}.html"
        if shown:
            write_text(file, compact(pages.get_template("section.html.jinja").render(report=report, section=shown)))
        else:  # of an earlier report
            file.unlink(missing_ok=True)
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
    """Return everything the pages say."""
    statuses = _statuses(folder)
    made = {one["name"]: _shown(folder, one, status) for status in statuses for one in status["artefacts"]}
    verdicts = _verdicts(statuses)
    runs = {row["run"]: row for status in statuses for row in status["runs"]}
    seeds = sorted({seed for status in statuses for seed in status["seeds"]})
    sections = _sections([made[name] for name in dict.fromkeys([*ARTEFACTS, *made]) if name in made], verdicts, seeds)
    chapters = [(f"{section['name']}.html", section["title"], section["question"]) for section in sections]
    chapters += [(f"{name}.html", title, about) for name, title, about in _OTHER_PAGES]
    others = [other for other in sorted(folder.parent.glob("*/")) if other != folder and (other / "notebooks").is_dir()]
    lines = [*forest(verdicts, scale), *(row for own in others for row in forest(_verdicts(_statuses(own)), own.name))]
    return {
        "scale": scale,
        "headlines": headlines(verdicts, seeds),
        "tiles": _tiles(verdicts, folder / "tables" / "audit.csv"),
        "forest": _drawn(lines),
        "headline_rows": _headline_rows(verdicts),
        "seeds_text": f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'} ({', '.join(map(str, seeds))})",
        "notes": notes(scale, seeds, statuses, list(runs.values())),
        "failures": [status for status in statuses if status["state"] != "ok"],
        "sections": sections,
        "chapters": chapters,
        "verdicts": verdicts,
        "topics": [{"name": section.name, "title": section.title, "verdicts": rows, "counted": counted(rows)}
                   for section, rows in by_section(verdicts)],
        "chance_text": chance_text(verdicts),
        "missing": [_missing_row(row) for row in missing_artefacts(folder)],
        "notebooks": statuses,
        "runs": [runs[name] for name in sorted(runs)],
        "with_config": {name for name in runs if (folder / "records" / name / "config.json").exists()},
    }  # fmt: skip


def _headline_rows(verdicts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the verdicts of the first page: the headline claims, and every contrast in which HPT is worse."""
    judged, listed = {row["claim"]: row for row in verdicts}, headline_claims()
    worse = {}
    for claim in claims():
        row = judged.get(claim.id, {})
        is_contrast = row.get("subject", "").startswith("HPT against")
        if is_contrast and claim.id not in listed and (row["numbers"]["high"] or 0.0) < 0:
            out = ", out of distribution" * (claim.parameters.get("distribution") == "out")
            where = ARTEFACTS[claim.artefact].title.partition(":")[0]
            worse[claim.id] = f"{row['subject']}, {claim.policy} base{out} ({where})"
    shown = [judged[key] | {"short": short} for key, short in listed.items() if key in judged]
    return shown + [judged[key] | {"short": short} for key, short in worse.items()]


def _statuses(folder: Path) -> list[dict[str, Any]]:
    """Return what the notebooks of a report left, in the catalogue's order."""
    files = {path.stem: path for path in (folder / "notebooks").glob("*.json")}
    order = dict.fromkeys(artefact.notebook for artefact in ARTEFACTS.values())
    return [read_json(files[name]) for name in order if name in files]


def _verdicts(statuses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the verdicts of notebooks in the paper's order, with whose results the paper cites."""
    judged = {row["claim"]: {"kind": "", **row, "notebook": status["notebook"]}
              for status in statuses for row in status["verdicts"]}  # fmt: skip
    return [judged[claim.id] | {"cites": claim.cites, "page": section_of(claim.artefact).name}
            for claim in claims() if claim.id in judged]  # fmt: skip


def _sections(
    artefacts: list[dict[str, Any]], verdicts: list[dict[str, Any]], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the pages of tables and figures, each with what it shows and the answer it opens with."""
    found = []
    for section in SECTIONS:
        order = {name: place for place, name in enumerate(section.artefacts)}
        its = [own for own in artefacts if section_of(own["name"]) is section]
        shown = sorted(its, key=lambda own: order.get(own["name"], len(order)))
        for own in shown:
            own["verdicts"] = [row for row in verdicts if row["artefact"] == own["name"]]
        if shown:
            rows = [row for own in shown for row in own["verdicts"]]
            found.append(asdict(section) | {"artefacts": shown, "answer": answer(rows, shown, seeds)})
    return found


def answer(verdicts: Sequence[Mapping[str, Any]], artefacts: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> str:
    """Return what a page found, in its first words: comparisons, else claims that are decided; else the first caption.

    Example:
        >>> row = {"claim": "", "subject": "HPT", "sentence": "It rises.", "ours": "+5 points", "interval": "[+1, +9]"}
        >>> answer([{**row, "verdict": "does not hold"}], [], [0, 1, 2])
        'Of 1 claim on training 1 does not hold. Does not hold: “It rises.” (HPT: +5 points [+1, +9]).'
    """
    if not verdicts:
        return re.split(r"(?<=\.)\s(?=[A-Z])", artefacts[0]["caption"])[0] if artefacts else ""
    sentences = headlines(verdicts, seeds)
    for words in ("reproduced", "holds", "does not hold") if len(sentences) <= 2 else ():
        quoted = ((shorten(row["sentence"], 90, placeholder=" ..."), f"{row['ours']} {row['interval']}".strip(),
                   "" if row["subject"] == WITHOUT_RUNS else f"{row['subject']}: ")
                  for row in verdicts if row["verdict"] == words)  # fmt: skip
        decided = [f"“{sentence}” ({subject}{numbers})" for sentence, numbers, subject in quoted]
        sentences += [f"{words.capitalize()}: {few(decided, 3)}."] if decided else []
    return " ".join(sentences)


def _tiles(verdicts: Sequence[Mapping[str, Any]], audit: Path) -> list[dict[str, Any]]:
    """Return the three counts of the first page: claims on theory, on training, and checks of printed numbers."""
    rows = {what: [row["verdict"] for row in own] for what, own in by_kind(verdicts).items()}
    printed = pd.read_csv(audit)["verdict"].tolist() if audit.exists() else []
    tiles = (
        ("Theory claims", "claims.html#theory", rows["the estimator"]),
        ("Training claims", "claims.html", rows["training"]),
        ("The paper's printed numbers, against each other", "audit.html", printed),
    )
    return [{"title": title, "href": href, "tally": Counter(found).most_common()}
            for title, href, found in tiles if found]  # fmt: skip


def _drawn(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the forest plot's lines with places in percent of its width, and its ticks."""
    values = [value for line in lines for value in (*line["dots"], line["low"], line["high"], line["paper"])]
    known = [0.0, 1.0, *(value for value in values if value is not None)]
    low, high = max(min(known), -60.0) - 1, min(max(known), 60.0) + 1  # an interval of two seeds can be endless

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)

    for line in lines:
        left, right = place(line["low"]), place(line["high"])
        line["at"] = {name: place(line[name]) for name in ("mean", "paper", "low", "high")}
        line["at"] |= {"dots": [place(value) for value in line["dots"]]}
        line["at"] |= {"width": None if left is None or right is None else round(right - left, 1)}
    step = next(step for step in (2, 5, 10, 20) if (high - low) / step <= 7)
    ticks = {value: place(value) for value in range(-60, 61, step) if low <= value <= high}
    return {"lines": lines, "ticks": ticks, "zero": place(0.0)}


def _shown(folder: Path, made: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """Return a table or figure as the page shows it: what a notebook left of it, with links to its files."""
    name, is_table = made["name"], made["kind"] == "table"
    files = [] if is_table else [f"figures/{name}.svg", f"figures/{name}.png"]
    files += [f"tables/{name}.{ending}" for ending in ("csv", *(("md", "tex") if is_table else ()), "provenance.json")]
    links = [{"text": file.partition(f"/{name}.")[2], "href": file} for file in files]
    links += [{"text": f"{more}.csv", "href": f"tables/{more}.csv"} for more in made.get("more", ())]
    links += [{"text": "notebook", "href": f"notebooks/{status['notebook']}.html"}]
    provenance = folder / "tables" / f"{name}.provenance.json"
    runs = [row["run"] for row in read_json(provenance)["runs"]] if provenance.exists() else []
    shown = made | {"notebook": status["notebook"], "runs": runs, "links": links}
    if is_table:
        shown["html"] = Markup(made["html"])  # escaped when it was made (`hpt.reports.notebooks.html_table`)
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
    """Return an executed notebook as a page: its question, the answer, what it shows, and then how it was made."""
    from nbconvert import HTMLExporter
    from nbformat import from_dict

    first, *rest = notebook.cells
    results = [output for cell in rest for output in cell.get("outputs", ()) if _is_result(output)]
    for cell in rest:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _is_result(output) and not _is_live(output)]
            for output in cell.outputs:
                output.get("data", {}).pop(_WIDGET, None)  # what stands in for it is shown
    folded = (
        "{% extends 'basic/index.html.j2' %}{% block input_group %}<details><summary>code</summary>{{ super() }}"
        "</details>{% endblock input_group %}"
    )
    exporter = HTMLExporter(raw_template=folded)
    head, body = (exporter.from_notebook_node(from_dict({**notebook, "cells": cells}))[0] for cells in ([first], rest))
    # nbconvert escapes what cells printed; what they display is HTML of `hpt.reports`
    shown = [Markup(output.data["text/html"]) for output in results]
    said = answer(status["verdicts"], status["artefacts"], status["seeds"])
    return compact(
        page_environment()
        .get_template("notebook.html.jinja")
        .render(status=status, head=Markup(head), answer=said, results=shown, body=Markup(body))
    )


#: What a front end draws as controls or a progress bar.
_WIDGET = "application/vnd.jupyter.widget-view+json"


def _is_live(output: Any) -> bool:
    """Whether an output is nothing without a front end, such as a progress bar."""
    return _WIDGET in output.get("data", {}) and "text/html" not in output["data"]


def _is_result(output: Any) -> bool:
    """Whether a cell's output is a table or figure of the study, with its caption."""
    return "<p class='caption'>" in output.get("data", {}).get("text/html", "")


def style_sheet() -> str:
    """Return the one style sheet of every page the package writes."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("vs", "github-dark"))
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
        "counted": counted,
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

    Their ``seeds`` are those the artefact was made of.
    """
    file = folder / "missing.json"
    return read_json(file) if file.exists() else []


def notes(scale: str, seeds: Sequence[int], statuses: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[str]:
    """Return what a reader must know before reading the page, as sentences; ``runs`` are rows of `source_rows`."""
    found = []
    if scale == "tiny":
        found.append("Scale tiny exists for tests: its numbers mean nothing.")
    elif scale != "full":
        found.append(_SMOLLM if scale == SMOLLM else _SMALL)
    changed = {f"{key} = {value}" for status in statuses for key, value in status.get("settings", {}).items()}
    if changed:
        found.append("Changed settings: " + ", ".join(sorted(changed)) + ".")
    if 0 < len(seeds) < MIN_SEEDS:
        count = "One seed decides" if len(seeds) == 1 else f"{len(seeds)} seeds decide"
        found.append(f"{count} nothing about methods; {MIN_SEEDS} or more do.")
    found += _about_bases(runs) if len(seeds) > 1 and scale != SMOLLM else []
    if any(status.get("from_records") for status in statuses):
        found.append(
            "Training results are read from committed records. What needs no run was computed when this page was made, "
            "but for what was measured once on runs that the captions name: the gradients at checkpoints, and the "
            "tokens of Figure 1's group."
        )
    made_at = sorted({commit_of(row) for row in runs})
    if len(made_at) > 1:
        changed_files = " (+: with changed files)" if any("+" in commit for commit in made_at) else ""
        found.append(f"The runs were made at {len(made_at)} commits: {', '.join(made_at)}{changed_files}.")
    older = sorted({str(row["numerics_version"]) for row in runs} - {str(NUMERICS_VERSION)})
    if older:
        found.append(f"Some runs are of numerics version {', '.join(older)}; the package is at {NUMERICS_VERSION}.")
    return found


def _about_bases(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return whether bases are shared, and which were not: trained again, perhaps on another processor."""
    pairs = {(row["policy"], row["seed"], row["base_weights"]) for row in runs if row.get("base_weights")}
    if len(pairs) > 1 and len({(policy, weights) for policy, _, weights in pairs}) == len(pairs):
        return ["Every seed has its own bases: an interval over seeds holds what another base of a recipe changes."]
    found = [
        "Each base is trained once and shared by all seeds: an interval over seeds does not hold what another base of "
        "the same recipe would change."
    ]
    for policy in sorted({row["policy"] for row in runs}):
        begun = trainings((row.get("base_weights"), row["seed"]) for row in runs if row["policy"] == policy)
        if len(begun) > 1:
            found.append(f"Not so the {policy} base, whose weights were {' and '.join(begun)}.")
    return found
