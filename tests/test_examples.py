"""The kept examples of one's own algorithms say what their docstrings say."""

from pathlib import Path

import numpy as np
import pytest

import hpt.examples
from hpt.config.scales import TUNED
from hpt.config.settings import GateSettings
from hpt.examples import least_error_gate, smooth_gate
from hpt.laboratory.experiment import make_experiment, sample_draws
from hpt.laboratory.gates import best_gate, gate_error, gate_moments, gate_weights, total
from hpt.methods.methods import METHODS, method_named, resolved_row
from hpt.runs.catalogue import ARTEFACTS, EXAMPLES
from hpt.runs.resolve import build_config

FOLDER = Path(hpt.examples.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def test_every_example_is_an_arm_at_the_settings_tuned_for_hpt(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [arm.name for arm in EXAMPLES] == ["smooth_gate", "hpt_cispo", "least_error_gate"]
    assert {arm.name for arm in EXAMPLES} == set(MODULES)
    tuned = {"optimizer": {"learning_rate": 3e-4}, "estimator": {"sft_coefficient": 0.3}}
    monkeypatch.setitem(TUNED["mini"]["weak"], "hpt", tuned)
    for arm in EXAMPLES:
        config = arm.config("mini", 0)
        assert (config.optimizer.learning_rate, config.estimator.sft_coefficient) == (3e-4, 0.3)
        assert method_named(arm.method).title == arm.label
    for name in ("own_algorithms", "own_algorithms_curves"):
        arms = [arm.name or arm.method for arm in ARTEFACTS[name].arms]
        assert arms == ["sft", "grpo", "hpt", *(arm.name for arm in EXAMPLES)]


def test_custom_settings_lie_over_those_of_the_method_it_is_like() -> None:
    config = build_config("hpt.examples.smooth_gate:METHOD", settings={"optimizer.learning_rate": 2e-4})
    assert config.optimizer.learning_rate == 2e-4
    assert config.gate.kind == "hpt.examples.smooth_gate:gate"


def test_the_smooth_gate_is_half_at_one_right() -> None:
    alpha, beta = smooth_gate.gate(GateSettings(), np.arange(9), 8)
    np.testing.assert_allclose(alpha[:4], [0.0759, 0.5, 0.9241, 0.9933], atol=1e-4)
    np.testing.assert_allclose(alpha + beta, 1.0)
    steep, _ = smooth_gate.gate(GateSettings(slope=1e3), np.array([0, 2, 8]), 8)
    np.testing.assert_allclose(steep, [0.0, 1.0, 1.0], atol=1e-12)


def test_hpt_cispo_differs_from_hpt_in_its_online_row_alone() -> None:
    config, plain = (build_config(name) for name in ("hpt.examples.hpt_cispo:METHOD", "hpt"))
    online, offline = method_named(config.method).components
    row = resolved_row(online, config)
    assert (row.name, row.denominator, row.parameters["clip_eps_high"]) == ("cispo", "clipped_ratio", 0.28)
    assert row.parameters["std"] == "none"
    assert offline == METHODS["hpt"].components[1]
    assert config.model_dump(exclude={"method"}) == plain.model_dump(exclude={"method"})


def test_the_gate_of_least_error_is_what_the_laboratory_measures() -> None:
    """Formula against measurement on enumerable policies: alpha's shape, and the error it reaches."""
    rates = np.linspace(0.02, 0.98, 16)
    experiments = [make_experiment(index, success=float(rate), distance=0.5) for index, rate in enumerate(rates)]
    moments = total(
        gate_moments(own, sample_draws(own, 100, 2000 + index), log_success=True)
        for index, own in enumerate(experiments)
    )
    own = gate_weights(GateSettings(kind="hpt.examples.least_error_gate:gate"), 8)
    measured, _ = best_gate(moments)
    np.testing.assert_allclose(own[0][1:8], measured[1:8], rtol=0.15)
    least, ours = gate_error(moments, (measured, best_gate(moments)[1]), tuned=False), gate_error(moments, own)
    switch = gate_error(moments, gate_weights(GateSettings(kind="switch", count=0), 8))
    assert least <= ours < switch
    assert ours - least < 0.1 * (switch - least)


def test_the_gate_of_least_error_turns_to_rollouts_where_they_say_something() -> None:
    alpha, beta = least_error_gate.gate(GateSettings(), np.arange(9), 8)
    assert beta[0] == 1.0
    assert (np.diff(beta) < 0).all()
    assert (np.diff(alpha) < 0).all()
    few, _ = least_error_gate.gate(GateSettings(), np.array([1]), 2)
    assert few[0] == pytest.approx(0.5 / (0.25 + 1.0))  # r = 2 / n
