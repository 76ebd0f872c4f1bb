"""The report's pages, rendered from what executed notebooks left: the first says what was found, the others show it.

``index.html`` and ``README.md`` hold the answer; a page per `hpt.reports.verdicts.Section` its tables and figures,
``claims.html`` and ``claims.md`` every claim, ``provenance.html`` notebooks and runs.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from hpt.data.world.gym import SMOLLM
from hpt.evaluation.intervals import MIN_SEEDS
from hpt.paper.claims import ClaimVerdict
from hpt.paper.paper import claims, headline_claims
from hpt.reports.frames import average_column, label
from hpt.reports.notebooks import markdown_text, short_commit, verdict_badge
from hpt.reports.verdicts import (
    CONFIRMATORY,
    EXPLORATORY,
    SECTIONS,
    claims_at,
    comparisons,
    counted,
    forest,
    headlines,
    section_of,
)
from hpt.runs.catalogue import ARTEFACTS, ONE_BASE
from hpt.support.files import read_json, write_text
from hpt.support.text import duration, few

#: Pages that every report has: file, title, what is on it.
_OTHER_PAGES = (
    ("claims.html", "All claims", "What was tested of the paper's sentences, and the verdicts"),
    ("provenance.html", "Provenance", "Notebooks, runs, their settings, commits and times"),
)
#: Parameters of a scale's models, where they are small.
_SIZES = {"mini": "0.2 to 0.4 million", "smollm": "135 million", "gpu": "26 to 61 million"}
_SMALL = (
    "The models of scale {} have {} parameters, and questions are not the paper's. They say nothing about the level a "
    "model of 1.5 or 7 billion parameters reaches: compare signs and order with the paper, never levels."
)
FLOOR_POINTS = 5.0  # percent: scores below it are not listed one by one
#: Seeds of the main tables that were fixed before the runs (docs/world.md).
_PLANNED = {"mini": 10, "smollm": 3}
_SMOLLM = (
    "This is SmolLM2-135M-Instruct, a real language model (of the committed report its package's weights, rounded to 4 "
    "bits), after 40 updates that teach it to box its answers; all seeds start from this one base, so intervals over "
    "seeds say nothing about another. A run has 60 steps of 8 questions. Of settings only the learning rate was "
    "searched; HPT's weight of demonstrations is another world's, and it learns from them at a quarter of SFT's rate "
    "and an eighth of its weight (docs/world.md). The paper's numbers beside it are those of Qwen2.5-Math-1.5B. "
)


def render(folder: Path, scale: str) -> Path:
    """Render the pages of a report from the files its notebooks left; return the first, ``index.html``."""
    report = _report(folder, scale)
    pages = page_environment()
    write_text(folder / "style.css", style_sheet())
    write_text(folder / "page.js", pages.get_template("page.js.jinja").render())
    for name in ("index.html", "claims.html", "provenance.html", "README.md", "claims.md"):
        text = pages.get_template(f"{name}.jinja").render(report=report)
        write_text(folder / name, compact(text) if name.endswith(".html") else text)
    for section in SECTIONS:  # of an earlier report
        (folder / f"{section.name}.html").unlink(missing_ok=True)
    for section in report["sections"]:
        text = pages.get_template("section.html.jinja").render(report=report, section=section)
        write_text(folder / f"{section['name']}.html", compact(text))
    return folder / "index.html"


def compact(page: str) -> str:
    """Return HTML without line ends between elements, and those of preformatted text as references: it reads the same.

    Example:
        >>> compact("<div>\\n  <p>a</p>\\n</div>\\n<pre>x\\n<b>y</b>\\n</pre>")
        '<div> <p>a</p> </div>\\n<pre>x&#10;<b>y</b>&#10;</pre>'
    """
    parts = re.split(r"(<(?:pre|script|style)\b.*?</(?:pre|script|style)>)", page, flags=re.DOTALL)
    parts[::2] = [re.sub(r">\s*\n\s*<", "> <", part) for part in parts[::2]]
    ends = {"<pre": "&#10;", "<sty": " ", "<scr": "\n"}
    parts[1::2] = [part.replace("\n", ends[part[:4]]) for part in parts[1::2]]
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
    shown = [made[name] for name in dict.fromkeys([*ARTEFACTS, *made]) if name in made]
    sections = _sections(shown, verdicts, seeds, scale)
    chapters = [(f"{section['name']}.html", section["title"], section["question"]) for section in sections]
    others = [own for own in sorted(folder.parent.glob("*/")) if own != folder and (own / "notebooks").is_dir()]
    lines = [line | {"page": "claims.html"} for line in forest(verdicts, scale)]
    for own in others:
        page = {"page": f"../{own.name}/claims.html"}
        lines += [line | page for line in forest(_verdicts(_statuses(own)), own.name)]
    topics = [(section, [row for row in verdicts if row["page"] == section.name]) for section in SECTIONS]
    return {
        "scale": scale,
        "headlines": headlines(verdicts, seeds, scale),
        "tiles": _tiles(verdicts, folder / "tables" / "audit.csv"),
        "forest": _drawn(lines),
        "headline_rows": _headline_rows(verdicts, scale),
        "scores": _scores(folder / "tables" / "table3.csv", scale),
        "sign_flip": 2 / 2 ** len(seeds),
        "why": _first_sentence(made["learnt_operations"]) if "learnt_operations" in made else "",
        "seeds_text": f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'} ({', '.join(map(str, seeds))})",
        "notes": notes(scale, seeds, statuses, list(runs.values())),
        "failures": [status for status in statuses if status["state"] != "ok"],
        "sections": sections,
        "chapters": [*chapters, *_OTHER_PAGES],
        "verdicts": verdicts,
        "topics": [(section, rows) for section, rows in topics if rows],
        "corrected": scale not in ONE_BASE,
        "exploratory": sum(row["kind"] == EXPLORATORY for row in verdicts),
        "missing": [_missing_row(row, scale) for row in missing_artefacts(folder)],
        "notebooks": statuses,
        "runs": [runs[name] for name in sorted(runs)],
        "with_config": {name for name in runs if (folder / "records" / name / "config.json").exists()},
    }


def _headline_rows(verdicts: Sequence[dict[str, Any]], scale: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the verdicts of the first page under their headings: the headline claims, and where else HPT is worse.

    The forest plot has the contrasts already. Of a scale with one base, the claims that are its alone.
    """
    shown = {claim.id for claim, _ in comparisons(verdicts, "in")}
    first = [own.id for own in claims() if own.scale] if scale in ONE_BASE else headline_claims()
    of_hpt = [claim for claim in claims() if claim.methods and claim.methods[0].startswith("hpt")]
    contrasts = [claim.id for claim in of_hpt if any("@" not in other for other in claim.methods[1:])]
    judged = {row["claim"]: row for row in verdicts if row["claim"] not in shown}
    worse = [name for name in contrasts if name in judged and judged[name]["verdict"] == ClaimVerdict.fails]
    rows = [judged[claim] for claim in first if claim in judged]
    headings = {
        "Training": [row for row in rows if row["kind"]],
        "Training: every other comparison in which HPT is worse": [judged[name] for name in worse if name not in first],
        "Theory": [row for row in rows if not row["kind"]],
    }
    return [(heading, found) for heading, found in headings.items() if found]


def _scores(table: Path, scale: str) -> str:
    """Return where methods end at a scale with one base, in a sentence: the averages of its Table 3, in percent."""
    if scale not in ONE_BASE or not table.exists():
        return ""
    frame, parts = pd.read_csv(table), []
    for distribution, where in (("in", "In distribution"), ("out", "out of distribution")):
        ends = frame[frame["column"] == average_column(distribution)].sort_values("score", ascending=False)
        scores = [f"{label(name)} {score:.1f}" for name, score in zip(ends["method"], ends["score"], strict=True)]
        if (most := ends["score"].max()) < FLOOR_POINTS:
            parts.append(f"{where} none is above {most:.1f} %")
        elif scores:
            parts.append(f"{where} {', '.join(scores)} %")
    return "; ".join(parts) + "." if parts else ""


def _statuses(folder: Path) -> list[dict[str, Any]]:
    """Return what the notebooks of a report left, in the catalogue's order."""
    files = {path.stem: path for path in (folder / "notebooks").glob("*.json")}
    order = dict.fromkeys(artefact.notebook for artefact in ARTEFACTS.values())
    return [read_json(files[name]) for name in order if name in files]


def _verdicts(statuses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the verdicts of notebooks in the paper's order, with whose results the paper cites."""
    judged = {row["claim"]: row | {"notebook": status["notebook"]} for status in statuses for row in status["verdicts"]}
    return [judged[claim.id] | {"cites": claim.cites, "page": section_of(claim.artefact).name}
            for claim in claims() if claim.id in judged]  # fmt: skip


def _sections(
    artefacts: list[dict[str, Any]], verdicts: list[dict[str, Any]], seeds: Sequence[int], scale: str
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
            # the table of contrasts has those of every base, also what another page judges
            family = [row for row in verdicts if "contrasts" in order and row["kind"] == CONFIRMATORY]
            found.append(asdict(section) | {"artefacts": shown, "answer": answer(rows, shown, seeds, scale, family)})
    return found


def answer(
    verdicts: Sequence[Mapping[str, Any]],
    artefacts: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    scale: str = "",
    family: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return what a page found, in its first words: comparisons, else claims that are decided; else the first caption.

    ``family`` holds contrasts that are told here, whichever page judges and counts them.

    Example:
        >>> row = {"title": "HPT rises", "kind": "exploratory", "ours": "+5", "interval": "[+1, +9]", "claim": ""}
        >>> answer([{**row, "verdict": "does not hold"}], [], [0, 1, 2])
        'Of 1 claim on training 1 does not hold. Does not hold: HPT rises (+5 [+1, +9]).'
    """
    if artefacts and not verdicts:
        return _first_sentence(artefacts[0])
    sentences = headlines(verdicts, seeds, scale, family)
    for words in ("reproduced", "holds", "does not hold") if len(sentences) <= 2 else ():
        found = [f"{row['title']} ({row['ours']} {row['interval']}".strip() + ")" for row in verdicts
                 if row["verdict"] == words]  # fmt: skip
        sentences += [f"{words.capitalize()}: {few(found, 5)}."] if found else []
    return " ".join(sentences)


def _first_sentence(artefact: Mapping[str, Any]) -> str:
    return re.split(r"(?<=\.)\s(?=[A-Z])", artefact["caption"])[0]


def _tiles(verdicts: Sequence[Mapping[str, Any]], audit: Path) -> list[dict[str, Any]]:
    """Return the three counts of the first page: claims on theory, on training, and checks of printed numbers."""
    theory, training = ([row["verdict"] for row in verdicts if bool(row["kind"]) is of_runs]
                        for of_runs in (False, True))  # fmt: skip
    printed = pd.read_csv(audit)["verdict"] if audit.exists() else ()
    tiles = (
        ("Theory claims", "claims.html#theory", theory),
        ("Training claims", "claims.html", training),
        ("The paper's printed numbers, against each other", "audit.html", printed),
    )
    return [{"title": title, "href": href, "tally": Counter(found).most_common()}
            for title, href, found in tiles if len(found)]  # fmt: skip


def _drawn(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the forest plot's lines with places in percent of its width, and its ticks."""
    values = [value for line in lines for value in (*line["dots"], line["mean"], line["paper"]) if value is not None]
    ends = [line[name] for line in lines for name in ("low", "high") if line[name] is not None]
    least, most = (end([0.0, *values]) for end in (min, max))
    # an interval of few seeds may be endless: it is cut far outside of what was seen
    low, high = max(min([least, *ends]), 1.2 * least - 5) - 1, min(max([most, *ends]), 1.2 * most + 5) + 1

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)

    for line in lines:
        line["at"] = {name: place(line[name]) for name in ("mean", "paper", "low", "high")}
        line["at"] |= {"dots": [place(value) for value in line["dots"]]}
        line["cut"] = {side: line[side] is not None and outside for side, outside in (
            ("low", (line["low"] or 0.0) < low), ("high", (line["high"] or 0.0) > high))}  # fmt: skip
    step = next((step for step in (2, 5, 10, 20, 50) if (high - low) / step <= 7), 100)
    ticks = {value: place(value) for value in range(-step * 9, step * 10, step) if low <= value <= high}
    return {"lines": lines, "ticks": ticks, "zero": place(0.0)}


def _shown(folder: Path, made: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """Return a table or figure as the page shows it: what a notebook left of it, with links to its files."""
    name, is_table = made["name"], made["kind"] == "table"
    files = [f"tables/{name}.md", f"tables/{name}.tex"] if is_table else [f"figures/{name}.svg", f"figures/{name}.png"]
    files += [f"tables/{data}.csv" for data in (name, *made.get("more", ()))]
    files += [f"tables/{name}.provenance.json", f"notebooks/{status['notebook']}.html"]
    links = [{"text": Path(file).name, "href": file} for file in files]
    provenance = folder / "tables" / f"{name}.provenance.json"
    runs = [row["run"] for row in read_json(provenance)["runs"]] if provenance.exists() else []
    shown = made | {"notebook": status["notebook"], "runs": runs, "links": links}
    if is_table:
        shown["html"] = Markup(made["html"])  # escaped when it was made (`hpt.reports.notebooks.html_table`)
    return shown


def _missing_row(row: dict[str, Any], scale: str) -> dict[str, Any]:
    waiting = len(claims_at(scale, [row["artefact"]]))
    state = f"made of seeds {', '.join(map(str, row['seeds']))} alone"
    if not row["seeds"]:
        state = "not made" + f", and {waiting} claims not judged" * (waiting > 0)
    runs = row["missing"]
    return {"title": ARTEFACTS[row["artefact"]].title, "made": bool(row["seeds"]), "state": state, "runs": runs,
            "few": few(runs, 6)}  # fmt: skip


def missing_artefacts(folder: Path) -> list[dict[str, Any]]:
    """Return what was not there when a report was made (`hpt.reports.build.Available` as JSON).

    Their ``seeds`` are those the artefact was made of.
    """
    file = folder / "missing.json"
    return read_json(file) if file.exists() else []


def notebook_page(notebook: Any, status: dict[str, Any]) -> str:
    """Return an executed notebook as a page: its question, the answer, what it shows, and then how, its code folded."""
    from nbconvert import HTMLExporter

    first, *rest = notebook.cells
    tags = [set(cell.metadata.get("tags", ())) for cell in rest]
    if {"injected-parameters"} in tags:  # those in force; their defaults stand in the notebook
        rest = [cell for cell, own in zip(rest, tags, strict=True) if "parameters" not in own]
    results = []
    for cell in rest:
        others = []
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            shown = re.sub(r"<style scoped>.*?</style>\s*", "", data.get("text/html", ""), flags=re.DOTALL)
            data |= {"text/html": shown} if shown else {}
            bar = data.pop("application/vnd.jupyter.widget-view+json", None) and not shown  # needs a front end
            if "<p class='caption'>" in shown:  # a figure is a file of the report: inside the page it would lie twice
                linked = re.sub(r"(<img class='(\w+)' alt='[^']*' src=)'data:[^']*'", r"\1'../figures/\2.svg'", shown)
                results.append(Markup(linked))
            elif not bar:
                others.append(output)
        cell.update({"outputs": others} if "outputs" in cell else {})
    folded = (
        "{% extends 'basic/index.html.j2' %}{% block input_group %}<details><summary>code</summary>{{ super() }}"
        "</details>{% endblock input_group %}"
    )
    exporter = HTMLExporter(raw_template=folded)
    # nbconvert escapes what cells printed; what they display is HTML of `hpt.reports`
    head, body = (Markup(exporter.from_notebook_node(type(notebook)({**notebook, "cells": cells}))[0])
                  for cells in ([first], rest))  # fmt: skip
    said = answer(status["verdicts"], status["artefacts"], status["seeds"], status["scale"])
    page = page_environment().get_template("notebook.html.jinja")
    return compact(page.render(status=status, head=head, answer=said, results=results, body=body))


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
        "commit": short_commit,
        "duration": lambda seconds: "" if seconds is None else duration(seconds),
        "minutes": lambda moment: (moment or "")[:16].replace("T", " "),  # an ISO moment; all are UTC
        "counted": counted,
    }
    environment.filters.update(filters)
    return environment


def notes(scale: str, seeds: Sequence[int], statuses: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[str]:
    """Return what a reader must know before reading the page, as sentences; ``runs`` are rows of `source_rows`."""
    found = []
    if scale == "tiny":
        found.append("Scale tiny exists for tests: its numbers mean nothing.")
    elif scale != "full":
        found.append(_SMOLLM * (scale == SMOLLM) + _SMALL.format(scale, _SIZES.get(scale, "fewer")))
    if len(seeds) < (planned := _PLANNED.get(scale, 0)):
        found[-1] += f" {len(seeds)} of the {planned} seeds fixed beforehand are there: all verdicts are interim ones."
    limits = [_first_sentence(own) for status in statuses for own in status["artefacts"]
              if own["name"] in ("world", "search")]  # fmt: skip
    if limits:
        found.append(" ".join(limits))
    changed = {f"{key} = {value}" for status in statuses for key, value in status.get("settings", {}).items()}
    if changed:
        found.append("Changed settings: " + ", ".join(sorted(changed)) + ".")
    if 0 < len(seeds) < MIN_SEEDS:
        found.append(f"Fewer than {MIN_SEEDS} seeds decide nothing about methods.")
    started = {(row["policy"], row["seed"], row["base_weights"]) for row in runs if row.get("base_weights")}
    if len(seeds) > 1 and started and scale != SMOLLM:
        shared = len({(policy, weights) for policy, _, weights in started}) < len(started)
        found.append(
            "Seeds share their bases: an interval over seeds does not hold what another base would change."
            if shared
            else "Every seed has its own bases: an interval over seeds holds what another base of a recipe changes."
        )
    if any(count > 1 for count in Counter((policy, seed) for policy, seed, _ in started).values()):
        found.append("Some runs of one seed start from different weights of a base: it was trained more than once.")
    if damaged := sum(row.get("damaged", 0) for row in runs):
        found.append(f"{damaged} damaged files of runs were noticed, set aside and made again.")
    if any(status.get("from_records") for status in statuses):
        found.append(
            "Training results are read from committed records; what needs no run was computed when this page was made, "
            "but for the gradients at checkpoints and the tokens of Figure 1's group."
        )
    return found
