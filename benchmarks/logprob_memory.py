"""Peak memory and time of log-probs and entropies, forward and backward: chunked against materialised logits.

    python -m benchmarks logprob_memory

Every variant runs in a process of its own, because a process never gives back its peak. What is reported is the peak
resident memory minus what was resident when the inputs stood ready, so imports and weights do not count.
"""

import json
import resource
import subprocess
import sys
import time

import psutil
import torch
from torch import Tensor

from benchmarks.recording import Bound, Result
from hpt.upge.likelihood import token_logprobs_and_entropy


def materialised(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The plain way, for comparison: all logits at once."""
    logprobs = torch.log_softmax(hidden @ weight.T, -1)
    return logprobs.gather(1, targets[:, None]).squeeze(1), -(logprobs.exp() * logprobs).sum(-1)


def materialised_without_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The least that materialised logits can take: the log-probs of the targets and nothing else."""
    logprobs = torch.log_softmax(hidden @ weight.T, -1).gather(1, targets[:, None]).squeeze(1)
    return logprobs, logprobs.new_zeros(())


VARIANTS = {
    "chunked": token_logprobs_and_entropy,
    "materialised": materialised,
    "materialised_without_entropy": materialised_without_entropy,
}


def measure(variant: str, tokens: int, vocabulary: int, width: int) -> dict[str, float]:
    """Run one forward and backward here and return its peak (MiB), time (s) and a checksum of the gradient."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator).mul_(0.1).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    ready, start = psutil.Process().memory_info().rss, time.perf_counter()
    logprobs, entropies = VARIANTS[variant](hidden, weight, targets)
    (logprobs.mean() + 0.001 * entropies.mean()).backward()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert hidden.grad is not None
    return {"peak_mib": (peak - ready) / 2**20, "seconds": seconds, "gradient_norm": float(hidden.grad.norm())}


def run(tokens: int = 4096, vocabulary: int = 151_936, width: int = 64) -> Result:
    """Measure every variant in a process of its own and compare their peaks."""
    rows, peaks = [], {}
    for variant in VARIANTS:
        command = [sys.executable, "-m", "benchmarks.logprob_memory", variant, *map(str, (tokens, vocabulary, width))]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        peaks[variant] = found["peak_mib"]
        rows.append((variant, *found.values()))
        print(rows[-1], flush=True)
    least = peaks["materialised_without_entropy"]
    bound = Bound("peak memory of log-probs over materialised logits", peaks["chunked"] / least, "at most", 1 / 6, "x")
    how = (
        f"Log-probs and entropies of {tokens} tokens over a vocabulary of {vocabulary:,}, forward and backward, in "
        f"float32, width {width}; one tensor of logits has {tokens * vocabulary * 4 / 2**20:,.0f} MiB. Peak resident "
        "memory over what was resident before. The bound is against the least that materialised logits take: without "
        "entropies."
    )
    return Result("logprob_memory", how, (bound,), ("variant", "peak, MiB", "seconds", "norm of gradient"), tuple(rows))


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:]))))
