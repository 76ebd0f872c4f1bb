"""What a report says above its numbers: whose they are, how many seeds, which commits and bases, what was damaged."""

from collections.abc import Sequence
from typing import Any

from hpt.artefacts.provenance import DAMAGE, commit_of, trainings
from hpt.config import NUMERICS_VERSION
from hpt.stats import MIN_SEEDS

_SMALL = (
    "This is a small world made by this package. It says nothing about the level a model of 1.5 or 7 billion "
    "parameters reaches: compare signs and order with the paper, never levels."
)


def notes(scale: str, seeds: Sequence[int], statuses: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[str]:
    """Return the sentences.

    Args:
        scale: key of `hpt.scales.SCALES`.
        seeds: run seeds of all notebooks.
        statuses: what the notebooks left, see `hpt.report.execute`.
        runs: rows of `hpt.artefacts.provenance.source_rows`.
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
    found += _about_commits(runs)
    for name in DAMAGE:
        met = [f"{row[name]} of {row['run']}" for row in runs if row.get(name)]
        if met:
            what = name.replace("_", " ")
            found.append(f"{what.capitalize()}, set aside and made again from the last good state: {', '.join(met)}.")
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
        own = trainings((row.get("base_weights"), row["seed"]) for row in runs if row["policy"] == policy)
        if len(own) > 1:
            found.append(f"Not so the {policy} base, whose weights were {' and '.join(own)}.")
    return found


def _about_commits(runs: Sequence[dict[str, Any]]) -> list[str]:
    made_at = sorted({commit_of(row) for row in runs})
    if len(made_at) < 2:
        return []
    changed = " (+: with changed files)" if any("+" in commit for commit in made_at) else ""
    return [f"The runs were made at {len(made_at)} commits: {', '.join(made_at)}{changed}."]
