"""The mini training step against its two unavoidable parts, in one process: sampling alone, forward and backward alone.

    python -m benchmarks.mini_step --steps 8

The bound to hold is 1.25: verification, gate, weights of the loss, optimiser, weight transfer and records may cost a
quarter of what cannot be avoided. Both parts work on the very tokens of the step: the sampler draws the same requests
from the same weights, and a bare copy of the model runs the same micro-batches with a plain cross-entropy.
"""

import argparse
import copy
import glob
import time
from pathlib import Path

import torch

from hpt.batch import MicroBatch
from hpt.config import RunConfig
from hpt.data.sources import curve_sets, training_problems_of
from hpt.engine import PolicyEngine
from hpt.errors import ConfigError
from hpt.policy import load_model
from hpt.rewards import Verifier
from hpt.rollout import Sampler, SamplingRequest
from hpt.scales import build_config
from hpt.tasks.prompts import encode_training
from hpt.trainer import Trainer


def bare_forward_backward(model: torch.nn.Module, batches: list[MicroBatch]) -> float:
    """Return the seconds a plain forward and backward over these micro-batches takes."""
    start = time.perf_counter()
    for batch in batches:
        logits = model(input_ids=batch.input_ids, use_cache=False).logits.flatten(0, 1)
        torch.nn.functional.cross_entropy(logits[batch.predictor], batch.targets).backward()
    return time.perf_counter() - start


def newest_base() -> str:
    """Return the folder of the mini world's base.

    Raises:
        ConfigError: it is not trained yet.
    """
    found = sorted(glob.glob("runs/mini/pretrain-weak-*/model"))
    if not found:
        raise ConfigError("--model", None, "a model folder", "run `hpt train --method pretrain --scale mini` first")
    return found[-1]


def measure(config: RunConfig, folder: str, steps: int) -> None:
    """Print step, parts and ratio for every step, and the median ratio after two warm-up steps."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    data = encode_training(tokenizer, training_problems_of(config), config, True)
    engine = PolicyEngine(load_model(folder), config.engine, config.optimizer)
    sampler, bare, ratios = Sampler(folder, config.rollout), load_model(folder), []
    seen: list[list[SamplingRequest]] = []
    batches: list[MicroBatch] = []
    with Verifier() as verifier:
        trainer = Trainer(
            config,
            data.problems,
            data.prompts,
            data.demonstrations,
            curve_sets(config),
            tokenizer,
            engine,
            sampler,
            verifier,
        )
        draw, split = sampler.sample, trainer.updater.micro_batches
        sampler.sample = lambda requests: (seen.append(list(requests)), draw(requests))[1]  # type: ignore[method-assign]
        trainer.updater.micro_batches = lambda items: (batches.extend(own := split(items)), own)[1]  # type: ignore[method-assign]
        for step in range(steps):
            seen.clear(), batches.clear()
            before = {name: weight.clone() for name, weight in engine.named_weights()}
            trainer.train(step + 1)
            whole = trainer.timings["time/step_s"]
            sampler.load_weights(before.items(), trainer.state.version)
            start = time.perf_counter()
            draw(seen[0])
            sampling = time.perf_counter() - start
            training = bare_forward_backward(bare, copy.copy(batches))
            trainer.move_weights()
            ratios.append(whole / (sampling + training))
            print(
                f"step {step}: {whole:.2f} s; sampling {sampling:.2f} s + training {training:.2f} s; {ratios[-1]:.2f}"
            )
    print(f"median ratio after two warm-up steps: {sorted(ratios[2:])[len(ratios[2:]) // 2]:.2f} (bound 1.25)")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--method", default="hpt")
    parser.add_argument("--model", type=Path, default=None, help="default: the mini world's base under runs/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = str(arguments.model or newest_base())
    settings = {"validation.every": 0, "policy.path": folder}
    measure(build_config(arguments.method, scale="mini", settings=settings), folder, arguments.steps)


if __name__ == "__main__":
    main()
