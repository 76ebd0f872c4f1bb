"""What RL alone gains on each base: averages and gains as from the counts, and only bases that were run."""

import pandas as pd
import pytest

from hpt.reports.frames import effects, printed_gain
from hpt.reports.verdicts import verdicts
from hpt.runs.catalogue import IN_DISTRIBUTION
from hpt.runs.records import RunRecords
from tests.fabricated import fabricated_records

BASES = ("strong", "weak", "llama")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecords]:
    return fabricated_records(tmp_path_factory.mktemp("runs"), "grpo_gains", seeds=(0, 1, 2))


def gains(records: list[RunRecords]) -> pd.DataFrame:
    return pd.concat([effects(records, ["grpo"], "pretrain", base) for base in BASES], ignore_index=True)


def average(run: RunRecords) -> float:
    sets = run.evaluations[run.evaluations["benchmark"].isin(IN_DISTRIBUTION)]
    share = sets["correct"] / sets["samples"]
    return 100 * float(share.groupby(sets["benchmark"]).mean().mean())


def test_a_gain_is_grpos_average_less_its_bases(records: list[RunRecords]) -> None:
    data = gains(records).set_index("policy")
    assert list(data.index) == ["strong", "weak", "llama"]
    for base, line in data.iterrows():
        bases = {run.seed: average(run) for run in records if (run.policy, run.method) == (base, "pretrain")}
        before = sum(bases.values()) / 3
        after = {run.seed: average(run) for run in records if (run.policy, run.method) == (base, "grpo")}
        assert line["other_average"] == pytest.approx(before)
        assert line["average"] == pytest.approx(sum(after.values()) / 3)
        assert line["effect"] == pytest.approx(sum(after.values()) / 3 - before)
        assert {seed: line[f"seed_{seed}"] + bases[seed] for seed in after} == pytest.approx(after)


def test_the_papers_gains_stand_beside(records: list[RunRecords]) -> None:
    assert [printed_gain(base) for base in BASES] == pytest.approx([23.8, 18.4, 5.0])
    assert pd.isna(printed_gain("weak", "none"))
    (verdict,) = verdicts(records, ["grpo_gains"], "mini")
    assert verdict.paper.startswith("+5.4 points")


def test_a_base_without_a_run_is_left_out(records: list[RunRecords]) -> None:
    frame = gains([run for run in records if (run.policy, run.method) != ("weak", "grpo")])
    assert frame["policy"].tolist() == ["strong", "llama"]
