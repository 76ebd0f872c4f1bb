"""One rank of the invariance tests: computes the gradient of every case at every ZeRO stage with the real engine.

Run as ``python -m tests.invariance.worker FOLDER`` with RANK and WORLD_SIZE set; rank 0 writes FOLDER/<stage>.npz.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpt.config.settings import EngineSettings, OptimizerSettings
from hpt.methods.mixture import QuestionBatch, WeightedTrajectory
from hpt.training.engine import PolicyEngine, Updater
from hpt.training.policy import zero_weight_filler
from hpt.upge.estimator import Row
from tests.invariance import world
from tests.invariance.cases import BROKEN, BROKEN_ON_TWO_RANKS, STAGES, Case, cases_of


class ShownGradient(torch.optim.Optimizer):
    """Puts the gradient where the weights are, and the weights back: exact at every ZeRO stage.

    DeepSpeed hands its optimiser the gradient it would really use, summed over micro-batches and ranks, in whatever
    pieces the stage keeps. A learning rate of 1 would show w - g instead, rounded to the size of w.
    """

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1.0})
        self.may_step: Any = lambda: True
        self.kept: dict[torch.Tensor, torch.Tensor] = {}
        self.showing = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Swap weights and gradient, or swap back."""
        assert self.may_step()
        for group in self.param_groups:
            for parameter in group["params"]:
                if self.showing:
                    self.kept[parameter] = parameter.clone()
                    parameter.copy_(parameter.grad)
                else:
                    parameter.copy_(self.kept[parameter])


@cache
def step_of(normalization: str, kind: str) -> tuple[list[QuestionBatch], list[WeightedTrajectory], list[Row]]:
    """Questions, weighted trajectories and rows of a step; the same for every layout and stage."""
    questions = world.make_questions(kind)
    return questions, *world.weighted(questions, world.config_for(normalization))


def gradient_of(case: Case, engine: PolicyEngine, optimizer: ShownGradient) -> dict[str, np.ndarray]:
    """One optimiser step of the package; afterwards the weights are what they were."""
    questions, items, rows = step_of(case.normalization, case.questions)
    if case.weightless:
        items = world.with_weightless(items, questions)
    budget = world.token_budget(items, case.split, engine.ranks, case.layout)
    shared = case.layout == "shared"
    chosen = {"micro_batch_tokens": budget, "layout": "padded" if shared else case.layout, "share_prompts": shared}
    engine.settings = engine.settings.model_copy(update=chosen)
    updater = Updater(engine, rows)
    micro_batches = updater.micro_batches(items)
    backward = engine.backward
    if case.broken == "mean over micro-batches":
        engine.backward = lambda loss: backward(loss / len(micro_batches))
    if case.broken == "mean over ranks":
        engine.backward = lambda loss: backward(loss / engine.ranks)
    optimizer.showing = True
    outcome, sums = updater.update(items, 1.0)
    engine.backward = backward
    shown = world.flat(engine.named_weights())
    optimizer.showing = False
    updater.update([zero_weight_filler()] * engine.ranks, 1.0)
    demonstrations_only = all(member.trajectory.is_demonstration for batch in micro_batches for member in batch.members)
    tokens = engine.gather([(sums["rollout_tokens"], sums["demonstration_tokens"])])
    return {
        "gradient": shown.numpy(),
        "norm": np.array(outcome.gradient_norm),
        "micro_batches": np.array(engine.gather([len(micro_batches)])),
        "demonstrations_only": np.array(engine.gather([demonstrations_only])),
        "tokens": np.array(tokens).sum(0),
    }


def main(folder: Path) -> None:
    """Compute every case at every stage."""
    torch.set_num_threads(1)
    for stage in STAGES:
        optimizers: list[ShownGradient] = []

        def make(module: torch.nn.Module, made: list[ShownGradient] = optimizers) -> ShownGradient:
            made.append(ShownGradient(module.parameters()))
            return made[0]

        settings = OptimizerSettings(gradient_clip=0.0, skip_above_norm=0.0)
        engine = PolicyEngine(world.tiny_model(), EngineSettings(zero_stage=stage), settings, make_optimizer=make)
        before = world.flat(engine.named_weights())
        cases = cases_of(stage) + BROKEN + (BROKEN_ON_TWO_RANKS if engine.ranks > 1 else [])
        shown: dict[str, np.ndarray] = {}
        for case in cases:
            found = gradient_of(case, engine, optimizers[0])
            shown |= {f"{case}/{name}": value for name, value in found.items()}
        assert torch.equal(world.flat(engine.named_weights()), before), "the weights did not come back"
        if engine.rank == 0:
            np.savez(folder / f"{stage}.npz", **shown)
        engine.barrier()
        engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
