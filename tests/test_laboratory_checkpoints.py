"""Gradients of the rows at checkpoints: sums from products between rollouts are those of the gradients themselves."""

import numpy as np
import pytest
import torch

from benchmarks.checkpoint_error import (
    ON_DEMONSTRATION,
    ON_ROLLOUTS,
    Half,
    coefficients,
    question_lines,
    truth_coefficients,
)
from hpt.laboratory.errors import derived
from hpt.laboratory.experiment import Draws, make_experiment, row_gradients, sample_draws

COUNT, N = 24, 6


OWN = make_experiment(seed=3, success=0.4, rollouts=N)
SPACE, DEMONSTRATION = OWN.policy.space, int(OWN.demonstrator.argmax())
SCORES, LENGTH = SPACE.incidence @ OWN.token_scores, int(SPACE.lengths[DEMONSTRATION])


def halves() -> tuple[list[Half], np.ndarray]:
    """Two halves of fresh rollouts of an enumerable policy, with exact scores, and the trajectories they are."""
    drawn = sample_draws(OWN, 2 * COUNT // N, seed=5).rollouts.flatten().numpy().reshape(2, COUNT)
    offline = SCORES[DEMONSTRATION].repeat(len(ON_DEMONSTRATION), 1)
    made = [
        Half(torch.cat([SCORES[part], offline]).float(), OWN.reward[part].numpy(), SPACE.lengths[part].numpy())
        for part in drawn
    ]
    return made, drawn


@pytest.mark.parametrize("name", [*ON_ROLLOUTS, "sft"])
def test_a_rows_gradient_is_that_of_the_laboratory(name: str) -> None:
    """On fresh rollouts coefficients times scores are what the package's estimator gives for the same draw."""
    (first, _), drawn = halves()
    found = coefficients(name, first, LENGTH, N, SPACE.length, seed=0, draws=20)
    generator = np.random.default_rng(0)
    for c in found:
        chosen = drawn[0][generator.choice(COUNT, N, replace=False)]
        draw = Draws(torch.from_numpy(chosen)[None], torch.tensor([DEMONSTRATION]), torch.ones(1).double())
        expected, _ = row_gradients(name, OWN, draw)
        assert torch.allclose(c @ first.scores.double(), expected[0], atol=1e-6)


def test_the_truth_is_estimated_without_bias() -> None:
    """Averaged over many halves, rewards minus the mean of the others give the gradient of expected reward."""
    drawn = sample_draws(OWN, 4000, seed=9).rollouts
    total = torch.zeros(SCORES.shape[1], dtype=torch.float64)
    for part in drawn:
        seen = Half(SCORES[part], OWN.reward[part].numpy(), SPACE.lengths[part].numpy())
        total += truth_coefficients(seen)[: len(part)] @ SCORES[part]
    assert float((total / len(drawn) - OWN.true_gradient).norm() / OWN.true_gradient.norm()) < 0.1


def test_the_sums_are_those_of_the_gradients() -> None:
    made, _ = halves()
    truths = [truth_coefficients(half) @ half.scores.double() for half in made]
    for line in question_lines(made, LENGTH, N, SPACE.length, draws=30):
        gradients = [coefficients(line["row"], half, LENGTH, N, SPACE.length, seed, 30) @ half.scores.double()
                     for seed, half in enumerate(made)]  # fmt: skip
        means = [own.mean(0) for own in gradients]
        assert line["size"] == pytest.approx(float(truths[0] @ truths[1]), rel=1e-4)
        assert line["mean_square"] == pytest.approx(float(means[0] @ means[1]), rel=1e-4, abs=1e-6)
        along = float(means[0] @ truths[1] + truths[0] @ means[1]) / 2
        assert line["along"] == pytest.approx(along, rel=1e-4, abs=1e-6)
        assert line["square"] == pytest.approx(float(torch.cat(gradients).square().sum(1).mean()), rel=1e-4)
        assert np.isfinite(derived(*(line[name] for name in ("along", "mean_square", "square", "size")))["error"])
