"""The claims of the paper judged on records, as report rows: the sentence, the paper's evidence, ours, the verdict."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpt.artefacts.scores import benchmark_frame
from hpt.artefacts.selection import of_method, sets_of
from hpt.claims import ClaimRecords, ClaimResult, RunFrames, judge
from hpt.export import RunRecords
from hpt.paper import Claim, claims, paper_data, paper_value
from hpt.plots import line_style
from hpt.stats import Interval


@dataclass(frozen=True)
class Verdict:
    """One claim with what became of it, every field text.

    Attributes:
        claim: id.
        artefact: table or figure it is about.
        subject: methods compared, or the one looked at.
        section: of the paper.
        sentence: the paper's.
        reading: what was tested, thresholds included.
        paper: the paper's evidence.
        ours: our effect with its unit.
        interval: 95 %, over seeds; empty where there is none.
        verdict: one of `hpt.claims.ClaimVerdict`.
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

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return asdict(self)


def verdicts(records: Sequence[RunRecords], artefacts: Iterable[str], scale: str) -> list[Verdict]:
    """Judge every claim about the artefacts, in the order of the paper.

    Args:
        records: runs at one scale.
        artefacts: names of tables and figures.
        scale: whose runs they are; verdicts depend on it.
    """
    wanted = set(artefacts)
    return [_verdict(claim, judge(claim, claim_records(records, claim, scale))) for claim in claims()
            if claim.artefact in wanted]  # fmt: skip


def claim_records(records: Sequence[RunRecords], claim: Claim, scale: str) -> ClaimRecords:
    """Return what a claim's test reads: the runs of its methods on its base, by seed."""
    runs = {method: of_method(records, method, claim.policy) for method in claim.methods}
    used = [own for group in runs.values() for own in group]
    sets = sets_of(used) if used and "scores" in claim.records else {}
    seeds: dict[int, dict[str, RunFrames]] = {}
    for method, group in runs.items():
        for own in group:
            seeds.setdefault(own.seed, {})[method] = RunFrames(own.metrics, own.rollouts, benchmark_frame(own, sets))
    ceiling = max((own.config.rollout.max_response_tokens for own in used), default=None)
    return ClaimRecords(scale, seeds, ceiling)


def paper_evidence(claim: Claim) -> str:
    """Return what the paper shows for a claim: printed numbers where it compares averages, else where to look.

    Example:
        >>> from hpt.paper import claim_named
        >>> paper_evidence(claim_named("table3-hpt-above-sft"))
        '+5.0 points (HPT 41.9, SFT 36.9)'
    """
    averages = {kind: name for name, kind in paper_data()["averages"].items()}
    column = averages.get(claim.parameters.get("distribution", ""))
    pair = [claim.parameters.get(role) for role in ("method", "baseline")]
    values = [paper_value(claim.artefact, str(method), str(column), claim.policy) for method in pair]
    if values[0] is None or values[1] is None:
        return "curves without printed values" if claim.artefact.startswith("figure") else "no number printed"
    own, other = (line_style(str(method)).label for method in pair)
    return f"{values[0] - values[1]:+.1f} points ({own} {values[0]:.1f}, {other} {values[1]:.1f})"


def _verdict(claim: Claim, result: ClaimResult) -> Verdict:
    return Verdict(
        claim=claim.id,
        artefact=claim.artefact,
        subject=" against ".join(line_style(method).label for method in claim.methods),
        section=claim.section,
        sentence=claim.sentence,
        reading=claim.reading,
        paper=paper_evidence(claim),
        ours="" if result.effect is None else f"{_number(result.effect, result.unit)} {result.unit}".strip(),
        interval=_interval(result.interval, result.unit),
        verdict=result.verdict.value,
        explanation=result.explanation,
    )


def _number(value: float, unit: str) -> str:
    if unit == "points":
        return f"{value:+.1f}"  # as accuracies are printed
    return f"{value:+#.3g}" if abs(value) < 100 else f"{value:+.0f}"


def _interval(interval: Interval | None, unit: str) -> str:
    if interval is None or not interval.known:
        return ""
    return f"[{_number(interval.low, unit)}, {_number(interval.high, unit)}]"
