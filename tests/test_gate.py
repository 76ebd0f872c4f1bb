"""Eq. 7 to 10: performance, the switch, and its softer relatives."""

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
#: All counts of all sizes, with every threshold.
EVERY_GROUP = [(n, np.arange(n + 1), gamma) for n in SIZES for gamma in range(n + 1)]


def test_performance_is_the_share_of_correct_rollouts() -> None:
    for n in SIZES:
        shares = performance(np.arange(n + 1), n)
        assert shares.dtype == np.float64
        assert [Fraction(share).limit_denominator(n) for share in shares] == [Fraction(i, n) for i in range(n + 1)]


@pytest.mark.parametrize("inclusive", [True, False])
def test_switch_is_equation_10(inclusive: bool) -> None:
    """(alpha, beta) = (1, 0) where P > gamma and (0, 1) where P <= gamma, compared as counts of n."""
    for n, counts, gamma in EVERY_GROUP:
        alpha, beta = switch(GateSettings(count=gamma, inclusive=inclusive), counts, n)
        sft = [float(count <= gamma if inclusive else count < gamma) for count in range(n + 1)]
        assert beta.tolist() == sft
        assert alpha.tolist() == [1 - share for share in sft]


@pytest.mark.parametrize("function", [switch, linear, sigmoid])
def test_feedback_functions_are_of_the_form_of_equation_9(function: FeedbackFunction) -> None:
    """f grows with P, g falls with it, both stay in 0..1; here also f + g = 1."""
    for n, counts, gamma in EVERY_GROUP:
        alpha, beta = function(GateSettings(count=gamma), counts, n)
        assert all(((values >= 0) & (values <= 1)).all() for values in (alpha, beta))
        assert (np.diff(alpha) >= 0).all()
        assert (np.diff(beta) <= 0).all()
        np.testing.assert_allclose(alpha + beta, 1.0, rtol=0, atol=1e-15)


def test_linear_is_performance_itself() -> None:
    for n, counts, gamma in EVERY_GROUP:
        alpha, beta = linear(GateSettings(count=gamma), counts, n)
        assert alpha.tolist() == [count / n for count in range(n + 1)]
        assert beta.tolist() == [1 - count / n for count in range(n + 1)]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("inclusive", [True, False])
def test_a_steep_sigmoid_is_the_switch(inclusive: bool) -> None:
    """Also at P = gamma, where a sigmoid centred on gamma keeps half of each loss however steep."""
    for n, counts, gamma in EVERY_GROUP:
        gate = GateSettings(count=gamma, inclusive=inclusive, slope=1e4)
        np.testing.assert_allclose(sigmoid(gate, counts, n)[0], switch(gate, counts, n)[0], atol=1e-9)


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
