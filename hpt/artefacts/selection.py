"""Choosing what an artefact draws on: records by method and policy, evaluations by set and sampling law."""

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from hpt.errors import RecordFault
from hpt.export import RunRecords
from hpt.tasks.sets import EvaluationSet


def of_arm(records: Sequence[RunRecords], key: str) -> list[RunRecords]:
    """Return the runs of an arm (`hpt.catalogue.Arm.key`), in the order of their seeds.

    Records that nobody asked for as arms (loaded one by one) count as the plain arm of their method and base.

    Raises:
        RecordFault: two runs of one seed: a mean over seeds would count it twice.
    """
    chosen = sorted((own for own in records if key in arm_keys(own)), key=lambda own: own.seed)
    for first, second in pairwise(chosen):
        if first.seed == second.seed:
            raise RecordFault(f"{first.name} and {second.name} are two runs of one seed; give only one of them")
    return chosen


def arm_keys(record: RunRecords) -> tuple[str, ...]:
    """Return the arms a record belongs to."""
    return record.arms or (f"{record.method}-{record.policy}",)


def of_method(records: Sequence[RunRecords], method: str, policy: str) -> list[RunRecords]:
    """Return the runs of the arm ``method`` on a base; ``method`` is an arm's name, the method's for a plain arm."""
    return of_arm(records, f"{method}-{policy}")


def own_methods(records: Sequence[RunRecords], policy: str) -> tuple[str, ...]:
    """Return the methods of a user's own (``module:METHOD``) that the records were asked for as, on a base."""
    keys = dict.fromkeys(key for own in records for key in arm_keys(own))
    return tuple(key.removesuffix(f"-{policy}") for key in keys if ":" in key and key.endswith(f"-{policy}"))


def sets_of(records: Sequence[RunRecords]) -> dict[str, EvaluationSet]:
    """Return the evaluation sets of the world the runs lived in, in the order of the tables.

    Raises:
        RecordFault: no runs, or runs of different worlds.
    """
    from hpt.data.sources import evaluation_names, evaluation_set

    worlds = sorted({f"{own.config.data.evaluation} {own.config.data.world}" for own in records})
    if len(worlds) != 1:
        raise RecordFault(f"an artefact needs runs of one world, got {', '.join(worlds) or 'none'}")
    config = records[0].config
    return {name: evaluation_set(config, name) for name in evaluation_names(config)}


def evaluation_counts(run: RunRecords, name: str) -> pd.DataFrame:
    """Return a run's counts on a set, one row per problem in the set's order, under the run's own sampling law.

    Raises:
        RecordFault: the run was not evaluated on it, or only on other problems or with another law.
    """
    from hpt.data.sources import evaluation_at
    from hpt.final_evaluations import evaluation_key

    name = evaluation_at(run.config, name)
    on_set = run.evaluations[run.evaluations["benchmark"] == name]
    key = evaluation_key(run.config, name)[2]
    counts = on_set[on_set["key"] == key]
    if not len(counts):
        found = f"only as {', '.join(sorted(set(on_set['key'])))}" if len(on_set) else "not at all"
        message = f"{run.name} was not evaluated on {name} under key {key} ({found}); its world or sampling has changed"
        raise RecordFault(f"{message}: compute it again, or render at the commit it was recorded at")
    return counts.reset_index(drop=True)
