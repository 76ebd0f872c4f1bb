"""Claims that need no run: verdicts on made-up tables of the laboratory, in both directions."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpt.evaluation.intervals import Decision
from hpt.paper.claim_tests import (
    ClaimRecords,
    NotTestable,
    gate_better,
    row_against_row,
    rows_effective,
    rows_trade_off,
    terms_agree,
)
from hpt.paper.claims import ClaimResult, judge
from hpt.paper.paper import claim_named
from hpt.reports.verdicts import verdicts

QUESTIONS = 12
FRAME = {"frame": "sums", "situation": "s"}


def line(
    row: str, cosine: float, noise: float = 1.0, masked: float = 0.0, spread: float = 0.05, seed: int = 0
) -> list[dict[str, Any]]:
    """Questions with |t| = 1, |E g| = 1, their cosines spread around one, and a variance that gives the noise."""
    cosines = np.clip(cosine + spread * np.random.default_rng(seed).standard_normal(QUESTIONS), -1, 1)
    # full periods, of another number for rows whose names have another length: ratios vary, their mean does not
    shares = masked * (1 + 0.2 * np.sin(2 * np.pi * np.arange(QUESTIONS) * (1 + len(row) % 4) / QUESTIONS))
    return [
        {"row": row, "along": own, "mean_square": 1.0, "square": 1 + (noise * cosine) ** 2, "size": 1.0,
         "tokens": 100.0, "masked_tokens": 100 * shares[question], "question": question, "situation": "s"}
        for question, own in enumerate(cosines)
    ]  # fmt: skip


def sums(*lines: list[dict[str, Any]]) -> ClaimRecords:
    return ClaimRecords("mini", {}, frames={"sums": pd.DataFrame([own for part in lines for own in part])})


@pytest.mark.parametrize(
    ("cosine", "spread", "expected"),
    [(0.3, 0.05, Decision.above), (-0.3, 0.05, Decision.below), (0.02, 0.5, Decision.undecided)],
)
def test_every_row_must_be_effective(cosine: float, spread: float, expected: Decision) -> None:
    found = rows_effective(sums(line("good", 0.9), line("doubtful", cosine, spread=spread)), **FRAME)
    assert found.decision is expected
    assert "smallest of 2 rows: doubtful" in found.explanation
    assert found.interval is not None
    assert found.effect is not None
    assert found.interval.low <= found.effect <= found.interval.high


def test_one_of_many_rows_below_by_chance_fails_nothing() -> None:
    """One row's 95 % interval is just below 0; the level divided by the number of rows is not."""
    doubtful = line("doubtful", -0.15, spread=0.24)
    alone = rows_effective(sums(doubtful), **FRAME)
    assert alone.decision is Decision.below
    assert alone.interval is not None
    assert alone.interval.high > -0.1
    many = sums(doubtful, *(line(f"row {number}", 0.9) for number in range(17)))
    assert rows_effective(many, **FRAME).decision is Decision.undecided


@pytest.mark.parametrize(
    ("masked", "times", "expected"),
    [(0.6, 5, Decision.above), (0.3, 5, Decision.below), (0.45, 5, Decision.undecided)],
)
def test_one_row_against_another(masked: float, times: float, expected: Decision) -> None:
    records = sums(line("much", 0.5, masked=masked), line("little", 0.5, masked=0.09))
    found = row_against_row(records, **FRAME, quantity="masked", row="much", other="little", times_at_least=times)
    assert found.decision is expected
    assert found.effect == pytest.approx(masked / 0.09)
    records = sums(line("much", 0.5, noise=3.0, spread=0), line("little", 0.5, noise=1.5, spread=0))
    found = row_against_row(records, **FRAME, quantity="noise", row="much", other="little", times_at_least=1.0)
    assert (found.decision, found.effect) == (Decision.above, pytest.approx(2.0))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([line("a", -0.5), line("b", 0.5)], "have no ratio"),
        ([line("a", 0.5)], "no row b"),
        ([line("a", 0.5)[:3], line("b", 0.5)[:3]], "3 questions"),
    ],
)
def test_what_cannot_be_compared_is_not_testable(rows: list[list[dict[str, Any]]], reason: str) -> None:
    with pytest.raises(NotTestable, match=reason):
        row_against_row(sums(*rows), **FRAME, quantity="noise", row="a", other="b", times_at_least=1.0)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([line("exact", 0.99, 2.0, spread=0.005), line("quiet", 0.7, 0.5)], {Decision.above}),
        ([line("both", 0.99, 0.5, spread=0.005), line("worse", 0.7, 2.0)], {Decision.below}),
        ([line("a", 0.7, 1.0, seed=1, spread=0.2), line("b", 0.7, 1.02, seed=2, spread=0.2)],
         {Decision.undecided, Decision.below}),
    ],
)  # fmt: skip
def test_bias_trades_against_variance(rows: list[list[dict[str, Any]]], expected: set[Decision]) -> None:
    assert rows_trade_off(sums(*rows), **FRAME).decision in expected


@pytest.mark.parametrize(
    ("difference", "low", "high", "expected"),
    [(0.2, 0.1, 0.3, Decision.above), (-0.2, -0.3, -0.1, Decision.below), (0.1, -0.1, 0.3, Decision.undecided)],
)
def test_a_gate_against_others(difference: float, low: float, high: float, expected: Decision) -> None:
    rows = [("o", "g", "x", 0.5, 0.4, 0.6), ("o", "g", "y", difference, low, high), ("p", "g", "y", -9, -9, -9)]
    table = pd.DataFrame(rows, columns=["objective", "gate", "against", "difference", "low", "high"])
    records = ClaimRecords("mini", {}, frames={"gates": table})
    found = gate_better(records, frame="gates", objective="o", gate="g", others=["x", "y"], threshold=0.0)
    assert (found.decision, found.effect) == (expected, difference)
    above = gate_better(records, frame="gates", objective="o", gate="g", others=["x"], threshold=0.7)
    assert above.decision is Decision.below
    with pytest.raises(NotTestable, match="does not compare"):
        gate_better(records, frame="gates", objective="o", gate="g", others=["z"], threshold=0.0)


@pytest.mark.parametrize(("at_half", "expected"), [(0.2, Decision.above), (-0.2, Decision.below)])
def test_terms_agree_where_they_are_looked_at(at_half: float, expected: Decision) -> None:
    rows = [
        (success, 1.0, 0.0, level + 0.02 * np.sin(question))
        for success, level in ((0.1, 0.5), (0.5, at_half), (0.9, -0.9))
        for question in range(QUESTIONS)
    ]
    table = pd.DataFrame(rows, columns=["success", "distance", "slips", "cosine"])
    records = ClaimRecords("mini", {}, frames={"cosines": table})
    found = terms_agree(records, frame="cosines", success_at_most=0.5)
    assert (found.decision, found.effect) == (expected, pytest.approx(at_half, abs=0.02))
    assert terms_agree(records, frame="cosines", success_at_most=0.9).decision is Decision.below
    with pytest.raises(NotTestable, match="fewer than"):
        terms_agree(records, frame="cosines", success_at_most=0.05)


def identity(scale: str, *same: bool | None) -> ClaimResult:
    table = pd.DataFrame({"row": [f"row {i}" for i in range(len(same))], "same": list(same)})
    claim = claim_named("section2-every-row-has-the-unified-form")
    return judge(claim, ClaimRecords(scale, {}, frames={"table1": table}))


def test_an_identity_holds_on_every_line_or_not_at_any_scale_and_is_never_reproduced() -> None:
    for scale in ("tiny", "mini", "full"):
        right = identity(scale, True, None)  # the second line states no identity
        assert (right.verdict.value, right.effect) == ("holds", 100)
        wrong = identity(scale, True, False)
        assert (wrong.verdict.value, wrong.effect, wrong.interval) == ("does not hold", 50, None)
        assert "not: row 1" in wrong.explanation
    missing = judge(claim_named("section2-gspo-clips-more"), ClaimRecords("mini", {}))
    assert (missing.verdict.value, missing.explanation) == ("not testable here", "bias_variance_questions was not made")


def test_the_verdict_table_says_over_what_an_interval_is() -> None:
    frame = sums(line("gspo", 0.5, masked=0.5), line("grpo", 0.5, masked=0.01)).frames["sums"]
    frame = frame.assign(situation="stale rollouts, expected reward")
    rows = {own.claim: own for own in verdicts([], ["bias_variance"], "mini", {"bias_variance_questions": frame})}
    own = rows["section2-gspo-clips-more"]
    assert (own.kind, own.ours, own.interval) == ("", "50.0 times", "[50.0, 50.0] over questions")
    assert own.verdict == "holds"
