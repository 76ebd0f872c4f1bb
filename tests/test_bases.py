"""Bases made by the package: one that lost what it had learnt is trained again, and three that did are an error."""

from pathlib import Path
from typing import Any

import pytest

from hpt.config.run_config import RunConfig
from hpt.runs.resolve import base_config, build_config
from hpt.support.errors import TrainingFault
from hpt.training import bases


def short_base(seed: int) -> RunConfig:
    config = base_config(build_config("hpt", scale="tiny", policy="weak", seed=seed))
    return config.model_copy(update={"schedule": config.schedule.model_copy(update={"steps": 3})})


def test_a_base_that_broke_is_that_of_another_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(folder: str, seed: int, *broken: bool) -> tuple[bytes, Any]:
        verdicts = iter(broken)
        monkeypatch.setattr(bases, "broke", lambda *_: next(verdicts))
        metrics = bases.pretrain(short_base(seed), tmp_path / folder).drop(columns="time/step_s")
        return (tmp_path / folder / "model" / "model.safetensors").read_bytes(), metrics

    weights, metrics = trained("again", 3, True, False)
    other, expected = trained("other", 1_000_003, False)
    assert weights == other
    assert metrics.equals(expected.assign(attempt=1))
    continued, same = trained("again", 3, True, False)  # as after a kill: nothing is left to train
    assert continued == weights
    assert same.equals(metrics)
    with pytest.raises(TrainingFault, match="3 bases of recipe weak"):
        trained("again", 3, True, True, True)
