"""What the notebooks call: check parameters, say what will run, run or load, show, judge, and say where it came from.

A notebook only shows and explains; everything it does is one of these calls, and nothing here catches an exception
around a run. Training happens in processes of its own, so a kernel needs neither PyTorch nor vLLM.
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hpt.artefacts import BUILDERS, Made
from hpt.artefacts.markup import plain_table, verdict_badge
from hpt.artefacts.provenance import source_rows
from hpt.artefacts.verdicts import Verdict, verdicts
from hpt.config import merge, nest, validate
from hpt.errors import ConfigError
from hpt.experiments import PlannedRun, compute, planned_runs
from hpt.export import RunRecords, load_records, record_folders
from hpt.files import read_json, write_json
from hpt.parameters import parameters
from hpt.recorded import RecordStore
from hpt.runs import run_folders, source_commit
from hpt.scales import SCALES

__all__ = ["Shown", "Study", "parameters", "plan"]


@dataclass(frozen=True)
class Shown:
    """HTML that a notebook displays, with a plain text for where HTML is not."""

    html: Markup
    text: str = ""

    def _repr_html_(self) -> str:
        return str(self.html)

    def __repr__(self) -> str:
        return self.text or re.sub(r"<[^>]+>", " ", str(self.html))


@dataclass(frozen=True, eq=False)
class Study:
    """What a notebook computes and shows; made by `plan`.

    Attributes:
        name: of the notebook.
        artefacts: tables and figures it makes.
        scale, seeds, settings: which runs.
        runs_dir: folder of run folders.
        from_records: folder of record folders to read instead of computing, or None.
        output_dir: where artefacts are written, or None.
        planned: the runs needed.
        started: `time.monotonic` when it was made.
    """

    name: str
    artefacts: tuple[str, ...]
    scale: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    runs_dir: Path
    from_records: Path | None
    output_dir: Path | None
    planned: list[PlannedRun]
    started: float
    made: dict[str, Made] = field(default_factory=dict)

    def to_run(self) -> Shown:
        """Return the table of runs: which are there, which will be made, and how long that takes."""
        if not self.planned:
            note = "No run is needed: everything follows from published numbers."
            return Shown(Markup("<p>{}</p>").format(note), note)
        heads = ("method", "base", "seed", "steps", "evaluation sets", "to do", "time")
        if self.from_records is not None:
            note = f"Nothing is computed: records are read from {shown_path(self.from_records)}."
            rows = [
                (r.method, r.policy, r.seed, r.config.schedule.steps, len(r.evaluations), "read", "")
                for r in self.planned
            ]
            return Shown(plain_table(heads, rows) + Markup("<p>{}</p>").format(note), note)
        times = measured_times(self.runs_dir, self.scale)
        rows, left, unknown = [], 0.0, 0
        for run in self.planned:
            seconds = times.get((run.method, run.config.schedule.steps))
            expected = "not measured yet" if seconds is None else f"about {duration(seconds)}"
            if not run.done:
                left, unknown = left + (seconds or 0.0), unknown + (seconds is None)
            row = (run.method, run.policy, run.seed, run.config.schedule.steps, len(run.evaluations))
            rows.append((*row, run.reason or "nothing: done", "" if run.done else expected))
        todo = sum(not run.done for run in self.planned)
        note = "Nothing is left to compute." if not todo else f"{todo} of {len(rows)} runs are left to compute"
        if todo:
            note += f", {duration(left)} of computing on one core" if left else ""
            note += f"; {unknown} of them were never timed on this machine." if unknown else "."
        return Shown(plain_table(heads, rows) + Markup("<p>{}</p>").format(note), note)

    def records(self) -> list[RunRecords]:
        """Return the records of every run, computing what is missing in processes of its own.

        Raises:
            HptError: a run failed, or records are damaged or missing.
        """
        if self.from_records is None:
            done = compute(self.scale, self.artefacts, self.seeds, self.runs_dir, settings=self.settings)
            return [replace(load_records(run.folder.path), arms=run.arms) for run in done if run.folder is not None]
        store = RecordStore(self.from_records)
        return [store.load(run) for run in self.planned]

    def show(self, artefact: str, records: Sequence[RunRecords]) -> Shown:
        """Make a table or figure, write it where asked, and return it to be displayed."""
        if artefact not in self.artefacts:
            return Shown(Markup("<p>{} was not asked for.</p>").format(artefact))
        made = BUILDERS[artefact](records)
        self.made[artefact] = made
        if self.output_dir is not None:
            made.write(self.output_dir)
        changed = ", ".join(f"{name} = {value!r}" for name, value in self.settings.items())
        note = Markup("<p><b>Changed settings: {}.</b></p>").format(changed) if changed else Markup("")
        return Shown(note + made.html(), made.title)

    def verdicts(self, records: Sequence[RunRecords]) -> list[Verdict]:
        """Return the verdicts on the claims that the artefacts test."""
        return verdicts(records, self.artefacts, self.scale)

    def claims(self, records: Sequence[RunRecords]) -> Shown:
        """Return the table of claims with their verdicts, to be displayed."""
        return Shown(verdict_table(self.verdicts(records)))

    def finish(self, records: Sequence[RunRecords]) -> Shown:
        """Return where everything came from, and leave the same beside the artefacts for the report.

        Written is ``notebooks/<name>.json`` below ``output_dir``: artefacts, verdicts, runs, commit, duration.
        """
        commit, dirty = source_commit()
        status = {
            "notebook": self.name,
            "state": "ok",
            "scale": self.scale,
            "seeds": list(self.seeds),
            "settings": self.settings,
            "from_records": self.from_records is not None,
            "commit": commit or "unknown",
            "dirty": dirty,
            "wall_s": round(time.monotonic() - self.started, 1),
            "artefacts": [made.shown() for made in self.made.values()],
            "verdicts": [verdict.as_dict() for verdict in self.verdicts(records)],
            "runs": source_rows(records),
        }
        if self.output_dir is not None:
            write_json(self.output_dir / "notebooks" / f"{self.name}.json", status)
        rows = [(r["run"], r["fingerprint"], r["commit"][:12], r["dirty"], r["finished"]) for r in status["runs"]]
        source = "committed records" if status["from_records"] else "runs on this machine"
        source = source if self.planned else "the package alone, without a run"
        note = f"Rendered at commit {status['commit'][:12]}{' with changed files' if dirty else ''} from {source}."
        heads = ("run", "fingerprint", "commit", "files changed", "finished")
        return Shown(plain_table(heads, rows) + Markup("<p>{}</p>").format(note), note)


def plan(name: str, artefacts: Sequence[str], given: Mapping[str, Any]) -> Study:
    """Return what a notebook will do, after checking all of it; nothing is computed.

    Args:
        name: of the notebook.
        artefacts: tables and figures it makes.
        given: parameters as `parameters` returned them: scale, seeds, settings, runs_dir, from_records, output_dir;
            ``only`` (some of ``artefacts``; none = all) where the notebook makes several.

    Raises:
        ConfigError: a value that cannot be used.

    Example:
        >>> given = {"scale": "tiny", "seeds": [0], "settings": {}, "runs_dir": "runs", "from_records": "",
        ...          "output_dir": ""}
        >>> len(plan("table3_main_results", ["table3"], given).planned)
        10
    """
    if given["scale"] not in SCALES:
        raise ConfigError("scale", given["scale"], "one of " + ", ".join(SCALES), "choose one of these")
    seeds = given["seeds"]
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise ConfigError("seeds", seeds, "a list of different whole numbers of at least 0", "write e.g. [0, 1, 2]")
    only = given.get("only") or list(artefacts)
    for chosen in only:
        if chosen not in artefacts:
            raise ConfigError("only", chosen, "some of " + ", ".join(artefacts), "correct the name")
    from_records = project_path(given["from_records"]) if given["from_records"] else None
    if from_records is not None and not record_folders(from_records):
        remedy = "name a folder written by `hpt runs export`"
        raise ConfigError("from_records", str(from_records), "a folder of records, or empty to compute", remedy)
    runs_dir = project_path(given["runs_dir"])
    names = tuple(artefact for artefact in artefacts if artefact in only)
    planned = planned_runs(given["scale"], names, seeds, runs_dir, given["settings"])
    if not planned:  # no run whose configuration would be refused: a misspelt setting is still a mistake to name
        validate(merge(SCALES[given["scale"]], nest(given["settings"])))
    return Study(
        name=name,
        artefacts=names,
        scale=given["scale"],
        seeds=tuple(seeds),
        settings=dict(given["settings"]),
        runs_dir=runs_dir,
        from_records=from_records,
        output_dir=project_path(given["output_dir"]) if given["output_dir"] else None,
        planned=planned,
        started=time.monotonic(),
    )


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


def measured_times(runs_dir: Path, scale: str) -> dict[tuple[str, int], float]:
    """Return seconds of training by (method, steps), as finished runs on this machine took; the longest of several."""
    times: dict[tuple[str, int], float] = {}
    for folder in run_folders(runs_dir, scale):
        path = folder.path / "provenance.json"
        seconds = read_json(path).get("wall_s") if folder.finished and path.exists() else None
        if seconds is not None:
            config = read_json(folder.path / "config.json")
            key = (config["method"], config["schedule"]["steps"])
            times[key] = max(seconds, times.get(key, 0.0))
    return times


def duration(seconds: float) -> str:
    """Return a duration as people say it.

    Example:
        >>> duration(42), duration(600), duration(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def verdict_table(rows: Sequence[Verdict]) -> Markup:
    """Return claims and verdicts as a table; what was tested and the numbers behind it stand below each sentence."""
    if not rows:
        return Markup("<p>The paper makes no claim that these artefacts test.</p>")
    shown = [
        (
            Markup("<b>{}:</b> “{}” (Section {})<br><small>{}</small>").format(
                own.subject, own.sentence, own.section, own.reading
            ),
            own.paper,
            own.ours,
            own.interval,
            Markup("{}<br><small>{}</small>").format(verdict_badge(own.verdict), own.explanation),
        )
        for own in rows
    ]
    return plain_table(("claim", "paper", "ours", "95 % over seeds", "verdict"), shown)
