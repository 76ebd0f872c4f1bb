"""Levels joined to problems by id: the released MATH-500 file has MATH's paths as ids, and no levels (Table 4)."""

import json
from collections.abc import Sequence
from pathlib import Path

from hpt.data.rows import Row, local_rows
from hpt.errors import ConfigError

_IDS = ("unique_id", "id")


def join_levels(rows: Sequence[Row], source: str | Path) -> list[Row]:
    """Return the rows with a level each, taken from ``source`` by id.

    Args:
        rows: with a column ``id`` or ``unique_id`` such as ``test/precalculus/807.json``.
        source: rows with the same ids and a column ``level``, or the folder of MATH as published (Hendrycks et al.
            2021), in which the id is the path of a file.

    Raises:
        ConfigError: a row without id, or an id without level.
    """
    column = next((name for name in _IDS if rows and name in rows[0]), None)
    if column is None:
        raise ConfigError("levels", str(source), "rows with an id or unique_id to join by", "leave --levels out")
    ids = [str(row[column]) for row in rows]
    path = Path(source)
    found = _from_files(path, ids) if path.is_dir() and any((path / name).is_file() for name in ids) else _of_rows(path)
    for identity in ids:
        if identity not in found:
            remedy = "name the set these problems were taken from"
            raise ConfigError(f"levels of {source}", identity, "an id that has a level there", remedy)
    return [{**row, "level": found[identity]} for row, identity in zip(rows, ids, strict=True)]


def _from_files(folder: Path, ids: Sequence[str]) -> dict[str, object]:
    levels = {}
    for identity in ids:
        file = (folder / identity).resolve()
        if file.is_relative_to(folder.resolve()) and file.is_file():  # an id is data, and must not lead elsewhere
            levels[identity] = json.loads(file.read_text(encoding="utf-8")).get("level")
    return levels


def _of_rows(path: Path) -> dict[str, object]:
    rows = local_rows(path)
    column = next((name for name in _IDS if name in rows[0]), "") if rows else ""
    if not column or "level" not in rows[0]:
        names = ", ".join(rows[0]) if rows else "no rows"
        raise ConfigError("levels", names, "columns id (or unique_id) and level", "name another file")
    return {str(row[column]): row["level"] for row in rows}
