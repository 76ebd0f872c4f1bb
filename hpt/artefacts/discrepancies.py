"""The price of each discrepancy between paper and code: HPT's score with one field moved, against the default's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hpt.arms import Arm
from hpt.artefacts.effects import (
    SetShares,
    average_of_sets,
    effect,
    effect_cell,
    in_distribution_shares,
    interval_kind,
    problem_shares,
)
from hpt.artefacts.output import Cell, Column, TableArtefact
from hpt.artefacts.provenance import trainings
from hpt.artefacts.selection import of_arm
from hpt.discrepancies import DEFAULT, DISCREPANCIES, PRICE, Discrepancy
from hpt.errors import RecordFault
from hpt.export import RunRecords
from hpt.scores import round_half_up

NAN = float("nan")


@dataclass(frozen=True)
class RunScores:
    """A run's shares of correct answers per problem of every in-distribution set, and what else its row needs."""

    shares: SetShares
    validation: float
    skipped_updates: int
    base: str | None

    @property
    def average(self) -> float:
        """Unweighted mean over the sets, percent."""
        return average_of_sets(self.shares)


Scores = Mapping[int, RunScores]  # by seed


def discrepancies(records: Sequence[RunRecords]) -> TableArtefact:
    """Return HPT's average on the in-distribution sets under every moved field, and what the field costs.

    Raises:
        RecordFault: no run of the default, or a run lacks an evaluation.
    """
    data = price_table(records)
    rows = [
        (row["title"], (_average_cell(row), _effect_cell(row), _weight_cell(row))) for row in data.to_dict("records")
    ]
    columns = (
        Column("average", "in-distribution sets"),
        Column("effect", "against the default"),
        Column("SFT coefficient", "× the default's"),
    )
    used = tuple(run for arm in PRICE.arms for run in of_arm(records, arm.key))
    caption = _caption(int(data["seeds"].max()), used)
    return TableArtefact("discrepancies", PRICE.title, data, columns, tuple(rows), caption, used)


def price_table(records: Sequence[RunRecords]) -> pd.DataFrame:
    """Return a row per arm: its score and the effect of its field against the default.

    Returns:
        title, why, sft_weight (multiple of the default's coefficient), chosen (highest validation accuracy among the
        weights tried, on the seeds that all of them have from one base; None where only one was), validation and
        average (percent, means over seeds), seeds (that both have from one base), effect (points), seeds_low and
        seeds_high (Student's t over paired seeds), problems_low and problems_high (over the problems of each set, fixed
        weights), skipped_updates (sum over seeds), and ``seed_<n>`` (effect of each).
        Last comes the skip rule, which needs no run as long as it never acted on the default.

    Raises:
        RecordFault: no run of the default, or a run lacks an evaluation.
    """
    default = _scores(of_arm(records, DEFAULT.arms[0].key))
    if not default:
        raise RecordFault(f"no run of {DEFAULT.arms[0].key}, which every effect is measured against; compute it first")
    rows = []
    for own in (DEFAULT, *DISCREPANCIES):
        tried = {arm.key: scores for arm in own.arms if (scores := _scores(of_arm(records, arm.key)))}
        best = _best(tried)
        for arm, weight in zip(own.arms, (1.0, *own.weights), strict=True):
            if arm.key in tried:
                chosen = arm.key == best if best else None
                rows.append(_row(own, arm, weight, chosen, tried[arm.key], default))
    frame = pd.DataFrame([*rows, _skip_rule(default)])
    seeds = [name for name in frame if str(name).startswith("seed_")]
    return frame[[*(name for name in frame if name not in seeds), *sorted(seeds, key=lambda name: int(str(name)[5:]))]]


def _scores(runs: Sequence[RunRecords]) -> Scores:
    return {
        run.seed: RunScores(
            in_distribution_shares(run),
            100 * float(problem_shares(run, "validation").mean()),
            int(run.metrics["optim/skipped_updates"].sum()),
            run.config.policy.base_weights,
        )
        for run in runs
    }


def _best(tried: Mapping[str, Scores]) -> str:
    """Return the arm of highest validation accuracy on the seeds that all have from one base; empty without a choice.

    Not the highest mean of whatever each has: a seed more, or from another base, would decide instead of the weight.
    """
    if len(tried) < 2:
        return ""
    first, *others = tried.values()
    seeds = [seed for seed in first if all(_one_base(seed, first, other) for other in others)]
    return max(tried, key=lambda key: _validation({seed: tried[key][seed] for seed in seeds})) if seeds else ""


def _one_base(seed: int, own: Scores, other: Scores) -> bool:
    """Return whether both have a seed, started from the same bits: a base trained again is another base."""
    return seed in own and seed in other and own[seed].base == other[seed].base


def _validation(scores: Scores) -> float:
    return float(np.mean([run.validation for run in scores.values()]))


def _row(
    own: Discrepancy, arm: Arm, weight: float, chosen: bool | None, scores: Scores, default: Scores
) -> dict[str, Any]:
    average = float(np.mean([run.average for run in scores.values()]))
    both = [seed for seed in scores if _one_base(seed, scores, default) and arm.key != DEFAULT.arms[0].key]
    return {
        "title": arm.label,
        "why": own.why,
        "sft_weight": weight,
        "chosen": chosen,
        "validation": _validation(scores),
        "average": average,
        "seeds": len(both) or len(scores),
        **(_effect(scores, default, both) if both else _no_effect()),
        "skipped_updates": sum(run.skipped_updates for run in scores.values()),
    }


def _effect(scores: Scores, default: Scores, seeds: Sequence[int]) -> dict[str, float]:
    return effect(*({seed: own[seed].shares for seed in seeds} for own in (scores, default)))[0]


def _no_effect(value: float = NAN) -> dict[str, float]:
    return {"effect": value, **dict.fromkeys(("seeds_low", "seeds_high", "problems_low", "problems_high"), NAN)}


def _skip_rule(default: Scores) -> dict[str, Any]:
    """Return the row of the skip rule: where no update of the default was skipped, a run without it is the same run."""
    skipped = sum(run.skipped_updates for run in default.values())
    why = "The scripts skip an update whose gradient norm is above 80; the paper has no such rule. " + (
        f"Not measured: it skipped {skipped} updates of the default." if skipped else
        "It skipped no update of the default, so a run without it is the same run."
    )  # fmt: skip
    return {"title": "no skip rule", "why": why, "sft_weight": 1.0, "chosen": None, "validation": NAN, "average": NAN,
            "seeds": len(default), **_no_effect(NAN if skipped else 0.0), "skipped_updates": skipped}  # fmt: skip


def _average_cell(row: Mapping[Any, Any]) -> Cell:
    return Cell("" if pd.isna(row["average"]) else f"{round_half_up(row['average']):.1f}")


def _effect_cell(row: Mapping[Any, Any]) -> Cell:
    if pd.isna(row["effect"]):
        return Cell("not measured" if row["skipped_updates"] and pd.isna(row["average"]) else "")
    if pd.isna(row["average"]):
        return Cell("0.0", "never acted")
    return effect_cell(row)


def _weight_cell(row: Mapping[Any, Any]) -> Cell:
    return Cell(f"{row['sft_weight']:g}", "chosen" if row["chosen"] is True else "")


def _caption(seeds: int, used: Sequence[RunRecords]) -> str:
    steps = ", ".join(str(own) for own in sorted({run.config.schedule.steps for run in used}))
    bases = trainings((run.config.policy.base_weights, run.seed) for run in used)
    several = (
        f"The bases are of {len(bases)} trainings on different processors, which round otherwise: "
        f"{' and '.join(bases)}. A mean holds whichever its runs began from; an effect, and the choice of a weight, "
        "rest on the seeds whose runs began from one. "
        if len(bases) > 1
        else ""
    )
    return (
        f"HPT on the weak base after {steps} steps, one field moved at a time; the average of the in-distribution sets "
        "in percent and its difference from the default's in points, in brackets 95 % "
        f"{interval_kind(seeds)}. {several}Where a field changes how much a demonstration weighs against the rollouts, "
        "other SFT coefficients were tried: the row marked chosen has the highest accuracy on the validation problems, "
        "which no table reports, and is the price after searching again; the row at × 1 is the price of moving the "
        "field alone."
    )
