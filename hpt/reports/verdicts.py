"""The claims of the paper judged on records: as rows of a report, as sentences, and the table of the contrasts.

A row holds the sentence, the paper's evidence, ours and the verdict; what decides stands in `hpt.paper.claims`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from hpt.data.sources import evaluation_at, recorded_name
from hpt.evaluation.intervals import (
    Interval,
    detectable,
    exact_share,
    paired_difference,
    seed_mean,
    seeds_needed,
    sign_flip_p,
)
from hpt.paper.claim_tests import OVER_QUESTIONS, ClaimRecords, RunFrames
from hpt.paper.claims import ALPHA, ClaimResult, ClaimVerdict, judge, judge_together
from hpt.paper.paper import (
    BASE,
    Claim,
    claims,
    confirmatory_claims,
    paper_columns,
    paper_data,
    paper_row,
    paper_value,
)
from hpt.reports.frames import (
    average_column,
    averages_by_seed,
    base_label,
    base_name,
    is_shared,
    label,
    of_method,
    seeds_last,
)
from hpt.runs.catalogue import ONE_BASE, artefacts_at
from hpt.runs.records import RunRecords

#: Units of effects that are no differences, so that a plus sign would mislead and nothing lies below 0.
NO_DIFFERENCE = ("times", "% of lines", "% of tokens", "% of the ceiling", "questions", "sets")
#: On which the world is checked with bases, SFT and GRPO (docs/world.md).
WORLD_SEEDS = range(5)
CONFIRMATORY, EXPLORATORY = "confirmatory", "exploratory"


@dataclass(frozen=True)
class Section:
    """One page of a report: the question it answers, and the tables and figures it shows, whose claims it judges."""

    name: str
    title: str
    question: str
    artefacts: tuple[str, ...]


#: The pages of a report in order; what is in none of them stands on the last.
SECTIONS = (
    Section("main_results", "Main results", "Does HPT beat its baselines?",
            ("contrasts", "power", "table2", "equal_costs", "table3", "equal_costs_weaker", "learnt_operations",
             "learnt_operations_figure", "figure5", "grpo_gains")),
    Section("exploration", "Exploration", "What does a method solve in many tries, and what does it forget?",
            ("figure2", "table4")),
    Section("dynamics", "Dynamics", "What happens while HPT trains, and what does the gate do?",
            ("figure3", "figure4", "figure6", "figure7", "hpt_runs", "algorithm1", "figure8",
             "table6")),
    Section("off_policy", "Off-policy", "SFT or an off-policy term on the demonstrations?", ("table5",)),
    Section("theory", "Theory", "Is Table 1 one estimator, with which bias and noise, and do SFT and RL conflict?",
            ("table1", "table1_readings", "figure1", "figure1_tokens", "derivation", "bias_variance", "estimators",
             "estimator_error", "checkpoint_error", "gates_as_estimators", "best_gate", "gradient_conflict")),
    Section("audit", "Audit of printed numbers", "Do the paper's printed numbers agree with each other?", ("audit",)),
    Section("discrepancies", "Price of discrepancies", "What does each difference between paper and code cost?",
            ("discrepancies",)),
    Section("costs", "Costs", "What does training cost?", ("costs", "costs_few_questions")),
    Section("world", "How the worlds were chosen", "Which learning rates and coefficients were tried?",
            ("world", "search")),
    Section("custom", "Custom algorithms", "What do changed algorithms do beside HPT?", ()),
)  # fmt: skip


def section_of(artefact: str) -> Section:
    """Return the page that shows a table or figure."""
    return next((section for section in SECTIONS if artefact in section.artefacts), SECTIONS[-1])


#: What a verdict on "A is above B" says of A.
_COMPARED: dict[str, str] = {
    ClaimVerdict.holds: "better than",
    ClaimVerdict.reproduced: "better than",
    ClaimVerdict.smaller: "better, by less than in the paper, than",
    ClaimVerdict.fails: "worse than",
    ClaimVerdict.level: "level with",
}
#: How a contrast of the family is judged.
_TOGETHER = (
    "One of the 13 confirmatory contrasts: paired t over seeds with Holm's correction over them, and simultaneous "
    "intervals."
)
_ALONE = "By its own 95 % interval over seeds."
#: Beginnings of verdicts that have no verb.
_IS = ("undecided", "not testable", "smaller", "reproduced")


@dataclass(frozen=True)
class Verdict:
    """One claim with its verdict: ``paper``, ``ours`` and ``interval`` as text, and as ``numbers``.

    ``title`` says it in a few words, ``reading`` what was tested; ``kind`` is ``confirmatory``, ``exploratory``, or
    empty where the claim needs no run. ``numbers``: effect, low and high (None where there is none), and per_seed, the
    values seed by seed.
    """

    claim: str
    artefact: str
    title: str
    section: str
    sentence: str
    reading: str
    paper: str
    ours: str
    interval: str
    verdict: str
    explanation: str
    kind: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


def claims_at(scale: str, artefacts: Iterable[str]) -> list[Claim]:
    """Return the claims about artefacts that a scale judges, in the order of the paper: those of bases that it has.

    A scale with one base has none on arms of two (``hpt@strong``).
    """
    there = {name: own.policies for name, own in artefacts_at(scale).items() if name in set(artefacts)}
    return [claim for claim in claims() if claim.artefact in there and claim.scale in ("", scale)
            and (not claim.methods or claim.policy in there[claim.artefact])
            and not (scale in ONE_BASE and any("@" in name for name in claim.methods))]  # fmt: skip


def verdicts(
    records: Sequence[RunRecords],
    artefacts: Iterable[str],
    scale: str,
    frames: Mapping[str, pd.DataFrame] | None = None,
    family: Sequence[RunRecords] = (),
) -> list[Verdict]:
    """Judge every claim about the artefacts, in the order of the paper.

    ``frames`` are those made without a run (`hpt.reports.notebooks.Study.frames`), for claims that need none;
    ``family`` the runs of the confirmatory contrasts, which are judged together (empty = those among ``records``).
    """
    wanted = claims_at(scale, artefacts)
    asked = scale not in ONE_BASE and any(claim.confirmatory for claim in wanted)
    together = confirmatory(family or records, scale) if asked else {}
    found = []
    for claim in wanted:
        result = together.get(claim.id) or judge(claim, claim_records(records, claim, scale, frames))
        kind = CONFIRMATORY if claim.id in together else EXPLORATORY if claim.methods else ""
        found.append(_verdict(claim, result, kind, scale))
    return found


def confirmatory(records: Sequence[RunRecords], scale: str) -> dict[str, ClaimResult]:
    """Return the verdicts on the 13 contrasts that are judged together (docs/world.md), by claim."""
    family = confirmatory_claims()
    known = {claim.id: claim_records(records, claim, scale) for claim in family}
    printed = {claim.id: printed_difference(claim) for claim in family}
    return judge_together(known, printed, {claim.id: world_spread(records, claim.policy) for claim in family})


def world_spread(records: Sequence[RunRecords], policy: str) -> float:
    """Return the standard deviation of SFT minus GRPO on a base over the seeds on which the world is checked.

    In points of the in-distribution average, known before HPT is run; NaN where one of these seeds is missing.
    """
    sft, grpo = (averages_by_seed(of_method(records, name, policy)) for name in ("sft", "grpo"))
    if not all(seed in sft and seed in grpo for seed in WORLD_SEEDS):
        return math.nan
    return float(np.std([sft[seed] - grpo[seed] for seed in WORLD_SEEDS], ddof=1))


def printed_difference(claim: Claim) -> float:
    """Return the paper's difference of two averages, in points: of its printed values."""
    mine, theirs = (_printed_value(claim, name, average_column(claim.parameters["distribution"]))
                    for name in claim.methods)  # fmt: skip
    return math.nan if mine is None or theirs is None else round(mine - theirs, 1)


def claim_records(
    records: Sequence[RunRecords], claim: Claim, scale: str, frames: Mapping[str, pd.DataFrame] | None = None
) -> ClaimRecords:
    """Return what a claim's test reads: the runs of its arms, by seed; a base that all seeds share counts for all."""
    runs = {name: of_method(records, *_place(name, claim.policy)) for name in claim.methods}
    used = [run for group in runs.values() for run in group]
    trained = sorted({run.seed for run in used if run.method != BASE})
    seeds: dict[int, dict[str, RunFrames]] = {}
    for name, group in runs.items():
        for run in group:
            of_run = RunFrames(run.metrics, run.rollouts, _scores(run, claim), _counts(run, claim), run.validation)
            for seed in trained if run.method == BASE and is_shared(group) else [run.seed]:
                seeds.setdefault(seed, {})[name] = of_run
    ceiling = max((run.config.rollout.max_response_tokens for run in used), default=None)
    labels = {name: label_in_claim(name, claim.policy) for name in claim.methods}
    return ClaimRecords(scale, seeds, ceiling, frames or {}, labels)


def _scores(run: RunRecords, claim: Claim) -> pd.DataFrame:
    """Return a run's score on each set, in percent, where the claim's test reads scores."""
    if not claim.parameters.keys() & {"distribution", "distributions"}:
        return pd.DataFrame()
    there = set(run.evaluations["benchmark"])
    rows = [(name, one.distribution, one.stands_for, 100 * float(run.shares(name).mean()))
            for name, one in (run.sets if there else {}).items() if name in there]  # fmt: skip
    return pd.DataFrame(rows, columns=["benchmark", "distribution", "stands_for", "score"])


def _counts(run: RunRecords, claim: Claim) -> pd.DataFrame:
    """Return a run's counts on the evaluations that the claim's test reads."""
    wanted = claim.parameters.get("evaluations", [claim.parameters.get("evaluation")])
    if wanted == [None]:
        return pd.DataFrame()
    there = set(run.evaluations["benchmark"])
    parts = [run.counts(name).assign(benchmark=name) for name in wanted
             if recorded_name(run.config, evaluation_at(run.config, name)) in there]  # fmt: skip
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


# The table of the contrasts


def contrasts(records: Sequence[RunRecords], scale: str) -> pd.DataFrame:
    """Return HPT minus each baseline, on the unweighted mean of the in-distribution sets, paired by seed.

    Of the runs of the family at a scale (`hpt.reports.notebooks.Study.family`).

    Returns:
        A row per contrast: claim, policy, other (arm), seeds (that both have); hpt, average (of the other; percent),
        effect with its simultaneous interval low, high, and paper (points); p_value (paired t), p_corrected (Holm over
        the family), p_sign_flip (exact); with the one seed left out that moves it most, without_low and without_high
        (the effect) and without_p (the largest p of the t test); runs that end below their base: collapsed of
        other_runs, hpt_collapsed of hpt_runs, each with its exact interval in percent; the power calculation: sd (of
        the paired difference), sd_world (`world_spread`), detects_5, detects_10 (points that five or ten seeds
        show four times in five in the corrected test), seeds_for_paper; verdict; ``seed_<n>``.
    """
    results, level = confirmatory(records, scale), 1 - ALPHA / len(confirmatory_claims())
    rows = []
    for claim in confirmatory_claims():
        hpt, other = (averages_by_seed(of_method(records, name, claim.policy)) for name in claim.methods)
        seeds = [seed for seed in hpt if seed in other]
        printed, result = printed_difference(claim), results[claim.id]
        row: dict[str, Any] = {"claim": claim.id, "policy": claim.policy, "other": claim.methods[1],
                               "seeds": len(seeds), "paper": printed, "p_corrected": result.p_corrected,
                               "verdict": result.verdict.value}  # fmt: skip
        if seeds:
            sides = [[side[seed] for seed in seeds] for side in (hpt, other)]
            row |= {"hpt": np.mean(sides[0]), "average": np.mean(sides[1])} | _difference(sides, level, printed)
            row |= {f"seed_{seed}": one - two for seed, one, two in zip(seeds, *sides, strict=True)}
        base_runs = of_method(records, BASE, claim.policy)
        bases = averages_by_seed(base_runs)
        for prefix, side in (("hpt_", hpt), ("other_", other)):
            started = dict.fromkeys(side, *bases.values()) if is_shared(base_runs) else bases
            row |= {f"{prefix}{name}": value for name, value in _collapses(side, started).items()}
        rows.append(row | {"sd_world": world_spread(records, claim.policy)})
    return seeds_last(pd.DataFrame(rows))


def _difference(sides: Sequence[Sequence[float]], level: float, printed: float) -> dict[str, float]:
    difference = paired_difference(*sides, level=level)
    values = np.array(difference.differences)
    several = len(values) > 1
    left = [seed_mean(np.delete(values, place)) for place in range(len(values))] if several else []
    return {
        "effect": difference.mean, "low": difference.interval.low, "high": difference.interval.high,
        "p_value": difference.p_value, "p_sign_flip": sign_flip_p(values) if several else math.nan,
        "without_low": min((one.mean for one in left), default=math.nan),
        "without_high": max((one.mean for one in left), default=math.nan),
        "without_p": max((one.p_value for one in left), default=math.nan),
        "sd": difference.sd,
        "detects_5": difference.sd * detectable(5, level), "detects_10": difference.sd * detectable(10, level),
        "seeds_for_paper": seeds_needed(printed, difference.sd, level) if several else math.nan,
    }  # fmt: skip


def _collapses(averages: Mapping[int, float], bases: Mapping[int, float]) -> dict[str, float]:
    """Return how many runs end below the base they started from, with the exact interval of their share."""
    below = [averages[seed] < bases[seed] for seed in averages if seed in bases]
    interval = exact_share(sum(below), len(below)) if below else None
    low, high = (100 * interval.low, 100 * interval.high) if interval else (math.nan, math.nan)
    return {"runs": len(below), "collapsed": sum(below), "collapsed_low": low, "collapsed_high": high}


# The paper's evidence


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
    column = claim.parameters.get("benchmark") or averages.get(claim.parameters.get("distribution"), "")
    values = {name: _printed_value(claim, name, column) for name in claim.methods}
    printed = {label_in_claim(name, claim.policy): value for name, value in values.items() if value is not None}
    if len(printed) < 2:
        return "curves without printed values" if claim.artefact.startswith("figure") else "no number printed"
    first, *others = printed.values()
    shown = ", ".join(f"{name} {value:.1f}" for name, value in printed.items())
    if claim.test == "gains_more" and len(printed) == 4:
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
    return paper_value(claim.artefact, method, column, base)


def _printed_row(table: str, row: str) -> str:
    values = {column: paper_value(table, row, column) for column in paper_columns(table)}
    return f"{row}: {', '.join(f'{column} {value:g}' for column, value in values.items() if value is not None)}"


# Claims as rows


def label_in_claim(name: str, policy: str) -> str:
    """Return what readers call an arm of a claim; an arm of another base than the claim's says which.

    Example:
        >>> label_in_claim("hpt_gate2", "weak"), label_in_claim("hpt@strong", "weak"), label_in_claim(BASE, "weak")
        ('HPT, gate 2/8', 'HPT, strong base', 'base')
    """
    method, base = _place(name, policy)
    return label(method) if base == policy else f"{label(method)}, {base_name(base).removeprefix('the ')}"


def _place(name: str, policy: str) -> tuple[str, str]:
    """Return method and base of an arm as a claim names it: ``hpt`` on the claim's base, or ``hpt@strong``."""
    method, _, base = name.partition("@")
    return method, base or policy


def _verdict(claim: Claim, result: ClaimResult, kind: str, scale: str) -> Verdict:
    title, reading = claim.title, claim.reading
    if scale in ONE_BASE and claim.policy:
        base = base_label(claim.policy, scale)
        title, reading = (re.sub(rf"(the )?{claim.policy} base", base, text) for text in (title, reading))
    if claim.confirmatory:  # at a scale with one base each contrast is exploratory
        reading += f" {_TOGETHER if kind == CONFIRMATORY else _ALONE}"
    return Verdict(
        claim=claim.id,
        artefact=claim.artefact,
        title=title,
        section=claim.section,
        sentence=claim.sentence,
        reading=reading,
        paper=paper_evidence(claim),
        ours="" if result.effect is None else f"{_number(result.effect, result.unit)} {result.unit}".strip(),
        interval=_interval(result.interval, result.unit),
        verdict=result.verdict.value,
        explanation=result.explanation,
        kind=kind,
        numbers={
            "effect": result.effect,
            "low": result.interval.low if result.interval else None,
            "high": result.interval.high if result.interval else None,
            "per_seed": list(result.per_seed.values()),
            **({} if math.isnan(result.p_corrected) else {"p_corrected": result.p_corrected}),
        },
    )


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
    if low == interval.high:
        return f"all{over or ' seeds'} alike"
    return f"[{_number(low, unit)}, {_number(interval.high, unit)}]{over}"


# What was found, in sentences. Rows are verdicts as the report keeps them: the fields of `Verdict`.


def headlines(
    rows: Sequence[Mapping[str, Any]], seeds: Sequence[int], scale: str = "", family: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """Return what was found as sentences: whom a method beats on which base, by how much, how sure, and the counts.

    Of HPT's comparisons, the confirmatory contrasts (of a scale with one base, those that take their place, decided or
    not), and those of averages out of distribution. Rows of the ``family`` are told and not counted.
    """
    told = [*rows, *(row for row in family if row not in rows)]
    sentences, decided = list[str](), dict.fromkeys(_COMPARED.values())
    for distribution, where in (("in", ""), ("out", ", out of distribution,")):
        # base and method -> what is said of it -> of whom
        found: dict[tuple[str, str], dict[str, list[str]]] = {}
        for claim, row in comparisons(told, distribution):
            if claim.methods[0] != "hpt":
                continue
            method, other = (label_in_claim(name, claim.policy) for name in claim.methods)
            words = str(_COMPARED.get(row["verdict"], row["verdict"]))
            text = f"{other} ({_in_points(row)})" if words in decided or scale in ONE_BASE else other
            found.setdefault((claim.policy, method), {}).setdefault(words, []).append(text)
        if distribution == "out" and found and not any(said.keys() & decided for said in found.values()):
            sentences.append("Out of distribution no comparison of averages is decided.")
            continue
        for (policy, method), said in found.items():
            parts = [f"{words} {', '.join(said[words])}" for words in decided if words in said]
            parts += [f"{words} against {', '.join(said[words])}" for words in sorted(said.keys() - decided)]
            sentences.append(f"On {base_name(policy, scale)}{where} {method} is {'; '.join(parts)}.")
    if sentences:
        corrected = "in distribution corrected for 13 contrasts, out of it each alone"
        if scale in ONE_BASE:
            corrected = f"each alone, not corrected for {len(comparisons(told, 'in'))}"
        several = f"over {len(seeds)} seeds with 95 % intervals, {corrected}"
        over = several if len(seeds) > 1 else "of one seed, which decides nothing"
        outcome = [_outcome(told, scale)] if len(seeds) > 1 else []
        sentences = [*outcome, f"Points ahead in the average, {over}:", *sentences]
    training, theory = ([row for row in rows if bool(row["kind"]) is of_runs] for of_runs in (True, False))
    return sentences + [counted(own, what) for own, what in ((training, "training"), (theory, "the estimator")) if own]


def _outcome(rows: Sequence[Mapping[str, Any]], scale: str) -> str:
    """Return on which base HPT is ahead of how many of its baselines, in distribution."""
    verdicts_on: dict[str, list[str]] = {}
    for claim, row in comparisons(rows, "in"):
        verdicts_on.setdefault(claim.policy, []).append(row["verdict"])
    parts = []
    for policy, found in verdicts_on.items():
        ahead = sum(_COMPARED.get(verdict, "").startswith("better") for verdict in found)
        counts = [f"{how} {count}" for how, count in (("ahead of", ahead), ("behind", found.count(ClaimVerdict.fails)))
                  if count]  # fmt: skip
        what = " and ".join(counts) or "neither ahead of nor behind any"
        parts.append(f"{what} of {len(found)} baselines on {base_name(policy, scale)}")
    return f"HPT is {'; '.join(parts)}{' (exploratory, each comparison alone)' if scale in ONE_BASE else ''}."


def _in_points(row: Mapping[str, Any]) -> str:
    return f"{row['ours'].removesuffix(' points')} {row['interval']}".strip()


def counted(rows: Sequence[Mapping[str, Any]], what: str = "") -> str:
    """Return how many claims have which verdict, as a sentence."""
    tally = Counter(row["verdict"] for row in rows)
    counts = ", ".join(f"{count} {_said(verdict, count > 1)}" for verdict, count in tally.most_common())
    return f"Of {len(rows)} claim{'' if len(rows) == 1 else 's'}{f' on {what}' if what else ''} {counts}."


def _said(verdict: str, several: bool) -> str:
    if verdict.startswith(_IS):
        return f"{'are' if several else 'is'} {verdict}"
    return verdict.replace("holds", "hold").replace("does not", "do not") if several else verdict


def comparisons(rows: Sequence[Mapping[str, Any]], distribution: str) -> list[tuple[Claim, Mapping[str, Any]]]:
    """Return the claims that compare the averages of two trained methods, with their verdicts, where there is one.

    ``in`` distribution the confirmatory contrasts and those of a scale alone, or those ``out`` of it.
    """
    judged = {row["claim"]: row for row in rows if row["ours"]}
    found = [claim for claim in claims() if claim.test == "average_above" and claim.artefact in ("table2", "table3")
             and claim.parameters["distribution"] == distribution and BASE not in claim.methods]  # fmt: skip
    if distribution == "in":
        found = [*confirmatory_claims(), *(claim for claim in found if claim.scale)]
    return [(claim, judged[claim.id]) for claim in found if claim.id in judged]


def _forest_group(policy: str, scale: str, seeds: int) -> str:
    row = paper_row("table3", BASE, policy) if scale in ONE_BASE else None
    theirs = f"; the paper's: {row['row']}" if row else ""
    return f"{scale}: {base_label(policy, scale)} ({seeds} seed{'s' * (seeds != 1)}{theirs})".replace(") (", "; ")


def forest(rows: Sequence[Mapping[str, Any]], scale: str) -> list[dict[str, Any]]:
    """Return HPT minus each baseline on each base of a scale as lines of a forest plot, in points of the average."""
    return [
        {
            "group": _forest_group(claim.policy, scale, len(row["numbers"]["per_seed"])),
            "claim": claim.id,
            "other": label_in_claim(claim.methods[1], claim.policy),
            "text": _in_points(row),
            "mean": row["numbers"]["effect"],
            "low": row["numbers"]["low"],
            "high": row["numbers"]["high"],
            "dots": row["numbers"]["per_seed"],
            "paper": None if math.isnan(printed := printed_difference(claim)) else printed,
            "verdict": row["verdict"],
        }
        for claim, row in comparisons(rows, "in")
    ]
