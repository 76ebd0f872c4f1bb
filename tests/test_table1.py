"""Table 1 and Figure 1 from code: a broken row shows, a reading that is none costs nothing, the tokens are real."""

from dataclasses import replace

import numpy as np
import pytest

from hpt.laboratory import table1
from hpt.laboratory.table1 import load_group, token_parts
from hpt.upge.estimator import ROWS


def test_every_row_is_there_and_agrees_with_its_loss() -> None:
    found = table1.agreements([1, 2])
    assert [own.row.name for own in found] == list(ROWS)
    assert max(own.largest_difference for own in found) < 1e-12
    assert all(own.loss for own in found)


def test_a_row_with_one_wrong_part_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    row = "cispo"
    monkeypatch.setitem(table1.ROWS, row, replace(ROWS[row], denominator="old"))
    found = {own.row.name: own.largest_difference for own in table1.agreements([1])}
    assert found.pop(row) > 1e-3
    assert max(found.values()) < 1e-12


def test_every_reading_moves_the_gradient() -> None:
    gaps = {own.reading.name: own for own in table1.reading_gaps()}
    assert all(own.difference > 0.1 for own in gaps.values())
    assert gaps["GRPO"].angle_degrees < 30 < gaps["CISPO"].angle_degrees  # a learning rate, and another method
    assert gaps["LUFFY, std"].angle_degrees < 10


def test_a_reading_that_is_none_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    same = table1.Reading("none", "", "", (ROWS["grpo"],), (ROWS["grpo"],))
    monkeypatch.setattr(table1, "READINGS", (same,))
    (gap,) = table1.reading_gaps([1])
    assert (gap.difference, gap.length_ratio) == (0.0, 1.0)
    assert gap.angle_degrees == pytest.approx(0, abs=1e-5)


def test_the_groups_weights_are_equation_6_by_hand() -> None:
    group = load_group()
    rollouts = np.flatnonzero(~group.is_demonstration)
    rewards = group.rewards[rollouts]
    assert 0 < rewards.mean() < 1
    advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
    grpo, cispo = token_parts(group, ROWS["grpo"]), token_parts(group, ROWS["cispo"])
    dropped = 0
    for i, advantage in zip(rollouts, advantages, strict=True):
        ratio = np.exp(group.logprobs[i] - group.old_logprobs[i])
        outside = (ratio > 1.2) if advantage > 0 else (ratio < 0.8)
        dropped += int(outside.sum())
        np.testing.assert_allclose(grpo.weight[i], np.where(outside, 0, ratio * advantage), rtol=1e-9)
        np.testing.assert_allclose(cispo.weight[i], np.minimum(ratio, 1.28) * advantage, rtol=1e-9)
        np.testing.assert_allclose(grpo.inverse_denominator[i], np.exp(-group.old_logprobs[i]), rtol=1e-9)
    assert dropped > 0, "nothing is masked: the figure would show nothing"
    sft = token_parts(group, ROWS["sft"])
    assert all(own is None for own in sft.weight[:-1])
    assert (sft.weight[-1] == 1).all()
