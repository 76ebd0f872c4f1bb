"""Base models of the mini world, trained by the package so that nothing has to be downloaded: a run like any other.

A document is a question and an answer. It is one demonstration under the SFT row whose advantages are the loss weights
of its tokens (small on the question, which is random and cannot be learnt), so base training goes down the same path to
a gradient as everything else. Matrices inside the blocks are updated by Muon, the rest by AdamW: with AdamW alone a
model of this size had learnt nothing after two million tokens.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from hpt.config.run_config import RunConfig
from hpt.data.models import save_model_folder
from hpt.data.world.corpus import (
    BaseRecipe,
    Document,
    base_recipe,
    document_tokens,
    documents,
    learning_rate_factor,
    model_config,
)
from hpt.data.world.graded import GradedWorld, world_named
from hpt.data.world.tokenizer import build_tokenizer
from hpt.methods.mixture import DEMONSTRATION, Part, Trajectory, WeightedTrajectory
from hpt.training.checkpoint import load_newest, save_checkpoint
from hpt.training.engine import PolicyEngine, Updater, join, sums_over_ranks
from hpt.training.guards import FaultWatch
from hpt.training.metrics import rows_of
from hpt.training.policy import load_model
from hpt.upge.estimator import ROWS


class BaseOptimizer(torch.optim.Optimizer):
    """Muon on the matrices of the blocks, AdamW on embeddings, head, norms and biases, behind one interface.

    Jordan et al. 2024, with the update scaled to AdamW's size (Liu et al. 2025, "Muon is scalable").
    """

    def __init__(self, module: nn.Module, recipe: BaseRecipe) -> None:
        named = list(module.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name]
        others = [p for name, p in named if not (p.ndim == 2 and ".layers." in name)]
        self.parts = [
            torch.optim.Muon(
                matrices, lr=recipe.muon_learning_rate, weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=recipe.adamw_learning_rate, betas=(0.9, 0.99), weight_decay=0.0),
        ]  # fmt: skip
        for part, scale in zip(self.parts, (recipe.muon_learning_rate, recipe.adamw_learning_rate), strict=True):
            part.param_groups[0]["lr_scale"] = scale
        super().__init__([p for _, p in named], {})
        self.may_step: Callable[[], bool] = lambda: True
        self._join()

    def _join(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update, unless the guard says no."""
        if self.may_step():
            for part in self.parts:
                part.step()

    def state_dict(self) -> dict[str, Any]:
        """State of both optimisers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both optimisers."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()  # loading replaces the group dictionaries


def as_trajectory(document: Document, tokenizer: Any, question_weight: float) -> tuple[Trajectory, np.ndarray]:
    """Return a document as (trajectory, token weights [len]): a begin token, then everything is to be predicted."""
    tokens, weights = document_tokens(document, tokenizer, question_weight)
    prompt = np.array([tokenizer.bos_token_id], dtype=np.int32)
    response, zeros = np.array(tokens, dtype=np.int32), np.zeros(len(tokens), dtype=np.float32)
    return Trajectory("", 0, DEMONSTRATION, prompt, response, zeros, 1.0, -1), np.array(weights)


def pretraining_batch(
    world: GradedWorld, recipe: BaseRecipe, tokenizer: Any, seed: int, update: int
) -> list[WeightedTrajectory]:
    """Return the documents of one update, weighted so that the loss is the weighted mean over their tokens."""
    weighed = [as_trajectory(d, tokenizer, recipe.question_weight) for d in documents(world, recipe, seed, update)]
    scale = 1.0 / sum(float(weights.sum()) for _, weights in weighed)
    return [WeightedTrajectory(trajectory, (Part(0, weights, scale),)) for trajectory, weights in weighed]


def new_model(world: GradedWorld, recipe: BaseRecipe, folder: Path, seed: int) -> Path:
    """Write an untrained model and its tokenizer in Hugging Face format, so that it loads like any other."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(model_config(world, recipe), dtype=torch.float32).save_pretrained(folder)
    build_tokenizer(world).save_pretrained(folder)
    return folder


def pretrain(config: RunConfig, folder: Path, note: Callable[[int], None] = lambda step: None) -> pd.DataFrame:
    """Train a base, write its model to ``folder/model``, and return its metrics; continues from the newest checkpoint.

    Args:
        config: of a base's run.
        folder: of the run.
        note: called now and then with the updates done.
    """
    world, recipe = world_named(config.data.world), base_recipe(config.data.world, config.policy.name)
    tokenizer = build_tokenizer(world)
    checkpoints = folder / "checkpoints"
    ranks, initial = join(), folder / "initial"
    path, state, records = load_newest(checkpoints, ranks)
    if ranks.rank == 0:
        new_model(world, recipe, initial, config.seed)
    ranks.barrier()  # the others are not to read a model that is half there
    engine = PolicyEngine(
        load_model(initial),
        config.engine,
        config.optimizer,
        make_optimizer=lambda module: BaseOptimizer(module, recipe),
    )
    if path is not None:
        engine.load_state(path)
    updater = Updater(engine, [ROWS["sft"]])
    rows, faults = rows_of(records.get("metrics")), FaultWatch(config.optimizer, quiet=engine.rank != 0)
    while state.step < config.schedule.steps:
        started = time.perf_counter()
        batch = pretraining_batch(world, recipe, tokenizer, config.seed, state.step)
        rate = learning_rate_factor(recipe, state.step)
        outcome, sums = updater.update(batch, rate)
        assert outcome is not None
        sums = sums_over_ranks(engine, sums)
        faults.see_update(state.step, outcome)
        rows.append(
            {
                "step": state.step,
                "trained/demonstrations": float(len(batch)),
                "trained/demonstration_tokens": sums["demonstration_tokens"],
                "trained/demonstration_nll": sums["demonstration_nll"] / sums["demonstration_tokens"],
                "loss/total": sums["loss"],
                "optim/gradient_norm": outcome.gradient_norm,
                "optim/skipped_updates": float(not outcome.applied),
                "optim/learning_rate": rate,
                "time/step_s": time.perf_counter() - started,
            }
        )
        state.step += 1
        if state.step % config.checkpoint.every == 0 or state.step == config.schedule.steps:
            save_checkpoint(checkpoints, engine, state, {"metrics": pd.DataFrame(rows)}, config.checkpoint.keep)
        if state.step % 20 == 0:
            note(state.step)
    save_model_folder(engine, tokenizer, folder / "model")
    return pd.DataFrame(rows)
