"""The gate of least error in closed form: which alpha and beta bring alpha g_on + beta g_off closest to a gradient.

`hpt.laboratory.gates` measures the gate that minimises E|alpha(c) g_on + beta(c) g_off - t|^2 on policies small enough
to list, c right of n rollouts. This is a formula for what it finds, from four assumptions.

1. *Objective.* t is the gradient of the sum over questions of log p, p the success rate: t = grad p / p. With grad p
   itself, questions that are never solved hardly count and the laboratory finds almost no use for demonstrations.
2. *Two clusters.* The scores grad log pi of right and of wrong answers have means m1 and m0 and spread s^2 around them.
   Since scores average to zero, m1 = (1 - p) D and m0 = -p D with D = m1 - m0, so t = (1 - p) D.
3. *Demonstrations* are right answers like the policy's own: E g_off points along m1 = (1 - p) D, and E|g_off|^2 hardly
   depends on p.
4. *Prior.* p is uniform over questions: given c it is Beta(c + 1, n - c + 1), so E[1 - p | c] = (n - c + 1) / (n + 2)
   and E[(1 - p)^2 | c] = that x (n - c + 2) / (n + 3).

The group gradient is g_on = q (mean score of the right - mean score of the wrong) with q = c (n - c) / n^2. Hence
E[g_on | c] = q D and E|g_on|^2 = q^2 |D|^2 + q s^2 / n. Setting the derivatives of the error to zero, with the product
E[g_on . g_off] kept where it is of first order and r = s^2 / (n |D|^2), the noise of n rollouts beside their signal,

    alpha(c) = E[1 - p | c] / (q + r)          beta(c) ~ E[(1 - p)^2 | c]  r / (q + r)

alpha falls with c, because log p is flatter where p is large. The second factor of beta is what the rollouts leave
undone: 1 where they say nothing (q = 0), little where they say much. beta is scaled to 1 at c = 0, as HPT's, because a
coefficient (``estimator.sft_coefficient``) multiplies it anyway.

r = 1/4 is read off the laboratory, where it reproduces alpha within 15 % (`tests/test_examples.py`), and it is not
measured on the models that are trained: a longer answer has more noise, so their r is larger, and the formula would
then tend to alpha = E[1 - p | c], beta = E[(1 - p)^2 | c]. In the laboratory its error (1 = no better than no step) is
0.70 for this objective, where the switch of HPT has 0.75 and the least possible is 0.70; for the expected reward itself
it is worse than the switch, 0.65 against 0.61. And least error of one step is not best after training.
"""

from dataclasses import replace

import numpy as np

from hpt.config.run_config import GateSettings
from hpt.methods.methods import METHODS

NOISE = 0.25  # r, of 8 rollouts


def gate(settings: GateSettings, correct: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (alpha, beta) of every question from its count of right rollouts."""
    r, signal = NOISE * 8 / n, correct * (n - correct) / n**2
    wrong = (n - correct + 1) / (n + 2)
    both_wrong = wrong * (n - correct + 2) / (n + 3)
    alpha = wrong / (signal + r)
    beta = both_wrong * r / (signal + r) / ((n + 1) / (n + 3))
    return alpha, beta


METHOD = replace(
    METHODS["hpt"], name="least_error_gate", title="HPT, gate of least error", like="hpt",
    settings={"gate": {"kind": "hpt.examples.least_error_gate:gate"}},
)  # fmt: skip
