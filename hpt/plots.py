"""One look for all figures: a colour, a marker and a line per method, the same everywhere, and bytes that repeat.

Colours are those of Okabe and Ito (2008), told apart by readers with any common colour blindness; the marker and the
order of the legend carry the same information in print. Figures have a white background of their own, so they read on
dark pages.
"""

import zlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpt.catalogue import arm_label
from hpt.files import write_atomic

#: Dots per inch of PNG files: sharp on a page, tens of kilobytes.
PNG_DPI = 110
#: Draw every seed as a thin line of its own up to this many; beyond, the band says it better.
FEW_SEEDS = 5
#: Points drawn of a long curve, about; the eye sees no more, and files stay small. Tables of a figure hold all.
POINTS = 150
#: About so many markers along a curve.
MARKERS = 10

_STYLE: Any = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same text on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "hpt",  # element ids are hashed from this; the default is drawn anew for every file
}


@dataclass(frozen=True)
class LineStyle:
    """How a method is drawn."""

    label: str
    colour: str
    marker: str


_COLOURS = {
    "pretrain": ("#6b6b6b", "."),
    "sft": ("#e69f00", "s"),
    "grpo": ("#0072b2", "o"),
    "luffy": ("#009e73", "^"),
    "srft": ("#cc79a7", "v"),
    "sft_then_grpo": ("#56b4e9", "P"),
    "hpt": ("#d55e00", "D"),
    "off_on": ("#8c6d1f", "<"),
    "mix_on": ("#7a5195", ">"),
    "hpt_gate1": ("#a6417b", "p"),
    "hpt_gate2": ("#3d348b", "h"),
    "smooth_gate": ("#8c6d1f", "^"),
    "hpt_cispo": ("#7a5195", "v"),
    "least_error_gate": ("#2f6b4f", "P"),
}

#: Looks of methods of a user's own; which one is a matter of the name's hash, so it is the same in every figure.
_OWN = (("#7f3b08", "*"), ("#004529", "d"), ("#2d004b", "P"), ("#111111", "X"))


def line_style(method: str) -> LineStyle:
    """Return the look of a method or an arm; of a user's own, one of four dark ones, by its name.

    Example:
        >>> line_style("hpt").label, line_style("mine:GATE").colour
        ('HPT', '#111111')
    """
    colour, marker = _COLOURS.get(method) or _OWN[zlib.crc32(method.encode()) % len(_OWN)]
    return LineStyle(arm_label(method), colour, marker)


@contextmanager
def style() -> Generator[None]:
    """Draw in the style of the package, whatever the user's matplotlib is set to."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(rows: int, columns: int, width: float = 3.1, height: float = 2.5, **options: Any) -> tuple[Figure, Any]:
    """Return (figure, [rows, columns] array of axes); unknown to pyplot, so no notebook draws it twice.

    Args:
        rows, columns: panels.
        width, height: of a panel, inches.
        options: of `Figure.subplots`.
    """
    figure = Figure(figsize=(width * columns, height * rows))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def draw_curve(axes: Axes, curve: pd.DataFrame, look: LineStyle, *, dashed: bool = False) -> None:
    """Draw one method's mean over seeds, its band, and a thin line per seed when there are few.

    Args:
        axes: to draw on.
        curve: step, mean, low, high (NaN: no band) and one column per seed, ``seed_0`` ... (`hpt.artefacts.curves`).
        look: colour, marker and label.
        dashed: a second reading of the same quantity.
    """
    stride = max(1, len(curve) // POINTS)
    curve = curve.iloc[sorted({*range(0, len(curve), stride), max(0, len(curve) - 1)} if len(curve) else ())]
    steps = curve["step"].to_numpy(float)
    seeds = [name for name in curve.columns if name.startswith("seed_") and curve[name].notna().any()]
    if 1 < len(seeds) <= FEW_SEEDS:
        for name in seeds:
            axes.plot(steps, curve[name].to_numpy(float), color=look.colour, linewidth=0.6, alpha=0.45)
    low, high = curve["low"].to_numpy(float), curve["high"].to_numpy(float)
    if np.isfinite(low).any():
        axes.fill_between(steps, low, high, color=look.colour, alpha=0.16, linewidth=0)
    axes.plot(
        steps,
        curve["mean"].to_numpy(float),
        color=look.colour,
        label=look.label,
        marker=look.marker,
        markevery=max(1, len(steps) // MARKERS),  # every point of a curve of 600 would be a caterpillar
        linestyle="--" if dashed else "-",
    )


def legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """Put one legend for all panels below them, each label once, in the order drawn."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(6, max(1, len(handles))),
        handlelength=3.6,  # long enough that a dashed line is seen to be one
    )


def save_figure(figure: Figure, stem: Path, metadata: Mapping[str, str]) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``, with where the numbers came from inside each; no dates, so bytes repeat.

    Args:
        figure: drawn within `style`.
        stem: path without ending.
        metadata: Title, Description and Source.
    """
    paths = []
    for ending, entries in (
        ("svg", {**metadata, "Date": None, "Creator": "hpt"}),
        ("png", {**metadata, "Software": "hpt"}),
    ):
        path = stem.with_name(f"{stem.name}.{ending}")
        with style():
            write_atomic(path, lambda out, e=ending, m=entries: _save(figure, out, e, m))
        paths.append(path)
    return paths


def _save(figure: Figure, out: Path, ending: str, metadata: Mapping[str, Any]) -> None:
    figure.savefig(out, format=ending, metadata=dict(metadata), dpi=PNG_DPI)
    if ending == "png":
        _shrink_png(out)


def _shrink_png(path: Path) -> None:
    """Store a PNG with a palette of 128 colours: a third of the size, and no difference to the eye in line drawings."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(path) as image:
        kept = PngInfo()
        for key, value in image.info.items():
            if isinstance(key, str) and isinstance(value, str):
                kept.add_text(key, value)
        small = image.convert("RGB").quantize(colors=128, dither=Image.Dither.NONE)
        small.save(path, format="PNG", optimize=True, pnginfo=kept)
