"""The records at hand: which of the runs that artefacts need are among them, which are missing, and loading the former.

Only settings are read until a run is asked for: a report of three seeds has hundreds of record folders, and each of its
notebooks needs a few of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from hpt.catalogue import arm_label
from hpt.config import MOVES_NO_NUMBER, RunConfig, digest
from hpt.errors import RecordFault
from hpt.experiments import PlannedRun, artefacts_named, planned_runs
from hpt.export import RunRecords, load_records, record_folders, recorded_config, recorded_evaluations
from hpt.final_evaluations import evaluation_key
from hpt.methods import names_used
from hpt.plugins import module_hashes

#: What is lacking of a run that nothing is there of.
ABSENT = "no record"


@dataclass(frozen=True, eq=False)
class RecordStore:
    """The record folders below ``folder``, found by the settings of the run they are of."""

    folder: Path

    @cached_property
    def _by_settings(self) -> Mapping[str, tuple[Path, ...]]:
        found: dict[str, tuple[Path, ...]] = {}
        for path in record_folders(self.folder):
            key = _settings_key(recorded_config(path))
            found[key] = (*found.get(key, ()), path)
        return found

    def find(self, config: RunConfig) -> Path | None:
        """Return the record folder of the run that ``config`` describes, or None.

        Compared are all settings that move a number and the training data; not the hashes of the base, which a machine
        without it cannot know, and not where it lay.

        Raises:
            RecordFault: several records fit (their bases differ).
        """
        found = self._by_settings.get(_settings_key(with_data_hash(config)), ())
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise RecordFault(f"{names} are records of the same settings on different bases; remove all but one")
        return found[0] if found else None

    def lacking(self, run: PlannedRun) -> str:
        """Return what the records lack of a run, empty when nothing: `ABSENT`, or evaluations it was not put to.

        Raises:
            RecordFault: as `find`, or its record is damaged.
        """
        path = self.find(run.config)
        if path is None:
            return ABSENT
        there = recorded_evaluations(path)
        missing = [name for name in run.evaluations if (name, evaluation_key(run.config, name)[2]) not in there]
        return f"not evaluated on {', '.join(missing)}" if missing else ""

    def load(self, run: PlannedRun) -> RunRecords:
        """Return the records of a run, with the arms it is asked for as.

        Raises:
            RecordFault: none fits, several do, or they are damaged.
        """
        path = self.find(run.config)
        if path is None:
            raise RecordFault(f"no record of {run_text(run)} with these settings; compute the run and export it")
        return replace(load_records(path), arms=run.arms)


@dataclass(frozen=True)
class FinishedRuns:
    """The run folders below ``folder``, asked the same question as a `RecordStore`."""

    folder: Path

    def lacking(self, run: PlannedRun) -> str:
        """Return what is left to do of a run, empty when nothing."""
        new = run.folder is None or run.folder.status["state"] == "new"
        return ABSENT if run.reason and new else run.reason


@dataclass(frozen=True)
class Recorded:
    """What the records, or the finished runs, allow of an artefact.

    Attributes:
        artefact: its name.
        seeds: of those asked for, the ones of which every run is there; all of them for an artefact without runs.
        missing: the runs of the others, in words.
    """

    artefact: str
    seeds: tuple[int, ...]
    missing: tuple[str, ...]


def recorded(
    scale: str,
    artefacts: Sequence[str],
    seeds: Sequence[int],
    store: RecordStore | FinishedRuns,
    own: Sequence[str] = (),
) -> list[Recorded]:
    """Return, for each of the artefacts, the seeds that its records allow and what is missing for the others.

    Args:
        scale: key of `hpt.scales.SCALES`.
        artefacts: names.
        seeds: run seeds.
        store: the records, or the run folders.
        own: methods of the user's own, further lines of the artefacts that take some.

    Raises:
        RecordFault: a record is damaged.
    """
    lacking: dict[str, str] = {}  # by fingerprint; artefacts share runs

    def lacks(run: PlannedRun) -> str:
        # the same run with other evaluations is another question
        key = f"{run.config.fingerprint()} {run.evaluations}"
        if key not in lacking:
            lacking[key] = store.lacking(run)
        return lacking[key]

    found = []
    for artefact in artefacts_named(list(artefacts)):
        there, missing = [], {}
        for seed in seeds:
            # no run folder lies below the records, so nothing on this machine changes what is planned
            more = own if artefact.extra_policy else ()
            planned = planned_runs(scale, [artefact.name], [seed], store.folder, own=more)
            left = {run_text(run): reason for run in planned if (reason := lacks(run))}
            there += [] if left else [seed]
            missing |= left
        texts = (text if reason == ABSENT else f"{text} ({reason})" for text, reason in missing.items())
        found.append(Recorded(artefact.name, tuple(there), tuple(texts)))
    return found


def run_text(run: PlannedRun) -> str:
    """Return a planned run in words: its arm, base and seed; a base, which all seeds share, by its name."""
    if run.method == "pretrain":
        return f"the {run.policy} base"
    arm = run.arms[0].removesuffix(f"-{run.policy}") if run.arms else run.method
    return f"{arm_label(arm)} on the {run.policy} base, seed {run.seed}"


def with_data_hash(config: RunConfig) -> RunConfig:
    """Return a run's configuration with the hashes of its training data and own modules, which need no base."""
    from hpt.data.sources import training_problems_of
    from hpt.tasks.problems import problems_hash

    if config.data.sha256:
        return config
    data = config.data.model_copy(update={"sha256": problems_hash(training_problems_of(config))})
    return config.model_copy(update={"data": data, "own_modules": module_hashes(names_used(config))})


def _settings_key(config: RunConfig) -> str:
    unknown = {"policy": {"path", "weights_sha256", "tokenizer_sha256"}, "validation": {"sha256"}}
    left_out = {**dict.fromkeys(MOVES_NO_NUMBER, True), **unknown}
    return digest(config.model_dump(mode="json", exclude=left_out))
