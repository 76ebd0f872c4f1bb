"""The claims of the paper judged on records, as report rows: the sentence, the paper's evidence, ours, the verdict."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hpt.evaluation.intervals import Interval
from hpt.evaluation.scores import round_half_up
from hpt.paper.claim_tests.laboratory import OVER_QUESTIONS
from hpt.paper.claims import ClaimRecords, ClaimResult, ClaimVerdict, RunFrames, judge
from hpt.paper.paper import Claim, claims, paper_columns, paper_data, paper_value
from hpt.reports.frames import BASE, PAPER_METHOD, label, of_method
from hpt.runs.records import RunRecords

#: Subject of a claim that is decided on tables made without a run of the report.
WITHOUT_RUNS = "Estimators"
#: Units of effects that are no differences, so that a plus sign would mislead and nothing lies below 0.
NO_DIFFERENCE = ("times", "% of lines", "% of questions", "sets")

#: What the claims are about, in the order of the page, by the artefacts that decide them.
_TOPICS: dict[str, tuple[str, ...]] = {
    "Main results": ("table2", "table3", "grpo_gains", "costs"),
    "What is solved and what is lost": ("figure2", "table4", "figure3", "figure4", "costs_few_questions"),
    "Training dynamics": ("figure5", "figure6", "figure7", "hpt_runs"),
    "Use of the demonstrations; the gate": ("table5", "table6", "figure8"),
}
#: What a verdict on "A is above B" says of A.
_COMPARED = {
    ClaimVerdict.holds: "better than",
    ClaimVerdict.reproduced: "better than",
    ClaimVerdict.fails: "worse than",
}
_NOT_TOLD_APART = "not told apart from"
_PLURAL = {
    ClaimVerdict.holds: "hold in this world",
    ClaimVerdict.reproduced: "are reproduced",
    ClaimVerdict.fails: "do not hold",
    ClaimVerdict.undecided: "are undecided",
    ClaimVerdict.one_seed: "are undecided (one seed)",
    ClaimVerdict.not_testable: "are not testable here",
}
#: Those of all other artefacts.
_OTHER_TOPIC = "Theory: one estimator"


@dataclass(frozen=True)
class Verdict:
    """One claim with its verdict, every field text.

    Attributes:
        claim: id.
        artefact: table or figure it is about.
        subject: methods compared; `WITHOUT_RUNS` where no run is.
        section: of the paper.
        sentence: the paper's.
        reading: what was tested, thresholds included.
        paper: the paper's evidence.
        ours: our effect with its unit.
        interval: 95 %, over seeds unless it says otherwise; empty where there is none.
        verdict: one of `hpt.paper.claims.ClaimVerdict`.
        explanation: the numbers behind it, or what is missing.
    """

    claim: str
    artefact: str
    subject: str
    section: str
    sentence: str
    reading: str
    paper: str
    ours: str
    interval: str
    verdict: str
    explanation: str


def verdicts(
    records: Sequence[RunRecords],
    artefacts: Iterable[str],
    scale: str,
    frames: Mapping[str, pd.DataFrame] | None = None,
) -> list[Verdict]:
    """Judge every claim about the artefacts, in the order of the paper.

    Args:
        records: runs at one scale.
        artefacts: names of tables and figures.
        scale: whose runs they are; verdicts depend on it.
        frames: tidy frames made without a run (`hpt.reports.Study.frames`), for claims that need none.
    """
    wanted = set(artefacts)
    return [_verdict(claim, judge(claim, claim_records(records, claim, scale, frames))) for claim in claims()
            if claim.artefact in wanted]  # fmt: skip


def claim_records(
    records: Sequence[RunRecords], claim: Claim, scale: str, frames: Mapping[str, pd.DataFrame] | None = None
) -> ClaimRecords:
    """Return what a claim's test reads: the runs of its arms, by seed. A base has one run, which all seeds share."""
    runs = {name: of_method(records, *_place(name, claim.policy)) for name in claim.methods}
    used = [run for group in runs.values() for run in group]
    trained = sorted({run.seed for run in used if run.method != BASE})
    seeds: dict[int, dict[str, RunFrames]] = {}
    for name, group in runs.items():
        for run in group:
            of_run = RunFrames(run.metrics, run.rollouts, _scores(run, claim), _counts(run, claim), run.validation)
            for seed in trained if run.method == BASE else [run.seed]:
                seeds.setdefault(seed, {})[name] = of_run
    ceiling = max((run.config.rollout.max_response_tokens for run in used), default=None)
    labels = {name: label_in_claim(name, claim.policy) for name in claim.methods}
    return ClaimRecords(scale, seeds, ceiling, frames or {}, labels)


def _scores(run: RunRecords, claim: Claim) -> pd.DataFrame:
    """Return a run's score on each set, in percent, where the claim's test reads scores."""
    there = set(run.evaluations["benchmark"]) if "scores" in claim.records else set()
    rows = [(name, one.distribution, one.stands_for, 100 * float(run.shares(name).mean()))
            for name, one in (run.sets if there else {}).items() if name in there]  # fmt: skip
    return pd.DataFrame(rows, columns=["benchmark", "distribution", "stands_for", "score"])


def _counts(run: RunRecords, claim: Claim) -> pd.DataFrame:
    """Return a run's counts on the evaluations that the claim's test reads."""
    if "counts" not in claim.records:
        return pd.DataFrame()
    there = set(run.evaluations["benchmark"])
    wanted = claim.parameters.get("evaluations") or [claim.parameters["evaluation"]]
    parts = [run.counts(name) for name in wanted if name in there]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def paper_evidence(claim: Claim) -> str:
    """Return what the paper shows for a claim: printed numbers where it has some, else where to look.

    Example:
        >>> from hpt.paper.paper import claim_named
        >>> paper_evidence(claim_named("table3-weak-hpt-above-sft"))
        '+5.0 points (HPT 41.9, SFT 36.9)'
    """
    if claim.test == "best_on_most_sets":
        return _sets_led(claim)
    if claim.evidence:
        return "; ".join(_printed_row(table, row) for table, row in claim.evidence)
    averages = {kind: name for name, kind in paper_data()["averages"].items()}
    column = claim.parameters.get("benchmark") or averages.get(claim.parameters.get("distribution", ""))
    values = {name: _printed_value(claim, name, str(column)) for name in claim.methods}
    printed = {label_in_claim(name, claim.policy): value for name, value in values.items() if value is not None}
    if len(printed) < 2:
        return "curves without printed values" if claim.artefact.startswith("figure") else "no number printed"
    first, *others = printed.values()
    shown = ", ".join(f"{name} {value:.1f}" for name, value in printed.items())
    if "other_baseline" in claim.parameters and len(printed) == 4:  # a gain against a gain
        return f"{first - others[0] - (others[1] - others[2]):+.1f} points ({shown})"
    return f"{first - max(others):+.1f} points ({shown})"


def _sets_led(claim: Claim) -> str:
    """Return on how many of the paper's sets the method's printed value is above those of all others."""
    led = known = 0
    for column in (name for name in paper_columns(claim.artefact) if name not in paper_data()["averages"]):
        first, *others = (_printed_value(claim, name, column) for name in claim.methods)
        if first is not None and (printed := [value for value in others if value is not None]):
            known += 1
            led += first > max(printed)
    return f"highest printed value on {led} of {known} sets"


def _printed_value(claim: Claim, name: str, column: str) -> float | None:
    method, base = _place(name, claim.policy)
    return paper_value(claim.artefact, PAPER_METHOD.get(method, method), column, base)


def _printed_row(table: str, row: str) -> str:
    values = {column: paper_value(table, row, column) for column in paper_columns(table)}
    return f"{row}: {', '.join(f'{column} {value:g}' for column, value in values.items() if value is not None)}"


def label_in_claim(name: str, policy: str) -> str:
    """Return what readers call an arm of a claim; an arm of another base than the claim's says which.

    Example:
        >>> label_in_claim("hpt_gate2", "weak"), label_in_claim("hpt@strong", "weak"), label_in_claim(BASE, "weak")
        ('HPT, gate 2/8', 'HPT, strong base', 'base')
    """
    method, base = _place(name, policy)
    return label(method) if base == policy else f"{label(method)}, {base} base"


def _place(name: str, policy: str) -> tuple[str, str]:
    """Return method and base of an arm as a claim names it: ``hpt`` on the claim's base, or ``hpt@strong``."""
    method, _, base = name.partition("@")
    return method, base or policy


def _verdict(claim: Claim, result: ClaimResult) -> Verdict:
    threshold = claim.parameters.get("threshold_points")  # a number where the text only speaks of it
    above = "above the threshold" if threshold is None else f"above {threshold:g} points"
    return Verdict(
        claim=claim.id,
        artefact=claim.artefact,
        subject=_subject(claim),
        section=claim.section,
        sentence=claim.sentence,
        reading=claim.reading.replace("above the threshold", above),
        paper=paper_evidence(claim),
        ours="" if result.effect is None else f"{_number(result.effect, result.unit)} {result.unit}".strip(),
        interval=_interval(result.interval, result.unit),
        verdict=result.verdict.value,
        explanation=result.explanation,
    )


def _subject(claim: Claim) -> str:
    if not claim.methods:
        return WITHOUT_RUNS
    first, *others = (label_in_claim(name, claim.policy) for name in claim.methods)
    if "other_baseline" in claim.parameters:  # four arms of two gains
        return f"What {first} gains on the {claim.policy} base, against {others[1]}"
    if any(_place(name, claim.policy)[1] != claim.policy for name in claim.methods):  # two bases: neither unsaid
        first = f"{first}, {claim.policy} base"
    return f"{first} against {', '.join(others)}" if others else first


def _number(value: float, unit: str) -> str:
    if unit == "points":
        return f"{value:+.1f}"  # as accuracies are printed
    if unit in NO_DIFFERENCE:
        return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
    return f"{value:+#.3g}" if abs(value) < 100 else f"{value:+.0f}"


def _interval(interval: Interval | None, unit: str) -> str:
    if interval is None or not interval.known:
        return ""
    over = " over questions" if interval.kind == OVER_QUESTIONS else ""
    # Student's t knows nothing of counts and shares: with few seeds it reaches below 0
    low = max(0.0, interval.low) if unit in NO_DIFFERENCE else interval.low
    return f"[{_number(low, unit)}, {_number(interval.high, unit)}]{over}"


def by_topic(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return topics with their verdicts and how many there are of each kind."""
    topic_of = {artefact: topic for topic, artefacts in _TOPICS.items() for artefact in artefacts}
    topics: dict[str, list[dict[str, Any]]] = {topic: [] for topic in (*_TOPICS, _OTHER_TOPIC)}
    for row in rows:
        topics[topic_of.get(row["artefact"], _OTHER_TOPIC)].append(row)
    return [{"name": topic, "verdicts": found, "tally": Counter(row["verdict"] for row in found).most_common()}
            for topic, found in topics.items() if found]  # fmt: skip


def headlines(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[str]:
    """Return what was found as sentences: whom a method beats on each base, by how much, how sure, and the counts.

    Of the comparisons, those of two methods' in-distribution averages in the main results; an interval over seeds
    decides, and one that holds 0 tells nobody apart.

    Args:
        rows: verdicts, as the report keeps them (the fields of `Verdict`).
        seeds: that they were decided over.
    """
    judged = {row["claim"]: row for row in rows if row["ours"]}
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for claim in (claim for claim in claims() if claim.id in judged and _is_main_comparison(claim)):
        row, (method, other) = judged[claim.id], (label_in_claim(name, claim.policy) for name in claim.methods)
        words = _COMPARED.get(row["verdict"], _NOT_TOLD_APART)
        by_words = found.setdefault(
            (method, claim.policy), {said: [] for said in (*_COMPARED.values(), _NOT_TOLD_APART)}
        )
        numbers = f"{row['ours'].removesuffix(' points')} {row['interval']}".strip()
        by_words[words].append(f"{other} ({numbers})")
    sentences = []
    if found:
        over = f"of {len(seeds)} seeds, with 95 % intervals" if len(seeds) > 1 else "of one seed, which decides nothing"
        sentences.append(f"Points of the in-distribution average, {over}:")
    for (method, policy), by_words in found.items():
        parts = [f"{words} {', '.join(others)}" for words, others in by_words.items() if others]
        sentences.append(f"On the {policy} base {method} is {'; '.join(parts)}.")
    of_runs = Counter(row["verdict"] for row in rows if row["subject"] != WITHOUT_RUNS)
    of_theory = Counter(row["verdict"] for row in rows if row["subject"] == WITHOUT_RUNS)
    for what, tally in (("training", of_runs), ("the estimator", of_theory)):
        if tally:
            counts = ", ".join(f"{count} {_PLURAL.get(verdict, verdict)}" for verdict, count in tally.most_common())
            sentences.append(f"Of {tally.total()} claims on {what} {counts}.")
    return sentences


def _is_main_comparison(claim: Claim) -> bool:
    """Whether a claim compares the in-distribution averages of two trained methods, in the main results."""
    of_averages = claim.test == "average_above" and claim.artefact in _TOPICS["Main results"]
    whole = of_averages and claim.parameters["distribution"] == "in" and "benchmark" not in claim.parameters
    return whole and claim.parameters["baseline"] != BASE


def chance_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return how many verdicts over seeds chance alone could make if no method differed, in words.

    An interval of 95 % lies above its threshold in 2.5 % of such cases, and below in as many; nothing is corrected.
    """
    count = sum(row["subject"] != WITHOUT_RUNS for row in rows)
    expected = f"{round_half_up(0.025 * count):.1f}"
    return (
        f"No threshold is corrected for the number of claims: of {count} decided over seeds, up to {expected} would "
        "hold, and as many fail, by chance alone if nothing differed."
    )
