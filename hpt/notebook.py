"""What the notebooks call: check parameters, say what will run, run or load, show, judge, and say where it came from.

A notebook only shows and explains; everything it does is one of these calls, and nothing here catches an exception
around a run. Training happens in processes of its own, so a kernel needs neither PyTorch nor vLLM.
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hpt.artefacts import BUILDERS, Made
from hpt.artefacts.markup import plain_table, verdict_badge
from hpt.artefacts.provenance import source_rows
from hpt.artefacts.verdicts import Verdict, verdicts
from hpt.catalogue import check_addressed, kept_note
from hpt.config import merge, nest, validate
from hpt.errors import ConfigError
from hpt.experiments import ARTEFACTS, PlannedRun, compute, planned_runs
from hpt.export import RecordStore, RunRecords, load_runs, record_folders
from hpt.files import write_json
from hpt.parameters import parameters
from hpt.plan import assumptions, duration, make_plan
from hpt.runs import source_commit
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
        bases: of the artefacts' arms, none = all.
        own: methods of the user's own, further lines of the artefacts.
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
    bases: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
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
        expected = make_plan(self.scale, self.planned, self.runs_dir)
        rows = []
        for run, costs in zip(self.planned, expected.costs, strict=True):
            row = (run.method, run.policy, run.seed, run.config.schedule.steps, len(run.evaluations))
            rows.append((*row, run.reason or "nothing: done", "" if run.done else f"about {duration(costs.device_s)}"))
        todo = sum(not run.done for run in self.planned)
        note = "Nothing is left to compute."
        if todo:
            note = f"{todo} of {len(rows)} runs are left to compute: {assumptions(expected)}."
        note += kept_note(self.settings, self.artefacts, self.scale)
        return Shown(plain_table(heads, rows) + Markup("<p>{}</p>").format(note), note)

    def records(self) -> list[RunRecords]:
        """Return the records of every run, computing what is missing in processes of its own.

        Raises:
            HptError: a run failed, or records are damaged or missing.
        """
        if self.from_records is None:
            done = compute(
                self.scale,
                self.artefacts,
                self.seeds,
                self.runs_dir,
                settings=self.settings,
                bases=self.bases,
                own=self.own,
            )
            return load_runs(done)
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
        """Return the verdicts on the claims that the artefacts test; those without runs need them shown before."""
        frames = {name: own for made in self.made.values() for name, own in made.frames().items()}
        return verdicts(records, self.artefacts, self.scale, frames)

    def claims(self, records: Sequence[RunRecords]) -> Shown:
        """Return the table of claims with their verdicts, to be displayed."""
        return Shown(verdict_table(self.verdicts(records)))

    def finish(self, records: Sequence[RunRecords]) -> Shown:
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
            ``only`` (some of ``artefacts``; none = all) where the notebook makes several; ``bases`` (none = all)
            where its artefact can be made of some alone; ``extra_methods`` (``module:METHOD`` of the user's own, none
            by default) where its artefacts take some.

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
    bases = tuple(given.get("bases") or ())
    known = dict.fromkeys(base for name in names for base in ARTEFACTS[name].policies) if bases else {}
    for base in bases:
        if base not in known:
            raise ConfigError("bases", base, "some of " + ", ".join(known), "correct the name")
    check_addressed(given["settings"], names, given["scale"])
    own = tuple(given.get("extra_methods") or ())
    planned = planned_runs(given["scale"], names, seeds, runs_dir, given["settings"], bases, own)
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
        bases=bases,
        own=own,
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
    return plain_table(("claim", "paper", "ours", "95 %, over seeds unless it says otherwise", "verdict"), shown)
