"""``python -m benchmarks``: all of them, one after the other, each in a process of its own."""

import subprocess
import sys

for module in ("benchmarks.logprob_memory", "benchmarks.mini_step"):
    print(f"== {module}", flush=True)
    subprocess.run([sys.executable, "-m", module], check=True)
