"""Questions to the history of this clone: when files last changed, and whether before a run was made.

A report must render in an archive or a shallow clone too; there every answer is "unknown", never a guess.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt.runs import git

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Change:
    """A commit, when it was made (ISO), and its subject."""

    commit: str
    when: str
    subject: str


def changes(paths: Sequence[str], since: str = "") -> list[Change] | None:
    """Return the commits that changed files, newest first.

    Args:
        paths: relative to the project's folder.
        since: only those that this commit does not contain.

    Returns:
        None where the history is not here, or does not know ``since``.
    """
    if not _has_history() or (since and git("cat-file", "-e", f"{since}^{{commit}}") is None):
        return None
    span = [f"{since}..HEAD"] if since else []
    lines = git("log", "--format=%H%x09%cI%x09%s", *span, "--", *paths)
    return None if lines is None else [Change(*line.split("\t", 2)) for line in lines.splitlines()]


def is_in_history(commit: str) -> bool | None:
    """Return whether this clone has a commit; None where the history is not here.

    Example:
        >>> is_in_history("0" * 40) in (False, None)
        True
    """
    return git("cat-file", "-e", f"{commit}^{{commit}}") is not None if _has_history() else None


def json_at(commit: str, path: str) -> Any:
    """Return a JSON file as a commit has it; None where the history is not here or does not have it."""
    return _shown(commit, path) if _has_history() else None


def first_json(path: Path) -> Any:
    """Return a JSON file as it was when it was first committed; None where the history is not here or has no such file.

    Example:
        >>> first_json(Path("/elsewhere/provenance.json")) is None
        True
    """
    file = path.resolve()
    if not file.is_relative_to(_ROOT) or not _has_history():
        return None
    name = str(file.relative_to(_ROOT))
    added = (git("log", "--diff-filter=A", "--format=%H", "--", name) or "").split()
    return _shown(added[-1], name) if added else None


def _shown(commit: str, path: str) -> Any:
    text = git("show", f"{commit}:{path}")
    return None if text is None else json.loads(text)


def _has_history() -> bool:
    """Whether this is a clone with its whole history; a shallow one would date every file to its one commit."""
    return git("rev-parse", "--is-shallow-repository") == "false"
