"""How long finished runs took, part by part, and what follows for others: seconds per token, per answer and per start.

Read from run folders and from committed records alike. A busy machine only ever makes a run slower, so a rate is the
lower quartile of those there are: half of the runs may have shared their core with something else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from pathlib import Path

import numpy as np
import pandas as pd

from hpt.errors import RecordFault
from hpt.files import read_json, read_parquet

#: From the start of a process to the start of its clock (``wall_s``): the interpreter and PyTorch, on one core.
PROCESS_S = 5.0


@dataclass(frozen=True)
class Timing:
    """What one finished run took on its way to its final weights; the final evaluations are in no recorded time.

    Attributes:
        name: of the run folder.
        method, policy: of the run.
        steps: rollout batches; updates for a base.
        prompts: questions per step.
        sampled, trained: tokens per step.
        sampling_s, training_s: seconds per step: drawing, grading and moving weights; everything else of a step.
        rest_s: imports, engine, checkpoints and validation; None where the run was interrupted, because ``wall_s`` is
            then that of the last process alone.
        validated: answers sampled for the validation curves.
    """

    name: str
    method: str
    policy: str
    steps: int
    prompts: int
    sampled: float
    trained: float
    sampling_s: float
    training_s: float
    rest_s: float | None
    validated: int

    @property
    def wall_s(self) -> float | None:
        """Seconds to the final weights."""
        return None if self.rest_s is None else self.steps * (self.sampling_s + self.training_s) + self.rest_s

    def times(self, factor: float) -> "Timing":
        """Return what it would have taken on a machine so many times slower."""
        rest = None if self.rest_s is None else self.rest_s * factor
        return replace(self, sampling_s=self.sampling_s * factor, training_s=self.training_s * factor, rest_s=rest)


def timing(folder: Path) -> Timing | None:
    """Return the timing of a finished run, from its run folder or its record folder; None where nothing was timed."""
    try:
        return _timing(folder)
    except RecordFault:  # a damaged file matters to those who use that run, not to a guess of the time
        return None


def _timing(folder: Path) -> Timing | None:
    if not (folder / "provenance.json").exists():
        return None
    wall, config = read_json(folder / "provenance.json").get("wall_s"), read_json(folder / "config.json")
    steps, metrics = config["schedule"]["steps"], read_parquet(folder / "metrics.parquet")
    if not wall or not steps or not len(metrics) or "time/step_s" not in metrics:
        return None
    stepping = _sum(metrics, "time/step_s")
    sampling = _sum(metrics, "time/rollout_s", "time/verify_s", "time/transfer_s")
    file = folder / "validation.parquet"
    validation = read_parquet(file) if file.exists() else pd.DataFrame()
    return Timing(
        name=folder.name,
        method=config["method"],
        policy=config["policy"]["name"],
        steps=steps,
        prompts=config["schedule"]["prompts_per_step"],
        sampled=_sum(metrics, "rollout/tokens") / steps,
        trained=_sum(metrics, "trained/rollout_tokens", "trained/demonstration_tokens") / steps,
        sampling_s=sampling / steps,
        training_s=max(0.0, stepping - sampling) / steps,
        rest_s=wall - stepping if wall > stepping else None,
        validated=int(validation["samples"].sum()) if len(validation) else 0,
    )


def _sum(metrics: pd.DataFrame, *names: str) -> float:
    return float(sum(metrics[name].sum() for name in names if name in metrics))


@dataclass(frozen=True, eq=False)
class Rates:
    """Seconds per unit of work, from timings."""

    timings: Sequence[Timing]

    def step_s(self, method: str, policy: str, steps: int, prompts: int, samples: bool) -> float:
        """Return the expected seconds of a step.

        Tokens per step are those of the runs nearest in length, for answers grow while a policy learns.

        Args:
            method, policy: of the run.
            steps: its number of steps.
            prompts: questions per step.
            samples: whether the method draws rollouts; says whom one that was never timed resembles.
        """
        like = self._like(method, samples)
        if not like:
            return 0.0
        near = _nearest([own for own in like if own.policy == policy] or like, steps)
        sampled, trained = (float(np.median([getattr(own, name) / own.prompts for own in near])) * prompts
                            for name in ("sampled", "trained"))  # fmt: skip
        training = _quartile((own.training_s / own.trained * self._size(policy, own.policy), own.policy == policy)
                             for own in like if own.trained)  # fmt: skip
        return sampled * self.sampling_token_s(policy) + trained * training

    def start_s(self, method: str) -> float:
        """Return the seconds of a process that are in no step: imports and engine."""
        bare = [own for own in self.timings if not own.validated and own.rest_s is not None]
        same = [own for own in bare if (own.method == "pretrain") == (method == "pretrain")]
        return PROCESS_S + _quartile((own.rest_s or 0.0, True) for own in same)

    def answer_s(self, policy: str) -> float:
        """Return the seconds of one answer of a validation or an evaluation."""
        start = self.start_s("") - PROCESS_S
        rates = [
            (max(0.0, own.rest_s / self.slowness(own) - start) / own.validated * self._size(policy, own.policy),
             own.policy == policy)
            for own in self.timings if own.validated and own.rest_s is not None
        ]  # fmt: skip
        if rates:
            return _quartile(rates)
        # nobody validated: an answer of training is about as long
        per_prompt = [own.sampled / own.prompts / 8 for own in self.timings if own.sampled]
        return float(np.median(per_prompt)) * self.sampling_token_s(policy) if per_prompt else 0.0

    def slowness(self, own: Timing) -> float:
        """Return how many times longer a run's training took per token than that of undisturbed runs like it."""
        quiet = self._training(own.method, own.policy)
        return max(1.0, own.training_s / own.trained / quiet) if quiet and own.trained else 1.0

    def speed_against(self, others: "Rates") -> float:
        """Return how many times longer these took than others did, where both were timed; 1 where nothing was."""
        pairs = [(self._training(*key), others._training(*key)) for key in {(o.method, o.policy) for o in self.timings}]
        ratios = [own / other for own, other in pairs if own and other]
        return float(np.median(ratios)) if ratios else 1.0

    def _training(self, method: str, policy: str) -> float:
        return _quartile((own.training_s / own.trained, True) for own in self.timings
                         if (own.method, own.policy) == (method, policy) and own.trained)  # fmt: skip

    def _like(self, method: str, samples: bool) -> list[Timing]:
        trained = [own for own in self.timings if own.method != "pretrain"]
        alike = [own for own in trained if (own.sampled > 0) == samples]
        return [own for own in self.timings if own.method == method] or alike or trained

    def sampling_token_s(self, policy: str) -> float:
        """Seconds per sampled token, whatever the method."""
        return _quartile((own.sampling_s / own.sampled * self._size(policy, own.policy), own.policy == policy)
                         for own in self.timings if own.sampled)  # fmt: skip

    def _size(self, policy: str, other: str) -> float:
        """How many times longer a token takes on one base than on another: as in their own training."""
        own, others = self._base_rate.get(policy), self._base_rate.get(other)
        return own / others if own and others else 1.0

    @cached_property
    def _base_rate(self) -> dict[str, float]:
        rates: dict[str, list[float]] = {}
        for own in self.timings:
            if own.method == "pretrain" and own.trained:
                rates.setdefault(own.policy, []).append(own.training_s / own.trained)
        return {policy: _quartile((rate, True) for rate in own) for policy, own in rates.items()}


def _quartile(values: Iterable[tuple[float, bool]]) -> float:
    """The lower quartile of the values that fit best: those marked, else all; 0 for none."""
    pairs = list(values)
    chosen = [value for value, fits in pairs if fits] or [value for value, _ in pairs]
    return float(np.quantile(chosen, 0.25)) if chosen else 0.0


def _nearest(timings: Sequence[Timing], steps: int) -> list[Timing]:
    """The timings whose number of steps is nearest, as a ratio."""
    gaps = [abs(log(max(1, own.steps) / max(1, steps))) for own in timings]
    return [own for own, gap in zip(timings, gaps, strict=True) if gap <= min(gaps) + 1e-9]
