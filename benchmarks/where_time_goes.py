"""Where the seconds of a mini training step go, part by part, those of vLLM among them.

    python -m benchmarks where_time_goes --steps 8

The functions of a part are wrapped by a clock that stops while another part is at work, so that the parts add up; what
no part claims is "everything else". CPU seconds of this process's one thread; the verifier's workers are counted where
this process waits for them, by their own clock.
"""

import time
from collections import defaultdict
from importlib import import_module
from typing import Any

import pandas as pd

from benchmarks.recording import Bound, Result
from benchmarks.world import cpu_seconds, in_a_process, make_trainer, model_config, smollm_bases
from hpt.config.run_config import flat
from hpt.config.scales import BFLOAT16
from hpt.rewards.workers import Verifier

METHODS, WARM_UP = ("hpt", "grpo", "sft"), 2
SMOLLM_STEPS, SMOLLM_WARM_UP = 2, 1
#: Functions, as module:Class.name, by the part of a step they are.
PARTS = {
    "sampling: requests": ("vllm.v1.engine.llm_engine:LLMEngine.add_request",),
    "sampling: scheduler": (
        "vllm.v1.core.sched.scheduler:Scheduler.schedule",
        "vllm.v1.core.sched.scheduler:Scheduler.update_from_output",
    ),
    "sampling: input preparation": tuple(
        f"vllm.v1.worker.gpu_model_runner:GPUModelRunner.{name}"
        for name in ("_update_states", "_prepare_inputs", "_build_attention_metadata", "_preprocess")
    ),
    "sampling: model": (
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner._model_forward",
        "vllm.model_executor.models.qwen2:Qwen2ForCausalLM.compute_logits",
        "vllm.model_executor.models.llama:LlamaForCausalLM.compute_logits",
    ),
    "sampling: tokens and their log-probs": (
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner._sample",
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner._bookkeeping_sync",
    ),
    "sampling: output processing": ("vllm.v1.engine.output_processor:OutputProcessor.process_outputs",),
    "sampling: the rest of vLLM": ("hpt.training.sampler:Sampler.sample",),
    "verifier": ("hpt.training.trainer:Trainer.verify",),
    "advantages and weights": ("hpt.training.trainer:Trainer.weigh_questions", "hpt.training.trainer:assemble"),
    "log-prob check": ("hpt.training.trainer:check_untrained",),
    "log-probs taken again (bfloat16)": ("hpt.training.trainer:with_trainer_logprobs",),
    "training: micro-batches": ("hpt.training.engine:Updater.micro_batches",),
    "training: forward": ("hpt.training.engine:Updater.forward",),
    "training: loss": ("hpt.training.engine:micro_batch_loss",),
    "training: backward": ("hpt.training.engine:PolicyEngine.backward",),
    "training: optimiser": ("hpt.training.engine:PolicyEngine.step",),
    "weight transfer": ("hpt.training.trainer:Trainer.move_weights",),
    "records": ("hpt.training.trainer:Trainer.record",),
}
REST = "everything else"
#: Whose forward passes are theirs, not training's.
WITH_ALL_INSIDE = ("log-prob check", "log-probs taken again (bfloat16)")
TOKENS = {"tokens sampled": "rollout/tokens", "tokens forwarded in training": "trained/forwarded_tokens"}
BFLOAT16_SETTINGS = {name.replace(".", "__"): value for name, value in flat(BFLOAT16).items()}


class Clock:
    """CPU seconds by part; of parts inside each other the inner one's clock runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.active, self.since = [REST], time.process_time()

    def turn(self) -> None:
        """Book the time since the last turn on the part at work."""
        now = time.process_time()
        self.seconds[self.active[-1]] += now - self.since
        self.since = now

    def wrap(self, part: str, place: str) -> None:
        """Have a function start the clock of its part."""
        module, _, path = place.partition(":")
        owner: Any = import_module(module)
        *classes, name = path.split(".")
        for one in classes:
            owner = getattr(owner, one)
        function = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if self.active[-1] in WITH_ALL_INSIDE:
                return function(*arguments, **named)
            self.turn()
            self.active.append(part)
            before = cpu_seconds() if part == "verifier" else 0.0
            try:
                return function(*arguments, **named)
            finally:
                if part == "verifier":  # its workers' time, which this process only waits for
                    self.seconds[part] += cpu_seconds() - before - (time.process_time() - self.since)
                self.turn()
                self.active.pop()

        setattr(owner, name, call)


def measure(method: str, folder: str, steps: int, scale: str = "mini", dtype: str = "float32") -> dict[str, float]:
    """Return CPU seconds per step by part."""
    from transformers import AutoTokenizer

    clock = Clock()
    for part, places in PARTS.items():
        for place in places:
            clock.wrap(part, place)
    config = model_config(
        method, folder, scale, policy__dtype=dtype, **(BFLOAT16_SETTINGS if dtype == "bfloat16" else {})
    )
    warm_up = WARM_UP if scale == "mini" else SMOLLM_WARM_UP
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with Verifier() as verifier:
        trainer = make_trainer(config, tokenizer, verifier)
        trainer.train(warm_up)
        clock.turn()
        clock.seconds.clear()
        trainer.train(warm_up + steps)
        clock.turn()
        found = {part: seconds / steps for part, seconds in clock.seconds.items()}
        rows = pd.DataFrame(trainer.rows["metrics"][-steps:])
        found |= {name: float(rows[column].mean()) for name, column in TOKENS.items() if column in rows}
        trainer.engine.close()
    return found


def run(folder: str, steps: int) -> Result:
    """Measure every method, and HPT on SmolLM2-135M in both types where its base is among the runs."""
    found = {method: in_a_process(measure, method, folder, steps) for method in METHODS}
    for base in smollm_bases(folder):
        for dtype in ("float32", "bfloat16"):
            name = f"hpt, SmolLM2-135M, {dtype}"
            found[name] = in_a_process(measure, "hpt", base, SMOLLM_STEPS, "smollm", dtype)
    tokens = [(name, *(f"{parts.pop(name, 0.0):,.0f}" for parts in found.values())) for name in TOKENS]
    whole = {method: sum(parts.values()) for method, parts in found.items()}
    rows = tuple(
        (part, *(f"{1000 * parts.get(part, 0.0):.0f} ms, {100 * parts.get(part, 0.0) / whole[method]:.0f} %"
                 for method, parts in found.items()))
        for part in (*PARTS, REST)
    ) + (("whole step", *(f"{1000 * seconds:.0f} ms" for seconds in whole.values())), *tokens)  # fmt: skip
    how = (
        "CPU time of a training step of the mini world by part, each without the parts inside it; the first steps of a "
        "run, one thread. On SmolLM2-135M in float32 and in bfloat16 with 32-bit masters, which `policy.dtype = auto` "
        "takes where the processor multiplies it; its steps draw other tokens."
    )
    bounds = tuple(
        Bound("a step on SmolLM2-135M, bfloat16 over float32", half / whole[name.replace("bfloat16", "float32")],
              "at most", 1.0, "x")
        for name, half in whole.items() if "bfloat16" in name
    )  # fmt: skip
    return Result("where_time_goes", how, bounds, ("part", *found), rows)
