"""Claims over averages, pass@k and exclusive solves, on made-up records where the answer is known."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from hpt.paper.claim_tests import ClaimRecords, RunFrames
from hpt.paper.claims import ClaimResult, judge
from hpt.paper.paper import claim_named

SEEDS = (0, 1, 2)
SETS = ("contest-b@1024", "contest-a@256", "contest-c@256")


def judged(claim: str, seeds: Mapping[int, Mapping[str, RunFrames]]) -> ClaimResult:
    return judge(claim_named(claim), ClaimRecords("mini", seeds))


def scored(inside: Sequence[float], outside: Sequence[float] = (50.0, 50.0)) -> RunFrames:
    names = ("AIME 24", "AIME 25", "AMC", "MATH-500", "Minerva", "OlympiadBench")
    rows = [(f"set of {name}", "in", name, score) for name, score in zip(names, inside, strict=False)]
    rows += [(f"out {place}", "out", f"out {place}", score) for place, score in enumerate(outside)]
    return RunFrames(
        pd.DataFrame(), scores=pd.DataFrame(rows, columns=["benchmark", "distribution", "stands_for", "score"])
    )


def level_scores(**levels: float) -> dict[int, dict[str, RunFrames]]:
    """Seeds whose methods score alike on six sets, a little better with every seed."""
    return {seed: {name: scored([level + 0.1 * seed] * 6) for name, level in levels.items()} for seed in SEEDS}


# The highest of several


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ((50.0, 40.0, 45.0), "holds"),
        ((50.0, 40.0, 55.0), "does not hold"),  # above one, below the other
        ((30.0, 40.0, 55.0), "does not hold"),
        ((50.0, 40.0, 50.0), "undecided"),
    ],
)
def test_the_highest_is_above_each_of_the_others(gates: tuple[float, float, float], expected: str) -> None:
    names = ("hpt", "hpt_gate1", "hpt_gate2")
    result = judged("table6-gate-0-best", level_scores(**dict(zip(names, gates, strict=True))))
    assert result.verdict.value == expected


def test_the_effect_is_the_difference_to_the_nearest_other() -> None:
    result = judged("table6-gate-0-best", level_scores(hpt=50.0, hpt_gate1=40.0, hpt_gate2=47.0))
    assert result.effect == pytest.approx(3.0)
    assert "hpt minus hpt_gate1: +10.0" in result.explanation
    result = judged("table6-gate-0-best", level_scores(hpt=50.0, hpt_gate1=60.0, hpt_gate2=47.0))
    assert result.effect == pytest.approx(-10.0)


def test_one_unsure_other_leaves_it_undecided() -> None:
    records = level_scores(hpt=50.0, hpt_gate1=40.0, hpt_gate2=45.0)
    for seed, level in zip(SEEDS, (20.0, 70.0, 40.0), strict=True):
        records[seed]["hpt_gate2"] = scored([level] * 6)
    assert judged("table6-gate-0-best", records).verdict.value == "undecided"


# One benchmark, and nearly all of them


def test_a_claim_about_one_benchmark_reads_that_one() -> None:
    ahead, behind = [70.0, 0.0, 0.0, 0.0, 0.0, 0.0], [60.0, 90.0, 90.0, 90.0, 90.0, 90.0]
    records = {seed: {"hpt": scored(ahead), "srft": scored(behind)} for seed in SEEDS}
    assert judged("table2-aime24-hpt-above-srft", records).verdict.value == "holds"
    assert judged("table2-hpt-above-srft", records).verdict.value == "does not hold"


def test_out_of_distribution_claims_read_those_sets() -> None:
    records = {
        seed: {"hpt": scored([0.0] * 6, (60.0, 70.0 + seed)), "luffy": scored([90.0] * 6, (50.0, 50.0))}
        for seed in SEEDS
    }
    assert judged("table2-ood-hpt-above-luffy", records).verdict.value == "holds"


OTHERS = ("sft", "grpo", "sft_then_grpo", "luffy", "srft")


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        ([70.0] * 6, (70.0, 70.0), "holds"),
        ([70.0] * 5 + [50.0], (70.0, 70.0), "holds"),  # seven of eight
        ([70.0] * 5 + [50.0], (70.0, 50.0), "does not hold"),
        ([70.0] * 5 + [60.0], (70.0, 60.0), "does not hold"),  # a tie is not above
    ],
)
def test_consistently_best(inside: list[float], outside: tuple[float, float], expected: str) -> None:
    runs = {name: scored([40.0] * 6, (40.0, 40.0)) for name in OTHERS} | {"srft": scored([60.0] * 6, (60.0, 60.0))}
    records = {seed: {"hpt": scored(inside, outside), **runs} for seed in SEEDS}
    assert judged("table2-hpt-consistently-best", records).verdict.value == expected


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ([70.0] * 6, "holds"),
        ([70.0] * 5 + [50.0], "does not hold"),  # five of six: in the paper's Table 3 it is six
        ([70.0] * 5 + [60.0], "does not hold"),  # a tie is not above
    ],
)
def test_consistently_best_on_the_sets_that_a_table_has(inside: list[float], expected: str) -> None:
    runs = {name: scored([40.0] * 6, ()) for name in ("sft", "grpo")} | {"luffy": scored([60.0] * 6, ())}
    records = {seed: {"hpt": scored(inside, ()), **runs} for seed in SEEDS}
    result = judged("table3-weak-hpt-consistently-best", records)
    assert (result.verdict.value, result.unit) == (expected, "sets")


# A gain on two bases


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
    records = {seed: {name: scored([level] * 6) for name, level in zip(names, (*weak, *llama), strict=True)}
               for seed in SEEDS}  # fmt: skip
    for seed, noise in zip(SEEDS, (-1.0, 0.0, 1.0), strict=True):
        records[seed]["grpo"] = scored([weak[0] + noise] * 6)
    result = judged("section2-grpo-gains-more-on-qwen", records)
    assert result.verdict.value == expected
    assert result.effect == pytest.approx(weak[0] - weak[1] - (llama[0] - llama[1]))
    assert "grpo@llama minus pretrain@llama" in result.explanation


@pytest.mark.parametrize(("sft", "expected"), [(30.0, "holds"), (4.0, "does not hold")])
def test_sft_is_effective_where_it_beats_its_base(sft: float, expected: str) -> None:
    records = level_scores(sft=sft, pretrain=5.0)
    for base in ("weak", "llama"):
        assert judged(f"section2-sft-effective-on-{base}", records).verdict.value == expected


# pass@k


def answered(*solved: int, samples: int = 256, correct: int = 1) -> RunFrames:
    """A run that solves so many of ten problems of each set, each with so many correct answers."""
    rows = [
        (name, f"{name}-{place}", 5, correct if place < count else 0, samples)
        for name, count in zip(SETS, solved, strict=True)
        for place in range(10)
    ]
    return RunFrames(
        pd.DataFrame(), counts=pd.DataFrame(rows, columns=["benchmark", "problem_id", "level", "correct", "samples"])
    )


@pytest.mark.parametrize(
    ("hpt", "expected"),
    [(answered(9, 9, 9), "holds"), (answered(3, 4, 2), "does not hold"),
     (answered(5, 5, 5), "undecided")],
)  # fmt: skip
def test_pass_at_large_k(hpt: RunFrames, expected: str) -> None:
    records = {seed: {"hpt": hpt, "grpo": answered(5, 5, 5)} for seed in SEEDS}
    assert judged("figure2-hpt-above-grpo", records).verdict.value == expected


def test_pass_at_k_is_a_mean_over_sets_of_different_sizes() -> None:
    grpo = answered(0, 0, 0)
    larger = pd.concat([grpo.counts, grpo.counts[grpo.counts["benchmark"] == SETS[0]]])
    for frames in (hpt := answered(10, 0, 0), grpo):
        assert len(frames.counts) == 30
    records = {seed: {"hpt": hpt, "grpo": RunFrames(pd.DataFrame(), counts=larger)} for seed in SEEDS}
    assert judged("figure2-hpt-above-grpo", records).effect == pytest.approx(100 / 3)


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
    records = {seed: {"grpo": grpo, "pretrain": answered(5, 5, 5, correct=16)} for seed in SEEDS}
    assert judged("figure2-rl-raises-pass-at-1", records).verdict.value == raises_one
    assert judged("figure2-rl-leaves-large-k", records).verdict.value == leaves_large


def test_at_the_floor_or_the_ceiling_nothing_can_be_told() -> None:
    dead = "not testable: ceiling or floor"
    for grpo, base, expected in (((9, 0, 0), (5, 0, 0), dead), ((9, 9, 9), (5, 5, 5), dead)):  # pass@1 below 2 %
        records = {seed: {"grpo": answered(*grpo), "pretrain": answered(*base)} for seed in SEEDS}
        assert judged("figure2-rl-raises-pass-at-1", records).verdict.value == expected
    records = {seed: {"hpt": answered(10, 10, 10), "grpo": answered(10, 10, 10)} for seed in SEEDS}
    assert judged("figure2-hpt-above-grpo", records).verdict.value == dead
    for hpt, sft, expected in (
        (99.5, 98.5, dead),
        (99.5, 97.0, "holds"),
        (0.5, 1.8, dead),
        (0.5, 2.1, "does not hold"),
    ):
        result = judged("table2-hpt-above-sft", level_scores(hpt=hpt, sft=sft))
        assert (result.verdict.value, result.effect) == (expected, pytest.approx(hpt - sft)), (hpt, sft)


def test_too_few_answers_or_sets_are_not_testable() -> None:
    few = {seed: {"hpt": answered(9, 9, 9, samples=32), "grpo": answered(5, 5, 5)} for seed in SEEDS}
    result = judged("figure2-hpt-above-grpo", few)
    assert result.verdict.value == "not testable here"
    assert "32 answers per problem, fewer than k = 256" in result.explanation
    missing = {seed: {"hpt": answered(9, 9, 9), "grpo": RunFrames(pd.DataFrame())} for seed in SEEDS}
    assert "no answers to contest-b@1024 of grpo" in judged("figure2-hpt-above-grpo", missing).explanation


# Table 4: exclusive solves

SIZES = (43, 90, 105, 128, 134)


def solves(gains: Sequence[int], losses: Sequence[int] = (0,) * 5) -> dict[str, RunFrames]:
    """HPT and GRPO on 500 problems: so many per level solved by HPT alone, by GRPO alone, the rest by both."""
    rows: dict[str, list[tuple[str, str, int, int, int]]] = {"hpt": [], "grpo": []}
    for level, (size, gain, loss) in enumerate(zip(SIZES, gains, losses, strict=True), start=1):
        for place in range(size):
            hpt, grpo = (1, 0) if place < gain else (0, 1) if place < gain + loss else (1, 1)
            for name, correct in (("hpt", hpt), ("grpo", grpo)):
                rows[name].append(("graded-500", f"{level}-{place}", level, correct, 1))
    columns = ["benchmark", "problem_id", "level", "correct", "samples"]
    return {name: RunFrames(pd.DataFrame(), counts=pd.DataFrame(own, columns=columns)) for name, own in rows.items()}


PAPER_GAINS, PAPER_LOSSES = (0, 5, 9, 17, 27), (0, 1, 2, 4, 8)


def test_the_papers_own_table_4_meets_its_claims() -> None:
    records = {seed: solves(PAPER_GAINS, PAPER_LOSSES) for seed in SEEDS}
    for claim in ("gains-grow", "gains-grow-at-every-level", "losses-small", "gains-exceed-losses"):
        assert judged(f"table4-grpo-{claim}", records).verdict.value == "holds", claim
    percent = [100 * gain / size for gain, size in zip(PAPER_GAINS, SIZES, strict=True)]
    slope = float(np.polyfit(range(1, 6), percent, 1)[0])
    assert judged("table4-grpo-gains-grow", records).effect == pytest.approx(slope)
    assert judged("table4-grpo-losses-small", records).effect == pytest.approx(3.0)
    assert judged("table4-grpo-gains-exceed-losses", records).effect == pytest.approx(100 * (58 - 15) / 500)


@pytest.mark.parametrize(
    ("gains", "expected", "at_every_level"),
    [
        ((20, 18, 12, 6, 0), "does not hold", "does not hold"),
        ((4, 9, 11, 12, 13), "holds", "does not hold"),  # the counts grow, the shares are all about a tenth
        ((0, 20, 10, 40, 30), "holds", "does not hold"),  # grows on average, but falls twice
        ((0, 10, 20, 30, 40), "holds", "holds"),
    ],
)
def test_gains_grow(gains: Sequence[int], expected: str, at_every_level: str) -> None:
    records = {seed: solves(gains) for seed in SEEDS}
    for claim, word in (("", expected), ("-at-every-level", at_every_level)):
        result = judged(f"table4-grpo-gains-grow{claim}", records)
        assert result.verdict.value == word, result.explanation


def test_gains_that_grow_in_some_seeds_are_undecided() -> None:
    records = {0: solves((0, 5, 9, 17, 27)), 1: solves((0, 5, 9, 17, 27)), 2: solves((20, 18, 12, 6, 0))}
    assert judged("table4-grpo-gains-grow", records).verdict.value == "undecided"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((0, 1, 2, 4, 8), "holds"),  # 3.0 % in all, as the paper prints
        ((0, 0, 0, 0, 15), "holds"),
        ((0, 1, 2, 4, 9), "does not hold"),
        ((5, 9, 10, 12, 13), "does not hold"),  # 9.8 % in all
    ],
)
def test_losses_stay_small(losses: Sequence[int], expected: str) -> None:
    records = {seed: solves((0, 5, 9, 17, 27), losses) for seed in SEEDS}
    assert judged("table4-grpo-losses-small", records).verdict.value == expected


def test_gains_exceed_losses() -> None:
    worse = {seed: solves((0, 1, 2, 4, 8), (0, 5, 9, 17, 20 + seed)) for seed in SEEDS}
    assert judged("table4-grpo-gains-exceed-losses", worse).verdict.value == "does not hold"
    even = {seed: solves(PAPER_LOSSES, PAPER_LOSSES) for seed in SEEDS}
    assert judged("table4-grpo-gains-exceed-losses", even).verdict.value == "undecided"


def test_different_problems_are_not_compared() -> None:
    runs = solves(PAPER_GAINS)
    shorter = RunFrames(pd.DataFrame(), counts=runs["grpo"].counts.iloc[1:])
    result = judged("table4-grpo-gains-grow", {seed: {**runs, "grpo": shorter} for seed in SEEDS})
    assert (result.verdict.value, "different problems" in result.explanation) == ("not testable here", True)
