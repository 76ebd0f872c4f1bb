"""What a plan will take, seconds and disk: from the runs finished here, and for what was never timed here from others.

The seconds are those of a machine that does nothing else (`hpt.timings`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt.config import RunConfig
from hpt.data.sources import curve_sets
from hpt.experiments import PlannedRun
from hpt.export import record_folders
from hpt.final_evaluations import evaluation_key, missing_evaluations
from hpt.methods import METHODS
from hpt.resolve import initial_run
from hpt.runs import run_folders
from hpt.timings import Rates, Timing, timing

#: Two checkpoints, final weights and records of a run of the mini world.
RUN_MIB = 10.0
#: Committed records; the package is used from its folder.
REPORTS = Path(__file__).resolve().parent.parent / "reports"
#: Whose records stand in for a scale that has none.
_STAND_IN = "mini"


@dataclass(frozen=True)
class Forecast:
    """Seconds of every run left to do, in order; what they take side by side; their disk; and what that rests on."""

    seconds: tuple[float, ...]
    wall_s: float
    disk_mib: float
    basis: str


def forecast(planned: Sequence[PlannedRun], root: Path, scale: str, jobs: int, reports: Path = REPORTS) -> Forecast:
    """Return what the runs left to do will take with ``jobs`` side by side.

    Args:
        planned: runs; those that are done cost nothing.
        root: folder of run folders: what finished there was timed on this machine.
        scale: key of `hpt.scales.SCALES`.
        jobs: runs at a time.
        reports: folder of reports, whose committed records stand in for what was never timed here.

    Example:
        >>> forecast([], Path("runs"), "mini", 2).wall_s
        0.0
    """
    left = [run for run in planned if not run.done]
    if not left:
        return Forecast((), 0.0, 0.0, "")
    here, there = _here(root, scale), _recorded(reports, scale)
    rates = Rates(_joined(here, there))
    seconds = [run_seconds(run, rates) for run in left]
    basis = [f"{len(here)} runs finished here"] if here else []
    basis += [f"{len(there)} committed records"] if there else []
    return Forecast(tuple(seconds), _side_by_side(left, seconds, jobs), RUN_MIB * len(left), " and ".join(basis))


def run_seconds(run: PlannedRun, rates: Rates) -> float:
    """Return what is left of a run: its steps, its validations, its final evaluations, and the start of its process."""
    config, policy = run.config, run.policy
    finished = run.folder is not None and run.folder.finished
    names = run.evaluations
    if finished and run.folder is not None:
        names = tuple(missing_evaluations(run.folder, config, run.evaluations))
    answers = 0
    for name in names:
        settings, problems, _ = evaluation_key(config, name)
        answers += len(problems) * settings.samples_per_problem
    seconds = rates.start_s(run.method)
    if not finished:
        steps, every = config.schedule.steps, config.validation.every
        step_s = rates.step_s(run.method, policy, steps, config.schedule.prompts_per_step, draws_rollouts(run.method))
        done = run.folder.status["step"] if run.folder is not None else 0
        seconds += max(0, steps - done) * step_s
        if every and run.method != "pretrain":
            problems = sum(map(len, curve_sets(config).values()))
            validations = len(range(done, steps + 1, every)) + (steps % every > 0)
            answers += validations * problems * config.validation.samples_per_problem
    return seconds + answers * rates.answer_s(policy)


def draws_rollouts(method: str) -> bool:
    """Return whether a method samples answers while it trains; one of your own is taken to.

    Example:
        >>> draws_rollouts("sft"), draws_rollouts("hpt"), draws_rollouts("mine:METHOD")
        (False, True, True)
    """
    return method not in METHODS or METHODS[method].samples


def _here(root: Path, scale: str) -> list[Timing]:
    return [own for folder in run_folders(root, scale) if folder.finished and (own := timing(folder.path)) is not None]


def _recorded(reports: Path, scale: str) -> list[Timing]:
    folders = record_folders(reports / scale / "records") or record_folders(reports / _STAND_IN / "records")
    return [own for folder in folders if (own := timing(folder)) is not None]


def _joined(here: Sequence[Timing], there: Sequence[Timing]) -> list[Timing]:
    """This machine's timings, and others' of what was never timed here, as this machine would have had them."""
    timed = {(own.method, own.policy) for own in here}
    factor = Rates(here).speed_against(Rates(there))
    return [*here, *(own.times(factor) for own in there if (own.method, own.policy) not in timed)]


def _side_by_side(left: Sequence[PlannedRun], seconds: Sequence[float], jobs: int) -> float:
    """Play `hpt.pool`: a core that is free takes the first run in order whose initial weights are there by then."""
    starts_from = [_place_of(initial_run(run.config), left) for run in left]
    waiting, ends, cores = list(range(len(left))), dict[int, float](), [0.0] * max(1, jobs)
    while waiting:
        core = cores.index(min(cores))
        # what a run starts from is either there already (None) or has to end first
        ready = [own for own in waiting
                 if (before := starts_from[own]) is None or ends.get(before, float("inf")) <= cores[core]]  # fmt: skip
        if ready:
            waiting.remove(ready[0])
            cores[core] += seconds[ready[0]]
            ends[ready[0]] = cores[core]
        else:  # idle until the next one ends
            cores[core] = min(end for end in ends.values() if end > cores[core])
    return max(ends.values())


def _place_of(before: RunConfig | None, left: Sequence[PlannedRun]) -> int | None:
    """Return which run left to do is the one another starts from; None: it is done."""
    if before is None:
        return None
    arm = f"{before.method}-{before.policy.name}"  # a plain arm is what others start from
    return next((at for at, run in enumerate(left) if arm in run.arms and run.seed == before.seed), None)


def duration(seconds: float) -> str:
    """Return a duration as people say it.

    Example:
        >>> duration(42), duration(600), duration(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
