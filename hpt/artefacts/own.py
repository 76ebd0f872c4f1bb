"""Algorithms of one's own: three kept examples against HPT, GRPO and SFT, as a table and over training."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hpt.artefacts.curves import mean_validation_curve, metric_curve, smoothing_window
from hpt.artefacts.dynamics import bands_text, long_form
from hpt.artefacts.effects import effect, effect_cell, in_distribution_shares, interval_kind
from hpt.artefacts.output import Cell, Column, FigureArtefact, Row, TableArtefact, interval_text
from hpt.artefacts.scores import BASE, score_table
from hpt.artefacts.selection import of_method, sets_of
from hpt.catalogue import ARTEFACTS, OWN, arm_label
from hpt.export import RunRecords
from hpt.metrics import axis_label
from hpt.plots import draw_curve, legend_below, line_style, new_figure
from hpt.stats import Decision, SeedDifference

POLICY, AGAINST = "weak", "hpt"
METHODS = ("sft", "grpo", AGAINST, *(arm.name for arm in OWN))
#: Column of the figure's panels -> metric.
PANELS = ("gate/offline_ratio_prompts", "rollout/entropy", "rollout/response_length_tokens")
LABELS = {"validation": "Validation accuracy (%)", PANELS[0]: "Offline data ratio (share)"}
_WORDS = {
    Decision.above: "better than HPT",
    Decision.below: "worse than HPT",
    Decision.undecided: "undecided",
    Decision.one_seed: "undecided (one seed)",
}


def own_algorithms(records: Sequence[RunRecords]) -> TableArtefact:
    """Return scores of the examples, HPT, GRPO and SFT on the in-distribution sets, and each one's difference from HPT.

    Raises:
        RecordFault: a run lacks an evaluation.
    """
    scores = score_table(records, (BASE, *METHODS), POLICY, ("in",), "own_algorithms")
    effects = {name: own for name in METHODS if name != AGAINST and (own := _effect(records, name)) is not None}
    columns = list(dict.fromkeys(scores["column"]))
    heads = dict(zip(scores["column"], scores["stands_for"], strict=True))
    rows: list[Row] = []
    for name, own in scores.groupby("method", sort=False):
        cells = [_score_cell(row) for row in own.to_dict("records")]
        numbers, difference = effects.get(str(name), ({}, None))
        rows.append((
            "base" if name == BASE else arm_label(str(name)),
            (*cells, _effect_cell(numbers), Cell(_verdict(difference) if numbers else "")),
        ))  # fmt: skip
    data = scores.drop(columns=["paper", "paper_copied"])
    for name, (numbers, difference) in effects.items():
        line = {"policy": POLICY, "method": name, "column": f"minus {AGAINST}", "score": numbers["effect"]}
        line |= {key: value for key, value in numbers.items() if key != "effect"}
        line |= {"seeds": len(difference.differences) if difference else 0, "verdict": _verdict(difference)}
        data = pd.concat([data, pd.DataFrame([line])], ignore_index=True)
    used = tuple(run for name in (BASE, *METHODS) for run in of_method(records, name, POLICY))
    shown = (
        *(Column(own, "mean of the sets" if own == columns[-1] else f"stands for {heads[own]}") for own in columns),
        Column("against HPT", "points"),
        Column("verdict", "over seeds"),
    )
    title = ARTEFACTS["own_algorithms"].title
    return TableArtefact("own_algorithms", title, data, shown, tuple(rows), _caption(used, effects), used)


def own_algorithms_curves(records: Sequence[RunRecords]) -> FigureArtefact:
    """Return validation accuracy, offline ratio, entropy and response length of the same runs over training."""
    used = tuple(run for name in METHODS for run in of_method(records, name, POLICY))
    window = smoothing_window(max((own.config.schedule.steps for own in used), default=1))
    sets = [name for name, own in sets_of(used).items() if own.distribution == "in"] if used else []
    curves = {("validation", name): mean_validation_curve(of_method(used, name, POLICY), sets) for name in METHODS}
    curves |= {(metric, name): metric_curve(of_method(used, name, POLICY), metric, window)
               for metric in PANELS for name in METHODS}  # fmt: skip

    def draw() -> Figure:
        figure, grid = new_figure(2, 2, width=4.2)
        for axes, panel in zip(grid.flat, ("validation", *PANELS), strict=True):
            for name in METHODS:
                draw_curve(axes, curves[panel, name], line_style(name))
            axes.set_ylabel(LABELS.get(panel) or axis_label(panel))
            axes.set_ylim(bottom=0)
        for axes in grid[-1]:
            axes.set_xlabel(axis_label("step"))
        legend_below(figure, list(grid.flat))
        return figure

    caption = (
        "The mean accuracy on fixed parts of the in-distribution sets while training; the share of prompts that learn "
        "from their demonstration (beta above 0: with a smooth gate all of them do, by little or by much); entropy and "
        "length of all sampled responses before the gate acts. "
        + (f"All but the first: moving average over {window} steps. " if window > 1 else "")
        + bands_text(used)
    )
    title = ARTEFACTS["own_algorithms_curves"].title
    data = long_form(curves, ("metric", "method"))
    return FigureArtefact("own_algorithms_curves", title, data, draw, caption, used)


def _effect(records: Sequence[RunRecords], name: str) -> tuple[dict[str, float], SeedDifference | None] | None:
    own, against = (
        {run.seed: in_distribution_shares(run) for run in of_method(records, method, POLICY)}
        for method in (name, AGAINST)
    )
    return effect(own, against) if own and against else None


def _score_cell(row: Mapping[Any, Any]) -> Cell:
    kind = "seeds" if row["seeds"] > 1 else "problems"
    return Cell(f"{row['score']:.1f}", interval_text(row[f"{kind}_low"], row[f"{kind}_high"]))


def _effect_cell(numbers: Mapping[str, float]) -> Cell:
    return effect_cell(numbers) if numbers else Cell("")


def _verdict(difference: SeedDifference | None) -> str:
    return "" if difference is None else _WORDS[difference.decide()]


def _caption(used: Sequence[RunRecords], effects: Mapping[str, tuple[dict[str, float], Any]]) -> str:
    seeds = max((len(own.differences) for _, own in effects.values() if own is not None), default=1)
    rates = {f"{run.config.optimizer.learning_rate:g}" for run in used if run.config.own_modules}
    own = [arm.name for arm in OWN if arm.name in effects]
    apart = [arm_label(name) for name in own
             if not effects[name][0]["problems_low"] <= 0 <= effects[name][0]["problems_high"]]  # fmt: skip
    return (
        f"Accuracy in percent after training on the weak base, and the difference of the averages from HPT's; in "
        f"brackets 95 % {interval_kind(seeds)}. The examples were not searched: they train at the learning rate "
        f"{' and '.join(sorted(rates)) or 'of HPT'} and with the SFT coefficient that the search chose for HPT. "
        + (
            f"Different from HPT by more than the problems' luck on the same weights: {', '.join(apart)}. "
            if apart
            else "None of them differs from HPT by more than the luck of the problems on fixed weights. "
        )
        + "A verdict needs three seeds or more."
    )
