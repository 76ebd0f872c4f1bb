"""Section 2.2 and Appendix B on policies small enough to list every trajectory: both sides of each formula as sums."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hpt.assembly import QuestionBatch, assemble
from hpt.batch import DEMONSTRATION, Trajectory, collate
from hpt.config import validate
from hpt.gate import feedback_coefficients, performance
from hpt.laboratory import truth
from hpt.laboratory.exact import (
    ExactPolicy,
    TabularPolicy,
    TrajectorySpace,
    TransformerPolicy,
    random_parameters,
    token_entropies,
    token_logprobs,
    token_scores,
    trajectory_logprobs,
)
from hpt.laboratory.truth import Question
from hpt.methods import method_named, resolved_row
from hpt.scales import build_config
from hpt.update import micro_batch_loss
from hpt.upge import stabilization
from hpt.upge.estimator import ROWS, TokenStreams, unified_weights

#: Relative; float64 sums over at most 625 terms lose 1e-13, a wrong term is worth more than 1e-4.
TOLERANCE = 1e-10


@dataclass(eq=False)
class Case:
    """A policy at two points (now and when it sampled), a question, and everything derived from them."""

    policy: ExactPolicy
    parameters: Tensor
    old_parameters: Tensor
    question: Question

    def __post_init__(self) -> None:
        self.pi = truth.law(self.policy, self.parameters)
        self.pi_old = truth.law(self.policy, self.old_parameters)
        self.token_scores = token_scores(self.policy, self.parameters)
        self.scores = self.policy.space.incidence @ self.token_scores

    def gradient(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return truth.gradient(function, self.parameters)


def some_law(space: TrajectorySpace, seed: int, zeros: int = 0) -> Tensor:
    """A random law; the first ``zeros`` trajectories of a shuffle have probability 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(len(space), generator=generator, dtype=torch.float64)
    weights[torch.randperm(len(space), generator=generator)[:zeros]] = 0
    return weights / weights.sum()


def case(kind: type[ExactPolicy], vocabulary: int, length: int, ends: bool, seed: int, spread: float) -> Case:
    torch.manual_seed(seed)
    space = TrajectorySpace.of(vocabulary, length, ends)
    policy = kind(space)  # type: ignore[call-arg]
    generator = np.random.default_rng(seed)
    reward = torch.from_numpy(generator.integers(0, 2, len(space)).astype(np.float64))
    parameters = random_parameters(policy, seed, spread)
    old = parameters + random_parameters(policy, seed + 1, spread=0.4 * spread)
    return Case(policy, parameters, old, Question(space, reward, some_law(space, seed, zeros=len(space) // 2)))


CASES = {
    "tabular-3-3": (TabularPolicy, 3, 3, True, 0, 1.0),
    "tabular-5-4": (TabularPolicy, 5, 4, False, 1, 1.0),
    "tabular-5-4-ends": (TabularPolicy, 5, 4, True, 2, 1.0),
    "transformer-3-4": (TransformerPolicy, 3, 4, True, 3, 0.3),
    "transformer-4-3": (TransformerPolicy, 4, 3, False, 4, 0.3),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def own(request: pytest.FixtureRequest) -> Case:
    return case(*CASES[request.param])


def near(left: Tensor, right: Tensor) -> bool:
    assert left.norm() > 1e-5, "nothing would be compared"
    return float((left - right).abs().max()) < TOLERANCE * float(left.norm())


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


def some_values(own: Case) -> Tensor:
    return torch.from_numpy(np.random.default_rng(11).normal(size=len(own.pi)))


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


def references(own: Case) -> dict[str, Tensor]:
    space = own.policy.space
    demonstrator = own.question.demonstrator
    return {
        "pi": own.pi,
        "pi_old": own.pi_old,
        "uniform": torch.full((len(space),), 1 / len(space), dtype=torch.float64),
        "mixture of pi_old and pi_beta": 0.5 * own.pi_old + 0.5 * demonstrator,
    }


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
    partial = torch.where(own.question.demonstrator > own.question.demonstrator.median(), 0.0, own.pi_old)
    partial = partial / partial.sum()
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
    own = case(TabularPolicy, 5, 1, False, 7, 1.0)
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


def centred(own: Case) -> Tensor:
    return own.question.reward - (own.pi_old * own.question.reward).sum()


def test_eq_21_mask_is_the_derivative_of_the_surrogate(own: Case) -> None:
    """Over whole trajectories, as B.3 writes it; the bounds are active on both sides."""
    advantage, eps = centred(own), 0.2
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
    streams, advantages = every_trajectory(own, centred(own))
    mask = stabilization.clip(row, streams, advantages)
    assert 0 < float(mask.mean()) < 1
    found = token_weighted(own, unified_weights(row, streams, advantages), own.pi_old)

    def surrogate(leaf: Tensor) -> Tensor:
        space = own.policy.space
        now, before = token_logprobs(own.policy, leaf), token_logprobs(own.policy, own.old_parameters)
        ratio = (now - before).exp()[space.pair]
        advantage = centred(own)[:, None]
        clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        return (own.pi_old[:, None] * space.mask * clipped).sum()

    assert near(own.gradient(surrogate), found)


# --- Eq. 7 to 13 -----------------------------------------------------------------------------------------------------


def rollouts_of(own: Case, chosen: list[int], index: int = 0) -> tuple[Trajectory, ...]:
    """Trajectories of the space as rollouts of pi_old."""
    space, before = own.policy.space, token_logprobs(own.policy, own.old_parameters)
    made = []
    for sample, position in enumerate(chosen):
        length = int(space.lengths[position])
        tokens = space.tokens[position, :length].numpy().astype(np.int32)
        old = before[space.pair[position, :length]].detach().numpy()
        reward = float(own.question.reward[position])
        made.append(Trajectory(f"q{index}", index, sample, np.zeros(1, np.int32), tokens, old, reward, 0))
    return tuple(made)


FEEDBACK = {
    "switch below": ({"kind": "switch", "count": 4}, None),
    "switch above": ({"kind": "switch", "count": 0}, None),
    "linear": ({"kind": "linear"}, (0.5, 0.5)),
    "sigmoid": ({"kind": "sigmoid", "count": 1, "slope": 3.0}, None),
    "constant": ({"kind": "constant", "alpha": 0.7, "beta": 1.9}, (0.7, 1.9)),
}


@pytest.mark.parametrize("name", FEEDBACK)
def test_eq_13_mixes_eq_11_and_12_with_real_valued_alpha_and_beta(own: Case, name: str) -> None:
    gate, expected = FEEDBACK[name]
    space, n = own.policy.space, 4
    right = torch.nonzero(own.question.reward > 0).flatten().tolist()
    wrong = torch.nonzero(own.question.reward == 0).flatten().tolist()
    chosen = [right[0], wrong[1], right[2], wrong[-1]]  # P = 1/2, Eq. 8
    settings = {
        "gate": gate,
        "rollout": {"rollouts_per_prompt": n},
        "schedule": {"prompts_per_step": 1, "updates_per_step": 1},
    }
    dotted = {f"{section}.{key}": value for section, values in settings.items() for key, value in values.items()}
    config = build_config("hpt", scale="tiny", recipe="paper", settings=dotted)
    correct = np.array([int(own.question.reward[chosen].sum())])
    assert performance(correct, n) == 0.5
    (alpha,), (beta,) = feedback_coefficients(config.gate, correct, n)
    if expected is not None:
        assert (alpha, beta) == expected
    rollouts = rollouts_of(own, chosen)
    position = right[1]
    (demonstration,) = rollouts_of(own, [position])
    demonstration = replace(demonstration, sample=DEMONSTRATION, old_logprobs=0 * demonstration.old_logprobs)
    method = method_named("hpt")
    batch = QuestionBatch("q0", rollouts, demonstration, float(alpha), float(beta))
    (items,) = assemble([batch], method, config, step=0).updates
    rows = [resolved_row(component, config) for component in method.components]

    def package(leaf: Tensor) -> Tensor:
        micro = collate(items, len(rows), dtype=torch.float64)
        now, where = token_logprobs(own.policy, leaf), []
        for item in items:
            index = space.index(tuple(item.trajectory.response_tokens.tolist()))
            where.append(space.pair[index, : item.trajectory.length])
        pairs = torch.cat(where)
        entropies = token_entropies(own.policy, leaf)[pairs // space.vocabulary]
        return micro_batch_loss(micro, now[pairs], entropies, rows)[0]

    def printed(leaf: Tensor) -> Tensor:
        """Eq. 11 to 13 as they stand, alpha and beta as numbers."""
        now, before = token_logprobs(own.policy, leaf), token_logprobs(own.policy, own.old_parameters)
        rewards = own.question.reward[chosen]
        normalised = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        loss_rl = torch.zeros((), dtype=torch.float64)
        for trajectory, advantage in zip(chosen, normalised, strict=True):
            for t in range(int(space.lengths[trajectory])):
                pair = space.pair[trajectory, t]
                ratio = (now[pair] - before[pair]).exp()
                loss_rl = loss_rl - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) / n
        length = int(space.lengths[position])
        loss_sft = -now[space.pair[position, :length]].sum() / length
        return float(alpha) * loss_rl + float(beta) * loss_sft

    # sampled log-probs are kept in float32, hence not TOLERANCE
    left, expected_gradient = own.gradient(package), own.gradient(printed)
    assert float((left - expected_gradient).abs().max()) < 1e-6 * float(expected_gradient.abs().max())


def test_eq_9_accepts_any_pair_of_functions_and_eq_10_is_one_of_them() -> None:
    counts = np.arange(9)
    linear = feedback_coefficients(validate({"gate": {"kind": "linear"}}).gate, counts, 8)
    assert np.allclose(linear, [counts / 8, 1 - counts / 8])
    alpha, beta = feedback_coefficients(validate({"gate": {"kind": "switch", "count": 2}}).gate, counts, 8)
    assert alpha.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert (alpha + beta == 1).all()


# --- helpers: all trajectories as one micro-batch --------------------------------------------------------------------


def every_trajectory(own: Case, per_trajectory: Tensor) -> tuple[TokenStreams, Tensor]:
    """All K trajectories flattened, and a number per trajectory spread over its tokens."""
    space = own.policy.space
    on = space.mask.bool()
    now, before = (token_logprobs(own.policy, theta).detach() for theta in (own.parameters, own.old_parameters))
    owner = torch.arange(len(space))[:, None].expand_as(space.pair)[on]
    entropies = token_entropies(own.policy, own.parameters)[space.state[on]]
    streams = TokenStreams(now[space.pair[on]], entropies, before[space.pair[on]], owner, len(space))
    return streams, per_trajectory[owner]


def token_weighted(own: Case, weights: Tensor, sampled_from: Tensor) -> Tensor:
    """E_s of sum_t weight_t grad log pi_t."""
    space = own.policy.space
    on = space.mask.bool()
    owner = torch.arange(len(space))[:, None].expand_as(space.pair)[on]
    per_pair = torch.zeros(len(space.prefixes) * space.vocabulary, dtype=torch.float64)
    per_pair.index_add_(0, space.pair[on], weights * sampled_from[owner])
    return per_pair @ own.token_scores


def per_token_expectation(own: Case, advantage: Tensor) -> Tensor:
    """E_old[sum_t (pi_t / pi_old,t) A grad log pi_t]: Eq. 18 without its mask, written with autograd."""
    space = own.policy.space

    def surrogate(leaf: Tensor) -> Tensor:
        ratio = (token_logprobs(own.policy, leaf) - token_logprobs(own.policy, own.old_parameters)).exp()[space.pair]
        return (own.pi_old[:, None] * space.mask * ratio * advantage[:, None]).sum()

    return own.gradient(surrogate)
