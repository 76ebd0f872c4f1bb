"""vLLM's own levers on CPU, one at a time: what a call of the sampler costs with each, and what starting it costs.

    python -m benchmarks vllm_levers --steps 8

Every lever has a process of its own, with the sampler of the package and one option of vLLM's changed. Compared are CPU
seconds of one thread; the tokens drawn say whether a lever moves them.
"""

import hashlib
import os
import statistics
from contextlib import nullcontext
from typing import Any

from benchmarks.recording import Result
from benchmarks.world import cpu_seconds, in_a_process, model_config

#: What is tried -> the options of `vllm.LLM` that it changes, and variables of the environment.
LEVERS: dict[str, dict[str, Any]] = {
    "as the package has it": {},
    "blocks of 64 tokens": {"block_size": 64},
    "blocks of 128 tokens": {"block_size": 128},
    "no prefix caching": {"enable_prefix_caching": False},
    "1,024 sequences at once": {"max_num_seqs": 1024},
    "async scheduling": {"async_scheduling": True},
    "compiled model": {"enforce_eager": False},
    "threads bound to cores": {"VLLM_CPU_OMP_THREADS_BIND": "auto"},
    "as the package has it, once more": {},
}
QUESTIONS, WARM_UP = 64, 2


def measure(folder: str, changed: dict[str, Any], steps: int) -> tuple[float, float, str]:
    """Return (CPU seconds of the start, median CPU seconds of a call, a hash of the tokens), or why it failed."""
    os.environ.update({name: value for name, value in changed.items() if name.isupper()})
    import torch
    import vllm

    from hpt.data.models import load_tokenizer
    from hpt.runs.job import encoded_training
    from hpt.training import sampler as module
    from hpt.training.sampler import Sampler, SamplingRequest

    torch.set_num_threads(1)
    config = model_config("grpo", folder)
    options = {name: value for name, value in changed.items() if not name.isupper()}
    original = vllm.LLM

    vllm.LLM = lambda **given: original(**given | options)  # type: ignore[assignment,misc]
    if not options.get("enforce_eager", True):
        module._eager = nullcontext  # which would keep it from compiling
    prompts = list(encoded_training(config, load_tokenizer(folder)).prompts.values())[:QUESTIONS]
    tokens = config.rollout.max_response_tokens
    requests = [SamplingRequest(prompt, 8 * i, 8, 1.0, 1.0, tokens) for i, prompt in enumerate(prompts)]
    start = cpu_seconds()
    try:
        drawn = Sampler(folder, config.rollout)
    except Exception as error:
        return 0.0, 0.0, f"refused: {str(error)[:160]}"
    begun, calls, digest = cpu_seconds() - start, [], hashlib.sha256()
    for _ in range(WARM_UP + steps):
        start = cpu_seconds()
        found = drawn.sample(requests)
        calls.append(cpu_seconds() - start)
        digest.update(b"".join(sample.tokens.tobytes() for batch in found for sample in batch))
    return begun, statistics.median(calls[WARM_UP:]), digest.hexdigest()[:8]


def run(folder: str, steps: int) -> Result:
    """Measure every lever."""
    rows: list[tuple[Any, ...]] = []
    for name, changed in LEVERS.items():
        start, call, tokens = in_a_process(measure, folder, changed, steps)
        first = rows[0] if rows else ("", start, call, 1.0, tokens)
        same = "the same" if tokens == first[4] else tokens if tokens.startswith("refused") else "others"
        times = (start, call, call / first[2]) if call else ("", "", "")
        rows.append((name, *times, tokens if not rows else same))
        print(*rows[-1], flush=True)
    heads = ("lever", "start, CPU s", "a call, CPU s", "over the package's", "tokens")
    how = (
        f"A call of {QUESTIONS} questions of the mini world with 8 responses each, from the weak base, with one option "
        "of vLLM's moved at a time; medians. Prompts have 8 tokens here, and a prefix can be shared from 33 on. Three "
        "levers cannot act, and with the last line show the noise: a call has 512 sequences, vLLM schedules "
        "asynchronously nowhere on CPU, and binds threads of several processes alone. For its own logits processors "
        "vLLM has no switch."
    )
    return Result("vllm_levers", how, (), heads, tuple(rows))
