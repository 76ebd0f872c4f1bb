"""Two runs compared: the settings in which they differ, and every recorded quantity by training step and at the end."""

import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from hpt.config.run_config import flat
from hpt.runs.records import RunRecords
from hpt.support.files import write_atomic
from hpt.training.metrics import METRICS, axis_label

_COLUMNS = 4
#: Blue and vermilion of Okabe and Ito.
_COLOURS = ("#0072b2", "#d55e00")


def differences(first: RunRecords, second: RunRecords) -> pd.DataFrame:
    """Return the settings in which two runs differ, then what is no setting and differs: commit, package versions.

    Returns:
        setting, and a column per run, as texts. Where the base's weights lie is left out: a place on one machine.
    """
    found = {}
    for run in (first, second):
        origin = {name: run.provenance.get(name) for name in ("commit", "numerics_version", "packages")}
        settings = run.config.model_dump(mode="json", exclude={"policy": {"path"}})
        found[run.name] = {name: "" if value is None else str(value)
                           for name, value in flat({**settings, **origin}).items()}  # fmt: skip
    table = pd.DataFrame(found).fillna("").rename_axis("setting").reset_index()
    return table[table[first.name] != table[second.name]].reset_index(drop=True)


def by_step(run: RunRecords) -> pd.DataFrame:
    """Return every recorded quantity by step, NaN where it was not measured; columns are named with their units."""
    names = [name for name in METRICS if name != "step" and name in run.metrics]
    metrics = run.metrics.set_index("step")[names].astype(float).rename(columns=axis_label)
    shares = run.validation.assign(share=100 * run.validation["correct"] / run.validation["samples"])
    curves = shares.pivot_table(index="step", columns="benchmark", values="share")
    return metrics.join(curves.add_prefix(f"{axis_label('score/validation')}, "), how="outer")


def final_values(first: RunRecords, second: RunRecords) -> pd.DataFrame:
    """Return the mean of every quantity over the last tenth of its values, and the second minus the first.

    A quantity that is one number throughout both runs is left out.
    """
    runs = [by_step(run) for run in (first, second)]
    both = pd.concat(runs)
    names = list(both.columns[both.nunique() > 1])
    last = [run.apply(_last_mean).reindex(names) for run in runs]
    return pd.DataFrame({first.name: last[0], second.name: last[1], "difference": last[1] - last[0]})


def _last_mean(values: pd.Series) -> float:
    there = values.dropna()
    return there.tail(max(1, round(len(there) / 10))).mean()


def draw(first: RunRecords, second: RunRecords) -> Figure:
    """Return a panel per quantity of `final_values`: moving averages over a fortieth of training.

    What is measured now and then, as validation curves are, is drawn as it was measured.
    """
    names = list(final_values(first, second).index)
    rows = max(1, -(-len(names) // _COLUMNS))
    figure = Figure(figsize=(3.0 * _COLUMNS, 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    frames = [by_step(run) for run in (first, second)]
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(name, fontsize=8)
        for frame, run, colour in zip(frames, (first, second), _COLOURS, strict=True):
            curve = frame[name].dropna() if name in frame else pd.Series(dtype=float)
            if len(curve) > len(frame) / 2:
                curve = curve.rolling(max(1, len(frame) // 40), center=True, min_periods=1).mean()
            axes.plot(curve.index, curve, color=colour, label=run.name)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center")
    return figure


def write_comparison(first: RunRecords, second: RunRecords, folder: Path) -> Path:
    """Draw two runs into an SVG file named after them, and return it."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{first.name}-vs-{second.name}")
    path = Path(folder) / f"{name}.svg"
    figure = draw(first, second)
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="svg", metadata={"Date": None}))
    return path
