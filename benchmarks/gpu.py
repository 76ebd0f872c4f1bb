"""Speed and memory of training, weight transfer and sampling on one GPU, with random weights of a real shape.

    python -m benchmarks.gpu --out gpu.json

The shape is Qwen2.5-1.5B's, the sequences have 4,096 to 8,192 tokens. To aim at on one H200: 40 % of the peak in
training, no [tokens, vocabulary] tensor, a transfer under 1 s, and in the loop 90 % of what vLLM samples alone. The
result holds the utilisations that `hpt plan --utilisation` takes, and where it comes from.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpt.config.settings import EngineSettings, OptimizerSettings, RolloutSettings
from hpt.data.world.tokenizer import character_tokenizer
from hpt.methods.mixture import DEMONSTRATION, Part, Trajectory, WeightedTrajectory
from hpt.runs.folder import provenance
from hpt.runs.plan import SHAPES, ModelShape
from hpt.support.files import write_json
from hpt.training.engine import PolicyEngine, Updater
from hpt.training.policy import attention_and_layout, load_model
from hpt.training.sampler import Sampler, SamplingRequest
from hpt.upge import likelihood
from hpt.upge.estimator import ROWS

PROMPT_TOKENS = 128
#: 4, to come as near to the limits as a benchmark needs to, and every one of another length.
LENGTHS = (0.5, 0.65, 0.8, 1.0)


def write_model(shape: ModelShape, positions: int, folder: Path, dtype: torch.dtype) -> None:
    """Write a Qwen2 of ``shape`` with random weights; the tokenizer is a small one: nothing here reads text."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads,
        tie_word_embeddings=shape.tied, max_position_embeddings=positions,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(dtype).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)


def trajectories(count: int, longest: int, vocabulary: int) -> list[WeightedTrajectory]:
    """Return demonstrations of random tokens, prompt and response together half to all of ``longest``."""
    random = np.random.default_rng(0)
    made = []
    for index in range(count):
        length = int(longest * LENGTHS[index % len(LENGTHS)]) - PROMPT_TOKENS
        prompt, response = (random.integers(vocabulary, size=n).astype(np.int32) for n in (PROMPT_TOKENS, length))
        zeros = np.zeros(length, dtype=np.float32)
        trajectory = Trajectory(f"b{index}", index, DEMONSTRATION, prompt, response, zeros, 1.0, -1)
        made.append(WeightedTrajectory(trajectory, (Part(0, np.ones(length), 1.0 / (count * length)),)))
    return made


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the median seconds of ``work`` after a first call that is not counted, and what it returned last."""
    seconds, result = [], work()
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        result = work()
        _wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib(work: Callable[[], Any]) -> float | None:
    """Return the most GPU memory ``work`` has in use at once, GiB; None without a GPU or when it does not fit."""
    if not torch.cuda.is_available():
        work()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        work()
    except torch.cuda.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated() / 2**30


def measure_training(
    engine: PolicyEngine, shape: ModelShape, items: Sequence[WeightedTrajectory], peak_tflops: float, repeats: int
) -> dict[str, Any]:
    """Return tokens/s, utilisation (the model's FLOPs, 3 forwards, nothing computed twice) and peak memory."""
    updater = Updater(engine, [ROWS["sft"]])

    def update() -> None:
        updater.update(items, 1e-6)

    seconds, _ = timed(update, repeats)
    tokens = sum(item.trajectory.total_tokens for item in items)
    flops = 3 * sum(shape.forward_flops(item.trajectory.total_tokens, item.trajectory.total_tokens) for item in items)
    chunked = peak_gib(update)
    elements = likelihood.CHUNK_ELEMENTS
    likelihood.CHUNK_ELEMENTS = tokens * shape.vocabulary  # all logits of a micro-batch at once
    try:
        whole = peak_gib(update)
    finally:
        likelihood.CHUNK_ELEMENTS = elements
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "utilisation": flops / seconds / (peak_tflops * 1e12),
        "peak_gib_chunked_head": chunked,
        "peak_gib_whole_logits": whole,
        "chunk_logits_mib": likelihood.CHUNK_ELEMENTS * 4 / 2**20,
    }


def measure_sampling(sampler: Sampler, count: int, response: int, vocabulary: int, repeats: int) -> dict[str, Any]:
    """Return tokens/s of ``count`` responses of one prompt each, and how many tokens they had."""
    random = np.random.default_rng(1)
    prompts = [random.integers(vocabulary, size=PROMPT_TOKENS).astype(np.int32) for _ in range(count)]
    requests = [SamplingRequest(prompt, seed, 1, 1.0, 1.0, response) for seed, prompt in enumerate(prompts)]
    seconds, batches = timed(lambda: sampler.sample(requests), repeats)
    tokens = sum(len(sample.tokens) for batch in batches for sample in batch)
    return {"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds}


def measure(
    shape: ModelShape, longest: int, peak_tflops: float, *, rows: int = 8, answers: int = 64, repeats: int = 3
) -> dict[str, Any]:
    """Measure everything, sampling alone first, then training, transfer, and sampling beside the trainer.

    Args:
        shape: of the model.
        longest: tokens of the longest sequence.
        peak_tflops: of this GPU in bfloat16; for utilisations.
        rows: sequences of a training step.
        answers: responses sampled at once.
        repeats: timed calls of each part.
    """
    on_gpu = torch.cuda.is_available()
    name = "bfloat16" if on_gpu else "float32"
    dtype = getattr(torch, name)
    attention, layout = attention_and_layout("auto", "auto", name)
    response = longest - PROMPT_TOKENS
    with tempfile.TemporaryDirectory(prefix="hpt-gpu-") as scratch:
        folder = Path(scratch) / "model"
        write_model(shape, 2 * longest, folder, dtype)
        settings = EngineSettings(
            zero_stage=1, micro_batch_tokens=2 * longest, attention=attention, layout=layout,  # pyright: ignore[reportArgumentType]
            gradient_checkpointing=True,
        )  # fmt: skip
        engine = PolicyEngine(load_model(folder, dtype, attention), settings, OptimizerSettings(), name)
        training = measure_training(engine, shape, trajectories(rows, longest, shape.vocabulary), peak_tflops, repeats)
        sampling = RolloutSettings(
            max_response_tokens=response, max_model_tokens=longest, gpu_memory_share=0.4, max_parallel_sequences=answers
        )
        sampler = Sampler(str(folder), sampling, name)
        alone = measure_sampling(sampler, answers, response, shape.vocabulary, repeats)
        version = iter(range(1, 1_000_000))
        transfer_s, _ = timed(lambda: sampler.load_weights(engine.named_weights(), next(version)), repeats)
        updater, items = Updater(engine, [ROWS["sft"]]), trajectories(rows, longest, shape.vocabulary)
        updater.update(items, 1e-6)
        sampler.load_weights(engine.named_weights(), next(version))
        inside = measure_sampling(sampler, answers, response, shape.vocabulary, repeats)
    sampling_flops = shape.forward_flops(inside["tokens"], longest / 2) / inside["seconds"]
    return {
        "shape": vars(shape),
        "longest": longest,
        "dtype": name,
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "peak_tflops": peak_tflops,
        "training": training,
        "transfer_s": transfer_s,
        "sampling_alone": alone,
        "sampling_in_loop": inside,
        "in_loop_share": inside["tokens_per_s"] / alone["tokens_per_s"],
        "utilisation": {"training": training["utilisation"], "sampling": sampling_flops / (peak_tflops * 1e12)},
        "provenance": provenance(),
    }


def main() -> None:
    """Measure the shape of Qwen2.5-1.5B and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=8_192, help="tokens of the longest sequence")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of this GPU in bfloat16, dense")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; install requirements/gpu.lock on a machine with one")
    result = measure(SHAPES["weak"], options.longest, options.peak_tflops)
    write_json(options.out, result)
    training, share = result["training"], result["utilisation"]["training"]
    print(f"training {training['tokens_per_s']:,.0f} tokens/s, {share:.0%} of the peak; "
          f"transfer {result['transfer_s']:.2f} s; sampling {result['in_loop_share']:.0%} of vLLM alone")  # fmt: skip
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
