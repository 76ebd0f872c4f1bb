"""What every table and figure carries: the runs it came from, by name, fingerprint and commit."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpt.export import RunRecords

#: Counts of a run's damaged checkpoints and files; named where there were any.
DAMAGE = ("damaged_checkpoints", "damaged_files")


def source_rows(records: Iterable[RunRecords]) -> list[dict[str, Any]]:
    """Return one entry per run, sorted by name: what a companion file of an artefact lists.

    Example:
        >>> source_rows([])
        []
    """
    rows = [
        {
            "run": own.name,
            "fingerprint": own.fingerprint,
            "method": own.method,
            "policy": own.policy,
            "seed": own.seed,
            "scale": own.config.scale,
            "recipe": own.config.recipe,
            # of what it starts from where that is a base: all runs of a seed should have the same
            "base_weights": own.config.policy.base_weights,
            "commit": str(own.provenance.get("commit") or "unknown"),
            "dirty": bool(own.provenance.get("dirty")),
            "numerics_version": own.provenance.get("numerics_version"),
            "finished": own.provenance.get("finished"),
            "wall_s": own.provenance.get("wall_s"),
            **{name: count for name in DAMAGE if (count := own.provenance.get(name))},
        }
        for own in records
    ]
    return sorted(rows, key=lambda row: row["run"])


def trainings(begun: Iterable[tuple[str | None, int]]) -> list[str]:
    """Return the weights that runs on one base began from, with their seeds, in words: one entry while it is one base.

    Args:
        begun: of each run the hash of the base's weights (None or empty: it starts from none) and its seed.

    Example:
        >>> trainings([("b" * 64, 2), ("a" * 64, 0), ("b" * 64, 1), (None, 0)])
        ['aaaaaaaaaaaa (seeds 0)', 'bbbbbbbbbbbb (seeds 1, 2)']
    """
    seeds: dict[str, set[int]] = {}
    for weights, seed in begun:
        if weights:
            seeds.setdefault(weights, set()).add(seed)
    return [f"{weights[:12]} (seeds {', '.join(map(str, sorted(own)))})" for weights, own in sorted(seeds.items())]


def commits(records: Iterable[RunRecords]) -> str:
    """Return the commits the runs were made at, first 12 digits each; ``+`` marks files that differed from it."""
    return ", ".join(sorted({short_commit(own.commit) for own in records})) or "none"


def short_commit(commit: str) -> str:
    """Return a commit's first 12 digits, keeping a final ``+``.

    Example:
        >>> short_commit("0123456789abcdef0123+"), short_commit("unknown")
        ('0123456789ab+', 'unknown')
    """
    return commit.rstrip("+")[:12] + ("+" if commit.endswith("+") else "")


def commit_of(row: Mapping[str, Any]) -> str:
    """Return the commit of a row of `source_rows`, or of a notebook's status, as pages show it.

    Example:
        >>> commit_of({"commit": "0123456789abcdef", "dirty": True})
        '0123456789ab+'
    """
    return short_commit(row["commit"] + ("+" if row["dirty"] else ""))


def source_line(records: Sequence[RunRecords]) -> str:
    """Return the footer of an artefact: runs and commit in one line.

    Example:
        >>> source_line([])
        'Made without a run.'
    """
    if not records:
        return "Made without a run."
    names = "; ".join(sorted(own.name for own in records))
    count = f"{len(records)} run{'' if len(records) == 1 else 's'}"
    return f"From {count} at commit {commits(records)}{': ' + names if names else ''}."
