"""Tables and figures as files: CSV with everything, Markdown and TeX to read, PNG and SVG to look at.

The same records give the same bytes: no dates, no paths, fixed float formats, seeded intervals.
"""

import base64
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from hpt.artefacts.markup import caption_html, scores_html
from hpt.artefacts.provenance import commits, source_line, source_rows
from hpt.export import RunRecords
from hpt.files import write_json, write_text
from hpt.plots import save_figure, style


@dataclass(frozen=True)
class Column:
    """A column as people read it: a heading and a smaller line below it."""

    head: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A value, its interval and the paper's value, as text; empty where there is none."""

    value: str
    interval: str = ""
    paper: str = ""


#: Name of a row and its cells; a row without cells is the heading of those below it.
Row = tuple[str, tuple[Cell, ...]]


@dataclass(frozen=True, eq=False)
class TableArtefact:
    """A table: everything in ``data``, what is shown in ``rows``.

    Attributes:
        name: of the files.
        title: above the table.
        data: long form, written to CSV whole.
        columns: of the shown table, without the first, which names the rows.
        rows: names and cells, with headings between them.
        caption: what the numbers are; said below the table.
        sources: runs it was made from.
    """

    name: str
    title: str
    data: pd.DataFrame
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str
    sources: tuple[RunRecords, ...] = ()
    paper_label: str = "paper"

    def write(self, folder: Path) -> list[Path]:
        """Write ``tables/<name>`` as .csv, .md, .tex and .provenance.json below ``folder``; return the paths."""
        stem = folder / "tables" / self.name
        texts = {"csv": csv_text(self.data), "md": self.markdown(), "tex": self.tex()}
        return [*_write_texts(stem, texts), _write_sources(stem, self.title, self.sources)]

    def frames(self) -> dict[str, pd.DataFrame]:
        """Return every table it holds, by the name of its CSV."""
        return {self.name: self.data}

    def markdown(self) -> str:
        """Return the table as Markdown: ours above the paper's in rows of their own."""
        heads = ["", *(f"{c.head}<br>{c.note}" if c.note else c.head for c in self.columns)]
        lines = [
            f"**{markdown_text(self.title)}**",
            "",
            _md_row(map(_md_keep_breaks, heads)),
            _md_row(["---"] + ["---:"] * len(self.columns)),
        ]
        for label, cells in self._flat_rows():
            name = markdown_text(label) if cells else f"**{markdown_text(label)}**"
            lines.append(_md_row([name, *map(markdown_text, cells or [""] * len(self.columns))]))
        return "\n".join(
            [*lines, "", markdown_text(self.caption), "", f"<sub>{markdown_text(source_line(self.sources))}</sub>", ""]
        )

    def tex(self) -> str:
        """Return the table as a LaTeX ``tabular`` (package booktabs), with its sources as a comment."""
        heads = " & ".join(["", *(_tex(column.head) for column in self.columns)])
        notes = " & ".join(["", *(rf"\footnotesize {_tex(column.note)}" for column in self.columns)])
        comments = [f"% {_comment(text)}" for text in (self.title, source_line(self.sources), self.caption)]
        opening = [r"\begin{tabular}{l" + "r" * len(self.columns) + "}", r"\toprule"]
        across = len(self.columns) + 1
        lines = [(" & ".join(map(_tex, (label, *cells))) if cells
                  else rf"\multicolumn{{{across}}}{{l}}{{\textit{{{_tex(label)}}}}}") + r" \\"
                 for label, cells in self._flat_rows()]  # fmt: skip
        closing = [r"\bottomrule", r"\end{tabular}", ""]
        return "\n".join([*comments, *opening, heads + r" \\", notes + r" \\", r"\midrule", *lines, *closing])

    def shown(self) -> dict[str, Any]:
        """Return what is shown, as JSON holds it: a report draws the table again from this."""
        return {
            "kind": "table",
            "name": self.name,
            "title": self.title,
            "caption": self.caption,
            "paper_label": self.paper_label,
            "columns": [[column.head, column.note] for column in self.columns],
            "rows": [[label, [[c.value, c.interval, c.paper] for c in cells]] for label, cells in self.rows],
        }

    def html(self) -> Markup:
        """Return the table as HTML, every text escaped; the paper's value stands below ours."""
        return scores_html(self.shown()) + caption_html(self.title, self.caption)

    def _repr_html_(self) -> str:
        return str(self.html())

    def _flat_rows(self) -> list[tuple[str, tuple[str, ...]]]:
        flat = []
        for label, cells in self.rows:
            if not cells or any(cell.value for cell in cells):  # a row of the paper's alone has none of ours
                flat.append((label, tuple(f"{c.value} {c.interval}".strip() for c in cells)))
            if any(cell.paper for cell in cells):
                flat.append((f"{label}, {self.paper_label}", tuple(cell.paper for cell in cells)))
        return flat


@dataclass(frozen=True, eq=False)
class FigureArtefact:
    """A figure: the numbers it shows in ``data``, and the function that draws them.

    Attributes:
        name: of the files.
        title: above the figure.
        data: long form, written to CSV whole.
        draw: called within the style of the package.
        caption: what is drawn; said below the figure.
        sources: runs it was made from.
        more: further tables by name, each written to a CSV of its own (``tables/<name>_<its name>.csv``).
    """

    name: str
    title: str
    data: pd.DataFrame
    draw: Callable[[], Figure]
    caption: str
    sources: tuple[RunRecords, ...] = ()
    more: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def frames(self) -> dict[str, pd.DataFrame]:
        """Return every table it holds, by the name of its CSV."""
        return {self.name: self.data} | {f"{self.name}_{name}": own for name, own in self.more.items()}

    def _repr_html_(self) -> str:
        return str(self.html())

    def figure(self) -> Figure:
        """Return the figure, drawn."""
        with style():
            return self.draw()

    def write(self, folder: Path) -> list[Path]:
        """Write ``figures/<name>`` as .png and .svg and ``tables/<name>`` as .csv and .provenance.json."""
        stem = folder / "tables" / self.name
        metadata = {"Title": self.title, "Description": self.caption, "Source": source_line(self.sources)}
        images = save_figure(self.figure(), folder / "figures" / self.name, metadata)
        texts = _write_texts(stem, {"csv": csv_text(self.data)})
        for name, frame in list(self.frames().items())[1:]:
            texts += _write_texts(stem.with_name(name), {"csv": csv_text(frame)})
        return [*images, *texts, _write_sources(stem, self.title, self.sources)]

    def shown(self) -> dict[str, Any]:
        """Return what a report needs beside the files."""
        more = [f"{self.name}_{name}" for name in self.more]
        return {"kind": "figure", "name": self.name, "title": self.title, "caption": self.caption, "more": more}

    def html(self) -> Markup:
        """Return the figure inside HTML, its caption escaped."""
        with TemporaryDirectory() as folder:
            _, png = save_figure(self.figure(), Path(folder) / self.name, {"Title": self.title})
            # not the SVG, which the report links: inside a page it takes three times the room
            picture = Markup("<img alt='{}' src='{}'>").format(self.title, png_source(png))
        return picture + caption_html(self.title, self.caption)


Made = TableArtefact | FigureArtefact


def csv_text(frame: pd.DataFrame) -> str:
    """Return a table as CSV with at most six significant digits, so that rounding noise does not show as a change."""
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def interval_text(low: float, high: float) -> str:
    """Return an interval with one decimal, rounded as the scores are; empty where there is none.

    Example:
        >>> interval_text(30.05, 39.0), interval_text(float("nan"), 1.0)
        ('[30.1, 39.0]', '')
    """
    from hpt.scores import round_half_up

    return "" if pd.isna(low) or pd.isna(high) else f"[{round_half_up(low):.1f}, {round_half_up(high):.1f}]"


def png_source(path: Path) -> str:
    """Return a PNG file as a data address, so that a page holds its pictures itself."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _write_texts(stem: Path, texts: dict[str, str]) -> list[Path]:
    paths = []
    for ending, text in texts.items():
        paths.append(stem.with_name(f"{stem.name}.{ending}"))
        write_text(paths[-1], text)
    return paths


def _write_sources(stem: Path, title: str, sources: Sequence[RunRecords]) -> Path:
    path = stem.with_name(f"{stem.name}.provenance.json")
    write_json(path, {"artefact": stem.name, "title": title, "commits": commits(sources), "runs": source_rows(sources)})
    return path


def markdown_text(text: str) -> str:
    """Escape what Markdown and the HTML inside it would read as markup."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(text, quote=False).replace("\n", " "))


def _md_keep_breaks(text: str) -> str:
    return "<br>".join(map(markdown_text, text.split("<br>")))


def _md_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\to$", "γ": r"$\gamma$",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _comment(text: str) -> str:
    return re.sub(r"\s+", " ", text)
