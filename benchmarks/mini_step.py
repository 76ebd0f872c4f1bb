"""The mini training step against its two unavoidable parts, in one process: sampling alone, forward and backward alone.

    python -m benchmarks mini_step --steps 12

The bound to hold is 1.12: verification, gate, weights of the loss, optimiser, weight transfer and records may cost an
eighth of what cannot be avoided. Both parts work on the very tokens of the step: the sampler draws the same requests
from the same weights, and a copy of the model runs the same micro-batches, a group's prompt once, with a plain
cross-entropy on the logits of the responses alone.

Compared are CPU seconds of one thread, those of the verifier's process included.
"""

import statistics
from typing import Any

from torch import Tensor, nn

from benchmarks.recording import Bound, Result
from benchmarks.world import cpu_seconds, make_trainer, model_config
from hpt.rewards.workers import Verifier
from hpt.training.policy import MicroBatch, PolicyModule, forward_micro_batch, load_model
from hpt.training.sampler import NO_WEIGHTS, SamplingRequest

METHODS = ("hpt", "grpo")
WHY = (
    "The mini step: what is neither sampling nor the bare forward and backward is log-probs and entropies, the "
    "verifier, weights of the loss, optimiser and weight transfer, each a few milliseconds (`where_time_goes`)."
)
WARM_UP = 2


class PlainHead(nn.Module):
    """An output head that returns the mean cross-entropy of PyTorch, where the package's returns log-probs."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias

    def forward(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, None]:
        """Return (the loss of targets [T] given hidden [T, H], nothing)."""
        logits = nn.functional.linear(hidden, self.weight, self.bias) / temperature
        return nn.functional.cross_entropy(logits, targets), None


def bare_model(folder: str) -> PolicyModule:
    """Return the model of a folder with a `PlainHead`."""
    bare = PolicyModule(load_model(folder))
    bare.model.set_output_embeddings(PlainHead(bare.model.get_output_embeddings()))
    return bare


def bare_forward_backward(model: PolicyModule, batches: list[MicroBatch], layout: str) -> float:
    """Return the CPU seconds a plain forward and backward over these micro-batches takes."""
    start = cpu_seconds()
    for batch in batches:
        forward_micro_batch(model, batch, layout, 1.0)[0].backward()
    return cpu_seconds() - start


def measure(method: str, folder: str, steps: int) -> list[tuple[float, float, float]]:
    """Return (whole step, sampling, forward and backward) in CPU seconds, for every step after the warm-up."""
    from transformers import AutoTokenizer

    config = model_config(method, folder)
    tokenizer, bare = AutoTokenizer.from_pretrained(folder, local_files_only=True), bare_model(folder)
    seen: list[list[SamplingRequest]] = []
    batches: list[MicroBatch] = []
    found = []
    with Verifier() as verifier:
        trainer = make_trainer(config, tokenizer, verifier)
        sampler, engine = trainer.sampler, trainer.engine
        draw, split, take = sampler.sample, trainer.updater.micro_batches, trainer.update
        sampler.sample = lambda requests: (seen.append(list(requests)), draw(requests))[1]  # type: ignore[method-assign]
        trained = False  # the check of log-probs splits rollouts, too

        def seen_split(items: Any) -> Any:
            own = split(items)
            batches.extend(own if trained else [])
            return own

        def seen_update(*arguments: Any) -> Any:
            nonlocal trained
            trained = True
            try:
                return take(*arguments)
            finally:
                trained = False

        trainer.updater.micro_batches = seen_split  # type: ignore[method-assign]
        trainer.update = seen_update  # type: ignore[method-assign]
        for step in range(WARM_UP + steps):
            seen.clear()
            batches.clear()
            before = {name: weight.clone() for name, weight in engine.named_weights()}
            start = cpu_seconds()
            trainer.train(step + 1)
            whole = cpu_seconds() - start
            sampler.load_weights(before.items(), NO_WEIGHTS)  # not the trainer's any more, which move again below
            start = cpu_seconds()
            draw(seen[0])
            sampling = cpu_seconds() - start
            training = bare_forward_backward(bare, batches, engine.layout)
            trainer.move_weights()
            if step >= WARM_UP:
                found.append((whole, sampling, training))
            print(f"{method} {step}: {whole:.2f} s; sampling {sampling:.2f} s + training {training:.2f} s", flush=True)
        trainer.engine.close()
    return found


def run(folder: str, steps: int) -> Result:
    """Measure every method and compare the sums over all steps with the bound."""
    bounds, rows = [], []
    for method in METHODS:
        found = measure(method, folder, steps)
        whole, sampling, training = (sum(column) for column in zip(*found, strict=True))
        ratio = whole / (sampling + training)
        middle = statistics.median(own[0] / (own[1] + own[2]) for own in found)
        bounds.append(Bound(f"mini step of {method} over its unavoidable parts", ratio, "at most", 1.12, "x", WHY))
        rows.append((method, steps, whole / steps, sampling / steps, training / steps, ratio, middle))
    heads = (
        "method",
        "steps",
        "step, s",
        "sampling alone, s",
        "forward and backward alone, s",
        "ratio",
        "median ratio",
    )
    how = (
        "A training step of the mini world, all but writing files, against vLLM drawing the same tokens from the same "
        "weights and a plain forward and backward of the same micro-batches (a group's prompt once, logits of the "
        "responses alone, PyTorch's cross-entropy), in the same process. CPU seconds of one thread, those of the "
        "verifier's process included. The first steps of a run."
    )
    return Result("mini_step", how, tuple(bounds), heads, tuple(rows))
