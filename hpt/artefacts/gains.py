"""What RL alone gains on each base: GRPO's average beside its base's (Section 1: RL "falters" on weaker models)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hpt.artefacts.effects import average_of_sets, effect, effect_cell, in_distribution_shares, interval_kind
from hpt.artefacts.output import Cell, Column, TableArtefact
from hpt.artefacts.scores import BASE, PAPER_METHOD, average_column
from hpt.artefacts.selection import of_method
from hpt.catalogue import ARTEFACTS
from hpt.export import RunRecords
from hpt.paper import base_title, paper_value
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
        (base_title(base), (_cell(line["base"]), _cell(line["grpo"]), effect_cell(line), _printed(base)))
        for base, line in zip(present, data.to_dict("records"), strict=True)
    ]
    seeds = int(data["seeds"].max()) if len(data) else 0
    caption = (
        "Unweighted mean of the in-distribution sets, percent; the gain in points, in brackets its 95 % interval "
        f"{interval_kind(seeds)}. Every base has one run, which all seeds share. The paper's gain is the difference of "
        "two of its printed rows, whoever trained them."
    )
    columns = (Column("base", "average"), Column("GRPO", "average"), Column("gain", "points"),
               Column("the paper's gain", "points"))  # fmt: skip
    used = tuple(run for runs in present.values() for own in runs for run in own)
    return TableArtefact("grpo_gains", artefact.title, data, columns, tuple(rows), caption, used)


def _line(base: str, before: Sequence[RunRecords], after: Sequence[RunRecords]) -> dict[str, Any]:
    own = {run.seed: in_distribution_shares(run) for run in after}
    (shares,) = map(in_distribution_shares, before)  # a base is trained once
    numbers, _ = effect(own, dict.fromkeys(own, shares))
    grpo = float(np.mean([average_of_sets(one) for one in own.values()]))
    return {"policy": base, "base": average_of_sets(shares), "grpo": grpo, "seeds": len(own), **numbers}


def _cell(value: float) -> Cell:
    return Cell(f"{round_half_up(value):.1f}")


def _printed(base: str) -> Cell:
    before, after = (
        paper_value("grpo_gains", PAPER_METHOD.get(own, own), average_column("in"), base) for own in (BASE, "grpo")
    )
    return Cell("" if before is None or after is None else f"{after - before:+.1f}")
