"""Fill a folder of records: make the runs that neither it nor the run folders hold, and export each as it ends.

Three seeds of everything take hours. What other machines, or earlier days, have made and exported is not made again;
what is made here is exported the moment it ends, so that a stop loses one run at most.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hpt.data.sources import fetch_sets
from hpt.runs.folder import RunFolder, run_folders
from hpt.runs.job import Job
from hpt.runs.make import PlannedRun, planned_runs
from hpt.runs.records import RecordStore, export_run
from hpt.runs.resolve import initial_run, is_ready


def lacking_runs(planned: Iterable[PlannedRun], store: RecordStore, root: Path) -> list[PlannedRun]:
    """Return the runs that have no record, and those whose weights one of them starts from and that are not there."""
    left = [run for run in planned if not run.done]
    wanted = [run for run in left if store.lacking(run)]
    starts: set[tuple[str, str, int]] = set()
    for run in wanted:
        config = run.config
        while not is_ready(config, root) and (before := initial_run(config)) is not None:
            starts.add((before.method, before.policy.name, before.seed))
            config = before
    # a plain arm is what others start from; one with settings is not
    return [
        run for run in left
        if run in wanted
        or ((run.method, run.policy, run.seed) in starts and f"{run.method}-{run.policy}" in run.arms)
    ]  # fmt: skip


def fill(
    scale: str, artefacts: Sequence[str], seeds: Iterable[int], root: Path, records: Path, jobs: int | None = None
) -> list[str]:
    """Make what `lacking_runs` names, export each run as it ends, and return the names of the runs exported.

    Finished runs that are not exported yet, or not with all their evaluations, are exported first.

    Raises:
        HptError: a run failed; those that ended before are exported.
    """
    from hpt.runs.pool import run_jobs

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
