r"""The grader's rules: what counts as the answer, what form it must have, and that math-verify decides the rest."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_verify import parse, verify

from hpt.rewards.verify import last_boxed, math_verify_equal
from hpt.rewards.workers import MAX_ANSWER_CHARACTERS, Grade, Verdict, Verifier
from hpt.support.errors import ConfigError
from tests.gold import Gold


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(timeout_s=20.0) as shared:
        yield shared


# ----------------------------------------------------------------------------------------------------------------------
# The box


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None), ("the answer is 5", None), (r"\boxed 5", None), (r"boxed{5}", None), (r"\fbox{5}", None),
        (r"\boxed{5}", "5"), (r"\boxed {5}", "5"), (r"\boxed{}", ""), (r"\boxed{ 5 }", " 5 "),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}} rest", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2", "1"), (r"\boxed{2", None), (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{x=\boxed{5}}", "5"), (r"\boxed{3 and \boxed{4}", "4"),
        (r"{{{ \boxed{5} }", "5"), (r"}}} \boxed{5}", "5"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"), (r"\boxed{\left\{x\right.}", r"\left\{x\right."), (r"\boxed{\}", None),
        (r"\boxed{a \\ {b}}", r"a \\ {b}"), (r"\\boxed{5}", "5"), (r"x \\\boxed{5}", "5"),
    ],
)  # fmt: skip
def test_last_boxed_takes_the_last_balanced_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@given(st.text(alphabet=st.sampled_from("ab{}\\ "), max_size=40), st.text(alphabet="axyz0189+ ", max_size=20))
def test_a_box_appended_to_any_text_without_boxes_is_found(before: str, content: str) -> None:
    assert last_boxed(before + " \\boxed{" + content + "}") == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{" * 150_000, None),
        ("\\boxed{" * 5_000 + "7" + "}" * 5_000, "7"),
        ("\\boxed{1}" * 110_000, "1"),
        ("{" * 1_000_000 + "\\boxed{3}", "3"),
        ("\\boxed{3}" + "}" * 1_000_000, "3"),
        ("\\boxed" + " " * 1_000_000, None),
        ("\\" * 1_000_001 + "boxed{3}", "3"),
        ("x" * 1_000_000 + "\\boxed{3}", "3"),
    ],
    ids=["unclosed", "nested", "many", "open braces", "close braces", "spaces", "backslashes", "long"],
)
def test_a_megabyte_is_read_in_linear_time(text: str, content: str | None) -> None:
    start = time.process_time()
    assert last_boxed(text) == content
    assert time.process_time() - start < 5.0  # measured 0.01-0.4 s; quadratic would take minutes


# ----------------------------------------------------------------------------------------------------------------------
# Whole numbers


@given(st.text(alphabet="0123456789", min_size=1, max_size=40), st.integers(0, 3), st.booleans())
def test_whole_numbers_are_compared_as_math_verify_would(digits: str, zeros: int, same: bool) -> None:
    answer = "0" * zeros + (digits if same else digits[::-1])
    own, gold = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (answer, digits))
    assert math_verify_equal(answer, digits) == verify(gold, own, timeout_seconds=None)


# ----------------------------------------------------------------------------------------------------------------------
# The verdicts

#: Gold answer, its kind -> responses by the verdict they deserve; math-verify alone would call several of the wrong
#: ones correct.
TRAPS: dict[tuple[str, str], dict[Verdict, list[str]]] = {
    ("712", "digits"): {
        Verdict.correct: [r"\boxed{712}", r"\boxed{713} so \boxed{712}"],
        Verdict.wrong: [r"\boxed{713}", r"\boxed{712} so \boxed{713}", r"\boxed{7} \boxed{12}"],
        Verdict.no_answer: ["398*9=712", r"\boxed{712"],
    },
    ("712", "math"): {Verdict.no_answer: ["398*9=712"]},
    (r"\{1,2\}", "math"): {Verdict.wrong: [r"\boxed{1} \boxed{2}"]},
    ("24", "digits"): {Verdict.correct: [r"\boxed{024}"]},
    ("0024", "digits"): {Verdict.correct: [r"\boxed{24}"]},
    ("246", "math"): {Verdict.correct: [r"\boxed{245+1}"], Verdict.wrong: [r"\boxed{}"]},
    ("246", "digits"): {
        Verdict.wrong: [
            *(f"\\boxed{{{answer}}}" for answer in ("245+1", "246.0", "-246", "2 46", "246 ", "")),
            "\\boxed{\u0662\u0664\u0666}",  # Arabic-Indic
            "\\boxed{\uff12\uff14\uff16}",  # full width
        ],
    },
    ("\u0662\u0664\u0666", "digits"): {Verdict.wrong: ["\\boxed{\u0662\u0664\u0666}"]},
    ("242", "digits"): {Verdict.wrong: ["\\boxed{24\u00b2}"]},  # str.isdigit is true for a superscript
    (r"\frac{1}{2}", "math"): {Verdict.correct: [r"\boxed{0.5}"]},
    (r"\boxed{\frac{1}{2}}", "math"): {Verdict.correct: [r"\boxed{0.5}"]},  # some files box the gold answer
    ("5", "math"): {Verdict.correct: [r"\boxed{x=\boxed{5}}"]},
    ("(1, 2)", "math"): {Verdict.wrong: [r"\boxed{(2, 1)}"]},
    ("A", "choice"): {
        Verdict.correct: [r"\boxed{A}"],
        Verdict.wrong: [f"\\boxed{{{answer}}}" for answer in ("a", "B", "A. mercury", "K")],
        Verdict.no_answer: ["A"],
    },
    (r"\boxed{A}", "choice"): {Verdict.correct: [r"\boxed{A}"]},
}


def test_the_traps(verifier: Verifier) -> None:
    traps = [(gold, verdict, response) for gold, by_verdict in TRAPS.items()
             for verdict, responses in by_verdict.items() for response in responses]  # fmt: skip
    grades = verifier.grade([response for *_, response in traps], [Gold(*gold) for gold, *_ in traps])
    seen = [(gold, own.verdict, response) for (gold, _, response), own in zip(traps, grades, strict=True)]
    assert seen == traps


DRESSED = (
    "{}", " {} ", "({})", "( {} )", "{}.", "{})", "({}).", r"\text{{{}}}", r"\text{{({})}}", r"\text{{ {} }}.",
    r"\textbf{{{}}}", r"\textbf{{({}) }}", r"\mathrm{{({})}}", r"\mathbf{{{}}}", r"\textbf{{{}.}}", "\n{}\n",
)  # fmt: skip
NOT_ONE_CHOICE = (
    "{} or B", "{}, B", "{}B", "{}pple", "{} B", "({}, B)", "{}. mercury", r"\text{{{} or B}}", r"\text{{choice {}}}",
    "-{}", "{}_1", "{}'", "{}=B", "2{}", "[{}]", r"\text{{}}", r"\vec{{{}}}", r"\sqrt{{{}}}", "\u0410", "\uff21", "",
    "{}" + " " * 1_900 + "x", "{}" + ".)}}" * 600,
)  # fmt: skip


@pytest.mark.parametrize("letter", ["A", "D", "J"])
def test_a_choice_is_a_lone_letter_in_its_usual_dress(letter: str, verifier: Verifier) -> None:
    def verdicts(dresses: tuple[str, ...], gold: str, kind: str = "choice") -> set[Verdict]:
        responses = ["\\boxed{" + dress.format(letter) + "}" for dress in dresses]
        return {grade.verdict for grade in verifier.grade(responses, [Gold(gold, kind)] * len(responses))}

    assert verdicts(DRESSED, letter) == {Verdict.correct}
    assert verdicts(DRESSED, rf"\text{{({letter})}}") == {Verdict.correct}
    assert verdicts((*DRESSED, *NOT_ONE_CHOICE), "B") == {Verdict.wrong}
    assert verdicts(NOT_ONE_CHOICE, letter) == {Verdict.wrong}
    assert verdicts(("{}.", "({})", r"\text{{{}}}"), "2" + letter, "math") == {Verdict.wrong}  # a variable is none


EQUALITIES = [
    # (gold answer, answers equal to it, answers that are not)
    ("4.5e33", ["4.5e33", "4.5E33", "4.5e+33", r"4.5\times10^{33}", r"4.5 \cdot 10^{33}", r"45 \times 10^{32}",
                r"4.5 × 10^{33} \text{ erg}", "45" + 32 * "0"],
     [r"4.6\times10^{33}", r"4.5\times10^{34}", "-4.5e33", r"4.5\cdot33e"]),
    ("1e-6", ["0.000001", "10^{-6}", r"\frac{1}{1000000}"], ["1e-7", "2e-6", "-1e-6", "0", "0.000002"]),
    ("2.7778e-6", [r"2.7778\times10^{-6}", "0.0000027778"], [r"2.7779\times10^{-6}", r"2.7778\times10^{-5}"]),
    (r"-1.6\times10^{-19}", ["-1.6e-19", r"-16\times10^{-20}"], [r"1.6\times10^{-19}", r"-1.7\times10^{-19}"]),
    (r"6.63\times10^{-34}", [r"66.3\times10^{-35}", "6.63000001e-34"], [r"6.02\times10^{-34}", "6.6301e-34"]),
    ("1/52!", [r"\frac{1}{52!}", r"\frac{1}{52\cdot51!}"], ["1/50!", "1/51!", "0"]),
    (r"\frac{1}{2^{99}}", ["2^{-99}"], [r"\frac{1}{2^{98}}"]),
    (".0000672", [r"6.72\times10^{-5}"], [".0000673", ".0000671"]),
    ("113", [r"1.13\times10^{2}", "1.13e2", "113.0"], [r"1.14\times10^{2}", "113.0000001"]),
    (r"E=6.63\times10^{-34}", ["E=6.63e-34", r"E=66.3\times10^{-35}", "6.63e-34"], [r"E=6.02\times10^{-34}"]),
    (r"(10^{-20},1)", [r"(1e-20, 1)"], [r"(10^{-21},1)"]),
    (r"\{10^{-20},1\}", [r"\{1,10^{-20}\}"], [r"\{10^{-21},1\}"]),
    (r"x>10^{-20}", [r"10^{-20}<x"], [r"x>10^{-21}"]),
    (r"\begin{pmatrix}1.5\times10^{-20}\\1\end{pmatrix}", [r"\begin{pmatrix}1.5e-20\\1\end{pmatrix}"],
     [r"\begin{pmatrix}1.6\times10^{-20}\\1\end{pmatrix}"]),
    # a gold answer that math-verify cannot read whole
    (r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}",
     [r"\frac{1}{3}E_{1} + \frac{2}{3}E_{2}", r"\dfrac{1}{3} E_{1}+\dfrac{2}{3} E_{2}"],
     [r"\frac{2}{3}", r"\frac{1}{3} E_{1}-\frac{2}{3} E_{2}", r"\frac{1}{3} E_{1}+\frac{2}{3} E_{3}"]),
    # an e that is Euler's, or no number at all
    ("2e", [r"2\cdot e", "e2"], ["2e0", "2e1", "2"]),
    ("3e^2", ["3e^{2}", r"3\exp(2)"], ["3e2", "300"]),
    ("2e-1", ["2e - 1", "0.2", r"2\times10^{-1}"], ["2e+1", "20", "0.02"]),
    ("2e - 1", ["2e-1"], ["0.2"]),
    ("3e8", ["300000000"], ["8e3", "24e"]),
    ("0x1e5", [], ["100000"]),
    ("1e5f", [], ["100000"]),
    # of an ordinary size: as math-verify has it
    ("1/3", ["0.333333", "0.3333333333"], ["0.333", "0.33333"]),
    (r"\frac{1}{12}", ["0.083333"], ["0.0833"]),
    ("0.5", [r"\frac{1}{2}", ".5", "0.50"], ["0.500001"]),
    (r"\frac{1}{2}", [r"\frac{2}{4}", r"\frac12"], [r"\frac{1}{3}"]),
    ("90", [r"90^\circ"], [r"91^\circ"]),
    (r"\pi", ["3.141593"], ["3.14", "3.1416"]),
    (r"1.5\pi", [r"\frac{3\pi}{2}", "4.712389"], ["4.7124"]),
    ("12", ["12.0"], ["1 2", "1, 2"]),
    ("31/2", ["15.5"], ["3 1/2"]),
    ("0", ["0.0"], ["1e-7", "0.0000001", "10^{-20}"]),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "equal", "different"), EQUALITIES, ids=[gold for gold, *_ in EQUALITIES])
def test_numbers_are_read_and_compared_by_their_size(
    gold: str, equal: list[str], different: list[str], verifier: Verifier
) -> None:
    answers = [gold, *equal, *different]
    grades = verifier.grade([f"\\boxed{{{answer}}}" for answer in answers], [Gold(gold)] * len(answers))
    right = [grade.answer for grade in grades if grade.verdict is Verdict.correct]
    assert right == [gold, *equal]


def test_grades_keep_the_answer_and_the_order(verifier: Verifier) -> None:
    responses = [r"\boxed{2}", "none", r"\boxed{1}", r"\boxed{2}"]
    assert verifier.grade(responses, [Gold("1"), Gold("1"), Gold("1"), Gold("2")]) == [
        Grade(Verdict.wrong, "2"),
        Grade(Verdict.no_answer, None),
        Grade(Verdict.correct, "1"),
        Grade(Verdict.correct, "2"),
    ]


def test_a_box_over_the_limit_is_wrong_and_counted(verifier: Verifier) -> None:
    before = verifier.counters["too_long"]
    just, over = "0" * (MAX_ANSWER_CHARACTERS - 1) + "5", "0" * MAX_ANSWER_CHARACTERS + "5"
    grades = verifier.grade([f"\\boxed{{{just}}}", f"\\boxed{{{over}}}"], [Gold("5", "digits")] * 2)
    assert [grade.verdict for grade in grades] == [Verdict.correct, Verdict.wrong]
    assert grades[1].answer == "0" * MAX_ANSWER_CHARACTERS
    assert verifier.counters["too_long"] == before + 1


def test_counters_count_verdicts_and_the_cache(verifier: Verifier) -> None:
    before = Counter(verifier.counters)
    responses = [r"\boxed{101}", r"\boxed{101}", r"\boxed{102}", "no"]
    for _ in range(2):
        verifier.grade(responses, [Gold("101", "digits")] * 4)
    assert verifier.counters - before == {"correct": 4, "wrong": 2, "no_answer": 2, "cache_hits": 3}


def test_what_cannot_be_graded_is_refused_and_nothing_needs_no_grade(verifier: Verifier) -> None:
    assert verifier.grade([], []) == []
    with pytest.raises(ValueError, match="shorter"):
        verifier.grade(["a", "b"], [Gold("1")])
    with pytest.raises(ConfigError, match=r"answer_kind = 'number': allowed is one of \['choice', 'digits', 'math'\]"):
        verifier.grade([r"\boxed{1}"], [Gold("1", "number")])


# ----------------------------------------------------------------------------------------------------------------------
# What the page says: rows of its tables on other graders and on math-verify's limits

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "grader.md").read_text(encoding="utf-8")
#: (response, gold answer, its kind, verdict); what the released graders make of each is not looked at.
PARTINGS = re.findall(r"^\| `(.+)` \| (\w+)(?:, (?:a )?(\w+))? \| (right|wrong|no answer)", PAGE, re.MULTILINE)
ON_LIMITS = [row for row in PAGE.partition("## What it does with math-verify")[2].splitlines()
             if row.startswith("|") and "`" in row]  # fmt: skip
LIMITS = re.findall(r"^\| .*\| `([^`]+)` \| `([^`]+)` \| (right|wrong) \|", "\n".join(ON_LIMITS), re.MULTILINE)
VERDICTS = {"right": Verdict.correct, "wrong": Verdict.wrong, "no answer": Verdict.no_answer}


def test_where_the_graders_part(verifier: Verifier) -> None:
    assert len(PARTINGS) == 6
    golds = [Gold(gold, kind or "math") for _, gold, kind, _ in PARTINGS]
    grades = verifier.grade([response for response, *_ in PARTINGS], golds)
    assert [grade.verdict for grade in grades] == [VERDICTS[verdict] for *_, verdict in PARTINGS]


def test_every_row_on_limits_is_read() -> None:
    assert len(LIMITS) == len(ON_LIMITS) > 50


@pytest.mark.parametrize(("gold", "answer", "verdict"), LIMITS)
def test_the_page_says_what_the_grader_does(gold: str, answer: str, verdict: str, verifier: Verifier) -> None:
    kind = "choice" if gold == "B" else "math"
    (grade,) = verifier.grade([f"\\boxed{{{answer}}}"], [Gold(gold, kind)])
    assert grade.verdict is VERDICTS[verdict]


# ----------------------------------------------------------------------------------------------------------------------
# Real benchmarks: HPT_BENCHMARKS names a folder of JSON files, lists of {"answer": ...}

SAME_VALUE = {("5", "x=5")}  # neighbours written differently whose equality math-verify rightly sees


def benchmark_files() -> list[Path]:
    folder = os.environ.get("HPT_BENCHMARKS")
    return sorted(Path(folder).glob("*.json")) if folder else []


@pytest.mark.skipif(not benchmark_files(), reason="HPT_BENCHMARKS names no folder of benchmark files")
@pytest.mark.parametrize("path", benchmark_files(), ids=lambda path: path.stem)
def test_gold_answers_of_benchmarks(path: Path, verifier: Verifier) -> None:
    """Each gold answer is correct for itself, and the next different one is wrong for it."""
    written = [str(row["answer"]) for row in json.loads(path.read_text())]
    answers = [answer if (box := last_boxed(answer)) is None else box for answer in written]
    golds = [Gold(answer, "choice" if set(answers) <= set("ABCD") else "math") for answer in written]
    following = answers[1:] + answers[:1]
    own = verifier.grade([f"thus \\boxed{{{answer}}}." for answer in answers], golds)
    other = verifier.grade([f"thus \\boxed{{{answer}}}." for answer in following], golds)
    refused = [answer for answer, grade in zip(answers, own, strict=True) if grade.verdict is not Verdict.correct]
    accepted = {
        (answer, next_answer)
        for answer, next_answer, grade in zip(answers, following, other, strict=True)
        if answer != next_answer and grade.verdict is Verdict.correct
    }
    assert (refused, accepted - SAME_VALUE) == ([], set())
