"""The report's section on how the world was chosen: its text, what was fixed before which run, the bases' strength."""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from hpt.artefacts.provenance import short_commit
from hpt.artefacts.scores import BASE
from hpt.export import RunRecords, load_records, record_folders, recorded_config
from hpt.files import read_json
from hpt.history import changes, first_json, json_at
from hpt.paper import base_title, claim_rows, paper_data
from hpt.scores import pass_at_k, round_half_up
from hpt.search import SEED

_TEXT = Path(__file__).resolve().parent.parent.parent / "docs" / "world.md"
CLAIMS_FILE = "hpt/paper.json"
#: What had to be fixed before the first HPT run, and the files that hold it.
FIXED: Mapping[str, tuple[str, ...]] = {
    "the world's constants and the recipes of the bases": (
        "hpt/tasks/graded.py", "hpt/tasks/corpus.py", "hpt/tasks/chains.py",
    ),
    "the grid of the search": ("hpt/search.py",),
    "the claims, their tests and thresholds": (CLAIMS_FILE, "hpt/claim_tests"),
}  # fmt: skip
METHOD = "hpt"
UNKNOWN = "unknown: the history is not here"
#: Answers per problem and levels at which a base's reach is shown, and the evaluation that has them.
REACH_K, REACH_SET = 8, "contest-c"


@dataclass(frozen=True)
class FirstRun:
    """The first run of HPT of a kind: its name, the commit it was made at, when it was started (ISO, UTC)."""

    kind: str
    run: str
    commit: str
    started: str


def first_runs(records: Path) -> list[FirstRun]:
    """Return the first HPT run of the tables and figures, and the first of the search, as the records have them.

    A run that was made again, for its weights or for one more column, counts from when its record was first committed.

    Args:
        records: folder of record folders.
    """
    found: dict[str, FirstRun] = {}
    for path in record_folders(records):
        config, own = recorded_config(path), read_json(path / "provenance.json")
        if config.method != METHOD or not own.get("finished"):
            continue
        own = first_json(path / "provenance.json") or own
        kind = "the search" if config.seed == SEED else "the tables and figures"
        took = datetime.timedelta(seconds=own.get("wall_s") or 0)
        started = (datetime.datetime.fromisoformat(own["finished"]) - took).isoformat(timespec="minutes")
        run = FirstRun(kind, path.name, str(own.get("commit") or "unknown"), started)
        found[kind] = min(run, found.get(kind, run), key=lambda one: one.started)
    return [found[kind] for kind in sorted(found, reverse=True)]


def fixed_before(run: FirstRun | None) -> list[dict[str, str]]:
    """Return what was fixed before a run: the last commit that changed each thing, and what changed after the run.

    Returns:
        Rows with the keys what, files, commit, when, after (commits since the run's that touched the files, or what
        makes that unknown).
    """
    rows = []
    for what, files in FIXED.items():
        last = changes(files)
        since = changes(files, run.commit) if run is not None else None
        after = UNKNOWN if since is None else "; ".join(
            f"{short_commit(own.commit)} {own.subject}" for own in since
        ) or "nothing"  # fmt: skip
        if CLAIMS_FILE in files and since and run is not None:
            after += f". {changed_claims(run.commit)}"
        rows.append(
            {
                "what": what,
                "files": ", ".join(files),
                "commit": short_commit(last[0].commit) if last else UNKNOWN,
                "when": last[0].when[:16].replace("T", " ") if last else "",
                "after": after,
            }
        )
    return rows


def changed_claims(commit: str) -> str:
    """Return which claims have another reading, test or threshold than at a commit, in words."""
    before = json_at(commit, CLAIMS_FILE)
    if before is None:
        return UNKNOWN
    then, now = ({row["id"]: _decided_by(row) for row in claim_rows(data)} for data in (before, paper_data()))
    kinds = {
        "with another reading, test or threshold": [name for name in now if name in then and now[name] != then[name]],
        "added": [name for name in now if name not in then],
        "removed": [name for name in then if name not in now],
    }
    texts = [f"{len(names)} {kind} ({', '.join(names)})" for kind, names in kinds.items() if names]
    return f"Of {len(now)} claims: {'; '.join(texts) if texts else 'all as they were'}"


def _decided_by(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("sentence", "reading", "test", "parameters", "methods", "policy"))


def bases(records: Sequence[RunRecords]) -> list[dict[str, str]]:
    """Return the strength of the bases that the records hold, by level and on the sets out of distribution.

    Returns:
        Rows of texts, in percent: base, one per level of the 500-problem set (``L1`` ...), pass@8 on levels 3 and 4
        (unbiased, from 32 answers), choice, notation; empty where it was not evaluated.
    """
    rows = []
    for run in (own for own in records if own.method == BASE):
        counts = run.evaluations.assign(share=run.evaluations["correct"] / run.evaluations["samples"])
        by_set = {str(name): own for name, own in counts.groupby("benchmark")}
        row = {"base": base_title(run.policy)}
        row |= {f"L{level}": _percent(by_set.get("graded-500"), level) for level in range(1, 6)}
        row |= {f"pass@{REACH_K}, L{level}": _reach(by_set.get(REACH_SET), level) for level in (3, 4)}
        rows.append(row | {name: _percent(by_set.get(name)) for name in ("choice", "notation")})
    return rows


def _percent(counts: pd.DataFrame | None, level: int | None = None) -> str:
    own = counts if counts is None or level is None else counts[counts["level"] == level]
    return "" if own is None or own.empty else f"{round_half_up(100 * own['share'].mean()):.1f}"


def _reach(counts: pd.DataFrame | None, level: int) -> str:
    own = counts if counts is None else counts[counts["level"] == level]
    if own is None or own.empty or own["samples"].min() < REACH_K:
        return ""
    return f"{round_half_up(100 * float(pass_at_k(own['correct'], own['samples'], REACH_K).mean())):.1f}"


def world_section(records: Path) -> dict[str, Any]:
    """Return what the report's section shows: text (HTML), first_runs, fixed, bases.

    Args:
        records: folder of record folders; it need not exist.
    """
    runs = first_runs(records)
    folders = [path for path in record_folders(records) if recorded_config(path).method == BASE]
    return {
        "text": world_text(),
        "first_runs": [
            {"kind": own.kind, "run": own.run, "commit": short_commit(own.commit), "started": own.started[:16]
             .replace("T", " ")} for own in runs
        ],
        "fixed": fixed_before(runs[0] if runs else None),
        "bases": bases([load_records(path) for path in folders]),
    }  # fmt: skip


def world_text() -> Markup:
    """Return ``docs/world.md`` as HTML without its title, its headings below those of the report's section."""
    from nbconvert.filters import markdown2html

    _, _, body = _TEXT.read_text(encoding="utf-8").partition("\n")
    html = markdown2html(re.sub(r"^##", "####", body, flags=re.MULTILINE))
    return Markup(re.sub(r'<a class="anchor-link".*?</a>', "", html))
