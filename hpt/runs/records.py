"""Records that travel: what a finished run leaves behind for reports: counts and a few answers, no weights.

A record folder is what a report needs of a run and no more::

    reports/<scale>/records/<run name>/
        config.json         as in the run folder
        provenance.json     commit, versions, hardware, wall time
        metrics.parquet     one row per step; numbers that are no integers to 16 bits, relative error 1e-5; of a run of
                            the search few columns
        rollouts.parquet    one row per question and step: counts, no entropy; none of a run of the search
        validation.parquet  one row per problem of the validation curves: counts
        evaluations.parquet one row per problem and evaluation: counts
        answers.parquet     some answers word for word, chosen by a hash; none of a run of the search
        manifest.json       SHA-256 of each of them

Beside the folders lies ``sets.json``: of each world the hash of every evaluation set's problems, from which the keys of
evaluations follow, so that a reader need not make the problems again.

`load_records` reads a run folder and a record folder alike, so every table and figure renders from records alone.
`fill` makes the runs that neither records nor run folders hold.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpt.config.run_config import MOVES_NO_NUMBER, RunConfig, digest, validate
from hpt.data.problems import EvaluationSet, problems_hash
from hpt.data.sources import (
    evaluation_at,
    evaluation_names,
    evaluation_set,
    fetch_sets,
    recorded_name,
    training_problems_of,
)
from hpt.evaluation.evaluate import answer_hash
from hpt.evaluation.scores import Shares, counts_per_problem
from hpt.methods.methods import names_used
from hpt.runs.catalogue import SEED as SEARCH_SEED
from hpt.runs.evaluations import evaluation_key
from hpt.runs.folder import TABLES, OfRun, RunFolder, check, run_folders
from hpt.runs.job import Job
from hpt.runs.make import PlannedRun, planned_runs
from hpt.runs.pool import run_jobs
from hpt.runs.resolve import FILLED_IN, lacking_start
from hpt.support.errors import HptError, RecordFault
from hpt.support.files import (
    MANIFEST,
    check_manifest,
    read_json,
    read_parquet,
    replacing,
    write_json,
    write_manifest,
    write_parquet,
)
from hpt.support.plugins import module_hashes

#: Columns without which a table is not what its name says.
COLUMNS = {name: columns.split() for name, columns in {
    "metrics": "step",
    "rollouts": "step problem_id level correct rollouts alpha beta branch response_tokens_mean no_answer timed_out",
    "validation": "step benchmark problem_id level correct samples response_tokens_mean",
    "evaluations": "key benchmark problem_id level correct samples no_answer timed_out response_tokens_mean",
    "answers": "key benchmark problem_id sample hash verdict response_tokens text",
}.items()}  # fmt: skip
#: What is kept of the metrics of a run of the search.
OF_SEARCH = ["step", "rollout/reward", "loss/total", "optim/gradient_norm", "time/step_s", "attempt"]
_EVALUATIONS = "evaluations.parquet"
_ANSWERS = "answers.parquet"
#: A record folder holds these, its manifest and, of newer runs, answers; what else a manifest names is never read
#: or copied.
RECORD_FILES = ("config.json", "provenance.json", *(f"{name}.parquet" for name in TABLES), _EVALUATIONS)
#: Hashes of the evaluation sets' problems, by world and set; beside the record folders.
SETS = "sets.json"


@dataclass(frozen=True, eq=False)
class RunRecords(OfRun):
    """A finished run as reports see it, called as its run folder.

    The tables are those of `COLUMNS`, without rows where the run has none (a base draws no rollouts). ``arms`` are keys
    of the arms (`hpt.runs.catalogue.Arm`) it was asked for as, ``problem_hashes`` are those of `SETS`, by set.
    """

    name: str
    config: RunConfig
    metrics: pd.DataFrame
    rollouts: pd.DataFrame
    validation: pd.DataFrame
    evaluations: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    problem_hashes: Mapping[str, str] = field(default_factory=dict)
    answers: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS["answers"]))
    _counts: dict[str, pd.DataFrame] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def sets(self) -> dict[str, EvaluationSet]:
        """The evaluation sets of the world the run lived in, by name, in the order of the tables."""
        return {name: evaluation_set(self.config, name) for name in evaluation_names(self.config)}

    def counts(self, evaluation: str) -> pd.DataFrame:
        """Return the counts of an evaluation, one row per problem in the set's order, under the run's sampling law.

        ``evaluation`` is a set of the mini world, or ``set@samples``; elsewhere, the set that stands in its place; or
        the path of the user's questions.
        """
        asked = evaluation_at(self.config, evaluation)
        name = recorded_name(self.config, asked)
        if name not in self._counts:
            on_set = self.evaluations[self.evaluations["benchmark"] == name]
            key = evaluation_key(self.config, asked, self.problem_hashes)[2]
            counts = on_set[on_set["key"] == key]
            if not len(counts):
                found = f"only as {', '.join(sorted(set(on_set['key'])))}" if len(on_set) else "not at all"
                raise RecordFault(
                    f"{self.name} was not evaluated on {name} under key {key} ({found}); its world or sampling has "
                    "changed: compute it again, or render at the commit it was recorded at"
                )
            self._counts[name] = counts.reset_index(drop=True)
        return self._counts[name]

    def shares(self, evaluation: str) -> Shares:
        """Return the share of correct answers to every problem of an evaluation, [problems]."""
        counts = self.counts(evaluation)
        return (counts["correct"] / counts["samples"]).to_numpy(np.float64)

    @property
    def fingerprint(self) -> str:
        """The fingerprint the run was made under, as its folder's name keeps it."""
        return self.name.rpartition("-")[2]

    @property
    def commit(self) -> str:
        """Commit of the source, with ``+`` where files differed from it; ``unknown`` outside a clone."""
        commit = str(self.provenance.get("commit") or "unknown")
        return commit + ("+" if self.provenance.get("dirty") else "")


def load_records(path: Path) -> RunRecords:
    """Read the records of a run from its run folder or from an exported record folder, refusing damaged ones."""
    path = Path(path)
    exported = (path / MANIFEST).exists()
    if exported:
        if set(read_json(path / MANIFEST)) - {_ANSWERS} != set(RECORD_FILES):
            raise RecordFault(f"{path / MANIFEST} must list {', '.join(RECORD_FILES)}; export the run again")
        check_manifest(path)
    else:
        check(RunFolder(path), weights=False)
    config = recorded_config(path)
    # a base that is fetched or the user's was not trained here, and has no steps; a base draws no rollouts
    may_lack = TABLES if config.schedule.steps == 0 else ("rollouts", "validation")
    metrics, rollouts, validation = (_table(path, name, name in may_lack) for name in TABLES)
    if exported:
        evaluations, answers = _table(path, "evaluations"), _table(path, "answers", may_lack=True)
    else:
        evaluations, answers = _evaluations(path)
    return RunRecords(
        path.name, config, metrics, rollouts, validation, evaluations, read_json(path / "provenance.json"),
        problem_hashes=_problem_hashes(path.parent, config), answers=answers,
    )  # fmt: skip


def _problem_hashes(records: Path, config: RunConfig) -> dict[str, str]:
    """Return the hashes of a run's evaluation sets, as far as they lie beside its record."""
    return _known_sets(records).get(config.data.world, {}) if config.data.evaluation == "graded" else {}


def _known_sets(records: Path) -> dict[str, dict[str, str]]:
    file = records / SETS
    return read_json(file) if file.exists() else {}


def load_runs(planned: Iterable[PlannedRun]) -> list[RunRecords]:
    """Return the records of finished runs (`hpt.runs.make.PlannedRun`), with the arms they were asked for as."""
    return [replace(load_records(run.folder.path), arms=run.arms) for run in planned if run.folder is not None]


def record_folders(records: Path) -> list[Path]:
    """Return the record folders below ``records``, sorted by name."""
    return [manifest.parent for manifest in sorted(Path(records).glob(f"[!.]*/{MANIFEST}"))]  # hidden: being written


def export_run(folder: RunFolder, target: Path) -> Path:
    """Write the records of a finished run to ``target/<run name>``, whole or not at all, and return that folder.

    The same run gives the same bytes, so exporting again changes nothing under version control. Evaluations that were
    exported before and are not among the folder's are kept: a run made again for its weights lacks them at first, and
    they are of this very run, since its name holds the fingerprint.
    """
    if not folder.finished:
        state = folder.status["state"]
        raise HptError(f"{folder.path.name} is {state}, only a finished run is exported; run its command again first")
    records = load_records(folder.path)
    final = Path(target) / records.name
    with replacing(final) as scratch:
        evaluations, answers = records.evaluations, records.answers
        if (final / MANIFEST).exists():
            before = load_records(final)
            evaluations = _with_earlier(evaluations, before.evaluations)
            answers = _with_earlier(answers, before.answers)
        config = read_json(folder.path / "config.json")
        config["policy"]["path"] = None  # a place on one machine; weights_sha256 says which weights
        write_json(scratch / "config.json", config)
        write_json(scratch / "provenance.json", records.provenance)
        searched = records.config.seed >= SEARCH_SEED  # judged by its evaluation alone
        rollouts = records.rollouts.drop(columns="entropy", errors="ignore")  # most of the bytes, and in no table
        metrics = records.metrics.filter(OF_SEARCH) if searched else records.metrics
        write_parquet(scratch / "metrics.parquet", _rounded(metrics))
        write_parquet(scratch / "rollouts.parquet", rollouts.head(0) if searched else rollouts)
        write_parquet(scratch / "validation.parquet", records.validation)
        write_parquet(scratch / _EVALUATIONS, evaluations)
        if len(answers) and not searched:
            write_parquet(scratch / _ANSWERS, answers)
        write_manifest(scratch)
    if records.config.data.evaluation == "graded":  # public problems are read, not made
        sets = (*records.sets.values(), evaluation_set(records.config, "validation"))
        hashes = {one.name: problems_hash(one.problems) for one in sets}
        write_json(Path(target) / SETS, _known_sets(Path(target)) | {records.config.data.world: hashes})
    return final


def _rounded(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the metrics with 16 bits of what is no integer: the others are noise that no compression removes."""
    numbers = metrics.select_dtypes("float")
    mantissa, exponent = np.frexp(numbers.to_numpy())
    rounded = np.where(numbers % 1 == 0, numbers, np.ldexp((mantissa * 2**16).round(), exponent - 16))
    return metrics.assign(**dict(zip(numbers.columns, rounded.T, strict=True)))


def _with_earlier(table: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Return a table of evaluations with the rows exported before of those it lacks."""
    more = before[~before["key"].isin(table["key"])]
    if not len(more):
        return table
    both = [one for one in (table, more) if len(one)]
    return pd.concat(both).sort_values(["benchmark", "key"], kind="stable", ignore_index=True)


def import_runs(source: Path, target: Path) -> list[Path]:
    """Take record folders made elsewhere into ``target`` (``reports/<scale>/records``), each checked first.

    Refused are a damaged folder, and another content under a name that is already there.
    """
    folders = [Path(source)] if (Path(source) / MANIFEST).exists() else record_folders(source)
    if not folders:
        raise RecordFault(f"{source} holds no records; name a folder written by `hpt runs export`")
    for folder in folders:
        load_records(folder)
    taken = []
    for folder in folders:
        final = Path(target) / folder.name
        with replacing(final) as scratch:
            if (final / MANIFEST).exists() and read_json(final / MANIFEST) != read_json(folder / MANIFEST):
                raise RecordFault(f"{final} is there with another content than {folder}; remove one of the two")
            for name in (*read_json(folder / MANIFEST), MANIFEST):
                shutil.copyfile(folder / name, scratch / name)
        taken.append(final)
    if hashes := _known_sets(folders[0].parent):
        write_json(Path(target) / SETS, _known_sets(Path(target)) | hashes)
    return taken


def recorded_config(path: Path) -> RunConfig:
    """Return the settings of the run whose record or run folder this is."""
    try:
        return validate(read_json(path / "config.json"))
    except HptError as error:
        raise RecordFault(f"{path / 'config.json'} is not a configuration of this version: {error}") from error


def _table(path: Path, name: str, may_lack: bool = False) -> pd.DataFrame:
    file = path / f"{name}.parquet"
    frame = pd.DataFrame() if may_lack and not file.exists() else read_parquet(file)
    if not len(frame):  # pandas writes no columns for an empty list of rows
        return pd.DataFrame(columns=COLUMNS[name])
    _check_columns(file, frame, COLUMNS[name])
    return frame


def _check_columns(file: Path, frame: pd.DataFrame, needed: Sequence[str]) -> None:
    if missing := [column for column in needed if column not in frame.columns]:
        raise RecordFault(f"{file} lacks the columns {', '.join(missing)}; remove it and make it again")


def _evaluations(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the counts of a run folder's evaluations, and the answers it kept word for word."""
    parts, kept = [], []
    for file in sorted((path / "evaluations").glob("*.parquet")):
        answers = read_parquet(file)
        _check_columns(file, answers, ("benchmark", "problem_id", "level", "verdict", "response_tokens"))
        counts = counts_per_problem(answers)
        counts.insert(0, "key", key := file.stem.rpartition("-")[2])
        parts.append(counts)
        if "text" in answers:  # earlier versions kept none
            texts = answers[answers["text"].notna()]
            names = texts[["benchmark", "problem_id", "sample"]]
            hashes = [answer_hash(*row) for row in names.itertuples(index=False, name=None)]
            kept.append(texts.assign(key=key, hash=np.array(hashes, np.uint32))[COLUMNS["answers"]])
    return _stacked(parts, "evaluations"), _stacked(kept, "answers")


def _stacked(parts: list[pd.DataFrame], name: str) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS[name])


#: What is lacking of a run that nothing is there of.
ABSENT = "no record"


@dataclass(frozen=True, eq=False)
class RecordStore:
    """The record folders below ``folder``, found by the settings of the run they are of."""

    folder: Path

    @cached_property
    def _configs(self) -> dict[Path, RunConfig]:
        return {path: recorded_config(path) for path in record_folders(self.folder)}

    @cached_property
    def _by_settings(self) -> dict[str, list[Path]]:
        found = defaultdict[str, list[Path]](list)
        for path, config in self._configs.items():
            found[_settings_key(config)].append(path)
        return found

    @property
    def seeds(self) -> list[int]:
        """The seeds of the tables that there are records of; those of a search are others."""
        return sorted({config.seed for config in self._configs.values() if config.seed < SEARCH_SEED})

    def find(self, config: RunConfig) -> Path | None:
        """Return the record folder of the run that ``config`` describes, or None.

        Compared are all settings that move a number and the training data; not the hashes of the base, which a machine
        without it cannot know, and not where it lay.
        """
        found = self._by_settings.get(_settings_key(with_data_hash(config)), [])
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise RecordFault(f"{names} are records of the same settings on different bases; remove all but one")
        return found[0] if found else None

    def lacking(self, run: PlannedRun) -> str:
        """Return what the records lack of a run, empty when nothing: `ABSENT`, or evaluations it was not put to."""
        path = self.find(run.config)
        if path is None:
            return ABSENT
        frame = read_parquet(path / _EVALUATIONS)
        there = set(zip(frame["benchmark"], frame["key"], strict=True)) if len(frame) else set()
        hashes = _problem_hashes(self.folder, run.config)
        keys = {name: evaluation_key(run.config, name, hashes)[2] for name in run.evaluations}
        missing = [name for name, key in keys.items() if (recorded_name(run.config, name), key) not in there]
        return f"not evaluated on {', '.join(missing)}" if missing else ""

    def load(self, run: PlannedRun) -> RunRecords:
        """Return the records of a run, with the arms it is asked for as."""
        path = self.find(run.config)
        if path is None:
            raise RecordFault(f"no record of {run.title} with these settings; compute the run and export it")
        return replace(load_records(path), arms=run.arms)


def with_data_hash(config: RunConfig) -> RunConfig:
    """Return a run's configuration with the hashes of its training data and custom modules, which need no base."""
    if config.data.sha256:
        return config
    data = config.data.model_copy(update={"sha256": problems_hash(training_problems_of(config))})
    return config.model_copy(update={"data": data, "own_modules": module_hashes(names_used(config))})


def _settings_key(config: RunConfig) -> str:
    left_out = {**dict.fromkeys(MOVES_NO_NUMBER, True), **FILLED_IN}  # what a machine without the base cannot know
    settings = config.model_dump(mode="json", exclude=left_out)
    # `hpt.examples` is code of the package, which a record names by its commit
    settings["own_modules"] = {name: code for name, code in config.own_modules.items() if not name.startswith("hpt.")}
    return digest(settings)


def lacking_runs(planned: Iterable[PlannedRun], store: RecordStore, root: Path) -> list[PlannedRun]:
    """Return the runs that have no record, and those whose weights one of them starts from and that are not there."""
    left = [run for run in planned if not run.done]
    wanted = [run for run in left if store.lacking(run)]
    starts: set[tuple[str, str, int]] = set()
    for run in wanted:
        before = lacking_start(run.config, root)
        while before is not None:
            starts.add((before.method, before.policy.name, before.seed))
            before = lacking_start(before, root)

    def is_start(run: PlannedRun) -> bool:  # a plain arm; one with settings is not
        return (run.method, run.policy, run.seed) in starts and f"{run.method}-{run.policy}" in run.arms

    return [run for run in left if run in wanted or is_start(run)]


def fill(
    scale: str, artefacts: Sequence[str], seeds: Iterable[int], root: Path, records: Path, jobs: int | None = None
) -> list[str]:
    """Make what `lacking_runs` names, export each run as it ends, and return the names of the runs exported.

    Finished runs that are not exported yet, or not with all their evaluations, are exported first; where a run fails,
    those that ended before are exported.
    """
    exported: list[str] = []

    def export(folder: RunFolder) -> None:
        export_run(folder, records)
        exported.append(folder.path.name)

    for folder in run_folders(root, scale):
        if folder.finished and not (records / folder.path.name).exists():
            export(folder)
    store, planned = RecordStore(records), planned_runs(scale, artefacts, seeds, root)
    for run in planned:
        if run.done and run.folder is not None and store.lacking(run):
            export(run.folder)  # it was evaluated on more since
    left = lacking_runs(planned, store, root)
    for run in left:
        fetch_sets(run.config)
    if left:
        run_jobs([Job(run.config, root, run.evaluations) for run in left], jobs, on_finish=export)
    return exported
