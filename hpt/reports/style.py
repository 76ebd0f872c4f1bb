"""One look for all figures: ``hpt.mplstyle``, a colour and a marker per method, and files whose bytes repeat.

Colours are those of Okabe and Ito (2008), told apart by readers with any common colour blindness; the marker and the
label at a line's end carry the same information in print. Figures have a white background; pages
invert it in dark mode.
"""

import base64
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpt.reports.frames import label
from hpt.support.files import write_atomic

_FILE = str(resources.files("hpt") / "reports" / "hpt.mplstyle")
#: Dots per inch of PNG files: sharp on a page, tens of kilobytes.
PNG_DPI = 110
#: Font size of labels beside lines and points.
_LABEL = 8.5

#: Method or arm -> colour and marker.
PALETTE = {
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
#: Looks of custom methods; which one is a matter of the name's hash, so it is the same in every figure.
_CUSTOM = (("#7f3b08", "*"), ("#004529", "d"), ("#2d004b", "P"), ("#111111", "X"))


def use() -> None:
    """Draw in the style of the package from here on, whatever the user's matplotlib is set to."""
    matplotlib.style.use(["default", _FILE])


def look(method: str) -> dict[str, Any]:
    """Return the look of a method or an arm as keyword arguments of `Axes.plot`; label, colour and marker.

    Example:
        >>> look("hpt")["label"], look("hpt")["color"], look("mine:GATE")["color"]
        ('HPT', '#d55e00', '#111111')
    """
    colour, marker = PALETTE.get(method) or _CUSTOM[zlib.crc32(method.encode()) % len(_CUSTOM)]
    # by distance along the line: a marker at every step of six hundred would be a caterpillar
    return {"label": label(method), "color": colour, "marker": marker, "markevery": 0.15}


def label_lines(axes: Axes) -> None:
    """Write the label of every labelled line at its right end, moved apart where two would overlap.

    Call it when limits and scales are set.
    """
    axes.figure.canvas.draw()  # the layout, so that places in pixels are known
    ends = []
    for line in axes.get_lines():
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if len(known) and not str(line.get_label()).startswith("_"):
            pixel = axes.transData.transform((x[known[-1]], y[known[-1]]))
            ends.append((pixel[1], x[known[-1]], y[known[-1]], line))
    ends.sort(key=lambda end: end[0])
    for place, (pixel, x, y, line) in zip(_apart(axes, [end[0] for end in ends]), ends, strict=True):
        axes.annotate(
            str(line.get_label()), (x, y), xytext=(6, (place - pixel) * 72 / axes.figure.dpi), annotation_clip=False,
            textcoords="offset points", color=line.get_color(), fontsize=_LABEL, va="center",
        )  # fmt: skip


def label_points(axes: Axes, points: Mapping[str, tuple[float, float, Any]]) -> None:
    """Write the names of points (name -> x, y, colour) in a column right of the panel, a thin line to each.

    Call it when limits and scales are set.
    """
    axes.figure.canvas.draw()
    at = {name: axes.transData.transform((x, y)) for name, (x, y, _) in points.items()}
    names = sorted(points, key=lambda name: at[name][1])
    places = _apart(axes, [at[name][1] for name in names])
    for name, place in zip(names, places, strict=True):
        x, y, colour = points[name]
        axes.annotate(
            name, (x, y), xytext=(1.02, (place - axes.bbox.y0) / axes.bbox.height), textcoords="axes fraction",
            color=colour, fontsize=_LABEL, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6},
        )  # fmt: skip


def _apart(axes: Axes, places: list[float]) -> list[float]:
    """Return ascending places in pixels moved apart to a label's height, the last within the panel."""
    height = 1.25 * _LABEL * axes.figure.dpi / 72
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + height)
    if places:  # back down, so that the top label stays within the panel
        places[-1] -= max(0.0, places[-1] - axes.bbox.y1)
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - height)
    return places


def legend_below(figure: Figure) -> None:
    """Put one legend of what is drawn in all panels below them, each label once; a line without points has none."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            if not isinstance(handle, Line2D) or np.isfinite(np.asarray(handle.get_ydata(), float)).any():
                handles.setdefault(str(name), handle)
    # long enough that a dashed line is seen to be one
    longest = 60 + 6 * max(map(len, handles), default=0)  # points, with its line
    columns = max(1, min(len(handles), int(72 * figure.get_figwidth() / longest)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, handlelength=3.6)


def save(figure: Figure, stem: Path, metadata: Mapping[str, str]) -> list[Path]:
    """Write ``stem.svg`` and ``stem.png``, with Title, Description and Source inside; no dates, so bytes repeat."""
    paths = []
    for ending, more in (("svg", {"Date": None, "Creator": "hpt"}), ("png", {"Software": "hpt"})):
        path = stem.with_name(f"{stem.name}.{ending}")
        write_atomic(path, lambda out, e=ending, m={**metadata, **more}: _save(figure, out, e, m))
        paths.append(path)
    return paths


def png_source(content: bytes) -> str:
    """Return a PNG as a data address, so that a page holds its pictures itself."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _save(figure: Figure, out: Path, ending: str, metadata: Mapping[str, Any]) -> None:
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "hpt"}):
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
