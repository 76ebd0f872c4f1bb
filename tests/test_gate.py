"""Eq. 7 to 10: performance, the switch, and its softer relatives. Each formula is broken once and has to be noticed."""

from fractions import Fraction

import numpy as np
import pytest

from hpt.config.settings import GateSettings
from hpt.methods.gate import (
    FEEDBACK,
    FeedbackFunction,
    feedback_coefficients,
    linear,
    performance,
    sigmoid,
    switch,
)
from hpt.support.errors import ConfigError

SIZES = (1, 3, 7, 8, 10, 64)


def every_group() -> list[tuple[int, np.ndarray, int]]:
    """All counts of all sizes, with every threshold."""
    return [(n, np.arange(n + 1), gamma) for n in SIZES for gamma in range(n + 1)]


def test_performance_is_the_share_of_correct_rollouts() -> None:
    for n in SIZES:
        shares = performance(np.arange(n + 1), n)
        assert shares.dtype == np.float64
        assert [Fraction(share).limit_denominator(n) for share in shares] == [Fraction(i, n) for i in range(n + 1)]


def is_equation_10(function: FeedbackFunction, inclusive: bool) -> bool:
    """(alpha, beta) = (1, 0) where P > gamma and (0, 1) where P <= gamma, in exact fractions."""
    for n, counts, gamma in every_group():
        alpha, beta = function(GateSettings(count=gamma, inclusive=inclusive), counts, n)
        for count, a, b in zip(counts.tolist(), alpha, beta, strict=True):
            share, threshold = Fraction(count, n), Fraction(gamma, n)
            sft = share <= threshold if inclusive else share < threshold
            if (a, b) != ((0.0, 1.0) if sft else (1.0, 0.0)):
                return False
    return True


@pytest.mark.parametrize("inclusive", [True, False])
def test_switch_is_equation_10(inclusive: bool) -> None:
    assert is_equation_10(switch, inclusive)


def with_float_threshold(gate: GateSettings, counts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """What a threshold stored as a rounded share does: 1/3 of 3 is no longer at the threshold."""
    below = performance(counts, n) <= round(gate.count / n, 3)
    return (~below).astype(float), below.astype(float)


def swapped(function: FeedbackFunction) -> FeedbackFunction:
    def the_other_way_round(gate: GateSettings, counts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        alpha, beta = function(gate, counts, n)
        return beta, alpha

    return the_other_way_round


def inclusion_forgotten(gate: GateSettings, counts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    return switch(gate.model_copy(update={"inclusive": not gate.inclusive}), counts, n)


def both_losses(gate: GateSettings, counts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    _, beta = switch(gate, counts, n)
    return np.ones(len(counts)), beta


@pytest.mark.parametrize("broken", [with_float_threshold, swapped(switch), inclusion_forgotten, both_losses])
def test_a_broken_switch_is_noticed(broken: FeedbackFunction) -> None:
    assert not is_equation_10(broken, True)


def is_equation_9(function: FeedbackFunction, gate: GateSettings) -> bool:
    """f grows with P, g falls with it, both stay in 0..1; here also f + g = 1."""
    for n, counts, gamma in every_group():
        alpha, beta = function(gate.model_copy(update={"count": gamma}), counts, n)
        inside = all(((values >= 0) & (values <= 1)).all() for values in (alpha, beta))
        if not (inside and (np.diff(alpha) >= 0).all() and (np.diff(beta) <= 0).all()):
            return False
        if not np.allclose(alpha + beta, 1.0, rtol=0, atol=1e-15):
            return False
    return True


@pytest.mark.parametrize("function", [switch, linear, sigmoid])
def test_feedback_functions_are_of_the_form_of_equation_9(function: FeedbackFunction) -> None:
    assert is_equation_9(function, GateSettings())
    assert not is_equation_9(swapped(function), GateSettings())
    assert not is_equation_9(both_losses, GateSettings())


def test_linear_is_performance_itself() -> None:
    for n, counts, gamma in every_group():
        alpha, beta = linear(GateSettings(count=gamma), counts, n)
        assert alpha.tolist() == [count / n for count in range(n + 1)]
        assert beta.tolist() == [1 - count / n for count in range(n + 1)]


def steep_sigmoid_is_the_switch(function: FeedbackFunction) -> bool:
    for inclusive in (True, False):
        for n, counts, gamma in every_group():
            gate = GateSettings(count=gamma, inclusive=inclusive, slope=1e4)
            if not np.allclose(function(gate, counts, n)[0], switch(gate, counts, n)[0], atol=1e-9):
                return False
    return True


def centred_on_gamma(gate: GateSettings, counts: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore"):
        alpha = 1 / (1 + np.exp(-gate.slope * (performance(counts, n) - gate.count / n)))
    return alpha, 1 - alpha


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_steep_sigmoid_is_the_switch() -> None:
    """Also at P = gamma, where a sigmoid centred on gamma keeps half of each loss however steep."""
    assert steep_sigmoid_is_the_switch(sigmoid)
    assert not steep_sigmoid_is_the_switch(centred_on_gamma)


def test_sigmoid_at_known_points() -> None:
    alpha, beta = sigmoid(GateSettings(count=3, slope=20.0), np.array([3, 4]), 8)
    assert alpha == pytest.approx([1 / (1 + np.e**1.25), 1 / (1 + np.e**-1.25)])
    assert beta == pytest.approx(alpha[::-1])


@pytest.mark.parametrize("kind", FEEDBACK)
def test_feedback_coefficients_uses_the_function_named(kind: str) -> None:
    gate, counts = GateSettings(kind=kind, count=1, alpha=0.3, beta=7.0), np.arange(9)
    for found, expected in zip(feedback_coefficients(gate, counts, 8), FEEDBACK[kind](gate, counts, 8), strict=True):
        assert found.dtype == np.float64
        assert found.tolist() == expected.tolist()
    if kind == "constant":  # does not look at performance, nor add up to 1
        assert [set(values) for values in feedback_coefficients(gate, counts, 8)] == [{0.3}, {7.0}]


@pytest.mark.parametrize("kind", ["swich", "tests.test_gate:no_such", "no_such_module:gate", "os;x:y", ":"])
def test_an_unknown_gate_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"gate\.kind"):
        feedback_coefficients(GateSettings(kind=kind), np.array([0]), 8)
