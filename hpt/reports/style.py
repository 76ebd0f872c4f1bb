"""One look for all figures: ``hpt.mplstyle``, a colour and a marker per method, and files whose bytes repeat.

Colours are those of Okabe and Ito (2008), told apart by readers with any common colour blindness; the marker and the
label beside a line carry the same information in print. Figures have a white background; pages invert it in dark mode.
"""

import zlib
from collections.abc import Mapping
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hpt.reports.frames import label
from hpt.support.files import write_atomic

#: Dots per inch of PNG files: sharp on a page, tens of kilobytes.
PNG_DPI = 110

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
    matplotlib.style.use(["default", str(resources.files("hpt.reports") / "hpt.mplstyle")])


def look(method: str) -> dict[str, Any]:
    """Return the look of a method or an arm as keyword arguments of `Axes.plot`; label, colour and marker.

    Example:
        >>> look("hpt")["label"], look("hpt")["color"], look("mine:GATE")["color"]
        ('HPT', '#d55e00', '#111111')
    """
    colour, marker = PALETTE.get(method) or _CUSTOM[zlib.crc32(method.encode()) % len(_CUSTOM)]
    # by distance along the line: a marker at every step of six hundred would be a caterpillar
    return {"label": label(method), "color": colour, "marker": marker, "markevery": 0.15}


def draw_curve(
    axes: Axes, curve: pd.DataFrame, line: Mapping[str, Any], x: str = "step", y: str = "mean",
    band: tuple[str, str] = ("low", "high"),
) -> None:  # fmt: skip
    """Draw a curve of `hpt.reports.frames`: its mean as ``line`` says, its band, and every seed as a thin line."""
    colour = line["color"]
    axes.plot(curve[x], curve.filter(like="seed_"), color=colour, linewidth=0.6, alpha=0.45)
    axes.fill_between(curve[x], curve[band[0]], curve[band[1]], color=colour, alpha=0.16, linewidth=0)
    axes.plot(curve[x], curve[y], **line)


def label_lines(axes: Axes) -> None:
    """Write the label of every labelled line right of the panel, instead of a legend, as `label_points` does."""
    ends = {}
    for line in axes.get_lines():
        known = [point for point in np.asarray(line.get_xydata(), float) if np.isfinite(point).all()]
        if known and not str(line.get_label()).startswith("_"):
            ends[str(line.get_label())] = (*known[-1], line.get_color())
    label_points(axes, ends)


def label_points(axes: Axes, points: Mapping[str, tuple[float, float, Any]]) -> None:
    """Write the names of points (x, y, colour) in a column right of the panel, none over another, a thin line to each.

    Call it when limits and scales are set.
    """
    axes.figure.canvas.draw()  # the layout, so that places in pixels are known
    height = {name: axes.transData.transform((x, y))[1] for name, (x, y, _) in points.items()}
    names, size = sorted(points, key=lambda name: height[name]), 8.5
    steps = 1.25 * size * axes.figure.dpi / 72 * np.arange(len(names))  # of labels that touch
    near = np.array([height[name] for name in names]) - steps
    # labels that would touch are pushed up and down alike
    apart = (np.maximum.accumulate(near) + np.minimum.accumulate(near[::-1])[::-1]) / 2
    places = np.clip(apart, axes.bbox.y0, axes.bbox.y1 - steps.max(initial=0.0)) + steps
    for name, place in zip(names, places, strict=True):
        x, y, colour = points[name]
        axes.annotate(
            name, (x, y), xytext=(1.02, (place - axes.bbox.y0) / axes.bbox.height), textcoords="axes fraction",
            color=colour, fontsize=size, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6},
        )  # fmt: skip


def legend_below(figure: Figure) -> None:
    """Put one legend of what is drawn in all panels below them, each label once; a line without points has none."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            if not isinstance(handle, Line2D) or np.isfinite(np.asarray(handle.get_ydata(), float)).any():
                handles.setdefault(str(name), handle)
    width = 60 + 6 * max(map(len, handles), default=0)  # of the longest, with its line, in points
    columns = max(1, min(len(handles), int(72 * figure.get_figwidth() / width)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, handlelength=3.6)


def save(figure: Figure, png: bytes, stem: Path, metadata: Mapping[str, str]) -> None:
    """Write ``stem.svg``, and ``stem.png`` as `png_of` returned it; without dates, so that bytes repeat."""
    inside = {**metadata, "Date": None, "Creator": "hpt"}
    write_atomic(stem.with_name(f"{stem.name}.svg"), lambda out: figure.savefig(out, format="svg", metadata=inside))
    write_atomic(stem.with_name(f"{stem.name}.png"), lambda out: out.write_bytes(png))


def png_of(figure: Figure, metadata: Mapping[str, str]) -> bytes:
    """Return a figure as PNG of 256 colours: less than half of the size, no difference to the eye in line drawings."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    drawn, small, texts = BytesIO(), BytesIO(), PngInfo()
    for name, text in {**metadata, "Software": "hpt"}.items():
        texts.add_text(name, text)
    figure.savefig(drawn, format="png", dpi=PNG_DPI)
    with Image.open(drawn) as image:
        # of 128 it would merge those of few pixels, such as SFT's and HPT's orange
        reduced = image.convert("RGB").quantize(colors=256, dither=Image.Dither.NONE)
    reduced.save(small, format="PNG", optimize=True, pnginfo=texts)
    return small.getvalue()
