"""Two runs drawn over each other: every recorded quantity by training step, and the settings in which they differ."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot
from matplotlib.figure import Figure

from hpt.export import RunRecords
from hpt.files import write_text
from hpt.metrics import METRICS, axis_label
from hpt.reports import style
from hpt.reports.frames import metric_curve, smoothing_window, validation_curve
from hpt.reports.pages import page_environment, style_sheet

_COLUMNS = 4
#: Colour and marker of the first and the second run (Okabe and Ito).
_LOOKS = (("#0072b2", "o"), ("#d55e00", "D"))
#: Share of the training, at its end, over which the table of the page takes means.
_LAST = 0.1


@dataclass(frozen=True)
class Difference:
    """One setting in which two runs differ, its values as text."""

    setting: str
    first: str
    second: str


def config_differences(first: RunRecords, second: RunRecords) -> list[Difference]:
    """Return the settings in which two runs differ, then what is not a setting and differs: commit, package versions.

    Where the base's weights lie is left out: a place on one machine.

    Example:
        >>> from hpt.scales import build_config
        >>> configs = [build_config("hpt", scale="mini", settings={"gate.count": count}) for count in (0, 2)]
        >>> runs = [RunRecords("name", own, *[pd.DataFrame()] * 4) for own in configs]
        >>> config_differences(*runs)
        [Difference(setting='gate.count', first='0', second='2')]
    """
    settings = [_flat(run.config.model_dump(mode="json", exclude={"policy": {"path"}})) for run in (first, second)]
    origins = [_flat({name: run.provenance.get(name) for name in ("commit", "numerics_version", "packages")})
               for run in (first, second)]  # fmt: skip
    found = []
    for one, two in (settings, origins):
        names = list(dict.fromkeys([*one, *two]))
        found += [Difference(name, _text(one.get(name)), _text(two.get(name)))
                  for name in names if one.get(name) != two.get(name)]  # fmt: skip
    return found


def comparison_figure(first: RunRecords, second: RunRecords) -> Figure:
    """Return one panel per quantity that either run recorded and that is not the same throughout both.

    Per-step metrics are moving averages (`smoothing_window`); validation curves, which come first, are not.
    """
    metrics = [name for name in METRICS if name != "step" and _tells(name, (first, second))]
    sets = list(dict.fromkeys([*first.validation["benchmark"], *second.validation["benchmark"]]))
    rows = -(-(len(metrics) + len(sets)) // _COLUMNS)
    style.use()
    figure, grid = pyplot.subplots(max(1, rows), _COLUMNS, figsize=(3 * _COLUMNS, 2.1 * max(1, rows)), squeeze=False)
    pyplot.close(figure)  # drawn to a file, not in a window
    panels = list(grid.flat)
    for axes, name in zip(panels, [*sets, *metrics], strict=False):
        validation = name not in METRICS
        axes.set_title(f"{axis_label('score/validation')}, {name}" if validation else axis_label(name), fontsize=8)
        for run, (colour, marker) in zip((first, second), _LOOKS, strict=True):
            curve = validation_curve([run], [name]) if validation else _curve(run, name)
            if len(curve):
                axes.plot(curve["step"], curve["mean"], color=colour, marker=marker, markevery=0.15, label=run.name)
    for axes in panels[len(metrics) + len(sets) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel(axis_label("step"))
    style.legend_below(figure)
    return figure


def final_values(first: RunRecords, second: RunRecords) -> list[tuple[str, str, str, str]]:
    """Return (quantity with unit, first, second, difference) of every metric, means over the last tenth of training."""
    rows = []
    for name in METRICS:
        if name == "step" or not _tells(name, (first, second)):
            continue
        one, two = (_last_mean(run, name) for run in (first, second))
        rows.append((axis_label(name), *(("" if pd.isna(own) else f"{own:.4g}") for own in (one, two, two - one))))
    return rows


def write_comparison(first: RunRecords, second: RunRecords, folder: Path) -> Path:
    """Write a page that holds the differences, the last values and the figure, and return it; the SVG lies beside it.

    Args:
        first, second: finished runs.
        folder: to write to.
    """
    stem = Path(folder) / re.sub(r"[^A-Za-z0-9_.-]", "_", f"{first.name}-vs-{second.name}")
    title = f"{first.name} and {second.name}"
    svg = next(path for path in style.save(
        comparison_figure(first, second), stem, {"Title": title, "Description": "two runs", "Source": title}
    ) if path.suffix == ".svg")  # fmt: skip
    page = stem.with_name(f"{stem.name}.html")
    write_text(page.with_name("style.css"), style_sheet())
    write_text(page, page_environment().get_template("compare.html.jinja").render(
        runs=(first, second), figure=svg.name, differences=config_differences(first, second),
        values=final_values(first, second),
    ))  # fmt: skip
    return page


def _curve(run: RunRecords, name: str) -> pd.DataFrame:
    """A metric's moving average; one that is measured now and then as it was measured, without the gaps."""
    if name in run.metrics and run.metrics[name].isna().mean() > 0.5:
        return metric_curve([run], name).dropna(subset="mean")
    return metric_curve([run], name, smoothing_window([run]))


def _tells(name: str, runs: Sequence[RunRecords]) -> bool:
    """Whether a metric is more than one number everywhere."""
    values = pd.concat([run.metrics[name] for run in runs if name in run.metrics] or [pd.Series(dtype=float)]).dropna()
    return values.nunique() > 1


def _last_mean(run: RunRecords, name: str) -> float:
    if name not in run.metrics:
        return float("nan")
    last = max(1, round(len(run.metrics) * _LAST))
    return float(run.metrics[name].astype(float).tail(last).mean())


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {prefix.removesuffix("."): settings}
    return {name: value for key, own in settings.items() for name, value in _flat(own, f"{prefix}{key}.").items()}


def _text(value: Any) -> str:
    return "" if value is None else str(value)
