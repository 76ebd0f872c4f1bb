"""How long the tiny scale takes end to end on this machine: base training, runs, evaluations, notebooks, report.

    python -m benchmarks tiny_reproduce

Each in a folder of its own, from nothing: Table 3 with Figures 5 to 7, and everything of the paper. Wall-clock
seconds of everything `hpt reproduce` does, on an otherwise idle machine with two cores.
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


def reproduce(folder: str, *options: str) -> float:
    """Return the seconds `hpt reproduce --scale tiny` takes in ``folder``."""
    command = [sys.executable, "-m", "hpt.cli", "reproduce", "--scale", "tiny", *options]
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


def run() -> Result:
    """Measure both parts."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as another:
        first = reproduce(folder, *(word for name in FIRST for word in ("--only", name)))
        whole = reproduce(another)
    bounds = (
        Bound("tiny: Table 3 with Figures 5 to 7, from nothing", first / 60, "at most", 2.0, "min"),
        Bound("tiny: every table and figure of the paper, from nothing", whole / 60, "at most", 4.0, "min"),
    )
    how = (
        "`hpt reproduce --scale tiny` in an empty folder: bases, runs, evaluations, executed notebooks, report. Wall "
        "clock, so it holds on two idle cores only; the load when it ended is given below."
    )
    return Result("tiny_reproduce", how, bounds)
