"""Everything needed to continue as if nothing had happened: weights, optimiser, counters and the records so far.

A checkpoint is written into a hidden folder and renamed when complete, with the SHA-256 of each file beside it; a
process killed at any moment leaves the previous one in place. The records live *inside* the checkpoint, so a resumed
run cannot hold a row for a step that will be taken again. A damaged checkpoint is noticed and counted, and the one
before it is used.

Nothing random has a state to save: every draw is hashed from (seed, step, question).
"""

import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from hpt.support.errors import RecordFault
from hpt.support.files import (
    check_manifest,
    read_json,
    read_parquet,
    write_json,
    write_manifest,
    write_parquet,
    writing,
)
from hpt.training.engine import PolicyEngine

Records = dict[str, pd.DataFrame]


@dataclass
class TrainingState:
    """Counters: steps done, updates applied (the policy's version), running baseline, damaged checkpoints met."""

    step: int = 0
    version: int = 0
    baseline: float = 0.0
    damaged_checkpoints: int = 0


def save_checkpoint(folder: Path, engine: PolicyEngine, state: TrainingState, records: Records, keep: int) -> None:
    """Write a checkpoint of step ``state.step`` below ``folder`` and remove all but the newest ``keep``.

    All ranks call it; rank 0 writes the records and renames.

    Raises:
        HptError: it cannot be written, the disk is full for example; the ones before are untouched.
    """
    name = f"step-{state.step:06d}"
    hidden, final = folder / f".{name}", folder / name
    with writing(final):
        if engine.rank == 0:
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir(parents=True)
        engine.barrier()
        engine.save_state(hidden)
        engine.barrier()
        if engine.rank == 0:
            for table, frame in records.items():
                write_parquet(hidden / f"{table}.parquet", frame)
            write_json(hidden / "state.json", asdict(state))
            write_manifest(hidden)
            shutil.rmtree(final, ignore_errors=True)
            hidden.rename(final)
            for old in checkpoints(folder)[keep:]:
                shutil.rmtree(old)
    engine.barrier()


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints below ``folder``, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def damaged_checkpoints(folder: Path) -> int:
    """Return how many damaged checkpoints were met below ``folder`` so far."""
    return len(list(folder.glob("damaged-*")))


def load_newest(folder: Path) -> tuple[Path | None, TrainingState, Records]:
    """Read state and records of the newest checkpoint that is whole; weights follow with ``engine.load_state(path)``.

    Returns:
        (path, state, records); path None when there is none to continue from. Damaged checkpoints on the way are
        renamed to ``damaged-...`` and counted in the state.
    """
    damaged = damaged_checkpoints(folder)
    for path in checkpoints(folder):
        try:
            check_manifest(path)
            state = TrainingState(**read_json(path / "state.json"))
            records = {file.stem: read_parquet(file) for file in sorted(path.glob("*.parquet"))}
        except (RecordFault, TypeError) as error:
            damaged += 1
            print(f"damaged checkpoint set aside, the one before it is used: {error}", file=sys.stderr, flush=True)
            path.rename(path.with_name(f"damaged-{damaged}-{path.name}"))  # numbered: a step may be damaged twice
            continue
        state.damaged_checkpoints = damaged
        return path, state, records
    return None, TrainingState(damaged_checkpoints=damaged), {}
