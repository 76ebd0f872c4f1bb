"""Results that changed while `NUMERICS_VERSION` did not: finished runs would pass for what the code makes today."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hpt.config.run_config import NUMERICS_VERSION
from tests import golden
from tests.digits import digits_config, write_digits
from tests.jobs import Undisturbed, run_to_end

REMEDY = f"""
If results are meant to change: raise NUMERICS_VERSION in hpt/config/run_config.py, say so in CHANGELOG.md, and type
    {golden.RENEW}
If not, something moved them by accident: every finished run would be taken for what this code makes."""


@cache
def recorded() -> dict[str, Any]:
    return json.loads(golden.PATH.read_text())


def compare(name: str, found: dict[str, Any]) -> None:
    expected = recorded()["trajectories"][name]
    assert found.keys() == expected.keys(), REMEDY
    for column, values in expected.items():
        close = [
            left is right is None
            or (None not in (left, right) and left == pytest.approx(right, rel=golden.TOLERANCE, abs=golden.ABSOLUTE))
            for left, right in zip(found[column], values, strict=True)
        ]
        assert all(close), f"{name}, {column}: {found[column]} was {values}.{REMEDY}"


def test_the_golden_numbers_are_of_this_version() -> None:
    said = f"the golden numbers are of another version than NUMERICS_VERSION = {NUMERICS_VERSION}: {golden.RENEW}"
    assert recorded()["numerics_version"] == NUMERICS_VERSION, said


def test_the_golden_numbers_are_of_these_settings(tmp_path: Path) -> None:
    configs = [*golden.scripted_configs().values(), digits_config("hpt", tmp_path, **golden.REAL)]
    said = f"defaults changed, so these are other runs than those recorded; renew without a new version: {golden.RENEW}"
    assert golden.settings_digest(configs) == recorded()["settings"], said


def test_nothing_recorded_is_left_uncompared() -> None:
    real = {"base training", "real hpt", "real hpt, tied"}
    assert recorded()["trajectories"].keys() == real | golden.scripted_configs().keys()


@pytest.mark.parametrize("name", golden.scripted_configs())
def test_every_method_and_row_trains_as_it_did(name: str) -> None:
    compare(name, golden.scripted(golden.scripted_configs()[name]))


def test_bases_train_as_they_did(tmp_path: Path) -> None:
    compare("base training", golden.base_training(tmp_path))


def test_a_real_run_goes_as_it_did(digits_runs: dict[str, Undisturbed]) -> None:
    compare("real hpt", golden.real(digits_runs["hpt"].folder))


def test_a_real_run_whose_head_is_its_embedding_goes_as_it_did(tmp_path: Path) -> None:
    world = write_digits(tmp_path / "tied", tied=True)
    compare("real hpt, tied", golden.real(run_to_end(digits_config("hpt", world, **golden.REAL), tmp_path / "run")))


def test_questions_are_what_they_were() -> None:
    assert golden.data() == recorded()["data"], REMEDY


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_a_change_of_one_percent_is_noticed(factor: float) -> None:
    name = "base training"
    moved = {
        column: [factor * value for value in values] for column, values in recorded()["trajectories"][name].items()
    }
    with pytest.raises(AssertionError, match="raise NUMERICS_VERSION"):
        compare(name, moved)
