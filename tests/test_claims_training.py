"""Claims over training: validation curves, single questions, bases against each other, and what training costs."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from hpt.paper.claim_tests import ClaimRecords, RunFrames
from hpt.paper.claims import ClaimResult, judge
from hpt.paper.paper import claim_named

SEEDS = (0, 1, 2)
STEPS, EPOCHS = 100, 40
RATIO = "gate/offline_ratio_prompts"


def judged(claim: str, seeds: Mapping[int, Mapping[str, RunFrames]]) -> ClaimResult:
    return judge(claim_named(claim), ClaimRecords("mini", seeds))


def metrics(**columns: float | np.ndarray) -> RunFrames:
    named = {name.replace("__", "/"): values for name, values in columns.items()}
    return RunFrames(pd.DataFrame({"step": np.arange(STEPS), **named}))


# Figure 5: validation curves


def validated_along(*points: list[float]) -> RunFrames:
    """Curves through these points, each the levels (percent) of every set."""
    rows = [
        (10 * place, f"set-{number}", "p", round(level), 100)
        for place, levels in enumerate(points)
        for number, level in enumerate(levels)
    ]
    columns = ["step", "benchmark", "problem_id", "correct", "samples"]
    return RunFrames(pd.DataFrame(), validation=pd.DataFrame(rows, columns=columns))


def validated(levels: list[float], first: float = 10.0) -> RunFrames:
    """Curves at a level per set (percent) after the base's point."""
    return validated_along([first] * len(levels), levels, levels, levels)


@pytest.mark.parametrize(
    ("hpt", "expected", "on_every_set"),
    [
        ([60.0] * 6, "holds", "holds"),
        ([60.0] * 5 + [40.0], "holds", "does not hold"),
        ([60.0] * 5 + [50.0], "holds", "undecided"),
        ([30.0] * 6, "does not hold", "does not hold"),
        ([50.0] * 6, "undecided", "undecided"),
    ],
)
def test_validation(hpt: list[float], expected: str, on_every_set: str) -> None:
    records = {seed: {"hpt": validated(hpt), "grpo": validated([50.0] * 6)} for seed in SEEDS}
    assert judged("figure5-hpt-above-grpo", records).verdict.value == expected
    assert judged("figure5-hpt-above-grpo-on-every-set", records).verdict.value == on_every_set


def test_the_first_point_of_a_validation_curve_does_not_count() -> None:
    records = {seed: {"hpt": validated([60.0] * 6, 0.0), "grpo": validated([50.0] * 6, 99.0)} for seed in SEEDS}
    assert judged("figure5-hpt-above-grpo", records).effect == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("points", "on_every_set", "stably"),
    [
        (([10.0] * 6, [30.0] * 6, [50.0] * 6), "holds", "holds"),
        (([10.0] * 6, [50.0] * 6, [46.0] * 6), "holds", "does not hold"),  # falls in the second half
        (([10.0] * 6, [30.0] * 6, [50.0] * 5 + [5.0]), "does not hold", "holds"),
        (([10.0] * 6, [30.0] * 6, [80.0] * 4 + [10.0] * 2), "undecided", "holds"),  # level is not above
    ],
)
def test_improvements(points: tuple[list[float], ...], on_every_set: str, stably: str) -> None:
    records = {seed: {"hpt": validated_along(*points)} for seed in SEEDS}
    assert judged("figure5-hpt-improves-on-every-set", records).verdict.value == on_every_set
    assert judged("figure5-hpt-improves-stably", records).verdict.value == stably


# Figures 3 and 4: single questions


def asked(level_3: np.ndarray, level_5: np.ndarray) -> RunFrames:
    """Rollouts of [questions, epochs] numbers of correct answers of 8, in a random order within each epoch."""
    shuffled = np.random.default_rng(0)
    rows = []
    for level, grid in ((3, level_3), (5, level_5)):
        for question, own in enumerate(grid):
            rows += [(epoch + shuffled.random(), f"{level}-{question}", level, int(c)) for epoch, c in enumerate(own)]
    frame = pd.DataFrame(rows, columns=["step", "problem_id", "level", "correct"]).assign(rollouts=8)
    return RunFrames(pd.DataFrame(), frame)


def grid(correct: int, at_zero: int = 0, questions: int = 20) -> np.ndarray:
    values = np.full((questions, EPOCHS), correct)
    values[:at_zero] = 0
    return values


@pytest.mark.parametrize(
    ("level_3", "level_5", "some", "more"),
    [
        (grid(6), grid(4, at_zero=5), "holds", "holds"),
        (grid(6), grid(4, at_zero=1), "holds", "holds"),
        (grid(6), grid(4), "does not hold", "undecided"),
        (grid(6, at_zero=8), grid(4, at_zero=3), "holds", "does not hold"),
        (grid(6, at_zero=3), grid(4, at_zero=3), "holds", "undecided"),
    ],
)
def test_rows_at_zero(level_3: np.ndarray, level_5: np.ndarray, some: str, more: str) -> None:
    records = {seed: {"grpo_after_sft": asked(level_3, level_5)} for seed in SEEDS}
    assert judged("figure3-rows-stay-at-zero", records).verdict.value == some
    assert judged("figure3-more-rows-stay-at-zero-on-level-5", records).verdict.value == more


def test_one_correct_rollout_ends_a_row_of_zeros() -> None:
    lucky = grid(4, at_zero=5)
    lucky[:5, 17] = 1
    records = {seed: {"grpo_after_sft": asked(grid(6), lucky)} for seed in SEEDS}
    for claim in ("figure3-rows-stay-at-zero", "figure3-more-rows-stay-at-zero-on-level-5"):
        assert judged(claim, records).effect == 0.0


def test_a_seed_without_rows_at_zero_leaves_it_undecided() -> None:
    records = {seed: {"grpo_after_sft": asked(grid(6), grid(4, at_zero=3 * seed))} for seed in SEEDS}
    result = judged("figure3-rows-stay-at-zero", records)
    assert (result.verdict.value, result.effect, result.unit) == ("undecided", 3.0, "questions")


def growing(first: int, last: int, questions: int = 20) -> np.ndarray:
    return np.tile(np.round(np.linspace(first, last, EPOCHS)), (questions, 1))


def test_the_difference_map_starts_blue_and_ends_red() -> None:
    sft_first = asked(grid(4), grid(4))
    hpt = asked(growing(1, 6), growing(1, 8))
    records = {seed: {"hpt_few_questions": hpt, "grpo_after_sft": sft_first} for seed in SEEDS}
    swapped = {seed: {"hpt_few_questions": sft_first, "grpo_after_sft": hpt} for seed in SEEDS}
    for claim in ("figure4-starts-blue", "figure4-ends-red"):
        assert judged(claim, records).verdict.value == "holds", claim
        assert judged(claim, swapped).verdict.value == "does not hold", claim
    assert judged("figure4-ends-red", records).effect == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("level_3", "level_5", "expected"),
    [(4, 8, "holds"), (8, 4, "does not hold"), (8, 8, "undecided")],
)
def test_more_red_on_level_5(level_3: int, level_5: int, expected: str) -> None:
    hpt = asked(growing(1, level_3), growing(1, level_5))
    records = {seed: {"hpt_few_questions": hpt, "grpo_after_sft": asked(grid(4), grid(4))} for seed in SEEDS}
    result = judged("figure4-more-on-level-5", records)
    assert result.verdict.value == expected, result.explanation


def test_maps_of_other_questions_or_too_few_epochs_are_not_testable() -> None:
    short = asked(grid(4)[:, :3], grid(4)[:, :3])
    records = {seed: {"hpt_few_questions": short, "grpo_after_sft": short} for seed in SEEDS}
    assert "has 3 epochs" in judged("figure4-ends-red", records).explanation
    other = asked(grid(4, questions=19), grid(4))
    records = {seed: {"hpt_few_questions": other, "grpo_after_sft": asked(grid(4), grid(4))} for seed in SEEDS}
    assert "different questions" in judged("figure4-ends-red", records).explanation


# Figure 6: two bases; Figure 8: gates


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(0.1, 0.6, "holds"), (0.6, 0.1, "does not hold"), (0.3, 0.3, "undecided")],
)
def test_the_reward_increases(first: float, last: float, expected: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, STEPS)
    records = {
        seed: {"hpt": metrics(rollout__reward=np.linspace(first, last, STEPS) + np.roll(noise, 7 * seed))}
        for seed in SEEDS
    }
    for base in ("weak", "strong"):
        result = judged(f"figure6-{base}-reward-increases", records)
        assert result.verdict.value == expected, result.explanation
    assert result.effect == pytest.approx(0.85 * (last - first), abs=0.02)  # from the middle of the first tenth on


def falls_below_half_at(step: int) -> RunFrames:
    return metrics(**{RATIO.replace("/", "__"): np.where(np.arange(STEPS) < step, 0.8, 0.1)})


@pytest.mark.parametrize(
    ("weak", "strong", "expected"),
    [(60, 20, "holds"), (20, 60, "does not hold"), (30, 30, "undecided")],
)
def test_the_weaker_base_stays_on_sft_longer(weak: int, strong: int, expected: str) -> None:
    records = {
        seed: {"hpt": falls_below_half_at(weak + seed), "hpt@strong": falls_below_half_at(strong)} for seed in SEEDS
    }
    if weak == strong:
        records = {
            seed: {"hpt": falls_below_half_at(weak), "hpt@strong": falls_below_half_at(strong)} for seed in SEEDS
        }
    result = judged("figure6-weaker-stays-on-sft-longer", records)
    assert result.verdict.value == expected
    assert result.unit == "steps"


def test_a_larger_gate_learns_more_from_demonstrations() -> None:
    def records(smaller: float, larger: float) -> dict[int, dict[str, RunFrames]]:
        column = RATIO.replace("/", "__")
        return {
            seed: {"hpt": metrics(**{column: smaller}), "hpt_gate1": metrics(**{column: larger + 0.01 * seed})}
            for seed in SEEDS
        }

    assert judged("figure8-hpt_gate1-more-offline", records(0.3, 0.4)).verdict.value == "holds"
    assert judged("figure8-hpt_gate1-more-offline", records(0.4, 0.3)).verdict.value == "does not hold"


# Costs, and gradients


def test_costs_count_every_step_of_both_runs() -> None:
    hpt = metrics(rollout__tokens=60.0, trained__rollout_tokens=10.0, trained__demonstration_tokens=20.0)
    other = metrics(rollout__tokens=100.0, trained__rollout_tokens=10.0, trained__demonstration_tokens=10.0)
    records = {seed: {"hpt": hpt, "sft_then_grpo": other} for seed in SEEDS}
    sampled, trained = (judged(f"section3-hpt-costs-less-tokens-{kind}", records) for kind in ("sampled", "trained"))
    assert (sampled.verdict.value, sampled.effect) == ("holds", pytest.approx(40.0))
    assert (trained.verdict.value, trained.effect) == ("does not hold", pytest.approx(-50.0))


def test_the_run_a_baseline_starts_from_is_part_of_its_cost() -> None:
    columns = {"trained__rollout_tokens": 10.0, "trained__demonstration_tokens": 10.0, "time__step_s": 1.0}
    hpt = metrics(rollout__tokens=50.0, **{**columns, "trained__rollout_tokens": 20.0})
    records = {
        seed: {
            "hpt_few_questions": hpt,
            "grpo_after_sft": metrics(rollout__tokens=50.0, **columns),
            "sft": metrics(**columns),  # samples nothing, so has no rollout/tokens
        }
        for seed in SEEDS
    }
    assert judged("figure4-hpt-costs-less-tokens-trained", records).effect == pytest.approx(25.0)
    assert judged("figure4-hpt-costs-less-seconds", records).effect == pytest.approx(50.0)
    assert judged("figure4-hpt-costs-less-tokens-sampled", records).verdict.value == "undecided"


def test_rollouts_of_switched_questions() -> None:
    def run(drawn: int) -> RunFrames:
        rows = [("rollouts", 8, 20.0), ("rollouts", 8, 20.0), ("demonstration", drawn, 20.0 if drawn else np.nan)]
        return RunFrames(pd.DataFrame(), pd.DataFrame(rows, columns=["branch", "rollouts", "response_tokens_mean"]))

    drawn, kept = ({seed: {"hpt_few_questions": run(count)} for seed in SEEDS} for count in (8, 0))
    result = judged("figure4-rollouts-left-out-when-switched", drawn)
    assert (result.verdict.value, result.effect) == ("does not hold", pytest.approx(100 / 3))
    assert judged("figure4-rollouts-left-out-when-switched", kept).verdict.value == "holds"


@pytest.mark.parametrize(("cosine", "expected"), [(-0.001, "undecided"), (0.3, "holds"), (-0.2, "does not hold")])
def test_gradients_do_not_conflict(cosine: float, expected: str) -> None:
    measured = np.where(np.arange(STEPS) % 10 == 0, cosine, np.nan)  # at a few steps only
    records = {seed: {"hpt": metrics(gradient__sft_rl_cosine=measured + 0.001 * seed)} for seed in SEEDS}
    assert judged("section2-sft-and-rl-do-not-conflict", records).verdict.value == expected


def test_gradients_that_no_run_records_are_not_testable() -> None:
    result = judged("section2-sft-and-rl-do-not-conflict", {seed: {"hpt": metrics()} for seed in SEEDS})
    assert result.verdict.value == "not testable here"
    assert "cosine of SFT and RL gradient of hpt, seed 0 has 0 steps" in result.explanation
