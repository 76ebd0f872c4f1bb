"""Two updates, a checkpoint, a third update, at every ZeRO stage: ``python -m tests.invariance.resharding FOLDER``.

Run on two ranks by `test_resharding`, which reads the checkpoints on one.
"""

import sys
from pathlib import Path

import torch

from hpt.config.settings import EngineSettings, OptimizerSettings
from hpt.training.engine import PolicyEngine, Updater
from tests.invariance import world

STAGES = (0, 1, 2, 3)
RATE = 0.01
#: Numbers of weights that two ranks cannot share evenly are among those of `world.tiny_model`: 23 x 16 is even, so the
#: vocabulary has one more word here.
VOCABULARY = world.VOCABULARY


def engine_at(stage: int) -> PolicyEngine:
    """The engine with a clip that is active, so that a wrong norm would show in the weights."""
    optimizer = OptimizerSettings(gradient_clip=0.5, skip_above_norm=0.0, learning_rate=RATE)
    return PolicyEngine(world.tiny_model(), EngineSettings(zero_stage=stage), optimizer)  # pyright: ignore[reportArgumentType]


def update(engine: PolicyEngine, applied: bool = True) -> torch.Tensor:
    """Take one update (or be skipped) on the mixed step and return all weights, flat, as they are for the sampler."""
    _, items, rows = step()
    outcome, _ = Updater(engine, rows).update(items, RATE)
    assert outcome is not None
    assert outcome.applied is applied
    return world.flat(engine.named_weights()).clone()


def step():
    """The mixed step of the invariance tests."""
    questions = world.make_questions("mixed")
    return questions, *world.weighted(questions, world.config_for("per_prompt"))


def main(folder: Path) -> None:
    """Write ``FOLDER/<stage>/deepspeed`` after two updates and ``FOLDER/<stage>.pt`` with the weights after three."""
    torch.set_num_threads(1)
    for stage in STAGES:
        engine = engine_at(stage)
        update(engine)
        before = update(engine)
        (folder / str(stage)).mkdir(exist_ok=True)
        engine.save_state(folder / str(stage))
        after = update(engine)
        if engine.rank == 0:
            torch.save({"before": before, "after": after}, folder / f"{stage}.pt")
        engine.barrier()
        engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
