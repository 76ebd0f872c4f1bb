r"""Where this grader parts from the released ones, and what it makes of math-verify's limits, as the page lists it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpt.rewards.workers import Verdict, Verifier
from tests.gold import Gold

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"


#: (response, gold answer, its kind, our verdict); the page says what the released graders make of each.
PARTINGS = [
    (r"\boxed{400}", "4", "math", Verdict.wrong),
    (r"\boxed{0.5}", "50", "math", Verdict.wrong),
    (r"\boxed{245+1}", "246", "digits", Verdict.wrong),
    (r"\boxed{d}", "D", "choice", Verdict.wrong),
    ("so it is 5", "5", "math", Verdict.no_answer),
    ("The answer is: 5", "5", "math", Verdict.no_answer),
]
#: Where they do not part though it might be thought: units, percent, degrees, unreduced fractions, letters in any case.
SHARED = [
    (r"\boxed{5\text{ cm}}", "5"), (r"\boxed{50\%}", "50"), (r"\boxed{90^\circ}", "90"),
    (r"\boxed{\frac{2}{4}}", r"\frac{1}{2}"),
    (r"\boxed{1,000}", "1000"), (r"\boxed{x=5}", "5"), (r"\boxed{024}", "24"), (r"\boxed{\frac12}", r"\frac{1}{2}"),
]  # fmt: skip


#: Rows of the page's table of math-verify's limits, and from each the gold answer, the answer and the verdict.
ROWS = [
    row
    for row in PAGE.read_text(encoding="utf-8").partition("## What the grader does with math-verify")[2].splitlines()
    if row.startswith("|") and "`" in row
]
LIMITS = re.findall(r"^\| .*\| `([^`]+)` \| `([^`]+)` \| (right|wrong) \|", "\n".join(ROWS), re.MULTILINE)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(timeout_s=30) as shared:
        yield shared


def test_where_the_graders_part(verifier: Verifier) -> None:
    golds = [Gold(gold, kind) for _, gold, kind, _ in PARTINGS]
    own = verifier.grade([response for response, *_ in PARTINGS], golds)
    both = verifier.grade([response for response, _ in SHARED], [Gold(gold) for _, gold in SHARED])
    assert [grade.verdict for grade in own] == [verdict for *_, verdict in PARTINGS]
    assert [grade.verdict for grade in both] == [Verdict.correct] * len(SHARED)


def test_the_page_lists_every_example() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [response for response, *_ in PARTINGS if f"`{response}`" not in page] == []


@pytest.mark.parametrize(("gold", "answer", "verdict"), LIMITS)
def test_the_page_says_what_the_grader_does(gold: str, answer: str, verdict: str, verifier: Verifier) -> None:
    kind = "choice" if gold == "B" else "math"
    (grade,) = verifier.grade([f"\\boxed{{{answer}}}"], [Gold(gold, kind)])
    assert grade.verdict is (Verdict.correct if verdict == "right" else Verdict.wrong)


def test_the_page_has_a_verdict_in_every_row_on_limits() -> None:
    assert len(LIMITS) == len(ROWS) > 50
