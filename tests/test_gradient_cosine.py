"""Norms and cosine of the SFT and the RL gradient: the right numbers, and nothing else moves."""

import pandas as pd
import pytest
import torch

from hpt.training.engine import sft_rl_gradients, step_gradient
from tests.scripted import Script, assembled_once, config_for, make_trainer, right, same_weights, weights_of, wrong


def test_the_two_gradients_add_up_to_the_one_that_is_trained_on() -> None:
    trainer = make_trainer(config_for("hpt", schedule__updates_per_step=1, estimator__entropy_coefficient=0.0))
    (items,) = assembled_once(trainer).updates
    demonstrations = [item for item in items if item.trajectory.is_demonstration]
    rollouts = [item for item in items if not item.trajectory.is_demonstration]
    assert demonstrations
    assert rollouts
    sft, rl = (step_gradient(trainer.updater, part) for part in (demonstrations, rollouts))
    for batch in trainer.updater.micro_batches(items):
        trainer.updater.accumulate(batch)
    trained = torch.cat([own.grad.flatten() for own in trainer.engine.module.parameters()])
    torch.testing.assert_close((sft + rl).float(), trained, rtol=1e-4, atol=1e-7)
    expected = float(torch.nn.functional.cosine_similarity(sft, rl, dim=0))
    found = sft_rl_gradients(trainer.updater, assembled_once(trainer))
    assert found["gradient/sft_rl_cosine"] == pytest.approx(expected, abs=1e-9)
    assert found["gradient/sft_norm"] == pytest.approx(float(sft.norm()), rel=1e-9)
    assert found["gradient/rl_norm"] == pytest.approx(float(rl.norm()), rel=1e-9)
    assert found["gradient/sft_norm"] != pytest.approx(found["gradient/rl_norm"], rel=0.01)
    assert abs(expected) < 0.999  # an RL gradient mistaken for the SFT one would give 1


@pytest.mark.parametrize(("script", "sft"), [(right, False), (wrong, True)])
def test_a_step_without_one_of_the_two_has_a_norm_of_0_and_no_cosine(script: Script, sft: bool) -> None:
    """All right: no demonstration, and no rollout with an advantage either."""
    trainer = make_trainer(config_for("hpt"), script)
    found = sft_rl_gradients(trainer.updater, assembled_once(trainer))
    assert {name: value > 0 for name, value in found.items()} == {"gradient/sft_norm": sft, "gradient/rl_norm": False}


@pytest.mark.parametrize("method", ["hpt", "luffy"])
def test_measuring_changes_nothing(method: str) -> None:
    ends = []
    for every in (0, 2):
        trainer = make_trainer(config_for(method, diagnostics__gradient_cosine_every=every))
        trainer.train(4)
        table = pd.DataFrame(trainer.rows["metrics"])
        ends.append((weights_of(trainer.engine), table))
    (plain, plain_table), (measured, table) = ends
    assert same_weights(plain, measured)
    assert table["gradient/sft_rl_cosine"].notna().tolist() == [True, False, True, False]
    assert table["gradient/sft_rl_cosine"].dropna().between(-1, 1).all()
    kept = [name for name in plain_table if not name.startswith("time/")]
    pd.testing.assert_frame_equal(plain_table[kept], table[kept], check_exact=True)
