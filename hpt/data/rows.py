"""Rows of a file, a folder or a hub repository, as plain dictionaries; `hpt.data.shapes` says what they mean."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt.data.table import Dataset
from hpt.errors import ConfigError
from hpt.hub import hub_access

Row = dict[str, Any]


@dataclass(frozen=True)
class Fetched:
    """Rows with where they came from: a hub revision, or "" for a local file."""

    rows: list[Row]
    source: str
    revision: str = ""


def local_rows(path: str | Path) -> list[Row]:
    """Return the rows of a .parquet, .jsonl or .json file, or of a folder's, in the order of the files' names.

    Raises:
        ConfigError: no such file, nothing readable in it, or a damaged file (a download that was cut off).

    Example:
        >>> local_rows("rows.jsonl")  # doctest: +SKIP
        [{'problem': '1+1?', 'answer': '2'}]
    """
    path = Path(path)
    files = sorted(_data_files(path)) if path.is_dir() else [path]
    if not files or not all(file.is_file() and file.suffix in READERS for file in files):
        allowed = "a file or folder of " + ", ".join(READERS)
        raise ConfigError("data.source", str(path), allowed, "correct the path, or see `hpt data check`")
    return [row for file in files for row in _read(file)]


def _data_files(folder: Path) -> Iterator[Path]:
    """Yield the data files of a folder: the cards, scripts and manifests beside them are none."""
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if path.suffix in READERS and not any(part.startswith(".") for part in inside) and path.name != "manifest.json":
            yield path


def _read(file: Path) -> list[Row]:
    import pyarrow

    if file.stat().st_size < 200 and file.read_bytes().startswith(b"version https://git-lfs"):
        remedy = "fetch the file itself: `git lfs pull`, or `hpt data download`"
        raise ConfigError("data.source", str(file), "the data, not a Git LFS pointer to it", remedy)
    try:
        rows = READERS[file.suffix](file)
    except (OSError, ValueError, RecursionError, pyarrow.ArrowException) as error:  # ArrowInvalid: no footer, cut off
        remedy = f"copy or download it again: {_first(error)}"
        raise ConfigError("data.source", str(file), f"a complete {file.suffix} file", remedy) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError("data.source", str(file), "rows: a list of JSON objects", "name another file")
    return rows


def _parquet(file: Path) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(file).to_pylist()


def _json(file: Path) -> Any:
    """Read a list, or JSON Lines: either ending is used for either."""
    text = file.read_text(encoding="utf-8-sig")  # a byte-order mark is no part of the text
    try:
        rows = json.loads(text)
    except ValueError:
        # not splitlines(): it also cuts at U+2028 and others, which JSON leaves unescaped inside text
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return rows if isinstance(rows, list) else [rows]


#: File name endings that are read, and how.
READERS: dict[str, Callable[[Path], Any]] = {".parquet": _parquet, ".jsonl": _json, ".json": _json}


def hub_rows(dataset: Dataset) -> Fetched:
    """Return a set's rows from the hub, with the revision they have.

    Raises:
        ConfigError: it has no hub repository, is gated and there is no token for it, or the hub cannot be reached.
    """
    if not dataset.hub:
        remedy = f"name the file: hpt data download {dataset.name} --from FILE"
        raise ConfigError("data set", dataset.name, "a set with a repository on the hub", remedy)
    import datasets
    from huggingface_hub import HfApi

    with hub_access("dataset", dataset.name, dataset.hub, f"hpt data download {dataset.name} --from FILE"):
        revision = dataset.revision or HfApi().dataset_info(dataset.hub).sha or ""
        table = datasets.load_dataset(dataset.hub, dataset.config, split=dataset.split, revision=revision)
    return Fetched([dict(row) for row in table], f"hub:{dataset.hub}", revision)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
