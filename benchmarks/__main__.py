"""``python -m benchmarks``: all of them, one after the other, each in a process of its own (`make bench`)."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from benchmarks.recording import Result, finish

NAMES = (
    "logprob_memory",
    "where_time_goes",
    "mini_step",
    "against_trl",
    "sft_step",
    "vllm_levers",
    "scaling",
    "peers",
    "tiny_reproduce",
)
#: Those that train on the mini world's weak base.
ON_THE_BASE = ("where_time_goes", "mini_step", "against_trl", "sft_step", "vllm_levers", "scaling")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="which (default: all)")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results and docs/benchmarks.md anew")
    parser.add_argument("--steps", type=int, default=12, help="training steps measured")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the base is, or is trained (minutes)")
    options = parser.parse_args()
    if len(options.names) == 1 and (options.names[0] == "tiny_reproduce" or os.environ.get("OMP_NUM_THREADS") == "1"):
        one(options.names[0], options.record, options.steps, options.runs)
        return
    from benchmarks.world import mini_base

    names = options.names or NAMES
    if set(names) & set(ON_THE_BASE):
        mini_base(options.runs)
    flags = [f"--steps={options.steps}", f"--runs={options.runs}", *(["--record"] if options.record else [])]
    for name in names:
        print(f"== {name}", flush=True)
        # one thread: what is compared are single steps, and OpenMP reads this once, when it is loaded
        environment = os.environ if name == "tiny_reproduce" else {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "benchmarks", name, *flags], check=True, env=dict(environment))


def one(name: str, record: bool, steps: int, runs: Path) -> None:
    """Measure one benchmark in this process."""
    start = time.perf_counter()
    run: Callable[..., Result] = import_module(f"benchmarks.{name}").run
    if name in ON_THE_BASE:
        from benchmarks.world import mini_base

        result = run(mini_base(runs), steps)
    else:
        result = run()
    finish(result, record, time.perf_counter() - start)


if __name__ == "__main__":
    main()
