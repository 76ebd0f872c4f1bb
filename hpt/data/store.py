"""Downloaded sets: fetched once, kept with a manifest of what was fetched, checked every time they are read.

    data/<name>/rows.parquet    the rows as they came (and levels joined to them, where they were)
    data/<name>/manifest.json   source, revision, rows, SHA-256 of the file and of the problems in it

The rows are kept, not the problems: nothing that came is lost, and a better reader needs no second download.

The released MATH-500 file has MATH's paths as ids and no levels, so `join_levels` adds them by id (Table 4).
"""

import datetime
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hpt.data.files import Fetched, Row, hub_rows, local_rows, problems_of
from hpt.data.problems import Problem, check_answerable, problems_hash
from hpt.data.public import DATASETS, Dataset, Subset, dataset_named
from hpt.data.world.chains import seeded
from hpt.support.errors import ConfigError, RecordFault
from hpt.support.files import MANIFEST, read_json, sha256_file, write_atomic, write_json

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


ROWS = "rows.parquet"


@dataclass(frozen=True)
class Status:
    """Where a set stands on this machine: ``ready``, ``missing`` or ``wrong``, and what was found."""

    dataset: Dataset
    state: str
    detail: str


def download(
    name: str, folder: str | Path, source: str | Path | None = None, levels: str | Path | None = None
) -> list[Problem]:
    """Fetch a set, check it and keep it below ``folder``; what is there already is replaced only by a good one.

    Args:
        name: of the set; a drawn subset fetches what it is drawn from.
        folder: of all sets.
        source: a local file or folder; None = the hub.
        levels: a file of ids and levels, or MATH's own folder, for a source whose rows have ids and no levels.

    Raises:
        ConfigError: no such set, no access, wrong or truncated content.
    """
    dataset = dataset_named(name)
    if dataset.subset is not None:
        download(dataset.subset.of, folder, source, levels)
        return load_set(name, folder)
    fetched = Fetched(local_rows(source), f"file:{Path(source).name}") if source is not None else hub_rows(dataset)
    rows = join_levels(fetched.rows, levels) if levels is not None else fetched.rows
    problems, shape = _checked(dataset, rows, fetched.source)
    place = Path(folder) / name
    write_atomic(place / ROWS, lambda temporary: _write_rows(temporary, rows))
    write_json(
        place / MANIFEST,
        {
            "dataset": name,
            "source": fetched.source,
            "revision": fetched.revision,
            "rows": len(rows),
            "shape": shape,
            "sha256": sha256_file(place / ROWS),
            "content_sha256": content_hash(problems),
            "downloaded": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )
    return load_set(name, folder)


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, compression="zstd")


def load_set(name: str, folder: str | Path) -> list[Problem]:
    """Read a downloaded set, checked against the table and against what was downloaded.

    Raises:
        ConfigError: not downloaded, downloaded in part, changed since, or not the set it should be.
    """
    dataset = dataset_named(name)
    if dataset.subset is not None:
        return _draw(load_set(dataset.subset.of, folder), dataset.subset)
    place = Path(folder) / name
    remedy = f"type: hpt data download {name}"
    manifest_path, rows_path = place / MANIFEST, place / ROWS
    if not rows_path.exists() and not manifest_path.exists():
        raise ConfigError("data set", name, f"a set downloaded to {folder}", remedy)
    if not rows_path.exists() or not manifest_path.exists():
        raise ConfigError("data set", name, f"a complete download ({ROWS} and {MANIFEST} in {place})", remedy)
    stamp = rows_path.stat()
    return list(_load(name, str(place), stamp.st_mtime_ns, stamp.st_size))


@lru_cache(maxsize=32)
def _load(name: str, place: str, _changed_ns: int, _size: int) -> tuple[Problem, ...]:
    dataset, remedy = dataset_named(name), f"type: hpt data download {name}"
    try:
        manifest = read_json(Path(place) / MANIFEST)
    except RecordFault as error:
        raise ConfigError("data set", name, f"a readable {MANIFEST}", remedy) from error
    found = sha256_file(Path(place) / ROWS)
    if found != manifest.get("sha256"):
        allowed = f"the file that was downloaded (SHA-256 {str(manifest.get('sha256'))[:12]}, found {found[:12]})"
        raise ConfigError("data set", name, allowed, f"it was cut off or changed; {remedy}")
    problems, _ = _checked(dataset, local_rows(Path(place) / ROWS), name)
    if (content := content_hash(problems)) != manifest.get("content_sha256"):
        allowed = f"the problems recorded when it was downloaded ({str(manifest.get('content_sha256'))[:12]})"
        raise ConfigError("data set", f"{name} as {content[:12]}", allowed, f"rows are read otherwise now; {remedy}")
    return tuple(problems)


def content_hash(problems: Sequence[Problem]) -> str:
    """Return the SHA-256 of a set's problems; levels are left out, since they may be joined later."""
    return problems_hash([replace(problem, level=None) for problem in problems])


def _checked(dataset: Dataset, rows: Sequence[dict[str, Any]], source: str) -> tuple[list[Problem], str]:
    """Turn rows into problems and refuse a set that is not what the table says."""
    where, fewest, most = f"data set {dataset.name}", *dataset.rows
    if not fewest <= len(rows) <= most:
        remedy = f"fetch it again: {source} is cut off or another set"
        raise ConfigError(f"{where}: rows", len(rows), f"{dataset.size} rows", remedy)
    problems, shape = problems_of(rows, dataset.shapes, source, dataset.answer_kind, dataset.name)
    expected, found = dataset.known.get(shape), content_hash(problems)
    if expected is not None and found != expected:
        remedy = f"fetch it again: {source} has been edited, or is another version"
        raise ConfigError(f"{where}: content", found[:12], f"problems with SHA-256 {expected[:12]}", remedy)
    if dataset.use == "evaluation":  # of 46,000 training rows, one that teaches nothing stops no reproduction
        check_answerable(problems, where)
    counts = Counter(problem.level for problem in problems)
    if dataset.levels and set(counts) != {None} and counts != Counter(dataset.levels):
        given = ", ".join(f"{level}: {count}" for level, count in sorted(counts.items(), key=str))
        allowed = ", ".join(f"{level}: {count}" for level, count in dataset.levels.items())
        raise ConfigError(f"{where}: problems per level", given, allowed, "join the levels of the same set")
    missing = [problem.id for problem in problems if problem.demonstration is None]
    if dataset.use == "training" and missing:
        remedy = "fetch it again, or name another set"
        raise ConfigError(f"{where}: demonstration of {missing[0]}", None, "a text in every row", remedy)
    return problems, shape


def _draw(problems: Sequence[Problem], subset: Subset) -> list[Problem]:
    """Return the drawn part, in the order of the whole set."""
    chosen: set[str] = set()
    for level in subset.levels:
        own = [problem.id for problem in problems if problem.level == level]
        if len(own) < subset.per_level:
            allowed = f"at least {subset.per_level} problems of level {level}"
            raise ConfigError(f"data set {subset.of}", f"{len(own)} problems", allowed, "fetch the whole set")
        chosen.update(seeded("subset", subset.seed, level).sample(sorted(own), subset.per_level))
    return [problem for problem in problems if problem.id in chosen]


def statuses(folder: str | Path, names: Sequence[str] = ()) -> list[Status]:
    """Return where sets stand on this machine, each read and checked as a run would."""
    found = []
    for name in names or DATASETS:
        dataset = dataset_named(name)
        held = dataset.subset.of if dataset.subset else name
        if not (Path(folder) / held).exists():
            found.append(Status(dataset, "missing", f"type: hpt data download {name}"))
            continue
        try:
            problems = load_set(name, folder)
        except ConfigError as error:
            found.append(Status(dataset, "wrong", str(error)))
            continue
        manifest = read_json(Path(folder) / held / MANIFEST)
        origin = f"{manifest['source']}@{manifest['revision'][:12]}" if manifest["revision"] else manifest["source"]
        verified = "content as published" if manifest["shape"] in dataset.known else "content as downloaded"
        found.append(Status(dataset, "ready", f"{len(problems):,} problems, {verified}, {origin}"))
    return found
