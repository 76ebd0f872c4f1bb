"""A smooth gate: Eq. 9 with sigmoids f and g, where Eq. 10 has a switch.

    alpha = f(P) = 1 / (1 + exp(-slope (P - centre)))        beta = g(P) = 1 - f(P)

The switch gives a question with no right rollout to SFT alone and one with a single right rollout to RL alone, as if
one rollout of n told everything. Here the two are equal at one right rollout above the threshold (``gate.count``), and
with the default slope of 20 per unit of P and n = 8, alpha is 0.08 at 0 right, 0.5 at 1, 0.92 at 2 and 0.99 at 3.
"""

from dataclasses import replace

import numpy as np

from hpt.config.run_config import GateSettings
from hpt.methods.methods import METHODS


def gate(settings: GateSettings, correct: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (alpha, beta) of every question from its count of right rollouts."""
    above = (correct - (settings.count + 1)) / n
    alpha = 1.0 / (1.0 + np.exp(-settings.slope * above))
    return alpha, 1.0 - alpha


METHOD = replace(
    METHODS["hpt"], name="smooth_gate", title="HPT, smooth gate", like="hpt",
    settings={"gate": {"kind": "hpt.examples.smooth_gate:gate"}},
)  # fmt: skip
