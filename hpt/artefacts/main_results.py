"""Table 3: base, SFT, GRPO, LUFFY and HPT on the in-distribution sets."""

from collections.abc import Sequence

import pandas as pd

from hpt.artefacts.output import Cell, Column, TableArtefact, interval_text
from hpt.artefacts.scores import BASE, score_table
from hpt.artefacts.selection import of_method
from hpt.export import RunRecords
from hpt.paper import paper_data
from hpt.plots import line_style


def table3(records: Sequence[RunRecords]) -> TableArtefact:
    """Return the half of Table 3 on the weak base: base, SFT, GRPO, LUFFY, HPT on six sets and their average.

    Args:
        records: the runs; methods without one are left out.

    Raises:
        RecordFault: a run lacks an evaluation.
    """
    methods = (BASE, "sft", "grpo", "luffy", "hpt")
    data = score_table(records, methods, "weak", "in", "table3")
    used = tuple(own for method in methods for own in of_method(records, method, "weak"))
    title = "Table 3: main results, weak base (stands for Qwen2.5-Math-1.5B)"
    return scores_artefact("table3", title, data, used)


def scores_artefact(name: str, title: str, data: pd.DataFrame, sources: tuple[RunRecords, ...]) -> TableArtefact:
    """Return a table of scores, ours beside the paper's.

    Args:
        name: of the files; also the paper's table.
        title: for people.
        data: as from `hpt.artefacts.scores.score_table`.
        sources: runs it rests on.
    """
    columns = [
        Column(name, "mean of the sets" if name in paper_data()["averages"] else f"stands for {stands_for}")
        for name, stands_for in dict(zip(data["column"], data["stands_for"], strict=True)).items()
    ]
    rows = []
    for method, own in data.groupby("method", sort=False):
        label = "base" if method == BASE else line_style(str(method)).label
        rows.append((label, tuple(_cell(row) for row in own.to_dict("records"))))
    seeds = int(data["seeds"].max()) if len(data) else 0
    return TableArtefact(name, title, data, tuple(columns), tuple(rows), _caption(seeds), sources)


def _cell(row: dict) -> Cell:
    kind = "seeds" if row["seeds"] > 1 else "problems"
    return Cell(
        f"{row['score']:.1f}",
        interval_text(row[f"{kind}_low"], row[f"{kind}_high"]),
        "" if pd.isna(row["paper"]) else f"{row['paper']:.1f}",
    )


def _caption(seeds: int) -> str:
    over_problems = (
        "over the problems for fixed weights (Wilson for one answer per problem, BCa bootstrap otherwise), which says "
        "nothing about the next training run"
    )
    if seeds > 1:
        brackets = (
            f"the 95 % interval over {seeds} seeds (Student's t); the base has one run, so its is {over_problems}"
        )
    else:
        brackets = f"the 95 % interval {over_problems}"
    return (
        f"Accuracy in percent (avg@k), mean over {seeds} seed{'' if seeds == 1 else 's'}; in brackets {brackets}. Each "
        "set is made by this package and stands for the benchmark named below it: compare signs and order with the "
        "paper's values, not levels. The average is taken from the printed cells and rounded half up, as the paper's."
    )
