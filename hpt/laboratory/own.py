"""Whole methods as estimators: what a method of the package or of one's own makes of the draws of a question.

A row is one term of a loss; a method is several of them under a gate, with the coefficients and the normalisation it
trains with. Its gradient on one draw is what one question contributes to a training step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpt.config.run_config import RunConfig
from hpt.laboratory.experiment import Draws, Experiment, row_gradients
from hpt.methods.gate import feedback_coefficients
from hpt.methods.methods import method_named, resolved_row
from hpt.methods.mixture import NORMALIZATIONS
from hpt.support.errors import ConfigError


def method_gradients(config: RunConfig, experiment: Experiment, draws: Draws) -> tuple[Tensor, dict[str, float]]:
    """Return the ascent direction of a method on every draw, [S, D] (Eq. 11-13), and sums over its tokens.

    Args:
        config: of the method: its gate, rows, coefficients and normalisation; L is the experiment's longest answer.
        experiment: the question and the policies.
        draws: what is seen of it; n is the draws', not the configuration's.

    Example:
        >>> from hpt.laboratory.experiment import sample_draws
        >>> from hpt.laboratory.questions import make_experiment
        >>> from hpt.runs.resolve import build_config
        >>> own = make_experiment(seed=0, success=0.5)
        >>> method_gradients(build_config("hpt"), own, sample_draws(own, 5, seed=0))[0].shape[0]
        5
    """
    method = method_named(config.method)
    if method.stages:
        raise ConfigError("method", config.method, "a method of one stage", "name one of " + ", ".join(method.stages))
    correct = experiment.question.reward[draws.rollouts].sum(1).long().numpy()
    n = draws.rollouts.shape[1]
    alpha, beta = (torch.from_numpy(values) for values in feedback_coefficients(config.gate, correct, n))
    total, sums = None, {"tokens": 0.0, "masked_tokens": 0.0}
    for component in method.components:
        row = resolved_row(component, config)
        kind = config.estimator.normalization
        rule = row.aggregation if kind == "row" else NORMALIZATIONS[kind, component.scale]
        gradients, row_sums = row_gradients(component, experiment, draws, rule, row)
        weight = getattr(config.estimator, component.coefficient) * (alpha if component.data == "rollouts" else beta)
        total = weight[:, None] * gradients + (0.0 if total is None else total)
        sums = {name: value + row_sums[name] for name, value in sums.items()}
    assert total is not None  # a method of one stage has components
    return total, sums
