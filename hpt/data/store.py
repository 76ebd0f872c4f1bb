"""Downloaded sets: fetched once, kept with a manifest of what was fetched, checked every time they are read.

    data/<name>/rows.parquet    the rows as they came
    data/<name>/manifest.json   source, revision, number of rows, their shape, SHA-256 of the file

The rows are kept, not the problems: nothing that came is lost, and a better reader needs no second download.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from hpt.data.files import Row, hub_rows, local_rows, problems_of
from hpt.data.problems import Problem, check_answerable, problems_hash, seeded
from hpt.data.public import DATASETS, Dataset, dataset_named
from hpt.support.errors import ConfigError, RecordFault
from hpt.support.files import MANIFEST, read_json, sha256_file, write_atomic, write_json

ROWS = "rows.parquet"


@dataclass(frozen=True)
class Status:
    """Where a set stands on this machine: ``ready``, ``missing`` or ``wrong``, and what was found."""

    dataset: Dataset
    state: str
    detail: str


def download(name: str, folder: str | Path, source: str | Path | None = None) -> list[Problem]:
    """Fetch a set, check it and keep it below ``folder``; what is there already is replaced only by a good one.

    ``source`` is a local file or folder; None = the hub. A drawn subset fetches what it is drawn from.
    """
    import pyarrow
    import pyarrow.parquet

    dataset = dataset_named(name)
    if dataset.subset is not None:
        download(dataset.subset.of, folder, source)
        return load_set(name, folder)
    origin = f"hub:{dataset.hub}" if source is None else f"file:{Path(source).name}"
    rows, revision = hub_rows(dataset) if source is None else (local_rows(source), "")
    _, shape = _checked(dataset, rows, origin)
    place, table = Path(folder) / name, pyarrow.Table.from_pylist(rows)
    write_atomic(place / ROWS, lambda path: pyarrow.parquet.write_table(table, path, compression="zstd"))
    manifest = {
        "dataset": name,
        "source": origin,
        "revision": revision,
        "rows": len(rows),
        "shape": shape,
        "sha256": sha256_file(place / ROWS),
        "downloaded": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(place / MANIFEST, manifest)
    return load_set(name, folder)


def load_set(name: str, folder: str | Path) -> list[Problem]:
    """Read a downloaded set, checked against the table and against what was downloaded."""
    dataset = dataset_named(name)
    if dataset.subset is None:
        place = Path(folder) / name
        if not ((place / ROWS).exists() and (place / MANIFEST).exists()):
            allowed = f"a complete download to {folder} ({ROWS} and {MANIFEST})"
            raise ConfigError("data set", name, allowed, f"type: hpt data download {name}")
        stamp = (place / ROWS).stat()
        return list(_load(name, place, stamp.st_mtime_ns, stamp.st_size))
    problems, chosen = load_set(dataset.subset.of, folder), set[str]()
    for level in dataset.subset.levels:
        ids = sorted(problem.id for problem in problems if problem.level == level)
        chosen.update(seeded("subset", dataset.subset.seed, level).sample(ids, dataset.subset.per_level))
    return [problem for problem in problems if problem.id in chosen]


@lru_cache(maxsize=32)
def _load(name: str, place: Path, _changed_ns: int, _size: int) -> tuple[Problem, ...]:
    remedy = f"it was cut off or changed; type: hpt data download {name}"
    try:
        recorded = str(read_json(place / MANIFEST).get("sha256"))
    except RecordFault as error:
        raise ConfigError("data set", name, f"a readable {MANIFEST}", remedy) from error
    if (found := sha256_file(place / ROWS)) != recorded:
        allowed = f"the file that was downloaded (SHA-256 {recorded[:12]}, found {found[:12]})"
        raise ConfigError("data set", name, allowed, remedy)
    return tuple(_checked(dataset_named(name), local_rows(place / ROWS), name)[0])


def _checked(dataset: Dataset, rows: Sequence[Row], source: str) -> tuple[list[Problem], str]:
    """Turn rows into problems, with the name of their shape, and refuse a set that is not what the table says."""
    where, fewest, most = f"data set {dataset.name}", *dataset.rows
    if not fewest <= len(rows) <= most:
        remedy = f"fetch it again: {source} is cut off or another set"
        raise ConfigError(f"{where}: rows", len(rows), f"{dataset.size} rows", remedy)
    problems, shape = problems_of(rows, dataset.shapes, source, dataset.answer_kind, dataset.name)
    if shape == "released" and dataset.known:
        # without levels, which not every source has
        found = problems_hash(replace(problem, level=None) for problem in problems)
        if found != dataset.known:
            remedy = f"fetch it again: {source} has been edited, or is another version"
            raise ConfigError(f"{where}: content", found[:12], f"problems with SHA-256 {dataset.known[:12]}", remedy)
    if dataset.use == "evaluation":  # of 46,000 training rows, one that teaches nothing stops no reproduction
        check_answerable(problems, where)
    missing = [problem.id for problem in problems if problem.demonstration is None]
    if dataset.use == "training" and missing:
        remedy = "fetch it again, or name another set"
        raise ConfigError(f"{where}: demonstration of {missing[0]}", None, "a text in every row", remedy)
    return problems, shape


def statuses(folder: str | Path, names: Sequence[str] = ()) -> list[Status]:
    """Return where sets stand on this machine, each read and checked as a run would."""
    found = []
    for name in names or DATASETS:
        dataset = dataset_named(name)
        held = Path(folder) / (dataset.subset.of if dataset.subset else name)
        if not held.exists():
            found.append(Status(dataset, "missing", f"type: hpt data download {name}"))
            continue
        try:
            problems, manifest = load_set(name, folder), read_json(held / MANIFEST)
        except ConfigError as error:
            found.append(Status(dataset, "wrong", str(error)))
            continue
        origin = f"{manifest['source']}@{manifest['revision'][:12]}" if manifest["revision"] else manifest["source"]
        verified = "as published" if manifest["shape"] == "released" and dataset.known else "as downloaded"
        found.append(Status(dataset, "ready", f"{len(problems):,} problems, content {verified}, {origin}"))
    return found
