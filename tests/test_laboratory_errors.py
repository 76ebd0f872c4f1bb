"""The laboratory's measurements: rows against the textbook, sampled against listed draws, moments against formulas."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from hpt.laboratory import textbook
from hpt.laboratory.errors import derived, measure, pooled, sums_of
from hpt.laboratory.exact import (
    Experiment,
    TransformerPolicy,
    objective,
    random_parameters,
    token_entropies,
    token_logprobs,
)
from hpt.laboratory.experiment import (
    USES,
    Draws,
    made_stale,
    make_experiment,
    row_gradients,
    sample_draws,
)
from hpt.laboratory.textbook import Textbook
from hpt.support.errors import ConfigError
from hpt.upge.estimator import ROWS


def small(seed: int = 0, **options: object) -> Experiment:
    settings = {"vocabulary": 3, "length": 3, "correct_share": 0.3, "rollouts": 3, "slips": 0.1, **options}
    return make_experiment(seed, **settings)  # type: ignore[arg-type]


def list_draws(experiment: Experiment, with_demonstrations: bool = True) -> Draws:
    """Every possible draw with its probability: expectations over them are exact."""
    rollout, demonstration = (torch.nonzero(law > 0).flatten() for law in (experiment.pi_old, experiment.demonstrator))
    demonstration = demonstration if with_demonstrations else demonstration[:1]
    cells = torch.cartesian_prod(*[rollout] * experiment.rollouts, demonstration)
    weights = experiment.pi_old[cells[:, :-1]].prod(1)
    weights = weights * experiment.demonstrator[cells[:, -1]] if with_demonstrations else weights
    return Draws(cells[:, :-1], cells[:, -1], weights)


def transformer(stale: float = 0.05) -> Experiment:
    torch.manual_seed(0)
    tabular = small(rollouts=4)
    policy = TransformerPolicy(tabular.policy.space)
    parameters = random_parameters(policy, 1, 0.3)
    experiment = replace(tabular, policy=policy, parameters=parameters, old_parameters=parameters)
    return made_stale(experiment, stale)


def as_textbook(experiment: Experiment, draws: Draws, index: int, pooled_group: bool, leaf: Tensor) -> Textbook:
    """Draw ``index`` as the papers' padded symbols: one question."""
    space = experiment.policy.space
    now, before = token_logprobs(experiment.policy, leaf), token_logprobs(experiment.policy, experiment.old_parameters)
    entropies = token_entropies(experiment.policy, leaf)
    rollouts, demonstration = draws.rollouts[index], draws.demonstrations[index]
    rollouts = rollouts[1:] if pooled_group else rollouts  # a demonstration takes a place in the group

    def own(chosen: Tensor, values: Tensor, per_state: bool = False) -> Tensor:
        where = space.state[chosen] if per_state else space.pair[chosen]
        return values[where] * space.mask[chosen]

    nothing = torch.zeros(1, len(rollouts), space.length, dtype=torch.float64)

    return Textbook(
        logp=own(rollouts, now)[None],
        old=own(rollouts, before)[None].detach(),
        mask=space.mask[rollouts][None],
        entropy=own(rollouts, entropies, per_state=True)[None],
        demo_logp=own(demonstration[None], now),
        demo_mask=space.mask[demonstration[None]],
        demo_entropy=own(demonstration[None], entropies, per_state=True),
        reward=experiment.reward[rollouts][None],
        demo_reward=experiment.reward[demonstration[None]],
        kl=nothing,
        values=own(rollouts, experiment.values, per_state=True)[None],
        clipped=nothing.bool(),
        baseline=experiment.baseline,
        longest=space.length,
    )


@pytest.mark.parametrize(
    "make", [lambda: made_stale(small(rollouts=4), 0.2), transformer], ids=["table", "transformer"]
)
@pytest.mark.parametrize("name", [name for name in ROWS if name != "clip_cov"])
def test_a_rows_gradient_on_a_draw_is_that_of_the_papers_loss(name: str, make) -> None:
    experiment = make()
    draws = sample_draws(experiment, 25, seed=3)
    found, _ = row_gradients(name, experiment, draws)
    compared = 0
    for index in range(len(found)):
        leaf = experiment.parameters.clone().requires_grad_()
        pooled_group = USES[name].group == "rollouts_and_demonstration"
        loss = getattr(textbook, name)(as_textbook(experiment, draws, index, pooled_group, leaf))
        (expected,) = torch.autograd.grad(-loss, leaf)
        size = float(expected.norm())
        compared += size > 1e-3
        assert float((found[index] - expected).norm()) < 1e-9 * max(size, 1e-3), index
    assert compared > 5, "nothing would be compared"


def expected_gradient(name: str, experiment: Experiment) -> Tensor:
    draws = list_draws(experiment, with_demonstrations=False)
    assert float(draws.weights.sum()) == pytest.approx(1.0, abs=1e-12)
    return draws.weights @ row_gradients(name, experiment, draws)[0]


def test_rloo_is_unbiased_on_its_own_policys_rollouts_and_biased_on_anothers() -> None:
    experiment = small()
    assert torch.allclose(expected_gradient("rloo", experiment), experiment.true_gradient, atol=1e-13)
    stale = made_stale(experiment, 0.2)
    assert not torch.allclose(expected_gradient("rloo", stale), stale.true_gradient, atol=1e-3)


@pytest.mark.parametrize(("name", "factor"), [("reinforce", 2.0), ("dr_grpo", (3 - 1) / 3 / 3), ("dapo", None)])
def test_scales_of_expectations_known_by_hand(name: str, factor: float | None) -> None:
    """+1/-1 doubles r; the group's own mean costs 1/n, the constant length is a divisor; a token mean turns it."""
    experiment = small()
    mean, true = expected_gradient(name, experiment), experiment.true_gradient
    if factor is None:
        assert float(torch.cosine_similarity(mean, true, dim=0)) < 1 - 1e-6
    else:
        assert torch.allclose(mean, factor * true, atol=1e-13)


def test_sft_is_the_demonstrators_score_and_the_second_term_of_equation_2() -> None:
    experiment = small(mu=1.0)
    draws = list_draws(replace(experiment, rollouts=1))
    scores = experiment.policy.space.incidence @ experiment.token_scores
    expected = experiment.demonstrator @ (scores / experiment.policy.space.lengths[:, None])
    sft = draws.weights @ row_gradients("sft", experiment, draws)[0]
    assert torch.allclose(sft, expected, atol=1e-13)


def test_true_gradient_is_that_of_equation_1() -> None:
    experiment = made_stale(small(mu=0.7), 0.1)
    expected = experiment.gradient(lambda leaf: objective(experiment, leaf, 0.7))
    assert torch.allclose(experiment.true_gradient, expected, atol=1e-13)


@pytest.mark.parametrize("name", list(USES))
def test_sampled_moments_agree_with_listed_ones(name: str) -> None:
    experiment = made_stale(small(rollouts=2), 0.1)
    target = experiment.true_gradient
    gradients, weights = row_gradients(name, experiment, everything := list_draws(experiment))[0], everything.weights
    mean, square = weights @ gradients, float(weights @ (gradients**2).sum(1))
    exact = [float(mean @ target), float(mean @ mean), square, float(target @ target)]
    repeated = []
    for seed in range(20):
        draws = sample_draws(experiment, 100, seed)
        repeated.append(list(sums_of(row_gradients(name, experiment, draws)[0], draws, target).values()))
    found, spread = np.mean(repeated, 0), np.std(repeated, 0, ddof=1) / np.sqrt(len(repeated))
    assert (np.abs(found - exact) < 4.5 * spread + 1e-12).all()
    assert square > exact[1] > 0


def test_plain_mean_squares_would_be_biased_by_noise() -> None:
    experiment = small()
    draws = sample_draws(experiment, 50, seed=0)
    gradients, _ = row_gradients("rloo", experiment, draws)
    plain = float((gradients.mean(0) ** 2).sum())
    assert sums_of(gradients, draws, experiment.true_gradient)["mean_square"] < plain


def test_the_reading_of_the_four_sums() -> None:
    generator = np.random.default_rng(0)
    target, mean, noise = generator.normal(size=3), generator.normal(size=3), 0.3
    mean = mean if mean @ target > 0 else -mean
    size, square = float(target @ target), float(mean @ mean) + 3 * noise**2
    found = derived(float(mean @ target), float(mean @ mean), square, size)
    k = (mean @ target) / square
    best = (k**2 * square - 2 * k * mean @ target + size) / size
    assert found["error"] == pytest.approx(best)
    assert found["error"] == pytest.approx(1 - 1 / (1 + found["bias_across"] ** 2 + found["noise"] ** 2))
    assert found["mse"] == pytest.approx(found["bias"] ** 2 + found["variance"])
    assert found["bias"] == pytest.approx(np.linalg.norm(mean - target) / np.sqrt(size))
    backwards = derived(-float(mean @ target), float(mean @ mean), square, size)
    assert backwards["error"] == 1
    assert np.isinf(backwards["noise"])


@pytest.mark.parametrize("length", [1.0, 0.3, -0.3])
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_the_last_bits_of_the_sums_are_in_no_number(length: float, noise: float) -> None:
    """Processors round sums otherwise: a mean that lies along the truth is 0 or 180 degrees away, not 1e-6 more."""
    generator = np.random.default_rng(0)
    size = generator.uniform(0.5, 2, 1000)
    sums = length * size, length**2 * size, (length**2 + noise**2) * size, size
    found = derived(*(own * (1 + generator.integers(-2, 3, 1000) * 2.0**-52) for own in sums))
    known = {
        "angle": 0.0 if length > 0 else 180.0, "bias": abs(1 - length), "variance": noise**2,
        "bias_across": 0.0 if length > 0 else np.inf, "noise": noise / length if length > 0 else np.inf,
        "error": noise**2 / (length**2 + noise**2) if length > 0 else 1.0,
    }  # fmt: skip
    for name, value in known.items():
        if value in (0.0, 180.0, np.inf):
            assert (found[name] == value).all(), name
        else:
            assert found[name] == pytest.approx(value, rel=1e-12), name


def test_what_is_small_and_is_no_rounding_stays_and_without_a_signal_nothing_is_said() -> None:
    found = derived(along=1.0, mean_square=1 + 1e-10, square=1 + 2e-10, size=1.0)
    known = {"bias_across": 1e-5, "angle": np.degrees(1e-5), "variance": 1e-10, "error": 2e-10}
    assert {name: found[name] for name in known} == pytest.approx(known, rel=1e-4)
    # no truth to compare with: a resample of such questions must not count as one without error
    for name, values in derived(along=np.array([0.0, 1.0]), mean_square=4.0, square=5.0, size=0.0).items():
        assert np.isnan(values).all(), name


def test_pooling_questions_finds_the_bias_that_no_single_question_shows() -> None:
    """Twice the weight on one of two questions: exact on each, wrong on both together."""
    lines = [{"row": "r", "question": q, "along": s, "mean_square": s * s, "square": s * s, "size": 1.0,
              "tokens": 1.0, "masked_tokens": 0.0} for q, s in enumerate((1.0, 2.0))]  # fmt: skip
    frame = pooled(pd.DataFrame(lines))
    assert frame["error"].iloc[0] == pytest.approx(1 - 9 / (5 * 2))
    assert derived(2.0, 4.0, 4.0, 1.0)["error"] == 0


def test_dials_turn_what_they_say() -> None:
    """Success the share of right answers and nothing else; staleness the divergence asked for."""
    low, high = small(success=0.1), small(success=0.9)
    assert (low.success, high.success) == (pytest.approx(0.1), pytest.approx(0.9))
    right = low.reward > 0
    assert torch.allclose(low.pi[right] / 0.1, high.pi[right] / 0.9)
    assert torch.equal(low.demonstrator, high.demonstrator)
    stale = made_stale(small(), 0.05)
    assert float((stale.pi_old * (stale.pi_old / stale.pi).log()).sum()) == pytest.approx(0.05, rel=1e-6)
    assert torch.equal(stale.pi_old, small().pi)
    for change in ({"success": 0.0}, {"correct_share": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            make_experiment(0, **change)  # type: ignore[arg-type]


def test_draws_are_seeded_and_shared_by_rows() -> None:
    experiment = small()
    drawn, again, other = (sample_draws(experiment, 20, seed) for seed in (1, 1, 2))
    assert torch.equal(drawn.rollouts, again.rollouts)
    assert not torch.equal(drawn.rollouts, other.rollouts)
    frame = measure({"a": "grpo", "b": "grpo"}, experiment, drawn)
    assert frame.drop(columns="row").nunique().max() == 1
