"""What RL alone gains on each base: GRPO's average beside its base's (Section 1: RL "falters" on weaker models)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hpt.arms import IN_DISTRIBUTION
from hpt.artefacts.effects import average_of_sets, effect, problem_shares
from hpt.artefacts.output import Cell, Column, TableArtefact, interval_text
from hpt.artefacts.scores import BASE, PAPER_METHOD
from hpt.artefacts.selection import of_method
from hpt.catalogue import ARTEFACTS
from hpt.export import RunRecords
from hpt.paper import base_title, paper_data, paper_value
from hpt.scores import round_half_up


def grpo_gains(records: Sequence[RunRecords]) -> TableArtefact:
    """Return the in-distribution averages of every base and of GRPO from it, and the gain with its interval.

    Raises:
        RecordFault: a run was not evaluated on a set.
    """
    artefact = ARTEFACTS["grpo_gains"]
    found = {base: (of_method(records, BASE, base), of_method(records, "grpo", base)) for base in artefact.policies}
    present = {base: runs for base, runs in found.items() if all(runs)}
    data = pd.DataFrame([_line(base, *runs) for base, runs in present.items()])
    rows = [
        (base_title(line["policy"]), (_cell(line["base"]), _cell(line["grpo"]), _gain(line), _printed(line["policy"])))
        for line in data.to_dict("records")
    ]
    seeds = int(data["seeds"].max()) if len(data) else 0
    kind = "over the problems, for fixed weights" if seeds < 2 else f"over {seeds} seeds (Student's t, paired)"
    caption = (
        "Unweighted mean of the in-distribution sets, percent; the gain in points, in brackets its 95 % interval "
        f"{kind}. Every base has one run, which all seeds share. The paper's gain is the difference of two of its "
        "printed rows, whoever trained them."
    )
    columns = (Column("base", "average"), Column("GRPO", "average"), Column("gain", "points"),
               Column("the paper's gain", "points"))  # fmt: skip
    used = tuple(run for runs in present.values() for own in runs for run in own)
    return TableArtefact("grpo_gains", artefact.title, data, columns, tuple(rows), caption, used)


def _line(base: str, before: Sequence[RunRecords], after: Sequence[RunRecords]) -> dict[str, Any]:
    own, under = (
        {run.seed: [problem_shares(run, name) for name in IN_DISTRIBUTION] for run in runs} for runs in (after, before)
    )
    (shares,) = under.values()  # a base is trained once
    numbers, _ = effect(own, dict.fromkeys(own, shares))
    grpo = float(np.mean([average_of_sets(one) for one in own.values()]))
    return {"policy": base, "base": average_of_sets(shares), "grpo": grpo, "seeds": len(own), **numbers}


def _cell(value: float) -> Cell:
    return Cell(f"{round_half_up(value):.1f}")


def _gain(line: dict[Any, Any]) -> Cell:
    kind = "problems" if pd.isna(line["seeds_low"]) else "seeds"
    return Cell(f"{round_half_up(line['effect']):+.1f}", interval_text(line[f"{kind}_low"], line[f"{kind}_high"]))


def _printed(base: str) -> Cell:
    average = next(name for name, kind in paper_data()["averages"].items() if kind == "in")
    before, after = (paper_value("grpo_gains", PAPER_METHOD.get(own, own), average, base) for own in (BASE, "grpo"))
    return Cell("" if before is None or after is None else f"{after - before:+.1f}")
