"""Whether a notebook has to be executed again: not while all that it reads, and all that it wrote, is what it was.

Compared is content, never a date: the notebook's source, its parameters, the files of the runs or records it draws on,
the package and the libraries that draw. What an execution read and wrote is noted beside the executed notebook, out of
version control, so a new clone executes everything once.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from hpt.config import digest
from hpt.errors import RecordFault
from hpt.experiments import PlannedRun, planned_runs
from hpt.files import MANIFEST, read_json, sha256_file, sha256_of_each, write_json
from hpt.recorded import RecordStore

#: Libraries whose version can change what a notebook shows.
_LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy", "pyarrow", "nbconvert", "jinja2", "math-verify", "torch")
#: What a report reads of a run folder (`hpt.export.load_records`).
_RUN_FILES = ("config.json", "provenance.json", "*.parquet", "evaluations/*.parquet")


def inputs_digest(
    notebook: Path, parameters: Mapping[str, Any], artefacts: Sequence[str], root: Path, store: RecordStore | None
) -> str | None:
    """Return a hash of everything that an execution of a notebook reads; None where a run or record is not there.

    Args:
        notebook: its source.
        parameters: it is executed with.
        artefacts: it makes.
        root: folder of run folders.
        store: records to read instead, or None.
    """
    where = root if store is None else store.folder
    planned = planned_runs(
        parameters["scale"], artefacts, parameters["seeds"], where, bases=parameters.get("bases", ())
    )
    runs = {}
    for run in planned:
        own = _record_digest(run, store) if store is not None else _run_digest(run)
        if own is None:
            return None
        runs[run.config.fingerprint()] = own
    return digest({
        "notebook": sha256_file(notebook), "parameters": dict(parameters), "runs": runs, "package": package_digest(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    })  # fmt: skip


def is_fresh(note: Path, inputs: str | None, folder: Path) -> bool:
    """Return whether an execution noted in ``note`` read the same and everything it wrote below ``folder`` is there."""
    if inputs is None or not note.exists():
        return False
    noted = read_json(note)
    written = noted.get("outputs", {})
    same = noted.get("inputs") == inputs
    return same and all(
        (folder / name).is_file() and sha256_file(folder / name) == own for name, own in written.items()
    )


def note_execution(note: Path, inputs: str | None, folder: Path, status: Mapping[str, Any]) -> None:
    """Note what an execution read and wrote: its status, its page, and the files of its artefacts."""
    if inputs is None:
        note.unlink(missing_ok=True)
        return
    names = [own["name"] for own in status["artefacts"]]
    patterns = [f"notebooks/{status['notebook']}.json", f"notebooks/{status['notebook']}.html"]
    patterns += [f"{kind}/{name}.*" for name in names for kind in ("tables", "figures")]
    patterns += [f"tables/{more}.*" for own in status["artefacts"] for more in own.get("more", ())]
    written = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    outputs = sha256_of_each(folder, written)
    write_json(note, {"inputs": inputs, "outputs": outputs})


@cache
def package_digest() -> str:
    """Return a hash of every file of the package: a changed line of code may change any table."""
    package = Path(__file__).resolve().parent
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return digest(sha256_of_each(package, files))


def _run_digest(run: PlannedRun) -> str | None:
    if run.folder is None or not run.done:
        return None
    folder = run.folder.path
    files = [path for pattern in _RUN_FILES for path in folder.glob(pattern)]
    return digest({"arms": run.arms, "files": sha256_of_each(folder, files)})


def _record_digest(run: PlannedRun, store: RecordStore) -> str | None:
    try:
        path = store.find(run.config)
    except RecordFault:  # the execution names it
        return None
    return None if path is None else digest({"arms": run.arms, "files": read_json(path / MANIFEST)})


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
