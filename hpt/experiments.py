"""Which runs and evaluations each artefact needs, as data; and making whatever is missing.

Shared runs are made once: Table 3 and Figures 5 to 7 draw on the same ones. A run is found by its fingerprint, so
changing a setting makes only the runs it changes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt.config import RunConfig
from hpt.errors import ConfigError
from hpt.job import Job, base_config, missing_evaluations, resolve_run, training_problems_of
from hpt.methods import METHODS
from hpt.runs import RunFolder
from hpt.scales import build_config

#: The evaluation sets of the mini world that stand for the paper's in-distribution benchmarks.
IN_DISTRIBUTION = ("contest-a", "contest-b", "contest-c", "graded-500", "applied", "olympiad-like")


@dataclass(frozen=True)
class Artefact:
    """One table or figure of the paper.

    Attributes:
        name: file name and what ``--only`` takes.
        title: for people.
        policies: bases it needs runs of.
        methods: methods it compares.
        evaluations: sets on which the final policies (and the bases) are evaluated; none for training curves.
        notebook: the notebook that makes it.
    """

    name: str
    title: str
    policies: tuple[str, ...]
    methods: tuple[str, ...]
    evaluations: tuple[str, ...]
    notebook: str


_METHODS = ("sft", "grpo", "luffy", "hpt")
ARTEFACTS: dict[str, Artefact] = {
    artefact.name: artefact
    for artefact in (
        Artefact("table3", "Table 3: main results", ("weak",), _METHODS, IN_DISTRIBUTION, "table3_main_results"),
        Artefact("figure5", "Figure 5: validation curves", ("weak",), _METHODS, (), "training_dynamics"),
        Artefact("figure6", "Figure 6: offline data ratio", ("weak",), ("hpt",), (), "training_dynamics"),
        Artefact("figure7", "Figure 7: entropy and response length", ("weak",), ("grpo", "luffy", "hpt"), (),
                 "training_dynamics"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class PlannedRun:
    """A run an artefact needs: its settings, its folder (None while its base is not trained), its evaluations."""

    config: RunConfig
    folder: RunFolder | None
    evaluations: tuple[str, ...]
    reason: str

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


def artefacts_named(names: Sequence[str]) -> list[Artefact]:
    """Return the artefacts of these names; all of them for none.

    Raises:
        ConfigError: no such artefact.
    """
    for name in names:
        if name not in ARTEFACTS:
            raise ConfigError("only", name, "one of " + ", ".join(ARTEFACTS), "correct the name")
    return [ARTEFACTS[name] for name in names or ARTEFACTS]


def planned_runs(
    scale: str,
    artefacts: Sequence[str],
    seeds: Iterable[int],
    root: Path,
    settings: Mapping[str, Any] | None = None,
) -> list[PlannedRun]:
    """Return every run the artefacts need, bases first, each once, with why it is not done (if it is not).

    Args:
        scale: key of `hpt.scales.SCALES`.
        artefacts: names; empty = all.
        seeds: run seeds; bases are shared by all of them.
        root: folder of run folders.
        settings: dotted settings laid over every method's run.
    """
    evaluations: dict[str, tuple[RunConfig, set[str]]] = {}
    for artefact in artefacts_named(artefacts):
        for policy in artefact.policies:
            example = build_config(artefact.methods[0], scale=scale, policy=policy)
            configs = [base_config(example)]
            for method in artefact.methods:
                configs += [
                    build_config(method, scale=scale, policy=policy, seed=seed, settings=settings) for seed in seeds
                ]
            for config in configs:
                _, names = evaluations.setdefault(config.fingerprint(), (config, set()))
                names.update(artefact.evaluations)
    planned = [_planned(config, tuple(sorted(names)), root) for config, names in evaluations.values()]
    return sorted(planned, key=lambda run: (run.method != "pretrain", run.seed, _cost_rank(run)))


def _cost_rank(run: PlannedRun) -> int:
    # the longest first, so that two cores finish together
    return -METHODS[run.method].samples * 2 - len(METHODS[run.method].components) if run.method in METHODS else 0


def _planned(config: RunConfig, names: tuple[str, ...], root: Path) -> PlannedRun:
    if config.method != "pretrain" and config.policy.path is None:
        base = RunFolder.of(base_config(config), root)
        if not base.finished:
            return PlannedRun(config, None, names, f"its base {config.policy.name} is not trained")
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
    while left := jobs_of(planned := planned_runs(scale, artefacts, seeds, root, settings), root):
        bases = [job for job in left if job.config.method == "pretrain"]
        run_jobs(bases or left, jobs)  # runs cannot be resolved before their base exists
    return planned


def run_with_base(config: RunConfig, root: Path, evaluations: Sequence[str] = ()) -> RunFolder:
    """Make one run, after its base if that is missing, in a process of its own with a progress line."""
    from hpt.pool import run_jobs

    if config.method != "pretrain":
        training_problems_of(config)  # an unreadable file is a mistake to name before a base is trained for it
        if config.policy.path is None and not RunFolder.of(base := base_config(config), root).finished:
            run_jobs([Job(base, root)])
    config = resolve_run(config, root)
    folder = RunFolder.of(config, root)
    if not folder.finished or missing_evaluations(folder, config, evaluations):
        run_jobs([Job(config, root, tuple(evaluations))])
    return folder
