"""What the benchmarks of the training step share: the mini world's weak base and a trainer on it."""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

from hpt.config.run_config import RunConfig
from hpt.data.sources import curve_sets
from hpt.evaluation.evaluate import validation_rows
from hpt.rewards.workers import Verifier
from hpt.runs.job import encoded_training
from hpt.runs.make import run_with_base
from hpt.runs.resolve import base_config, build_config
from hpt.training.engine import PolicyEngine
from hpt.training.policy import load_model
from hpt.training.ranks import LAUNCHED
from hpt.training.sampler import Sampler
from hpt.training.trainer import Trainer


def cpu_seconds() -> float:
    """Return the CPU seconds this process and those it started (the verifier's workers) have used so far.

    On a machine that does other things at the same time, whatever waits for its core would look slow by the clock.
    """
    children = (child.cpu_times() for child in psutil.Process().children(recursive=True))
    return time.process_time() + sum(own.user + own.system for own in children)


def mini_base(root: Path) -> str:
    """Return the model folder of the mini world's weak base below ``root``, training it where it is not there yet."""
    return str(run_with_base(base_config(build_config("hpt", scale="mini", policy="weak")), root).model)


def smollm_bases(folder: str) -> list[str]:
    """Return the base of scale ``smollm`` among the runs that the mini world's base ``folder`` is of, or nothing."""
    return [str(base) for base in sorted(Path(folder).parents[2].glob("smollm/pretrain-*/model"))[:1]]


_NO_DIAGNOSTICS = {"validation.every": 0, "diagnostics.gradient_cosine_every": 0}


def model_config(method: str, model: str, scale: str = "mini", **settings: Any) -> RunConfig:
    """Return a run of ``method`` at a scale from a model folder, without validations and diagnostics."""
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return build_config(method, scale=scale, settings={**_NO_DIAGNOSTICS, "policy.path": model, **dotted})


def make_trainer(config: RunConfig, tokenizer: Any, verifier: Verifier) -> Trainer:
    """Return a trainer with everything real, as `hpt.runs.job` builds it; one thread."""
    torch.set_num_threads(1)
    for name in LAUNCHED:  # accelerate, which TRL trains with, leaves some behind
        os.environ.pop(name, None)
    folder, data = str(config.policy.path), encoded_training(config, tokenizer)
    dtype = config.policy.dtype
    engine = PolicyEngine(load_model(folder, getattr(torch, dtype)), config.engine, config.optimizer, dtype)
    sampler = Sampler(folder, config.rollout, dtype)
    curves = curve_sets(config)
    return Trainer(
        config, data.problems, data.prompts, data.demonstrations, tokenizer, engine, sampler, verifier,
        validate=lambda step: validation_rows(sampler, verifier, tokenizer, curves, config, step, engine),
    )  # fmt: skip


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process of its own: one holds a single vLLM and DeepSpeed for long."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
