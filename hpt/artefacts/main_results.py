"""Tables of scores: 2 and 3 (main results), 5 (off-policy variants) and 6 (gate threshold)."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hpt.artefacts.arm_settings import settings_text
from hpt.artefacts.output import Cell, Column, Row, TableArtefact, interval_text
from hpt.artefacts.scores import BASE, paper_only, score_table
from hpt.artefacts.selection import of_method, own_methods, sets_of
from hpt.catalogue import arm_label
from hpt.export import RunRecords
from hpt.paper import base_title, paper_data


@dataclass(frozen=True)
class Block:
    """Rows of a table on one base: names of arms, their labels where those are not their own, a heading above them."""

    policy: str
    methods: tuple[str, ...]
    heading: str = ""


def table2(records: Sequence[RunRecords]) -> TableArtefact:
    """Return Table 2: every method on the strong base, on the sets in and out of distribution with both averages.

    The zero-RL and Instruct rows, which exist only as published numbers, stand below with the paper's values alone.

    Args:
        records: the runs; methods without one are left out.

    Raises:
        RecordFault: a run lacks an evaluation.
    """
    blocks = (Block("strong", (BASE, "sft", "grpo", "sft_then_grpo", "luffy", "srft", "hpt")),)
    title = f"Table 2: main results, {base_title('strong')}"
    return scores_artefact("table2", title, records, blocks, ("in", "out"))


def table3(records: Sequence[RunRecords]) -> TableArtefact:
    """Return Table 3: base, SFT, GRPO, LUFFY and HPT on the Llama and the weak base, on the in-distribution sets.

    Methods of the user's own among the records are further rows.

    Raises:
        RecordFault: a run lacks an evaluation.
    """
    methods = (BASE, "sft", "grpo", "luffy", "hpt")
    blocks = [Block(policy, (*methods, *own_methods(records, policy)), _with_gate(records, policy))
              for policy in ("llama", "weak")]  # fmt: skip
    return scores_artefact("table3", "Table 3: main results, Llama and weak base", records, blocks)


def table5(records: Sequence[RunRecords]) -> TableArtefact:
    """Return Table 5: what HPT does with a demonstration (off-policy RL, that and SFT, or SFT) on the weak base.

    Raises:
        RecordFault: a run lacks an evaluation.
    """
    title = f"Table 5: off-policy variants, {base_title('weak')}"
    labels = {"hpt": "SFT/ON (HPT)"}
    return scores_artefact("table5", title, records, [Block("weak", ("off_on", "mix_on", "hpt"))], ("in",), labels)


def table6(records: Sequence[RunRecords]) -> TableArtefact:
    """Return Table 6: HPT on the weak base with the gates 2/8, 1/8 and 0.

    Raises:
        RecordFault: a run lacks an evaluation.
    """
    title = f"Table 6: gate threshold, {base_title('weak')}"
    return scores_artefact("table6", title, records, [Block("weak", tuple(GATE_LABELS))], ("in",), GATE_LABELS)


#: Arms of Table 6 and Figure 8; gate 0 is the plain HPT of the other tables, so its label does not say it.
GATE_LABELS = {name: arm_label(name) for name in ("hpt_gate2", "hpt_gate1")} | {"hpt": "HPT, gate 0"}


def scores_artefact(
    name: str,
    title: str,
    records: Sequence[RunRecords],
    blocks: Sequence[Block],
    distributions: Sequence[str] = ("in",),
    labels: Mapping[str, str] | None = None,
) -> TableArtefact:
    """Return a table of scores, ours beside the paper's.

    Args:
        name: of the files; also the paper's table.
        title: for people.
        records: runs, of which those of the blocks are used.
        blocks: its rows.
        distributions: as for `score_table`.
        labels: of arms, where not their own.
    """
    ours = [score_table(records, block.methods, block.policy, distributions, name) for block in blocks]
    known = pd.concat([own for own in ours if len(own)], ignore_index=True) if any(map(len, ours)) else ours[0]
    heads = dict(zip(known["column"], known["stands_for"], strict=True))
    averages = paper_data()["averages"]
    columns = [Column(own, "mean of the sets" if own in averages else f"stands for {heads[own]}") for own in heads]
    named = {BASE: "base"} | dict(labels or {})
    rows: list[Row] = []
    parts = []
    for block, frame in zip(blocks, ours, strict=True):
        if block.heading and len(frame):
            rows.append((block.heading, ()))
        rows += _rows(frame, named)
        published = paper_only(name, block.policy, heads) if len(frame) else frame
        if len(published):
            rows += [("published numbers only", ()), *_rows(published, {})]
        parts += [own for own in (frame, published) if len(own)]
    data = pd.concat(parts, ignore_index=True) if parts else known
    used = tuple(
        run for block in blocks for method in block.methods for run in of_method(records, method, block.policy)
    )
    told = "".join(settings_text(used, block.policy, block.methods) for block in blocks)
    caption = f"{_caption(data)}{told}{_guessing(used, set(heads))}".strip()
    return TableArtefact(name, title, data, tuple(columns), tuple(rows), caption, used)


def _guessing(used: Sequence[RunRecords], shown: set[str]) -> str:
    """Return what guessing scores on the shown sets that offer choices."""
    scores = {}
    for name, own in (sets_of(used) if used else {}).items():
        if name in shown and all(problem.answer_kind == "choice" for problem in own.problems):
            scores[name] = 100 / len({problem.answer for problem in own.problems})
    return "".join(f"Guessing scores {score:.0f} on {name}. " for name, score in scores.items())


def _rows(frame: pd.DataFrame, labels: Mapping[str, str]) -> list[Row]:
    return [
        (labels.get(str(method), arm_label(str(method))), tuple(_cell(row) for row in own.to_dict("records")))
        for method, own in frame.groupby("method", sort=False)
    ]


def _cell(row: Mapping[Hashable, Any]) -> Cell:
    paper = "" if pd.isna(row["paper"]) else f"{row['paper']:.1f}{'*' if row['paper_copied'] else ''}"
    if not row["seeds"]:
        return Cell("", "", paper)
    kind = "seeds" if row["seeds"] > 1 else "problems"
    return Cell(f"{row['score']:.1f}", interval_text(row[f"{kind}_low"], row[f"{kind}_high"]), paper)


def _with_gate(records: Sequence[RunRecords], policy: str) -> str:
    """Return the name of a base with the gate that HPT had on it."""
    gates = {f"{run.config.gate.count}/{run.config.rollout.rollouts_per_prompt}" if run.config.gate.count else "0"
             for run in of_method(records, "hpt", policy)}  # fmt: skip
    heading = base_title(policy) + (f", HPT with gate {' and '.join(sorted(gates))}" if gates else "")
    return heading[:1].upper() + heading[1:]


def _caption(data: pd.DataFrame) -> str:
    trained = sorted(set(data[(data["method"] != BASE) & (data["seeds"] > 0)]["seeds"]))
    most = int(max(trained, default=1))
    over_problems = (
        "over the problems for fixed weights (Wilson for one answer per problem or where all answers are right or "
        "all wrong, BCa bootstrap otherwise), which says nothing about the next training run"
    )
    if most == 1:
        what = f"one seed; in brackets the 95 % interval {over_problems}"
    else:
        seeds = f"{most} seeds" if len(trained) == 1 else f"the seeds there are of a method ({trained[0]} to {most})"
        what = f"mean over {seeds}; in brackets the 95 % interval over seeds (Student's t)"
        alone = ["the base"] if (data["method"] == BASE).any() else []
        alone += ["a method of one seed"] if 1 in trained else []
        if alone:
            what += f"; {' and '.join(alone)} has one run, so its interval is {over_problems}"
    caption = (
        f"Accuracy in percent (avg@k), {what}. Each set is made by this package and stands for the benchmark named "
        "below it: compare signs and order with the paper's values, not levels. Averages are taken from the printed "
        "cells and rounded half up, as the paper's. "
    )
    if data["paper_copied"].any():
        caption += "* copied by the paper's authors from another paper. "
    return caption
