"""The price of each discrepancy: one field at a time, effects paired by seed, the choice made on validation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hpt.config.run_config import flat
from hpt.config.scales import RECIPES
from hpt.reports.frames import discrepancies
from hpt.runs.catalogue import DEFAULT, DISCREPANCIES, IN_DISTRIBUTION, PRICE
from hpt.runs.records import RunRecords
from hpt.support.errors import RecordFault
from tests.fabricated import fabricated_records

ARMS = {arm.key: arm for arm in PRICE.arms}


def moved(key: str) -> dict[str, Any]:
    """Settings of an arm at scale mini that are not the default's."""
    own, default = (flat(arm.config("mini", 0).model_dump()) for arm in (ARMS[key], DEFAULT.arms[0]))
    return {name: value for name, value in own.items() if value != default[name]}


def test_every_arm_moves_its_own_field_and_no_other() -> None:
    default = DEFAULT.arms[0].config("mini", 0).estimator.sft_coefficient
    for own in (DEFAULT, *DISCREPANCIES):
        for arm, weight in zip(own.arms, (1.0, *own.weights), strict=True):
            changes = moved(arm.key)
            assert changes.pop("estimator.sft_coefficient", default) == weight * default
            if own.recipe == "paper":
                assert changes.pop("recipe") == "paper"
                printed = flat(RECIPES["paper"])
                assert changes == {name: value for name, value in printed.items() if name in changes}
                assert "estimator.normalization" in changes
            else:
                assert changes == own.settings


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    return fabricated_records(tmp_path_factory.mktemp("runs"), "discrepancies", seeds=(0, 1, 2))


def scored(run: RunRecords, share: float, validation: float = 0.5, skipped: float = 0.0) -> RunRecords:
    """The run with these shares of right answers on every problem of the in-distribution and the validation sets."""
    own = run.evaluations.assign(samples=1000)
    shares = own["benchmark"].map(dict.fromkeys(IN_DISTRIBUTION, share) | {"validation": validation})
    metrics = run.metrics.assign(**{"optim/skipped_updates": skipped})
    return replace(run, metrics=metrics, evaluations=own.assign(correct=(1000 * shares).round()))


@pytest.fixture
def records(fabricated: list[RunRecords]) -> list[RunRecords]:
    """Default 0.500, 0.510, 0.520 by seed; printed normalisation 0.4 everywhere, better on validation at x 64."""
    made = []
    for run in fabricated:
        name = run.arms[0].removesuffix("-weak")
        share = {"price_default": 0.5 + run.seed / 100}.get(name, 0.4)
        validation = {"price_normalization_paper_sft_64": 0.9, "price_normalization_paper_sft_16": 0.8}.get(name, 0.5)
        made.append(scored(run, share, validation))
    return made


def by_title(records: list[RunRecords]) -> dict[str, dict[Any, Any]]:
    return {row["title"]: row for row in discrepancies(records).to_dict("records")}


def test_effects_are_paired_by_seed(records: list[RunRecords]) -> None:
    row = by_title(records)["no entropy bonus"]
    assert [row[f"seed_{seed}"] for seed in (0, 1, 2)] == pytest.approx([-10, -11, -12])
    half = stats.t.ppf(0.975, 2) * np.std([-10, -11, -12], ddof=1) / np.sqrt(3)
    assert [row[name] for name in ("effect", "seeds_low", "seeds_high")] == pytest.approx([-11, -11 - half, -11 + half])
    assert np.isnan(by_title(records)["default"]["effect"])
    one = by_title([run for run in records if run.seed == 1])["no entropy bonus"]
    assert one["effect"] == pytest.approx(-11)
    assert np.isnan(one["seeds_low"])


def test_a_seed_the_default_lacks_is_left_out_and_without_it_nothing_is_measured(records: list[RunRecords]) -> None:
    row = by_title([run for run in records if (run.seed, run.arms[0]) != (2, "price_default-weak")])["no entropy bonus"]
    assert row["seeds"] == 2
    assert row["effect"] == pytest.approx(-10.5)
    with pytest.raises(RecordFault, match="no run of price_default-weak"):
        discrepancies([run for run in records if run.arms[0] != "price_default-weak"])


def test_the_weight_is_chosen_on_validation(records: list[RunRecords]) -> None:
    table = by_title(records)
    chosen = {title: row["chosen"] for title, row in table.items() if title.startswith("normalisation as printed")}
    assert list(chosen.values()) == [False, False, True]
    assert table["no entropy bonus"]["chosen"] is None


def test_runs_from_bases_of_other_bits_are_not_compared(records: list[RunRecords]) -> None:
    """The weight that is best on validation ran seed 0 from another base: there it is neither chosen nor compared."""

    def from_base(run: RunRecords) -> RunRecords:
        elsewhere = (run.seed, run.arms[0]) == (0, "price_normalization_paper_sft_64-weak")
        policy = run.config.policy.model_copy(update={"weights_sha256": "b" if elsewhere else "a"})
        own = scored(run, 0.9, 0.1) if elsewhere else run
        return replace(own, config=run.config.model_copy(update={"policy": policy}))

    table = by_title([from_base(run) for run in records])
    row = table["normalisation as printed, SFT coefficient × 64"]
    assert (row["seeds"], row["chosen"]) == (2, True)
    assert row["effect"] == pytest.approx(-11.5)
    assert table["normalisation as printed"]["seeds"] == 3
    assert table["normalisation as printed"]["effect"] == pytest.approx(-11)


def test_the_skip_rule_needs_a_run_only_where_it_acted(records: list[RunRecords]) -> None:
    assert by_title(records)["no skip rule"]["effect"] == 0.0
    acted = [scored(run, 0.5, skipped=1.0) if run.arms[0] == "price_default-weak" else run for run in records]
    row = by_title(acted)["no skip rule"]
    assert np.isnan(row["effect"])
    assert row["skipped_updates"] == sum(len(run.metrics) for run in acted if run.arms[0] == "price_default-weak")
    assert "Not measured" in row["why"]
