"""Section 2.2 and Appendix B on policies small enough to list every trajectory: both sides of each formula as sums."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hpt.laboratory import exact
from hpt.laboratory.derivation import (
    CASES,
    CLIPPED,
    FEEDBACK,
    ONE_TOKEN,
    ROLLOUTS,
    TOLERANCE,
    Statement,
    centred_reward,
    make_case,
    one_draw,
    one_token_statements,
    random_law,
    random_values,
    statements,
    with_gate,
)
from hpt.laboratory.exact import Experiment, TabularPolicy, TrajectorySpace, law, random_parameters, token_logprobs
from hpt.laboratory.experiment import token_streams
from hpt.methods.gate import feedback_coefficients, performance
from hpt.upge import stabilization


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Experiment:
    return make_case(*CASES[request.param])


def near(left: Tensor, right: Tensor) -> bool:
    assert left.norm() > 1e-5, "nothing would be compared"
    return float((left - right).abs().max()) < TOLERANCE * float(left.norm())


def hold(found: Iterable[Statement]) -> None:
    """Identities hold to rounding; where one ends, it ends by more than a hundredth."""
    for own in found:
        assert own.difference < TOLERANCE if own.identity else own.difference > 0.01, own


def test_the_table_of_the_derivation_holds(case: Experiment) -> None:
    hold(statements(case))


def test_eq_6_is_eq_3_where_a_trajectory_is_one_token() -> None:
    """The package's weights, summed over all trajectories with their probabilities under pi_old."""
    hold(one_token_statements(make_case(*ONE_TOKEN)))


# --- the ground everything stands on ---------------------------------------------------------------------------------


def test_all_trajectories_are_there_once_and_their_probabilities_sum_to_one(case: Experiment) -> None:
    space = case.policy.space
    inner = space.vocabulary - space.ends
    assert len(space) == inner**space.length + space.ends * sum(inner**size for size in range(space.length))
    assert len({tuple(row.tolist()) for row in torch.cat([space.tokens, space.lengths[:, None]], 1)}) == len(space)
    assert float((case.pi.sum() - 1).abs()) < 1e-13


def test_a_policys_tokens_do_not_look_ahead(case: Experiment) -> None:
    """The probability of a prefix, summed over how it goes on, is the product of its tokens."""
    space = case.policy.space
    following = token_logprobs(case.policy, case.parameters).exp().view(-1, space.vocabulary)
    before = space.reached(case.pi)
    assert torch.allclose(before, before.sum(1, keepdim=True) * following, atol=1e-13)


def test_token_scores_are_the_slopes_of_token_logprobs(case: Experiment) -> None:
    """Central differences: no autograd on this side."""
    direction, step = random_parameters(case.policy, 9), 1e-5
    up, down = (token_logprobs(case.policy, case.parameters + sign * step * direction) for sign in (1, -1))
    assert torch.allclose((up - down) / (2 * step), case.token_scores @ direction, atol=1e-7)


def test_any_law_has_a_table() -> None:
    space = TrajectorySpace.of(4, 3)
    policy, wanted = TabularPolicy(space), random_law(space, 5)
    assert torch.allclose(law(policy, policy.parameters_of(wanted)), wanted, atol=1e-15)


# --- each formula broken once; the table's "ends here" lines break the others -----------------------------------------


def test_a_broken_formula_is_noticed(case: Experiment) -> None:
    pi, mu, trust = case.pi, 0.3, 0.2
    values, sampler = random_values(case), random_law(case.policy.space, 21)
    elsewhere = replace(case, parameters=case.old_parameters).scores
    lemma_a1 = case.gradient(lambda leaf: (law(case.policy, leaf) * values).sum())
    eq_1 = case.gradient(lambda leaf: exact.objective(case, leaf, mu))
    b2 = case.gradient(lambda leaf: exact.objective(case, leaf, mu, trust))
    over_old = case.reward + mu * case.demonstrator / case.pi_old
    other_sign = exact.unified_advantage(case, mu, -trust)
    broken = {
        "Lemma A1, the score of another policy": (lemma_a1, (pi * values) @ elsewhere),
        "Lemma A3, no reweighting": (lemma_a1, exact.score_expectation(case, values, sampler)),
        "Eq. 2, the other sign of mu": (eq_1, exact.two_term_gradient(case, -mu)),
        "Eq. 2, without demonstrations": (eq_1, exact.two_term_gradient(case, 0.0)),
        "Eq. 4, pi_beta over pi_old": (eq_1, exact.unified_gradient(case, over_old, pi)),
        "B.2, the other sign of lambda": (b2, exact.unified_gradient(case, other_sign, pi)),
    }
    for name, (left, wrong) in broken.items():
        assert not near(left, wrong), name


def test_masks_are_at_work_on_both_sides(case: Experiment) -> None:
    """Eq. 21 would be empty where no ratio leaves the trust region."""
    advantage, ratio = centred_reward(case), case.pi / case.pi_old
    for sign in (1, -1):
        outside = ratio > 1.2 if sign > 0 else ratio < 0.8
        assert (outside & (sign * advantage > 0)).any()  # masked
        assert (outside & (sign * advantage < 0)).any()  # outside on the harmless side, kept
    streams, _ = token_streams(case, torch.arange(len(ratio)))
    mask = stabilization.clip(CLIPPED, streams, advantage[streams.trajectory])
    assert 0 < float(mask.mean()) < 1


# --- Eq. 8 to 13 -----------------------------------------------------------------------------------------------------


def test_the_mixed_loss_is_compared_under_real_valued_alpha_and_beta(case: Experiment) -> None:
    correct = int(case.reward[one_draw(case).rollouts].sum())
    assert performance(np.array([correct]), ROLLOUTS) == 0.5
    gates = {name: with_gate(**gate).gate for name, gate in FEEDBACK.items()}
    found = {name: feedback_coefficients(gate, np.array([correct]), ROLLOUTS) for name, gate in gates.items()}
    pairs = {name: (float(alpha[0]), float(beta[0])) for name, (alpha, beta) in found.items()}
    alpha, beta = pairs.pop("sigmoid")
    assert 0.5 < alpha < 1
    assert alpha + beta == pytest.approx(1)
    assert pairs == {"switch below": (0, 1), "switch above": (1, 0), "linear": (0.5, 0.5), "constant": (0.7, 1.9)}
