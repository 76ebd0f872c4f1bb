"""What a table or figure compares: arms, and the artefact they belong to. Which ones there are: `hpt.catalogue`.

An arm is one line of a comparison: a method on a base, with settings of its own where it has any; one run per seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpt.config import RunConfig
from hpt.scales import build_config

#: The evaluation sets of the mini world that stand for the paper's in- and out-of-distribution benchmarks.
IN_DISTRIBUTION = ("contest-a", "contest-b", "contest-c", "graded-500", "applied", "olympiad-like")
OUT_OF_DISTRIBUTION = ("choice", "notation")


@dataclass(frozen=True)
class Arm:
    """One line of a comparison.

    Attributes:
        method: key of `hpt.methods.METHODS` or ``module:METHOD``.
        policy: base.
        name: of the arm, unique on its base; the method's where the arm has no settings of its own.
        settings: dotted settings, on top of the user's.
        by_scale: more of them by scale, for sizes that belong to a scale.
        label: for legends and tables; empty = the method's title.
        recipe: reading of the method (`hpt.scales.RECIPES`).

    Example:
        >>> Arm("hpt", "weak").key, Arm("hpt", "weak", "hpt_gate2", {"gate.count": 2}).key
        ('hpt-weak', 'hpt_gate2-weak')
    """

    method: str
    policy: str
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_scale: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label: str = ""
    recipe: str = "released"

    @property
    def key(self) -> str:
        """What records of its runs are found by."""
        return f"{self.name or self.method}-{self.policy}"

    def config(self, scale: str, seed: int, settings: Mapping[str, Any] | None = None) -> RunConfig:
        """Return the configuration of the arm's run of a seed; ``settings`` are the user's.

        Raises:
            ConfigError: a setting that cannot be used.
        """
        own = {**self.settings, **self.by_scale.get(scale, {})}
        return build_config(
            self.method, scale=scale, recipe=self.recipe, policy=self.policy, seed=seed,
            settings={**(settings or {}), **own},
        )  # fmt: skip


@dataclass(frozen=True)
class Artefact:
    """One table or figure.

    Attributes:
        name: file name and what ``--only`` takes.
        title: for people.
        arms: what it compares; the base of each is always among its runs. None: it needs no runs.
        evaluations: sets on which the final policies (and the bases) are evaluated, ``set@samples`` for another number
            of answers than the set's; none for training curves.
        notebook: the notebook that makes it.
        group: ``paper``, or ``appendix`` for what is only computed when asked for.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    evaluations: tuple[str, ...]
    notebook: str
    group: str = "paper"

    @property
    def policies(self) -> tuple[str, ...]:
        """Its bases, in order."""
        return tuple(dict.fromkeys(arm.policy for arm in self.arms))

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of its arms, each once."""
        return tuple(dict.fromkeys(arm.name or arm.method for arm in self.arms))


def arms(policy: str, *methods: str) -> tuple[Arm, ...]:
    """Return the plain arms of methods on a base."""
    return tuple(Arm(method, policy) for method in methods)
