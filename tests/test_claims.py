"""The verdict on each claim about runs, on made-up records where the answer is known, in both directions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpt.paper.claim_tests import MIN_STEPS, ClaimRecords, RunFrames
from hpt.paper.claims import ClaimResult, judge
from hpt.paper.paper import claim_named

STEPS = 100
TIME = np.arange(STEPS) / STEPS  # share of training, 0 to 0.99
EMPTY = RunFrames(pd.DataFrame())
Curve = Callable[[int], np.ndarray]
#: One run for all seeds, or a seed's run.
Run = RunFrames | Callable[[int], RunFrames]

RATIO, ENTROPY, LENGTH = "gate/offline_ratio_prompts", "rollout/entropy", "rollout/response_length_tokens"
FALLS = "figure6-weak-offline-ratio-falls"
NOT_TESTABLE, DEAD = "not testable here", "not testable: ceiling or floor"


def judged(
    claim: str, runs: Mapping[str, Run], seeds: int = 3, scale: str = "mini", ceiling: int | None = 100
) -> ClaimResult:
    records = {
        seed: {name: run if isinstance(run, RunFrames) else run(seed) for name, run in runs.items()}
        for seed in range(seeds)
    }
    return judge(claim_named(claim), ClaimRecords(scale, records, ceiling))


def words(start: str, ends: Sequence[str], runs: Mapping[str, Run]) -> tuple[str, ...]:
    """Verdicts on claims whose names begin alike."""
    return tuple(judged(start + end, runs).verdict.value for end in ends)


def metrics(steps: int = STEPS, **columns: Any) -> RunFrames:
    """Metrics in an order of rows that says nothing; double underscores stand for slashes."""
    named = {name.replace("__", "/"): values for name, values in columns.items()}
    return RunFrames(pd.DataFrame({"step": np.arange(steps), **named}).sample(frac=1, random_state=0))


def curve_run(column: str, values: np.ndarray) -> RunFrames:
    return metrics(len(values), **{column: values})


def curves(column: str, curve: Curve) -> Run:
    return lambda seed: curve_run(column, curve(seed))


# Averages, on a table of their own or of one set, and the highest of several


def scored(inside: Sequence[float], outside: Sequence[float] = (50.0, 50.0)) -> RunFrames:
    names = ("AIME 24", "AIME 25", "AMC", "MATH-500", "Minerva", "OlympiadBench")
    rows = [(f"set of {name}", "in", name, score) for name, score in zip(names, inside, strict=False)]
    rows += [(f"out {place}", "out", f"out {place}", score) for place, score in enumerate(outside)]
    columns = ["benchmark", "distribution", "stands_for", "score"]
    return RunFrames(pd.DataFrame(), scores=pd.DataFrame(rows, columns=columns))


def level_scores(**levels: float) -> dict[str, RunFrames]:
    return {name: scored([level] * 6) for name, level in levels.items()}


def average_result(hpt: Sequence[float], sft: Sequence[float], scale: str = "mini") -> ClaimResult:
    runs: dict[str, Run] = {
        "hpt": lambda seed: scored([hpt[seed] + 10, hpt[seed] - 10]),
        "sft": lambda seed: scored([sft[seed], sft[seed]], (99.0,)),
    }
    return judged("table3-weak-hpt-above-sft", runs, len(hpt), scale)


ABOVE, BELOW = ([90.0, 91.0, 92.0], [60.0, 60.0, 61.0]), ([60.0, 60.0, 61.0], [90.0, 91.0, 92.0])


@pytest.mark.parametrize(
    ("scores", "scale", "expected"),
    [
        (ABOVE, "mini", "holds"),
        (BELOW, "mini", "does not hold"),
        (([97.0, 97.0, 78.0], [60.0, 99.0, 99.0]), "mini", "undecided"),
        (([90.0, 91.0], [60.0, 60.0]), "mini", "undecided"),
        (([90.0], [60.0]), "mini", "undecided (one seed)"),
        (([90.0] * 3, [60.0] * 3), "mini", "holds"),
        (([60.0] * 3, [60.0] * 3), "mini", "undecided"),
        (ABOVE, "gpu", "holds"),
        (ABOVE, "full", "reproduced"),
        (BELOW, "full", "does not hold"),
        (ABOVE, "tiny", NOT_TESTABLE),
    ],
)
def test_average_above(scores: tuple[list[float], list[float]], scale: str, expected: str) -> None:
    result = average_result(*scores, scale=scale)
    assert result.verdict.value == expected
    assert ("numbers mean nothing" in result.explanation) == (scale == "tiny")


def test_a_result_carries_its_numbers() -> None:
    result = average_result([63.0, 64.0, 65.0], [60.0, 60.0, 60.0])
    assert result.effect == pytest.approx(4.0)
    assert result.per_seed == pytest.approx({0: 3.0, 1: 4.0, 2: 5.0})
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx((1.516, 6.484), abs=1e-3)
    assert result.unit == "points"
    assert result.explanation == "hpt minus sft: +4.0 points (3 seeds, 95% interval +1.5 to +6.5)."
    one = average_result([63.0], [60.0])
    assert (one.effect, one.interval) == (3.0, None)
    assert one.explanation == "hpt minus sft: +3.0 points (1 seed)."


def test_seeds_without_a_run_are_left_out_and_named() -> None:
    complete = {seed: level_scores(hpt=90.0 + seed, sft=60.0) for seed in (0, 1, 2)}
    records = ClaimRecords("mini", complete | {7: level_scores(hpt=1.0)})
    result = judge(claim_named("table3-weak-hpt-above-sft"), records)
    assert result.verdict.value == "holds"
    assert "seeds [7]" in result.explanation


@pytest.mark.parametrize(
    ("gates", "effect", "expected"),
    [
        ((50.0, 40.0, 45.0), 5.0, "holds"),
        ((50.0, 40.0, 55.0), -5.0, "does not hold"),  # above one, below the other
        ((50.0, 60.0, 45.0), -10.0, "does not hold"),
        ((30.0, 40.0, 55.0), -25.0, "does not hold"),
        ((50.0, 40.0, 50.0), 0.0, "undecided"),
    ],
)
def test_the_highest_is_above_each_of_the_others(
    gates: tuple[float, float, float], effect: float, expected: str
) -> None:
    """Its effect is the difference to the nearest of them."""
    hpt, first, second = gates
    result = judged("table6-gate-0-best", level_scores(hpt=hpt, hpt_gate1=first, hpt_gate2=second))
    assert (result.verdict.value, result.effect) == (expected, pytest.approx(effect))
    assert f"hpt minus hpt_gate1: {hpt - first:+.1f}" in result.explanation


def test_claims_about_one_benchmark_or_other_distributions_read_those_sets() -> None:
    runs = {
        "hpt": scored([70.0] + [0.0] * 5, (60.0, 70.0)),
        "srft": scored([60.0] + [90.0] * 5),
        "luffy": scored([90.0] * 6),
    }
    claims = ("aime24-hpt-above-srft", "hpt-above-srft", "ood-hpt-above-luffy")
    assert words("table2-", claims, runs) == ("holds", "does not hold", "holds")


@pytest.mark.parametrize(
    ("claim", "inside", "outside", "expected"),
    [
        ("table2", [70.0] * 6, (70.0, 70.0), "holds"),
        ("table2", [70.0] * 5 + [50.0], (70.0, 70.0), "holds"),  # seven of eight
        ("table2", [70.0] * 5 + [50.0], (70.0, 50.0), "does not hold"),
        ("table2", [70.0] * 5 + [60.0], (70.0, 60.0), "does not hold"),  # a tie is not above
        ("table3-weak", [70.0] * 6, (), "holds"),
        ("table3-weak", [70.0] * 5 + [50.0], (), "does not hold"),  # five of six: in the paper's Table 3 it is six
    ],
)
def test_consistently_best(claim: str, inside: list[float], outside: tuple[float, ...], expected: str) -> None:
    levels = {"sft": 40.0, "grpo": 40.0, "sft_then_grpo": 40.0, "luffy": 60.0, "srft": 60.0}
    others = {name: scored([level] * 6, [level] * len(outside)) for name, level in levels.items()}
    result = judged(f"{claim}-hpt-consistently-best", {"hpt": scored(inside, outside), **others})
    assert (result.verdict.value, result.unit) == (expected, "sets")


@pytest.mark.parametrize(
    ("weak", "llama", "expected"),
    [
        ((40.0, 15.0), (20.0, 5.0), "holds"),
        ((40.0, 30.0), (20.0, 5.0), "does not hold"),  # higher there, and still a smaller gain
        ((30.0, 20.0), (15.0, 5.0), "undecided"),
    ],
)
def test_a_gain_is_compared_with_a_gain(weak: tuple[float, float], llama: tuple[float, float], expected: str) -> None:
    names = ("grpo", "pretrain", "grpo@llama", "pretrain@llama")
    runs: dict[str, Run] = {**level_scores(**dict(zip(names, (*weak, *llama), strict=True)))}
    runs["grpo"] = lambda seed: scored([weak[0] + seed - 1.0] * 6)
    result = judged("section2-grpo-gains-more-on-qwen", runs)
    assert result.verdict.value == expected
    assert result.effect == pytest.approx(weak[0] - weak[1] - (llama[0] - llama[1]))
    assert "grpo@llama minus pretrain@llama" in result.explanation


# pass@k


def answered(*solved: int, samples: int = 256, correct: int = 1) -> RunFrames:
    """A run that solves so many of ten problems of each set, each with so many correct answers."""
    rows = [
        (name, f"{name}-{place}", 5, correct if place < count else 0, samples)
        for name, count in zip(("contest-b@1024", "contest-a@256", "contest-c@256"), solved, strict=True)
        for place in range(10)
    ]
    columns = ["benchmark", "problem_id", "level", "correct", "samples"]
    return RunFrames(pd.DataFrame(), counts=pd.DataFrame(rows, columns=columns))


@pytest.mark.parametrize(
    ("solved", "expected"), [((9, 9, 9), "holds"), ((3, 4, 2), "does not hold"), ((5, 5, 5), "undecided")]
)
def test_pass_at_large_k(solved: tuple[int, int, int], expected: str) -> None:
    runs = {"hpt": answered(*solved), "grpo": answered(5, 5, 5)}
    assert judged("figure2-hpt-above-grpo", runs).verdict.value == expected


def test_pass_at_k_is_a_mean_over_sets_of_different_sizes() -> None:
    counts = answered(0, 0, 0).counts
    larger = pd.concat([counts, counts[counts["benchmark"] == "contest-b@1024"]])
    runs = {"hpt": answered(10, 0, 0), "grpo": RunFrames(pd.DataFrame(), counts=larger)}
    assert judged("figure2-hpt-above-grpo", runs).effect == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("grpo", "raises_one", "leaves_large"),
    [
        # 128 of 256 answers right on half of the problems: pass@1 25 %, pass@256 50 %
        (answered(5, 5, 5, correct=128), "holds", "holds"),
        (answered(9, 9, 9, correct=64), "holds", "does not hold"),  # 40 points more at k = 256
        (answered(4, 4, 4, correct=16), "does not hold", "holds"),
        (answered(4, 4, 4, correct=256), "holds", "holds"),
    ],
)
def test_rl_raises_pass_at_1_and_not_large_k(grpo: RunFrames, raises_one: str, leaves_large: str) -> None:
    runs = {"grpo": grpo, "pretrain": answered(5, 5, 5, correct=16)}
    assert words("figure2-rl-", ("raises-pass-at-1", "leaves-large-k"), runs) == (raises_one, leaves_large)


def test_at_the_floor_or_the_ceiling_nothing_can_be_told() -> None:
    for grpo, base in (((9, 0, 0), (5, 0, 0)), ((9, 9, 9), (5, 5, 5))):  # pass@1 below 2 %
        runs = {"grpo": answered(*grpo), "pretrain": answered(*base)}
        assert judged("figure2-rl-raises-pass-at-1", runs).verdict.value == DEAD
    runs = {"hpt": answered(10, 10, 10), "grpo": answered(10, 10, 10)}
    assert judged("figure2-hpt-above-grpo", runs).verdict.value == DEAD
    averages = ((99.5, 98.5, DEAD), (99.5, 97.0, "holds"), (0.5, 1.8, DEAD), (0.5, 2.1, "does not hold"))
    for hpt, sft, expected in averages:
        result = judged("table2-hpt-above-sft", level_scores(hpt=hpt, sft=sft))
        assert (result.verdict.value, result.effect) == (expected, pytest.approx(hpt - sft)), (hpt, sft)


# Table 4: exclusive solves

SIZES = (43, 90, 105, 128, 134)
PAPER_GAINS, PAPER_LOSSES, NONE = (0, 5, 9, 17, 27), (0, 1, 2, 4, 8), (0, 0, 0, 0, 0)


def solves(gains: Sequence[int], losses: Sequence[int]) -> dict[str, RunFrames]:
    """HPT and GRPO on 500 problems: so many per level solved by HPT alone, by GRPO alone, the rest by both."""
    rows: dict[str, list[tuple[str, str, int, int, int]]] = {"hpt": [], "grpo": []}
    for level, (size, gain, loss) in enumerate(zip(SIZES, gains, losses, strict=True), start=1):
        for place in range(size):
            hpt, grpo = (1, 0) if place < gain else (0, 1) if place < gain + loss else (1, 1)
            for name, correct in (("hpt", hpt), ("grpo", grpo)):
                rows[name].append(("graded-500", f"{level}-{place}", level, correct, 1))
    columns = ["benchmark", "problem_id", "level", "correct", "samples"]
    return {name: RunFrames(pd.DataFrame(), counts=pd.DataFrame(own, columns=columns)) for name, own in rows.items()}


@pytest.mark.parametrize(
    ("gains", "losses", "grow", "at_every_level", "small", "exceed"),
    [
        (PAPER_GAINS, PAPER_LOSSES, "holds", "holds", "holds", "holds"),  # 3.0 % are lost, as the paper prints
        ((20, 18, 12, 6, 0), NONE, "does not hold", "does not hold", "holds", "holds"),
        # the counts grow, the shares are all about a tenth
        ((4, 9, 11, 12, 13), NONE, "holds", "does not hold", "holds", "holds"),
        # grows on average, but falls twice
        ((0, 20, 10, 40, 30), NONE, "holds", "does not hold", "holds", "holds"),
        ((0, 10, 20, 30, 40), NONE, "holds", "holds", "holds", "holds"),
        (PAPER_GAINS, (0, 0, 0, 0, 15), "holds", "holds", "holds", "holds"),
        (PAPER_GAINS, (0, 1, 2, 4, 9), "holds", "holds", "does not hold", "holds"),
        (PAPER_GAINS, (5, 9, 10, 12, 13), "holds", "holds", "does not hold", "holds"),  # 9.8 % in all
        (PAPER_LOSSES, PAPER_GAINS, "holds", "holds", "does not hold", "does not hold"),
        (PAPER_LOSSES, PAPER_LOSSES, "holds", "holds", "holds", "undecided"),
    ],
)
def test_exclusive_solves(
    gains: Sequence[int], losses: Sequence[int], grow: str, at_every_level: str, small: str, exceed: str
) -> None:
    runs = solves(gains, losses)
    claims = ("gains-grow", "gains-grow-at-every-level", "losses-small", "gains-exceed-losses")
    assert words("table4-grpo-", claims, runs) == (grow, at_every_level, small, exceed)
    slope = float(np.polyfit(range(1, 6), 100 * np.array(gains) / SIZES, 1)[0])
    gained, lost = sum(gains) / 5, sum(losses) / 5  # percent of 500 problems
    effects = {"gains-grow": slope, "losses-small": lost, "gains-exceed-losses": gained - lost}
    for claim, effect in effects.items():
        assert judged(f"table4-grpo-{claim}", runs).effect == pytest.approx(effect), claim


# Curves: Figures 6 and 7


def falling(early: float, late: float) -> Curve:
    return lambda seed: late + (early - late) * np.exp(-8 * TIME) + 0.001 * seed


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (falling(0.9, 0.05), ("holds", "holds", "holds")),
        # as fast in the end as before, a little more or less
        (lambda seed: 0.8 - 0.6 * TIME ** (0.9 + 0.1 * seed), ("holds", "undecided", "holds")),
        (lambda seed: 0.2 + (0.6 + 0.01 * seed) * TIME**2, ("does not hold", "holds", "holds")),
        (lambda seed: 0.8 - (0.6 + 0.01 * seed) * TIME**3, ("holds", "does not hold", "holds")),  # faster and faster
        (lambda seed: np.full(STEPS, 0.6 + 0.01 * seed), ("undecided", "undecided", "holds")),
        (lambda seed: np.where(TIME < 0.5, 0.6, 0.0), ("holds", "holds", "undecided")),
        # two seeds of three fall: no seed has a veto, but the spread is wide
        (lambda seed: falling(0.9, 0.9 if seed == 1 else 0.05)(0), ("undecided", "undecided", "undecided")),
    ],
)
def test_offline_ratio(curve: Curve, expected: tuple[str, ...]) -> None:
    runs = {"hpt": curves(RATIO, curve)}
    assert words("figure6-weak-offline-ratio-", ("falls", "settles", "stays-above-zero"), runs) == expected


def test_a_seed_that_differs_a_little_has_no_veto() -> None:
    """Nine seeds fall, the tenth does not: unanimity would leave it open, the interval decides."""
    runs = {"hpt": curves(RATIO, lambda seed: falling(0.9, 0.95 if seed == 9 else 0.3)(seed))}
    result = judged(FALLS, runs, seeds=10)
    assert min(result.per_seed.values()) < 0
    assert result.verdict.value == "holds"


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
    runs = {"hpt": curves(ENTROPY, hpt), "grpo": curve_run(ENTROPY, np.full(STEPS, 0.2))}
    assert words("figure7-entropy-above-grpo", ("", "-throughout"), runs) == (expected, throughout)


def rising(start: float, end: float, by: float, back_to: float | None = None) -> Curve:
    """Rise linearly until a share of training, then stay; or fall linearly to another level by the end."""
    last = end if back_to is None else back_to
    return lambda seed: np.interp(TIME, [0, by, 1], [start, end, last]) + 0.1 * seed * TIME


@pytest.mark.parametrize(
    ("curve", "expected"),
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
def test_response_length(curve: Curve, expected: tuple[str, ...]) -> None:
    parts = ("rises", "rises-early", "below-ceiling", "does-not-regress")
    assert words("figure7-length-", parts, {"hpt": curves(LENGTH, curve)}) == expected


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(0.1, 0.6, "holds"), (0.6, 0.1, "does not hold"), (0.3, 0.3, "undecided")],
)
def test_the_reward_increases(first: float, last: float, expected: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, STEPS)
    runs = {"hpt": curves("rollout/reward", lambda seed: np.linspace(first, last, STEPS) + np.roll(noise, 7 * seed))}
    for base in ("weak", "strong"):
        result = judged(f"figure6-{base}-reward-increases", runs)
        assert result.verdict.value == expected, result.explanation
        # from the middle of the first tenth on
        assert result.effect == pytest.approx(0.85 * (last - first), abs=0.02)


@pytest.mark.parametrize(
    ("weak", "strong", "expected"), [(60, 20, "holds"), (20, 60, "does not hold"), (30, 30, "undecided")]
)
def test_the_weaker_base_stays_on_sft_longer(weak: int, strong: int, expected: str) -> None:
    runs = {name: curve_run(RATIO, np.where(np.arange(STEPS) < step, 0.8, 0.1))
            for name, step in (("hpt", weak), ("hpt@strong", strong))}  # fmt: skip
    result = judged("figure6-weaker-stays-on-sft-longer", runs)
    assert (result.verdict.value, result.effect, result.unit) == (expected, weak - strong, "steps")


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
    """The first point, of the bases, does not count."""
    runs = {"hpt": validated_along([0.0] * 6, hpt, hpt, hpt),
            "grpo": validated_along([99.0] * 6, *[[50.0] * 6] * 3)}  # fmt: skip
    assert words("figure5-hpt-above-grpo", ("", "-on-every-set"), runs) == (expected, on_every_set)
    assert judged("figure5-hpt-above-grpo", runs).effect == pytest.approx(sum(hpt) / 6 - 50)


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
    runs = {"hpt": validated_along(*points)}
    assert words("figure5-hpt-improves-", ("on-every-set", "stably"), runs) == (on_every_set, stably)


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


def growing(first: int, last: int, at_zero: int = 0, questions: int = 20, epochs: int = 40) -> np.ndarray:
    """A grid whose questions are solved more often epoch by epoch, but for those at zero."""
    values = np.tile(np.round(np.linspace(first, last, epochs)), (questions, 1))
    values[:at_zero] = 0
    return values


@pytest.mark.parametrize(
    ("on_level_3", "on_level_5", "some", "more"),
    [
        (0, 5, "holds", "holds"),
        (0, 1, "holds", "holds"),
        (0, 0, "does not hold", "undecided"),
        (8, 3, "holds", "does not hold"),
        (3, 3, "holds", "undecided"),
    ],
)
def test_rows_at_zero(on_level_3: int, on_level_5: int, some: str, more: str) -> None:
    runs = {"grpo_after_sft": asked(growing(6, 6, on_level_3), growing(4, 4, on_level_5))}
    claims = ("rows-stay-at-zero", "more-rows-stay-at-zero-on-level-5")
    assert words("figure3-", claims, runs) == (some, more)
    found = judged("figure3-rows-stay-at-zero", runs)
    assert (found.effect, found.unit) == (on_level_5, "questions")


def test_the_difference_map_starts_blue_and_ends_red() -> None:
    flat, steep = asked(growing(4, 4), growing(4, 4)), asked(growing(1, 6), growing(1, 8))
    hpt_grows = {"hpt_few_questions": steep, "grpo_after_sft": flat}
    sft_first_grows = {"hpt_few_questions": flat, "grpo_after_sft": steep}
    for claim in ("figure4-starts-blue", "figure4-ends-red"):
        assert judged(claim, hpt_grows).verdict.value == "holds", claim
        assert judged(claim, sft_first_grows).verdict.value == "does not hold", claim
    assert judged("figure4-ends-red", hpt_grows).effect == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("level_3", "level_5", "expected"), [(4, 8, "holds"), (8, 4, "does not hold"), (8, 8, "undecided")]
)
def test_more_red_on_level_5(level_3: int, level_5: int, expected: str) -> None:
    hpt = asked(growing(1, level_3), growing(1, level_5))
    runs = {"hpt_few_questions": hpt, "grpo_after_sft": asked(growing(4, 4), growing(4, 4))}
    assert judged("figure4-more-on-level-5", runs).verdict.value == expected


# Costs, and gradients


def test_costs_count_every_step_of_both_runs() -> None:
    hpt = metrics(rollout__tokens=60.0, trained__rollout_tokens=10.0, trained__demonstration_tokens=20.0)
    other = metrics(rollout__tokens=100.0, trained__rollout_tokens=10.0, trained__demonstration_tokens=10.0)
    runs = {"hpt": hpt, "sft_then_grpo": other}
    sampled, trained = (judged(f"section3-hpt-costs-less-tokens-{kind}", runs) for kind in ("sampled", "trained"))
    assert (sampled.verdict.value, sampled.effect) == ("holds", pytest.approx(40.0))
    assert (trained.verdict.value, trained.effect) == ("does not hold", pytest.approx(-50.0))


def test_the_run_a_baseline_starts_from_is_part_of_its_cost() -> None:
    columns = {"trained__rollout_tokens": 10.0, "trained__demonstration_tokens": 10.0, "time__step_s": 1.0}
    runs = {
        "hpt_few_questions": metrics(rollout__tokens=50.0, **{**columns, "trained__rollout_tokens": 20.0}),
        "grpo_after_sft": metrics(rollout__tokens=50.0, **columns),
        "sft": metrics(**columns),  # samples nothing, so has no rollout/tokens
    }
    assert judged("figure4-hpt-costs-less-tokens-trained", runs).effect == pytest.approx(25.0)
    assert judged("figure4-hpt-costs-less-seconds", runs).effect == pytest.approx(50.0)
    assert judged("figure4-hpt-costs-less-tokens-sampled", runs).verdict.value == "undecided"


def test_rollouts_of_switched_questions() -> None:
    def found(drawn: int) -> ClaimResult:
        rows = [("rollouts", 8, 20.0), ("rollouts", 8, 20.0), ("demonstration", drawn, 20.0 if drawn else np.nan)]
        frame = pd.DataFrame(rows, columns=["branch", "rollouts", "response_tokens_mean"])
        run = RunFrames(pd.DataFrame(), frame)
        return judged("figure4-rollouts-left-out-when-switched", {"hpt_few_questions": run})

    assert (found(8).verdict.value, found(8).effect) == ("does not hold", pytest.approx(100 / 3))
    assert found(0).verdict.value == "holds"


@pytest.mark.parametrize(("cosine", "expected"), [(-0.001, "undecided"), (0.3, "holds"), (-0.2, "does not hold")])
def test_gradients_do_not_conflict(cosine: float, expected: str) -> None:
    measured = np.where(np.arange(STEPS) % 10 == 0, cosine, np.nan)  # at a few steps only
    runs = {"hpt": curves("gradient/sft_rl_cosine", lambda seed: measured + 0.001 * seed)}
    assert judged("section2-sft-and-rl-do-not-conflict", runs).verdict.value == expected


# What the records lack

HPT, AVERAGE, PASS = scored([1.0, 2.0]), "table3-weak-hpt-above-sft", "figure2-hpt-above-grpo"
ONES, MAPS, SHORT = np.ones(MIN_STEPS), asked(growing(4, 4), growing(4, 4)), growing(4, 4, epochs=3)
FEWER = solves(PAPER_GAINS, NONE)
FEWER["grpo"] = RunFrames(pd.DataFrame(), counts=FEWER["grpo"].counts.iloc[1:])


@pytest.mark.parametrize(
    ("claim", "runs", "reason"),
    [
        (AVERAGE, {"hpt": HPT}, "no seed has runs of hpt and sft"),
        (AVERAGE, {"hpt": HPT, "sft": EMPTY}, "no scores of sft, seed 0"),
        (AVERAGE, {"hpt": HPT, "sft": scored([1.0, np.nan])}, "no complete in-distribution scores"),
        (AVERAGE, {"hpt": HPT, "sft": scored([1.0, 2.0, 3.0])}, "different benchmarks"),
        (PASS, {"hpt": answered(9, 9, 9, samples=32), "grpo": answered(5, 5, 5)},
         "32 answers per problem, fewer than k = 256"),
        (PASS, {"hpt": answered(9, 9, 9), "grpo": EMPTY}, "no answers to contest-b@1024 of grpo"),
        ("table4-grpo-gains-grow", FEWER, "different problems"),
        (FALLS, {"hpt": curve_run("step_time", ONES)}, "offline data ratio"),
        (FALLS, {"hpt": curve_run(RATIO, ONES[1:])}, f"has {MIN_STEPS - 1} steps"),
        (FALLS, {"hpt": curve_run(RATIO, np.append(ONES[1:], [np.nan] * STEPS))}, f"has {MIN_STEPS - 1} steps"),
        ("figure7-entropy-above-grpo",
         {"hpt": curve_run(ENTROPY, np.ones(MIN_STEPS + 1)), "grpo": curve_run(ENTROPY, ONES)},
         "different steps"),
        ("figure7-length-below-ceiling", {"hpt": curve_run(LENGTH, ONES)}, "largest response length is not known"),
        ("figure4-ends-red", {"hpt_few_questions": asked(SHORT, SHORT), "grpo_after_sft": MAPS}, "has 3 epochs"),
        ("figure4-ends-red",
         {"hpt_few_questions": asked(growing(4, 4, questions=19), growing(4, 4)), "grpo_after_sft": MAPS},
         "different questions"),
        ("section2-sft-and-rl-do-not-conflict", {"hpt": metrics()},
         "cosine of SFT and RL gradient of hpt, seed 0 has 0 steps"),
    ],
)  # fmt: skip
def test_what_the_records_lack_is_not_testable(claim: str, runs: dict[str, Run], reason: str) -> None:
    result = judged(claim, runs, ceiling=None)
    assert result.verdict.value == NOT_TESTABLE
    assert reason in result.explanation
    assert (result.effect, result.interval, result.per_seed) == (None, None, {})
