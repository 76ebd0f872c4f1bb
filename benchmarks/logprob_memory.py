"""Peak memory and time of log-probs and entropies, forward and backward: chunked against materialised logits.

    python benchmarks/logprob_memory.py --tokens 4096 --vocabulary 151936

Every variant runs in a process of its own, because a process never gives back its peak. What is reported is the peak
resident memory minus what was resident when the inputs stood ready, so imports and weights do not count.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import psutil
import torch
from torch import Tensor

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


def main() -> None:
    """Measure every variant in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 4096), ("vocabulary", 151_936), ("width", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--variant", choices=VARIANTS, help="run only this one, in this process, and print JSON")
    options = parser.parse_args()
    sizes = [options.tokens, options.vocabulary, options.width]
    if options.variant:
        print(json.dumps(measure(options.variant, *sizes)))
        return
    print(f"tokens {sizes[0]}, vocabulary {sizes[1]}, width {sizes[2]}, float32, {torch.get_num_threads()} thread(s)")
    print(f"one tensor of logits: {sizes[0] * sizes[1] * 4 / 2**20:,.0f} MiB")
    base = 0.0
    for variant in VARIANTS:
        flags = [f"--{name}={size}" for name, size in zip(("tokens", "vocabulary", "width"), sizes, strict=True)]
        command = [sys.executable, __file__, f"--variant={variant}", *flags]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        base = base or result["peak_mib"]
        print(
            f"{variant:30s} peak {result['peak_mib']:8,.0f} MiB ({result['peak_mib'] / base:5.1f} x chunked)"
            f"   {result['seconds']:6.1f} s   |gradient| {result['gradient_norm']:.6g}"
        )


if __name__ == "__main__":
    main()
