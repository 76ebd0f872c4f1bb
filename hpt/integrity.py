"""Is a finished run still what was written? Checksums, and what is done about a file that does not match its own.

A run's last act is to write down the SHA-256 of what it leaves: configuration, records, provenance and model; an
evaluation adds its own. A file that no longer matches is never read: `check` raises, and when the run's command is
given again, `set_aside` moves the file into ``damaged/``, where it is counted, and the run goes on from its newest good
checkpoint (or samples the evaluation again). Without the checksums nothing vouches for the rest: that their file is
missing is damage, too.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from hpt.errors import HptError, RecordFault
from hpt.files import read_json, sha256_file, write_json, writing
from hpt.model_folder import weights_hash
from hpt.runs import TABLES, RunFolder

CHECKSUMS = "checksums.json"
DAMAGED = "damaged"
#: Stands for all weight files of the model together: their hash is part of fingerprints too, and read once for both.
_WEIGHTS = "model/*.safetensors"
_RECORDS = ("config.json", "data.json", "provenance.json", *(f"{name}.parquet" for name in TABLES))


def write_checksums(folder: RunFolder) -> None:
    """Write down what a run that ends leaves behind; evaluations that are there keep their entries."""
    kept = {name: value for name, value in _checksums(folder).items() if name.startswith("evaluations/")}
    names = [name for name in _RECORDS if (folder.path / name).is_file()]
    if folder.model.is_dir() and not folder.model.is_symlink():  # a link: the user's own model, which they may change
        files = (path for path in sorted(folder.model.iterdir()) if path.is_file() and path.suffix != ".safetensors")
        names += [f"{folder.model.name}/{path.name}" for path in files]
        kept[_WEIGHTS] = weights_hash(folder.model)
    write_json(folder.path / CHECKSUMS, kept | {name: sha256_file(folder.path / name) for name in names})


def add_checksum(folder: RunFolder, path: Path) -> None:
    """Write down the checksum of one more file of a run, or its new one."""
    name = str(path.relative_to(folder.path))
    write_json(folder.path / CHECKSUMS, _checksums(folder) | {name: sha256_file(path)})


def has_checksum(folder: RunFolder, path: Path) -> bool:
    """Return whether a file of a run is there and its checksum is written down."""
    return path.exists() and str(path.relative_to(folder.path)) in _checksums(folder)


def damaged_files(folder: RunFolder, weights: bool = True) -> list[str]:
    """Return the files of a finished run that are not what was written, by name within its folder.

    Args:
        folder: of the run.
        weights: look at the model's weights too, which may be large.
    """
    try:
        expected = read_json(folder.path / CHECKSUMS)
    except RecordFault:  # missing, or damaged itself
        return [CHECKSUMS]
    return [name for name, value in expected.items() if not _holds(folder, name, value, weights)]


def check(folder: RunFolder, weights: bool = True) -> None:
    """Refuse a finished run of which a file is damaged."""
    if damaged := damaged_files(folder, weights):
        remedy = "give the command that made it again: it goes on from the newest good checkpoint"
        raise RecordFault(f"{folder.path / damaged[0]} is missing or damaged: it is not what the run wrote "
                          f"({len(damaged)} such files); {remedy}")  # fmt: skip


def set_aside(folder: RunFolder) -> list[str]:
    """Move the damaged files of a finished run away, so that what they held is made again; returns their names.

    The caller holds the run. Where more than evaluations is damaged the run counts as stopped and goes on from its
    newest good checkpoint. The provenance is kept, with the count.
    """
    damaged = damaged_files(folder)
    if not damaged:
        return []
    if CHECKSUMS in damaged:  # nothing can be told from it: all evaluations go too
        damaged += [str(path.relative_to(folder.path)) for path in (folder.path / "evaluations").glob("*.parquet")]
    training = [name for name in damaged if not name.startswith("evaluations/")]
    for name in dict.fromkeys(folder.model.name if name.startswith("model/") else name for name in damaged):
        _move(folder, name)
    if training:  # before the checksums: a run that is killed in between must not count as finished and whole
        folder.set_status("stopped", folder.status["step"], message="damaged: " + ", ".join(training))
    if CHECKSUMS not in damaged:
        write_json(folder.path / CHECKSUMS, _without(folder, damaged))
    return damaged


def set_aside_unreadable_config(folder: RunFolder) -> None:
    """Move a run's configuration away that cannot be read; the folder's name says which one it was.

    One that can be read and is another than the name says is left alone: somebody may have put it there.
    """
    if not (folder.path / "config.json").exists():
        return
    try:
        _ = folder.config
    except HptError:
        _move(folder, "config.json")


def _move(folder: RunFolder, name: str) -> None:
    print(f"damaged, set aside and made again: {folder.path / name}", file=sys.stderr, flush=True)
    target = folder.path / DAMAGED / f"{damaged_count(folder) + 1}-{Path(name).name}"
    with writing(target):
        target.parent.mkdir(exist_ok=True)
        if (folder.path / name).exists():
            (folder.path / name).rename(target)
        else:
            target.touch()  # it is missing; this is its place in the count


def damaged_count(folder: RunFolder) -> int:
    """Return how many damaged files of a run were set aside so far."""
    return len(list((folder.path / DAMAGED).glob("*")))


def _without(folder: RunFolder, names: Iterable[str]) -> dict[str, str]:
    return {name: value for name, value in _checksums(folder).items() if name not in set(names)}


def _checksums(folder: RunFolder) -> dict[str, str]:
    path = folder.path / CHECKSUMS
    return read_json(path) if path.exists() else {}


def _holds(folder: RunFolder, name: str, expected: str, weights: bool) -> bool:
    if name == _WEIGHTS:
        return not weights or (folder.model.is_dir() and weights_hash(folder.model) == expected)
    path = folder.path / name
    if name.startswith("evaluations/") and not path.exists():
        return True  # removed, to be sampled again
    return path.is_file() and sha256_file(path) == expected
