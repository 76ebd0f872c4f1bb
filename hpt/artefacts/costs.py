"""What training costs, in tokens and seconds; and what HPT's runs show while they train beside Figures 5 to 7."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from hpt.artefacts.curves import metric_curve
from hpt.artefacts.dynamics import bands_text, long_form
from hpt.artefacts.output import Cell, Column, FigureArtefact, TableArtefact
from hpt.artefacts.selection import of_arm, of_method
from hpt.catalogue import ARTEFACTS, arm_label
from hpt.export import RunRecords
from hpt.metrics import METRICS, axis_label
from hpt.paper import base_title
from hpt.plots import LineStyle, draw_curve, legend_below, new_figure
from hpt.stats import seed_mean

#: Column of the table -> (heading, unit, metrics whose sums over all steps it adds, what a unit of it is).
COSTS: dict[str, tuple[str, str, tuple[str, ...], float]] = {
    "sampled": ("Sampled", "thousand tokens", ("rollout/tokens",), 1e3),
    "trained_rollouts": ("Trained, rollouts", "thousand tokens", ("trained/rollout_tokens",), 1e3),
    "trained_demonstrations": ("Trained, demonstrations", "thousand tokens", ("trained/demonstration_tokens",), 1e3),
    "trained": ("Trained in all", "thousand tokens", ("trained/rollout_tokens", "trained/demonstration_tokens"), 1e3),
    "minutes": ("Time of the steps", "minutes", ("time/step_s",), 60.0),
}
#: Bases of the figure of HPT's runs, and their colours.
_BASES = {"weak": LineStyle("", "#0072b2", "o"), "strong": LineStyle("", "#d55e00", "s")}


def costs(records: Sequence[RunRecords]) -> TableArtefact:
    """Return what every method of Table 2 cost in training: tokens sampled and trained, and time."""
    return _costs("costs", records)


def costs_few_questions(records: Sequence[RunRecords]) -> TableArtefact:
    """Return the same for the runs of Figures 3 and 4; SFT → GRPO's first stage is a run of its own."""
    return _costs("costs_few_questions", records)


def _costs(name: str, records: Sequence[RunRecords]) -> TableArtefact:
    artefact = ARTEFACTS[name]
    lines, rows, used = [], [], list[RunRecords]()
    for arm in artefact.arms:
        runs, name_of_arm = of_arm(records, arm.key), arm.name or arm.method
        used += runs
        sums = [_sums(run) for run in runs]
        lines += [{"policy": arm.policy, "method": name_of_arm, "seed": run.seed} | own
                  for run, own in zip(runs, sums, strict=True)]  # fmt: skip
        rows.append((arm_label(name_of_arm), tuple(_cell([own[column] for own in sums]) for column in COSTS)))
    data = pd.DataFrame(lines, columns=["policy", "method", "seed", *COSTS])
    seeds = len({run.seed for run in used})
    over = "One seed."
    if seeds > 1:
        over = "Mean over the seeds, in brackets the 95 % interval over them (Student's t), cut at 0."
    caption = (
        "Sums over a whole run: all tokens of all rollouts, before the gate acts; response tokens in updates, a token "
        "counted once for each update it is in; wall time of the steps, without validation and evaluation. "
        f"{over} Seconds are of machines that had other work beside them, and not as much in every run: take them as "
        "rough; tokens are exact."
    )
    columns = tuple(Column(heading, unit) for heading, unit, _, _ in COSTS.values())
    return TableArtefact(name, artefact.title, data, columns, tuple(rows), caption, tuple(used))


def _sums(run: RunRecords) -> dict[str, float]:
    """Return a run's costs; what a method does not do costs it nothing."""
    there = run.metrics.columns
    return {
        name: sum(float(run.metrics[metric].sum()) for metric in metrics if metric in there) / unit
        for name, (_, _, metrics, unit) in COSTS.items()
    }


def _cell(values: Sequence[float]) -> Cell:
    if not values:
        return Cell("")
    mean = seed_mean(values)
    low, high = mean.interval.low, mean.interval.high
    return Cell(f"{mean.mean:,.1f}", "" if pd.isna(low) else f"[{max(0.0, low):,.1f}, {high:,.1f}]")


def hpt_runs(records: Sequence[RunRecords]) -> FigureArtefact:
    """Return training reward, and the cosine between the gradients of HPT's two parts, over training (Eq. 2, 13)."""
    metrics = ("rollout/reward", "gradient/sft_rl_cosine")
    used = tuple(run for policy in _BASES for run in of_method(records, "hpt", policy))
    present = [policy for policy in _BASES if any(run.policy == policy for run in used)]
    curves = {
        (policy, metric): metric_curve(of_method(used, "hpt", policy), metric)
        for policy in present
        for metric in metrics
    }

    def draw() -> Figure:
        figure, grid = new_figure(1, len(metrics), width=4.2)
        for axes, metric in zip(grid.flat, metrics, strict=True):
            for policy in present:
                look = LineStyle(f"HPT, {base_title(policy)}", _BASES[policy].colour, _BASES[policy].marker)
                curve = curves[policy, metric]
                draw_curve(axes, curve[curve["mean"].notna()], look)
            axes.set_title(METRICS[metric].label, fontsize=9)
            axes.set_ylabel(METRICS[metric].unit.capitalize() or "Cosine")
            axes.set_xlabel(axis_label("step"))
        grid[0, 0].set_ylim(0, 1)
        grid[0, 1].set_ylim(-1, 1)
        grid[0, 1].axhline(0, color="#555555", linewidth=0.8)
        legend_below(figure, list(grid.flat))
        return figure

    every = sorted({run.config.diagnostics.gradient_cosine_every for run in used})
    caption = (
        "Left: share of correct rollouts, all of them, before the gate acts. Right: cosine between the gradient on "
        "demonstrations and the gradient on rollouts of the same step, at the weights of that step, every "
        f"{' or '.join(map(str, every)) or 'few'} steps and only where the gate gave both something to learn from. "
        f"{bands_text(used)}"
    )
    data = long_form(curves, ("policy", "metric"))
    return FigureArtefact("hpt_runs", ARTEFACTS["hpt_runs"].title, data, draw, caption, used)
