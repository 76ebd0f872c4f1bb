"""Figures 5 to 8: validation accuracy, offline data ratio, entropy and response length, gates, over training."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from hpt.artefacts.arm_settings import settings_text
from hpt.artefacts.curves import metric_curve, smoothing_window, validation_curve
from hpt.artefacts.main_results import GATE_LABELS
from hpt.artefacts.output import FigureArtefact
from hpt.artefacts.selection import of_method, own_methods, sets_of
from hpt.export import RunRecords
from hpt.metrics import METRICS, axis_label
from hpt.paper import base_title
from hpt.plots import LineStyle, draw_curve, legend_below, line_style, new_figure
from hpt.stats import MIN_SEEDS

RATIOS = {"gate/offline_ratio_prompts": "of prompts", "gate/offline_ratio_rows": "of training rows"}
POLICIES = ("weak", "strong")  # of Figure 6


def figure5(records: Sequence[RunRecords]) -> FigureArtefact:
    """Return the validation curves of every method on the weak base, a panel per in-distribution set."""
    methods = ("sft", "grpo", "luffy", "hpt", *own_methods(records, "weak"))
    used = _used(records, methods, ("weak",))
    sets = {name: own for name, own in sets_of(used).items() if own.distribution == "in"}
    curves = {
        (name, method): validation_curve(of_method(used, method, "weak"), name) for name in sets for method in methods
    }

    def draw() -> Figure:
        figure, grid = new_figure(2, 3, sharex=True)
        for axes, (name, own) in zip(grid.flat, sets.items(), strict=False):
            for method in methods:
                draw_curve(axes, curves[name, method], line_style(method))
            axes.set_title(f"{name}\nstands for {own.stands_for}", fontsize=9)
            # a band of Student's t may reach where no accuracy can, and a curve of zeros has no scale of its own
            axes.set_ylim(0, min(100.0, max(5.0, axes.get_ylim()[1])))
        for axes in grid[-1]:
            axes.set_xlabel(axis_label("step"))
        for axes in grid[:, 0]:
            axes.set_ylabel(axis_label("score/validation"))
        legend_below(figure, list(grid.flat))
        return figure

    caption = (
        f"Accuracy on a fixed part of every in-distribution set while training. {bands_text(used)} {_ONLY_PICTURES}"
    )
    data = long_form(curves, ("panel", "method"))
    return FigureArtefact("figure5", "Figure 5: validation accuracy, weak base", data, draw, caption, used)


def figure6(records: Sequence[RunRecords]) -> FigureArtefact:
    """Return the offline data ratio of HPT over training in both readings, a panel per base."""
    methods = {policy: ("hpt", *own_methods(records, policy)) for policy in POLICIES}
    used = tuple(own for policy in POLICIES for own in _used(records, methods[policy], (policy,)))
    present = [policy for policy in POLICIES if any(own.policy == policy for own in used)]
    window = _window(used)
    curves = {
        (policy, ratio, method): metric_curve(of_method(used, method, policy), ratio, window)
        for policy in present
        for ratio in RATIOS
        for method in methods[policy]
    }

    def draw() -> Figure:
        figure, grid = new_figure(1, max(1, len(present)), width=4.2, sharey=True)
        for axes, policy in zip(grid.flat, present, strict=False):
            for method, (ratio, reading) in itertools.product(methods[policy], RATIOS.items()):
                look = line_style(method)
                named = LineStyle(f"{look.label}: share {reading}", look.colour, look.marker)
                draw_curve(axes, curves[policy, ratio, method], named, dashed=ratio != next(iter(RATIOS)))
            axes.set_title(base_title(policy))
            axes.set_xlabel(axis_label("step"))
            axes.set_ylim(0, 1)
        grid[0, 0].set_ylabel("Offline data ratio (share)")
        legend_below(figure, list(grid.flat))
        return figure

    caption = (
        "Share of the training data that is offline, in the paper's two readings: prompts that learn from their "
        "demonstration (its text), and demonstrations among the rows of the step, each online prompt bringing its "
        f"rollouts (its definition). {_smoothed(window)}{bands_text(used)} "
        f"{''.join(settings_text(used, policy, methods[policy]) for policy in present)}{_ONLY_PICTURES}"
    )
    plain = {key[:2]: curve for key, curve in curves.items() if key[2] == "hpt"}
    data = long_form(plain, ("policy", "metric"))
    more = {key: curve for key, curve in curves.items() if key[2] != "hpt"}
    if more:  # only then is there a column that says whose: the figure of HPT alone stays as it is
        own = [long_form({key[:2]: curve}, ("policy", "metric")).assign(method=key[2]) for key, curve in more.items()]
        data = pd.concat([data.assign(method="hpt"), *own], ignore_index=True)
    return FigureArtefact("figure6", "Figure 6: offline data ratio", data, draw, caption, used)


def figure7(records: Sequence[RunRecords]) -> FigureArtefact:
    """Return entropy and response length of all rollouts over training, before the gate acts, on the weak base."""
    methods = ("grpo", "luffy", "hpt", *own_methods(records, "weak"))
    metrics = ("rollout/entropy", "rollout/response_length_tokens")
    used = _used(records, methods, ("weak",))
    window = _window(used)
    curves = _metric_curves(used, metrics, methods, window)

    def draw() -> Figure:
        figure, grid = new_figure(1, 2, width=4.2)
        for axes, metric in zip(grid.flat, metrics, strict=True):
            for method in methods:
                draw_curve(axes, curves[metric, method], line_style(method))
            axes.set_ylabel(axis_label(metric))
            axes.set_xlabel(axis_label("step"))
            axes.set_ylim(bottom=0)
        legend_below(figure, list(grid.flat))
        return figure

    caption = (
        "All sampled responses of a step, before the gate acts; entropy is the mean of -log pi of the sampled tokens "
        f"at temperature 1, estimated alike for every method. {_smoothed(window)}{bands_text(used)} "
        f"{settings_text(used, 'weak', methods)}{_ONLY_PICTURES}"
    )
    data = long_form(curves, ("metric", "method"))
    return FigureArtefact("figure7", "Figure 7: entropy and response length, weak base", data, draw, caption, used)


def figure8(records: Sequence[RunRecords]) -> FigureArtefact:
    """Return training reward and offline data ratio (both readings) of HPT under the gates 0, 1/8 and 2/8."""
    metrics = ("rollout/reward", *RATIOS)
    used = _used(records, tuple(GATE_LABELS), ("weak",))
    window = _window(used)
    curves = _metric_curves(used, metrics, tuple(GATE_LABELS), window)

    def draw() -> Figure:
        figure, grid = new_figure(1, len(metrics), width=3.6)
        for axes, metric in zip(grid.flat, metrics, strict=True):
            for arm, label in GATE_LABELS.items():
                draw_curve(axes, curves[metric, arm], replace(line_style(arm), label=label))
            axes.set_title(METRICS[metric].label)
            axes.set_ylabel(METRICS[metric].unit.capitalize())
            axes.set_xlabel(axis_label("step"))
            axes.set_ylim(0, 1)
        legend_below(figure, list(grid.flat))
        return figure

    caption = (
        "Share of correct rollouts, all of them, before the gate acts; and the share of the training data that is "
        f"offline, of prompts and of rows (as in Figure 6). {_smoothed(window)}{bands_text(used)} {_ONLY_PICTURES}"
    )
    data = long_form(curves, ("metric", "method"))
    return FigureArtefact("figure8", "Figure 8: gate threshold over training, weak base", data, draw, caption, used)


_ONLY_PICTURES = "The paper prints no values of its curves, so there is none to put beside ours."


def _used(records: Sequence[RunRecords], methods: Sequence[str], policies: Sequence[str]) -> tuple[RunRecords, ...]:
    return tuple(own for policy in policies for method in methods for own in of_method(records, method, policy))


def _metric_curves(
    used: Sequence[RunRecords], metrics: Sequence[str], arms: Sequence[str], window: int
) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the curve of every metric of every arm on the weak base."""
    return {(metric, arm): metric_curve(of_method(used, arm, "weak"), metric, window)
            for metric in metrics for arm in arms}  # fmt: skip


def _window(used: Sequence[RunRecords]) -> int:
    return smoothing_window(max((own.config.schedule.steps for own in used), default=1))


def _smoothed(window: int) -> str:
    return f"Moving average over {window} steps. " if window > 1 else ""


def bands_text(used: Sequence[RunRecords]) -> str:
    """Return what a caption says of the bands around curves."""
    seeds = len({own.seed for own in used})
    if seeds >= MIN_SEEDS:
        return f"Mean of {seeds} seeds with its 95 % band (Student's t); thin lines are single seeds."
    return (
        "One seed: no band."
        if seeds == 1
        else f"Mean of {seeds} seeds; thin lines are single seeds, too few for a band."
    )


def long_form(curves: dict[tuple[str, str], pd.DataFrame], names: tuple[str, str]) -> pd.DataFrame:
    """Return all curves below each other, two columns saying which is which."""
    parts = []
    for key, frame in curves.items():
        own = frame.copy()
        for position, (name, value) in enumerate(zip(names, key, strict=True)):
            own.insert(position, name, value)
        parts.append(own)
    filled = [own for own in parts if len(own)]
    return (
        pd.concat(filled, ignore_index=True)
        if filled
        else pd.DataFrame(columns=[*names, "step", "mean", "low", "high"])
    )
