"""A gate that is the switch of Eq. 10 and, when told so, ends its rank at its n-th call; and a job that uses it.

``python -m tests.invariance.failing JOB OUT`` is `hpt.runs.job` that also writes down how its sampler is spread.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hpt.config.settings import GateSettings
from hpt.methods.gate import switch
from hpt.support.errors import HptError

#: ``rank:call:way:file`` of the failure, whose time is written into ``file``; in the environment, so that the run's
#: settings stay what they are.
FAIL = "HPT_TEST_FAIL"
_calls = 0


def gate(settings: GateSettings, correct: np.ndarray, rollouts: int) -> tuple[np.ndarray, np.ndarray]:
    """Switch, or fail: with an error of the package's, one of any library's, or killed without a word."""
    global _calls
    _calls += len(correct) > 1  # a method is tried out on one question before anything runs
    rank, call, way, file = os.environ.get(FAIL, ":::").split(":")
    if (rank, call) == (os.environ.get("RANK"), str(_calls)):
        Path(file).write_text(str(time.time()))
        if way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"error": HptError, "bug": ValueError}[way]("the disk of this rank is full")
    return switch(settings, correct, rollouts)


def share_of_a_layer(model: Any) -> float:
    """What part of a layer's outputs a vLLM model computes on this rank."""
    layer = model.model.layers[0].mlp.gate_up_proj
    return layer.output_size_per_partition / layer.output_size


def main(spec: str, out: Path) -> int:
    """Run the job; every rank writes its part of its sampler, 1 for the whole."""
    from hpt.runs import job
    from hpt.training.sampler import Sampler

    genuine = Sampler.__init__

    def start(sampler: Sampler, *positional: Any, **named: Any) -> None:
        genuine(sampler, *positional, **named)
        (share,) = sampler._engine.apply_model(share_of_a_layer)
        (out / f"sampler-{os.environ['RANK']}.json").write_text(json.dumps(share))

    Sampler.__init__ = start
    return job.main([spec])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
