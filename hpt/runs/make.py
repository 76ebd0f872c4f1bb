"""Which runs and evaluations artefacts need, and making whatever is missing.

Shared runs are made once: Table 3 and Figures 5 to 7 draw on the same ones. A run is found by its fingerprint, so
changing a setting makes only the runs it changes. What each artefact compares is data: `hpt.runs.catalogue`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt.config.run_config import RunConfig
from hpt.data.leakage import leaks
from hpt.data.models import check_context, check_model_folder, load_tokenizer
from hpt.data.problems import Problem, check_demonstrations
from hpt.data.prompts import prompt_tokens
from hpt.data.public import DATASETS
from hpt.data.sources import (
    HELD_OUT,
    evaluation_at,
    evaluation_set,
    fetch_sets,
    lacking_sets,
    names_files,
    own_validation,
    training_problems_of,
    with_samples,
)
from hpt.data.world.lookup import LOOKUPS
from hpt.data.world.lookup_corpus import build_tokenizer
from hpt.methods.methods import METHODS, method_named
from hpt.runs.catalogue import ARTEFACTS, arm_label, artefacts_named
from hpt.runs.evaluations import evaluation_key, lacking, sampling_config
from hpt.runs.folder import OfRun, RunFolder, bases_by_seed
from hpt.runs.job import Job, encoded_training
from hpt.runs.pool import run_jobs
from hpt.runs.resolve import initial_run, lacking_start, resolve_run
from hpt.support.errors import ConfigError, warn
from hpt.support.plugins import refresh
from hpt.support.text import few
from hpt.training.sampler import check_samplable

#: Bases in the order their runs are made: the weak one first, for Figure 5.
_BASE_ORDER = ("weak", "strong", "llama")


@dataclass(frozen=True)
class PlannedRun(OfRun):
    """A run that artefacts need as some arms, with why it is to be made; no folder before its initial weights."""

    config: RunConfig
    folder: RunFolder | None
    evaluations: tuple[str, ...]
    reason: str
    arms: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The run in words: its arm, base and seed; a base that all seeds share by its name."""
        if self.method == "pretrain":
            return f"the {self.policy} base" + f", seed {self.seed}" * bases_by_seed(self.config)
        return f"{self.line} on the {self.policy} base, seed {self.seed}"

    @property
    def line(self) -> str:
        """What legends call it: its arm's label, such as "HPT, gate 1/8"."""
        return arm_label(self.arms[0].removesuffix(f"-{self.policy}") if self.arms else self.method)

    @property
    def done(self) -> bool:
        return self.reason == ""


def planned_runs(
    scale: str,
    artefacts: Sequence[str],
    seeds: Iterable[int],
    root: Path,
    settings: Mapping[str, Any] | None = None,
    bases: Sequence[str] = (),
    own: Sequence[str] = (),
    evaluations: Sequence[str] = (),
) -> list[PlannedRun]:
    """Return every run the artefacts need, in the order they are made, with why it is not done (if it is not).

    Args:
        artefacts, bases: names; empty = all of the paper, and all of an artefact's.
        root: folder of run folders.
        settings: dotted settings laid over every method's run, below those an arm is defined by.
        own: custom methods (``module:METHOD``), further lines of the artefacts that take some.
        evaluations: further sets, or files of questions, for the runs of artefacts that evaluate final policies.
    """
    check_own(own, artefacts, scale)
    configs: dict[str, RunConfig] = {}  # by fingerprint, in the order they are needed
    sets, arms = defaultdict[str, dict[str, None]](dict), defaultdict[str, dict[str, None]](dict)  # ordered, each once
    starts: set[str] = set()  # fingerprints of runs whose weights others start from

    def need(config: RunConfig, evaluations: Iterable[str], arm: str) -> None:
        before = initial_run(config)
        if before is not None:
            starts.add(before.fingerprint())
            # what a run starts from is needed too; only a base is itself a line of the artefact
            need(before, evaluations if before.method == "pretrain" else (), f"{before.method}-{before.policy.name}")
        fingerprint = config.fingerprint()
        configs.setdefault(fingerprint, config)
        sets[fingerprint] |= dict.fromkeys(evaluations)
        arms[fingerprint][arm] = None

    seeds = list(seeds)
    for artefact in artefacts_named(artefacts, scale):
        names = (*artefact.evaluations, *evaluations) if artefact.evaluations else ()
        for arm in (arm for arm in artefact.with_own(own).arms if not bases or arm.policy in bases):
            for seed in seeds:
                config = arm.config(scale, seed, settings)
                need(config, [evaluation_at(config, name) for name in names], arm.key)
    planned = [
        replace(_planned(config, tuple(sets[key]), root, key in starts), arms=tuple(arms[key]))
        for key, config in configs.items()
    ]

    def order(run: PlannedRun) -> tuple[Any, ...]:
        base = _BASE_ORDER.index(run.policy) if run.policy in _BASE_ORDER else len(_BASE_ORDER)
        # what others start from first, then the longest run first, so that two cores finish together
        cost = -METHODS[run.method].samples * 2 - len(METHODS[run.method].components) if run.method in METHODS else 0
        # a base is made in its place among the runs of the first seed, whatever that is; the base's is 0
        seed = max(run.seed, min(seeds))
        return (seed, base, run.method != "pretrain", run.config.policy.after is not None, cost)

    return sorted(planned, key=order)


def check_own(own: Sequence[str], artefacts: Sequence[str], scale: str) -> None:
    """Refuse artefacts that do not exist, custom methods that are none, or that none of the artefacts would show."""
    shown = artefacts_named(artefacts, scale)
    for name in own:
        if ":" not in name:
            raise ConfigError("extra_methods", name, "a custom module:METHOD", "those of the package are there")
        refresh([name])
        method_named(name)
    takes = [artefact.name for artefact in ARTEFACTS.values() if artefact.extra_policy]
    if own and not any(artefact.extra_policy for artefact in shown):
        raise ConfigError("extra_methods", ", ".join(own), "none with these artefacts", "ask for " + ", ".join(takes))


def _planned(config: RunConfig, names: tuple[str, ...], root: Path, others_start_from_it: bool) -> PlannedRun:
    if lacking_start(config, root) is not None:
        what = config.policy.after or f"its base {config.policy.name}"
        return PlannedRun(config, None, names, f"{what} is not trained")
    if absent := lacking_sets(config):
        return PlannedRun(config, None, names, "not downloaded: " + ", ".join(absent))
    if config.policy.path is not None:
        check_samplable(config.policy.path)
    config = resolve_run(config, root)
    folder = RunFolder.of(config, root)
    reason = lacking(folder, config, names, weights=others_start_from_it or config.method == "pretrain")
    others = folder.path.parent.glob(folder.path.name.rpartition("-")[0] + "-*")
    if folder.status["state"] == "new" and any(other != folder.path for other in others):
        reason = "made with other settings so far"
    return PlannedRun(config, folder, names, reason)


def compute(
    scale: str, artefacts: Sequence[str], seeds: Sequence[int], root: Path, jobs: int | None = None, **more: Any
) -> list[PlannedRun]:
    """Make whatever the artefacts need and is missing, a process each, and return the finished runs.

    The arguments are those of `planned_runs`; ``jobs`` at a time, by default one per core.
    """
    planned = planned_runs(scale, artefacts, seeds, root, **more)
    if left := [Job(run.config, root, run.evaluations) for run in planned if not run.done]:
        for job in left:
            fetch_sets(job.config)
            check_own_questions(job.config, job.evaluations)
        run_jobs(left, jobs)
        planned = planned_runs(scale, artefacts, seeds, root, **more)
    return planned


def check_training_set(config: RunConfig) -> None:
    """Read and encode a run's questions: what is wrong with them is named before a base is trained for them.

    Lengths are left to the run itself where the tokenizer is not there yet: that of a public model not fetched so far.
    """
    if config.policy.path is not None:
        encoded_training(config, load_tokenizer(config.policy.path))
    elif config.data.evaluation == "graded" and config.data.world in LOOKUPS:
        encoded_training(config, build_tokenizer(LOOKUPS[config.data.world]))
    else:
        training_problems_of(config)


def check_evaluations(config: RunConfig, names: Sequence[str]) -> None:
    """Fetch and read the evaluation sets of a run: what is wrong with them is named before anything is computed.

    Of a model folder also a template its tokenizer cannot fill, a prompt that leaves no room for a response, and a
    context beyond its positions.
    """
    path, rollout = config.policy.path, sampling_config(config).rollout
    if names and path is not None:
        check_context(path, rollout.max_model_tokens)
    fetch_sets(sampling_config(config), names)
    tokenizer = load_tokenizer(path) if names and path is not None else None
    for name in names:
        settings, of_set, _ = evaluation_key(config, name)
        room = rollout.max_model_tokens - settings.max_response_tokens
        for problem in of_set.problems if tokenizer is not None else ():
            length = len(prompt_tokens(tokenizer, problem, settings.template))
            if length > room:
                allowed = f"at most {room}: rollout.max_model_tokens less {settings.max_response_tokens} to respond"
                remedy = "leave the set out, or raise rollout.max_model_tokens where the model's positions allow it"
                raise ConfigError(f"prompt of {problem.id} ({name})", f"{length} tokens", allowed, remedy)


def check_own_questions(config: RunConfig, names: Sequence[str]) -> None:
    """Check the user's evaluation questions as training data is checked, and say what is held out and what leaks.

    Warned of are reference answers that contradict the demonstration beside them (where all do, they are refused), and
    questions that are also trained on, word for word or nearly (`hpt.data.leakage`). ``names`` are those of the run's
    final evaluations.
    """
    is_trained = config.method != "pretrain"  # a base's documents are no questions
    all_of_them = is_trained and config.data.source not in ("graded", *DATASETS)
    sets: dict[str, Sequence[Problem]] = {}
    for name in dict.fromkeys([*own_validation(config), *(with_samples(name)[0] for name in names)]):
        if all_of_them or names_files(name) or name == HELD_OUT:
            sets[name] = evaluation_set(sampling_config(config), name).problems
        if names_files(name):
            check_demonstrations(sets[name], name)
    if not sets or not is_trained:
        return
    training = training_problems_of(config)
    if HELD_OUT in sets and (held := len(sets[HELD_OUT])):
        warn(f"{held} of {held + len(training)} questions of {config.data.source} are held out for validation and "
             f"never trained on (validation.held_out = {config.validation.held_out:g})")  # fmt: skip
    found = leaks(training, sets)
    for name, problems in sets.items():
        if of_set := [leak for leak in found if leak.benchmark == name]:
            exact, which = sum(leak.kind == "exact" for leak in of_set), few([leak.problem_id for leak in of_set], 5)
            warn(f"{len(of_set)} of {len(problems)} questions of {name} are trained on ({exact} word for word, "
                 f"{len(of_set) - exact} nearly), so its score says little: {which}")  # fmt: skip


def run_with_base(config: RunConfig, root: Path, evaluations: Sequence[str] = ()) -> RunFolder:
    """Make one run, after what it starts from if that is missing, in another process with a progress line."""
    if config.policy.path is not None:
        check_model_folder(config.policy.path)
        check_samplable(config.policy.path)
    if config.method != "pretrain":
        fetch_sets(config)
        check_training_set(config)
    check_evaluations(config, [*own_validation(config), *evaluations])
    check_own_questions(config, evaluations)
    chain = [config]
    while (before := lacking_start(chain[0], root)) is not None:
        chain.insert(0, before)
    if len(chain) == 1:
        config = resolve_run(config, root)
        folder = RunFolder.of(config, root)
        if not lacking(folder, config, evaluations):
            if folder.config.diagnostics != config.diagnostics:
                warn(f"{folder.path.name} had finished with other diagnostics, and is not made again for them: "
                     f"`hpt runs remove {folder.path.name}` first")  # fmt: skip
            return folder
    run_jobs([*(Job(before, root) for before in chain[:-1]), Job(config, root, tuple(evaluations))])
    return RunFolder.of(resolve_run(config, root), root)
