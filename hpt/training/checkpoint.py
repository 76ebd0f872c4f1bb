"""Everything needed to continue as if nothing had happened: weights, optimiser, counters and the records so far.

A checkpoint is written into a hidden folder and renamed when complete, with the SHA-256 of each file beside it; a
process killed at any moment leaves the previous one in place. The records live *inside* the checkpoint, so a resumed
run cannot hold a row for a step that will be taken again. A damaged checkpoint is noticed and counted, and the one
before it is used.

Every rank hashes and reads the files it wrote itself, perhaps on another machine; rank 0 gathers names and hashes, and
lists no files of others, which the cache of a network file system may not show yet.

Nothing random has a state to save: every draw is hashed from (seed, step, question).
"""

import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from hpt.support.errors import RecordFault
from hpt.support.files import (
    MANIFEST,
    check_manifest,
    read_json,
    read_parquet,
    sha256_file,
    write_json,
    write_parquet,
    writing,
)
from hpt.support.process import processor
from hpt.training.engine import PolicyEngine
from hpt.training.ranks import Ranks

Records = dict[str, pd.DataFrame]


@dataclass
class TrainingState:
    """Counters: steps done, updates applied (the policy's version), running baseline, damaged checkpoints met.

    ``processors``: the kinds of processor that the steps were computed on, in order; another kind rounds otherwise.
    ``dtype``: what the weights were computed in, where ``policy.dtype = auto`` left it to the machine.
    """

    step: int = 0
    version: int = 0
    baseline: float = 0.0
    damaged_checkpoints: int = 0
    processors: list[str] = field(default_factory=list, compare=False)
    dtype: str = field(default="", compare=False)


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
        own = engine.save_state(hidden)
        if engine.rank == 0:
            for table, frame in records.items():
                write_parquet(hidden / f"{table}.parquet", frame)
            write_json(hidden / "state.json", asdict(state))
            own += [hidden / "state.json", *(hidden / f"{table}.parquet" for table in records)]
        hashes = engine.gather([(str(path.relative_to(hidden)), sha256_file(path)) for path in own])
        if engine.rank == 0:
            write_json(hidden / MANIFEST, dict(hashes))
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


def load_newest(folder: Path, ranks: Ranks | None = None) -> tuple[Path | None, TrainingState, Records]:
    """Read state and records of the newest checkpoint that is whole; weights follow with ``engine.load_state(path)``.

    All ranks call it and have the same answer: (path, state, records), path None when there is none to continue from.
    Each compares its share of the files with the manifest; rank 0 renames damaged checkpoints to ``damaged-...``,
    which the state counts.
    """
    ranks = ranks or Ranks()
    here = " and ".join(sorted(set(ranks.gather([processor()]))))
    damaged = damaged_checkpoints(folder)
    for path in ranks.gather(checkpoints(folder) if ranks.rank == 0 else []):
        content, wrong = list[tuple[TrainingState, Records]](), list[str]()
        try:
            check_manifest(path, ranks.share)
            if ranks.rank == 0:
                records = {file.stem: read_parquet(file) for file in sorted(path.glob("*.parquet"))}
                content = [(TrainingState(**read_json(path / "state.json")), records)]
        except (RecordFault, TypeError) as error:
            wrong = [str(error)]
        content, wrong = ranks.gather(content), ranks.gather(wrong)
        if not wrong:
            ((state, records),) = content
            state.damaged_checkpoints = damaged
            state.processors += [here] if state.processors[-1:] != [here] else []
            return path, state, records
        damaged += 1
        if ranks.rank == 0:
            print(f"damaged checkpoint set aside, the one before it is used: {wrong[0]}", file=sys.stderr, flush=True)
            path.rename(path.with_name(f"damaged-{damaged}-{path.name}"))  # numbered: a step may be damaged twice
    return None, TrainingState(damaged_checkpoints=damaged, processors=[here]), {}
