"""What the estimator refuses it names in full: the field, the value, what is allowed and the remedy."""

from collections.abc import Callable

import numpy as np
import pytest

from hpt.support.errors import ConfigError
from hpt.upge.advantage import RolloutGroups, advantages
from hpt.upge.aggregation import StepCounts, trajectory_scales
from hpt.upge.estimator import ROWS, Row
from hpt.upge.stabilization import clip_cov_keep


def assert_refused(refusals: dict[str, Callable[[], object]]) -> None:
    """Each call ends with exactly its message."""
    for message, call in refusals.items():
        with pytest.raises(ConfigError) as refusal:
            call()
        assert str(refusal.value) == message


def test_rows_refuse_constants_they_do_not_have_or_cannot_use() -> None:
    plain = Row("mine", "none", "unit", "one", "token_mean")
    bounded = Row("mine", "none", "unit", "one", "token_mean", {"clip_eps_low": None})
    two = Row("mine", "none", "unit", "one", "token_mean", {"clip_eps_low": 0.1, "kl_coefficient": 0.1})
    refusals = {
        "row mine: clip_eps_low = -1: allowed is a number of at least 0, or None for no bound; correct the value":
            lambda: Row("mine", "none", "unit", "one", "token_mean", {"clip_eps_low": -1}),
        "row mine: parameters = 'none': allowed is a set with std in it; give the row std":
            lambda: plain.parameter("std"),
        "row mine: parameters = 'clip_eps_low': allowed is a set with std in it; give the row std":
            lambda: bounded.parameter("std"),
        "row mine: parameters = 'clip_eps_low, kl_coefficient': allowed is a set with std in it; give the row std":
            lambda: two.parameter("std"),
        "row mine: std = 'none': allowed is a constant of this row (clip_eps_low, kl_coefficient); "
        "leave it out or choose another row":
            lambda: two.with_parameters(std="none"),
        "row mine: clip_eps_low = None: allowed is a number; correct the value":
            lambda: bounded.number("clip_eps_low"),
        "row mine: std = 'none': allowed is a constant of this row (none); leave it out or choose another row":
            lambda: plain.with_parameters(std="none"),
        "row mine: std = 'none': allowed is a constant of this row (clip_eps_low); leave it out or choose another row":
            lambda: bounded.with_parameters(std="none"),
    }  # fmt: skip
    assert_refused(refusals)


def test_batches_without_what_a_row_needs_are_refused() -> None:
    groups = RolloutGroups(np.ones(2), np.zeros(2, int), np.zeros(2, bool), np.ones(2, int))
    counts = StepCounts(1, 2, 8, sequences=2, tokens=4, ranks=1, micro_batches=1, pooled_tokens=0)
    penalised = ROWS["rloo"].with_parameters(kl_coefficient=0.1)
    refusals = {
        "row rloo: kl_coefficient = 0.1: allowed is 0 when the batch has no kl; "
        "compute log-probs of the frozen policy, or set kl_coefficient to 0":
            lambda: advantages(penalised, groups),
        "row ppo: values = None: allowed is one value per token; "
        "choose another row: no critic is trained here, so PPO can be studied but not trained with":
            lambda: advantages(ROWS["ppo"], groups),
        "StepCounts.pooled_tokens = 0: allowed is a positive count; "
        "count the tokens of rollouts and demonstrations of the step together":
            lambda: trajectory_scales("pooled_token_mean", np.ones(2, int), counts),
    }  # fmt: skip
    assert_refused(refusals)


def test_values_that_are_not_one_per_trajectory_are_refused() -> None:
    groups = RolloutGroups(np.ones(2), np.zeros(2, int), np.zeros(2, bool), np.ones(2, int), values=[np.ones(1)])
    with pytest.raises(ValueError, match="shorter"):
        advantages(ROWS["ppo"], groups)


def test_clip_cov_of_a_batch_without_tokens_keeps_nothing_and_asks_nothing() -> None:
    empty = [np.zeros(0), np.zeros(0)]
    kept = clip_cov_keep(ROWS["clip_cov"], empty, empty, seed=0, step=0, problem_ids=["a", "b"], samples=[0, 0])
    assert [(own.shape, own.dtype) for own in kept] == [((0,), np.dtype(bool))] * 2
