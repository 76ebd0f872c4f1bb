"""The gate: how well the policy does on a question decides how much RL and how much SFT it gets (Eq. 7-10).

Eq. 8 defines the performance of a question as P = (number of correct rollouts) / n. Eq. 9 turns P into two
coefficients, alpha = f(P) for the RL loss and beta = g(P) for the SFT loss, and Eq. 10 is the paper's choice of f and
g: a switch at a threshold gamma. The threshold is stored as a *count* of correct rollouts out of n, because P only
takes the values 0/n ... n/n and a float 0.125 would make "P <= gamma" a question of rounding.
"""

from collections.abc import Callable

import numpy as np

from hpt.config.settings import GateSettings
from hpt.support.plugins import resolve

FeedbackFunction = Callable[[GateSettings, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def performance(correct_counts: np.ndarray, rollouts_per_prompt: int) -> np.ndarray:
    """Return P of Eq. 8, the share of correct rollouts of each question, [N] float64.

    Example:
        >>> performance(np.array([0, 2, 8]), 8)
        array([0.  , 0.25, 1.  ])
    """
    return np.asarray(correct_counts, dtype=np.float64) / rollouts_per_prompt


def switch(gate: GateSettings, correct_counts: np.ndarray, rollouts_per_prompt: int) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 10: SFT when P <= gamma, RL when P > gamma (with ``inclusive=False``: SFT only when P < gamma)."""
    below = correct_counts <= gate.count if gate.inclusive else correct_counts < gate.count
    return (~below).astype(np.float64), below.astype(np.float64)


def linear(gate: GateSettings, correct_counts: np.ndarray, rollouts_per_prompt: int) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 9 with straight lines: alpha = P, beta = 1 - P."""
    share = performance(correct_counts, rollouts_per_prompt)
    return share, 1.0 - share


def sigmoid(gate: GateSettings, correct_counts: np.ndarray, rollouts_per_prompt: int) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 9 with a smooth switch: alpha = 1 / (1 + exp(-slope (P - gamma - 1/2n))), beta = 1 - alpha.

    The half count moves the centre between two reachable values of P, so that a steep slope tends to Eq. 10's switch
    with its "<=": centred on gamma itself, a question at P = gamma would keep half of each loss however steep.
    """
    centre = (gate.count + (0.5 if gate.inclusive else -0.5)) / rollouts_per_prompt
    alpha = 1.0 / (1.0 + np.exp(-gate.slope * (performance(correct_counts, rollouts_per_prompt) - centre)))
    return alpha, 1.0 - alpha


def constant(gate: GateSettings, correct_counts: np.ndarray, rollouts_per_prompt: int) -> tuple[np.ndarray, np.ndarray]:
    """The same alpha and beta for every question: what SFT, GRPO, LUFFY and SRFT do."""
    ones = np.ones(len(correct_counts))
    return gate.alpha * ones, gate.beta * ones


FEEDBACK: dict[str, FeedbackFunction] = {
    "switch": switch,
    "linear": linear,
    "sigmoid": sigmoid,
    "constant": constant,
}


def feedback_coefficients(
    gate: GateSettings, correct_counts: np.ndarray, rollouts_per_prompt: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (alpha, beta) of Eq. 9, each [N] float64, for every question of a rollout batch.

    ``gate.kind`` is a key of `FEEDBACK` or ``module:function``; ``correct_counts`` [N] are 0..n (Eq. 7 summed).

    Example:
        >>> feedback_coefficients(GateSettings(kind="switch", count=1), np.array([0, 1, 2, 8]), 8)
        (array([0., 0., 1., 1.]), array([1., 1., 0., 0.]))
    """
    return resolve(FEEDBACK, gate.kind, "gate.kind")(gate, np.asarray(correct_counts), rollouts_per_prompt)
