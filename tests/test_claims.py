"""The verdict on each claim, on made-up records where the answer is known, in both directions."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from hpt.paper.claim_tests import MIN_STEPS, ClaimRecords, RunFrames
from hpt.paper.claims import ClaimResult, judge
from hpt.paper.paper import claim_named

STEPS = 100
TIME = np.arange(STEPS) / STEPS  # share of training, 0 to 0.99
Curve = Callable[[int], np.ndarray]

RATIO, ENTROPY, LENGTH = "gate/offline_ratio_prompts", "rollout/entropy", "rollout/response_length_tokens"


def curve_run(column: str, values: np.ndarray) -> RunFrames:
    return RunFrames(pd.DataFrame({"step": np.arange(1, len(values) + 1), column: values}))


def judged(
    claim: str, records: dict[int, dict[str, RunFrames]], scale: str = "mini", ceiling: int | None = 100
) -> ClaimResult:
    return judge(claim_named(claim), ClaimRecords(scale, records, ceiling))


def verdict(claim: str, column: str, seeds: int = 3, scale: str = "mini", **curves: Curve) -> str:
    records = {
        seed: {method: curve_run(column, curve(seed)) for method, curve in curves.items()} for seed in range(seeds)
    }
    return judged(claim, records, scale).verdict.value


# Table 3: averages


def scores_run(*scores: float, out: float = 0.0) -> RunFrames:
    rows = [(f"set-{number}", "in", score) for number, score in enumerate(scores)] + [("other", "out", out)]
    return RunFrames(pd.DataFrame(), scores=pd.DataFrame(rows, columns=["benchmark", "distribution", "score"]))


def average_result(hpt: list[float], sft: list[float], scale: str = "mini") -> ClaimResult:
    records = {
        seed: {"hpt": scores_run(a + 10, a - 10), "sft": scores_run(b, b, out=99.0)}
        for seed, (a, b) in enumerate(zip(hpt, sft, strict=True))
    }
    return judged("table3-weak-hpt-above-sft", records, scale)


@pytest.mark.parametrize(
    ("hpt", "sft", "expected"),
    [
        ([90.0, 91.0, 92.0], [60.0, 60.0, 61.0], "holds"),
        ([60.0, 60.0, 61.0], [90.0, 91.0, 92.0], "does not hold"),
        ([97.0, 97.0, 78.0], [60.0, 99.0, 99.0], "undecided"),
        ([90.0, 91.0], [60.0, 60.0], "undecided"),
        ([90.0], [60.0], "undecided (one seed)"),
        ([90.0, 90.0, 90.0], [60.0, 60.0, 60.0], "holds"),
        ([60.0, 60.0, 60.0], [60.0, 60.0, 60.0], "undecided"),
    ],
)
def test_average_above(hpt: list[float], sft: list[float], expected: str) -> None:
    assert average_result(hpt, sft).verdict.value == expected


def test_only_scale_full_can_reproduce() -> None:
    words = [average_result([90, 91, 92], [60, 60, 61], scale).verdict.value for scale in ("mini", "gpu", "full")]
    assert words == ["holds", "holds", "reproduced"]
    assert average_result([60, 60, 61], [90, 91, 92], "full").verdict.value == "does not hold"


def test_scale_tiny_decides_nothing() -> None:
    result = average_result([90, 91, 92], [60, 60, 61], "tiny")
    assert result.verdict.value == "not testable here"
    assert "numbers mean nothing" in result.explanation


def test_a_result_carries_its_numbers() -> None:
    result = average_result([63.0, 64.0, 65.0], [60.0, 60.0, 60.0])
    assert result.effect == pytest.approx(4.0)
    assert result.per_seed == pytest.approx({0: 3.0, 1: 4.0, 2: 5.0})
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx((1.516, 6.484), abs=1e-3)
    assert result.unit == "points"
    assert result.explanation == ("hpt minus sft: +4.0 points (3 seeds, 95% interval +1.5 to +6.5).")


def test_one_seed_has_an_effect_and_no_interval() -> None:
    result = average_result([63.0], [60.0])
    assert (result.effect, result.interval) == (3.0, None)
    assert result.explanation == "hpt minus sft: +3.0 points (1 seed)."


def test_seeds_without_a_run_are_left_out_and_named() -> None:
    complete = {seed: {"hpt": scores_run(90.0 + seed), "sft": scores_run(60.0)} for seed in (0, 1, 2)}
    result = judged("table3-weak-hpt-above-sft", complete | {7: {"hpt": scores_run(1.0)}})
    assert result.verdict.value == "holds"
    assert "seeds [7]" in result.explanation


@pytest.mark.parametrize(
    ("sft", "reason"),
    [
        ({}, "no seed has runs of hpt and sft"),
        ({"sft": RunFrames(pd.DataFrame())}, "no scores of sft, seed 0"),
        ({"sft": scores_run(1.0, float("nan"))}, "no complete in-distribution scores"),
        ({"sft": scores_run(1.0, 2.0, 3.0)}, "different benchmarks"),
    ],
)
def test_missing_scores_are_not_testable(sft: dict[str, RunFrames], reason: str) -> None:
    result = judged("table3-weak-hpt-above-sft", {0: {"hpt": scores_run(1.0, 2.0), **sft}})
    assert result.verdict.value == "not testable here"
    assert reason in result.explanation
    assert (result.effect, result.interval, result.per_seed) == (None, None, {})


# Figure 6: the offline data ratio


def falling(early: float, late: float, speed: float = 8.0) -> Curve:
    return lambda seed: late + (early - late) * np.exp(-speed * TIME) + 0.001 * seed


@pytest.mark.parametrize(
    ("curve", "falls", "settles", "stays"),
    [
        (falling(0.9, 0.05), "holds", "holds", "holds"),
        (falling(0.9, 0.4), "holds", "holds", "holds"),
        # as fast in the end as before, a little more or less
        (lambda seed: 0.8 - 0.6 * TIME ** (0.9 + 0.1 * seed), "holds", "undecided", "holds"),
        (lambda seed: 0.2 + (0.6 + 0.01 * seed) * TIME**2, "does not hold", "holds", "holds"),
        (lambda seed: 0.8 - (0.6 + 0.01 * seed) * TIME**3, "holds", "does not hold", "holds"),  # faster and faster
        (lambda seed: np.full(STEPS, 0.6 + 0.01 * seed), "undecided", "undecided", "holds"),
        (lambda seed: np.where(TIME < 0.5, 0.6, 0.0), "holds", "holds", "undecided"),
        # two seeds of three fall: no seed has a veto, but the spread is wide
        (lambda seed: falling(0.9, 0.9 if seed == 1 else 0.05)(0), "undecided", "undecided", "undecided"),
    ],
)
def test_offline_ratio(curve: Curve, falls: str, settles: str, stays: str) -> None:
    claims = {"falls": falls, "settles": settles, "stays-above-zero": stays}
    for name, expected in claims.items():
        assert verdict(f"figure6-weak-offline-ratio-{name}", RATIO, hpt=curve) == expected, name


def test_a_seed_that_differs_a_little_has_no_veto() -> None:
    """Nine seeds fall, the tenth does not: unanimity would leave it open, the interval decides."""
    result = judged(
        "figure6-weak-offline-ratio-falls",
        {seed: {"hpt": curve_run(RATIO, falling(0.9, 0.95 if seed == 9 else 0.3)(seed))} for seed in range(10)},
    )
    assert min(result.per_seed.values()) < 0
    assert result.verdict.value == "holds"


def test_a_shape_is_decided_by_three_seeds_or_more() -> None:
    claim = "figure6-weak-offline-ratio-falls"
    words = [verdict(claim, RATIO, seeds=n, hpt=falling(0.9, 0.05)) for n in (1, 2, 3)]
    assert words == ["undecided (one seed)", "undecided", "holds"]


# Figure 7, left: entropy


def level(value: float) -> Curve:
    return lambda seed: np.full(STEPS, value + 0.01 * seed)


@pytest.mark.parametrize(
    ("hpt", "expected", "throughout"),
    [
        (level(0.3), "holds", "holds"),
        (level(0.1), "does not hold", "does not hold"),
        # above on average, but below in the last two fifths
        (lambda seed: np.where(TIME < 0.6, 0.6, 0.05) + 0.01 * seed, "holds", "does not hold"),
        # a little below in one window of nine: 95 % of it alone, not at a ninth of the level
        (lambda seed: np.where(TIME < 0.9, 0.6, 0.15) + 0.01 * seed, "holds", "undecided"),
        # the first tenth, where both are the base, does not count
        (lambda seed: np.where(TIME < 0.1, -9.0, 0.3) + 0.01 * seed, "holds", "holds"),
        (lambda seed: np.full(STEPS, [0.21, 0.9, 1.9][seed]), "undecided", "undecided"),  # spread too wide
        (lambda seed: np.full(STEPS, [0.4, 0.4, 0.1][seed]), "undecided", "undecided"),
    ],
)
def test_entropy(hpt: Curve, expected: str, throughout: str) -> None:
    curves = {"hpt": hpt, "grpo": lambda seed: np.full(STEPS, 0.2)}
    assert verdict("figure7-entropy-above-grpo", ENTROPY, **curves) == expected
    assert verdict("figure7-entropy-above-grpo-throughout", ENTROPY, **curves) == throughout


def test_curves_over_different_steps_are_not_compared() -> None:
    records = {0: {"hpt": curve_run(ENTROPY, np.ones(STEPS)), "grpo": curve_run(ENTROPY, np.ones(STEPS - 1))}}
    result = judged("figure7-entropy-above-grpo", records)
    assert (result.verdict.value, "different steps" in result.explanation) == ("not testable here", True)


# Figure 7, right: response length


def rising(start: float, end: float, by: float, back_to: float | None = None) -> Curve:
    """Rise linearly until a share of training, then stay; or fall linearly to another level by the end."""
    last = end if back_to is None else back_to
    return lambda seed: np.interp(TIME, [0, by, 1], [start, end, last]) + 0.1 * seed * TIME


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (lambda seed: 23 + (20 + seed) * TIME**0.5, ("holds", "holds", "holds", "holds")),
        (lambda seed: 23 + 20 * TIME ** (0.9 + 0.1 * seed), ("holds", "undecided", "holds", "holds")),
        (lambda seed: 23 + (20 + seed) * TIME**3, ("holds", "does not hold", "holds", "holds")),  # slowly at first
        (rising(23, 45, 0.2), ("holds", "holds", "holds", "undecided")),  # level: neither higher nor lower
        (rising(23, 45, 0.2, back_to=30), ("holds", "holds", "holds", "does not hold")),  # falls back
        (rising(23, 105, 0.2), ("holds", "holds", "does not hold", "undecided")),  # a ceiling of 100
        (rising(45, 23, 0.2), ("does not hold", "does not hold", "holds", "undecided")),
    ],
)
def test_response_length(curve: Curve, words: tuple[str, ...]) -> None:
    parts = ("rises", "rises-early", "below-ceiling", "does-not-regress")
    found = tuple(verdict(f"figure7-length-{part}", LENGTH, hpt=curve) for part in parts)
    assert found == words


def test_length_without_a_known_ceiling_is_not_testable() -> None:
    records = {0: {"hpt": curve_run(LENGTH, rising(23, 45, 0.2)(0))}}
    assert judged("figure7-length-below-ceiling", records, ceiling=None).verdict.value == "not testable here"


# Curves in general


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (falling(0.9, 0.05)(0)[:: STEPS // MIN_STEPS], "undecided (one seed)"),
        (np.ones(MIN_STEPS - 1), "not testable here"),
        (np.append(np.ones(MIN_STEPS - 1), [np.nan] * STEPS), "not testable here"),
    ],
)
def test_too_few_steps_are_not_testable(values: np.ndarray, expected: str) -> None:
    assert judged("figure6-weak-offline-ratio-falls", {0: {"hpt": curve_run(RATIO, values)}}).verdict.value == expected


def test_rows_may_come_in_any_order() -> None:
    run = curve_run(RATIO, falling(0.9, 0.05)(0))
    shuffled = RunFrames(run.metrics.sample(frac=1, random_state=0))
    claim = "figure6-weak-offline-ratio-falls"
    assert judged(claim, {0: {"hpt": shuffled}}).per_seed == judged(claim, {0: {"hpt": run}}).per_seed


def test_a_missing_column_is_not_testable() -> None:
    result = judged("figure6-weak-offline-ratio-falls", {0: {"hpt": curve_run("step_time", np.ones(STEPS))}})
    assert (result.verdict.value, "offline data ratio" in result.explanation) == ("not testable here", True)
