"""What the notebooks call: say what will run, compute or load runs, keep tables and figures, judge.

A notebook begins with ``study = reports.begin("its_name")``, asks for the runs of each table or figure with
``study.runs``, lays it out in visible cells from a frame of `hpt.reports.frames`, and hands the result to
``study.table`` or ``study.figure``. Training happens in other processes, so a kernel needs neither PyTorch nor
vLLM; nothing here catches an exception around a run.
"""

import base64
import html
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib import pyplot
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from hpt.config.run_config import merge, nest, validate
from hpt.config.scales import SCALES, check_scale
from hpt.data.sources import names_files
from hpt.paper.claims import ClaimVerdict
from hpt.paper.paper import confirmatory_claims
from hpt.reports import frames as of_records
from hpt.reports import style
from hpt.reports.verdicts import Verdict, verdicts
from hpt.runs.catalogue import ARTEFACTS, ONE_BASE, artefacts_at, check_addressed, is_addressed, kept_note
from hpt.runs.compare import differences, final_values
from hpt.runs.folder import source_commit
from hpt.runs.make import PlannedRun, compute, planned_runs
from hpt.runs.plan import assumptions, make_plan
from hpt.runs.records import RecordStore, RunRecords, load_records, load_runs, record_folders
from hpt.runs.resolve import check_no_names
from hpt.support.errors import ConfigError
from hpt.support.files import write_json, write_text
from hpt.support.text import few

#: Words that tables show in colour.
_VERDICTS = {*ClaimVerdict, "consistent", "inconsistent", "cannot be told"}


@dataclass(frozen=True)
class Shown:
    """HTML that a notebook displays, plain text for where HTML is not, and controls for where there is a front end."""

    html: Markup
    text: str = ""
    controls: Any = None

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        controls = {} if self.controls is None else self.controls._repr_mimebundle_()
        return {**controls, "text/html": str(self.html)}

    def __repr__(self) -> str:
        return self.text or re.sub(r"<[^>]+>", " ", str(self.html))


@dataclass(eq=False)
class Study:
    """What a notebook computes and shows; made by `begin`, from the notebook's parameters.

    ``artefacts`` are the tables and figures it makes; ``made`` what it has shown so far, by name, as the report takes
    it; ``frames`` the tidy frames behind them, by the name of their CSV.
    """

    name: str
    artefacts: tuple[str, ...]
    scale: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    runs_dir: Path
    from_records: Path | None
    output_dir: Path | None
    bases: tuple[str, ...] = ()
    extra_methods: tuple[str, ...] = ()
    evaluations: tuple[str, ...] = ()
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    _loaded: dict[str, RunRecords] = field(default_factory=dict)  # by the fingerprint they were planned under
    _judged: dict[tuple[str, ...], list[Verdict]] = field(default_factory=dict)  # the last verdicts, of what was shown
    _family: list[RunRecords] = field(default_factory=list)

    def planned(self) -> list[PlannedRun]:
        """Return the runs that its artefacts need, finished or not."""
        return planned_runs(**self._asked(self.artefacts))

    def to_run(self) -> Shown:
        """Return which runs will be made, and how long that takes."""
        planned = self.planned()
        left = [run for run in planned if not run.done]
        if not planned:
            note = "No run is needed."
        elif self.from_records is not None:
            note = f"Nothing is computed: records are read from {shown_path(self.from_records)}."
        elif not left:
            note = "Nothing is left to compute."
        else:
            expected = assumptions(make_plan(self.scale, planned, self.runs_dir))
            note = f"{len(left)} of {len(planned)} runs are left to compute: {expected}. They are "
            note += few([f"{run.title} ({run.reason})" for run in left], 12) + "."
        note += kept_note(self.settings, self.artefacts, self.scale)
        return Shown(Markup("<p>{}</p>").format(note), note)

    def runs(self, *artefacts: str) -> list[RunRecords]:
        """Return the records of the runs that tables or figures compare (none = all), computing what is missing."""
        asked = self._asked(artefacts or self.artefacts)
        store = RecordStore(self.from_records) if self.from_records else None
        found = []
        for run in planned_runs(**asked) if store else compute(**asked):
            key = run.config.fingerprint()
            if key not in self._loaded:
                self._loaded[key] = store.load(run) if store else load_runs([run])[0]
            found.append(replace(self._loaded[key], arms=run.arms))
        return found

    def table(
        self, name: str, table: pd.DataFrame | Styler, data: pd.DataFrame, caption: str, runs: Sequence[RunRecords] = ()
    ) -> Shown:
        """Keep a table and return it to be displayed; a Styler's colours are kept in HTML.

        ``name`` is an artefact's, or a new one, which the report shows last; ``data`` the tidy frame behind it, and
        ``runs`` what it was made from; ``caption`` says of how many seeds, what the intervals are, units. Where
        ``output_dir`` is set, ``tables/<name>`` is written as .csv (the tidy data), .md, .tex and .provenance.json.
        """
        title = self._title(name)
        plain = table.data if isinstance(table, Styler) else table  # pyright: ignore[reportAttributeAccessIssue]
        shown = html_table(table, name)
        self._keep(name, data, {"kind": "table", "caption": caption, "html": str(shown)})
        if self.output_dir is not None:
            source = source_line(runs)
            head, foot = f"**{markdown_text(title)}**", f"<sub>{markdown_text(source)}</sub>"
            text = "\n\n".join([head, markdown_table(plain), markdown_text(caption), foot]) + "\n"
            write_text(self.output_dir / "tables" / f"{name}.md", text)
            comments = "".join(f"% {' '.join(text.split())}\n" for text in (title, source, caption))
            write_text(self.output_dir / "tables" / f"{name}.tex", comments + tex_table(plain))
            self._write(name, {name: data}, runs)
        return Shown(shown + caption_html(title, caption), title)

    def figure(
        self,
        name: str,
        figure: Figure,
        data: pd.DataFrame,
        caption: str,
        runs: Sequence[RunRecords] = (),
        more: Mapping[str, pd.DataFrame] | None = None,
    ) -> Shown:
        """Keep a figure and return it to be displayed; arguments as for `table`, ``more`` are further tidy frames.

        Where ``output_dir`` is set, ``figures/<name>`` is written as .png and .svg, and ``tables/<name>`` as .csv (the
        tidy data), ``tables/<name>_<its name>.csv`` for each of ``more``, and .provenance.json.
        """
        title = self._title(name)
        frames = {f"{name}_{part}": frame for part, frame in (more or {}).items()}
        self._keep(name, data, {"kind": "figure", "caption": caption, "more": list(frames)})
        self.frames |= frames
        metadata = {"Title": title, "Description": caption, "Source": source_line(runs)}
        png = style.png_of(figure, metadata)
        if self.output_dir is not None:
            style.save(figure, png, self.output_dir / "figures" / name, metadata)
            self._write(name, {name: data, **frames}, runs)
        # not the SVG, which the report links: inside a page it takes three times the room
        picture = Markup("<img class='{}' alt='{}' src='{}'>").format(name, title, png_source(png))
        pyplot.close(figure)  # else the notebook draws it a second time
        return Shown(picture + caption_html(title, caption), title)

    def sliders(self, draw: Callable[..., Figure], **values: Sequence[Any]) -> Shown:
        """Return a figure with sliders that draw it anew; where no front end moves them, it stays as they begin.

        ``draw`` makes the figure of one of each of ``values``; a slider begins in their middle.
        """
        from ipywidgets import Image, SelectionSlider, VBox

        sliders = {name: SelectionSlider(options=list(of), value=of[len(of) // 2], description=name,
                                         continuous_update=False) for name, of in values.items()}  # fmt: skip

        def drawn() -> bytes:
            figure = draw(**{name: slider.value for name, slider in sliders.items()})
            png = style.png_of(figure, {})
            pyplot.close(figure)
            return png

        picture = Image(value=drawn())
        for slider in sliders.values():
            slider.observe(lambda _: setattr(picture, "value", drawn()), "value")
        begins = ", ".join(f"{name} = {slider.value}" for name, slider in sliders.items())
        shown = Markup("<img alt='{0}' src='{1}'><p><small>{0}; the notebook has sliders.</small></p>")
        return Shown(shown.format(begins, png_source(picture.value)), begins, VBox([*sliders.values(), picture]))

    def compare(self, first: str, second: str) -> Shown:
        """Return what two runs, named as `finish` lists them, differ in: ``hpt runs compare`` in a cell."""
        folder = self.from_records or self.runs_dir / self.scale
        runs = [load_records(folder / name) for name in (first, second)]
        return Shown(frame_table(differences(*runs)) + frame_table(final_values(*runs).round(4).reset_index()))

    def transcripts(self, runs: Sequence[RunRecords], evaluations: Sequence[str], count: int = 1) -> Shown:
        """Return answers kept word for word, every run's to the same ``count`` questions of each evaluation."""
        return Shown(frame_table(of_records.transcripts(runs, evaluations, count)))

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts on the claims about what was shown so far."""
        shown = tuple(name for name in self.made if name in ARTEFACTS)
        if shown not in self._judged:
            with_runs = [name for name in shown if ARTEFACTS[name].arms]
            runs = self.runs(*with_runs) if with_runs else []
            judged_together = self.scale not in ONE_BASE and any(own.artefact in shown for own in confirmatory_claims())
            family = self.family() if judged_together else []
            self._judged = {shown: verdicts(runs, shown, self.scale, self.frames, family)}
        return self._judged[shown]

    def family(self) -> list[RunRecords]:
        """Return the runs of the confirmatory contrasts that are there, which are judged together; none is made.

        From records those of every seed, whichever the notebook shows: a verdict leaves no seed out.
        """
        store = RecordStore(self.from_records) if self.from_records else None
        asked = self._asked(sorted({claim.artefact for claim in confirmatory_claims()}))
        asked |= {"seeds": store.seeds if store else self.seeds, "bases": (), "own": (), "evaluations": ()}
        if not self._family:
            there = [run for run in planned_runs(**asked) if not (store.lacking(run) if store else run.reason)]
            self._family = [store.load(run) for run in there] if store else load_runs(there)
        return self._family

    def claims(self) -> Shown:
        """Return the table of the paper's claims about what was shown, with their verdicts."""
        return Shown(verdict_table(self.verdicts()))

    def finish(self) -> Shown:
        """Return where everything came from, and leave the same beside the artefacts for the report.

        Written is ``notebooks/<name>.json`` below ``output_dir``: artefacts, verdicts, runs, commit, duration.
        """
        commit, dirty = source_commit()
        status: dict[str, Any] = {
            "notebook": self.name,
            "state": "ok",
            "scale": self.scale,
            "seeds": list(self.seeds),
            "settings": self.settings,
            "from_records": self.from_records is not None,
            "commit": commit or "unknown",
            "dirty": dirty,
            "wall_s": round(time.monotonic() - self.started, 1),
            "artefacts": list(self.made.values()),
            "verdicts": [asdict(verdict) for verdict in self.verdicts()],
            "runs": source_rows({run.name: run for run in [*self._family, *self._loaded.values()]}.values()),
        }
        if self.output_dir is not None:
            write_json(self.output_dir / "notebooks" / f"{self.name}.json", status)
        rows = [(row["run"], row["fingerprint"], short_commit(row), row["finished"]) for row in status["runs"]]
        source = "committed records" if status["from_records"] else "runs on this machine"
        source = source if rows else "the package alone, without a run"
        changed = "; ".join(f"{name} = {value!r}" for name, value in self.settings.items())
        note = f"Rendered at commit {status['commit'][:12]}{' with changed files' * dirty} from {source}."
        note += f" Changed settings: {changed}." if changed else ""
        table = plain_table(("run", "fingerprint", "commit", "finished"), rows)
        return Shown(table + Markup("<p>{}</p>").format(note), note)

    def _asked(self, artefacts: Sequence[str]) -> dict[str, Any]:
        custom = self.extra_methods if any(ARTEFACTS[name].extra_policy for name in artefacts) else ()
        return {"scale": self.scale, "artefacts": list(artefacts), "seeds": self.seeds, "root": self.runs_dir,
                "settings": self.settings, "bases": self.bases, "own": custom,
                "evaluations": self.evaluations}  # fmt: skip

    def _title(self, name: str) -> str:
        return ARTEFACTS[name].title if name in ARTEFACTS else name

    def _keep(self, name: str, data: pd.DataFrame, shown: dict[str, Any]) -> None:
        self.made[name] = {"name": name, "title": self._title(name), **shown}
        self.frames[name] = data

    def _write(self, name: str, frames: Mapping[str, pd.DataFrame], runs: Sequence[RunRecords]) -> None:
        assert self.output_dir is not None
        folder = self.output_dir / "tables"
        for part, frame in frames.items():
            # six significant digits, so that rounding noise does not show as a change
            text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
            write_text(folder / f"{part}.csv", text)
        sources = {"artefact": name, "title": self._title(name), "commits": commits(runs), "runs": source_rows(runs)}
        write_json(folder / f"{name}.provenance.json", sources)


def begin_study(
    name: str, artefacts: Sequence[str], scale: str = "mini", seeds: Sequence[Any] = (0,),
    settings: Mapping[str, Any] | None = None, runs_dir: str = "runs", from_records: str = "", output_dir: str = "",
    bases: Sequence[str] = (), extra_methods: Sequence[str] = (), evaluations: Sequence[str] = (), **_: Any,
) -> Study:  # fmt: skip
    """Return what a notebook does with its parameters, once their values are checked (`hpt.reports.begin`)."""
    settings = dict(settings or {})
    check_scale(scale)
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigError("seeds", seeds, "a list of different whole numbers of at least 0", "write e.g. [0, 1, 2]")
    if from_records and not record_folders(project_path(from_records)):
        remedy = "name a folder written by `hpt runs export`"
        raise ConfigError("from_records", from_records, "a folder of records, or empty to compute", remedy)
    here = artefacts_at(scale)
    names = tuple(artefacts) or tuple(key for key, artefact in here.items() if artefact.notebook == name)
    if not names and any(artefact.notebook == name for artefact in ARTEFACTS.values()):
        notebooks = ", ".join(dict.fromkeys(artefact.notebook for artefact in here.values()))
        raise ConfigError("scale", scale, "a scale that makes this notebook", f"there, open {notebooks}")
    known = dict.fromkeys(base for key in names for base in here[key].policies)
    if unknown := [base for base in bases if base not in known]:
        raise ConfigError("bases", unknown[0], "some of " + ", ".join(known), "correct the name")
    check_addressed(settings, names, scale)
    for key, value in settings.items():
        check_no_names(value if is_addressed(key, value) else {key: value})
    study = Study(
        name=name,
        artefacts=names,
        scale=scale,
        seeds=tuple(seeds),
        settings=settings,
        runs_dir=project_path(runs_dir),
        from_records=project_path(from_records) if from_records else None,
        output_dir=project_path(output_dir) if output_dir else None,
        bases=tuple(bases),
        extra_methods=tuple(extra_methods),
        evaluations=tuple(str(project_path(name)) if names_files(name) else name for name in evaluations),
    )
    if not study.planned():  # no run whose configuration would be refused: a misspelt setting is still named
        validate(merge(SCALES[scale], nest(settings)))
    style.use()
    return study


def project_path(text: str) -> Path:
    """Return a path; a relative one starts at the project's folder also where the kernel runs in ``notebooks/``."""
    return (project_folder() / Path(text).expanduser()).resolve()


def project_folder() -> Path:
    """Return the folder that relative parameters start at: the current one, or the parent of ``notebooks/``."""
    folder = Path.cwd()
    return folder.parent if folder.name == "notebooks" else folder


def shown_path(path: Path) -> str:
    """Return a path relative to the project's folder, so that a page made on one machine does not name its folders."""
    return os.path.relpath(path, project_folder())


# Provenance


def source_rows(records: Iterable[RunRecords]) -> list[dict[str, Any]]:
    """Return one entry per run, sorted by name: what a companion file of a table or figure lists."""
    rows = [
        {
            "run": run.name,
            "fingerprint": run.fingerprint,
            "method": run.method,
            "policy": run.policy,
            "seed": run.seed,
            "scale": run.config.scale,
            "recipe": run.config.recipe,
            # of what it starts from where that is a base: all runs of a seed should have the same
            "base_weights": run.config.policy.base_weights,
            "commit": str(run.provenance.get("commit") or "unknown"),
            "dirty": bool(run.provenance.get("dirty")),
            "processor": " and ".join(run.provenance.get("processors") or [run.provenance.get("processor") or ""]),
            "damaged": sum(run.provenance.get(name) or 0 for name in ("damaged_checkpoints", "damaged_files")),
            # of a run that went on after an interruption the clock is its last part's
            "wall_s": max(run.provenance.get("wall_s") or 0.0, run.metrics.get("time/step_s", pd.Series([0.0])).sum()),
            **{name: run.provenance.get(name) for name in ("numerics_version", "finished", "dtype")},
        }
        for run in records
    ]
    return sorted(rows, key=lambda row: row["run"])


def short_commit(row: Mapping[str, Any]) -> str:
    """Return the commit of a row of `source_rows`, or of a status, as reports show it; ``+`` marks changed files."""
    return row["commit"][:12] + "+" * row["dirty"]


def commits(records: Iterable[RunRecords]) -> str:
    """Return the commits the runs were made at."""
    return ", ".join(sorted({short_commit(row) for row in source_rows(records)})) or "none"


def source_line(records: Sequence[RunRecords]) -> str:
    """Return where a table or figure came from, in one line; its provenance.json names the runs."""
    if not records:
        return "Made without a run."
    return f"From {len(records)} run{'' if len(records) == 1 else 's'} at commit {commits(records)}."


# Text: every text is escaped, so no answer or name of a run becomes markup


def html_table(table: pd.DataFrame | Styler, name: str) -> Markup:
    """Return a laid out table as HTML; of a Styler with its colours."""
    styler: Any = table if isinstance(table, Styler) else table.style  # its methods are half typed
    styler = styler.format(_cell_html, na_rep="")
    if styler.index.is_unique and styler.columns.is_unique:  # columns with sentences are read from the left
        classes = styler.data.map(_cell_class)
        sentences = classes.eq("text").any()
        classes.loc[:, sentences] = "text"
        styler = styler.apply_index(lambda _: sentences.map({True: "text-align: left", False: ""}).to_numpy(), axis=1)
        classes.loc[:, ["paper" in str(name) for name in classes]] = "paper"  # beside ours: `frames.beside_the_papers`
        styler = styler.set_td_classes(classes)
    for axis in (0, 1):
        styler = styler.format_index(str, escape="html", axis=axis)
        styler = styler.format_index_names(lambda label: html.escape(str(label)), axis=axis)
    if styler.columns.nlevels > 1:
        styler = styler.hide(names=True)  # of the row labels: a line of heads more, and they say what they are
    if styler.index.nlevels > 1 and len(styler.index) > 1 and styler.index.get_level_values(0).nunique() == 1:
        styler = styler.hide(level=0).set_caption(html.escape(str(styler.index[0][0])))  # one base for all lines
    text = styler.set_uuid(name).set_table_attributes('class="scores"').to_html()
    return Markup("<div class='wide'>{}</div>").format(Markup(text))


def _cell_class(cell: object) -> str:
    if isinstance(cell, of_records.Cell):
        return "best" * cell.best
    return "text" * bool(re.search(r"[a-z]{3} ", str(cell).removeprefix("all seeds ")))


def _cell_html(cell: object) -> str:
    """Return a cell as HTML: verdicts in colour; under a score its interval, and its seeds on a line from 0 to 100."""
    if str(cell) in _VERDICTS:
        return str(verdict_badge(str(cell)))
    seeds = [] if str(cell)[:1] in "+-" else getattr(cell, "seeds", [])  # a difference has no place on that line
    dots = "".join(f"<i style='left:{seed:.0f}%'></i>" for seed in seeds)
    text = html.escape(str(cell))
    if isinstance(cell, of_records.Cell):
        text = re.sub(r" ([\[(].*)", r"<small>\1</small>", text)
    return f"<span class='seeds'>{dots}</span>" * bool(dots) + text


def markdown_table(frame: pd.DataFrame) -> str:
    """Return a laid out table as Markdown, every row with all its labels.

    Example:
        >>> print(markdown_table(pd.DataFrame({"set": ["1.0"]}, index=pd.Index(["HPT|"], name="method"))))
        | method | set |
        | --- | ---: |
        | HPT\\| | 1.0 |
    """
    parts = [name if isinstance(name, tuple) else (name,) for name in frame.columns]
    heads = [[str(part) for part in name if part != ""] for name in parts]
    labels = [["" if name is None else str(name)] for name in frame.index.names]
    lines = [["<br>".join(map(markdown_text, head)) for head in (*labels, *heads)]]
    lines.append(["---"] * len(labels) + ["---:"] * len(heads))
    for key, cells in zip(frame.index, frame.itertuples(index=False), strict=True):
        texts = [*(key if isinstance(key, tuple) else (key,)), *("" if pd.isna(cell) else cell for cell in cells)]
        lines.append([markdown_text(str(text)) for text in texts])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tex_table(frame: pd.DataFrame) -> str:
    """Return a laid out table as a LaTeX ``tabular`` (packages booktabs and multirow)."""
    text = frame.to_latex(escape=True, na_rep="", multicolumn_format="c")
    return text.replace("→", r"$\to$").replace("γ", r"$\gamma$")


def markdown_text(text: str) -> str:
    """Escape what Markdown and the HTML inside it would read as markup."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(text, quote=False).replace("\n", " "))


def caption_html(title: str, caption: str) -> Markup:
    """Return what stands below a table or figure."""
    return Markup("<p class='caption'><b>{}.</b> {}</p>").format(title, caption)


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table of texts, on the left of their cells (JupyterLab has them on the right)."""

    def line(cell: str, texts: Sequence[object]) -> Markup:
        form = Markup(f"<{cell} style='text-align: left'>{{}}</{cell}>")
        return Markup("<tr>{}</tr>\n").format(Markup("").join(form.format(text) for text in texts))

    body = Markup("").join(line("td", row) for row in rows)
    form = Markup("<div class='wide'><table class='sortable'><thead>{}</thead><tbody>{}</tbody></table></div>")
    return form.format(line("th", heads), body)


def frame_table(frame: pd.DataFrame) -> Markup:
    """Return a frame as a table of texts."""
    return plain_table(list(frame.columns), frame.astype(str).to_numpy().tolist())


def png_source(png: bytes) -> str:
    """Return a PNG as a data address, so that a page holds its pictures itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def verdict_badge(verdict: str) -> Markup:
    """Return a verdict as a coloured word; the word itself says it, the colour only helps."""
    kind = "-".join(re.sub(r"[(:]", "", verdict).split()[:2])
    return Markup("<span class='verdict {}'>{}</span>").format(kind, verdict)


def verdict_table(rows: Sequence[Verdict]) -> Markup:
    """Return claims and verdicts as a table; what was tested and the numbers behind it stand below each sentence."""
    if not rows:
        return Markup("<p>The paper makes no claim that these test.</p>")
    claim = Markup("<b>{}.</b> “{}” (Section {})<br><small>{}</small>")
    judged = Markup("{} <small>{}</small><br><small>{}</small>")
    shown = [
        (
            claim.format(row.title, row.sentence, row.section, row.reading),
            row.paper,
            row.ours,
            row.interval,
            judged.format(verdict_badge(row.verdict), row.kind, row.explanation),
        )
        for row in rows
    ]
    return plain_table(("claim", "paper", "ours", "95 %, over seeds unless it says otherwise", "verdict"), shown)
