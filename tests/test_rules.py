"""The rules for verdicts that docs/world.md fixed before the runs, each on numbers whose answer is known."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hpt.evaluation.intervals import detectable, holm, seed_mean, seeds_needed, sign_flip_p
from hpt.paper.claim_tests import ClaimRecords, RunFrames
from hpt.paper.claims import confirmed, judge_together
from hpt.paper.paper import confirmatory_claims
from hpt.reports import begin
from hpt.reports.frames import equal_costs
from hpt.reports.verdicts import contrasts, printed_difference, verdicts, world_spread
from hpt.runs.catalogue import IN_DISTRIBUTION
from hpt.runs.records import RunRecords, load_runs
from tests.fabricated import fabricate

FAMILY = [claim.id for claim in confirmatory_claims()]
PRINTED = {claim.id: printed_difference(claim) for claim in confirmatory_claims()}
NOISE = np.random.default_rng(0).normal(0.0, 1.0, 10)
NOISE = (NOISE - NOISE.mean()) / NOISE.std(ddof=1)  # mean 0, standard deviation 1 over ten seeds


def test_the_family_and_its_printed_differences() -> None:
    assert len(FAMILY) == 13
    by_base = {"strong": [8.2, 9.6, 6.2, 2.9, 8.5], "llama": [12.3, 8.6, 5.0], "weak": [5.0, 7.9, 7.2, 1.6, 3.8]}
    assert [PRINTED[name] for name in FAMILY] == [value for values in by_base.values() for value in values]


# Statistics


def test_holm_by_hand() -> None:
    """Sorted .004 .01 .03 .2 times 4, 3, 2, 1, never below an earlier one, never above 1."""
    assert holm([0.03, 0.004, 0.2, 0.01]) == pytest.approx([0.06, 0.016, 0.2, 0.03])
    assert holm([0.04, 0.041, 0.9]) == pytest.approx([0.12, 0.12, 0.9])
    assert holm([math.nan, 0.02]) == pytest.approx([1.0, 0.04])


def test_sign_flips_are_all_counted() -> None:
    values = [1.0, -0.5, 2.0, 3.0, 0.2]
    flipped = [abs(np.mean(np.array(values) * signs)) for signs in itertools.product((1, -1), repeat=5)]
    assert sign_flip_p(values) == pytest.approx(np.mean([mean >= abs(np.mean(values)) - 1e-12 for mean in flipped]))


def test_what_seeds_detect_and_how_many_are_needed() -> None:
    corrected = 1 - 0.05 / 13
    assert detectable(10, corrected) == pytest.approx(1.5, abs=0.05)  # as docs/world.md says
    needed = seeds_needed(2.0, 4.0, corrected)
    assert detectable(int(needed), corrected) <= 0.5 < detectable(int(needed) - 1, corrected)


# One contrast


@pytest.mark.parametrize(
    ("mean", "sd", "p", "printed", "spread", "expected"),
    [
        (5.0, 2.0, 0.01, 5.0, math.nan, "holds"),
        (5.0, 2.0, 0.01, 9.0, math.nan, "smaller than the paper's"),
        (5.0, 2.0, 0.06, 5.0, math.nan, "undecided"),  # not after correction
        (-5.0, 2.0, 0.01, 5.0, math.nan, "does not hold"),
        (0.5, 1.0, 0.9, 5.0, math.nan, "does not hold (level)"),
        (0.5, 3.0, 0.9, 5.0, math.nan, "undecided"),  # the 90 % interval reaches beyond 2 points
        (1.9, 0.1, 0.01, 1.6, math.nan, "holds"),  # above 0 comes before level
        (0.0, 9.0, 1.0, 1.6, 3.0, "not testable at this size"),
        (0.0, 9.0, 1.0, 4.6, 3.0, "undecided"),  # 1.5 times 3 is less than 4.6
        (9.0, 2.0, 0.01, 1.6, 3.0, "holds"),  # what is found all the same counts
    ],
)
def test_the_word_on_a_contrast(mean: float, sd: float, p: float, printed: float, spread: float, expected: str) -> None:
    difference = seed_mean(mean + sd * NOISE, level=1 - 0.05 / 13)
    assert confirmed(difference, p, printed, spread).value == expected


# The family


def scored(level: float) -> RunFrames:
    rows = [(f"set-{number}", "in", "", level) for number in range(6)]
    columns = ["benchmark", "distribution", "stands_for", "score"]
    return RunFrames(pd.DataFrame(), scores=pd.DataFrame(rows, columns=columns))


def family(
    effects: dict[str, float], sd: float = 2.0, seeds: int = 10, floor: float = 50.0, scale: str = "mini"
) -> dict[str, ClaimRecords]:
    """Records in which HPT is above the baseline by so much on average, whatever the contrast."""
    found = {}
    for claim in confirmatory_claims():
        mean = effects.get(claim.id)
        of_seed = {seed: dict(zip(claim.methods, (scored(floor + mean + sd * NOISE[seed]), scored(floor)), strict=True))
                   for seed in range(seeds) if mean is not None}  # fmt: skip
        found[claim.id] = ClaimRecords(scale, of_seed)
    return found


def words(records: dict[str, ClaimRecords], spread: dict[str, float] | None = None) -> dict[str, str]:
    return {name: result.verdict.value for name, result in judge_together(records, PRINTED, spread or {}).items()}


def test_a_difference_that_one_test_would_find_is_corrected_for_thirteen() -> None:
    one = seed_mean(1.8 + 2.0 * NOISE)  # p = .019
    assert 0.05 / 13 < one.p_value < 0.05
    assert one.decide().value == "above"
    alone = dict.fromkeys(FAMILY, 0.0) | {FAMILY[0]: 1.8}
    assert words(family(alone))[FAMILY[0]] == "undecided"
    # its corrected p is smaller where the twelve others are found: Holm's last step is p itself
    others = words(family(dict.fromkeys(FAMILY, 8.0) | {FAMILY[0]: 1.8}))
    assert others[FAMILY[0]] == "smaller than the paper's"
    assert others["table2-hpt-above-grpo"] == "holds"


def test_a_contrast_that_cannot_be_tested_stays_in_the_family() -> None:
    results = judge_together(family({FAMILY[0]: 3.0}), PRINTED, {})
    p = seed_mean(3.0 + 2.0 * NOISE).p_value
    assert results[FAMILY[0]].p_corrected == pytest.approx(13 * p)
    assert {results[name].verdict.value for name in FAMILY[1:]} == {"not testable here"}
    assert "the paper +8.2" in results[FAMILY[0]].explanation


def test_intervals_hold_together_whatever_the_verdict() -> None:
    """Of two seeds, at the floor, of one seed, and of ten."""
    records = family(dict.fromkeys(FAMILY, 3.0))
    for name, other in zip(FAMILY, ({"seeds": 2}, {"sd": 0.1, "floor": 1.0}, {"seeds": 1}), strict=False):
        records[name] = family({name: 0.5}, **other)[name]
    results = judge_together(records, PRINTED, {})
    assert [results[name].verdict.value for name in FAMILY[:4]] == [
        "undecided", "not testable: ceiling or floor", "undecided (one seed)", "holds"
    ]  # fmt: skip
    assert results[FAMILY[2]].interval is None
    values_of = {0: 0.5 + 2.0 * NOISE[:2], 1: 0.5 + 0.1 * NOISE, 3: 3 + 2.0 * NOISE}
    for place, values in values_of.items():
        half = stats.t.ppf(1 - 0.025 / 13, len(values) - 1) * stats.sem(values)
        interval = results[FAMILY[place]].interval
        assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_ceiling_size_and_seeds() -> None:
    at_floor = family({FAMILY[0]: 0.5}, sd=0.1, floor=1.0)
    assert math.isnan(judge_together(at_floor, PRINTED, {})[FAMILY[0]].p_corrected)
    unsure = family({FAMILY[0]: 0.0}, sd=9.0)
    assert words(unsure, {FAMILY[0]: 6.0})[FAMILY[0]] == "not testable at this size"
    few = [words(family({FAMILY[0]: 50.0}, sd=0.01, floor=20.0, seeds=n))[FAMILY[0]] for n in (2, 3)]
    assert few == ["undecided", "holds"]
    assert words(family({FAMILY[0]: 9.0}, scale="full"))[FAMILY[0]] == "reproduced"


# From records: the table, bases of a seed, equal costs

SEEDS = (0, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    fabricate(root, ("table5",), SEEDS)
    return root


@pytest.fixture(scope="module")
def records(runs_dir: Path) -> list[RunRecords]:
    return load_runs(fabricate(runs_dir, ("table5",), SEEDS))


def contrast(records: list[RunRecords], claim: str) -> pd.Series:
    return contrasts(records, "mini").set_index("claim").loc[claim]


def test_the_table_of_contrasts(records: list[RunRecords]) -> None:
    name = "table5-hpt-above-off_on"
    row = contrast(records, name)
    differences = row[[f"seed_{seed}" for seed in SEEDS]].to_numpy(float)
    judged = {own.claim: own for own in verdicts(records, ["table5"], "mini")}
    numbers = judged[name].numbers
    assert differences == pytest.approx(numbers["per_seed"])
    for column in ("effect", "low", "high", "p_corrected"):
        assert row[column] == pytest.approx(numbers[column]), column
    assert judged[name].kind == "confirmatory"
    assert judged["table5-mix_on-above-off_on"].kind == "exploratory"
    assert row["p_value"] == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue)
    assert (differences > 0).all()
    assert row["p_sign_flip"] == pytest.approx(2 / 32)
    left = [np.delete(differences, place) for place in range(5)]
    means = [values.mean() for values in left]
    assert (row["without_low"], row["without_high"]) == pytest.approx((min(means), max(means)))
    assert row["without_p"] == pytest.approx(max(stats.ttest_1samp(values, 0.0).pvalue for values in left))
    assert row["detects_10"] == pytest.approx(np.std(differences, ddof=1) * detectable(10, 1 - 0.05 / 13))
    missing = contrast(records, "table3-llama-hpt-above-sft")
    assert (missing["seeds"], missing["other_runs"], missing["verdict"]) == (0, 0, "not testable here")


def solved(run: RunRecords, share: float) -> RunRecords:
    return replace(run, evaluations=run.evaluations.assign(correct=np.round(share * run.evaluations["samples"])))


def test_a_run_that_ends_below_its_base_is_a_collapse(records: list[RunRecords]) -> None:
    """Two of Mix/ON's five runs end at nothing; they stay in the mean."""
    runs = [solved(run, 0.0) if run.method == "mix_on" and run.seed in (1, 3) else run for run in records]
    row, before = (contrast(own, "table5-hpt-above-mix_on") for own in (runs, records))
    assert (before["other_collapsed"], row["other_collapsed"], row["other_runs"]) == (0, 2, 5)
    assert (row["hpt_collapsed"], row["hpt_runs"]) == (0, 5)
    expected = stats.binomtest(2, 5).proportion_ci(method="exact")
    for end in ("low", "high"):
        assert row[f"other_collapsed_{end}"] == pytest.approx(100 * getattr(expected, end))
    assert row["effect"] > before["effect"]


def test_every_seed_is_held_against_its_own_base(records: list[RunRecords]) -> None:
    """Bases of three seeds: the second and third solve everything, so their runs end below them."""
    shared = next(run for run in records if run.method == "pretrain")
    own = [replace(solved(shared, 0.0 if seed == 0 else 1.0), config=shared.config.model_copy(update={"seed": seed}))
           for seed in SEEDS[:3]]  # fmt: skip
    trained = [run for run in records if run.method != "pretrain"]
    row = contrast([*own, *trained], "table5-hpt-above-mix_on")
    assert (row["other_collapsed"], row["other_runs"]) == (2, 3)  # the fourth and fifth seed have no base
    row = contrast([own[1], *trained], "table5-hpt-above-mix_on")
    assert (row["other_collapsed"], row["other_runs"]) == (1, 1)  # nor is the base of one seed that of another


def average(run: RunRecords) -> float:
    sets = run.evaluations[run.evaluations["benchmark"].isin(IN_DISTRIBUTION)]
    return 100 * float((sets["correct"] / sets["samples"]).groupby(sets["benchmark"]).mean().mean())


def test_the_spread_that_was_measured_before_hpt(records: list[RunRecords]) -> None:
    """SFT minus GRPO over seeds 0 to 4; two other methods stand in for them."""
    stand_in = {"mix_on": "sft", "off_on": "grpo"}
    runs = [replace(run, arms=(f"{stand_in[run.method]}-weak",)) for run in records if run.method in stand_in]
    assert math.isnan(world_spread([run for run in runs if run.seed != 4 or run.method == "off_on"], "weak"))
    sides = [sorted((run.seed, average(run)) for run in runs if run.method == name) for name in stand_in]
    expected = np.std(np.subtract(*sides)[:, 1], ddof=1)
    assert world_spread(runs, "weak") == pytest.approx(expected)
    assert expected > 0


def test_accuracy_at_equal_steps_tokens_and_seconds(records: list[RunRecords]) -> None:
    """Mix/ON's steps cost twice as much: at HPT's tokens it has made half of them."""
    runs = [run for run in records if run.method in ("hpt", "mix_on")]
    steps = runs[0].config.schedule.steps
    points = np.array([0, steps])
    made = []
    for run in runs:
        cost = 20.0 if run.method == "mix_on" else 10.0
        rows = [(step, name, "p", 1, int(0.8 * 100 * step / steps), 100, 1.0) for step in points
                for name in ("contest-a", "applied")]  # fmt: skip
        columns = ["step", "benchmark", "problem_id", "level", "correct", "samples", "response_tokens_mean"]
        metrics = pd.DataFrame({"step": range(steps), "rollout/tokens": 1000 * cost, "time/step_s": 1.0})
        made.append(replace(run, metrics=metrics, validation=pd.DataFrame(rows, columns=columns)))
    frame = equal_costs(made, ["mix_on", "hpt"], "weak").groupby("method").mean(numeric_only=True)
    assert frame["end"].tolist() == pytest.approx([80.0, 80.0])
    assert frame["area"].tolist() == pytest.approx([40.0, 40.0])
    assert frame["at_tokens"].tolist() == pytest.approx([80.0, 40.0])  # of HPT, and of Mix/ON
    assert frame["at_seconds"].tolist() == pytest.approx([80.0, 80.0])
    assert frame["tokens"].tolist() == pytest.approx([10.0 * steps] * 2)


def test_a_study_judges_with_the_runs_of_the_family_that_are_there(runs_dir: Path) -> None:
    study = begin("table3_main_results", given={"scale": "tiny", "runs_dir": str(runs_dir), "seeds": [0, 1]})
    there = study.family()
    assert {(run.method, run.seed) for run in there if run.policy == "weak"} >= {("hpt", 1), ("off_on", 0)}
    assert {run.seed for run in there} == {0, 1}
    assert not [run for run in there if run.policy == "llama"]  # not made, and none is made for it
