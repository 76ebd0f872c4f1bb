"""Gates as estimators, and the sweeps: quadratic forms against brute force, dials against what is known by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hpt.config.settings import GateSettings
from hpt.laboratory.errors import DIALS, SITUATIONS, Size, conflict, plane, plane_sums, sweep
from hpt.laboratory.exact import Experiment
from hpt.laboratory.experiment import make_experiment, row_gradients, sample_draws
from hpt.laboratory.gates import best_gate, gate_error, gate_moments, gate_table, gate_weights, smooth_gates, total
from hpt.upge.estimator import ROWS


def question(seed: int = 0, **options: object) -> Experiment:
    settings = {"vocabulary": 3, "length": 3, "correct_share": 0.3, "rollouts": 3, "mu": 0.3, **options}
    return make_experiment(seed, **settings)  # type: ignore[arg-type]


def test_the_error_of_a_gate_is_that_of_the_sum_it_makes() -> None:
    """Every draw weighed by its own count, written out."""
    experiment = question()
    draws = sample_draws(experiment, 60, seed=1)
    moments = gate_moments(experiment, draws)
    alpha, beta = gate_weights(GateSettings(kind="linear"), 3)
    rows = [replace(ROWS[name], aggregation="constant_length") for name in ("dr_grpo", "sft")]
    on, off = (row_gradients(row.name, experiment, draws, row)[0] * 3 for row in rows)
    correct = experiment.reward[draws.rollouts].sum(1).long()
    mixed = torch.from_numpy(alpha)[correct][:, None] * on + torch.from_numpy(beta)[correct][:, None] * off
    target = experiment.true_gradient
    expected = float(((mixed - target) ** 2).sum(1).mean() / (target @ target))
    assert gate_error(moments, (alpha, beta), tuned=False) == pytest.approx(expected, rel=1e-10)
    assert float(moments.share.sum()) == pytest.approx(1.0)


def test_tuning_finds_the_best_two_constants() -> None:
    moments = gate_moments(own := question(), sample_draws(own, 200, seed=1))
    alpha, beta = gate_weights(GateSettings(kind="switch", count=1), 3)
    grid = np.linspace(0, 2, 81)
    tried = min(gate_error(moments, (a * alpha, b * beta), tuned=False) for a in grid for b in grid)
    found = gate_error(moments, (alpha, beta))
    assert found <= tried + 1e-12
    assert tried - found < 1e-2


def test_no_gate_beats_the_best_gate() -> None:
    whole = total(gate_moments(own, sample_draws(own, 100, i)) for i, own in enumerate(map(question, range(4))))
    best = gate_error(whole, best_gate(whole), tuned=False)
    errors = {name: gate_error(whole, weights) for name, weights in smooth_gates(3).items()}
    assert best <= min(errors.values()) + 1e-12
    assert len(set(np.round(list(errors.values()), 6))) > 5  # the gates do differ
    assert min(weights.min() for weights in best_gate(whole)) >= 0
    generator = np.random.default_rng(0)
    for _ in range(50):
        own = tuple(np.maximum(0, values + generator.normal(scale=0.05, size=4)) for values in best_gate(whole))
        assert gate_error(whole, own, tuned=False) >= best - 1e-12  # type: ignore[arg-type]


def test_a_group_without_a_signal_has_no_online_weight() -> None:
    experiment = question()
    moments = gate_moments(experiment, sample_draws(experiment, 200, seed=0))
    alpha, _ = best_gate(moments)
    assert alpha[0] == alpha[-1] == 0
    assert alpha[1] > 0


def test_log_success_asks_more_of_hard_questions() -> None:
    def wanted(log_success: bool) -> float:
        own = question(success=0.05, mu=0.0)
        return best_gate(gate_moments(own, sample_draws(own, 400, 0), log_success=log_success))[1][0]

    assert wanted(True) > 2 * wanted(False)


def test_sft_and_rl_agree_exactly_where_the_demonstrator_is_the_policy_given_right() -> None:
    """E[r grad log pi] = P E_{pi | right}[grad log pi]; elsewhere they can oppose each other."""
    frame = conflict(Size(2, 0))
    same = frame[(frame["distance"] == 0) & (frame["slips"] == 0)]
    assert np.allclose(same["cosine"], 1, atol=1e-12)
    assert frame["cosine"].min() < 0


def test_plane_and_sweeps_hold_every_row() -> None:
    frame = plane(plane_sums(Size(2, 20)))
    assert set(frame["situation"]) == set(SITUATIONS)
    assert set(frame["row"]) == set(ROWS)
    assert np.isfinite(frame["error"]).all()
    found = sweep("rollouts", Size(2, 30), {"RLOO": "rloo"})
    assert found["value"].to_list() == list(DIALS["rollouts"].values)
    assert found["error"].is_monotonic_decreasing  # more rollouts, less noise


def test_pooled_intervals_hold_the_value() -> None:
    frame = plane(plane_sums(Size(6, 30), {"RLOO": "rloo", "GSPO": "gspo"}))
    assert (frame["error_low"] <= frame["error"] + 1e-12).all()
    assert (frame["error"] <= frame["error_high"] + 1e-12).all()


def test_gate_table() -> None:
    errors, weights, differences = gate_table(Size(2, 40), n=4)
    for own in differences.itertuples():
        whole = errors[errors["objective"] == own.objective].set_index("gate")["error"]
        assert own.difference == pytest.approx(whole[own.against] - whole[own.gate])
        assert own.low <= own.high
    assert (differences[differences["gate"] == "least error"]["low"] >= -1e-12).all()
    best = errors[errors["gate"] == "least error"].set_index("objective")["error"]
    for objective, own in errors.groupby("objective"):
        assert own["error"].min() == pytest.approx(best[objective])
    assert len(weights) == 3 * 5
    assert weights.groupby("objective")["share"].sum().to_list() == pytest.approx([1, 1, 1])
