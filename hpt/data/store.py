"""Downloaded sets: fetched once, kept with a manifest of what was fetched, checked every time they are read.

    data/<name>/rows.parquet    the rows as they came
    data/<name>/manifest.json   source, revision, rows, SHA-256 of the file and of the problems in it

The rows are kept, not the problems: nothing that came is lost, and a better reader needs no second download.
"""

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hpt.data.files import Fetched, hub_rows, local_rows, problems_of
from hpt.data.problems import Problem, check_answerable, problems_hash, seeded
from hpt.data.public import DATASETS, Dataset, Subset, dataset_named
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

    Args:
        name: of the set; a drawn subset fetches what it is drawn from.
        folder: of all sets.
        source: a local file or folder; None = the hub.

    Raises:
        ConfigError: no such set, no access, wrong or truncated content.
    """
    dataset = dataset_named(name)
    if dataset.subset is not None:
        download(dataset.subset.of, folder, source)
        return load_set(name, folder)
    fetched = Fetched(local_rows(source), f"file:{Path(source).name}") if source is not None else hub_rows(dataset)
    problems, shape = _checked(dataset, fetched.rows, fetched.source)
    place = Path(folder) / name
    write_atomic(place / ROWS, lambda temporary: _write_rows(temporary, fetched.rows))
    manifest = {
        "dataset": name,
        "source": fetched.source,
        "revision": fetched.revision,
        "rows": len(fetched.rows),
        "shape": shape,
        "sha256": sha256_file(place / ROWS),
        "content_sha256": content_hash(problems),
        "downloaded": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(place / MANIFEST, manifest)
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
    """Return the SHA-256 of a set's problems; levels are left out, since not every source has them."""
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
        raise ConfigError(f"{where}: problems per level", given, allowed, "fetch it again")
    missing = [problem.id for problem in problems if problem.demonstration is None]
    if dataset.use == "training" and missing:
        remedy = "fetch it again, or name another set"
        raise ConfigError(f"{where}: demonstration of {missing[0]}", None, "a text in every row", remedy)
    return problems, shape


def _draw(problems: Sequence[Problem], subset: Subset) -> list[Problem]:
    """Return the drawn part, in the order of the whole set."""
    chosen: set[str] = set()
    for level in subset.levels:
        ids = sorted(problem.id for problem in problems if problem.level == level)
        if len(ids) < subset.per_level:
            allowed = f"at least {subset.per_level} problems of level {level}"
            raise ConfigError(f"data set {subset.of}", f"{len(ids)} problems", allowed, "fetch the whole set")
        chosen.update(seeded("subset", subset.seed, level).sample(ids, subset.per_level))
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
