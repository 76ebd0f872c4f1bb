"""Section 2.2 and Appendix B on policies small enough to list every trajectory: both sides of each formula as sums."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hpt.config.run_config import validate
from hpt.laboratory import truth
from hpt.laboratory.cases import (
    CASES,
    ONE_TOKEN,
    Case,
    case,
    every_trajectory,
    make_case,
    references,
    some_law,
    some_values,
    token_weighted,
    without_demonstrations,
)
from hpt.laboratory.derivation import TOLERANCE, checks, one_token_checks
from hpt.laboratory.exact import (
    TabularPolicy,
    TrajectorySpace,
    random_parameters,
    token_logprobs,
    trajectory_logprobs,
)
from hpt.laboratory.mixed import FEEDBACK, ROLLOUTS, make_mixed, mixed_checks, package_gradient, printed_gradient
from hpt.methods.gate import feedback_coefficients, performance
from hpt.upge import stabilization
from hpt.upge.estimator import ROWS, unified_weights


@pytest.fixture(scope="module", params=CASES, ids=str)
def own(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


def near(left: Tensor, right: Tensor) -> bool:
    assert left.norm() > 1e-5, "nothing would be compared"
    return float((left - right).abs().max()) < TOLERANCE * float(left.norm())


def test_the_table_of_the_derivation_holds(own: Case) -> None:
    """Every statement of the package's table: identities to rounding, and where one ends by more than a hundredth."""
    for check in (*checks(own), *mixed_checks(own)):
        assert check.difference < TOLERANCE if check.identity else check.difference > 0.01, check
    for check in one_token_checks(case(*ONE_TOKEN)):
        assert check.difference < TOLERANCE if check.identity else check.difference > 0.01, check


# --- the ground everything stands on ---------------------------------------------------------------------------------


def test_all_trajectories_are_there_once_and_their_probabilities_sum_to_one(own: Case) -> None:
    space = own.policy.space
    inner = space.vocabulary - space.ends
    assert len(space) == inner**space.length + space.ends * sum(inner**size for size in range(space.length))
    assert len({tuple(row.tolist()) for row in torch.cat([space.tokens, space.lengths[:, None]], 1)}) == len(space)
    assert float((own.pi.sum() - 1).abs()) < 1e-13


def test_a_policys_tokens_do_not_look_ahead(own: Case) -> None:
    """The probability of a prefix, summed over how it goes on, is the product of its own tokens."""
    space = own.policy.space
    logprobs = token_logprobs(own.policy, own.parameters)
    through = own.pi @ space.incidence
    for state, prefix in enumerate(space.prefixes):
        before = through[state * space.vocabulary : (state + 1) * space.vocabulary]
        following = logprobs[state * space.vocabulary : (state + 1) * space.vocabulary].exp()
        assert torch.allclose(before, before.sum() * following, atol=1e-13), prefix


def test_token_scores_are_the_slopes_of_token_logprobs(own: Case) -> None:
    """Central differences: no autograd on this side."""
    scores = own.token_scores
    direction, step = random_parameters(own.policy, 9), 1e-5
    up, down = (token_logprobs(own.policy, own.parameters + sign * step * direction) for sign in (1, -1))
    assert torch.allclose((up - down) / (2 * step), scores @ direction, atol=1e-7)


def test_any_law_has_a_table() -> None:
    space = TrajectorySpace.of(4, 3)
    policy, wanted = TabularPolicy(space), some_law(space, 5)
    assert torch.allclose(truth.law(policy, policy.parameters_of(wanted)), wanted, atol=1e-15)


# --- Lemmas A1 to A3 -------------------------------------------------------------------------------------------------


def test_lemma_a1_score_function(own: Case) -> None:
    values = some_values(own)
    left = own.gradient(lambda leaf: (truth.law(own.policy, leaf) * values).sum())
    assert near(left, truth.score_expectation(values, own.scores, own.pi))
    assert truth.score_expectation(torch.ones_like(values), own.scores, own.pi).abs().max() < 1e-13
    # broken: the score of another point of the parameter space
    assert not near(
        left, truth.score_expectation(values, truth.trajectory_scores(own.policy, own.old_parameters), own.pi)
    )


def test_lemma_a2_parameterized_integrand(own: Case) -> None:
    """f_theta = (log pi)^2 + f: an integrand that moves with the parameters."""
    values = some_values(own)

    def integrand(leaf: Tensor) -> Tensor:
        return trajectory_logprobs(own.policy, leaf) ** 2 + values

    left = own.gradient(lambda leaf: (truth.law(own.policy, leaf) * integrand(leaf)).sum())
    moving = own.gradient(lambda leaf: (own.pi.detach() * integrand(leaf)).sum())
    score = truth.score_expectation(integrand(own.parameters), own.scores, own.pi)
    assert near(left, score + moving)
    assert not near(left, score)  # broken: Lemma A1 where A2 is needed


def test_lemma_a3_measure_change(own: Case) -> None:
    values, sampler = some_values(own), some_law(own.policy.space, 21)
    left = truth.score_expectation(values, own.scores, own.pi)
    assert near(left, truth.score_expectation(own.pi / sampler * values, own.scores, sampler))
    # the last form differentiates the probability itself
    weights = (sampler / sampler * values).detach()
    assert near(left, own.gradient(lambda leaf: (weights * truth.law(own.policy, leaf)).sum()))
    assert not near(left, truth.score_expectation(values, own.scores, sampler))  # broken: no reweighting


def test_lemma_a3_needs_a_sampler_that_covers_the_policy(own: Case) -> None:
    values, partial = some_values(own), some_law(own.policy.space, 22, zeros=5)
    left = truth.score_expectation(values, own.scores, own.pi)
    right = truth.unified_gradient(own.pi, own.scores, values, partial)
    assert not near(left, right)
    assert near(left, right + truth.lost_by_coverage(own.pi, own.scores, values, partial))


# --- Eq. 1 to 6 and B.2 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.0, 0.3, 2.0])
def test_eq_2_is_the_gradient_of_eq_1(own: Case, mu: float) -> None:
    left = truth.objective_gradient(own.policy, own.parameters, own.question, mu)
    assert near(left, truth.two_term_gradient(own.pi, own.scores, own.question, mu))
    if mu:
        assert not near(left, truth.two_term_gradient(own.pi, own.scores, own.question, -mu))
        assert not near(left, truth.two_term_gradient(own.pi, own.scores, own.question, 0.0))


@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_eq_3_with_the_advantage_of_eq_4_holds_for_every_reference_that_covers(own: Case, mu: float) -> None:
    left = truth.objective_gradient(own.policy, own.parameters, own.question, mu)
    advantage = truth.unified_advantage(own.pi, own.question, mu)
    for name, reference in references(own).items():
        assert near(left, truth.unified_gradient(own.pi, own.scores, advantage, reference)), name
    wrong = own.question.reward + mu * own.question.demonstrator / own.pi_old  # broken: pi_beta over another policy
    assert mu == 0 or not near(left, truth.unified_gradient(own.pi, own.scores, wrong, own.pi))


def test_eq_3_breaks_without_coverage_by_exactly_what_is_never_drawn(own: Case) -> None:
    """The demonstrator as reference (SFT's data) never draws half of the policy's trajectories: the RL term suffers."""
    mu, demonstrator = 0.3, own.question.demonstrator
    left = truth.objective_gradient(own.policy, own.parameters, own.question, mu)
    advantage = truth.unified_advantage(own.pi, own.question, mu)
    right = truth.unified_gradient(own.pi, own.scores, advantage, demonstrator)
    assert not near(left, right)
    assert near(left, right + truth.lost_by_coverage(own.pi, own.scores, advantage, demonstrator))
    # the SFT term alone is whole there, as section B.1 has it: it is an expectation under pi_beta already
    sft = mu * own.question.demonstrator / own.pi
    assert near(
        truth.unified_gradient(own.pi, own.scores, sft, demonstrator),
        mu * truth.score_expectation(torch.ones_like(own.pi), own.scores, demonstrator),
    )


def test_eq_4_loses_demonstrations_that_the_reference_never_draws(own: Case) -> None:
    """A reference that covers what the policy is rewarded for but not pi_beta integrates to less than the SFT term."""
    mu, ones = 0.3, torch.ones_like(own.pi)
    partial = without_demonstrations(own)
    sft = mu * own.question.demonstrator / own.pi
    whole = mu * truth.score_expectation(ones, own.scores, own.question.demonstrator)
    assert not near(whole, truth.unified_gradient(own.pi, own.scores, sft, partial))


def test_unit_reference_is_the_gradient_of_another_objective(own: Case) -> None:
    """pi_ref = 1 is no density (point 8 beside Table 1): sampled from pi_old it ascends E_old[A pi], not E_pi[A]."""
    reward = own.question.reward
    weights = own.pi  # pi / 1
    left = truth.score_expectation(weights * reward, own.scores, own.pi_old)
    assert near(left, own.gradient(lambda leaf: (own.pi_old * reward * truth.law(own.policy, leaf)).sum()))
    assert not near(left, truth.two_term_gradient(own.pi, own.scores, own.question, 0.0))


UNMASKED = ROWS["dr_grpo"].with_parameters(clip_eps_low=None, clip_eps_high=None)


def test_eq_6_is_eq_3_where_a_trajectory_is_one_token() -> None:
    """The package's own weights, summed over all trajectories with their probabilities under pi_old."""
    own = case(*ONE_TOKEN)
    advantages = truth.unified_advantage(own.pi, own.question, mu=0.3)
    streams, per_token = every_trajectory(own, advantages)
    found = token_weighted(own, unified_weights(UNMASKED, streams, per_token), own.pi_old)
    assert near(truth.objective_gradient(own.policy, own.parameters, own.question, 0.3), found)
    masked = token_weighted(own, unified_weights(ROWS["dr_grpo"], streams, per_token), own.pi_old)
    expected = truth.masked_gradient(own.pi, own.pi_old, own.scores, advantages, 0.2, 0.2)
    assert near(expected, masked)
    assert not near(found, masked)


def test_eq_18_weighs_token_by_token(own: Case) -> None:
    """Appendix A's factors are those of single tokens, Section 2's of whole trajectories; the rows use the former."""
    streams, per_token = every_trajectory(own, own.question.reward)
    found = token_weighted(own, unified_weights(UNMASKED, streams, per_token), own.pi_old)
    assert near(found, per_token_expectation(own, own.question.reward))


def test_token_level_ratios_are_biased_and_trajectory_level_ratios_are_not(own: Case) -> None:
    exact = truth.two_term_gradient(own.pi, own.scores, own.question, 0.0)
    assert near(exact, truth.unified_gradient(own.pi, own.scores, own.question.reward, own.pi_old))
    assert not near(exact, per_token_expectation(own, own.question.reward))


@pytest.mark.parametrize("trust", [0.2, 1.5])
def test_b2_trust_region_enters_the_advantage(own: Case, trust: float) -> None:
    mu = 0.3
    left = own.gradient(lambda leaf: truth.objective(own.policy, leaf, own.question, mu, trust, own.pi_old.detach()))
    advantage = truth.unified_advantage(own.pi, own.question, mu, trust, own.pi_old)
    for name, reference in references(own).items():
        assert near(left, truth.unified_gradient(own.pi, own.scores, advantage, reference)), name
    assert not near(left, truth.unified_gradient(
        own.pi, own.scores, truth.unified_advantage(own.pi, own.question, mu, -trust, own.pi_old), own.pi
    ))  # fmt: skip


# --- B.3 and Eq. 21 --------------------------------------------------------------------------------------------------


def test_eq_21_mask_is_the_derivative_of_the_surrogate(own: Case) -> None:
    """Over whole trajectories, as B.3 writes it; the bounds are active on both sides."""
    advantage, eps = own.centred, 0.2
    ratio = own.pi / own.pi_old
    for sign in (1, -1):
        outside = ratio > 1 + eps if sign > 0 else ratio < 1 - eps
        assert (outside & (sign * advantage > 0)).any()  # masked
        assert (outside & (sign * advantage < 0)).any()  # outside on the harmless side, kept
    left = own.gradient(lambda leaf: truth.ppo_surrogate(truth.law(own.policy, leaf), own.pi_old, advantage, eps, eps))
    assert near(left, truth.masked_gradient(own.pi, own.pi_old, own.scores, advantage, eps, eps))
    symmetric = ((ratio > 1 - eps) & (ratio < 1 + eps)) * ratio * advantage  # broken: 1[|r - 1| <= eps]
    assert not near(left, truth.score_expectation(symmetric, own.scores, own.pi_old))


def test_eq_21_per_token_is_the_derivative_of_the_token_surrogate(own: Case) -> None:
    """The mask of the package, token by token, against autograd through min and clip."""
    row = ROWS["dr_grpo"]
    streams, advantages = every_trajectory(own, own.centred)
    mask = stabilization.clip(row, streams, advantages)
    assert 0 < float(mask.mean()) < 1
    found = token_weighted(own, unified_weights(row, streams, advantages), own.pi_old)

    def surrogate(leaf: Tensor) -> Tensor:
        space = own.policy.space
        now, before = token_logprobs(own.policy, leaf), token_logprobs(own.policy, own.old_parameters)
        ratio = (now - before).exp()[space.pair]
        advantage = own.centred[:, None]
        clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        return (own.pi_old[:, None] * space.mask * clipped).sum()

    assert near(own.gradient(surrogate), found)


# --- Eq. 7 to 13 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEEDBACK)
def test_eq_13_mixes_eq_11_and_12_with_real_valued_alpha_and_beta(own: Case, name: str) -> None:
    expected = {"switch below": (0, 1), "switch above": (1, 0), "linear": (0.5, 0.5), "constant": (0.7, 1.9)}
    mixed = make_mixed(own, FEEDBACK[name])
    correct = np.array([int(own.question.reward[list(mixed.chosen)].sum())])
    assert performance(correct, ROLLOUTS) == 0.5
    if name in expected:
        assert (mixed.alpha, mixed.beta) == expected[name]
    else:
        assert 0.5 < mixed.alpha < 1
        assert mixed.alpha + mixed.beta == pytest.approx(1)
    assert near(printed_gradient(mixed), package_gradient(mixed))


def test_eq_13_is_linear_in_alpha_and_beta(own: Case) -> None:
    """The printed loss against sums written out here, so that both sides of the package's table cannot err alike."""
    mixed = make_mixed(own, FEEDBACK["constant"])
    space, chosen = own.policy.space, list(mixed.chosen)
    rewards = own.question.reward[chosen]
    assert rewards.tolist() == [1, 0, 1, 0]
    advantage = (rewards - 0.5) / (1 / 3**0.5 + 1e-6)  # sample standard deviation of two ones and two zeros
    found = torch.zeros_like(mixed.case.parameters)
    now, before = (token_logprobs(own.policy, theta).detach() for theta in (own.parameters, own.old_parameters))
    for trajectory, value in zip(chosen, advantage, strict=True):
        for t in range(int(space.lengths[trajectory])):
            pair = int(space.pair[trajectory, t])
            ratio = float((now[pair] - before[pair]).exp())
            kept = ratio <= 1.2 if value > 0 else ratio >= 0.8
            found -= 0.7 * kept * ratio * value / 4 * own.token_scores[pair]
    length = int(space.lengths[mixed.demonstration])
    found -= 1.9 * own.token_scores[space.pair[mixed.demonstration, :length]].sum(0) / length
    assert near(found, printed_gradient(mixed))


def test_eq_9_accepts_any_pair_of_functions_and_eq_10_is_one_of_them() -> None:
    counts = np.arange(9)
    linear = feedback_coefficients(validate({"gate": {"kind": "linear"}}).gate, counts, 8)
    assert np.allclose(linear, [counts / 8, 1 - counts / 8])
    alpha, beta = feedback_coefficients(validate({"gate": {"kind": "switch", "count": 2}}).gate, counts, 8)
    assert alpha.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert (alpha + beta == 1).all()


# --- what is expected, with autograd alone -------------------------------------------------------------------------


def per_token_expectation(own: Case, advantage: Tensor) -> Tensor:
    """E_old[sum_t (pi_t / pi_old,t) A grad log pi_t]: Eq. 18 without its mask, written with autograd."""
    space = own.policy.space

    def surrogate(leaf: Tensor) -> Tensor:
        ratio = (token_logprobs(own.policy, leaf) - token_logprobs(own.policy, own.old_parameters)).exp()[space.pair]
        return (own.pi_old[:, None] * space.mask * ratio * advantage[:, None]).sum()

    return own.gradient(surrogate)
