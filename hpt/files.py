"""Files that are either there, whole, or not there: every write goes to a neighbour first and is renamed into place."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from hpt.errors import HptError, RecordFault

MANIFEST = "manifest.json"


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then rename it over ``path``.

    A reader, or a process killed in between, sees the old file or the new one, never a half.

    Raises:
        HptError: the disk is full, the folder read-only ...: names the file; what was there before is untouched.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        message = f"cannot write {path}: {error.strerror or error}; free space or make the folder writable, then run"
        raise HptError(f"{message} the same command again: everything finished so far is kept") from error


def write_text(path: Path, text: str) -> None:
    """Write text, atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        RecordFault: missing or not JSON; the message names the file.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise RecordFault(
            f"{path} cannot be read ({error}); remove its folder and run the same command again"
        ) from error


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table, atomically."""
    write_atomic(path, lambda temporary: frame.to_parquet(temporary, index=False, compression="zstd"))


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a table.

    Raises:
        RecordFault: missing or damaged; the message names the file.
    """
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow raises a family of its own for damaged files
        raise RecordFault(
            f"{path} cannot be read ({error}); remove its folder and run the same command again"
        ) from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(folder: Path, pattern: str) -> str:
    """Return one SHA-256 over the names and contents of a folder's files that match ``pattern``."""
    total = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        total.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()


def write_manifest(folder: Path) -> None:
    """Write the SHA-256 of every file below ``folder`` into its manifest."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    write_json(folder / MANIFEST, {str(path.relative_to(folder)): sha256_file(path) for path in files})


def check_manifest(folder: Path) -> None:
    """Compare every file of ``folder`` with its manifest.

    Raises:
        RecordFault: a file is missing or its content changed.
    """
    manifest: Mapping[str, str] = read_json(folder / MANIFEST)
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != expected:
            raise RecordFault(f"{path} is missing or damaged: it is not what its manifest says was written")
