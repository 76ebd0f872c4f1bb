"""The estimator laboratory's tables and figures: bias, variance and error of every row where the truth is known.

Everything is exact or seeded, on policies small enough to list (`hpt.laboratory`); no run is needed. PyTorch is
imported when one of them is made.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hpt.artefacts.output import Cell, Column, FigureArtefact, Row, TableArtefact
from hpt.catalogue import ARTEFACTS
from hpt.export import RunRecords

#: Questions pooled and draws of each: half a minute for everything, intervals of a few hundredths.
QUESTIONS, DRAWS = 8, 100
#: The same of the plane, on which claims about single rows are decided.
PLANE_QUESTIONS, PLANE_DRAWS = 32, 60
#: The same of the sweeps, which measure every row at forty settings.
SWEEP_QUESTIONS, SWEEP_DRAWS = 6, 60
#: Rows that are named in the figures; the others are drawn in grey.
NAMED = {
    "sft": "#e69f00", "grpo": "#0072b2", "dr_grpo": "#d55e00", "gspo": "#56b4e9", "cispo": "#7a5195",
    "luffy_offline": "#009e73", "rloo": "#8c6d1f", "srft_rollout": "#cc79a7",
}  # fmt: skip


def _size(questions: int = QUESTIONS, draws: int = DRAWS) -> Any:
    from hpt.laboratory.sweeps import Size

    return Size(questions, draws)


@cache
def _plane() -> tuple[pd.DataFrame, pd.DataFrame]:
    from hpt.laboratory.sweeps import plane, plane_sums

    sums = plane_sums(_size(PLANE_QUESTIONS, PLANE_DRAWS))
    return plane(sums), sums


@cache
def _gates() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    from hpt.laboratory.gate_sweeps import gate_table

    return gate_table(_size())


def bias_variance(records: Sequence[RunRecords] = ()) -> FigureArtefact:
    """Return the bias-variance plane of all rows, a panel per situation; with it, the sums of every question."""
    del records
    data, sums = _plane()
    caption = (
        "Every row of the package on enumerable policies, against the known gradient t of the Common Objective (Eq. "
        "1): "
        "what remains of its expectation across t (bias) and its standard deviation (noise), both in units of |t| at "
        "equal progress, so that a learning rate cannot hide either. Crosses at the edge: no progress along t at all. "
        f"{PLANE_QUESTIONS} questions with success rates from 0.1 to 0.9, {PLANE_DRAWS} draws of 8 rollouts "
        "and a demonstration each."
    )
    return FigureArtefact(
        "bias_variance", ARTEFACTS["bias_variance"].title, data, lambda: draw_plane(data), caption,
        more={"questions": sums},
    )  # fmt: skip


def draw_plane(data: pd.DataFrame, own: Sequence[str] = ()) -> Figure:
    """Draw the plane, a panel per situation; the rows called ``own`` in black and by name."""
    situations = list(dict.fromkeys(data["situation"]))
    figure = Figure(figsize=(14, 4.8))
    for axes, situation in zip(figure.subplots(1, len(situations), sharey=True), situations, strict=True):
        there = data[data["situation"] == situation]
        finite = there[np.isfinite(there["noise"])]
        edge = 1.3 * float(finite["noise"].max()), 1.3 * float(finite["bias_across"].clip(lower=0.02).max())
        for _, row in there.iterrows():
            mine = row["row"] in own
            progress = bool(np.isfinite(row["noise"]))
            at = (row["noise"], max(row["bias_across"], 0.02)) if progress else edge
            colour = "#111111" if mine else NAMED.get(str(row["row"]), "#9a9a9a")
            marker = ("D" if mine else "o") if progress else "x"
            axes.scatter(*at, color=colour, s=34, marker=marker, zorder=4 if mine else 3)
            if mine or row["row"] in NAMED or not progress:
                axes.annotate(
                    str(row["row"]), at, fontsize=6.5, xytext=(4, 3), textcoords="offset points", color=colour
                )
        axes.set(xscale="log", yscale="log", title=situation, xlabel="noise (standard deviation / |t|)")
    figure.axes[0].set_ylabel("bias across t (/ |t|; at most 0.02 drawn as 0.02)")
    return figure


def estimators(records: Sequence[RunRecords] = ()) -> TableArtefact:
    """Return angle, error and dropped tokens of every row in each situation: which are effective directions."""
    del records
    data, _ = _plane()
    situations = list(dict.fromkeys(data["situation"]))
    rows: list[Row] = []
    for name in dict.fromkeys(data["row"]):
        own = data[data["row"] == name].set_index("situation")
        cells = [
            Cell(
                f"{line['angle']:.0f}",
                f"[{line['angle_low']:.0f}, {line['angle_high']:.0f}], error {line['error']:.2f}",
            )
            for line in (own.loc[situation] for situation in situations)
        ]
        rows.append((str(name), (*cells, Cell(f"{100 * own.loc[situations[1], 'masked']:.1f}"))))
    stale = data[data["situation"] == situations[1]].set_index("row")
    against = data[data["cosine"] <= 0]
    worst = "; ".join(f"{line['row']} ({line['situation']})" for _, line in against.iterrows())
    caption = (
        "Angle between a row's expected gradient and the true one, degrees, with its 95 % interval over questions, "
        "and the "
        "error that no learning rate can mend (0 exact, 1 useless). Below 90 degrees a row is an effective direction; "
        + (f"it is not for: {worst}. " if worst else "all rows are. ")
        + f"Last column: tokens dropped by the mask on stale rollouts; GSPO drops "
        f"{100 * stale.loc['gspo', 'masked']:.0f} %, GRPO {100 * stale.loc['grpo', 'masked']:.1f} %."
    )
    columns = (
        *(Column(situation, "angle [95 %], error") for situation in situations),
        Column("dropped", "% of tokens"),
    )
    return TableArtefact("estimators", ARTEFACTS["estimators"].title, data, columns, tuple(rows), caption)


@cache
def _dials() -> pd.DataFrame:
    from hpt.laboratory.sweeps import DIALS, sweep

    return pd.concat([sweep(name, _size(SWEEP_QUESTIONS, SWEEP_DRAWS)) for name in DIALS], ignore_index=True)


def estimator_error(records: Sequence[RunRecords] = ()) -> FigureArtefact:
    """Return every row's error as one thing is turned at a time: staleness, n, P, distance, mu."""
    from hpt.laboratory.experiment import OFFLINE
    from hpt.laboratory.sweeps import DIALS

    del records
    data = _dials()
    labels = {name: (dial.label, dial.logarithmic) for name, dial in DIALS.items()}
    success = data[data["dial"] == "success"]
    least = success.loc[success.groupby("value")["error"].idxmin()]
    below = [float(line["value"]) for _, line in least.iterrows() if line["row"] in OFFLINE]
    caption = (
        "Error of every row (0 exact, 1 useless) as one dial is turned, the others held; success rates are spread "
        "over 0.1 "
        "to 0.9 where P is not the dial, rollouts are fresh where staleness is not. "
        + (
            f"A row on demonstrations has the least error at P = {', '.join(f'{own:g}' for own in below)}, a row on "
            "rollouts elsewhere: the empirical case for a gate, and where its threshold would lie."
            if below
            else "A row on rollouts has the least error at every P: these policies make no case for a gate."
        )
    )
    return FigureArtefact(
        "estimator_error", ARTEFACTS["estimator_error"].title, data, lambda: _draw_errors(data, labels), caption
    )


def _draw_errors(data: pd.DataFrame, labels: dict[str, tuple[str, bool]]) -> Figure:
    figure = Figure(figsize=(14, 7.6))
    panels = figure.subplots(2, 3).flatten()
    for axes, (dial, (label, logarithmic)) in zip(panels, labels.items(), strict=False):
        own = data[data["dial"] == dial]
        for name, curve in own.groupby("row", sort=False):
            named = str(name) in NAMED
            look = {"linewidth": 1.8, "label": str(name), "zorder": 3} if named else {"linewidth": 0.9}
            axes.plot(curve["value"], curve["error"], color=NAMED.get(str(name), "#c4c4c4"), **look)
        axes.set(xlabel=label, ylabel="error (0 to 1)", ylim=(0, 1.03), xscale="log" if logarithmic else "linear")
    panels[-1].axis("off")
    panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", title="rows; grey: the others")
    return figure


def gates_as_estimators(records: Sequence[RunRecords] = ()) -> TableArtefact:
    """Return the error of every gate, tuned alike, for three objectives, and the least possible."""
    del records
    data, _, _ = _gates()
    objectives = list(dict.fromkeys(data["objective"]))
    rows: list[Row] = []
    for gate in dict.fromkeys(data["gate"]):
        own = data[data["gate"] == gate].set_index("objective")
        lines = (own.loc[objective] for objective in objectives)
        cells = (Cell(f"{line['error']:.3f}", f"[{line['low']:.3f}, {line['high']:.3f}]") for line in lines)
        rows.append((str(gate), tuple(cells)))
    table = data.pivot_table(index="gate", columns="objective", values="error", sort=False)
    hard, least = table.loc["switch at 0/8"], table.loc["least error"]
    said = "; ".join(f"{o}: {hard[o]:.3f} against {least[o]:.3f}" for o in objectives)
    caption = (
        "Expected squared error of alpha(c) g_RL + beta(c) g_SFT, c of 8 rollouts right, against the true gradient "
        "(1 = "
        "no better than no step), over questions with success rates from 0.02 to 0.98; each gate has its own two best "
        "coefficients. In brackets the 95 % interval over questions, which is common to all gates: compare within a "
        f"column. HPT's gate against the best possible: {said}."
    )
    columns = tuple(Column(str(objective), "error [95 %]") for objective in objectives)
    return TableArtefact(
        "gates_as_estimators", ARTEFACTS["gates_as_estimators"].title, data, columns, tuple(rows), caption
    )


def best_gate(records: Sequence[RunRecords] = ()) -> FigureArtefact:
    """Return the weights of the gate of least error by the number of right rollouts; with it, gates pair by pair."""
    del records
    _, data, differences = _gates()
    caption = (
        "The two weights of least error at every count of right rollouts out of 8 (Eq. 9 with f and g left free), "
        "for three "
        "objectives, relative to the largest of a panel. Eq. 10 would be a step: SFT alone at the left, RL alone "
        "elsewhere. "
        "With no or all answers right the group has no RL gradient, so its weight is 0 there."
    )
    return FigureArtefact(
        "best_gate", ARTEFACTS["best_gate"].title, data, lambda: _draw_best_gate(data), caption,
        more={"differences": differences},
    )  # fmt: skip


def _draw_best_gate(data: pd.DataFrame) -> Figure:
    objectives = list(dict.fromkeys(data["objective"]))
    figure = Figure(figsize=(12, 3.6))
    for axes, objective in zip(figure.subplots(1, len(objectives), sharey=True), objectives, strict=True):
        own = data[data["objective"] == objective]
        for name, label, colour, marker in (
            ("alpha", "RL, alpha", "#0072b2", "o"),
            ("beta", "SFT, beta", "#e69f00", "s"),
        ):
            axes.plot(
                own["correct"],
                own[name] / max(float(own[name].max()), 1e-300),
                color=colour,
                marker=marker,
                label=label,
            )
        axes.set(title=objective, xlabel="right answers of 8")
    figure.axes[0].set_ylabel("weight (share of the largest)")
    figure.axes[0].legend()
    return figure


def gradient_conflict(records: Sequence[RunRecords] = ()) -> TableArtefact:
    """Return the exact cosine between the reward's gradient and the demonstrator's, by success rate and distance."""
    from hpt.laboratory.sweeps import conflict

    del records
    data = conflict(_size())
    rates = list(dict.fromkeys(data["success"]))
    rows: list[Row] = []
    for _, own in data.groupby(["slips", "distance"], sort=False):
        slips, distance = float(own["slips"].iloc[0]), float(own["distance"].iloc[0])
        cells = []
        for rate in rates:
            cosines = own[own["success"] == rate]["cosine"]
            cells.append(Cell(f"{cosines.mean():.2f}", f"[{cosines.min():.2f}, {cosines.max():.2f}]"))
        label = f"distance {distance:g}, " + (
            f"{100 * slips:g} % of the demonstrations wrong" if slips else "all right"
        )
        rows.append((label, tuple(cells)))
    negative = 100 * float((data["cosine"] < 0).mean())
    perfect = data[data["slips"] == 0]["cosine"].min()
    caption = (
        "Cosine between the two terms of Eq. 2, exact: the gradient of the expected reward and that of the "
        "demonstrations' "
        f"likelihood; mean over {2 * QUESTIONS} questions, in brackets the smallest and the largest. Negative in "
        f"{negative:.1f} % of {len(data)} questions; with a demonstrator that is always right the smallest is "
        f"{perfect:.2f}. "
        "That the sum has one objective (Eq. 1) does not make the two point the same way on every question."
    )
    columns = tuple(Column(f"P = {rate:g}", "cosine") for rate in rates)
    return TableArtefact("gradient_conflict", ARTEFACTS["gradient_conflict"].title, data, columns, tuple(rows), caption)
