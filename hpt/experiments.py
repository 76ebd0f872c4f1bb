"""Which runs and evaluations artefacts need, and making whatever is missing.

Shared runs are made once: Table 3 and Figures 5 to 7 draw on the same ones. A run is found by its fingerprint, so
changing a setting makes only the runs it changes. What each artefact compares is data: `hpt.catalogue`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt.catalogue import ARTEFACTS, Artefact, artefacts_named
from hpt.config import RunConfig
from hpt.data.sources import evaluation_at, fetch_sets, lacking_sets, training_problems_of
from hpt.job import Job, encoded_training, initial_run, is_ready, missing_evaluations, resolve_run
from hpt.methods import METHODS
from hpt.runs import RunFolder

__all__ = ["ARTEFACTS", "Artefact", "PlannedRun", "artefacts_named", "compute", "planned_runs", "run_with_base"]

#: Bases in the order their runs are made: the weak half of Table 3 and Figures 5 to 7 are worth reading early.
_BASE_ORDER = ("weak", "strong", "llama")


@dataclass(frozen=True)
class PlannedRun:
    """A run artefacts need: settings, folder (None while its initial weights are not there), evaluations, its arms."""

    config: RunConfig
    folder: RunFolder | None
    evaluations: tuple[str, ...]
    reason: str
    arms: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """Name of the method; ``pretrain`` for a base."""
        return self.config.method

    @property
    def policy(self) -> str:
        """Name of the base."""
        return self.config.policy.name

    @property
    def seed(self) -> int:
        """Run seed."""
        return self.config.seed

    @property
    def done(self) -> bool:
        """Whether nothing is left to compute."""
        return self.reason == ""


@dataclass
class _Need:
    config: RunConfig
    evaluations: dict[str, None]  # ordered, each once
    arms: dict[str, None]


def planned_runs(
    scale: str,
    artefacts: Sequence[str],
    seeds: Iterable[int],
    root: Path,
    settings: Mapping[str, Any] | None = None,
) -> list[PlannedRun]:
    """Return every run the artefacts need, in the order they are made, with why it is not done (if it is not).

    Args:
        scale: key of `hpt.scales.SCALES`.
        artefacts: names; empty = all of the paper.
        seeds: run seeds; bases are shared by all of them.
        root: folder of run folders.
        settings: dotted settings laid over every method's run, below those an arm has of its own.
    """
    needs: dict[str, _Need] = {}

    def need(config: RunConfig, evaluations: Iterable[str], arm: str) -> None:
        before = initial_run(config)
        if before is not None:
            # what a run starts from is needed too; only a base is itself a line of the artefact
            need(before, evaluations if before.method == "pretrain" else (), f"{before.method}-{before.policy.name}")
        own = needs.setdefault(config.fingerprint(), _Need(config, {}, {}))
        own.evaluations |= dict.fromkeys(evaluations)
        own.arms[arm] = None

    seeds = list(seeds)
    for artefact in artefacts_named(artefacts):
        for arm in artefact.arms:
            for seed in seeds:
                config = arm.config(scale, seed, settings)
                need(config, [evaluation_at(config, name) for name in artefact.evaluations], arm.key)
    planned = [replace(_planned(own.config, tuple(own.evaluations), root), arms=tuple(own.arms))
               for own in needs.values()]  # fmt: skip
    return sorted(planned, key=_order)


def _order(run: PlannedRun) -> tuple[Any, ...]:
    base = _BASE_ORDER.index(run.policy) if run.policy in _BASE_ORDER else len(_BASE_ORDER)
    # a base first, then within it the longest run first, so that two cores finish together
    cost = -METHODS[run.method].samples * 2 - len(METHODS[run.method].components) if run.method in METHODS else 0
    return (run.seed, base, run.method != "pretrain", cost)


def _planned(config: RunConfig, names: tuple[str, ...], root: Path) -> PlannedRun:
    if not is_ready(config, root):
        before = initial_run(config)
        what = f"its base {config.policy.name}" if config.policy.after is None else f"{config.policy.after}"
        return PlannedRun(config, None, names, f"{what} is not trained" if before else "")
    if lacking := lacking_sets(config):
        return PlannedRun(config, None, names, "not downloaded: " + ", ".join(lacking))
    config = resolve_run(config, root)
    folder = RunFolder.of(config, root)
    status = folder.status
    if status["state"] == "new":
        reason = "no run of this fingerprint"
    elif status["state"] != "finished":
        reason = f"stopped at step {status['step']}"
    else:
        missing = missing_evaluations(folder, config, names)
        reason = "not evaluated on " + ", ".join(missing) if missing else ""
    return PlannedRun(config, folder, names, reason)


def jobs_of(planned: Sequence[PlannedRun], root: Path) -> list[Job]:
    """Return what is left to do as jobs."""
    return [Job(run.config, root, run.evaluations) for run in planned if not run.done]


def compute(
    scale: str,
    artefacts: Sequence[str],
    seeds: Iterable[int],
    root: Path,
    jobs: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[PlannedRun]:
    """Make whatever the artefacts need and is missing, in processes of their own, and return the finished runs.

    Raises:
        HptError: a run failed; its message, and where its log is.
    """
    from hpt.pool import run_jobs

    seeds = list(seeds)
    planned = planned_runs(scale, artefacts, seeds, root, settings)
    if left := jobs_of(planned, root):
        for job in left:
            fetch_sets(job.config)
        run_jobs(left, jobs)
        planned = planned_runs(scale, artefacts, seeds, root, settings)
    return planned


def check_training_set(config: RunConfig) -> None:
    """Read and encode a run's questions: what is wrong with them is named before a base is trained for them.

    Lengths are left to the run itself where the tokenizer is not there yet: that of a public model not fetched so far.

    Raises:
        ConfigError: an unreadable row, a missing demonstration, a prompt or demonstration over its limit.
    """
    from hpt.model_folder import load_tokenizer
    from hpt.tasks.graded import world_named
    from hpt.tasks.tokenizer import build_tokenizer

    if config.policy.path is not None:
        encoded_training(config, load_tokenizer(config.policy.path))
    elif config.data.evaluation == "graded":
        encoded_training(config, build_tokenizer(world_named(config.data.world)))
    else:
        training_problems_of(config)


def run_with_base(config: RunConfig, root: Path, evaluations: Sequence[str] = ()) -> RunFolder:
    """Make one run, after what it starts from if that is missing, in a process of its own with a progress line."""
    from hpt.pool import run_jobs

    if config.method != "pretrain":
        fetch_sets(config)
        check_training_set(config)
    chain = [config]
    while (before := initial_run(chain[0])) is not None and not is_ready(chain[0], root):
        chain.insert(0, before)
    if len(chain) > 1:
        run_jobs([Job(own, root) for own in chain[:-1]])
    config = resolve_run(config, root)
    folder = RunFolder.of(config, root)
    if not folder.finished or missing_evaluations(folder, config, evaluations):
        run_jobs([Job(config, root, tuple(evaluations))])
    return folder
