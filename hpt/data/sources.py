"""What a run asks and is asked: training problems, evaluation sets and curves.

They are of a small world, public sets, or the user's: a file or folder of questions is an evaluation set by its path,
and records keep it as its name with the hash of its questions.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from hpt.config.run_config import RunConfig
from hpt.data.files import READERS, SHAPES, local_rows, problems_of
from hpt.data.problems import EvaluationSet, Problem, check_answerable, problems_hash
from hpt.data.public import BENCHMARKS, CURVES, DATASETS
from hpt.data.store import download, load_set
from hpt.data.world.lookup import MINI_LOOKUPS
from hpt.data.world.worlds import (
    curve_problems,
    evaluation_sets,
    training_problems,
    validation_problems,
    world_named,
)
from hpt.support.errors import ConfigError

#: What tables say that a set of the user's questions stands for, and its distribution: in no average.
OWN_TITLE, OWN_SET = "your questions", "own"
#: The evaluation set of the questions that ``validation.held_out`` keeps from training.
HELD_OUT = "held-out"


def training_problems_of(config: RunConfig) -> list[Problem]:
    """Return the training questions of a run, without those that are held out."""
    data, problems = config.data, _trained_and_held_out(config)[0]
    if data.questions_per_level is not None:
        problems = _of_levels(problems, data.questions_per_level)
    return problems[: data.questions]


def held_out_problems(config: RunConfig) -> list[Problem]:
    """Return the questions of ``data.source`` that are never trained on: the share ``validation.held_out`` of them.

    The hashes of the questions' texts choose, so neither order nor seed matters, and a question that is there twice is
    on one side.
    """
    return _trained_and_held_out(config)[1]


def _trained_and_held_out(config: RunConfig) -> tuple[list[Problem], list[Problem]]:
    data = config.data
    if data.source == "graded":
        problems = training_problems(world_named(data.world))
    elif data.source in DATASETS:
        problems = load_set(data.source, data.folder)
    else:
        problems = problems_from(data.source)
    if not config.validation.held_out:
        return problems, []
    hashes = [sha256(problem.question.encode()).digest() for problem in problems]
    ordered = sorted(set(hashes))
    held = set(ordered[: min(math.ceil(config.validation.held_out * len(ordered)), len(ordered) - 1)])
    sides: tuple[list[Problem], list[Problem]] = ([], [])
    for problem, digest in zip(problems, hashes, strict=True):
        sides[digest in held].append(problem)
    return sides


def _of_levels(problems: list[Problem], counts: Sequence[int]) -> list[Problem]:
    chosen = set[Problem]()
    for level, count in enumerate(counts, start=1):
        of_level = [problem for problem in problems if problem.level == level]
        if len(of_level) < count:
            allowed = f"at most {len(of_level)} of level {level}: there are no more"
            raise ConfigError("data.questions_per_level", list(counts), allowed, "ask for fewer")
        chosen |= set(of_level[:count])
    return [problem for problem in problems if problem in chosen]


def problems_from(source: str | Path) -> list[Problem]:
    """Return the problems of a user's file or folder, in any of `hpt.data.files.SHAPES`."""
    path = Path(source)
    problems, _ = problems_of(local_rows(path), tuple(SHAPES), str(path), prefix=path.stem)
    check_answerable(problems, str(path))
    return problems


def names_files(name: str) -> bool:
    """Return whether an evaluation's name is the path of the user's file or folder of questions."""
    of_set, _ = with_samples(name)
    return "/" in of_set or Path(of_set).suffix in READERS


def with_samples(name: str) -> tuple[str, str | None]:
    """Return the set of an evaluation's name, ``set`` or ``set@samples``, and its samples; None = the set's."""
    of_set, at, samples = name.rpartition("@")
    return (of_set, samples) if at and "/" not in samples else (name, None)  # /data@lab/mine.jsonl is a path


#: Samples per problem of Figure 2, small world and paper (Section 4.1: 2,048).
_PASS_AT_K = {"256": "2048", "1024": "2048"}
#: In the smallest world Figure 2's records hold fewer answers than the catalogue asks for.
_FEWER_ANSWERS = {"contest-b@1024": "contest-b@256"}


def evaluation_at(config: RunConfig, name: str) -> str:
    """Return what an evaluation of the mini world is called under ``config``: there, or the benchmark it stands for.

    Tables and figures name their evaluations once, by the mini world's sets; at the scale of the paper these are the
    benchmarks themselves, and Figure 2's ``@256`` and ``@1024`` are the paper's 2,048.
    """
    if config.data.evaluation != "public" or names_files(name):
        return _FEWER_ANSWERS.get(name, name) if config.data.world == "lookups-tiny" else name
    of_set, at, samples = name.partition("@")
    titles = {constants.name: constants.stands_for for constants in MINI_LOOKUPS.evaluation}
    by_title = {DATASETS[benchmark].title: benchmark for benchmark in BENCHMARKS}
    return by_title.get(titles.get(of_set, ""), of_set) + at + (_PASS_AT_K.get(samples, samples) if at else "")


def evaluation_names(config: RunConfig) -> tuple[str, ...]:
    """Return the names of a run's evaluation sets, in the order of the tables; nothing is loaded."""
    if config.data.evaluation == "public":
        return BENCHMARKS
    return tuple(evaluation_sets(world_named(config.data.world)))


def recorded_name(config: RunConfig, name: str) -> str:
    """Return what records call an evaluation, ``set`` or ``set@samples``: of the user's questions also their hash."""
    of_set, samples = with_samples(name)
    if of_set != HELD_OUT and not names_files(name):
        return name
    return evaluation_set(config, of_set).name + ("" if samples is None else f"@{samples}")


def evaluation_set(config: RunConfig, name: str) -> EvaluationSet:
    """Return an evaluation set of a run: of its world, a public one, `HELD_OUT`, or the user's file or folder.

    ``validation`` is the world's set on which settings are chosen, and no table reports. The name of what is the user's
    ends in the hash of its questions.
    """
    data = config.data
    if name == HELD_OUT and config.validation.held_out:
        if not (held := held_out_problems(config)):
            allowed = f"0 where {data.source} holds one question alone"
            remedy = "add questions, or set it to 0"
            raise ConfigError("validation.held_out", config.validation.held_out, allowed, remedy)
        return _own_set(HELD_OUT, held)
    public = {key: _public_set(key, data.folder) for key, dataset in DATASETS.items() if dataset.use == "evaluation"}
    sets = public
    if data.evaluation != "public":
        world = world_named(data.world)
        sets = evaluation_sets(world)
        about = ("validation", "", world.curve_samples, "in", 0)
        sets["validation"] = EvaluationSet(*about, lambda: tuple(validation_problems(world)))
    if found := sets.get(name) or public.get(name):
        return found
    is_file = os.path.isfile(name) and Path(name).suffix in READERS
    if not names_files(name) or not (is_file or os.path.isdir(name)):  # unlike Path's, these pass over a name too long
        allowed = f"one of {', '.join(sets)}, or an existing file or folder of questions (mine.jsonl, ./mine)"
        raise ConfigError("evaluation", name, allowed, "correct the name or the path")
    return _own_set(Path(name).stem, problems_from(name))


def _own_set(called: str, problems: Sequence[Problem]) -> EvaluationSet:
    """Return the user's questions as a set that is known by its name and its content: names of files come again."""
    called = re.sub(r"[^A-Za-z0-9_.-]+", "_", called)[:40]
    return EvaluationSet(f"{called}-{problems_hash(problems)[:12]}", OWN_TITLE, 1, OWN_SET, 0, lambda: tuple(problems))


def _public_set(name: str, folder: str) -> EvaluationSet:
    dataset = DATASETS[name]
    choices = 4 if dataset.answer_kind == "choice" else 0
    about = (name, dataset.title, dataset.samples_per_problem, dataset.distribution, choices)
    return EvaluationSet(*about, lambda: tuple(load_set(name, folder)))


def curve_sets(config: RunConfig) -> dict[str, list[Problem]]:
    """Return the problems of the validation curves: a fixed part of every set that is drawn while training."""
    sets: Mapping[str, Sequence[Problem]]
    if names := own_validation(config):
        sets = {one.name: one.problems for one in (evaluation_set(config, name) for name in names)}
    elif config.data.evaluation == "public":
        sets = {name: evaluation_set(config, name).problems for name in CURVES}
    else:
        sets = curve_problems(world_named(config.data.world))
    return {name: list(problems)[: config.validation.problems_per_set] for name, problems in sets.items()}


def own_validation(config: RunConfig) -> list[str]:
    """Return the names of the curves' sets where they are not the scale's."""
    return [*config.validation.sets, *([HELD_OUT] if config.validation.held_out else [])]


def lacking_sets(config: RunConfig, evaluations: Sequence[str] | None = None) -> list[str]:
    """Return the public sets lacking on this machine of those that a run needs, or ``evaluations``; nothing is read."""
    if evaluations is None:
        standard = [*BENCHMARKS, *CURVES] if config.data.evaluation == "public" else []
        evaluations = [config.data.source, *standard, *config.validation.sets]
    names = (with_samples(name)[0] for name in evaluations)
    public = {name: DATASETS[name].subset for name in names if name in DATASETS}
    held = {name: subset.of if subset else name for name, subset in public.items()}
    return [name for name, where in held.items() if not (Path(config.data.folder) / where).exists()]


def fetch_sets(config: RunConfig, evaluations: Sequence[str] | None = None) -> None:
    """Download what `lacking_sets` returns."""
    for name in lacking_sets(config, evaluations):
        download(name, config.data.folder)
