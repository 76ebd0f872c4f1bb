"""Base models of the small worlds, trained by the package so that nothing has to be downloaded: a run like any other.

A document is one demonstration under the SFT row whose advantages are the loss weights of its tokens (small or none on
the question, which is random and cannot be learnt), so base training goes down the same path to
a gradient as everything else. Matrices inside the blocks are updated by Muon, the rest by AdamW: with AdamW alone a
model of this size had learnt nothing after two million tokens.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from hpt.config.run_config import RunConfig
from hpt.data.models import RECORD, load_tokenizer, save_model_folder, weights_record
from hpt.data.prompts import encode_training
from hpt.data.world.gym import mixed
from hpt.data.world.lookup import LOOKUPS, LookupWorld
from hpt.data.world.lookup_corpus import (
    BaseRecipe,
    build_tokenizer,
    encoded_documents,
    learning_rate_factor,
    model_config,
)
from hpt.data.world.worlds import base_recipe
from hpt.methods.mixture import DEMONSTRATION, Part, Trajectory, WeightedTrajectory
from hpt.support.errors import TrainingFault
from hpt.support.files import read_json, write_json
from hpt.training.checkpoint import load_newest, save_checkpoint
from hpt.training.engine import PolicyEngine, Updater, join, sums_over_ranks, warmed_up
from hpt.training.guards import FaultWatch
from hpt.training.metrics import rows_of
from hpt.training.policy import load_model
from hpt.upge.estimator import ROWS


class Muon(torch.optim.Optimizer):
    """Muon in float32; PyTorch's rounds to bfloat16, which most processors emulate: eight times as slow.

    Jordan et al. 2024: the update is the nearest orthogonal matrix to the momentum, by five Newton-Schulz steps, scaled
    to the size of AdamW's (Liu et al. 2025).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update, with Nesterov momentum 0.95."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 0.05)
                update = orthogonal(parameter.grad.lerp(momentum, 0.95))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-0.2 * group["lr"] * max(parameter.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return nearly the orthogonal matrix nearest to ``matrix``: singular values between 0.7 and 1.2.

    Example:
        >>> made = orthogonal(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        >>> bool((made.diagonal() > 0.6).all() and (made.diagonal() < 1.3).all() and made[0, 1].abs() < 1e-6)
        True
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = found @ found.T
        found = 3.4445 * found + (-4.775 * gram + 2.0315 * gram @ gram) @ found
    return found if wide is matrix else found.T


class BaseOptimizer(torch.optim.Optimizer):
    """Muon on the matrices of the blocks, AdamW on embeddings, head, norms and biases, behind one interface."""

    def __init__(self, module: nn.Module, recipe: BaseRecipe) -> None:
        named = list(module.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and ".layers." in name]
        others = [p for name, p in named if not (p.ndim == 2 and ".layers." in name)]
        self.parts = [
            Muon(matrices, recipe.muon_learning_rate, recipe.weight_decay),
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
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()  # loading replaces the group dictionaries


#: Tokens that are not learnt, tokens that are, and the weight of each of the latter.
Document = tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray, Sequence[float]]


def weighted(documents: Sequence[Document]) -> list[WeightedTrajectory]:
    """Return the documents of one update, weighted so that the loss is the weighted mean over their tokens."""
    scale = 1.0 / sum(sum(weights) for *_, weights in documents)
    return [WeightedTrajectory(
        Trajectory("", 0, DEMONSTRATION, np.array(prompt, dtype=np.int32), np.array(tokens, dtype=np.int32),
                   np.zeros(len(tokens), dtype=np.float32), 1.0, -1),
        (Part(0, np.array(weights), scale),),
    ) for prompt, tokens, weights in documents]  # fmt: skip


def new_model(world: LookupWorld, recipe: BaseRecipe, folder: Path, seed: int) -> Path:
    """Write an untrained model and its tokenizer in Hugging Face format, so that it loads like any other."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(model_config(world, recipe), dtype=torch.float32).save_pretrained(folder)
    build_tokenizer(world).save_pretrained(folder)
    return folder


#: A base is made anew where the mean loss of its last updates is so many times the least that as many had before.
BROKEN, WINDOW, ATTEMPTS = 1.1, 50, 3


def broke(metrics: pd.DataFrame, recipe: BaseRecipe) -> bool:
    """Say whether training lost what it had learnt, as one base in 23 did (docs/world.md); whole documents alone count.

    Example:
        >>> recipe = base_recipe("lookups", "weak")
        >>> steady = pd.DataFrame({"trained/demonstration_nll": [1.0] * recipe.updates})
        >>> [broke(one, recipe) for one in (steady, pd.concat([steady, 2 * steady]), steady[:3])]
        [False, True, False]
    """
    losses = metrics["trained/demonstration_nll"].iloc[recipe.facts_updates :].rolling(WINDOW).mean()
    return bool((losses.iloc[-1:] > BROKEN * losses.min()).any())  # False where training was cut short


def pretrain(config: RunConfig, folder: Path, note: Callable[[int], None] = lambda step: None) -> pd.DataFrame:
    """Train a base of a world, write its model to ``folder/model``, and return its metrics.

    One that `broke` is trained again from another initialisation on other documents; ``attempt`` counts in its metrics.
    ``note`` is called now and then with the updates done.
    """
    world, recipe = LOOKUPS[config.data.world], base_recipe(config.data.world, config.policy.name)
    tokenizer, ranks = build_tokenizer(world), join()

    def documents(seed: int, update: int) -> list[Document]:
        drawn = encoded_documents(world, recipe, tokenizer, seed, update)
        return [([tokenizer.bos_token_id, *prompt], tokens, weights) for prompt, tokens, weights in drawn]

    for attempt in range(ATTEMPTS):
        seed = config.seed + attempt * 1_000_000
        place = folder / f"attempt{attempt}" if attempt else folder
        if ranks.rank == 0:
            new_model(world, recipe, place / "initial", seed)
        ranks.barrier()  # the others are not to read a model that is half there
        metrics = _train(
            config, place, load_model(place / "initial"), tokenizer, partial(documents, seed), folder / "model",
            lambda update: learning_rate_factor(recipe, update), note, lambda module: BaseOptimizer(module, recipe),
        )  # fmt: skip
        if not broke(metrics, recipe):
            return metrics.assign(attempt=attempt) if attempt else metrics
        print(f"the base lost what it had learnt; trained again from other weights ({attempt + 1})", flush=True)
    raise TrainingFault(f"{ATTEMPTS} bases of recipe {recipe.name} lost what they had learnt: lower its rates")


def teach_format(config: RunConfig, folder: Path, note: Callable[[int], None] = lambda step: None) -> pd.DataFrame:
    """Teach the model in ``folder/published`` how answers are written, and write it to ``folder/model``.

    By SFT on the demonstrations of questions that nothing else asks (split ``format`` of `hpt.data.world.gym`), in
    turn, so that every update sees all families and levels alike.
    """
    published, size = folder / "published", config.schedule.prompts_per_step
    tokenizer = load_tokenizer(published)
    data = encode_training(tokenizer, mixed("format"), config, needs_demonstrations=True)
    pairs = [(data.prompts[problem.id], data.demonstrations[problem.id]) for problem in data.problems]

    def documents(update: int) -> list[Document]:
        chosen = [pairs[(update * size + place) % len(pairs)] for place in range(size)]
        return [(prompt, tokens, [1.0] * len(tokens)) for prompt, tokens in chosen]

    ranks = join()
    ranks.barrier()  # rank 0 alone has fetched the model
    metrics = _train(config, folder, load_model(published), tokenizer, documents, folder / "model",
                     lambda update: warmed_up(config.optimizer, update), note)  # fmt: skip
    if ranks.rank == 0:
        record = read_json(published / RECORD) | {"format_updates": config.schedule.steps}
        write_json(folder / "model" / RECORD, record | weights_record(folder / "model"))
    return metrics


def _train(
    config: RunConfig,
    folder: Path,
    model: nn.Module,
    tokenizer: Any,
    documents: Callable[[int], Sequence[Document]],
    into: Path,
    learning_rate: Callable[[int], float],
    note: Callable[[int], None],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> pd.DataFrame:
    """Train on ``documents`` of every update, going on from the newest checkpoint of ``folder``; return metrics."""
    checkpoints = folder / "checkpoints"
    path, state, records = load_newest(checkpoints, join())
    engine = PolicyEngine(model, config.engine, config.optimizer, make_optimizer=make_optimizer)
    if path is not None:
        engine.load_state(path)
    updater = Updater(engine, [ROWS["sft"]])
    rows, faults = rows_of(records.get("metrics")), FaultWatch(config.optimizer, quiet=engine.rank != 0)
    while state.step < config.schedule.steps:
        started = time.perf_counter()
        batch, rate = weighted(documents(state.step)), learning_rate(state.step)
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
        if state.step % max(1, config.schedule.steps // 60) == 0:
            note(state.step)
    save_model_folder(engine, tokenizer, into)
    return pd.DataFrame(rows)
