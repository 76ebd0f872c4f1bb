"""Table 1 and Figure 1 from code: a broken row shows, a reading that is none costs nothing, the tokens are real."""

from dataclasses import replace

import numpy as np
import pytest

from hpt.laboratory import table1
from hpt.laboratory.table1 import load_group, token_parts
from hpt.upge.estimator import ROWS


def test_a_row_with_one_wrong_part_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table1.ROWS, "cispo", replace(ROWS["cispo"], denominator="old"))
    found = table1.agreements([1]).set_index("row")["largest_difference"]
    assert found.index.to_list() == list(ROWS)
    assert found.index[found > 1e-12].to_list() == ["cispo"]
    assert found["cispo"] > 1e-3


def test_every_reading_moves_the_gradient() -> None:
    gaps = table1.reading_gaps().set_index("point")
    assert (gaps["relative_difference"] > 0.1).all()
    angles = gaps["angle_degrees"]
    assert angles["GRPO"] < 30 < angles["CISPO"]  # a learning rate, and another method
    assert angles["LUFFY, std"] < 10


def test_a_reading_that_is_none_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    same = table1.Reading("none", "", "", (ROWS["grpo"],), (ROWS["grpo"],))
    monkeypatch.setattr(table1, "READINGS", (same,))
    (gap,) = table1.reading_gaps([1]).itertuples()
    assert (gap.relative_difference, gap.length_ratio) == (0.0, 1.0)
    assert gap.angle_degrees == pytest.approx(0, abs=1e-5)


def test_the_groups_weights_are_equation_6_by_hand() -> None:
    group = load_group()
    rollouts = np.flatnonzero(~group.is_demonstration)
    rewards = group.rewards[rollouts]
    assert 0 < rewards.mean() < 1
    advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
    grpo, cispo = token_parts(group, ROWS["grpo"]), token_parts(group, ROWS["cispo"])
    lengths = [len(group.logprobs[i]) for i in rollouts]
    advantage = np.repeat(advantages, lengths)
    old = np.concatenate([group.old_logprobs[i] for i in rollouts])
    ratio = np.exp(np.concatenate([group.logprobs[i] for i in rollouts]) - old)
    outside = np.where(advantage > 0, ratio > 1.2, ratio < 0.8)
    assert outside.any(), "nothing is masked: the figure would show nothing"
    np.testing.assert_allclose(grpo["weight"], np.where(outside, 0, ratio * advantage), rtol=1e-9)
    np.testing.assert_allclose(cispo["weight"], np.minimum(ratio, 1.28) * advantage, rtol=1e-9)
    np.testing.assert_allclose(grpo["inverse_denominator"], np.exp(-old), rtol=1e-9)
    assert (grpo["trajectory"] == np.repeat(rollouts, lengths)).all()
    sft = token_parts(group, ROWS["sft"])
    assert sft["trajectory"].unique().tolist() == [len(group.tokens) - 1]
    assert (sft["weight"] == 1).all()
