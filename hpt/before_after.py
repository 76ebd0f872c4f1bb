"""What a changed setting changed: the same artefact from the runs with the default settings, beside the new one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hpt.arms import is_addressed
from hpt.artefacts import BUILDERS, Made
from hpt.artefacts.markup import plain_table
from hpt.artefacts.output import TableArtefact
from hpt.catalogue import arm_label
from hpt.errors import ConfigError
from hpt.experiments import ARTEFACTS, planned_runs
from hpt.export import RunRecords, load_runs
from hpt.recorded import RecordStore


def default_records(
    scale: str, artefacts: Sequence[str], seeds: Sequence[int], root: Path, records: Path | None, bases: Sequence[str]
) -> tuple[list[RunRecords], list[str]]:
    """Return the records with the default settings, and the runs that are missing for them; nothing is computed.

    Args:
        scale, artefacts, seeds, root, bases: as for `hpt.experiments.planned_runs`.
        records: folder of record folders to read instead of run folders, or None.
    """
    planned = planned_runs(scale, artefacts, seeds, root, bases=bases)
    if records is None:
        missing = [f"{run.method} on the {run.policy} base, seed {run.seed}" for run in planned if not run.done]
        return ([] if missing else load_runs(planned)), missing
    store = RecordStore(records)
    missing = [f"{run.method} on the {run.policy} base, seed {run.seed}" for run in planned if store.lacking(run)]
    return ([] if missing else [store.load(run) for run in planned]), missing


def beside(made: Made, before: Sequence[RunRecords], missing: Sequence[str]) -> Markup:
    """Return the artefact with the default settings and what differs, to stand below the new one."""
    if missing:
        few = "; ".join(missing[:3]) + ("; ..." if len(missing) > 3 else "")
        note = f"Not shown beside it is what the default settings give: {len(missing)} runs are not there ({few})."
        return Markup("<p>{} Run this notebook once with settings = {{}}.</p>").format(note)
    old = BUILDERS[made.name](before)
    changed = Markup("")
    if isinstance(made, TableArtefact) and isinstance(old, TableArtefact):
        rows = differences(old, made)
        heads = ("row", "column", "default settings", "changed settings", "difference")
        changed = plain_table(heads, rows) if rows else Markup("<p>No number of it changed.</p>")
    head = Markup("<p><b>Before, with the default settings:</b></p>")
    return changed + head + old.html()


def differences(old: TableArtefact, new: TableArtefact) -> list[tuple[str, str, str, str, str]]:
    """Return (row, column, old, new, difference) of every cell of ours whose printed value is another."""
    heads = [column.head for column in new.columns]
    before = _cells(old)
    rows = []
    for key, value in _cells(new).items():
        was = before.get(key, "")
        if was != value:
            try:
                moved = f"{float(value) - float(was):+.1f}"
            except ValueError:
                moved = ""
            rows.append((key[0], heads[key[2]], was, value, moved))
    return rows


def _cells(table: TableArtefact) -> dict[tuple[str, int, int], str]:
    """Our values by row label, which of the rows of that label (a table may have one per base), and column."""
    cells: dict[tuple[str, int, int], str] = {}
    seen: dict[str, int] = {}
    for label, row in table.rows:
        seen[label] = seen.get(label, -1) + 1
        cells |= {(label, seen[label], at): cell.value for at, cell in enumerate(row)}
    return cells


def check_addressed(settings: dict[str, Any], artefacts: Sequence[str], scale: str) -> None:
    """Refuse settings that reach no run of the artefacts.

    Raises:
        ConfigError: a name of a method that they do not compare, or a setting that each of their arms is defined by.
    """
    arms = [arm for name in artefacts for arm in ARTEFACTS[name].arms]
    known = dict.fromkeys(name for arm in arms for name in arm.names)
    for name, value in settings.items():
        if is_addressed(name, value) and name not in known:
            raise ConfigError("settings", name, f"a setting, or one of {', '.join(known)}", "correct the name")
        if arms and all(name in arm.keeps(scale, settings) for arm in arms):
            kept = sorted({f"{name} = {arm.fixed(scale)[name]!r}" for arm in arms})
            allowed = f"a setting that these lines are not defined by ({', '.join(kept)})"
            raise ConfigError(f"settings[{name!r}]", value, allowed, "leave it out: it would change nothing")


def kept_note(settings: dict[str, Any], artefacts: Sequence[str], scale: str) -> str:
    """Return which lines the settings do not move, because they are defined by them; empty where they move all."""
    kept: dict[str, None] = {}
    for arm in (arm for name in artefacts for arm in ARTEFACTS[name].arms):
        for name, value in arm.keeps(scale, settings).items():
            kept[f"{arm_label(arm.name or arm.method)} on the {arm.policy} base ({name} = {value!r})"] = None
    return f" Not moved by the settings, which they are defined by: {', '.join(kept)}." if kept else ""
