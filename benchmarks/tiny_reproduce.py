"""How long the tiny scale takes end to end on this machine: base training, runs, evaluations, notebooks, report.

    python -m benchmarks tiny_reproduce

Each in a folder of its own, from nothing: Table 3 with Figures 5 to 7, and everything of the paper. Then, beside the
first, a custom algorithm: `hpt train`, and as a further row of Table 3 with everything else cached. Wall-clock seconds
of the whole command, on an otherwise idle machine with two cores.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.recording import Bound, Result

FIRST = ("table3", "figure5", "figure6", "figure7")
OWN, OTHER = "hpt.examples.smooth_gate:METHOD", "hpt.examples.hpt_cispo:METHOD"


def command(folder: str, name: str, *options: str) -> float:
    """Return the seconds ``hpt NAME --scale tiny`` takes in ``folder``."""
    command = [sys.executable, "-m", "hpt.cli", name, "--scale", "tiny", *options]
    # the package may be used from its folder alone, without being installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    # Jupyter looks for its templates in this environment, and they lie in the one it is built on
    nbconvert = importlib.util.find_spec("nbconvert")
    assert nbconvert is not None
    assert nbconvert.origin is not None
    environment["JUPYTER_PATH"] = str(Path(nbconvert.origin).parents[4] / "share" / "jupyter")
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return time.perf_counter() - start


WHY = (
    "A custom algorithm at scale tiny: of a command some ten seconds are imports of torch, vLLM and transformers and "
    "the start of vLLM's engine in the one process that a single run has; a row of Table 3 executes a notebook besides."
)


def run() -> Result:
    """Measure both parts."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as another:
        first = command(folder, "reproduce", *(word for name in FIRST for word in ("--only", name)))
        own = command(folder, "train", "--method", OWN)
        row = command(folder, "reproduce", "--only", "table3", "--extra", OTHER)
        whole = command(another, "reproduce")
    bounds = (
        Bound("tiny: Table 3 with Figures 5 to 7, from nothing", first / 60, "at most", 2.0, "min"),
        Bound("tiny: every table and figure of the paper, from nothing", whole / 60, "at most", 3.0, "min"),
        Bound("tiny: `hpt train` of a custom algorithm", own, "at most", 15.0, "s", WHY),
        Bound("tiny: a custom algorithm as a row of Table 3", row, "at most", 20.0, "s", WHY),
    )
    how = (
        "`hpt reproduce --scale tiny` in an empty folder: bases, runs, evaluations, executed notebooks, report. Wall "
        "clock, so it holds on two idle cores only; the load when it ended is given below. Then a custom algorithm on "
        "the base that is there: `hpt train --method`, and `hpt reproduce --only table3 --extra`, which trains it, "
        "evaluates it on six sets and executes the notebook."
    )
    return Result("tiny_reproduce", how, bounds)
