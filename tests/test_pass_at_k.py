"""Figure 2: estimates, pooling over seeds, intervals and the chance curve."""

from dataclasses import replace
from math import comb

import numpy as np
import pandas as pd
import pytest

from hpt.evaluation.intervals import bca_interval
from hpt.reports.frames import pass_at_k
from hpt.runs.records import RunRecords
from tests.fabricated import fabricated_records

NAME = "contest-a@256"
#: Right answers of 256 to two problems, by seed.
COUNTS = np.array([[0, 1], [0, 100], [3, 256]])


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    return fabricated_records(tmp_path_factory.mktemp("runs"), "figure2", seeds=(0, 1, 2))


def with_counts(run: RunRecords, counts: list[int]) -> RunRecords:
    """The run with these numbers of right answers to the problems of the set."""
    own = run.evaluations["benchmark"] == NAME
    assert own.sum() == len(counts)
    correct = run.evaluations["correct"].copy()
    correct[own] = counts
    return replace(run, evaluations=run.evaluations.assign(correct=correct))


@pytest.fixture
def runs(records: list[RunRecords]) -> list[RunRecords]:
    own = [run for run in records if run.method == "hpt"]
    return [with_counts(run, counts.tolist()) for run, counts in zip(own, COUNTS, strict=True)]


@pytest.fixture
def table(runs: list[RunRecords]) -> pd.DataFrame:
    return pass_at_k(runs, [NAME], ["hpt"], "strong").set_index("k")


def exact(correct: int, k: int, samples: int = 256) -> float:
    return 1 - comb(samples - correct, k) / comb(samples, k)


def test_estimates_are_means_over_problems_and_seeds(table: pd.DataFrame) -> None:
    assert table.index.tolist() == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for k in (1, 16, 256):
        by_seed = [100 * np.mean([exact(count, k) for count in counts]) for counts in COUNTS]
        assert table.loc[k, ["seed_0", "seed_1", "seed_2"]].tolist() == pytest.approx(by_seed)
        assert table.loc[k, "pass_at_k"] == pytest.approx(np.mean(by_seed))
    assert table.loc[256, "pass_at_k"] == pytest.approx(100 * 4 / 6)  # each problem with any right answer counts
    assert table.loc[256, "chance"] == pytest.approx(100 * (1 - 0.99**256))  # two digits at scale tiny


def test_the_bootstrap_draws_with_replacement(table: pd.DataFrame) -> None:
    for k in (1, 16, 256):
        error = 50 / np.sqrt(1000 * COUNTS.size) * 3
        assert table.loc[k, "bootstrap"] == pytest.approx(100 * np.mean(1 - (1 - COUNTS / 256) ** k), abs=error)
    assert table.loc[256, "bootstrap"] < table.loc[256, "pass_at_k"] - 3
    assert (table["bootstrap_low"] <= table["bootstrap"]).all()
    assert (table["bootstrap"] <= table["bootstrap_high"]).all()


def test_bands_are_over_problems_of_the_mean_over_seeds(runs: list[RunRecords], table: pd.DataFrame) -> None:
    row = table.loc[4]
    interval = bca_interval([np.mean([exact(count, 4) for count in counts]) for counts in COUNTS.T], generator=0)
    assert (row["problems_low"], row["problems_high"]) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert row["seeds_low"] < row["pass_at_k"] < row["seeds_high"]
    assert np.isnan(pass_at_k(runs[:2], [NAME], ["hpt"], "strong")["seeds_low"]).all()


def test_every_method_is_in_every_panel(records: list[RunRecords]) -> None:
    methods, sets = ["pretrain", "sft", "grpo", "sft_then_grpo", "luffy", "hpt"], ["contest-b@256", "contest-a@256"]
    reach = pass_at_k(records, sets, methods, "strong")
    panels = reach.groupby("panel", sort=False)["method"].unique()
    assert {name: list(own) for name, own in panels.items()} == dict.fromkeys(sets, methods)
    assert pass_at_k([], sets, methods, "strong").empty
