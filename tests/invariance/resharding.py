"""Two updates, a checkpoint, a third update, at every ZeRO stage: ``python -m tests.invariance.resharding FOLDER``.

Run on two ranks by `test_resharding`, which reads the checkpoints on one; here they are read on two.
"""

import json
import sys
from pathlib import Path
from typing import Any

import safetensors
import torch

from hpt.config.settings import EngineSettings, OptimizerSettings
from hpt.training.engine import PolicyEngine, Updater
from tests.invariance import world

STAGES = (0, 1, 2, 3)
RATE = 0.01


def engine_at(stage: int) -> PolicyEngine:
    """The engine with a clip that is active, so that a wrong norm would show in the weights."""
    optimizer = OptimizerSettings(gradient_clip=0.5, skip_above_norm=0.0, learning_rate=RATE)
    return PolicyEngine(world.tiny_model(), EngineSettings(zero_stage=stage), optimizer)


def update(engine: PolicyEngine, applied: bool = True) -> torch.Tensor:
    """Take one update (or be skipped) on the mixed step and return all weights, flat, as they are for the sampler."""
    items, rows = world.weighted(world.make_questions(), world.config_for("per_prompt"))
    outcome, _ = Updater(engine, rows).update(items, RATE)
    assert outcome.applied is applied
    return world.flat(engine.named_weights()).clone()


class Noting:
    """An open file of tensors; ``read`` has the names of those a tensor was read from."""

    read: set[str] = set()
    open = safetensors.safe_open

    def __init__(self, file: Path, framework: str) -> None:
        self.name, self.file = file.name, Noting.open(file, framework)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def get_tensor(self, key: str) -> torch.Tensor:
        self.read.add(self.name)
        return self.file.get_tensor(key)


def main(folder: Path) -> None:
    """Write ``FOLDER/<stage>/deepspeed`` after two updates and ``FOLDER/<stage>.pt`` with the weights after three.

    Those of the third update are there twice, of an engine that went on and of one that read the checkpoint; which
    files a rank read for it is in ``FOLDER/<stage>-<rank>.json``.
    """
    torch.set_num_threads(1)
    safetensors.safe_open = Noting
    for stage in STAGES:
        engine = engine_at(stage)
        update(engine)
        before = update(engine)
        (folder / str(stage)).mkdir(exist_ok=True)
        engine.save_state(folder / str(stage))
        after = update(engine)
        engine.barrier()
        again = engine_at(stage)
        Noting.read = set()
        again.load_state(folder / str(stage))
        (folder / f"{stage}-{engine.rank}.json").write_text(json.dumps(sorted(Noting.read)))
        read = update(again)
        if engine.rank == 0:
            torch.save({"before": before, "after": after, "read": read}, folder / f"{stage}.pt")
        engine.barrier()
        engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
